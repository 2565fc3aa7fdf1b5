//! The least that any program must do for a durable and recorded volume: its transactions, its
//! calls to the kernel, its fsync, one after the other. On the same etcd and the same pool.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use cobalt_store::kv::{Guard, Kv, Op, Outcome, Txn};
use cobalt_store::{Etcd, EtcdOptions};
use tokio::runtime::{Builder, Runtime};

use crate::{Fault, SIZE, btrfs};

/// As long as the record of a volume.
const RECORD: usize = 400;

/// Does the least. Clones share its connection.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    runtime: Arc<Runtime>,
    pub(crate) kv: Kv,
    dir: Arc<File>,
}

impl Floor {
    /// For one thread: the connection is served by the thread that waits for it.
    pub(crate) fn single(etcd: &str, pool: &Path) -> Result<Floor, Fault> {
        Floor::on(Builder::new_current_thread().enable_all().build()?, etcd, pool)
    }

    /// For many threads.
    pub(crate) fn shared(etcd: &str, pool: &Path) -> Result<Floor, Fault> {
        Floor::on(Builder::new_multi_thread().enable_all().build()?, etcd, pool)
    }

    fn on(runtime: Runtime, etcd: &str, pool: &Path) -> Result<Floor, Fault> {
        let options = EtcdOptions { endpoints: vec![etcd.to_owned()], ..EtcdOptions::default() };
        let kv = Kv::Etcd(Etcd::new(options)?);
        let folder = pool.join("floor");
        std::fs::create_dir_all(&folder)?;
        let dir = Arc::new(File::open(folder)?);
        Ok(Floor { runtime: Arc::new(runtime), kv, dir })
    }

    /// Record the wish, make the subvolume with its limit, put it on disk, record that it is
    /// ready.
    pub(crate) fn create(&self, name: &str) -> Result<(), Fault> {
        let key = key(name);
        let first = self.commit(Guard::Absent(key.clone()), put(&key))?;
        btrfs::create(&self.dir, name, SIZE)?;
        self.dir.sync_all()?;
        self.commit(Guard::Unmoved(key.clone(), first), put(&key))?;
        Ok(())
    }

    /// Destroy the subvolume, put that on disk, remove the record.
    pub(crate) fn delete(&self, name: &str) -> Result<(), Fault> {
        btrfs::destroy(&self.dir, name)?;
        self.dir.sync_all()?;
        let key = key(name);
        self.commit(Guard::Absent(format!("{key}/none")), Op::Delete(key))?;
        Ok(())
    }

    /// Record something, once.
    pub(crate) fn record(&self, name: &str) -> Result<(), Fault> {
        let key = key(name);
        self.commit(Guard::Absent(format!("{key}/none")), put(&key))?;
        Ok(())
    }

    /// Waits for something of etcd.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// All keys below a prefix, page by page; how many they are.
    pub(crate) fn list(&self, prefix: &str) -> Result<usize, Fault> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.wait(self.kv.range(prefix, after.as_deref(), 0))?;
            count += page.entries.len();
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(count);
            }
        }
    }

    fn commit(&self, guard: Guard, op: Op) -> Result<i64, Fault> {
        let txn = Txn { guards: vec![guard], ops: vec![op] };
        match self.wait(self.kv.commit(&txn))? {
            Outcome::Done { revision } => Ok(revision),
            Outcome::Refused { found } => Err(format!("etcd refused: {found:?}").into()),
        }
    }
}

fn key(name: &str) -> String {
    format!("/floor/{name}")
}

fn put(key: &str) -> Op {
    Op::Put(key.to_owned(), vec![b'x'; RECORD], None)
}

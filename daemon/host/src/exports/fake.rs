//! Exports in memory, for tests of those who order them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ExportTable, Exported, Exports, NfsServer};
use crate::error::HostError;

/// A machine whose NFS server does what it is told.
#[derive(Debug, Default)]
pub struct FakeExports {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ordered: ExportTable,
    found: ExportTable,
    stopped: bool,
    expired: Vec<IpAddr>,
    runs: u64,
    waiting: bool,
}

impl FakeExports {
    /// Stops its server, or starts it again.
    pub fn stop(&self, stopped: bool) {
        self.lock().stopped = stopped;
    }

    /// Somebody else takes all exports away.
    pub fn lose(&self) {
        self.lock().found.clear();
    }

    /// It has just booted: hosts are kept waiting, and nothing is exported.
    pub fn boot(&self) {
        *self.lock() = Inner { waiting: true, ..Inner::default() };
    }

    /// Whether hosts are kept waiting.
    pub fn keeps_waiting(&self) -> bool {
        self.lock().waiting
    }

    /// What it exports.
    pub fn exported(&self) -> ExportTable {
        self.lock().found.clone()
    }

    /// The hosts whose state was ended, in order.
    pub fn expired(&self) -> Vec<IpAddr> {
        self.lock().expired.clone()
    }

    /// How often exports were ordered.
    pub fn runs(&self) -> u64 {
        self.lock().runs
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exports for FakeExports {
    fn server(&self) -> Result<NfsServer, String> {
        match self.lock().stopped {
            true => Err("the NFS server is stopped; start nfs-server.service".to_owned()),
            false => Ok(NfsServer { lease_secs: 10 }),
        }
    }

    fn ordered(&self) -> Result<ExportTable, HostError> {
        Ok(self.lock().ordered.clone())
    }

    fn order(&self, table: &ExportTable) -> Result<Exported, HostError> {
        self.lock().ordered.clone_from(table);
        if let Err(why) = self.server() {
            let mut found = self.look(table)?;
            for (id, export) in table.iter().filter(|(_, export)| export.admits.is_empty()) {
                found.table.entry(*id).or_insert_with(|| export.clone());
            }
            let holds = found.table == *table && found.stray.is_empty();
            return if holds { Ok(found) } else { Err(HostError::NotSeen(why)) };
        }
        let mut inner = self.lock();
        inner.runs += 1;
        inner.found.clone_from(table);
        Ok(Exported { table: table.clone(), stray: BTreeSet::new() })
    }

    fn look(&self, table: &ExportTable) -> Result<Exported, HostError> {
        let inner = self.lock();
        let mut seen = Exported::default();
        for (id, export) in &inner.found {
            match table.get(id).is_some_and(|wanted| wanted.subvolume == export.subvolume) {
                true => drop(seen.table.insert(*id, export.clone())),
                false => drop(seen.stray.insert(*id)),
            }
        }
        Ok(seen)
    }

    fn end_wait(&self) -> Result<bool, HostError> {
        Ok(std::mem::take(&mut self.lock().waiting))
    }

    fn expire(&self, hosts: &BTreeSet<IpAddr>) -> Result<u64, HostError> {
        let mut inner = self.lock();
        inner.expired.extend(hosts);
        Ok(hosts.len() as u64)
    }
}

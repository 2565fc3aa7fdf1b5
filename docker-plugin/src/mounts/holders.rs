//! Who asked for which mount: kept in memory and, before anybody is answered, in a file.
//!
//! The file says what was asked, never what is mounted; only the kernel's table says that.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cobalt_failpoint::{Effect, around};
use serde::{Deserialize, Serialize};

use super::decide::{Seen, SeenHolder, Tie};
use super::process;
use crate::statefile;

/// The form of the file.
const VERSION: u32 = 1;

/// One user of a mount, as dockerd told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The ID that came with Mount.
    pub id: String,
    /// The program that sent it; null when the socket did not tell.
    pub sender: Option<process::Process>,
    /// It was read from the file.
    #[serde(skip, default = "yes")]
    inherited: bool,
}

/// What comes from the file was noted before our start.
fn yes() -> bool {
    true
}

impl Holder {
    /// One that has just asked.
    pub fn new(id: String, sender: Option<process::Process>) -> Holder {
        Holder { id, sender, inherited: false }
    }

    fn tie(&self) -> Tie {
        match &self.sender {
            Some(sender) if !sender.lives() => Tie::Dead,
            Some(_) | None if self.inherited => Tie::Inherited,
            Some(_) | None => Tie::Lives,
        }
    }
}

/// One volume with a mount, or with somebody who asked for one.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The name it was mounted under.
    pub(super) name: String,
    /// Who asked and has not let go.
    pub(super) holders: Vec<Holder>,
    /// It is mounted in our folder, as far as we saw last.
    pub(super) mounted: bool,
    /// Another number is another mount.
    pub(super) number: u64,
    /// Since when no user has been seen.
    idle_since: Instant,
}

impl Held {
    /// A mount that nobody asked about yet.
    pub(super) fn new(name: String) -> Held {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Held { name, holders: Vec::new(), mounted: false, number, idle_since: Instant::now() }
    }

    /// A mount found in the kernel's table of which nothing was noted.
    pub(super) fn found() -> Held {
        Held { mounted: true, ..Held::new(String::new()) }
    }

    /// What the decision needs to see of it; starts the idle time anew while there are users.
    pub(super) fn seen(&mut self, users: Option<usize>) -> Seen {
        match users {
            None | Some(1..) => self.idle_since = Instant::now(),
            Some(0) => (),
        }
        let holder = |holder: &Holder| SeenHolder { id: holder.id.clone(), tie: holder.tie() };
        Seen {
            mounted: self.mounted,
            holders: self.holders.iter().map(holder).collect(),
            users,
            idle: self.idle_since.elapsed(),
        }
    }

    /// Somebody has just asked for it.
    pub(super) fn touch(&mut self) {
        self.idle_since = Instant::now();
    }
}

/// The table of holders, by volume id.
pub(super) struct Holders {
    file: PathBuf,
    table: Mutex<Table>,
    /// Held while the file is written, so that an older table never replaces a newer one.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Held>,
    /// Counts how often the rows may have been changed.
    turn: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    volumes: BTreeMap<String, Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    holders: Vec<Holder>,
}

impl Holders {
    /// The table as the file has it, nothing of it taken for mounted. A file that is lost or
    /// damaged is an empty table: the mounts themselves are still seen.
    pub(super) fn load(file: PathBuf) -> Holders {
        let table = match read(&file) {
            Ok(table) => table,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!("the holders file {} is not used: {error}", file.display());
                BTreeMap::new()
            }
        };
        let table = Mutex::new(Table { rows: table, turn: 0 });
        Holders { file, table, writing: Mutex::default() }
    }

    /// Looks at the table.
    pub(super) fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Held>) -> T) -> T {
        look(&lock(&self.table).rows)
    }

    /// Looks at the table and says which turn of it that was.
    pub(super) fn look_in_turn<T>(
        &self,
        look: impl FnOnce(&BTreeMap<String, Held>) -> T,
    ) -> (u64, T) {
        let table = lock(&self.table);
        (table.turn, look(&table.rows))
    }

    /// Changes the table in memory. It counts as changed whatever becomes of it.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Held>) -> T) -> T {
        let mut table = lock(&self.table);
        table.turn += 1;
        change(&mut table.rows)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When the disk refuses; the old file is whole then.
    pub(super) fn save(&self) -> io::Result<()> {
        let _writing = lock(&self.writing);
        let row = |held: &Held| Row { name: held.name.clone(), holders: held.holders.clone() };
        let volumes = self.look(|table| {
            table.iter().map(|(id, held)| (id.clone(), row(held))).collect::<BTreeMap<_, _>>()
        });
        let file = File { version: VERSION, volumes };
        around(Effect::HoldersWrite, || statefile::write(&self.file, &file))
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<String, Held>> {
    let File { version, volumes } = statefile::read(file)?;
    if version != VERSION {
        let why = format!("it has version {version}, this program {VERSION}");
        return Err(io::Error::other(why));
    }
    let held =
        |(id, row): (String, Row)| (id, Held { holders: row.holders, ..Held::new(row.name) });
    Ok(volumes.into_iter().map(held).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_survive_a_restart_and_nothing_counts_as_mounted() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("holders.json");
        let holders = Holders::load(file.clone());
        holders.with(|table| {
            let holder = Holder::new("x".into(), process::Process::of(1));
            let held = Held { holders: vec![holder], mounted: true, ..Held::new("web".into()) };
            table.insert("id".into(), held);
        });
        holders.save().expect("saved");
        Holders::load(file).look(|table| {
            let held = table.get("id").expect("kept");
            assert_eq!((held.name.as_str(), held.mounted), ("web", false));
            assert!(held.holders[0].inherited);
        });
    }

    #[test]
    fn a_damaged_file_is_an_empty_table() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("holders.json");
        std::fs::write(&file, "{\"version\":1,\"volu").expect("write");
        Holders::load(file).look(|table| assert!(table.is_empty()));
    }
}

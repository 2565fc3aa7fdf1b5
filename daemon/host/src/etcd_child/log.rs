//! What etcd prints, kept in one file and its predecessor, both bounded.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{HostError, refused};

/// The file becomes its own predecessor when it has grown to this many bytes.
const LOG_MAX: u64 = 4 << 20;

/// An open log.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Log, HostError> {
        let act = || format!("cannot write {}", path.display());
        let file = append(path).map_err(refused(act()))?;
        let size = file.metadata().map_err(refused(act()))?.len();
        Ok(Log { path: path.to_owned(), file, size })
    }

    /// Writes down what comes until its end. It always reads on: a full disk must not stop etcd.
    pub(super) fn follow(mut self, mut from: impl Read) {
        let mut buffer = [0; 8 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    // What cannot be written is lost; the log is only for people.
                    let _: io::Result<()> = self.write(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > LOG_MAX {
            fs::rename(&self.path, predecessor(&self.path))?;
            self.file = append(&self.path)?;
            self.size = 0;
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// The last line that says something, for an error that people read.
pub(super) fn last_line(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let last: String = last.chars().take(400).collect();
    format!("{last} (all of it is in {})", path.display())
}

fn predecessor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_becomes_its_own_predecessor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etcd.log");
        let much = vec![b'x'; usize::try_from(LOG_MAX).expect("it fits") + 1];
        Log::open(&path).expect("a log").follow(&much[..]);
        Log::open(&path).expect("a log").follow(&b"next\n"[..]);
        let lengths = |name| fs::metadata(folder.path().join(name)).expect("a file").len();
        assert_eq!((lengths("etcd.log"), lengths("etcd.log.1")), (5, LOG_MAX + 1));
        assert!(last_line(&path).starts_with("next "));
    }
}

//! Files the plugin keeps: JSON, replaced as a whole, on disk before it is called written.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use cobalt_failpoint::{Effect, around};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How files that are being written are called at first.
const UNFINISHED: &[u8] = b".new-";

/// Replaces `path`. After a crash there is the old file or the new one.
///
/// # Errors
/// When the disk refuses; the old file is whole then.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    let mut out = BufWriter::new(file.as_file_mut());
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()?;
    drop(out);
    file.as_file().sync_all()?;
    around(Effect::StateReplace, || {
        file.persist(path)?;
        File::open(folder)?.sync_all()
    })
}

/// Removes what writing left behind in `folder` when the program was killed in the middle. Only
/// for a time when nobody writes there.
pub fn clear_unfinished(folder: &Path) {
    let unfinished = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(UNFINISHED);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if unfinished(&entry.file_name()) {
            // It is in nobody's way.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Reads `path`.
///
/// # Errors
/// `NotFound` when there is none; otherwise when it is damaged or cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_reader(BufReader::new(File::open(path)?))?)
}

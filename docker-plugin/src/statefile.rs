//! Files the plugin keeps: JSON, replaced as a whole, on disk before it is called written.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use cobalt_failpoint::{Effect, around};
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// Reads `path`.
///
/// # Errors
/// `NotFound` when there is none; otherwise when it is damaged or cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_reader(BufReader::new(File::open(path)?))?)
}

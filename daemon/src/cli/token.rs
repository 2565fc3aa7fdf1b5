//! Files that say who we are and whom to believe: tokens, read only when nobody else can, written so that nobody else can.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cobalt_api::client::{Client, Endpoint};

use super::failure::Failure;

/// No token is longer.
const MAX_TOKEN: u64 = 4096;

/// Reads the token that a file holds.
///
/// # Errors
/// When it cannot be read, is readable by everyone, or holds nothing that could be a token.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let hint = "make a token where cobaltd runs: cobalt token create --role consumer --out FILE";
    read_one("token", path, hint)
}

/// Reads the one word that a file holds, `what` it is and what to do where there is none.
pub(super) fn read_one(what: &str, path: &Path, hint: &str) -> Result<String, Failure> {
    let shown = path.display();
    let cannot = |error: io::Error| {
        Failure::usage(format!("cannot read the {what} file {shown}: {error}")).hint(hint)
    };
    let file = File::open(path).map_err(cannot)?;
    // Asked of the open file: the path may mean another one a moment later.
    if file.metadata().map_err(cannot)?.mode() & 0o007 != 0 {
        let said = format!("the {what} file {shown} is open to everyone on this machine");
        return Err(Failure::usage(said).hint(format!("close it first: chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(cannot)?;
    let token = text.trim();
    if token.is_empty() || token.len() as u64 > MAX_TOKEN || token.contains(char::is_whitespace) {
        return Err(Failure::usage(format!("the {what} file {shown} does not hold one {what}")));
    }
    Ok(token.to_owned())
}

/// A client that believes the authorities in `ca_file`, or those of the system.
///
/// # Errors
/// When that file cannot be used.
pub(super) fn client(
    api: Vec<Endpoint>,
    token: Option<String>,
    ca_file: Option<&Path>,
) -> Result<Client, Failure> {
    let Some(path) = ca_file else { return Ok(Client::new(api, token)) };
    let shown = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read the CA file {shown}: {error}")))?;
    Client::with_ca(api, token, &pem)
        .map_err(|error| Failure::usage(format!("the CA file {shown} cannot be used: {error}")))
}

/// A new file for a token, there before the token is made: what cannot be kept is not asked for.
pub(super) struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// Makes the file with mode 0600.
    ///
    /// # Errors
    /// When it exists already, or cannot be made.
    pub(super) fn create(path: &Path) -> Result<NewFile, Failure> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Ok(file) => Ok(NewFile { path: path.to_owned(), file }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let said = format!("{} exists already and is left as it is", path.display());
                Err(Failure::usage(said).hint("name another file, or remove this one first"))
            }
            Err(error) => Err(Failure::usage(format!("cannot make {}: {error}", path.display()))),
        }
    }

    /// Writes the token and waits until it is on disk.
    ///
    /// # Errors
    /// When it cannot be written; the file is gone again.
    pub(super) fn keep(mut self, token: &str) -> Result<(), Failure> {
        let line = format!("{token}\n");
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            let said = format!("cannot write the token to {}: {error}", self.path.display());
            self.discard();
            Failure::here(said)
        })
    }

    /// Removes the file.
    pub(super) fn discard(self) {
        // Left over, it is empty and in nobody's way but a repeat's, which says so.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_read_back_from_a_file_that_only_its_owner_can_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        NewFile::create(&path).expect("new").keep("cbt_abc").expect("room");
        assert_eq!(std::fs::metadata(&path).expect("it").mode() & 0o777, 0o600);
        assert_eq!(read(&path).expect("a token"), "cbt_abc");
    }

    #[test]
    fn a_file_open_to_everyone_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        std::fs::write(&path, "cbt_abc").expect("room");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("mine");
        let failure = read(&path).expect_err("it is open");
        assert!(failure.text().contains(&format!("chmod 600 {}", path.display())));
    }

    #[test]
    fn a_file_that_exists_is_never_written_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        std::fs::write(&path, "precious").expect("room");
        assert!(NewFile::create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("it"), "precious");
    }

    #[test]
    fn a_file_without_exactly_one_token_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for (i, text) in ["", " \n", "a b", &"x".repeat(5000)].into_iter().enumerate() {
            let path = dir.path().join(i.to_string());
            NewFile::create(&path).expect("new").keep(text).expect("room");
            assert!(read(&path).is_err(), "{i}");
        }
    }
}

//! Where our own programs are, built beforehand.

use std::path::{Path, PathBuf};

/// The project's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("integration/ lies in the project").to_owned()
}

/// The program `name`: in `COBALT_BIN_DIR`, else in `target/debug`.
///
/// # Panics
/// When it is not there, saying how to build it.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("COBALT_BIN_DIR")
        .map_or_else(|| root().join("target/debug"), PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make integration`, or build it with `cargo build -p cobaltd \
         -p cobalt-docker-plugin --features cobaltd/failpoints,cobalt-docker-plugin/failpoints`",
        path.display()
    );
    path
}

//! Remembers over restarts and boots how far etcd was seen to be, in the pool. An etcd that was put back to an older state
//! while nobody looked, or before a restart that nobody meant as his word for it, is known as such.
//! It decides nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cobalt_failpoint::{Effect, around};
use cobalt_store::Follower;
use tokio::time::sleep;

/// The pause before it is written down again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the file says once etcd went back. A number would be overtaken by what is written since, and
/// the next start would see nothing wrong.
const WENT_BACK: &str = "went back";

/// The file that says it, for one cluster and pool.
#[derive(Clone, Debug)]
pub(crate) struct SeenRevision {
    file: PathBuf,
}

impl SeenRevision {
    /// The file for the cluster of this id.
    pub(crate) fn of(notes: &Path, cluster_id: &str) -> SeenRevision {
        SeenRevision { file: notes.join(format!("etcd-revision-{cluster_id}")) }
    }

    /// Tells the follower how far etcd was, if that is known. Call it before anything is done.
    pub(crate) fn recall(&self, follower: &Follower) {
        let noted = match std::fs::read_to_string(&self.file) {
            Ok(text) if text.trim() == WENT_BACK => Some(i64::MAX),
            Ok(text) => text.trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => None,
        };
        let Some(noted) = noted else {
            tracing::warn!(file = %self.file.display(), "how far etcd was cannot be read");
            return;
        };
        follower.expect_at_least(noted);
        if follower.went_back() {
            tracing::error!(
                file = %self.file.display(),
                "etcd is at, or was put back to, an earlier revision than it was: remove this file \
                 and restart cobaltd when you have looked at it"
            );
        }
    }

    /// Writes down how far etcd was at the furthest, for ever. Where it went back, that stands until
    /// somebody removes it.
    pub(crate) async fn keep(&self, follower: &Follower) -> std::convert::Infallible {
        let (mut shown, mut noted) = (0, String::new());
        loop {
            follower.moved_from(shown).await;
            shown = follower.revision();
            let text = match follower.went_back() {
                true => WENT_BACK.to_owned(),
                false => follower.furthest().to_string(),
            };
            if text != noted {
                match around(Effect::RevisionNote, || self.write(&text)) {
                    Ok(()) => noted = text,
                    Err(error) => tracing::warn!(%error, file = %self.file.display(),
                        "how far etcd is could not be noted"),
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{text}\n"))?;
        std::fs::rename(&new, &self.file)
    }
}

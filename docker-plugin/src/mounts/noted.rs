//! Between noting a holder and answering it. It decides nothing.

use super::Mounts;

/// A holder that was just noted, whose caller has no answer yet. However that ends, a holder
/// without an answer is let go: nobody else would do it.
pub(super) struct Noted<'a> {
    pub(super) mounts: &'a Mounts,
    pub(super) id: &'a str,
    pub(super) holder: &'a str,
    /// Cleared when the caller gets its answer.
    pub(super) take_back: bool,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if self.take_back {
            self.mounts.let_go(self.id, self.holder);
        }
    }
}

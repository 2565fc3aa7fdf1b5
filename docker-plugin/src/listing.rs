//! The answer to List, kept as the bytes that are sent.
//!
//! It depends on which volumes exist and on what is mounted here. Both count their changes, so
//! that the bytes are made anew by the first List after one, and by no other: what changes all
//! the time, as the use of volumes does, is not in it.

use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;

use crate::mounts::Mounts;
use crate::protocol::{List, Listed};
use crate::view::View;

/// The answer.
#[derive(Debug, Default)]
pub struct Listing(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The turns of the view's names and of the mounts that it was made of.
    made_of: Option<(u64, u64)>,
    body: Bytes,
}

impl Listing {
    /// The answer as of now, always of the same view and the same mounts.
    pub fn body(&self, view: &View, mounts: &Mounts) -> Bytes {
        // Who waits for it finds what the one before has made.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.made_of != Some((view.names_turn(), mounts.table_turn())) {
            *kept = make(view, mounts, kept.body.len());
        }
        kept.body.clone()
    }
}

/// `size` is how large it was the last time.
fn make(view: &View, mounts: &Mounts, size: usize) -> Kept {
    let (mounts_turn, mut here) = mounts.here_in_turn();
    let mut list = List::with_capacity(size + size / 8);
    let names_turn = view.each_in_turn(|name, known| {
        let mounted = here.remove(name);
        if mounted.is_some() || known.exists() {
            let mountpoint = mounted.as_ref().and_then(|mounted| mounted.path.as_deref());
            list.add(Listed { name, mountpoint });
        }
    });
    // What is mounted here exists here, whatever became of its record.
    for (name, mounted) in here.iter().filter(|(name, _)| !name.is_empty()) {
        list.add(Listed { name, mountpoint: mounted.path.as_deref() });
    }
    Kept { made_of: Some((names_turn, mounts_turn)), body: list.body() }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;

//! For tests: what the table says after a mount and an unmount, without any.

use super::Mounts;
use super::holders::{Held, Holder};

impl Mounts {
    /// As after a mount.
    pub(crate) fn pretend_mounted(&self, id: &str, name: &str) {
        let mut held = Held::new(name.to_owned());
        held.mounted = true;
        held.holders.push(Holder::new("a".to_owned(), None));
        self.holders.with(|table| table.insert(id.to_owned(), held));
    }

    /// As after an unmount, or a look that found it gone.
    pub(crate) fn pretend_gone(&self, id: &str) {
        self.holders.with(|table| table.remove(id));
    }
}

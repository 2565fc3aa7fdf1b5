//! What the trees of a btrfs say: which subvolumes there are and where they hang, what the
//! quota accounts for them. It only reads.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use nix::libc::ENOENT;

use super::ioctl::{self, SearchArgs, SearchKey};

/// A subvolume as the tree of roots knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) number: u64,
    pub(crate) uuid: [u8; 16],
    /// The tree that holds its name.
    pub(crate) parent: u64,
    /// The directory in that tree.
    pub(crate) dir: u64,
    pub(crate) name: Vec<u8>,
}

/// What the quota says of one subvolume, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: u64,
    pub(crate) limit: Option<u64>,
}

/// A level of accounting groups: those of a higher one have groups of lower ones as members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(pub(crate) u16);

impl Level {
    /// Of the subvolumes themselves.
    pub(crate) const SUBVOLUMES: Level = Level(0);
    /// A group has its level in the upper 16 bits.
    const SHIFT: u32 = 48;

    /// The group with this number within the level.
    pub(crate) const fn group(self, number: u64) -> u64 {
        (self.0 as u64) << Self::SHIFT | number
    }

    pub(crate) const fn has(self, group: u64) -> bool {
        group >> Self::SHIFT == self.0 as u64
    }

    const fn last(self) -> u64 {
        self.group((1 << Self::SHIFT) - 1)
    }
}

/// How a filesystem accounts for subvolumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accounting {
    Off,
    Classic,
    Simple,
}

/// All subvolumes of the filesystem that have a name. Deleted ones that the kernel is still
/// clearing away have none.
pub(crate) fn roots(file: impl AsFd) -> io::Result<Vec<Root>> {
    let (first, last) = (Key(FIRST_FREE, 0, 0), Key(LAST_FREE, ROOT_BACKREF, u64::MAX));
    let mut roots = Vec::new();
    let mut latest = (0, [0; 16]);
    search::<ALL>(file, ROOT_TREE, first, last, |key, item| {
        if key.1 == ROOT_ITEM {
            latest = (key.0, bytes_at(item, ROOT_ITEM_UUID).unwrap_or_default());
        } else if key.1 == ROOT_BACKREF && latest.0 == key.0 {
            let name = item.get(18..).unwrap_or_default().to_vec();
            let dir = number_at(item, 0);
            roots.push(Root { number: key.0, uuid: latest.1, parent: key.2, dir, name });
        }
    })?;
    Ok(roots)
}

/// What the quota says of every subvolume and every group of this level, by number; empty without
/// quotas.
pub(crate) fn usages(file: impl AsFd, level: Level) -> io::Result<HashMap<u64, Usage>> {
    let mut usages = HashMap::<u64, Usage>::new();
    let (first, last) = (Key(0, QGROUP_INFO, 0), Key(0, QGROUP_LIMIT, level.last()));
    search_quota::<ALL>(file, first, last, |key, item| {
        if !Level::SUBVOLUMES.has(key.2) && !level.has(key.2) {
            return;
        }
        let usage = usages.entry(key.2).or_default();
        match key.1 {
            QGROUP_INFO => usage.used = number_at(item, 8),
            QGROUP_LIMIT => usage.limit = limit_of(item),
            _ => (),
        }
    })?;
    Ok(usages)
}

/// What every group of a level holds: its number within the level and bytes, by ascending number;
/// nothing without quotas.
pub(crate) fn held(file: impl AsFd, level: Level) -> io::Result<Vec<(u64, u64)>> {
    let (first, last) = (level.group(0), level.last());
    let mut held = Vec::new();
    let (from, to) = (Key(0, QGROUP_INFO, first), Key(0, QGROUP_INFO, last));
    search_quota::<ALL>(file, from, to, |key, item| {
        if key.1 == QGROUP_INFO && level.has(key.2) {
            held.push((key.2 - first, number_at(item, 8)));
        }
    })?;
    Ok(held)
}

/// The limit of one subvolume or group; `None` without one, or without quotas.
pub(crate) fn limit(file: impl AsFd, number: u64) -> io::Result<Option<u64>> {
    let key = Key(0, QGROUP_LIMIT, number);
    let mut limit = None;
    search_quota::<ONE>(file, key, key, |_, item| limit = limit_of(item))?;
    Ok(limit)
}

/// How the filesystem accounts.
pub(crate) fn accounting(file: impl AsFd) -> io::Result<Accounting> {
    let key = Key(0, QGROUP_STATUS, 0);
    let mut accounting = Accounting::Off;
    search_quota::<ONE>(file, key, key, |_, item| {
        let flags = number_at(item, 16);
        accounting = match (flags & STATUS_ON != 0, flags & STATUS_SIMPLE != 0) {
            (false, _) => Accounting::Off,
            (true, false) => Accounting::Classic,
            (true, true) => Accounting::Simple,
        };
    })?;
    Ok(accounting)
}

const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
const FIRST_FREE: u64 = 256;
const LAST_FREE: u64 = u64::MAX - 255;
const ROOT_ITEM: u32 = 132;
const ROOT_BACKREF: u32 = 144;
const QGROUP_STATUS: u32 = 240;
const QGROUP_INFO: u32 = 242;
const QGROUP_LIMIT: u32 = 244;
const STATUS_ON: u64 = 1;
const STATUS_SIMPLE: u64 = 1 << 3;
const LIMIT_MAX_RFER: u64 = 1;
/// Where the UUID stands in a root item.
const ROOT_ITEM_UUID: usize = 247;
/// What precedes each item: transaction, object, offset (8 bytes each), type and length (4).
const HEADER: usize = 32;

/// Room for many items. Larger buffers are slower: their pages have to be made first.
const ALL: usize = 64 << 10;
/// Room for one item of the quota tree.
const ONE: usize = 256;

/// Object, type, offset: the order of all things in a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64, u32, u64);

impl Key {
    fn next(self) -> Option<Key> {
        match self {
            Key(u64::MAX, u32::MAX, u64::MAX) => None,
            Key(object, u32::MAX, u64::MAX) => Some(Key(object + 1, 0, 0)),
            Key(object, kind, u64::MAX) => Some(Key(object, kind + 1, 0)),
            Key(object, kind, offset) => Some(Key(object, kind, offset + 1)),
        }
    }
}

/// As [`search`], in the quota tree, which is not there without quotas.
fn search_quota<const ROOM: usize>(
    file: impl AsFd,
    first: Key,
    last: Key,
    each: impl FnMut(Key, &[u8]),
) -> io::Result<()> {
    match search::<ROOM>(file, QUOTA_TREE, first, last, each) {
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
        other => other,
    }
}

/// Calls `each` for all items between two keys. Items of types between theirs come as well.
fn search<const ROOM: usize>(
    file: impl AsFd,
    tree: u64,
    first: Key,
    last: Key,
    mut each: impl FnMut(Key, &[u8]),
) -> io::Result<()> {
    let mut args = Box::new(SearchArgs { key: SearchKey::default(), buf_size: 0, buf: [0; ROOM] });
    let mut from = Some(first);
    while let Some(start) = from.filter(|key| *key <= last) {
        args.key = SearchKey {
            tree_id: tree,
            min_objectid: start.0,
            max_objectid: last.0,
            min_offset: start.2,
            max_offset: last.2,
            max_transid: u64::MAX,
            min_type: start.1,
            max_type: last.1,
            nr_items: u32::MAX,
            ..SearchKey::default()
        };
        ioctl::tree_search(&file, &mut args)?;
        let mut rest: &[u8] = &args.buf;
        let mut seen = None;
        for _ in 0..args.key.nr_items {
            let Some((header, after)) = rest.split_at_checked(HEADER) else { break };
            let key = Key(number_at(header, 8), small_at(header, 24), number_at(header, 16));
            let Some((item, after)) = after.split_at_checked(small_at(header, 28) as usize) else {
                break;
            };
            each(key, item);
            seen = Some(key);
            rest = after;
        }
        from = seen.and_then(Key::next);
    }
    Ok(())
}

fn limit_of(item: &[u8]) -> Option<u64> {
    (number_at(item, 0) & LIMIT_MAX_RFER != 0).then(|| number_at(item, 8))
}

/// An absent field reads as 0, as in items that older kernels wrote shorter.
fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at).unwrap_or_default())
}

fn small_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at).unwrap_or_default())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_after_the_last_offset_is_of_the_next_type() {
        assert!(Key(1, 2, 3).next() == Some(Key(1, 2, 4)));
        assert!(Key(1, 2, u64::MAX).next() == Some(Key(1, 3, 0)));
        assert!(Key(1, u32::MAX, u64::MAX).next() == Some(Key(2, 0, 0)));
        assert!(Key(u64::MAX, u32::MAX, u64::MAX).next().is_none());
    }

    #[test]
    fn a_limit_counts_only_when_its_flag_is_set() {
        let mut item = [0; 40];
        item[8] = 5;
        assert_eq!(limit_of(&item), None);
        item[0] = 1;
        assert_eq!(limit_of(&item), Some(5));
    }
}

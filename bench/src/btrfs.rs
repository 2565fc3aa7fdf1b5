//! The bare calls of btrfs that the floors are made of, with nothing around them: no look
//! before, no check after. Not for anything but measuring.
#![expect(unsafe_code, reason = "these calls of btrfs have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The tree that lists all subvolumes.
pub(crate) const ROOT_TREE: u64 = 1;
/// The tree of accounts and limits.
pub(crate) const QUOTA_TREE: u64 = 8;

const INHERIT: u64 = 1 << 2;
const SET_LIMITS: u64 = 1;
const MAX_RFER: u64 = 1;
const QGROUP_LIMIT_ITEM: u32 = 244;
const SEARCH_BUFFER: usize = 64 << 10;
const HEADER: usize = 32;

/// Makes the subvolume `name` in `dir`, limited to `max` bytes.
pub(crate) fn create(dir: &File, name: &str, max: u64) -> io::Result<()> {
    let limit = Limit { flags: MAX_RFER, max_rfer: max, ..Limit::default() };
    let inherit = Inherit { flags: SET_LIMITS, limit, ..Inherit::default() };
    let mut args = VolArgsV2 {
        fd: 0,
        transid: 0,
        flags: INHERIT,
        size: size_of::<Inherit>() as u64,
        qgroup_inherit: (&raw const inherit) as u64,
        unused: [0; 2],
        name: [0; 4040],
    };
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: both structs have the kernel's layout and outlive the call; the name ends in 0.
    unsafe { raw::create(dir.as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// Destroys the subvolume `name` in `dir`.
pub(crate) fn destroy(dir: &File, name: &str) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the struct has the kernel's layout and outlives the call; the name ends in 0.
    unsafe { raw::destroy(dir.as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// Limits the subvolume with this number.
pub(crate) fn limit(dir: &File, number: u64, max: u64) -> io::Result<()> {
    let limit = Limit { flags: MAX_RFER, max_rfer: max, ..Limit::default() };
    let mut args = LimitArgs { qgroupid: number, limit };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::limit(dir.as_raw_fd(), &raw mut args) }?;
    Ok(())
}

/// Reads a whole tree once; how many items there were.
pub(crate) fn pass(dir: &File, tree: u64) -> io::Result<usize> {
    let mut items = 0;
    search(dir, tree, |_, _, _| items += 1)?;
    Ok(items)
}

/// All limits: subvolume number and bytes.
pub(crate) fn limits(dir: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut limits = Vec::new();
    search(dir, QUOTA_TREE, |kind, offset, item| {
        if kind == QGROUP_LIMIT_ITEM && word(item, 0) & MAX_RFER != 0 {
            limits.push((offset, word(item, 8)));
        }
    })?;
    Ok(limits)
}

fn search(dir: &File, tree: u64, mut each: impl FnMut(u32, u64, &[u8])) -> io::Result<()> {
    let mut args = Box::new(SearchArgs {
        key: SearchKey {
            tree_id: tree,
            max_objectid: u64::MAX,
            max_offset: u64::MAX,
            max_transid: u64::MAX,
            max_type: u32::MAX,
            ..SearchKey::default()
        },
        buf_size: SEARCH_BUFFER as u64,
        buf: [0; SEARCH_BUFFER],
    });
    loop {
        args.key.nr_items = u32::MAX;
        // SAFETY: the struct has the kernel's layout, and the buffer behind it the size it says.
        unsafe { raw::search(dir.as_raw_fd(), &raw mut *args) }?;
        let mut rest: &[u8] = &args.buf;
        let mut last = (0, 0, 0);
        for _ in 0..args.key.nr_items {
            let Some((header, after)) = rest.split_at_checked(HEADER) else { break };
            let kind = u32::try_from(word(header, 24) & 0xffff_ffff).unwrap_or_default();
            let length = usize::try_from(word(header, 24) >> 32).unwrap_or_default();
            let Some((item, after)) = after.split_at_checked(length) else { break };
            last = (word(header, 8), kind, word(header, 16));
            each(last.1, last.2, item);
            rest = after;
        }
        if args.key.nr_items == 0 {
            return Ok(());
        }
        (args.key.min_objectid, args.key.min_type, args.key.min_offset) = match last {
            (object, kind, u64::MAX) if kind == u32::MAX => (object + 1, 0, 0),
            (object, kind, u64::MAX) => (object, kind + 1, 0),
            (object, kind, offset) => (object, kind, offset + 1),
        };
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok());
    u64::from_le_bytes(eight.unwrap_or_default())
}

#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    size: u64,
    qgroup_inherit: u64,
    unused: [u64; 2],
    name: [u8; 4040],
}

#[derive(Default)]
#[repr(C)]
struct Limit {
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    rsv_rfer: u64,
    rsv_excl: u64,
}

#[derive(Default)]
#[repr(C)]
struct Inherit {
    flags: u64,
    counts: [u64; 3],
    limit: Limit,
}

#[repr(C)]
struct LimitArgs {
    qgroupid: u64,
    limit: Limit,
}

#[derive(Default)]
#[repr(C)]
struct SearchKey {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: [u32; 9],
}

#[repr(C)]
struct SearchArgs {
    key: SearchKey,
    buf_size: u64,
    buf: [u8; SEARCH_BUFFER],
}

const _: () = {
    assert!(size_of::<VolArgs>() == 4096);
    assert!(size_of::<VolArgsV2>() == 4096);
    assert!(size_of::<LimitArgs>() == 48);
    assert!(size_of::<Inherit>() == 72);
    assert!(size_of::<SearchKey>() == 104);
};

mod raw {
    use super::*;

    nix::ioctl_write_ptr!(create, 0x94, 24, VolArgsV2);
    nix::ioctl_write_ptr!(destroy, 0x94, 15, VolArgs);
    nix::ioctl_read!(limit, 0x94, 43, LimitArgs);
    nix::ioctl_readwrite_bad!(search, nix::request_code_readwrite!(0x94, 17, 112), SearchArgs);
}

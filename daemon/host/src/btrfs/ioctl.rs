//! The kernel's calls for btrfs, on open directories. The one place that talks to the kernel
//! in raw structs; it knows nothing of volumes or pools.
//!
//! Layouts are those of `linux/btrfs.h`, which never change.
#![expect(unsafe_code, reason = "these calls of btrfs have no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::c_int;

/// The number of the first subvolume's tree, and of the root directory in every tree.
pub(crate) const ROOT_DIR: u64 = 256;

/// What the kernel says of a subvolume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubvolumeInfo {
    pub(crate) number: u64,
    pub(crate) uuid: [u8; 16],
    /// The transaction in which it was made.
    pub(crate) made_in: u64,
}

/// Makes the subvolume `name` in `dir`, limited to `max` bytes from its first moment on. The
/// limit is ignored where quotas are off.
pub(crate) fn subvolume_create(dir: impl AsFd, name: &str, max: u64) -> io::Result<()> {
    let limit = QgroupLimit { flags: LIMIT_MAX_RFER, max_rfer: max, ..QgroupLimit::default() };
    let inherit = QgroupInherit { flags: INHERIT_SET_LIMITS, limit, ..QgroupInherit::default() };
    let mut args = VolArgsV2::new(SUBVOL_QGROUP_INHERIT);
    args.size = size_of::<QgroupInherit>() as u64;
    args.qgroup_inherit = (&raw const inherit) as u64;
    let room = &mut args.name[..NAME_MAX];
    room.get_mut(..name.len())
        .ok_or(io::ErrorKind::InvalidFilename)?
        .copy_from_slice(name.as_bytes());
    // SAFETY: both structs have the kernel's layout and outlive the call; the name ends in 0.
    unsafe { raw::subvol_create_v2(dir.as_fd().as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// Destroys the subvolume with this number in the filesystem of `dir`.
pub(crate) fn subvolume_destroy(dir: impl AsFd, number: u64) -> io::Result<()> {
    let mut args = VolArgsV2::new(SUBVOL_SPEC_BY_ID);
    args.name[..8].copy_from_slice(&number.to_ne_bytes());
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::snap_destroy_v2(dir.as_fd().as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// What the subvolume that holds `file` is.
pub(crate) fn subvolume_info(file: impl AsFd) -> io::Result<SubvolumeInfo> {
    // SAFETY: all zeroes is a value of this struct of numbers and bytes.
    let mut args: SubvolInfoArgs = unsafe { std::mem::zeroed() };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::get_subvol_info(file.as_fd().as_raw_fd(), &raw mut args) }?;
    Ok(SubvolumeInfo { number: args.treeid, uuid: args.uuid, made_in: args.transids[1] })
}

/// Turns simple quotas on.
pub(crate) fn quota_enable_simple(file: impl AsFd) -> io::Result<()> {
    let mut args = QuotaCtlArgs { cmd: QUOTA_ENABLE_SIMPLE, status: 0 };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::quota_ctl(file.as_fd().as_raw_fd(), &raw mut args) }?;
    Ok(())
}

/// Limits the subvolume with this number to `max` bytes.
pub(crate) fn qgroup_limit(file: impl AsFd, number: u64, max: u64) -> io::Result<()> {
    let limit = QgroupLimit { flags: LIMIT_MAX_RFER, max_rfer: max, ..QgroupLimit::default() };
    let mut args = QgroupLimitArgs { qgroupid: number, limit };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::qgroup_limit(file.as_fd().as_raw_fd(), &raw mut args) }?;
    Ok(())
}

/// Makes or removes the accounting group of the subvolume with this number.
pub(crate) fn qgroup_create(file: impl AsFd, number: u64, create: bool) -> io::Result<()> {
    let args = QgroupCreateArgs { create: create.into(), qgroupid: number };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::qgroup_create(file.as_fd().as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// Puts one accounting group into another, of a higher level.
pub(crate) fn qgroup_assign(file: impl AsFd, member: u64, group: u64) -> io::Result<()> {
    let args = QgroupAssignArgs { assign: 1, src: member, dst: group };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::qgroup_assign(file.as_fd().as_raw_fd(), &raw const args) }?;
    Ok(())
}

/// What the kernel says of a filesystem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilesystemInfo {
    pub(crate) uuid: [u8; 16],
    /// The latest transaction that was begun; `None` on kernels that do not tell.
    pub(crate) latest: Option<u64>,
}

/// What the filesystem that holds `file` is.
pub(crate) fn filesystem_info(file: impl AsFd) -> io::Result<FilesystemInfo> {
    // SAFETY: all zeroes is a value of this struct of numbers and bytes.
    let mut args: FsInfoArgs = unsafe { std::mem::zeroed() };
    args.flags = FS_INFO_GENERATION;
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::fs_info(file.as_fd().as_raw_fd(), &raw mut args) }?;
    let told = args.flags & FS_INFO_GENERATION != 0;
    Ok(FilesystemInfo { uuid: args.fsid, latest: told.then_some(args.generation) })
}

/// Waits until this transaction is on disk. It commits nothing: for one that nobody commits it
/// waits until the kernel does so by itself.
pub(crate) fn wait_for_commit(file: impl AsFd, transaction: u64) -> io::Result<()> {
    // SAFETY: the number outlives the call.
    unsafe { raw::wait_sync(file.as_fd().as_raw_fd(), &raw const transaction) }?;
    Ok(())
}

/// The tree number of the subvolume that holds `file`, and the path of directory `dir` in
/// tree `tree` (0: that same one), with a slash at its end unless it is the root.
pub(crate) fn dir_path(file: impl AsFd, tree: u64, dir: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut args = InoLookupArgs { treeid: tree, objectid: dir, name: [0; 4080] };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    unsafe { raw::ino_lookup(file.as_fd().as_raw_fd(), &raw mut args) }?;
    let end = args.name.iter().position(|byte| *byte == 0).unwrap_or(args.name.len());
    Ok((args.treeid, args.name[..end].to_vec()))
}

/// New files below `dir` are made without copy-on-write.
pub(crate) fn set_nocow(dir: impl AsFd) -> io::Result<()> {
    let fd = dir.as_fd().as_raw_fd();
    // The request is numbered for a long, but the kernel reads and writes an int.
    let mut flags: nix::libc::c_long = 0;
    // SAFETY: a long has room for the int.
    unsafe { raw::getflags(fd, &raw mut flags) }?;
    flags |= FS_NOCOW_FL;
    // SAFETY: a long has room for the int; on little-endian machines its low half is the int.
    unsafe { raw::setflags(fd, &raw const flags) }?;
    Ok(())
}

/// Sets an extended attribute of an open file or directory.
pub(crate) fn set_attribute(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd: c_int = file.as_fd().as_raw_fd();
    // SAFETY: name and value are valid for the lengths given, and outlive the call.
    let done =
        unsafe { nix::libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Fills `args` with what the search finds from its key on.
pub(super) fn tree_search<const ROOM: usize>(
    file: impl AsFd,
    args: &mut SearchArgs<ROOM>,
) -> io::Result<()> {
    args.buf_size = ROOM as u64;
    let start = (&raw mut *args).cast::<SearchArgs<0>>();
    // SAFETY: the struct has the kernel's layout, and the buffer behind it the size it says.
    unsafe { raw::tree_search_v2(file.as_fd().as_raw_fd(), start) }?;
    Ok(())
}

const NAME_MAX: usize = 255;
const SUBVOL_QGROUP_INHERIT: u64 = 1 << 2;
const SUBVOL_SPEC_BY_ID: u64 = 1 << 4;
const INHERIT_SET_LIMITS: u64 = 1;
const LIMIT_MAX_RFER: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
const FS_INFO_GENERATION: u64 = 1 << 1;
const FS_NOCOW_FL: nix::libc::c_long = 0x0080_0000;

#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    size: u64,
    qgroup_inherit: u64,
    unused: [u64; 2],
    /// Or, at its start, the number of a subvolume.
    name: [u8; 4040],
}

impl VolArgsV2 {
    fn new(flags: u64) -> VolArgsV2 {
        let (size, qgroup_inherit) = (0, 0);
        VolArgsV2 {
            fd: 0,
            transid: 0,
            flags,
            size,
            qgroup_inherit,
            unused: [0; 2],
            name: [0; 4040],
        }
    }
}

#[derive(Default)]
#[repr(C)]
struct QgroupLimit {
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    rsv_rfer: u64,
    rsv_excl: u64,
}

#[derive(Default)]
#[repr(C)]
struct QgroupInherit {
    flags: u64,
    num_qgroups: u64,
    num_ref_copies: u64,
    num_excl_copies: u64,
    limit: QgroupLimit,
}

#[repr(C)]
struct QgroupLimitArgs {
    qgroupid: u64,
    limit: QgroupLimit,
}

#[repr(C)]
struct QgroupCreateArgs {
    create: u64,
    qgroupid: u64,
}

#[repr(C)]
struct QgroupAssignArgs {
    assign: u64,
    src: u64,
    dst: u64,
}

#[repr(C)]
struct QuotaCtlArgs {
    cmd: u64,
    status: u64,
}

#[repr(C)]
struct SubvolInfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    /// When it changed, was made, sent, received, as transactions.
    transids: [u64; 4],
    /// Four times seconds, and nanoseconds with their padding.
    times: [u64; 8],
    reserved: [u64; 8],
}

#[repr(C)]
struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    sizes: [u32; 3],
    checksum: [u16; 2],
    flags: u64,
    generation: u64,
    rest: [u8; 960],
}

#[repr(C)]
struct InoLookupArgs {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

/// Where a search starts and ends.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct SearchKey {
    pub(super) tree_id: u64,
    pub(super) min_objectid: u64,
    pub(super) max_objectid: u64,
    pub(super) min_offset: u64,
    pub(super) max_offset: u64,
    pub(super) min_transid: u64,
    pub(super) max_transid: u64,
    pub(super) min_type: u32,
    pub(super) max_type: u32,
    pub(super) nr_items: u32,
    pub(super) unused: [u32; 9],
}

/// A search and room for what it finds.
#[repr(C)]
pub(super) struct SearchArgs<const ROOM: usize> {
    pub(super) key: SearchKey,
    pub(super) buf_size: u64,
    pub(super) buf: [u8; ROOM],
}

/// The kernel's own struct ends where its buffer begins.
const SEARCH_ARGS_V2: usize = 112;

const _: () = {
    assert!(size_of::<VolArgsV2>() == 4096);
    assert!(size_of::<QgroupLimit>() == 40);
    assert!(size_of::<QgroupInherit>() == 72);
    assert!(size_of::<QgroupLimitArgs>() == 48);
    assert!(size_of::<QgroupCreateArgs>() == 16);
    assert!(size_of::<QgroupAssignArgs>() == 24);
    assert!(size_of::<QuotaCtlArgs>() == 16);
    assert!(size_of::<SubvolInfoArgs>() == 504);
    assert!(size_of::<FsInfoArgs>() == 1024);
    assert!(size_of::<InoLookupArgs>() == 4096);
    assert!(size_of::<SearchKey>() == 104);
    assert!(std::mem::offset_of!(SearchArgs<0>, buf) == SEARCH_ARGS_V2);
    assert!(cfg!(target_endian = "little"), "trees are little-endian, and read as they are");
};

mod raw {
    use super::*;

    const BTRFS: u8 = 0x94;

    nix::ioctl_write_ptr!(subvol_create_v2, BTRFS, 24, VolArgsV2);
    nix::ioctl_write_ptr!(snap_destroy_v2, BTRFS, 63, VolArgsV2);
    nix::ioctl_read!(get_subvol_info, BTRFS, 60, SubvolInfoArgs);
    nix::ioctl_readwrite!(quota_ctl, BTRFS, 40, QuotaCtlArgs);
    nix::ioctl_write_ptr!(qgroup_assign, BTRFS, 41, QgroupAssignArgs);
    nix::ioctl_write_ptr!(qgroup_create, BTRFS, 42, QgroupCreateArgs);
    nix::ioctl_read!(qgroup_limit, BTRFS, 43, QgroupLimitArgs);
    nix::ioctl_read!(fs_info, BTRFS, 31, FsInfoArgs);
    nix::ioctl_write_ptr!(wait_sync, BTRFS, 22, u64);
    nix::ioctl_readwrite!(ino_lookup, BTRFS, 18, InoLookupArgs);
    nix::ioctl_readwrite_bad!(
        tree_search_v2,
        nix::request_code_readwrite!(BTRFS, 17, SEARCH_ARGS_V2),
        SearchArgs<0>
    );
    nix::ioctl_read!(getflags, b'f', 1, nix::libc::c_long);
    nix::ioctl_write_ptr!(setflags, b'f', 2, nix::libc::c_long);
}

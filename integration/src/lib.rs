//! Real parts for the tests in tests/: etcd, btrfs, dockerd and our own programs.
//!
//! Each test builds a [`world::World`], a mount and process namespace of its own, so that tests
//! collide neither with each other nor with the machine, and so that the kernel clears away what
//! a test leaves. Needs root. Nothing here knows how our programs work inside.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the program; its tests start processes and poll from outside"
)]

pub mod binaries;
pub mod boot;
pub mod cluster;
pub mod cobalt;
pub mod docker;
pub mod etcd;
pub mod failpoints;
pub mod http;
pub mod lab;
pub mod loopfs;
pub mod plugin;
pub mod process;
pub mod proxy;
pub mod recorder;
pub mod snapshot;
pub mod wait;
pub mod walker;
pub mod world;

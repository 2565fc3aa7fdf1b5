//! This machine: the pool, and the tools of the distribution.
//!
//! The only room that calls btrfs or runs processes. It decides nothing: it looks, and takes
//! the steps that core planned. It knows nothing of etcd's records, the API or other nodes.

mod btrfs;
mod btrfs_pool;
mod clock;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod etcd_child;
mod exports;
#[cfg(feature = "contract")]
mod fake;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod kernel;
mod layout;
mod loop_pool;
mod pool;
mod tools;

pub use btrfs_pool::{BtrfsPool, Expect, Found};
pub use clock::now_ms;
pub use error::HostError;
pub use etcd_child::{EtcdChild, EtcdOptions};
#[cfg(feature = "contract")]
pub use exports::FakeExports;
pub use exports::{Export, ExportTable, Exported, Exports, KernelExports, NfsServer, fsid};
#[cfg(feature = "contract")]
pub use fake::{FakePool, Fault};
pub use loop_pool::LoopPool;
pub use pool::{Holdings, Pool, PoolFacts, Survey, Trashed};

//! Records in etcd.
//!
//! The only room that uses the etcd client. It knows what records exist, how they are written
//! at rest, and how a write is guarded; it decides nothing about volumes or nodes.

pub mod kv;

mod callbacks;
mod consumers;
mod etcd;
mod feed;
mod follow;
mod history;
mod keys;
mod lease;
mod memory;
mod record;
mod store;
mod together;
mod view;

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

pub use callbacks::{Callback, CallbackFilter, Cursor, Noted};
pub use consumers::Deletion;
pub use etcd::{EndpointHealth, EndpointState, Etcd, EtcdCall, EtcdObserver, EtcdOptions};
pub use feed::{Feed, Turn};
pub use follow::{Changes, Follower, Subscription, VolumeWatch};
pub use history::{Happened, What};
pub use kv::{Kv, KvError};
pub use lease::{Session, SessionOptions, Term};
pub use memory::Memory;
pub use record::{Cluster, Role, Token};
pub use store::{Change, Created, Placed, Saved, Store, StoreError, Stored, Written, fits};
pub use view::{Held, Leader, View};

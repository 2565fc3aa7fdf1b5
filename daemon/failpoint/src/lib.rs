//! Where tests may make an effect on the outside fail, and the list of all such places.
//!
//! Every outside effect calls [`before`] and [`after`]. In ordinary builds both are empty. Built
//! with the feature `enabled`, a test chooses: with the variable `FAILPOINTS` from the start, or
//! at any time by what it writes into the file that `FAILPOINTS_FILE` names. Both say, for
//! instance, `subvolume-create.after=return(kill)`: the process ends there as by `kill -9`.
//! `return(error)` makes the effect fail; `panic`, `sleep(ms)` and counts such as
//! `2*off->1*return(kill)` are those of the `fail` crate.

use std::io;

#[cfg(feature = "enabled")]
mod enabled;

/// Makes the list of effects: one line each, so that none is left out of [`Effect::ALL`].
macro_rules! effects {
    ($($(#[$doc:meta])* $effect:ident = $name:literal,)*) => {
        /// One effect on the outside: a disk, the kernel, etcd.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Effect {
            $($(#[$doc])* $effect,)*
        }

        impl Effect {
            /// All of them: a sweep that takes its list from here misses none.
            pub const ALL: &[Effect] = &[$(Effect::$effect,)*];

            /// The names of the two points around it.
            pub fn points(self) -> [&'static str; 2] {
                match self {
                    $(Effect::$effect =>
                        [concat!($name, ".before"), concat!($name, ".after")],)*
                }
            }
        }
    };
}

effects! {
    /// The subvolume of a new volume is made.
    SubvolumeCreate = "subvolume-create",
    /// The group that limits it with all that is in it is made.
    GroupMake = "group-make",
    /// Owner, mode and properties of its root are set.
    SubvolumeDress = "subvolume-dress",
    /// The identity beside it is written.
    IdentityWrite = "identity-write",
    /// What was made or moved is put on disk.
    PoolSettle = "pool-settle",
    /// The limit of a volume in use is changed.
    LimitSet = "limit-set",
    /// The ticket for the trash is written.
    TicketWrite = "ticket-write",
    /// The subvolume is moved into the trash.
    TrashRename = "trash-rename",
    /// The identity of a deleted volume is removed.
    IdentityRemove = "identity-remove",
    /// A subvolume in the trash is destroyed.
    TrashDestroy = "trash-destroy",
    /// The ticket of what was destroyed is removed.
    TicketRemove = "ticket-remove",

    /// The file that names all exports of a node gets its place.
    ExportsWrite = "exports-write",
    /// The folder of exportfs gets its link to that file.
    ExportsLink = "exports-link",
    /// exportfs takes over what the file says.
    ExportsRun = "exports-run",
    /// What is exported is read from its table.
    ExportsRead = "exports-read",
    /// What barred hosts have open is ended on the server.
    ExportsExpire = "exports-expire",

    /// The file of a pool in a file is allocated and formatted.
    ImageMake = "image-make",
    /// It gets its name, and is complete.
    ImageName = "image-name",
    /// It is attached to a loop device.
    LoopAttach = "loop-attach",
    /// The pool in it is mounted.
    PoolMount = "pool-mount",
    /// It is unmounted at the end.
    PoolUnmount = "pool-unmount",
    /// The loop device is let go.
    LoopDetach = "loop-detach",
    /// The folders of a new pool are made.
    PoolLayout = "pool-layout",
    /// Quotas are turned on in a new pool.
    QuotaEnable = "quota-enable",
    /// A new pool says whose it is.
    PoolMark = "pool-mark",
    /// An etcd of our own is started.
    EtcdStart = "etcd-start",

    /// The record of the cluster is made by the first who asks.
    ClusterCreate = "cluster-create",
    /// The API stores a new wish.
    WishCreate = "wish-create",
    /// The API changes or withdraws a wish.
    WishChange = "wish-change",
    /// The Engine stores its decisions.
    EngineSave = "engine-save",
    /// The Agent stores what it has made.
    AgentSave = "agent-save",
    /// The Agent removes the record of what it has deleted.
    RecordForget = "record-forget",
    /// The configuration of a node is written.
    NodeSave = "node-save",
    /// The Agent says what its node is like.
    BeatSave = "beat-save",
    /// The Agent says what the volumes hold.
    UsageSave = "usage-save",
    /// The API keeps a new token.
    TokenCreate = "token-create",
    /// The API removes a token.
    TokenRevoke = "token-revoke",
    /// The API notes that a host uses a volume.
    ConsumerRegister = "consumer-register",
    /// The API notes that it does so no longer.
    ConsumerRelease = "consumer-release",
    /// A process gets its lease.
    LeaseGrant = "lease-grant",
    /// The lease of a process that is gone, or goes, is ended.
    LeaseEnd = "lease-end",
    /// An Engine becomes the leader.
    TermWin = "term-win",

    /// This machine is told that it runs the node.
    Announce = "announce",
    /// The number of our lease is noted for our successor.
    LeaseNote = "lease-note",
    /// How far etcd was seen to be is written down.
    RevisionNote = "revision-note",
    /// Where our own etcd answers is written down.
    EndpointNote = "endpoint-note",

    /// The plugin makes its folder a mount of its own.
    FolderShare = "folder-share",
    /// It takes that mount away.
    FolderUnshare = "folder-unshare",
    /// It makes the folder a volume is mounted on.
    MountPointMake = "mount-point-make",
    /// It mounts a volume.
    VolumeMount = "volume-mount",
    /// It unmounts a volume.
    VolumeUnmount = "volume-unmount",
    /// It removes the folder the volume was mounted on.
    MountPointRemove = "mount-point-remove",
    /// It notes on disk who uses which volume.
    HoldersWrite = "holders-write",
    /// It keeps its view of all volumes on disk.
    ViewWrite = "view-write",
    /// A new version of one of its files takes the place of the old one.
    StateReplace = "state-replace",
}

/// Call it where `effect` is about to happen.
///
/// # Errors
/// Only when a test asked for one.
pub fn before(effect: Effect) -> io::Result<()> {
    reached(effect.points()[0])
}

/// Call it where `effect` has happened.
///
/// # Errors
/// Only when a test asked for one.
pub fn after(effect: Effect) -> io::Result<()> {
    reached(effect.points()[1])
}

/// Does `act`, with the places around it where tests may make it fail.
///
/// # Errors
/// What `act` says, or what a test asked for.
pub fn around<T>(effect: Effect, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    before(effect)?;
    let done = act()?;
    after(effect)?;
    Ok(done)
}

/// Reads `FAILPOINTS` and `FAILPOINTS_FILE`. Call it once, first thing; it does nothing in
/// ordinary builds.
pub fn arm() {
    #[cfg(feature = "enabled")]
    enabled::arm();
}

#[cfg(feature = "enabled")]
fn reached(point: &str) -> io::Result<()> {
    enabled::reached(point)
}

#[cfg(not(feature = "enabled"))]
fn reached(_point: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_effect_has_two_points_of_its_own() {
        let mut points: Vec<_> = Effect::ALL.iter().flat_map(|effect| effect.points()).collect();
        points.sort_unstable();
        points.dedup();
        assert_eq!(points.len(), Effect::ALL.len() * 2);
    }
}

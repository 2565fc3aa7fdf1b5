//! Where tests may make an effect on the outside fail, and the list of all such places.
//!
//! Every outside effect calls [`before`] and [`after`]. In ordinary builds both are empty. Built
//! with the feature `enabled`, the variable `FAILPOINTS` chooses, for instance
//! `FAILPOINTS=subvolume-create.after=return(kill)`: the process ends there as by `kill -9`.
//! `return(error)` makes the effect fail; `panic`, `sleep(ms)` and counts such as
//! `2*off->1*return(kill)` are those of the `fail` crate.

use std::io;

/// One effect on the outside: a disk, the kernel, etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The subvolume of a new volume is made.
    SubvolumeCreate,
    /// Owner, mode and properties of its root are set.
    SubvolumeDress,
    /// The identity beside it is written.
    IdentityWrite,
    /// What was made or moved is put on disk.
    PoolSettle,
    /// The limit of a volume in use is changed.
    LimitSet,
    /// The ticket for the trash is written.
    TicketWrite,
    /// The subvolume is moved into the trash.
    TrashRename,
    /// The identity of a deleted volume is removed.
    IdentityRemove,
    /// A subvolume in the trash is destroyed.
    TrashDestroy,
    /// The API stores a new wish.
    WishCreate,
    /// The API changes or withdraws a wish.
    WishChange,
    /// The Engine stores its decisions.
    EngineSave,
    /// The Agent stores what it has made.
    AgentSave,
    /// The Agent removes the record of what it has deleted.
    RecordForget,
}

impl Effect {
    /// All of them: a sweep that takes its list from here misses none.
    pub const ALL: [Effect; 14] = [
        Effect::SubvolumeCreate,
        Effect::SubvolumeDress,
        Effect::IdentityWrite,
        Effect::PoolSettle,
        Effect::LimitSet,
        Effect::TicketWrite,
        Effect::TrashRename,
        Effect::IdentityRemove,
        Effect::TrashDestroy,
        Effect::WishCreate,
        Effect::WishChange,
        Effect::EngineSave,
        Effect::AgentSave,
        Effect::RecordForget,
    ];

    /// The names of the two points around it.
    pub fn points(self) -> [&'static str; 2] {
        match self {
            Effect::SubvolumeCreate => ["subvolume-create.before", "subvolume-create.after"],
            Effect::SubvolumeDress => ["subvolume-dress.before", "subvolume-dress.after"],
            Effect::IdentityWrite => ["identity-write.before", "identity-write.after"],
            Effect::PoolSettle => ["pool-settle.before", "pool-settle.after"],
            Effect::LimitSet => ["limit-set.before", "limit-set.after"],
            Effect::TicketWrite => ["ticket-write.before", "ticket-write.after"],
            Effect::TrashRename => ["trash-rename.before", "trash-rename.after"],
            Effect::IdentityRemove => ["identity-remove.before", "identity-remove.after"],
            Effect::TrashDestroy => ["trash-destroy.before", "trash-destroy.after"],
            Effect::WishCreate => ["wish-create.before", "wish-create.after"],
            Effect::WishChange => ["wish-change.before", "wish-change.after"],
            Effect::EngineSave => ["engine-save.before", "engine-save.after"],
            Effect::AgentSave => ["agent-save.before", "agent-save.after"],
            Effect::RecordForget => ["record-forget.before", "record-forget.after"],
        }
    }
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

/// Reads `FAILPOINTS`. Call it once, first thing; it does nothing in ordinary builds.
pub fn arm() {
    #[cfg(feature = "enabled")]
    {
        // The setup is undone when its guard is dropped, so the guard lives as long as we do.
        std::mem::forget(fail::FailScenario::setup());
    }
}

#[cfg(feature = "enabled")]
fn reached(point: &str) -> io::Result<()> {
    let outcome = fail::eval(point, |argument| match argument.as_deref() {
        Some("error") => io::Error::other(format!("a test made {point} fail")),
        Some(_) | None => {
            // It does not return when it works.
            let refused = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            io::Error::other(format!("{point}: the process could not end itself: {refused:?}"))
        }
    });
    outcome.map_or(Ok(()), Err)
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

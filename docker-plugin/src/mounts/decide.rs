//! When a mount may go. Pure: from what is seen to what to do.
//!
//! Neither count alone is the truth. `docker cp` ends with the ID of the running container, so
//! "no holder" does not mean unused; a dockerd that was killed never sends its Unmounts, so "a
//! holder" does not mean used. What is really there, a mount namespace with the volume in it,
//! decides against unmounting whatever the holders say; holders alone keep a mount only while
//! the program that they came from can still end them.

use std::time::Duration;

/// A holder whose dockerd is dead goes after this time without a user: a container that was
/// just being started shows up well within it.
pub const ORPHANED_AFTER: Duration = Duration::from_secs(10);
/// A holder that was noted before this program was started goes after this time without a user:
/// its Unmount may have been sent while nobody was there to take it.
pub const INHERITED_AFTER: Duration = Duration::from_secs(20);
/// A holder whose dockerd lives goes after this time without a user: some versions lose their
/// count and never send the last Unmount.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What is seen of one volume on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// It is mounted in our folder.
    pub mounted: bool,
    /// Who asked for it and has not let go.
    pub holders: Vec<SeenHolder>,
    /// How many mount namespaces use it; `None` when that cannot be known.
    pub users: Option<usize>,
    /// For how long no user has been seen.
    pub idle: Duration,
}

/// One holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenHolder {
    /// The ID that came with Mount.
    pub id: String,
    /// Who can still end it.
    pub tie: Tie,
}

/// Whether the Unmount of a holder can still be hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The program that sent the Mount runs, and so did we since then.
    Lives,
    /// It runs, and we were started since then.
    Inherited,
    /// It has ended.
    Dead,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Holders to drop.
    pub drop: Vec<String>,
    /// Whether to unmount.
    pub unmount: bool,
}

/// What to do with a volume that nobody has just asked about.
pub fn decide(seen: &Seen) -> Decision {
    match seen.users {
        None | Some(1..) => Decision::default(),
        Some(0) => {
            let (drop, kept): (Vec<_>, Vec<_>) =
                seen.holders.iter().partition(|holder| seen.idle >= patience(holder));
            let drop = drop.into_iter().map(|holder| holder.id.clone()).collect();
            Decision { drop, unmount: seen.mounted && kept.is_empty() }
        }
    }
}

fn patience(holder: &SeenHolder) -> Duration {
    match holder.tie {
        Tie::Lives => FORGOTTEN_AFTER,
        Tie::Inherited => INHERITED_AFTER,
        Tie::Dead => ORPHANED_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(users: Option<usize>, holders: &[(&str, Tie)], idle_secs: u64) -> Seen {
        let holder = |(id, tie): &(&str, Tie)| SeenHolder { id: (*id).to_owned(), tie: *tie };
        Seen {
            mounted: true,
            holders: holders.iter().map(holder).collect(),
            users,
            idle: Duration::from_secs(idle_secs),
        }
    }

    #[test]
    fn a_mount_without_holders_and_users_goes_at_once() {
        let wanted = Decision { drop: Vec::new(), unmount: true };
        assert_eq!(decide(&seen(Some(0), &[], 0)), wanted);
    }

    #[test]
    fn a_mount_that_a_container_uses_stays_without_any_holder() {
        assert_eq!(decide(&seen(Some(1), &[], 9999)), Decision::default());
    }

    #[test]
    fn a_mount_whose_users_cannot_be_known_stays() {
        assert_eq!(decide(&seen(None, &[("a", Tie::Dead)], 9999)), Decision::default());
        assert_eq!(decide(&seen(None, &[], 9999)), Decision::default());
    }

    #[test]
    fn a_holder_of_a_dead_dockerd_goes_once_its_container_is_gone() {
        assert_eq!(decide(&seen(Some(0), &[("a", Tie::Dead)], 0)), Decision::default());
        let wanted = Decision { drop: vec!["a".into()], unmount: true };
        assert_eq!(decide(&seen(Some(0), &[("a", Tie::Dead)], 10)), wanted);
    }

    #[test]
    fn a_holder_of_a_living_dockerd_keeps_the_mount_for_minutes() {
        assert_eq!(decide(&seen(Some(0), &[("a", Tie::Lives)], 299)), Decision::default());
        assert!(decide(&seen(Some(0), &[("a", Tie::Lives)], 300)).unmount);
    }

    #[test]
    fn a_holder_from_before_our_start_goes_soon() {
        assert_eq!(decide(&seen(Some(0), &[("a", Tie::Inherited)], 19)), Decision::default());
        assert!(decide(&seen(Some(0), &[("a", Tie::Inherited)], 20)).unmount);
    }

    #[test]
    fn one_holder_that_stays_keeps_the_mount() {
        let wanted = Decision { drop: vec!["a".into()], unmount: false };
        assert_eq!(decide(&seen(Some(0), &[("a", Tie::Dead), ("b", Tie::Lives)], 10)), wanted);
    }

    #[test]
    fn what_is_not_mounted_is_not_unmounted() {
        let seen = Seen { mounted: false, ..seen(Some(0), &[("a", Tie::Dead)], 10) };
        assert_eq!(decide(&seen), Decision { drop: vec!["a".into()], unmount: false });
    }
}

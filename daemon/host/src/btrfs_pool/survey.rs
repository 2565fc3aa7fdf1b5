//! Looking at everything at once: two searches of btrfs's trees and two directory listings,
//! whatever the number of volumes; or, at what everything holds, one search. It opens nothing
//! that belongs to a tenant.

use std::collections::{BTreeMap, HashMap, HashSet};

use cobalt_core::{Bytes, SeenSubvolume, SubvolumeUuid, VolumeId};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use super::open::names;
use super::{BtrfsPool, Part, purge, read_link, whole};
use crate::btrfs::ioctl::{self, ROOT_DIR};
use crate::btrfs::search::{self, Root, Usage};
use crate::error::{HostError, refused};
use crate::layout::{self, TrashName};
use crate::pool::{Holdings, Survey, Trashed};

/// Beyond this many strangers the folders on their way are not looked up any more.
const FULL_PATHS: usize = 200;
/// The deepest nesting that is told from a circle.
const DEEPEST: usize = 1000;

pub(super) fn survey(pool: &BtrfsPool) -> Result<Survey, HostError> {
    let act = || format!("cannot survey the pool at {}", pool.facts.path.display());
    // First what is said, then what is there: a volume that is made meanwhile then looks half
    // made, and never as if its data were missing.
    let mut survey = Survey::default();
    add_identities(pool, &mut survey)?;
    let mut tickets = list_trash(pool)?;
    // Before the roots: a group without its root is then one that was left behind.
    let usages = search::usages(&pool.root, whole::level(pool)).map_err(refused(act()))?;
    let roots = search::roots(&pool.root).map_err(refused(act()))?;
    let places = Places::of(pool).map_err(refused(act()))?;

    let mut strangers = Vec::new();
    let mut in_trash = HashMap::new();
    let mut numbers = BTreeMap::new();
    for root in &roots {
        let usage = whole::usage_of(pool, &usages, root.number);
        match places.meaning(root) {
            Meaning::Volume(id) => {
                let (uuid, limit) = (SubvolumeUuid(root.uuid), usage.limit.map(Bytes));
                let seen = SeenSubvolume { uuid, number: root.number, limit };
                survey.volumes.entry(id).or_default().subvolume = Some(seen);
                numbers.insert(root.number, Part::Volume(id));
                if pool.facts.quota.enforces() {
                    survey.used.insert(id, Bytes(usage.used));
                }
            }
            Meaning::Trashed(id, uuid) => {
                survey.volumes.entry(id).or_default().trashed.push(uuid);
                in_trash.insert((id, uuid), usage);
                numbers.insert(root.number, Part::Trash);
                if !has_ticket(pool, &mut tickets, id, uuid)? {
                    strangers.push(root);
                }
            }
            Meaning::Stranger => strangers.push(root),
        }
    }
    for seen in survey.volumes.values_mut() {
        seen.trashed.sort_unstable();
    }
    survey.strangers = Strangers::new(pool, places, &roots).paths(&strangers);
    survey.trash = trash(&tickets, &in_trash, &roots);
    purge::forget_groups(pool, &whole::left_behind(&usages, &roots));
    keep_numbers(pool, numbers, roots.iter().map(|root| root.number).max());
    (survey.capacity, survey.occupied) = room(pool)?;
    Ok(survey)
}

/// What was made since the roots were read has a higher number than all of them.
fn keep_numbers(pool: &BtrfsPool, found: BTreeMap<u64, Part>, highest: Option<u64>) {
    let mut numbers = pool.lock_numbers();
    let mut later = numbers.split_off(&highest.map_or(0, |highest| highest + 1));
    *numbers = found;
    numbers.append(&mut later);
}

/// What everything holds, by what the quota accounts for each number.
pub(super) fn holdings(pool: &BtrfsPool) -> Result<Holdings, HostError> {
    let mut holdings = Holdings::default();
    (holdings.capacity, holdings.occupied) = room(pool)?;
    if !pool.facts.quota.enforces() {
        return Ok(holdings);
    }
    let held = search::held(&pool.root, whole::level(pool))
        .map_err(refused(format!("cannot read what is held in {}", pool.facts.path.display())))?;
    let numbers = pool.lock_numbers();
    holdings.used.reserve(numbers.len());
    // Both ascend, so they are walked beside each other.
    let mut known = numbers.iter().peekable();
    for (number, used) in held {
        while known.next_if(|(known, _)| **known < number).is_some() {}
        match known.next_if(|(known, _)| **known == number) {
            Some((_, Part::Volume(id))) => drop(holdings.used.insert(*id, Bytes(used))),
            Some((_, Part::Trash)) => holdings.trash.0 = holdings.trash.0.saturating_add(used),
            None => (),
        }
    }
    Ok(holdings)
}

/// The pool's capacity, and what of it is occupied.
fn room(pool: &BtrfsPool) -> Result<(Bytes, Bytes), HostError> {
    let act = || format!("cannot see how full the pool at {} is", pool.facts.path.display());
    let status = fstatfs(&pool.root).map_err(refused(act()))?;
    let unit = u64::try_from(status.block_size()).unwrap_or_default();
    let occupied = status.blocks().saturating_sub(status.blocks_available());
    Ok((Bytes(status.blocks() * unit), Bytes(occupied * unit)))
}

/// Tickets by what they name, with their time.
type Tickets = HashMap<(VolumeId, SubvolumeUuid), i64>;

/// Also one that was written since the trash was listed.
fn has_ticket(
    pool: &BtrfsPool,
    tickets: &mut Tickets,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
) -> Result<bool, HostError> {
    if tickets.contains_key(&(volume, subvolume)) {
        return Ok(true);
    }
    let text = read_link(&pool.trash, &layout::ticket_name(volume, subvolume))
        .map_err(refused(format!("cannot read the ticket of volume {volume} in the trash")))?;
    let at_ms = text.and_then(|text| layout::parse_ticket(text.as_encoded_bytes()));
    if let Some(at_ms) = at_ms {
        tickets.insert((volume, subvolume), at_ms);
    }
    Ok(at_ms.is_some())
}

/// Lists the trash anew; returns its valid tickets.
pub(super) fn list_trash(pool: &BtrfsPool) -> Result<Tickets, HostError> {
    let act = || format!("cannot list the trash of the pool at {}", pool.facts.path.display());
    let mut found: HashMap<VolumeId, HashSet<SubvolumeUuid>> = HashMap::new();
    let mut tickets = Tickets::new();
    // Held throughout: what others add or remove meanwhile comes after the exchange below.
    let mut trashed = pool.lock_trashed();
    for name in names(&pool.trash).map_err(refused(act()))? {
        match layout::parse_trash_name(&name) {
            Some(TrashName::Subvolume(volume, uuid)) => {
                found.entry(volume).or_default().insert(uuid);
            }
            Some(TrashName::Ticket(volume, uuid)) => {
                let name = layout::ticket_name(volume, uuid);
                let text = read_link(&pool.trash, &name).map_err(refused(act()))?;
                let text = text.unwrap_or_default();
                if let Some(at_ms) = layout::parse_ticket(text.as_encoded_bytes()) {
                    tickets.insert((volume, uuid), at_ms);
                }
            }
            None => (),
        }
    }
    *trashed = found;
    Ok(tickets)
}

/// What is purgeable, oldest first. A ticket for a volume that is still in its place is from a
/// deletion that has not come further.
fn trash(
    tickets: &Tickets,
    in_trash: &HashMap<(VolumeId, SubvolumeUuid), Usage>,
    roots: &[Root],
) -> Vec<Trashed> {
    let alive: HashSet<_> = roots.iter().map(|root| SubvolumeUuid(root.uuid)).collect();
    let mut trash: Vec<Trashed> = tickets
        .iter()
        .filter(|(key, _)| in_trash.contains_key(key) || !alive.contains(&key.1))
        .map(|(key, at_ms)| {
            let used = Bytes(in_trash.get(key).map_or(0, |usage| usage.used));
            Trashed { volume: key.0, subvolume: key.1, at_ms: *at_ms, used }
        })
        .collect();
    trash.sort_by_key(|entry| (entry.at_ms, entry.volume, entry.subvolume));
    trash
}

fn add_identities(pool: &BtrfsPool, survey: &mut Survey) -> Result<(), HostError> {
    let act = || format!("cannot list the identities of the pool at {}", pool.facts.path.display());
    for name in names(&pool.identity).map_err(refused(act()))? {
        let Some(id) = str::from_utf8(&name).ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that cannot be read is an error when that volume is looked at, and no other's.
        match pool.read_identity(id) {
            Ok(Some(identity)) => survey.volumes.entry(id).or_default().identity = Some(identity),
            Ok(None) => (),
            Err(error) => tracing::warn!(volume = %id, %error, "identity"),
        }
    }
    Ok(())
}

/// Where the pool's folders are, as the tree of roots names places: tree and directory.
#[derive(Clone, Copy, Debug)]
struct Places {
    tree: u64,
    volumes: u64,
    trash: u64,
}

enum Meaning {
    Volume(VolumeId),
    Trashed(VolumeId, SubvolumeUuid),
    Stranger,
}

impl Places {
    fn of(pool: &BtrfsPool) -> Result<Places, std::io::Error> {
        // The pool may be a subvolume itself: its own tree need not be the top one.
        let (tree, _) = ioctl::dir_path(&pool.root, 0, ROOT_DIR)?;
        let (volumes, trash) = (fstat(&pool.volumes)?.st_ino, fstat(&pool.trash)?.st_ino);
        Ok(Places { tree, volumes, trash })
    }

    fn meaning(&self, root: &Root) -> Meaning {
        let in_dir = |dir| root.parent == self.tree && root.dir == dir;
        if in_dir(self.volumes)
            && let Some(id) = str::from_utf8(&root.name).ok().and_then(|name| name.parse().ok())
        {
            return Meaning::Volume(id);
        }
        if in_dir(self.trash)
            && let Some(TrashName::Subvolume(id, uuid)) = layout::parse_trash_name(&root.name)
            && uuid.0 == root.uuid
        {
            return Meaning::Trashed(id, uuid);
        }
        Meaning::Stranger
    }
}

/// Finds the paths of subvolumes below the pool.
struct Strangers<'a> {
    pool: &'a BtrfsPool,
    places: Places,
    by_number: HashMap<u64, &'a Root>,
}

impl<'a> Strangers<'a> {
    fn new(pool: &'a BtrfsPool, places: Places, roots: &'a [Root]) -> Strangers<'a> {
        let by_number = roots.iter().map(|root| (root.number, root)).collect();
        Strangers { pool, places, by_number }
    }

    /// Those that lie beside the pool, where it is a subvolume itself, are nobody's business.
    fn paths(&self, strangers: &[&Root]) -> Vec<String> {
        let ways = strangers.iter().filter_map(|root| self.way(root));
        let mut paths: Vec<String> =
            ways.enumerate().map(|(n, way)| self.path(&way, n < FULL_PATHS)).collect();
        paths.sort_unstable();
        paths
    }

    /// From the pool down to `root`; `None` when it is not below the pool.
    fn way(&self, root: &'a Root) -> Option<Vec<&'a Root>> {
        let mut way = vec![root];
        let mut at = root;
        while at.parent != self.places.tree {
            at = self.by_number.get(&at.parent)?;
            way.push(at);
            if way.len() > DEEPEST {
                return None;
            }
        }
        way.reverse();
        Some(way)
    }

    fn path(&self, way: &[&Root], full: bool) -> String {
        let mut path = String::new();
        for root in way {
            path.push_str(&self.folder(root, full));
            // A tenant chose these names: they go into logs and answers.
            let name = String::from_utf8_lossy(&root.name);
            path.extend(name.chars().map(|c| if c.is_control() { '?' } else { c }));
            path.push('/');
        }
        path.pop();
        path
    }

    fn folder(&self, root: &Root, full: bool) -> String {
        let own = root.parent == self.places.tree;
        if own && root.dir == self.places.volumes {
            return format!("{}/", layout::VOLUMES);
        }
        if own && root.dir == self.places.trash {
            return format!("{}/{}/", layout::COBALT, layout::TRASH);
        }
        if root.dir == ROOT_DIR {
            return String::new();
        }
        match full.then(|| ioctl::dir_path(&self.pool.root, root.parent, root.dir)) {
            Some(Ok((_, folder))) => {
                let folder = String::from_utf8_lossy(&folder);
                folder.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
            }
            Some(Err(_)) | None => "…/".to_owned(),
        }
    }
}

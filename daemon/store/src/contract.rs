//! What every store must do: the tests that etcd and the store in memory both pass.
//!
//! Each takes a store that may hold other keys, and a prefix or cluster of its own in it.

use std::collections::BTreeMap;
use std::time::Duration;

use cobalt_core::{
    Bytes, ClusterName, Consumer, GIB, HostId, NodeId, SubvolumeUuid, Volume, VolumeId, Wish,
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::consumers::Deletion;
use crate::follow::Follower;
use crate::kv::{Event, Guard, Kv, KvError, Op, Outcome, PAGE, Txn};
use crate::lease::{Session, SessionOptions};
use crate::store::{Change, Created, Saved, Store, StoreError, Stored};

/// Longer than anything here takes, and short enough to see a hang.
const SOON: Duration = Duration::from_secs(20);

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), value.as_bytes().to_vec(), None)
}

async fn set(kv: &Kv, key: &str, value: &str) -> i64 {
    let txn = Txn { guards: Vec::new(), ops: vec![put(key, value)] };
    match kv.commit(&txn).await {
        Ok(Outcome::Done { revision }) => revision,
        other => panic!("a put without guards: {other:?}"),
    }
}

fn fresh_prefix() -> String {
    format!("/contract/{}/", Uuid::new_v4())
}

/// A store of records in a cluster of its own.
pub fn fresh_store(kv: &Kv) -> Store {
    let cluster: ClusterName = Uuid::new_v4().to_string().parse().expect("a UUID is a name");
    Store::new(kv.clone(), &cluster)
}

/// A new wish for a volume.
pub fn a_volume(name: &str) -> Volume {
    let wish = Wish::of(Bytes(GIB));
    let id = VolumeId(*Uuid::new_v4().as_bytes());
    Volume::new(id, name.parse().expect("a name"), wish, 1)
}

/// A transaction whose guards do not hold changes nothing and shows what was found.
pub async fn a_refused_transaction_changes_nothing_and_shows_why(kv: Kv) {
    let prefix = fresh_prefix();
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    let revision = set(&kv, &a, "1").await;
    let guards = vec![Guard::Absent(a.clone()), Guard::Absent(b.clone())];
    let txn = Txn { guards, ops: vec![put(&a, "2"), put(&b, "2")] };
    let Ok(Outcome::Refused { found }) = kv.commit(&txn).await else {
        panic!("the first guard does not hold");
    };
    assert_eq!(found[0].as_ref().map(|entry| entry.revision), Some(revision));
    assert_eq!(found[1], None);
    assert_eq!(kv.get(&b).await, Ok(None));
}

/// A range that must be empty is refused with its first key, and only while it has one.
pub async fn a_range_is_vacant_only_without_any_key(kv: Kv) {
    let prefix = fresh_prefix();
    let (inside, key) = (format!("{prefix}in/"), format!("{prefix}out"));
    set(&kv, &format!("{prefix}in"), "beside").await;
    let vacant = || Txn {
        guards: vec![Guard::Absent(format!("{prefix}no")), Guard::Vacant(inside.clone())],
        ops: vec![put(&key, "1")],
    };
    let first = format!("{inside}a");
    set(&kv, &format!("{inside}b"), "1").await;
    set(&kv, &first, "1").await;
    let Ok(Outcome::Refused { found }) = kv.commit(&vacant()).await else {
        panic!("there are keys");
    };
    assert_eq!(found[0], None);
    assert_eq!(found[1].as_ref().map(|entry| &entry.key), Some(&first));
    let clear = ["a", "b"].map(|name| Op::Delete(format!("{inside}{name}"))).to_vec();
    kv.commit(&Txn { guards: Vec::new(), ops: clear }).await.expect("both go");
    assert!(matches!(kv.commit(&vacant()).await, Ok(Outcome::Done { .. })));
}

/// A volume that a host uses is not deleted, and one on its way out gets no host.
pub async fn a_volume_in_use_is_not_deleted(kv: Kv) {
    let store = fresh_store(&kv);
    let volume = a_volume("web");
    store.create_volume(&volume).await.expect("created");
    let stored = store.volume(&volume.name).await.expect("read").expect("there");
    let host = HostId(*Uuid::new_v4().as_bytes());
    let consumer = Consumer {
        volume: volume.id,
        host,
        hostname: "h1".into(),
        since_ms: 1,
        address: None,
        has: None,
        by: None,
    };
    let done = store.register_consumer(&stored, &consumer).await.expect("an answer");
    assert!(matches!(done, Saved::Done(_)), "{done:?}");
    let order = || Change { volume: stored.value.clone(), read_at: stored.revision };
    let refused = store.order_deletion(&order()).await.expect("an answer");
    assert_eq!(refused, Deletion::InUse);
    assert!(store.release_consumer(volume.id, host).await.expect("an answer").is_some());
    assert_eq!(store.release_consumer(volume.id, host).await.expect("an answer"), None);
    let ordered = store.order_deletion(&order()).await.expect("an answer");
    assert!(matches!(ordered, Deletion::Ordered(_)), "{ordered:?}");
    let late = store.register_consumer(&stored, &consumer).await.expect("an answer");
    assert_eq!(late, Saved::Moved);
}

/// Guards on revisions hold exactly until the key is changed or made anew.
pub async fn guards_tell_a_changed_key_from_one_made_anew(kv: Kv) {
    let key = format!("{}a", fresh_prefix());
    let first = set(&kv, &key, "1").await;
    let second = set(&kv, &key, "2").await;
    let holds = async |guard: Guard| {
        let txn = Txn { guards: vec![guard], ops: vec![put(&format!("{key}-other"), "x")] };
        matches!(kv.commit(&txn).await, Ok(Outcome::Done { .. }))
    };
    assert!(holds(Guard::Created(key.clone(), first)).await);
    assert!(holds(Guard::Unmoved(key.clone(), second)).await);
    assert!(!holds(Guard::Unmoved(key.clone(), first)).await);
    assert!(!holds(Guard::Created(key.clone(), second)).await);
    assert!(!holds(Guard::Created(format!("{key}-absent"), first)).await);
}

/// Pages of a range show one revision, whatever is written between them.
pub async fn pages_show_one_revision(kv: Kv) {
    let prefix = fresh_prefix();
    for chunk in (0..PAGE + 10).collect::<Vec<_>>().chunks(100) {
        let ops = chunk.iter().map(|i| put(&format!("{prefix}{i:06}"), "old")).collect();
        let made = kv.commit(&Txn { guards: Vec::new(), ops }).await;
        assert!(matches!(made, Ok(Outcome::Done { .. })), "{made:?}");
    }
    let first = kv.range(&prefix, None, 0).await.expect("a page");
    assert_eq!((first.entries.len(), first.more), (PAGE, true));
    set(&kv, &format!("{prefix}{:06}", PAGE + 5), "new").await;
    set(&kv, &format!("{prefix}zzz"), "new").await;
    let last = first.entries.last().map(|entry| entry.key.clone());
    let second = kv.range(&prefix, last.as_deref(), first.revision).await.expect("a page");
    assert_eq!((second.entries.len(), second.more), (10, false));
    assert!(second.entries.iter().all(|entry| entry.value == b"old"));
}

/// A watch shows every change from its revision on, in order, and no other keys.
pub async fn a_watch_shows_changes_from_its_revision_on(kv: Kv) {
    let prefix = fresh_prefix();
    let key = format!("{prefix}a");
    let start = set(&kv, &key, "1").await;
    set(&kv, &format!("/elsewhere{prefix}"), "x").await;
    set(&kv, &key, "2").await;
    let mut watch = kv.watch(&prefix, start).await.expect("a watch");
    let delete = Txn { guards: Vec::new(), ops: vec![Op::Delete(key.clone())] };
    kv.commit(&delete).await.expect("a delete");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let batch = timeout(SOON, watch.next()).await.expect("no hang").expect("no break");
        seen.extend(batch.events);
    }
    let values: Vec<_> = seen
        .iter()
        .map(|event| match event {
            Event::Put(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            Event::Delete { key: gone, .. } => {
                assert_eq!(gone, &key);
                "gone".to_owned()
            }
        })
        .collect();
    assert_eq!(values, ["1", "2", "gone"]);
}

/// A watch from a revision that was compacted says so, rather than staying silent.
pub async fn a_watch_from_a_compacted_revision_says_so(kv: Kv, compact: impl AsyncFnOnce(i64)) {
    let prefix = fresh_prefix();
    let key = format!("{prefix}a");
    let old = set(&kv, &key, "1").await;
    set(&kv, &key, "2").await;
    let now = set(&kv, &key, "3").await;
    compact(now).await;
    let outcome = match kv.watch(&prefix, old).await {
        Ok(mut watch) => timeout(SOON, watch.next()).await.expect("no hang").map(|_| ()),
        Err(error) => Err(error),
    };
    assert_eq!(outcome, Err(KvError::Compacted));
    let page = kv.range(&prefix, None, old).await.map(|page| page.revision);
    assert_eq!(page, Err(KvError::Compacted));
}

/// A lease that is not renewed takes its keys with it; one that is renewed does not end.
pub async fn keys_end_with_their_lease(kv: Kv) {
    let prefix = fresh_prefix();
    let lease = kv.grant(Duration::from_secs(2)).await.expect("a lease");
    let kept = kv.grant(Duration::from_secs(60)).await.expect("a lease");
    let bound = |name: &str, lease| Op::Put(format!("{prefix}{name}"), b"x".to_vec(), Some(lease));
    let ops = vec![bound("short", lease), bound("long", kept)];
    let done = kv.commit(&Txn { guards: Vec::new(), ops }).await;
    let Ok(Outcome::Done { revision }) = done else { panic!("{done:?}") };
    let mut renewer = kv.renewer(kept).await.expect("it lives");
    assert!(renewer.renew().await.expect("it lives") >= revision);
    let mut watch = kv.watch(&prefix, revision + 1).await.expect("a watch");
    let batch = timeout(SOON, watch.next()).await.expect("no hang").expect("no break");
    let short = format!("{prefix}short");
    let ended = |event: &Event| matches!(event, Event::Delete { key, .. } if *key == short);
    assert!(batch.events.iter().all(ended) && batch.events.len() == 1, "{batch:?}");
    assert_eq!(kv.renewer(lease).await.map(|_| ()), Err(KvError::LeaseGone));
    kv.revoke(kept).await.expect("it can be ended");
    kv.revoke(kept).await.expect("ending it again is no error");
    assert_eq!(kv.get(&format!("{prefix}long")).await, Ok(None));
}

/// More than a transaction may hold is refused whole.
pub async fn too_large_a_transaction_is_refused(kv: Kv) {
    let prefix = fresh_prefix();
    let ops = (0..=crate::kv::MAX_TXN).map(|i| put(&format!("{prefix}{i}"), "x")).collect();
    let refused = kv.commit(&Txn { guards: Vec::new(), ops }).await;
    assert!(matches!(refused, Err(KvError::Refused(_))), "{refused:?}");
    assert_eq!(kv.get(&format!("{prefix}0")).await, Ok(None));
}

/// A name is given to one volume only, and the second asker is shown the first.
pub async fn a_name_is_taken_once(kv: Kv) {
    let store = fresh_store(&kv);
    let (first, second) = (a_volume("web"), a_volume("web"));
    let made = store.create_volume(&first).await.expect("it is free");
    assert!(matches!(made, Created::New(_)));
    let taken = store.create_volume(&second).await.expect("an answer");
    let Created::Taken(found) = taken else { panic!("the name was taken") };
    assert_eq!(found.value, first);
    let saved = store.withdraw_wish(&found).await.expect("an answer");
    assert!(matches!(saved, Saved::Done(_)));
    assert_eq!(store.volume(&first.name).await.expect("an answer"), None);
    let again = store.create_volume(&second).await.expect("it is free again");
    assert!(matches!(again, Created::New(_)));
}

/// A record that moved since it was read is not overwritten.
pub async fn a_moved_record_is_not_overwritten(kv: Kv) {
    let store = fresh_store(&kv);
    let volume = a_volume("web");
    let Created::New(read_at) = store.create_volume(&volume).await.expect("an answer") else {
        panic!("the name is free");
    };
    let change = Change { volume: volume.clone(), read_at };
    assert!(matches!(store.save_wish(&change).await.expect("an answer"), Saved::Done(_)));
    assert_eq!(store.save_wish(&change).await.expect("an answer"), Saved::Moved);
    let old = Stored { value: volume, revision: read_at };
    assert_eq!(store.forget_volume(&old).await.expect("an answer"), Saved::Moved);
}

/// One moved record among many does not hold up the others.
pub async fn one_moved_record_does_not_hold_up_the_others(kv: Kv) {
    let store = fresh_store(&kv);
    let mut changes = Vec::new();
    for i in 0..50 {
        let volume = a_volume(&format!("v{i}"));
        let Created::New(read_at) = store.create_volume(&volume).await.expect("an answer") else {
            panic!("the name is free");
        };
        changes.push(Change { volume, read_at });
    }
    changes[7].read_at -= 1;
    let saved = store.save_as_agent(&changes).await.expect("an answer");
    let moved: Vec<_> = (0..50).filter(|i| saved[*i] == Ok(Saved::Moved)).collect();
    assert_eq!(moved, [7]);
}

/// A record that is too large fails alone, with the reason.
pub async fn a_record_that_is_too_large_does_not_hold_up_the_others(kv: Kv) {
    let store = fresh_store(&kv);
    let mut changes = Vec::new();
    for i in 0..5 {
        let volume = a_volume(&format!("v{i}"));
        let Created::New(read_at) = store.create_volume(&volume).await.expect("an answer") else {
            panic!("the name is free");
        };
        changes.push(Change { volume, read_at });
    }
    let large = changes[2].volume.clone().troubled("x".repeat(70_000), 0);
    assert!(!crate::fits(&large) && crate::fits(&changes[2].volume));
    changes[2].volume = large;
    let saved = store.save_as_agent(&changes).await.expect("an answer");
    let why = saved[2].clone().expect_err("it is too large");
    assert!(why.contains("64 KiB"), "{why}");
    let written = saved.iter().filter(|one| matches!(one, Ok(Saved::Done(_)))).count();
    assert_eq!(written, 4);
}

/// One leads at a time; a deposed leader writes nothing.
pub async fn a_deposed_leader_writes_nothing(kv: Kv) {
    let store = fresh_store(&kv);
    let volume = a_volume("web");
    let Created::New(read_at) = store.create_volume(&volume).await.expect("an answer") else {
        panic!("the name is free");
    };
    let lease = async || kv.grant(Duration::from_secs(60)).await.expect("a lease");
    let (first, second) = (lease().await, lease().await);
    let old = store.campaign(first, "one").await.expect("an answer").expect("nobody leads");
    // As after a campaign whose answer was lost.
    assert_eq!(store.campaign(first, "one").await.expect("an answer"), Some(old.clone()));
    assert_eq!(store.campaign(second, "two").await.expect("an answer"), None);
    kv.revoke(first).await.expect("it can be ended");
    let new = store.campaign(second, "two").await.expect("an answer").expect("nobody leads");
    assert!(new.number() > old.number());
    let assigned = volume.clone().assign(NodeId([1; 16]), old.number()).expect("it is requested");
    let changes = [Change { volume: assigned, read_at }];
    let refused = store.save_as_leader(&old, &changes).await;
    assert!(matches!(refused, Err(StoreError::Deposed)), "{refused:?}");
    let found = store.volume(&volume.name).await.expect("an answer");
    assert_eq!(found, Some(Stored { value: volume, revision: read_at }));
    let saved = store.save_as_leader(&new, &changes).await.expect("it leads");
    assert!(matches!(saved[..], [Ok(Saved::Done(_))]));
}

/// The view shows what is written, sums over it, and everything again after it was read anew.
pub async fn the_view_follows_and_sums(kv: Kv, compact: impl AsyncFnOnce(i64)) {
    let store = fresh_store(&kv);
    let node = NodeId([5; 16]);
    let volume = a_volume("web");
    let Created::New(read_at) = store.create_volume(&volume).await.expect("an answer") else {
        panic!("the name is free");
    };
    let follower = Follower::start(&store, || 0);
    timeout(SOON, follower.reached(read_at)).await.expect("the view comes");
    assert_eq!(follower.read(|view| view.requested().count()), 1);
    let mut watch = follower.watch_volume(volume.id);
    let placed = volume.clone().assign(node, 1).expect("it is requested");
    let made = placed.made(SubvolumeUuid([9; 16]), true).expect("it is assigned");
    let change = Change { volume: made, read_at };
    let Saved::Done(revision) = store.save_wish(&change).await.expect("an answer") else {
        panic!("nobody else writes");
    };
    timeout(SOON, watch.changed()).await.expect("its watch wakes");
    timeout(SOON, follower.reached(revision)).await.expect("the view moves");
    let held = follower.read(|view| view.held_by(node));
    assert_eq!((held.reserved, held.volumes), (Bytes(GIB), 1));
    let used = BTreeMap::from([(volume.id, Bytes(77))]);
    store.save_usage(node, &BTreeMap::from([("0f".into(), used)])).await.expect("an answer");
    compact(revision).await;
    let again = Follower::start(&store, || 0);
    timeout(SOON, again.in_touch()).await.expect("the view comes");
    assert_eq!(again.read(|view| view.used(volume.id)), Some(Bytes(77)));
    assert_eq!(again.read(|view| view.held_by(node)), held);
}

/// A session has a lease, keeps it beyond its time, and ends it when it is closed.
pub async fn a_session_keeps_its_lease_and_ends_it_when_closed(kv: Kv) {
    let store = fresh_store(&kv);
    let session = Session::start(&store, SessionOptions { ttl: Duration::from_secs(2) });
    let lease = timeout(SOON, session.granted()).await.expect("etcd answers");
    let term = store.campaign(lease, "one").await.expect("an answer").expect("nobody leads");
    let lost = timeout(Duration::from_secs(5), session.lost(lease)).await;
    assert!(lost.is_err(), "it is renewed");
    assert_eq!(session.lease(), Some(lease));
    session.close().await;
    let other = kv.grant(Duration::from_secs(60)).await.expect("a lease");
    let next = store.campaign(other, "two").await.expect("an answer").expect("nobody leads");
    assert!(next.number() > term.number());
}

//! A real etcd passes the contract that the store in memory passes, and its client survives
//! any one of its servers going away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::etcd::Etcd;
use cobalt_integration::world::World;
use cobalt_store::kv::{Kv, Op, Outcome, Txn};
use cobalt_store::{EtcdOptions, Follower, contract};
use tokio::time::{Instant, timeout};

/// Longer than any one call may take.
const SOON: Duration = Duration::from_secs(15);

fn store_at(endpoints: &[&Etcd]) -> Kv {
    let endpoints = endpoints.iter().map(|etcd| etcd.url()).collect();
    let options = EtcdOptions { endpoints, ..EtcdOptions::default() };
    Kv::Etcd(cobalt_store::Etcd::new(options).unwrap())
}

fn put(key: &str) -> Txn {
    Txn { guards: Vec::new(), ops: vec![Op::Put(key.to_owned(), b"x".to_vec(), None)] }
}

macro_rules! passes {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let world = World::new();
                let etcd = Etcd::start(&world);
                contract::$name(store_at(&[&etcd])).await;
            }
        )*
    };
}

passes!(
    a_refused_transaction_changes_nothing_and_shows_why,
    a_range_is_vacant_only_without_any_key,
    a_volume_in_use_is_not_deleted,
    guards_tell_a_changed_key_from_one_made_anew,
    pages_show_one_revision,
    a_watch_shows_changes_from_its_revision_on,
    keys_end_with_their_lease,
    too_large_a_transaction_is_refused,
    a_name_is_taken_once,
    a_moved_record_is_not_overwritten,
    one_moved_record_does_not_hold_up_the_others,
    a_record_that_is_too_large_does_not_hold_up_the_others,
    a_deposed_leader_writes_nothing,
    a_session_keeps_its_lease_and_ends_it_when_closed,
);

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_compacted_revision_says_so() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let eye = etcd.eye();
    let compact = async move |_| eye.compact();
    contract::a_watch_from_a_compacted_revision_says_so(store_at(&[&etcd]), compact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_follows_and_sums() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let eye = etcd.eye();
    let compact = async move |_| eye.compact();
    contract::the_view_follows_and_sums(store_at(&[&etcd]), compact).await;
}

/// Two etcds with different contents stand for two servers of one: only which one answers
/// matters here.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_left_for_one_that_answers() {
    let world = World::new();
    let (mut first, second) = (Etcd::start(&world), Etcd::start_empty(&world));
    let kv = store_at(&[&first, &second]);
    assert!(matches!(kv.commit(&put("/a")).await, Ok(Outcome::Done { .. })));
    first.kill9();
    // The call that meets the dead server may fail; nothing after it does.
    let _ = kv.commit(&put("/b")).await;
    for _ in 0..50 {
        let started = Instant::now();
        assert!(matches!(kv.commit(&put("/c")).await, Ok(Outcome::Done { .. })));
        assert!(started.elapsed() < SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_endpoint_is_left_for_one_that_answers() {
    let world = World::new();
    let (first, second) = (Etcd::start(&world), Etcd::start_empty(&world));
    let kv = store_at(&[&first, &second]);
    assert!(matches!(kv.commit(&put("/a")).await, Ok(Outcome::Done { .. })));
    first.process.freeze();
    let met = timeout(SOON, kv.commit(&put("/b"))).await;
    assert!(met.is_ok(), "a frozen server must not hold a call for ever");
    let next = timeout(SOON, kv.commit(&put("/c"))).await;
    assert!(matches!(next, Ok(Ok(Outcome::Done { .. }))), "{next:?}");
    first.process.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_notices_a_frozen_server_and_follows_again_after_it() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let kv = store_at(&[&etcd]);
    let store = contract::fresh_store(&kv);
    let follower = Follower::start(&store, || 0);
    timeout(SOON, follower.in_touch()).await.unwrap();
    etcd.process.freeze();
    timeout(SOON, follower.out_of_touch()).await.expect("pings notice it");
    etcd.process.thaw();
    timeout(SOON * 2, follower.in_touch()).await.expect("it follows again");
    let volume = contract::a_volume("web");
    let created = store.create_volume(&volume).await.unwrap();
    let cobalt_store::Created::New(revision) = created else { panic!("{created:?}") };
    timeout(SOON, follower.reached(revision)).await.expect("the view moves");
}

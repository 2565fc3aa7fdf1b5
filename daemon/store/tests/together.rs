//! Writes that queue share a transaction, and each has the answer it would have had alone.

use std::time::Duration;

use cobalt_core::{Consumer, HostId};
use cobalt_store::kv::Kv;
use cobalt_store::{Change, Created, Deletion, Memory, Saved, Store, Stored, contract};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How many transactions are under way at once before others queue, or more.
const LINES: usize = 16;

fn fresh() -> (Memory, Store) {
    let memory = Memory::default();
    let store = contract::fresh_store(&Kv::Memory(memory.clone()));
    (memory, store)
}

/// Takes all lines to a store that is silent.
async fn block(store: &Store) -> Vec<JoinHandle<()>> {
    let blockers = (0..LINES).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let volume = contract::a_volume(&format!("blocker{i}"));
            store.create_volume(&volume).await.ok();
        })
    });
    let blockers = blockers.collect();
    sleep(Duration::from_millis(1)).await;
    blockers
}

/// Those who took the lines are gone: whoever queues has its turn.
async fn release(blockers: Vec<JoinHandle<()>>) {
    blockers.iter().for_each(JoinHandle::abort);
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_queue_share_one_transaction() {
    let (memory, store) = fresh();
    memory.set_silent(true);
    let blockers = block(&store).await;
    let volumes: Vec<_> = (0..20).map(|i| contract::a_volume(&format!("v{i}"))).collect();
    let queued: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let (store, volume) = (store.clone(), volume.clone());
            tokio::spawn(async move { store.create_volume(&volume).await })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    release(blockers).await;
    memory.set_silent(false);
    memory.lose_next_reply();
    let mut revisions = Vec::new();
    for created in queued {
        match created.await.expect("no fault").expect("it is tried again") {
            Created::New(revision) => revisions.push(revision),
            Created::Taken(found) => panic!("nobody took it before: {found:?}"),
        }
    }
    revisions.dedup();
    assert_eq!(revisions.len(), 1, "one transaction, and its lost reply was recognised");
    for volume in volumes {
        let stored = store.volume(&volume.name).await.expect("an answer").expect("it is there");
        assert_eq!((stored.value, stored.revision), (volume, revisions[0]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_among_them_holds_up_none_of_the_others() {
    let (memory, store) = fresh();
    let there = contract::a_volume("v3");
    store.create_volume(&there).await.expect("an answer");
    memory.set_silent(true);
    let blockers = block(&store).await;
    // Two of each name: only the first may be made.
    let queued: Vec<_> = (0..10)
        .map(|i| {
            let (store, volume) = (store.clone(), contract::a_volume(&format!("v{}", i % 5)));
            tokio::spawn(async move { (store.create_volume(&volume).await, volume) })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    release(blockers).await;
    memory.set_silent(false);
    let mut made = Vec::new();
    for created in queued {
        let (created, volume) = created.await.expect("no fault");
        match created.expect("an answer") {
            Created::New(_) => made.push(volume),
            Created::Taken(found) => {
                let first = made.iter().chain([&there]).find(|first| first.name == volume.name);
                assert_eq!(Some(&found.value), first);
            }
        }
    }
    assert_eq!(made.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_and_an_order_to_delete_still_exclude_each_other() {
    let (memory, store) = fresh();
    let volume = contract::a_volume("web");
    store.create_volume(&volume).await.expect("an answer");
    let stored = store.volume(&volume.name).await.expect("an answer").expect("it is there");
    memory.set_silent(true);
    let blockers = block(&store).await;
    let order = {
        let (store, stored) = (store.clone(), stored.clone());
        let change = Change { volume: stored.value, read_at: stored.revision };
        tokio::spawn(async move { store.order_deletion(&change).await })
    };
    let change = {
        let (store, Stored { value, revision }) = (store.clone(), stored.clone());
        let change = Change { volume: value, read_at: revision };
        tokio::spawn(async move { store.save_wish(&change).await })
    };
    let comes = {
        let (store, stored) = (store.clone(), stored.clone());
        let host = HostId([1; 16]);
        tokio::spawn(async move {
            let consumer = a_consumer(stored.value.id, host);
            store.register_consumer(&stored, &consumer).await
        })
    };
    sleep(Duration::from_millis(1)).await;
    release(blockers).await;
    memory.set_silent(false);
    let ordered =
        matches!(order.await.expect("no fault").expect("an answer"), Deletion::Ordered(_));
    let changed = matches!(change.await.expect("no fault").expect("an answer"), Saved::Done(_));
    let came = matches!(comes.await.expect("no fault").expect("an answer"), Saved::Done(_));
    assert!(!(ordered && came), "a volume in use was ordered to be deleted");
    assert!(!(ordered && changed), "one wrote over the other");
}

fn a_consumer(volume: cobalt_core::VolumeId, host: HostId) -> Consumer {
    Consumer {
        volume,
        host,
        hostname: "h1".into(),
        since_ms: 1,
        address: None,
        has: None,
        by: None,
    }
}

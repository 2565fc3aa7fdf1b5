//! The store in memory passes the contract that etcd passes in integration/.

use cobalt_store::kv::Kv;
use cobalt_store::{Memory, contract};

fn memory() -> (Kv, Memory) {
    let memory = Memory::default();
    (Kv::Memory(memory.clone()), memory)
}

macro_rules! passes {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                contract::$name(memory().0).await;
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

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_compacted_revision_says_so() {
    let (kv, memory) = memory();
    contract::a_watch_from_a_compacted_revision_says_so(kv, async |_| memory.compact()).await;
}

#[tokio::test(start_paused = true)]
async fn the_view_follows_and_sums() {
    let (kv, memory) = memory();
    contract::the_view_follows_and_sums(kv, async |_| memory.compact()).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_reply_was_lost_is_done_once_and_recognised() {
    let (kv, memory) = memory();
    let store = contract::fresh_store(&kv);
    let volume = contract::a_volume("web");
    memory.lose_next_reply();
    let created = store.create_volume(&volume).await.expect("it is tried again");
    assert!(matches!(created, cobalt_store::Created::New(_)), "{created:?}");
    let stored = store.volume(&volume.name).await.expect("an answer").expect("it is there");
    assert!(matches!(created, cobalt_store::Created::New(at) if at == stored.revision));
}

//! The fake pool keeps the contract of pools, and fails as tests of other rooms rely on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cobalt_core::{Bytes, MIB, NodeId, QuotaMode, SeenVolume, Step};
use cobalt_host::{FakePool, Fault, HostError, Pool, PoolFacts, contract};

const NODE: NodeId = NodeId([1; 16]);

#[test]
fn the_fake_pool_keeps_the_contract() {
    let pool = FakePool::new("c1", NODE);
    keeps_the_contract(&pool);
    let facts = PoolFacts { quota: QuotaMode::Off, ..pool.facts().clone() };
    keeps_the_contract(&FakePool::with_facts(facts));
}

#[test]
fn the_fake_pool_loses_what_was_not_settled() {
    let pool = FakePool::new("c1", NODE);
    let kept = contract::make(&pool, Bytes(MIB));
    let lost = contract::assigned(&pool, Bytes(MIB));
    pool.take(&lost, &Step::Create).unwrap();
    pool.take(&kept, &Step::Limit(Bytes(2 * MIB))).unwrap();
    let before = pool.look(lost.id).unwrap();
    pool.power_loss();
    assert_ne!(before, SeenVolume::default());
    assert_eq!(pool.look(lost.id).unwrap(), SeenVolume::default());
    assert_eq!(pool.look(kept.id).unwrap().subvolume.unwrap().limit, Some(Bytes(MIB)));
}

#[test]
fn the_fake_pool_fails_once_before_or_after_a_step() {
    let pool = FakePool::new("c1", NODE);
    let volume = contract::assigned(&pool, Bytes(MIB));
    pool.fail_next(Fault::Before);
    assert!(pool.take(&volume, &Step::Create).is_err());
    assert_eq!(pool.look(volume.id).unwrap(), SeenVolume::default());
    pool.fail_next(Fault::After);
    assert!(pool.take(&volume, &Step::Create).is_err());
    assert_ne!(pool.look(volume.id).unwrap(), SeenVolume::default());
    pool.take(&volume, &Step::Create).unwrap();
}

#[test]
fn the_fake_pool_is_unusable_until_it_is_not() {
    let pool = FakePool::new("c1", NODE);
    let volume = contract::make(&pool, Bytes(MIB));
    pool.set_unusable(Some("it is not mounted"));
    assert!(matches!(pool.look(volume.id), Err(HostError::WrongPool(_))));
    assert!(matches!(pool.survey(), Err(HostError::WrongPool(_))));
    assert!(matches!(pool.take(&volume, &Step::Settle), Err(HostError::WrongPool(_))));
    pool.set_unusable(None);
    assert!(pool.look(volume.id).is_ok());
}

/// Runs all of it, so that one broken rule does not hide another.
fn keeps_the_contract(pool: &dyn Pool) {
    let broken =
        |(_, rule): &contract::Rule| catch_unwind(AssertUnwindSafe(|| rule(pool))).is_err();
    let broken: Vec<&str> =
        contract::ALL.into_iter().filter(broken).map(|(name, _)| name).collect();
    assert_eq!(broken, Vec::<&str>::new(), "rules that do not hold");
}

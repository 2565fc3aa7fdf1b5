//! New volumes are offered before they become wishes on record, and what an offer comes to makes
//! no difference for who asked.

use std::sync::Arc;

use cobalt_core::{NodeId, Volume};
use cobalt_store::{Created, Store, Stored};
use cobaltd::http::ApiOptions;
use cobaltd::offers::{Answer, Offers, Taker};

use crate::world::World;

/// Takes offers as the leader does, and may keep what came of it to itself.
struct Taking {
    store: Store,
    tells: bool,
}

impl Taker for Taking {
    fn take(&self, volume: Volume) -> Answer<'_> {
        Box::pin(async move {
            let volume = volume.assign(NodeId([1; 16]), 1).unwrap();
            match self.store.create_volume(&volume).await.unwrap() {
                Created::New(revision) => self.tells.then_some(Stored { value: volume, revision }),
                Created::Taken(_) => None,
            }
        })
    }
}

/// A world with a node that serves, and where its API makes offers.
async fn world() -> (World, Offers) {
    let offers = Offers::default();
    let options = ApiOptions { offers: offers.clone(), ..ApiOptions::default() };
    let mut world = World::of(options).await;
    world.node(1, 100).await;
    world.play();
    (world, offers)
}

fn taking(world: &World, tells: bool) -> Arc<Taking> {
    Arc::new(Taking { store: world.store.clone(), tells })
}

#[tokio::test]
async fn an_offer_that_is_taken_up_needs_no_wish() {
    let (world, offers) = world().await;
    let _open = offers.open(taking(&world, true));
    let made = world.call("PUT", "/v1/volumes/web", "{}").await;
    assert_eq!(made.status, 202);
    assert_eq!(made.json()["placement"]["node"], "n1", "it has its place from the first");
    let ready = world.call("PUT", "/v1/volumes/other?wait=ready", "{}").await;
    assert_eq!((ready.status, ready.json()["phase"].as_str()), (201, Some("ready")));
    assert_eq!(world.call("PUT", "/v1/volumes/other?wait=ready", "{}").await.status, 200);
}

#[tokio::test]
async fn an_offer_of_which_nobody_knows_what_came_is_known_by_its_id() {
    let (world, offers) = world().await;
    let _open = offers.open(taking(&world, false));
    let made = world.call("PUT", "/v1/volumes/web?wait=ready", "{}").await;
    assert_eq!((made.status, made.json()["phase"].as_str()), (201, Some("ready")));
    assert_eq!(world.get("/v1/volumes").await.json()["volumes"].as_array().unwrap().len(), 1);
    let other = world.call("PUT", "/v1/volumes/web", r#"{"size":"2G"}"#).await;
    assert_eq!((other.status, other.code().as_str()), (409, "volume_differs"));
}

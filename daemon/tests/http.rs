//! The REST API as its callers see it: a real server on a unix socket and on loopback, over a
//! store in memory, with a small loop that plays Engine and Agent where volumes get ready.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "http/callbacks.rs"]
mod callbacks;
#[path = "http/crowd.rs"]
mod crowd;
#[path = "http/doors.rs"]
mod doors;
#[path = "http/events.rs"]
mod events;
#[path = "http/input.rs"]
mod input;
#[path = "http/lists.rs"]
mod lists;
#[path = "http/lives.rs"]
mod lives;
#[path = "http/lost.rs"]
mod lost;
#[path = "http/offers.rs"]
mod offers;
#[path = "http/slow.rs"]
mod slow;
#[path = "http/world.rs"]
mod world;

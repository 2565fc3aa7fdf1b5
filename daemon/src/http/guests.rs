//! Who is connected, and who has to go when there is no room: the one that has asked for nothing
//! for the longest time. So many idle connections, or half-sent requests, keep nobody out.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Guests {
    seats: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    next: u64,
    /// The longest idle one first.
    guests: BTreeMap<u64, Arc<Notify>>,
}

/// One connection. It is idle but while a [`Busy`] of it lives.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    leave: Arc<Notify>,
    /// Its place among the idle ones.
    place: Mutex<Option<u64>>,
    _seat: OwnedSemaphorePermit,
}

/// As long as it lives, its connection is not sent away.
#[derive(Debug)]
pub(super) struct Busy(Arc<Guest>);

impl Guests {
    /// Room for `seats` connections.
    pub(super) fn new(seats: usize) -> Arc<Guests> {
        Arc::new(Guests { seats: Arc::new(Semaphore::new(seats)), idle: Mutex::default() })
    }

    /// Waits until there is a seat. Cancelling loses nothing.
    pub(super) async fn seat(&self) -> io::Result<OwnedSemaphorePermit> {
        Arc::clone(&self.seats).acquire_owned().await.map_err(io::Error::other)
    }

    /// Takes in a connection that has asked for nothing yet.
    pub(super) fn arrive(self: &Arc<Guests>, seat: OwnedSemaphorePermit) -> Arc<Guest> {
        let (guests, leave) = (Arc::clone(self), Arc::default());
        let guest = Arc::new(Guest { guests, leave, place: Mutex::default(), _seat: seat });
        guest.rest();
        guest
    }

    /// Keeps a seat free for who comes next.
    fn make_room(&self) {
        if self.seats.available_permits() == 0 {
            self.send_one_away();
        }
    }

    /// Sends the longest idle one away, if there is one.
    pub(super) fn send_one_away(&self) {
        let longest = lock(&self.idle).guests.pop_first();
        if let Some((_, leave)) = longest {
            leave.notify_one();
        }
    }
}

impl Guest {
    /// Ends when the connection has to go.
    pub(super) async fn sent_away(&self) {
        self.leave.notified().await;
    }

    /// A request of it is being answered.
    pub(super) fn busy(self: &Arc<Guest>) -> Busy {
        self.rise();
        Busy(Arc::clone(self))
    }

    fn rest(&self) {
        let mut idle = lock(&self.guests.idle);
        let place = idle.next;
        idle.next += 1;
        idle.guests.insert(place, Arc::clone(&self.leave));
        *lock(&self.place) = Some(place);
        drop(idle);
        self.guests.make_room();
    }

    fn rise(&self) {
        let place = lock(&self.place).take();
        if let Some(place) = place {
            lock(&self.guests.idle).guests.remove(&place);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.rise();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The word that the program shall end, given once and heard everywhere.

use std::sync::Arc;

use tokio::sync::watch;

/// Gives the word. It is also given when this is dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Hears the word. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Receiver<bool>>);

/// A pair of both.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(Arc::new(receiver)))
}

impl Stopper {
    /// Gives the word.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits for the word.
    pub async fn requested(&self) {
        let mut receiver = watch::Receiver::clone(&self.0);
        // An error says that the giver is gone, which is the word as well.
        let _ = receiver.wait_for(|stop| *stop).await;
    }
}

//! Keeps the view fresh. The one place that decides when the API is read as a whole, so that a
//! stream of events can take its place.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use cobalt_api::client::{Client, ClientError, VolumeQuery};
use tokio::time::Instant;

use crate::said;
use crate::view::View;

/// Volumes on one page: about 400 KB of JSON.
const PAGE: u32 = 500;
/// The limit of one page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause while the API is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// At most one part in so many of the time is spent reading, however many volumes there are.
const REST: u32 = 20;

/// Reads all volumes again and again, for ever: every `pause` while the API answers, ever more
/// seldom while it does not.
pub async fn follow(client: Client, view: Arc<View>, pause: Duration) {
    let mut wait = pause;
    loop {
        let start = Instant::now();
        match read_all(&client, &view).await {
            Ok(()) => {
                view.api_answered();
                wait = pause.max(start.elapsed() * REST);
                tokio::time::sleep(jitter(wait)).await;
            }
            Err(error) => {
                view.api_failed(&said::line(&error));
                tokio::select! {
                    () = tokio::time::sleep(jitter(wait)) => wait = (wait * 2).min(LONGEST_PAUSE),
                    () = view.answered_again() => wait = pause,
                }
            }
        }
    }
}

async fn read_all(client: &Client, view: &View) -> Result<(), ClientError> {
    let mut pass = view.begin_pass();
    let mut query = VolumeQuery { limit: Some(PAGE), ..VolumeQuery::default() };
    loop {
        let mut page = client.volumes(&query, PAGE_LIMIT).await?;
        query.cursor = page.next.take();
        view.take_page(&mut pass, page);
        if query.cursor.is_none() {
            break;
        }
    }
    view.end_pass(pass);
    Ok(())
}

/// Up to a quarter more or less, so that many hosts do not ask in step.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.75 + random as f64 / 1024.0)
}

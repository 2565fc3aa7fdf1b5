//! Shows on a terminal how far a volume is while a call waits for it. Elsewhere it shows nothing,
//! and it never changes what comes of the call.

use std::io::{self, IsTerminal};
use std::time::Duration;

use cobalt_api::client::Client;
use cobalt_api::wire::{Phase, Volume};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::plain;

/// Before this nobody has begun to wait.
const PATIENCE: Duration = Duration::from_millis(400);
/// Between two looks at the volume.
const PAUSE: Duration = Duration::from_millis(500);
/// The limit of one look.
const LOOK: Duration = Duration::from_secs(5);
/// Between two turns of the spinner.
const TURN: Duration = Duration::from_millis(100);

/// Runs `call` to its end; meanwhile a line on the terminal says what `name` waits for.
pub(super) async fn show<T>(client: &Client, name: &str, call: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return call.await;
    }
    tokio::select! {
        biased;
        outcome = call => outcome,
        never = draw(client, name) => match never {},
    }
}

/// Draws until it is dropped, which takes the line away.
async fn draw(client: &Client, name: &str) -> std::convert::Infallible {
    tokio::time::sleep(PATIENCE).await;
    let line = Line(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        line.0.set_style(style);
    }
    line.0.set_message(plain(name));
    line.0.enable_steady_tick(TURN);
    loop {
        // One that cannot be seen for a moment is shown as it was.
        if let Ok(volume) = client.volume(name, LOOK).await {
            line.0.set_message(words(&volume));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Cleared when it is dropped.
struct Line(ProgressBar);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn words(volume: &Volume) -> String {
    let doing = match volume.phase {
        Phase::Requested => "waits for a node".to_owned(),
        Phase::Assigned => match &volume.placement {
            Some(placement) => format!("is being made on {}", placement.node),
            None => "is being made".to_owned(),
        },
        Phase::Ready => "is being changed".to_owned(),
        Phase::Deleting => "is being deleted".to_owned(),
    };
    let reason = volume.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    plain(&format!("{} {doing}{reason}", volume.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_waited_for_and_why() {
        let mut volume: Volume = serde_json::from_value(serde_json::json!({
            "id": "1f", "name": "web", "size_bytes": 1, "labels": {}, "constraints": [],
            "compression": "none", "nocow": false, "uid": 0, "gid": 0, "mode": "0755",
            "phase": "requested", "reason": "no node is online", "generation": 1,
            "applied_generation": 0, "epoch": 1, "revision": 1, "created_at": "2024-05-03T07:00:00Z"
        }))
        .expect("a volume");
        assert_eq!(words(&volume), "web waits for a node: no node is online");
        (volume.phase, volume.reason) = (Phase::Deleting, None);
        assert_eq!(words(&volume), "web is being deleted");
    }
}

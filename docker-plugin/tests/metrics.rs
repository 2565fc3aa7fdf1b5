//! What docs/metrics.md says of the plugin is served, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cobalt_docker_plugin::driver::Refusal;
use cobalt_docker_plugin::metrics::Meter;
use cobalt_docker_plugin::mounts::Mounts;
use cobalt_docker_plugin::protocol::{Call, Reply};
use cobalt_docker_plugin::view::View;

#[test]
fn the_list_of_metrics_is_what_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> =
        names.filter(|name| name.starts_with("cobalt_plugin_")).collect();

    let folder = tempfile::tempdir().unwrap();
    let view = Arc::new(View::load(folder.path().join("view.json")));
    let mounts = Arc::new(Mounts::open(folder.path()).unwrap());
    let meter = Meter::default();
    let said = Err(Refusal::Said("no such volume".to_owned()));
    meter.answered(Call::Get, &said, Duration::from_millis(1));
    meter.answered(Call::List, &Ok(Reply::Done), Duration::from_millis(1));
    let text = cobalt_metrics::text(&meter.registry(&view, &mounts));
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let served: BTreeSet<&str> = kinds.filter(|name| name.starts_with("cobalt_plugin_")).collect();
    assert_eq!(served, documented, "left: served, right: docs/metrics.md");
    for line in [
        "cobalt_plugin_call_duration_seconds_count{call=\"get\",outcome=\"refused\"} 1",
        "cobalt_plugin_call_duration_seconds_count{call=\"list\",outcome=\"done\"} 1",
        "cobalt_plugin_api_up 1.0",
        "cobalt_plugin_mounts 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

//! What docs/metrics.md says is served, is served, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cobalt_core::{Bytes, NodeId, Step};
use cobalt_store::kv::Kv;
use cobalt_store::{Etcd, EtcdOptions, Follower, Memory, Session, SessionOptions, Store};
use cobaltd::metrics::{Meters, Parts, PoolFigures};

/// The names in the first column of the tables that are about the daemon.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.filter(|name| !name.starts_with("cobalt_plugin_")).map(str::to_owned).collect()
}

/// The names that are served. A family without members shows none, so each gets one.
fn served(text: &str) -> BTreeSet<String> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ').unwrap() {
        (name, "counter") => format!("{name}_total"),
        (name, "info") => format!("{name}_info"),
        (name, _) => name.to_owned(),
    };
    kinds.map(name).collect()
}

async fn all_parts(meters: &Meters, each_volume: bool) -> String {
    let options = EtcdOptions {
        endpoints: vec!["http://127.0.0.1:1".to_owned()],
        observer: Some(meters.store.observer()),
        ..EtcdOptions::default()
    };
    let cluster = "default".parse().unwrap();
    let nowhere = Store::new(Kv::Etcd(Etcd::new(options).unwrap()), &cluster);
    nowhere.probe_endpoints().await;
    let store = Store::new(Kv::Memory(Memory::default()), &cluster);
    let follower = Follower::start(&store, || 0);
    let session = Session::start(&store, SessionOptions { ttl: Duration::from_secs(10) });
    session.granted().await;
    follower.in_touch().await;
    let parts = Parts { api: true, engine: true, agent: true, each_volume };
    let registry = meters.registry(parts, &nowhere, &follower, &session);
    cobalt_metrics::text(&registry)
}

fn note_everything(meters: &Meters) {
    drop(meters.api.began());
    meters.api.answered(Some("/v1/volumes/{name}"), "GET", 200, Duration::from_millis(3));
    meters.agent.took(&Step::Create, Duration::from_millis(3), false);
    meters.agent.surveyed(Duration::from_millis(3));
    meters.agent.found(PoolFigures {
        node: NodeId([7; 16]),
        usable: true,
        capacity: Bytes(100),
        used: Bytes(10),
        trash: Bytes(1),
        orphans: 2,
    });
}

#[tokio::test]
async fn the_list_of_metrics_is_what_is_served() {
    let meters = Meters::default();
    note_everything(&meters);
    let text = all_parts(&meters, true).await;
    assert_eq!(served(&text), documented(), "left: served, right: docs/metrics.md");
}

#[tokio::test]
async fn what_was_noted_is_shown_under_few_labels() {
    let meters = Meters::default();
    note_everything(&meters);
    meters.api.answered(None, "BREW", 405, Duration::ZERO);
    meters.engine.leads(Some(41));
    meters.engine.decided("placed");
    meters.agent.work(5, 1);
    let _running = [meters.agent.running(), meters.agent.running()];
    let text = all_parts(&meters, false).await;
    for line in [
        "cobalt_api_request_duration_seconds_count{route=\"/v1/volumes/{name}\",method=\"GET\",status=\"200\"} 1",
        "cobalt_api_request_duration_seconds_count{route=\"none\",method=\"other\",status=\"405\"} 1",
        "cobalt_api_requests_running 0",
        "cobalt_engine_leading 1.0",
        "cobalt_engine_term 41.0",
        "cobalt_engine_decisions_total{kind=\"placed\"} 1",
        "cobalt_engine_decisions_total{kind=\"waits\"} 0",
        "cobalt_agent_errands{state=\"running\"} 2.0",
        "cobalt_agent_errands{state=\"queued\"} 3.0",
        "cobalt_agent_errands{state=\"failed\"} 1.0",
        "cobalt_agent_step_errors_total{step=\"create\"} 1",
        "cobalt_etcd_endpoint_up{endpoint=\"http://127.0.0.1:1\"} 0.0",
        "cobalt_etcd_endpoint_active{endpoint=\"http://127.0.0.1:1\"} 1.0",
        "cobalt_etcd_call_errors_total{endpoint=\"http://127.0.0.1:1\",operation=\"status\",error=\"silent\"} 1",
        "cobalt_alarms{kind=\"leader\"} 1.0",
        "cobalt_volumes{phase=\"ready\"} 0.0",
        "cobalt_view_age_seconds 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("cobalt_volume_size_bytes"), "single volumes were left out");
    let left = text.lines().find_map(|line| line.strip_prefix("cobalt_lease_left_seconds "));
    assert!((1.0..=9.0).contains(&left.unwrap().parse::<f64>().unwrap()));
}

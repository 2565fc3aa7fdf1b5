//! What an operator sees of a real daemon: its numbers, its log, what is wrong.

use cobalt_integration::cobalt::Setup;
use cobalt_integration::etcd::free_port;
use cobalt_integration::http::{Address, request};
use cobalt_integration::world::World;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn text(address: &Address, path: &str) -> String {
    request(address, "GET", path, &[], b"", SOON).expect("an answer").text()
}

#[test]
fn a_volume_is_seen_in_the_numbers_in_the_log_and_in_the_status() {
    let world = World::new();
    let port = free_port();
    let metrics = format!("127.0.0.1:{port}");
    let flags = ["--metrics-listen", &metrics, "--log-format", "json"];
    let daemon = Setup::standalone(&world).with(&flags).start(&world);
    let web = daemon.create("web", "100M");
    let wish = serde_json::json!({ "size": "900T" });
    daemon.call("PUT", "/v1/volumes/archive", &wish);

    let id = web["id"].as_str().expect("it has an id");
    let size = format!("cobalt_volume_size_bytes{{id=\"{id}\",volume=\"web\"}} 104857600.0");
    cobalt_integration::wait::poll(SOON * 4, || {
        text(&Address::Tcp(port), "/metrics").contains(&size).then_some(())
    })
    .expect("the volume is shown after a survey");
    for address in [Address::Tcp(port), daemon.socket()] {
        let shown = text(&address, "/metrics");
        for line in [
            &size,
            "cobalt_engine_leading 1.0",
            "cobalt_engine_decisions_total{kind=\"placed\"} 1",
            "cobalt_agent_step_duration_seconds_count{step=\"create\"} 1",
            "cobalt_volumes{phase=\"ready\"} 1.0",
            "cobalt_pool_usable{node=",
            "cobalt_etcd_endpoint_up{endpoint=\"http://127.0.0.1:",
            "cobalt_api_request_duration_seconds_count{route=\"/v1/volumes/{name}\",method=\"PUT\",\
             status=\"201\"} 1",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
    }
    let open = request(&daemon.tcp(), "GET", "/metrics", &[], b"", SOON).expect("an answer");
    assert_eq!(open.status, 401, "on TCP the API's numbers need a token");

    let status = daemon.call("GET", "/v1/status", &Value::Null).json();
    assert_eq!(status["etcd"][0]["healthy"], true, "{status}");
    assert_eq!(status["volumes_in_need"][0]["name"], "archive", "{status}");
    let screen = daemon.cobalt(&["status"]);
    let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
    assert!(screen.contains("archive") && screen.contains("no node has 900 TiB"), "{screen}");

    let log = daemon.process.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    for message in ["wish stored", "volume placed", "volume ready"] {
        let said = |line: &&Value| {
            let fields = &line["fields"];
            fields["message"] == message && fields["volume"] == "web" && fields["id"] == id
        };
        assert_eq!(lines.iter().filter(said).count(), 1, "one line for \"{message}\": {log}");
    }
}

//! Several hosts and one volume: what is mounted anywhere is not deleted from anywhere. The hosts
//! are plugins on one machine, each with a state folder of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster, with_cluster_of};
use cobalt_integration::docker::{Plugin, PluginSetup};
use cobalt_integration::wait::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn second(c: &Cluster) -> Plugin {
    let setup = PluginSetup::new(&c.world, &c.daemon).named("second");
    setup.on("/run/second.sock").start(&c.world)
}

fn delete(c: &Cluster) -> (u16, Value) {
    let reply = c.daemon.call("DELETE", "/v1/volumes/web", &Value::Null);
    (reply.status, reply.json())
}

#[test]
fn a_volume_that_one_host_uses_is_deleted_from_nowhere() {
    with_cluster(|c| {
        let other = second(c);
        c.dockerd.create("web");
        c.dockerd.keep_running("user", "web");
        let host = c.daemon.consumers("web");
        assert_eq!(host.len(), 1);
        let (status, problem) = delete(c);
        assert_eq!((status, problem["code"].as_str()), (409, Some("in_use")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(&host[0]), "{problem}");
        let said = other.must_not("Remove", r#"{"Name":"web"}"#);
        assert!(said.contains("is mounted on") && said.contains(&host[0]), "{said}");
        // Both use it; one stops.
        other.must("Mount", &json!({"Name": "web", "ID": "b"}));
        assert_eq!(c.daemon.consumers("web").len(), 2);
        c.dockerd.must(&["rm", "-f", "user"]);
        eventually("one is left", SOON, || c.daemon.consumers("web").len() == 1);
        let said = c.dockerd.must_not(&["volume", "rm", "web"]);
        assert!(said.contains("is mounted on"), "{said}");
        other.must("Unmount", &json!({"Name": "web", "ID": "b"}));
        c.dockerd.must(&["volume", "rm", "web"]);
        assert_eq!(c.daemon.volume("web"), None);
    });
}

#[test]
fn what_was_mounted_and_unmounted_while_the_api_was_away_is_told_later() {
    with_cluster_of(
        "{}",
        |plugin| plugin.with(&["--reconcile-secs", "2"]),
        |c| {
            c.dockerd.create("web");
            c.daemon.process.kill9();
            c.dockerd.keep_running("user", "web");
            c.daemon.start_again("");
            c.daemon.wait_until_ready();
            eventually("it is noted", SOON, || c.daemon.consumers("web").len() == 1);
            assert_eq!(delete(c).0, 409);
            // The note outlives the plugin, and so does who made it.
            c.plugin.process.kill9();
            assert_eq!(delete(c).0, 409);
            c.plugin.start_again();
            c.daemon.process.kill9();
            c.dockerd.must(&["rm", "-f", "user"]);
            c.daemon.start_again("");
            c.daemon.wait_until_ready();
            eventually("it is released", SOON, || c.daemon.consumers("web").is_empty());
            c.dockerd.must(&["volume", "rm", "web"]);
        },
    );
}

#[test]
fn an_operator_can_release_a_host_that_is_gone_for_good() {
    with_cluster(|c| {
        c.dockerd.create("web");
        let mut other = second(c);
        other.must("Mount", &json!({"Name": "web", "ID": "b"}));
        other.process.kill9();
        assert_eq!(delete(c).0, 409);
        let volume = c.daemon.volume("web").unwrap();
        let host = volume["consumers"][0]["host_id"].as_str().unwrap();
        let path = format!("/v1/volumes/web/consumers/{host}");
        assert_eq!(c.daemon.call("DELETE", &path, &Value::Null).status, 204);
        assert_eq!(delete(c).0, 202);
    });
}

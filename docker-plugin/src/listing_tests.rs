//! Tests of the kept answer to List: every change is in the next one.

use cobalt_api::wire;
use serde_json::{Value, json};

use super::*;

struct Host {
    _folder: tempfile::TempDir,
    view: View,
    mounts: Mounts,
    listing: Listing,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().expect("a folder");
        let view = View::load(folder.path().join("view.json"));
        let mounts = Mounts::open(folder.path()).expect("a folder for mounts");
        Host { _folder: folder, view, mounts, listing: Listing::default() }
    }

    fn body(&self) -> Bytes {
        self.listing.body(&self.view, &self.mounts)
    }

    fn listed(&self) -> Value {
        let mut json: Value = serde_json::from_slice(&self.body()).expect("JSON");
        json["Volumes"].take()
    }

    /// The end of `path` is where a volume with this id is mounted.
    fn mounted(&self, name: &str, id: &str) -> Value {
        let (_, here) = self.mounts.here_in_turn();
        let path = here[name].path.as_deref().expect("mounted");
        assert!(path.ends_with(&format!("/mounts/{id}")), "{path}");
        json!({"Name": name, "Mountpoint": path})
    }

    fn pass(&self, volumes: Vec<wire::Volume>) {
        let mut pass = self.view.begin_pass();
        self.view.take_page(&mut pass, wire::VolumePage { volumes, next: None, age_secs: 0 });
        self.view.end_pass(pass);
    }
}

fn volume(name: &str, phase: &str, used_bytes: u64) -> wire::Volume {
    serde_json::from_value(json!({
        "id": name.repeat(2), "name": name, "size_bytes": 1, "used_bytes": used_bytes,
        "size_enforced": true, "labels": {}, "constraints": [], "compression": "none",
        "nocow": false, "uid": 0, "gid": 0, "mode": "0755", "phase": phase, "reason": null,
        "placement": null, "generation": 1, "applied_generation": 1, "epoch": 1, "revision": 1,
        "created_at": "2026-01-01T00:00:00Z"
    }))
    .expect("a volume")
}

#[test]
fn a_volume_made_or_removed_here_is_in_the_next_list() {
    let host = Host::new();
    assert_eq!(host.listed(), json!([]));
    host.view.put(volume("web", "ready", 0));
    assert_eq!(host.listed(), json!([{"Name": "web"}]));
    host.view.put(volume("app", "requested", 0));
    assert_eq!(host.listed(), json!([{"Name": "app"}, {"Name": "web"}]));
    host.view.forget("web");
    assert_eq!(host.listed(), json!([{"Name": "app"}]));
    host.view.put(volume("app", "deleting", 0));
    assert_eq!(host.listed(), json!([]));
}

#[test]
fn a_volume_made_or_removed_elsewhere_is_in_the_first_list_after_it_was_read() {
    let host = Host::new();
    host.pass(vec![volume("a", "ready", 0), volume("b", "ready", 0)]);
    assert_eq!(host.listed(), json!([{"Name": "a"}, {"Name": "b"}]));
    host.pass(vec![volume("b", "deleting", 0), volume("c", "ready", 0)]);
    assert_eq!(host.listed(), json!([{"Name": "c"}]));
    host.pass(vec![]);
    assert_eq!(host.listed(), json!([]));
}

#[test]
fn a_mount_and_its_end_are_in_the_next_list() {
    let host = Host::new();
    host.view.put(volume("web", "ready", 0));
    assert_eq!(host.listed(), json!([{"Name": "web"}]));
    host.mounts.pretend_mounted("webweb", "web");
    assert_eq!(host.listed(), json!([host.mounted("web", "webweb")]));
    // It stays as long as it is mounted, whatever becomes of its record.
    host.view.forget("web");
    assert_eq!(host.listed(), json!([host.mounted("web", "webweb")]));
    host.mounts.pretend_gone("webweb");
    assert_eq!(host.listed(), json!([]));
}

#[test]
fn a_volume_on_its_way_out_is_listed_while_it_is_mounted_here() {
    let host = Host::new();
    host.view.put(volume("web", "deleting", 0));
    host.mounts.pretend_mounted("webweb", "web");
    assert_eq!(host.listed(), json!([host.mounted("web", "webweb")]));
    host.mounts.pretend_gone("webweb");
    assert_eq!(host.listed(), json!([]));
}

#[test]
fn what_is_not_in_the_answer_does_not_have_it_made_anew() {
    let host = Host::new();
    host.pass(vec![volume("a", "requested", 0)]);
    let before = host.body();
    host.pass(vec![volume("a", "ready", 5)]);
    host.view.put(volume("a", "ready", 6));
    host.view.forget("b");
    assert_eq!(host.body().as_ptr(), before.as_ptr());
}

//! Tests of the view.

use super::*;

fn volume(name: &str, id: &str, revision: i64) -> wire::Volume {
    serde_json::from_value(serde_json::json!({
        "id": id, "name": name, "size_bytes": 1 << 30, "used_bytes": 5, "size_enforced": true,
        "labels": {"app": "shop"}, "constraints": [], "compression": "none", "nocow": false,
        "uid": 0, "gid": 0, "mode": "0755", "phase": "ready", "reason": null,
        "placement": {"node": "n1", "node_id": "a", "path": "/p", "subvolume": null},
        "generation": 1, "applied_generation": 1, "epoch": 1, "revision": revision,
        "created_at": "2026-01-01T00:00:00Z"
    }))
    .expect("a volume")
}

fn page(volumes: &[wire::Volume], age_secs: u64) -> wire::VolumePage {
    wire::VolumePage { volumes: volumes.to_vec(), next: None, age_secs }
}

fn view() -> (tempfile::TempDir, View) {
    let folder = tempfile::tempdir().expect("a folder");
    let view = View::load(folder.path().join("view.json"));
    (folder, view)
}

fn names(view: &View) -> Vec<String> {
    let mut names = Vec::new();
    view.each(|name, _| names.push(name.to_owned()));
    names
}

#[test]
fn a_saved_view_is_there_after_a_restart() {
    let (folder, view) = view();
    let known = view.put(volume("web", "1", 1));
    view.save().expect("saved");
    let again = View::load(folder.path().join("view.json"));
    let kept = Known { fresh: false, ..Known::clone(&known) };
    assert_eq!(again.get("web").as_deref(), Some(&kept), "and it was not said in this run");
}

#[test]
fn what_an_api_out_of_touch_says_replaces_nothing_that_one_in_touch_said() {
    let (_folder, view) = view();
    view.put(volume("web", "1", 7));
    let mut old = volume("web", "1", 7);
    old.used_bytes = Some(99);
    let mut pass = view.begin_pass();
    view.take_page(&mut pass, page(&[old.clone(), volume("new", "2", 3)], 600));
    view.end_pass(pass);
    assert_eq!(view.get("web").map(|known| known.used_bytes), Some(Some(5)));
    assert!(view.get("new").is_some_and(|known| !known.fresh));
    let mut pass = view.begin_pass();
    view.take_page(&mut pass, page(&[old], 0));
    assert_eq!(view.get("web").map(|known| known.used_bytes), Some(Some(99)));
}

#[test]
fn a_damaged_file_is_an_empty_view() {
    let (folder, view) = view();
    view.put(volume("web", "1", 1));
    view.save().expect("saved");
    let file = folder.path().join("view.json");
    let text = std::fs::read(&file).expect("read");
    std::fs::write(&file, &text[..text.len() / 2]).expect("truncate");
    assert_eq!(names(&View::load(file)), [""; 0]);
}

#[test]
fn a_name_missing_from_a_complete_list_is_gone() {
    let (_folder, view) = view();
    view.put(volume("old", "1", 1));
    let mut pass = view.begin_pass();
    view.take_page(&mut pass, page(&[volume("web", "2", 2)], 0));
    view.end_pass(pass);
    assert_eq!(names(&view), ["web"]);
}

#[test]
fn a_list_read_from_an_old_view_removes_nothing() {
    let (_folder, view) = view();
    view.put(volume("new", "1", 9));
    let mut pass = view.begin_pass();
    view.take_page(&mut pass, page(&[volume("web", "2", 2)], 30));
    view.end_pass(pass);
    assert_eq!(names(&view), ["new", "web"]);
}

#[test]
fn what_was_made_during_a_pass_survives_it() {
    let (_folder, view) = view();
    let mut pass = view.begin_pass();
    view.put(volume("made", "1", 9));
    view.take_page(&mut pass, page(&[], 0));
    view.end_pass(pass);
    assert_eq!(names(&view), ["made"]);
}

#[test]
fn what_was_removed_during_a_pass_does_not_come_back() {
    let (_folder, view) = view();
    view.put(volume("web", "1", 1));
    let mut pass = view.begin_pass();
    view.forget("web");
    view.take_page(&mut pass, page(&[volume("web", "1", 1)], 0));
    view.end_pass(pass);
    assert_eq!(names(&view), [""; 0]);
}

#[test]
fn an_older_revision_on_a_page_does_not_replace_a_newer_one() {
    let (_folder, view) = view();
    let mut pass = view.begin_pass();
    view.put(volume("web", "1", 9));
    view.take_page(&mut pass, page(&[volume("web", "1", 3)], 0));
    view.end_pass(pass);
    assert_eq!(view.get("web").expect("known").revision, 9);
}

#[test]
fn an_unfinished_pass_removes_nothing() {
    let (_folder, view) = view();
    view.put(volume("old", "1", 1));
    let mut pass = view.begin_pass();
    view.take_page(&mut pass, page(&[volume("web", "2", 2)], 0));
    assert_eq!(names(&view), ["old", "web"]);
}

#[tokio::test(start_paused = true)]
async fn what_others_did_is_kept_later_and_at_once_when_it_is_used_here() {
    let (folder, view) = view();
    let view = Arc::new(view);
    let kept = || names(&View::load(folder.path().join("view.json")));
    let pass = |volumes: &[wire::Volume]| {
        let mut pass = view.begin_pass();
        view.take_page(&mut pass, page(volumes, 0));
        view.end_pass(pass);
    };
    let secs = |secs| tokio::time::sleep(Duration::from_secs(secs));
    let saver = tokio::spawn(keep_saved(
        Arc::clone(&view),
        Duration::from_secs(5),
        Duration::from_secs(60),
    ));
    pass(&[volume("a", "1", 1)]);
    secs(1).await;
    assert_eq!(kept(), ["a"], "the first time at once");
    pass(&[volume("a", "1", 1), volume("b", "2", 2)]);
    secs(40).await;
    assert_eq!(kept(), ["a"], "not yet");
    secs(30).await;
    assert_eq!(kept(), ["a", "b"], "in the end");
    pass(&[volume("a", "1", 1), volume("b", "2", 2), volume("c", "3", 3)]);
    view.put(volume("c", "3", 3));
    secs(10).await;
    assert_eq!(kept(), ["a", "b", "c"], "somebody here asked for it");
    view.forget("a");
    secs(10).await;
    assert_eq!(kept(), ["b", "c"], "somebody here removed it");
    saver.abort();
}

#[test]
fn a_view_that_could_not_be_kept_is_kept_after_the_next_pass() {
    let (folder, view) = view();
    let file = folder.path().join("view.json");
    std::fs::create_dir(&file).expect("in the way");
    view.put(volume("web", "1", 1));
    view.save().expect_err("a folder stands there");
    std::fs::remove_dir(&file).expect("away");
    assert!(view.stale.load(Ordering::SeqCst));
    view.save().expect("saved");
    assert!(!view.stale.load(Ordering::SeqCst));
}

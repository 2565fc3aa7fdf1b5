//! Rules of the tree, checked by a machine: who may know whom, and how files are written.
//! ARCHITECTURE.md gives the reasons.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 500;
const MAX_FUNCTION: usize = 70;

/// Which of our rooms each room may name in its manifest. What is not listed it may not know.
const ROOMS: [(&str, &[&str]); 11] = [
    ("daemon/core", &[]),
    ("daemon/failpoint", &[]),
    ("daemon/metrics", &[]),
    ("daemon/store", &["cobalt-core", "cobalt-failpoint"]),
    ("daemon/host", &["cobalt-core", "cobalt-failpoint"]),
    ("daemon/api", &["cobalt-core"]),
    (
        "daemon",
        &[
            "cobalt-core",
            "cobalt-failpoint",
            "cobalt-metrics",
            "cobalt-store",
            "cobalt-host",
            "cobalt-api",
        ],
    ),
    ("docker-plugin", &["cobalt-api", "cobalt-failpoint", "cobalt-metrics"]),
    ("tests", &["cobalt-core", "cobalt-store", "cobalt-host", "cobaltd"]),
    (
        "integration",
        &["cobalt-core", "cobalt-failpoint", "cobalt-store", "cobalt-host", "cobalt-api"],
    ),
    ("bench", &["cobalt-core", "cobalt-host", "cobalt-store", "cobalt-api", "cobalt-integration"]),
];

/// Libraries that have one room, and that room.
const ONE_ROOM: [(&str, &str); 3] =
    [("etcd-client", "daemon/store"), ("tonic", "daemon/store"), ("hyperlocal", "daemon/api")];

/// Modules of the daemon, and what may not be named in them.
const MODULES: [(&str, &[&str]); 5] = [
    ("daemon/src/http", &["cobalt_host", "crate::engine", "crate::agent", "crate::join"]),
    (
        "daemon/src/cli",
        &["cobalt_store", "cobalt_host", "crate::engine", "crate::agent", "crate::http"],
    ),
    ("daemon/src/engine", &["cobalt_host", "cobalt_api", "crate::http", "crate::agent"]),
    ("daemon/src/agent", &["cobalt_api", "schedule", "crate::http", "crate::engine"]),
    ("daemon/src/offers", &["cobalt_host", "cobalt_api", "crate::http", "crate::engine"]),
];

/// What may stand in a few files only, and why.
const ONE_PLACE: [(&str, &str, &[&str]); 5] = [
    (
        "Command::new(",
        "only host runs processes, and the plugin itself once more",
        &["daemon/host/src", "docker-plugin/src/mounts/helper.rs", "integration", "tests", "bench"],
    ),
    ("remove_dir_all(", "no recursive delete exists in the program", &["integration", "tests"]),
    (
        "unsafe {",
        "only calls into the kernel need it",
        &[
            "daemon/host/src",
            "docker-plugin/src/mounts",
            "docker-plugin/src/server/socket.rs",
            "integration",
            "bench/src/btrfs.rs",
        ],
    ),
    (
        "SystemTime::now()",
        "wall time has one source per program",
        &[
            "daemon/host/src/clock.rs",
            "daemon/src/clock.rs",
            "docker-plugin/src/clock.rs",
            "integration",
        ],
    ),
    (
        "thread::sleep(",
        "wait for an event or with a deadline",
        &["integration", "daemon/host/src", "bench", "docker-plugin/src/mounts/nfs.rs"],
    ),
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace holds this package").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files of the workspace, by their path from its root.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["daemon", "docker-plugin", "tests", "integration", "bench"]
        .map(|name| root.join(name))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours").flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("it lies below").display().to_string();
                found.push((name, read(&path)));
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found.sort();
    found
}

/// Names in the `[dependencies]` of a manifest (not those for tests only).
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    section.lines().map(name).filter(|name| !name.is_empty() && !name.starts_with('#')).collect()
}

/// The code of a file without its tests, comments and strings that span no line.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn rooms_know_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for (room, allowed) in ROOMS {
        let manifest = read(&root().join(room).join("Cargo.toml"));
        for name in dependencies(&manifest) {
            let ours = name.starts_with("cobalt");
            if ours && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{room} names {name}"));
            }
        }
    }
    assert_none("rooms that know too much", &wrong);
}

#[test]
fn core_depends_on_nothing() {
    let manifest = read(&root().join("daemon/core/Cargo.toml"));
    assert_eq!(dependencies(&manifest), Vec::<String>::new());
}

#[test]
fn libraries_with_one_room_stay_there() {
    let mut wrong = Vec::new();
    for (room, _) in ROOMS {
        let names = dependencies(&read(&root().join(room).join("Cargo.toml")));
        for (library, home) in ONE_ROOM {
            if room != home && names.iter().any(|name| name == library) {
                wrong.push(format!("{room} names {library}, which belongs to {home}"));
            }
        }
    }
    assert_none("libraries outside their room", &wrong);
}

#[test]
fn every_member_of_the_workspace_has_its_rule() {
    let manifest = read(&root().join("Cargo.toml"));
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    let members = members.expect("the workspace lists its members").split('"');
    let mut named: Vec<&str> = members.filter(|text| text.contains(char::is_alphabetic)).collect();
    let mut ruled: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    named.sort_unstable();
    ruled.sort_unstable();
    assert_eq!(named, ruled);
}

#[test]
fn modules_of_the_daemon_know_only_what_they_may() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (module, forbidden) in MODULES {
            if file != format!("{module}.rs") && !file.starts_with(&format!("{module}/")) {
                continue;
            }
            for (number, line) in code_lines(&text) {
                if let Some(name) = forbidden.iter().find(|name| line.contains(**name)) {
                    wrong.push(format!("{file}:{} names {name}", number + 1));
                }
            }
        }
    }
    assert_none("modules that know too much", &wrong);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = |(_, text): &(String, String)| !text.starts_with("//! ");
    let silent: Vec<String> = sources().into_iter().filter(silent).map(|(file, _)| file).collect();
    assert_none("files that do not open with //!", &silent);
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let long = |(_, text): &(String, String)| text.lines().count() > MAX_LINES;
    let long: Vec<String> = sources().into_iter().filter(long).map(|(file, _)| file).collect();
    assert_none("files of more than 500 lines", &long);
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn "]
                .iter()
                .any(|start| head.starts_with(start));
            if !is_function || line.ends_with(';') || line.ends_with('}') {
                continue;
            }
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0);
            if length > MAX_FUNCTION {
                wrong.push(format!("{file}:{} has {length} lines", start + 1));
            }
        }
    }
    assert_none("functions of more than 70 lines", &wrong);
}

#[test]
fn what_has_one_place_stays_there() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (call, why, places) in ONE_PLACE {
            // Tests may do by hand what the program may not.
            if places.iter().any(|place| file.starts_with(place)) || file.contains("/tests/") {
                continue;
            }
            for (number, _) in code_lines(&text).filter(|(_, line)| line.contains(call)) {
                wrong.push(format!("{file}:{}: {call} ({why})", number + 1));
            }
        }
    }
    assert_none("calls outside their place", &wrong);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore"].map(|mark| mark.to_owned());
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if file.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{file}:{}", number + 1));
            }
        }
    }
    assert_none("marks of unfinished work", &wrong);
}

#[test]
fn every_path_that_the_architecture_names_exists() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let mut wrong = Vec::new();
    for quoted in text.split('`').skip(1).step_by(2) {
        let is_path = ["daemon/", "docker-plugin/", "tests/", "integration/", "docs/", "scripts/"]
            .iter()
            .any(|room| quoted.starts_with(room));
        if is_path && !root().join(quoted).exists() {
            wrong.push(quoted.to_owned());
        }
    }
    assert!(text.len() > 1000, "there is an architecture to read");
    assert_none("paths in ARCHITECTURE.md that do not exist", &wrong);
}

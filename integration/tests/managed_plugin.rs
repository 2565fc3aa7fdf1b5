//! The plugin as a managed one: built into a folder, created and enabled by a real dockerd, which
//! runs it in a container of its own. What it mounts there must reach the containers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test runs the scripts it is about")]

use std::process::Command;
use std::time::Duration;

use cobalt_integration::binaries::{binary, root};
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::docker::{Dockerd, IMAGE};
use cobalt_integration::wait::eventually;
use cobalt_integration::world::World;
use serde_json::Value;

const DRIVER: &str = "cobalt-test";

/// Builds the folder, as `make plugin-folder` does, and makes the plugin of it.
fn enable(world: &World, daemon: &Daemon, dockerd: &Dockerd) {
    let folder = world.folder().join("managed-plugin");
    let built = Command::new(root().join("scripts/plugin-folder.sh"))
        .arg(&folder)
        .arg(binary("cobalt-docker-plugin"))
        .env("POOL", daemon.state_dir())
        .env("RUN_DIR", daemon.run_dir())
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    dockerd.must(&["plugin", "create", DRIVER, folder.to_str().unwrap()]);
    dockerd.must(&["plugin", "enable", DRIVER]);
}

#[test]
fn a_managed_plugin_serves_volumes_from_create_to_removal() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let dockerd = Dockerd::start(&world);
    enable(&world, &daemon, &dockerd);
    let driver = format!("{DRIVER}:latest");
    dockerd.must(&["volume", "create", "-d", &driver, "-o", "size=32M", "web"]);
    dockerd.in_container("web", "echo hello > /data/page");
    assert_eq!(dockerd.in_container("web", "cat /data/page"), "hello\n");

    // It is the volume itself that the container has, with its quota.
    let id = daemon.volume("web").unwrap()["id"].as_str().unwrap().to_owned();
    let page = daemon.pool().join("volumes").join(&id).join("page");
    assert_eq!(std::fs::read_to_string(page).unwrap(), "hello\n");
    let fill = "dd if=/dev/zero of=/data/big bs=1M count=50 conv=fsync";
    let said = dockerd.must_not(&["run", "--rm", "-v", "web:/data", IMAGE, "sh", "-c", fill]);
    assert!(said.contains("Disk quota exceeded"), "{said}");

    // Who uses it is seen from within the plugin's container too.
    dockerd.must(&["run", "-d", "--name", "user", "-v", "web:/data", IMAGE, "sleep", "1000"]);
    let shown = dockerd.must(&["volume", "inspect", "web"]);
    let shown = serde_json::from_str::<Value>(&shown).unwrap();
    assert_eq!(shown[0]["Driver"], driver.as_str());
    assert!(shown[0]["Status"].to_string().contains(&id), "{shown}");
    let mounted = || world.mounts().iter().any(|path| path.ends_with(&id));
    assert!(mounted(), "{:?}", world.mounts());
    dockerd.must_not(&["plugin", "disable", DRIVER]);
    dockerd.must(&["rm", "-f", "user"]);
    eventually("it is unmounted", Duration::from_secs(10), || !mounted());

    dockerd.must(&["volume", "rm", "web"]);
    assert_eq!(daemon.volume("web"), None);
    dockerd.must(&["plugin", "disable", DRIVER]);
    dockerd.must(&["plugin", "rm", DRIVER]);
    assert!(!dockerd.must(&["plugin", "ls"]).contains(DRIVER));
}

#[test]
fn a_managed_plugin_comes_back_with_dockerd_and_knows_its_mounts() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let dockerd = Dockerd::start(&world);
    enable(&world, &daemon, &dockerd);
    let driver = format!("{DRIVER}:latest");
    dockerd.must(&["volume", "create", "-d", &driver, "-o", "size=32M", "web"]);
    let run = ["run", "-d", "--name", "user", "-v", "web:/data", IMAGE, "sleep", "1000"];
    dockerd.must(&run);
    let plugins = world.processes("cobalt-docker-plugin");
    assert_eq!(plugins.len(), 1, "{plugins:?}");
    let pid = nix::unistd::Pid::from_raw(plugins[0].try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("dockerd starts it again", Duration::from_secs(20), || {
        let again = world.processes("cobalt-docker-plugin");
        again.len() == 1 && again != plugins
    });
    // What was mounted before is still there for the container, and for the next one.
    dockerd.must(&["exec", "user", "sh", "-c", "echo on > /data/page"]);
    assert_eq!(dockerd.in_container("web", "cat /data/page"), "on\n");
    dockerd.must(&["rm", "-f", "user"]);
    dockerd.must(&["volume", "rm", "web"]);
}

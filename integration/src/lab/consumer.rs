//! A Docker host of the lab: dockerd, our plugin, and an API of its own to ask.

use std::time::Duration;

use serde_json::Value;

use crate::cobalt::{Daemon, Setup};
use crate::docker::{Dockerd, IMAGE, Plugin, PluginSetup};
use crate::etcd::Etcd;
use crate::lab::{Lab, Machine};
use crate::wait::eventually;

/// How long a container may take to see a change.
const SEEN: Duration = Duration::from_secs(90);

/// Ended in this order.
#[derive(Debug)]
pub struct Consumer {
    /// Runs containers.
    pub dockerd: Dockerd,
    /// Mounts volumes.
    pub plugin: Plugin,
    /// What the plugin asks.
    pub api: Daemon,
    /// All of it runs there.
    pub machine: Machine,
}

impl Consumer {
    /// Starts all of it and waits until it is ready.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn start(lab: &Lab, host_name: &str, etcd: &Etcd) -> Consumer {
        let machine = lab.machine(host_name);
        let api = Setup::api(&machine, &etcd.url()).start(machine.world());
        let plugin = PluginSetup::new(machine.world(), &api).start(machine.world());
        let dockerd = Dockerd::start(machine.world());
        Consumer { dockerd, plugin, api, machine }
    }

    /// What the API says of a volume.
    ///
    /// # Panics
    /// When it does not know it.
    pub fn volume(&self, name: &str) -> Value {
        let reply = self.api.call("GET", &format!("/v1/volumes/{name}"), &Value::Null);
        assert_eq!(reply.status, 200, "reading {name}: {}", reply.text());
        reply.json()
    }

    /// What the API says that this host's containers have of a volume: `rw`, `ro`, `none`, or
    /// nothing yet.
    pub fn has(&self, volume: &str) -> String {
        let known = self.volume(volume);
        let consumers = known["consumers"].as_array().cloned().unwrap_or_default();
        let us = consumers.iter().find(|one| one["hostname"] == self.machine.host_name());
        us.and_then(|us| us["has"]["mode"].as_str()).unwrap_or_default().to_owned()
    }

    /// The lines of the plugin's log with this in them.
    pub fn plugin_says(&self, about: &str) -> String {
        let log = self.plugin.process.log();
        log.lines()
            .filter(|line| line.contains(about))
            .fold(String::new(), |all, line| all + line + "\n")
    }

    /// What a shell says in a container that runs, with its exit status put behind.
    pub fn exec(&self, container: &str, script: &str) -> String {
        let script = format!("({script}) 2>&1; echo \"= $?\"");
        self.dockerd.must(&["exec", container, "timeout", "10", "sh", "-c", &script])
    }

    /// Waits until a shell in a container that runs says exactly this.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn until(&self, container: &str, script: &str, wanted: &str) {
        let mut last = String::new();
        eventually(&format!("{script} says {wanted:?} in {container}"), SEEN, || {
            last = self.exec(container, script);
            last == wanted
        });
    }

    /// The address of the storage machine from which a container that runs has /data now.
    pub fn served_from(&self, container: &str) -> String {
        // The last one hides those before it.
        let script =
            "grep ' /data nfs4 ' /proc/mounts | tail -n 1 | sed 's/.*,addr=\\([^, ]*\\).*/\\1/'";
        let said = self.exec(container, script);
        said.lines().next().unwrap_or_default().to_owned()
    }

    /// Starts a container that appends a line to /data/NAME every 20 ms.
    ///
    /// # Panics
    /// When it does not start.
    pub fn keep_writing(&self, container: &str, volume: &str) {
        let mount = format!("{volume}:/data");
        let script =
            format!("while :; do echo line >>/data/{container} || echo failed; sleep 0.02; done");
        self.dockerd.must(&[
            "run",
            "-d",
            "--stop-timeout",
            "2",
            "--name",
            container,
            "-v",
            &mount,
            IMAGE,
            "sh",
            "-c",
            &script,
        ]);
    }
}

//! The smallest whole of the lab: a storage machine, a Docker host, and the volume `web` that
//! containers of that host may use.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Consumer, EtcdMachine, Lab, Storage};
use crate::wait::eventually;

/// How long a change may take to be felt.
const SOON: Duration = Duration::from_secs(120);

/// Ended in this order.
#[derive(Debug)]
pub struct Scene {
    /// `h1`.
    pub host: Consumer,
    /// `s1`.
    pub storage: Storage,
    /// On a machine of its own.
    pub etcd: EtcdMachine,
    /// For further machines.
    pub lab: Lab,
}

impl Scene {
    /// Starts all of it and creates the volume.
    ///
    /// # Panics
    /// When that does not succeed in time.
    #[expect(clippy::new_without_default, reason = "it starts machines")]
    pub fn new() -> Scene {
        let lab = Lab::new();
        let etcd = EtcdMachine::start(&lab);
        let storage = Storage::start(&lab, "s1", &etcd.etcd);
        Scene::around(lab, etcd, storage)
    }

    /// The same with a storage machine of another kind.
    ///
    /// # Panics
    /// When that does not succeed in time.
    pub fn around(lab: Lab, etcd: EtcdMachine, storage: Storage) -> Scene {
        let host = Consumer::start(&lab, "h1", &etcd.etcd);
        host.dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=20M", "web"]);
        Scene { host, storage, etcd, lab }
    }

    /// Changes who may mount the volume, and waits until the export says so.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn change(&self, access: &Value) {
        self.storage.change("web", access);
    }

    /// Nobody may.
    ///
    /// # Panics
    /// As [`Scene::change`].
    pub fn bar(&self) {
        self.change(&json!({"policy": "listed", "rules": []}));
    }

    /// Every host with a plugin may.
    ///
    /// # Panics
    /// As [`Scene::change`].
    pub fn let_in(&self) {
        self.change(&json!({"policy": "auto", "rules": []}));
    }

    /// What is in a file of the volume, read on the storage machine.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn data(&self, file: &str) -> String {
        let folder = self.storage.folder(&self.host.volume("web"));
        let path = folder.join(file);
        self.storage.machine.run("cat", &[&path.to_string_lossy()])
    }

    /// Waits until a container that appends to a file of its name has written more of it.
    ///
    /// # Panics
    /// When it has not in time.
    pub fn until_more(&self, container: &str) {
        let before = self.data(container).len();
        eventually(&format!("{container} goes on writing"), SOON, || {
            self.data(container).len() > before
        });
    }
}

//! A whole Cobalt on one machine, as `make up` starts it: standalone daemon, plugin, dockerd.

use std::path::PathBuf;

use crate::cobalt::{Daemon, Setup};
use crate::docker::{Dockerd, PLUGIN_SOCKET, Plugin, PluginSetup};
use crate::recorder::Recorder;
use crate::world::World;

/// Its parts, in the order in which they are ended.
#[derive(Debug)]
pub struct Cluster {
    /// Real, of the distribution.
    pub dockerd: Dockerd,
    /// Beside it.
    pub plugin: Plugin,
    /// With its own etcd and its pool in a loop file.
    pub daemon: Daemon,
    /// All of them run in it.
    pub world: World,
}

/// Gives `test` a whole Cobalt, and clears it away afterwards.
///
/// # Panics
/// When some part does not start.
pub fn with_cluster(test: impl FnOnce(&mut Cluster)) {
    with_cluster_of("{}", |setup| setup, test);
}

/// The same with this daemon.json and a plugin that is set up otherwise.
///
/// # Panics
/// When some part does not start.
pub fn with_cluster_of(
    docker: &str,
    plugin: impl FnOnce(PluginSetup) -> PluginSetup,
    test: impl FnOnce(&mut Cluster),
) {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let plugin = plugin(PluginSetup::new(&world, &daemon)).start(&world);
    let dockerd = Dockerd::start_with(&world, docker);
    test(&mut Cluster { dockerd, plugin, daemon, world });
}

/// The same with every call between dockerd and the plugin on record.
///
/// # Panics
/// When some part does not start.
pub fn with_recorded_cluster(test: impl FnOnce(&mut Cluster, &Recorder)) {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let behind = "/run/cobalt-plugin.sock";
    let plugin = PluginSetup::new(&world, &daemon).on(behind).start(&world);
    let recorder = Recorder::start(&world.outside(PLUGIN_SOCKET), &world.outside(behind));
    let dockerd = Dockerd::start(&world);
    test(&mut Cluster { dockerd, plugin, daemon, world }, &recorder);
}

/// A fresh btrfs in a loop file, to be mounted at will.
#[derive(Debug)]
pub struct Disc {
    world: World,
    file: PathBuf,
    /// Where [`Disc::mount`] mounts it.
    pub at: PathBuf,
}

impl Disc {
    /// Makes the file system and the folder `pool` to mount it at; several share that folder.
    ///
    /// # Panics
    /// Without btrfs-progs.
    pub fn new(world: &World, name: &str) -> Disc {
        let file = world.folder().join(format!("{name}.img"));
        let at = world.folder().join("pool");
        let path = file.to_string_lossy();
        world.run("truncate", &["-s", "1G", &path]);
        world.run("mkfs.btrfs", &["-q", &path]);
        std::fs::create_dir_all(&at).expect("a folder to mount it at");
        let world = world.clone();
        Disc { world, file, at }
    }

    /// The file it lies in.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Mounts it, inside.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn mount(&self) {
        let (file, at) = (self.file.to_string_lossy(), self.at.to_string_lossy());
        self.world.run("mount", &["-o", "loop", &file, &at]);
    }

    /// Unmounts it.
    ///
    /// # Panics
    /// While it is in use.
    pub fn unmount(&self) {
        self.world.run("umount", &[&self.at.to_string_lossy()]);
    }
}

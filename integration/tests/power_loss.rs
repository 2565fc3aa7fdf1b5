//! The power goes right after an answer: what is on the disk then, without any sync, holds what
//! was answered. The disk is an image, copied as it is at that moment and mounted elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use cobalt_integration::cluster::Disc;
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::etcd::Etcd;
use cobalt_integration::snapshot::Witnesses;
use cobalt_integration::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A copy of the disk as it is now, mounted, inside.
struct Copy<'a> {
    world: &'a World,
    image: PathBuf,
    at: PathBuf,
}

impl<'a> Copy<'a> {
    fn of(world: &'a World, daemon: &Daemon, disc: &Disc, name: &str) -> Copy<'a> {
        let (image, at) = (world.folder().join(format!("{name}.img")), world.folder().join(name));
        // With the power nobody goes on writing.
        daemon.process.freeze();
        let (from, to) = (disc.file().to_string_lossy(), image.to_string_lossy());
        world.run("cp", &["--sparse=always", &from, &to]);
        daemon.process.thaw();
        std::fs::create_dir(&at).unwrap();
        world.run("mount", &["-o", "loop", &to, &at.to_string_lossy()]);
        Copy { world, image, at }
    }

    /// The UUIDs of its subvolumes by their paths.
    fn subvolumes(&self) -> Vec<(String, String)> {
        let list = ["subvolume", "list", "-u", &self.at.to_string_lossy()];
        let list = self.world.run("btrfs", &list);
        let line = |line: &str| {
            let (head, path) = line.split_once(" path ")?;
            Some((path.to_owned(), head.split_whitespace().last()?.to_owned()))
        };
        list.lines().filter_map(line).collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        let text = std::fs::read_link(self.world.outside(self.at.join(path))).ok()?;
        Some(text.display().to_string())
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.world.attempt("umount", &[&self.at.to_string_lossy()]);
        let _ = std::fs::remove_file(&self.image);
    }
}

fn expect_made(copy: &Copy, volume: &Value) {
    let (id, uuid) = (volume["id"].as_str().unwrap(), &volume["placement"]["subvolume"]);
    let uuid = uuid.as_str().unwrap();
    let wanted = (format!("volumes/{id}"), uuid.to_owned());
    let subvolumes = copy.subvolumes();
    assert!(subvolumes.contains(&wanted), "{wanted:?} is not in {subvolumes:?}");
    let identity = copy.link(&format!(".cobalt/identity/{id}"));
    assert!(identity.as_ref().is_some_and(|text| text.ends_with(uuid)), "{id}: {identity:?}");
    let root = std::fs::metadata(copy.world.outside(copy.at.join("volumes").join(id))).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1000, 1001, 0o2750), "{id}");
}

fn expect_deleted(copy: &Copy, volume: &Value) {
    let (id, uuid) = (volume["id"].as_str().unwrap(), &volume["placement"]["subvolume"]);
    let trashed = format!(".cobalt/trash/{id}.{}", uuid.as_str().unwrap());
    let paths: Vec<String> = copy.subvolumes().into_iter().map(|(path, _)| path).collect();
    assert!(!paths.contains(&format!("volumes/{id}")), "{id} is there again");
    assert!(paths.contains(&trashed), "{id} is not in the trash");
    assert!(copy.link(&format!("{trashed}.ticket")).is_some(), "{id} has no ticket");
    assert_eq!(copy.link(&format!(".cobalt/identity/{id}")), None);
}

fn create(daemon: &Daemon, name: &str) -> Value {
    let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=30");
    let wish = json!({ "size": "16M", "uid": 1000, "gid": 1001, "mode": "2750" });
    let reply = daemon.call("PUT", &path, &wish);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

/// Starts a daemon on a copy of the disk, with the etcd that knows the rest.
fn restart_on(world: &World, etcd: &Etcd, daemon: Daemon, disc: &Disc, copy: &Path) -> Daemon {
    drop(daemon);
    disc.unmount();
    let (copy, at) = (copy.to_string_lossy(), disc.at.to_string_lossy());
    world.run("mount", &["-o", "loop", &copy, &at]);
    let daemon = Setup::node(world, &etcd.url(), &disc.at).start(world);
    let (eye, pool, strangers) = (etcd.eye(), disc.at.clone(), &[][..]);
    let witnesses = Witnesses { world, eye, pool, plugin: None, dockerd: None, strangers };
    witnesses.settle("the power was lost", SOON);
    daemon
}

#[test]
fn what_was_answered_before_the_power_went_is_so_after_it() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let disc = Disc::new(&world, "disc");
    disc.mount();
    let daemon = Setup::node(&world, &etcd.url(), &disc.at).start(&world);
    for n in 0..6 {
        let made = create(&daemon, &format!("volume-{n}"));
        expect_made(&Copy::of(&world, &daemon, &disc, &format!("made-{n}")), &made);
    }
    // Together they share transactions of the filesystem.
    let together: Vec<Value> = std::thread::scope(|scope| {
        let make = |n: usize| {
            let daemon = &daemon;
            scope.spawn(move || create(daemon, &format!("together-{n}")))
        };
        let making: Vec<_> = (0..8).map(make).collect();
        making.into_iter().map(|making| making.join().unwrap()).collect()
    });
    let copy = Copy::of(&world, &daemon, &disc, "together");
    together.iter().for_each(|volume| expect_made(&copy, volume));
    drop(copy);
    for n in 0..4 {
        let name = format!("volume-{n}");
        let volume = daemon.volume(&name).unwrap();
        let path = format!("/v1/volumes/{name}?wait=gone&timeout_secs=30");
        assert_eq!(daemon.call("DELETE", &path, &Value::Null).status, 204);
        expect_deleted(&Copy::of(&world, &daemon, &disc, &format!("gone-{n}")), &volume);
    }
    let path = "/v1/volumes/volume-5?wait=ready&timeout_secs=30";
    assert_eq!(daemon.call("PATCH", path, &json!({ "size": "32M" })).status, 200);
    let image = world.folder().join("resized.img");
    let mut resized = Copy::of(&world, &daemon, &disc, "resized");
    // The image is kept for the daemon, which then sets the limit as the record has it.
    resized.image = PathBuf::new();
    drop(resized);
    let daemon = restart_on(&world, &etcd, daemon, &disc, &image);
    assert_eq!(daemon.volume("volume-5").unwrap()["size_bytes"], 32 << 20);
    assert_eq!(daemon.volume("volume-0"), None);
}

//! What a host that was let into one volume can do with forged file handles: nothing. The same
//! forgeries open a neighbour where the export does not check its subtree, so they are good ones.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use cobalt_integration::lab::handles::{Guess, Handle};
use cobalt_integration::lab::{EtcdMachine, Lab, Machine, Storage};

/// The first inode of a subvolume, which is its root, and many after it.
const INODES: std::ops::Range<u64> = 256..290;

fn subvolume(storage: &Storage, path: &Path) -> u64 {
    let id = storage.machine.sh(&format!("btrfs inspect-internal rootid {}", path.display()));
    id.trim().parse().unwrap()
}

/// What opening forged handles on `mount` gave, one entry for each that could be opened: texts of
/// files, names in folders.
fn loot(mount: &Path, from: &[&Path], subvolume: u64, known: &[u32]) -> Vec<String> {
    let root = File::open(mount).unwrap();
    let (mut loot, mut tried) = (Vec::new(), 0);
    for path in from {
        let handle = Handle::of(path).unwrap();
        // It is as the server has it, so what is forged from it is refused for what it asks.
        handle.open(&root).unwrap();
        // Any generation, for kernels that take 0 so; its own; those of what it shall lead to.
        let own = handle.leads_to().unwrap().generation;
        let generations = BTreeSet::from_iter([0, own].iter().chain(known).copied());
        let guesses = INODES.flat_map(|inode| generations.iter().map(move |&one| (inode, one)));
        for (inode, generation) in guesses {
            for forged in handle.forged(Guess { subvolume, inode, generation }) {
                tried += 1;
                if let Ok(opened) = forged.open(&root) {
                    loot.push(content(opened));
                }
            }
        }
    }
    println!("{} of {tried} forged handles could be opened: {loot:?}", loot.len());
    loot
}

fn content(mut file: File) -> String {
    let mut text = String::new();
    match file.metadata() {
        Ok(status) if status.is_dir() => {
            use std::os::fd::AsRawFd;
            let names = std::fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let names = names.map(|names| names.flatten().map(|name| name.file_name()).collect());
            let names: Vec<_> = names.unwrap_or_default();
            format!("folder of {names:?}")
        }
        Ok(_) => match file.read_to_string(&mut text) {
            Ok(_) => text,
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// How the test process reaches a mount of a machine.
fn reached(machine: &Machine, path: &str) -> std::path::PathBuf {
    machine.world().outside(path)
}

#[test]
fn a_forged_handle_opens_nothing_of_a_neighbour() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let (host, other) = (lab.machine("c1"), lab.machine("c2"));
    let mine = storage.volume("mine", &[(&host, "rw")]);
    let secret = storage.volume("secret", &[(&other, "rw")]);
    let line =
        |volume: &serde_json::Value| volume["export"]["mount_command"].as_str().unwrap().to_owned();
    other.sh(&line(&secret));
    other.sh(
        "echo treasure >/mnt/file; mkdir /mnt/folder; echo inner >/mnt/folder/file; sync -f /mnt",
    );
    host.sh(&line(&mine));
    host.sh("echo own >/mnt/file; mkdir /mnt/folder; echo own >/mnt/folder/file; sync -f /mnt");
    let target = subvolume(&storage, &storage.folder(&secret));
    let (mount, file) = (reached(&host, "/mnt"), reached(&host, "/mnt/file"));
    let (folder, inner) = (reached(&host, "/mnt/folder"), reached(&host, "/mnt/folder/file"));

    // The forger knows the neighbour's generations: he need not guess them.
    let known = ["/mnt/file", "/mnt/folder", "/mnt/folder/file"]
        .map(|path| Handle::of(&reached(&other, path)).unwrap().leads_to().unwrap().generation);
    println!("generations of the neighbour: {known:?}");
    let own = Handle::of(&file).unwrap().leads_to().unwrap();
    assert_eq!(own.subvolume, subvolume(&storage, &storage.folder(&mine)));
    assert_eq!(loot(&mount, &[&file, &folder, &inner], target, &known), Vec::<String>::new());
    // Nor the pool's own tree, in which .cobalt lies.
    assert_eq!(loot(&mount, &[&file, &folder], 5, &[]), Vec::<String>::new());
    // A true one, of a volume that this host was not let into.
    let root = File::open(&mount).unwrap();
    for path in ["/mnt/file", "/mnt/folder"] {
        let stolen = Handle::of(&reached(&other, path)).unwrap();
        stolen.open(&File::open(reached(&other, "/mnt")).unwrap()).unwrap();
        println!("a stolen one: {}", stolen.open(&root).unwrap_err());
    }

    // The same, with an export by hand from the same pool.
    let by_hand = storage.daemon.pool_inside().join("by-hand").display().to_string();
    storage.machine.sh(&format!(
        "btrfs subvolume create {by_hand}; echo x >{by_hand}/file; mkdir {by_hand}/folder"
    ));
    let export = |check: &str| {
        let about = format!("rw,sync,no_root_squash,fsid=99,{check}");
        storage.server.export("by-hand", &[format!("{by_hand} {}({about})", host.address())]);
    };
    let (hand, file) = (reached(&host, "/run/hand"), reached(&host, "/run/hand/file"));
    let folder = reached(&host, "/run/hand/folder");
    export("no_subtree_check");
    host.mount_nfs(storage.machine.address(), &by_hand, "/run/hand", "");
    let got = loot(&hand, &[&file, &folder], target, &known);
    assert!(got.iter().any(|text| text == "treasure\n"), "these forgeries are bad ones: {got:?}");
    export("subtree_check");
    host.sh("umount /run/hand");
    host.mount_nfs(storage.machine.address(), &by_hand, "/run/hand", "");
    assert_eq!(loot(&hand, &[&file, &folder], target, &known), Vec::<String>::new());
}

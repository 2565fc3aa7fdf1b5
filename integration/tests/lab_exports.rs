//! Volumes of a real cobaltd, mounted by hand over the kernel's NFS with the line that it shows:
//! who gets in, who does not, and how soon a change is felt.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Output;
use std::time::{Duration, Instant};

use cobalt_integration::lab::storage::{access, let_hosts_wait};
use cobalt_integration::lab::{EtcdMachine, Lab, Machine, Storage};
use cobalt_integration::process::Process;
use cobalt_integration::wait::{eventually, poll, throughout};
use cobalt_integration::world::text;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// The line that mounts a volume at /mnt.
fn line(volume: &Value) -> String {
    volume["export"]["mount_command"].as_str().expect("a line that mounts it").to_owned()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// What a script that must fail on a consumer says, within ten seconds.
fn refused(consumer: &Machine, script: &str) -> String {
    let done = consumer.world().attempt("timeout", &["10", "sh", "-c", script]);
    let said = said(&done);
    assert_ne!(done.status.code(), Some(124), "{script} hangs on {}", consumer.host_name());
    assert!(!done.status.success(), "{script} succeeded on {}: {said}", consumer.host_name());
    said
}

fn works(consumer: &Machine, script: &str) -> bool {
    let done = consumer.world().attempt("timeout", &["10", "sh", "-c", script]);
    done.status.success()
}

/// How long it takes from now until `holds` does.
fn measured(what: &str, start: Instant, mut holds: impl FnMut() -> bool) -> Duration {
    let held = poll(SOON, || holds().then(|| start.elapsed()));
    let took = held.unwrap_or_else(|| panic!("after {SOON:?} it does not hold that {what}"));
    println!("measured: {what} {} ms after the change was asked for", took.as_millis());
    took
}

#[test]
fn a_listed_host_mounts_by_the_line_that_is_shown_and_others_get_nothing() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let (one, two) =
        (Storage::start(&lab, "s1", &etcd.etcd), Storage::start(&lab, "s2", &etcd.etcd));
    let (host, stranger, nobody) = (lab.machine("c1"), lab.machine("c2"), lab.machine("c3"));
    let mine = one.volume("mine", &[(&host, "rw")]);
    let theirs = one.volume("theirs", &[(&stranger, "rw")]);
    let far = two.volume("far", &[(&host, "rw")]);

    let shown = one.daemon.cobalt(&["--output", "json", "volume", "show", "mine"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(line(&shown), line(&mine));
    println!("the line: {}", line(&shown));
    host.sh(&line(&shown));
    host.sh("echo secret >/mnt/file; sync -f /mnt/file; mkdir /mnt/folder");
    let folder = one.folder(&mine);
    assert_eq!(one.machine.run("cat", &[&format!("{}/file", folder.display())]), "secret\n");
    host.sh(&format!("mkdir -p /run/far; {}", line(&far).replace(" /mnt", " /run/far")));
    host.sh("echo elsewhere >/run/far/file; sync -f /run/far/file");
    let path = format!("{}/file", two.folder(&far).display());
    assert_eq!(two.machine.run("cat", &[&path]), "elsewhere\n");

    let over = host.must_not("dd if=/dev/zero of=/mnt/large bs=1M count=40 conv=fsync");
    assert!(over.contains("Disk quota exceeded"), "{over}");
    host.sh("rm /mnt/large");

    for other in [&stranger, &nobody] {
        println!("{}: {}", other.host_name(), refused(other, &line(&mine)));
        println!("{}: {}", other.host_name(), refused(other, &line(&far)));
    }
    let mount_root =
        format!("mkdir -p /run/root; mount -t nfs4 {}:/ /run/root", one.machine.address());
    println!("the root, for nobody: {}", refused(&nobody, &mount_root));
    // One who is let in somewhere sees the way there, and nothing beside it.
    stranger.sh(&mount_root);
    let at = format!("/run/root{}", one.folder(&theirs).display());
    stranger.sh(&format!("ls {at}; echo own >{at}/file; cat {at}/file"));
    let id = mine["id"].as_str().unwrap();
    let (pool, seen) = (one.daemon.pool_inside().display(), stranger.sh("find /run/root"));
    println!("the stranger sees:\n{seen}");
    assert!(seen.contains(theirs["id"].as_str().unwrap()), "{seen}");
    assert!(
        !seen.contains(id) && !seen.contains(".cobalt") && !seen.contains("pool.img"),
        "{seen}"
    );
    for way in [
        format!("ls /run/root{pool}/volumes/{id}"),
        format!("cat /run/root{pool}/volumes/{id}/file"),
        format!("cat {at}/../{id}/file"),
        format!("cd {at} && cat ../{id}/file"),
        format!("ls /run/root{pool}/.cobalt"),
        "ls /run/root/etc".to_owned(),
        format!("mkdir /run/root{pool}/volumes/new"),
        format!("rmdir {at}"),
        format!("mv {at} {at}.away"),
        format!("mount -t nfs4 {}:{}/folder /mnt", one.machine.address(), folder.display()),
    ] {
        println!("{way}: {}", refused(&stranger, &way).trim());
    }
}

#[test]
fn rights_change_under_a_mount_as_soon_as_the_change_is_answered() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let host = lab.machine("c1");
    let volume = storage.volume("v", &[(&host, "rw")]);
    host.sh(&format!("{}; echo kept >/mnt/file; sync -f /mnt/file", line(&volume)));
    let write = "echo more | dd of=/mnt/file oflag=append conv=notrunc,fsync";
    let change = |grant: &str| {
        let start = Instant::now();
        let rules = if grant.is_empty() { vec![] } else { vec![(&host, grant)] };
        storage.change("v", &access(&rules));
        println!(
            "measured: the change to {grant:?} was answered after {} ms",
            start.elapsed().as_millis()
        );
        (start, Instant::now())
    };
    let at_once = |what: &str, times: (Instant, Instant), holds: &dyn Fn() -> bool| {
        assert!(holds(), "it was answered, but it does not hold that {what}");
        measured(what, times.0, holds);
    };

    at_once("writing is refused", change("ro"), &|| !works(&host, write));
    let why = refused(&host, write);
    assert!(why.contains("Read-only file system"), "{why}");
    host.sh("cat /mnt/file");
    at_once("writing works", change("rw"), &|| works(&host, write));

    // What a client holds in its cache, with the server's word that nobody changes it, it can read
    // until it asks again whether it still has that word: within its lease of 10 s.
    host.sh("cat /mnt/file; cat /mnt/file");
    let folder = storage.folder(&volume).display().to_string();
    storage.machine.sh(&format!("echo fresh >{folder}/fresh"));
    at_once("nothing can be opened", change(""), &|| !works(&host, "cat /mnt/fresh"));
    let asked = Instant::now();
    println!("opening says: {}", refused(&host, "cat /mnt/fresh"));
    println!("writing says: {}", refused(&host, write));
    println!("listing says: {}", refused(&host, "ls -l /mnt"));
    let took =
        measured("what was cached cannot be opened", asked, || !works(&host, "cat /mnt/file"));
    assert!(took < Duration::from_secs(15), "{took:?}");
    let times = change("rw");
    measured("the same mount reads again", times.0, || works(&host, "cat /mnt/file"));
    measured("the same mount writes again", times.0, || works(&host, write));

    let owner = |name: &str| {
        host.sh(&format!("rm -f /mnt/{name}; touch /mnt/{name}"));
        storage
            .machine
            .run("stat", &["-c", "%u", &format!("{}/{name}", storage.folder(&volume).display())])
    };
    assert_eq!(owner("a"), "0\n");
    at_once("root is nobody", change("rw,root_squash"), &|| owner("b") == "65534\n");
    let user =
        "setpriv --reuid 1000 --clear-groups sh -c 'rm -f /mnt/u; touch /mnt/u'; stat -c %u /mnt/u";
    assert_eq!(host.sh(user), "1000\n");
    host.sh("setpriv --reuid 1000 --clear-groups rm /mnt/u");
    at_once("everybody is nobody", change("rw,all_squash"), &|| {
        host.sh("setpriv --reuid 1000 --clear-groups touch /mnt/all");
        let path = format!("{}/all", storage.folder(&volume).display());
        storage.machine.run("stat", &["-c", "%u", &path]) == "65534\n"
    });
    at_once("root is root", change("rw"), &|| owner("c") == "0\n");
}

#[test]
fn exports_that_somebody_took_away_come_back_and_those_of_others_stay() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let host = lab.machine("c1");
    let volume = storage.volume("v", &[(&host, "rw")]);
    let path = storage.folder(&volume).display().to_string();
    let is_exported = || storage.table().lines().any(|line| line.starts_with(&path));
    storage.machine.sh("mkdir /run/foreign; echo theirs >/run/foreign/file");
    let theirs = format!("/run/foreign {}(ro,fsid=77,no_subtree_check)", host.address());
    storage.server.export("foreign", std::slice::from_ref(&theirs));
    let foreign = storage.machine.world().outside("/etc/exports.d/foreign.exports");
    let others = || std::fs::read_to_string(&foreign).unwrap().trim() == theirs;
    host.sh(&format!("{}; echo kept >/mnt/file; sync -f /mnt/file", line(&volume)));
    host.mount_nfs(storage.machine.address(), "/run/foreign", "/run/theirs", "ro");
    assert!(is_exported());

    for what in ["exportfs -ua", "exportfs -ra"] {
        let start = Instant::now();
        storage.machine.sh(what);
        println!("{what}: exported right after it: {}", is_exported());
        measured(&format!("{what} is made good"), start, is_exported);
        measured("it can be read again", start, || works(&host, "cat /mnt/file"));
    }
    storage.change("v", &access(&[]));
    assert!(!is_exported());
    assert!(others() && storage.table().contains("/run/foreign"));
    assert_eq!(host.sh("cat /run/theirs/file"), "theirs\n");
    storage.change("v", &access(&[(&host, "rw")]));
    let gone =
        storage.daemon.call("DELETE", "/v1/volumes/v?wait=gone&timeout_secs=30", &Value::Null);
    assert_eq!(gone.status, 204, "{}", gone.text());
    assert!(!is_exported());
    println!("deleted: {}", refused(&host, "ls -l /mnt; cat /mnt/other"));
    assert!(others() && storage.table().contains("/run/foreign"));
    assert_eq!(host.sh("cat /run/theirs/file"), "theirs\n");
}

#[test]
fn nothing_is_exported_after_a_power_loss_before_etcd_was_asked() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let host = lab.machine("c1");
    let volume = storage.volume("v", &[(&host, "rw")]);
    let path = storage.folder(&volume).display().to_string();
    host.sh(&format!("{}; echo kept >/mnt/file; sync -f /mnt/file", line(&volume)));
    let links = "find /etc/exports.d -type l -printf '%p %l\\n'";
    let link = storage.machine.sh(links);
    let (at, target) = link.trim().split_once(' ').unwrap();

    etcd.machine.cut_off();
    // Unlike the machine's, an operator's /etc keeps the link.
    let storage = storage.lose_power(|machine| drop(machine.sh(&format!("ln -s {target} {at}"))));
    storage.server.end_grace();
    let is_exported = || storage.table().lines().any(|line| line.starts_with(&path));
    throughout("nothing is exported", Duration::from_secs(8), || !is_exported());
    let other = lab.machine("c2");
    println!("without etcd: {}", refused(&other, &line(&volume)));
    assert!(!works(&host, "timeout -s KILL 5 cat /mnt/file"), "the old mount reads");

    let start = Instant::now();
    etcd.machine.reconnect();
    eventually("it is exported again", SOON, is_exported);
    println!("measured: exported {} ms after etcd was back", start.elapsed().as_millis());
    measured("the old mount reads again", start, || works(&host, "cat /mnt/file"));
    host.sh("echo more >>/mnt/file; sync -f /mnt/file");
    let kept = storage.machine.run("cat", &[&format!("{path}/file")]);
    assert_eq!(kept, "kept\nmore\n");
}

#[test]
fn a_restart_of_cobaltd_does_not_disturb_what_the_kernel_serves() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let mut storage = Storage::start(&lab, "s1", &etcd.etcd);
    let host = lab.machine("c1");
    let volume = storage.volume("v", &[(&host, "rw")]);
    host.sh(&format!("{}; echo kept >/mnt/file; sync -f /mnt/file", line(&volume)));
    let before = storage.table();
    etcd.machine.cut_off();
    storage.daemon.process.kill9();
    storage.daemon.start_again("");
    throughout("it is served", Duration::from_secs(5), || {
        works(&host, "echo x >>/mnt/file; sync -f /mnt/file")
    });
    assert_eq!(storage.table(), before);
    etcd.machine.reconnect();
    storage.daemon.wait_until_ready();
    throughout("it is served", Duration::from_secs(3), || {
        works(&host, "echo x >>/mnt/file; sync -f /mnt/file")
    });
    assert_eq!(storage.table(), before);
}

#[test]
fn who_has_a_file_open_while_its_storage_machine_boots_loses_nothing() {
    // Longer than the server's grace time.
    const WITHOUT_ETCD: Duration = Duration::from_secs(15);
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let (host, other) = (lab.machine("c1"), lab.machine("c2"));
    let volume = storage.volume("v", &[(&host, "rw")]);
    let path = storage.folder(&volume).display().to_string();
    host.sh(&line(&volume));
    let mut writer = host.world().command("bash");
    writer.args([
        "-c",
        "exec 5>>/mnt/lines
        until [ -e /run/enough ]; do
            i=$((i + 1))
            echo $i >&5 && sync /mnt/lines && echo $i >/run/synced || echo failed at $i
        done",
    ]);
    let mut writer = Process::start(host.world(), "writer", writer);
    let synced = || host.world().attempt("cat", &["/run/synced"]);
    let synced = || text(&synced().stdout).trim().parse::<u64>().unwrap_or(0);
    eventually("it writes", SOON, || synced() > 10);

    etcd.machine.cut_off();
    let storage = storage.lose_power(let_hosts_wait);
    let is_exported = || storage.table().lines().any(|line| line.starts_with(&path));
    throughout("nothing is exported", WITHOUT_ETCD, || !is_exported());
    let waits = storage.machine.sh("cat /var/lib/nfs/etab");
    assert!(waits.starts_with("/run/cobalt-boot"), "{waits}");
    // It hides nothing and shows nothing.
    let root = format!("mkdir /run/root; mount -t nfs4 {}:/ /run/root", storage.machine.address());
    let nothing = format!("timeout -s KILL 5 sh -euc '{root}; ls /run/root/run/cobalt-boot/.'");
    other.must_not(&nothing);

    let before = synced();
    etcd.machine.reconnect();
    eventually("it goes on", SOON, || synced() > before + 10);
    eventually("hosts are told the truth again", SOON, || {
        !storage.machine.sh("cat /var/lib/nfs/etab").contains("/run/cobalt-boot")
    });
    println!("a stranger afterwards: {}", refused(&other, &line(&volume)));
    host.sh("touch /run/enough");
    assert!(writer.wait(SOON).is_some(), "it does not end");
    assert_eq!(writer.log(), "", "it was told that something failed");
    let lines = storage.machine.run("cat", &[&format!("{path}/lines")]);
    let wanted: Vec<String> = (1..=synced()).map(|line| line.to_string()).collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), wanted);
}

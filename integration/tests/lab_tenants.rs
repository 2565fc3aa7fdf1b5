//! What a tenant who is root in a container puts into a volume to get somewhere: links, device
//! files and set-id programs. They lead nowhere, for another container, another machine, or the
//! storage machine itself.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::docker::{Dockerd, IMAGE, PluginSetup};
use cobalt_integration::lab::Scene;
use cobalt_integration::wait::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(150);

/// A program that ends with its effective user's number as its status: an ELF header, one segment,
/// and `exit(geteuid())`.
fn who() -> Vec<u8> {
    let code = [0xb8, 0x6b, 0, 0, 0, 0x0f, 5, 0x89, 0xc7, 0xb8, 0x3c, 0, 0, 0, 0x0f, 5];
    let (base, length) = (0x40_0000_u64, 120 + code.len() as u64);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for number in [base + 120, 64, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    for number in [0, base, base, length, length, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    file
}

/// What the tenant does in its container, as root.
fn traps() -> String {
    let program: String = who().iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!(
        "cd /data && ln -s /etc/shadow absolute && ln -s ../../../../../../etc/shadow upwards && \
         ln -s / root && ln -s ../.cobalt/pool.json pool && \
         mknod null c 1 3 && mknod memory c 1 1 && mknod disc b 254 0 && chmod 666 null disc && \
         printf '{program}' >who && chown 0:0 who && chmod 6755 who && \
         cp who /tmp/who && chmod 6755 /tmp/who"
    )
}

/// In a container that has the volume: where the traps lead.
fn expect_harmless(dockerd: &Dockerd, container: &str) {
    let run = |arguments: &[&str]| {
        let output = dockerd.docker(&[&["exec"], arguments].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };
    let options = run(&[container, "grep", " /data ", "/proc/mounts"]).1;
    let last = options.lines().last().unwrap_or_default();
    assert!(last.contains("nosuid") && last.contains("nodev"), "{container}: {options}");
    // The program does what it shall where it may, and does not here.
    let (status, said) = run(&["-u", "1000", container, "/tmp/who"]);
    assert_eq!(status, 0, "{container}: /tmp/who is root's: {said}");
    let (status, said) = run(&["-u", "1000", container, "/data/who"]);
    assert_eq!(status, 1000 % 256, "{container}: {said}");
    for device in ["null", "memory", "disc"] {
        let (status, said) = run(&[container, "head", "-c", "1", &format!("/data/{device}")]);
        assert_ne!(status, 0, "{container}: {device}");
        assert!(said.contains("Permission denied"), "{container}: {device}: {said}");
    }
    // A container has files of its own where the links lead.
    for link in ["absolute", "upwards", "root/etc/shadow"] {
        let (_, said) = run(&[container, "cat", &format!("/data/{link}")]);
        assert_eq!(said, "the container's\n", "{container}: {link}");
    }
    let (status, said) = run(&[container, "cat", "/data/pool"]);
    assert_ne!(status, 0, "{container}: {said}");
}

fn start(dockerd: &Dockerd, container: &str, mount: &str) {
    let run = ["run", "-d", "--stop-timeout", "1", "--name", container, "-v", mount, IMAGE];
    dockerd.must(&[&run[..], &["sleep", "1000"]].concat());
    let prepare = "mkdir -p /etc /tmp && echo \"the container's\" >/etc/shadow";
    dockerd.must(&["exec", container, "sh", "-c", prepare]);
}

#[test]
fn what_a_tenant_leaves_in_a_volume_leads_nobody_anywhere() {
    let scene = Scene::new();
    let dockerd = &scene.host.dockerd;
    start(dockerd, "tenant", "web:/data");
    dockerd.must(&["exec", "tenant", "sh", "-c", &traps()]);
    expect_harmless(dockerd, "tenant");
    start(dockerd, "reader", "web:/data:ro");
    dockerd.must(&["exec", "reader", "sh", "-c", "cp /data/who /tmp/who && chmod 6755 /tmp/who"]);
    eventually("a read-only one is as safe", SOON, || {
        let options = scene.host.exec("reader", "grep ' /data ' /proc/mounts | tail -n 1");
        options.contains("nosuid") && options.contains("nodev") && options.contains(" ro,")
    });
    expect_harmless(dockerd, "reader");
    assert!(scene.host.exec("reader", "touch /data/x").contains("Read-only file system"));

    // On the Docker host itself, for root and for a user.
    let id = scene.host.volume("web")["id"].as_str().unwrap().to_owned();
    let mounted = format!("{}/plugin/mounts/{id}", scene.host.machine.disk().display());
    for device in ["null", "memory", "disc"] {
        let said = scene.host.machine.must_not(&format!("head -c 1 {mounted}/{device}"));
        assert!(said.contains("Permission denied"), "{device}: {said}");
    }
    let as_user = "setpriv --reuid 1000 --regid 1000 --clear-groups";
    let pool = scene.storage.folder(&scene.host.volume("web")).display().to_string();
    for way in ["who", "null", "absolute"] {
        scene.storage.machine.must_not(&format!("{as_user} ls {pool}/{way}"));
    }

    // A container on the storage machine, which binds the volume.
    let world = scene.storage.machine.world();
    let plugin = PluginSetup::new(world, &scene.storage.daemon).start(world);
    let local = Dockerd::start(world);
    start(&local, "near", "web:/data");
    local.must(&["exec", "near", "sh", "-c", "cp /data/who /tmp/who && chmod 6755 /tmp/who"]);
    assert!(!local.must(&["exec", "near", "cat", "/proc/mounts"]).contains("nfs4"));
    expect_harmless(&local, "near");

    // And it is deleted like any other.
    let shadow = scene.storage.machine.run("cat", &["/etc/shadow"]);
    for (dockerd, container) in [(dockerd, "tenant"), (dockerd, "reader"), (&local, "near")] {
        dockerd.must(&["rm", "-f", container]);
    }
    eventually("nobody uses it", SOON, || scene.host.volume("web")["consumers"] == json!([]));
    dockerd.must(&["volume", "rm", "web"]);
    let gone = scene.host.api.call("GET", "/v1/volumes/web", &Value::Null);
    assert_eq!(gone.status, 404, "{}", gone.text());
    assert_eq!(scene.storage.machine.run("cat", &["/etc/shadow"]), shadow);
    scene.storage.machine.must_not(&format!("ls {pool}"));
    drop(plugin);
}

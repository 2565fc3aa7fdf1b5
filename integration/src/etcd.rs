//! A real etcd, and a look into any etcd past our own programs: through its JSON gateway.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Address, request};
use crate::process::Process;
use crate::wait::{eventually, poll};
use crate::world::World;

const LIMIT: Duration = Duration::from_secs(5);
/// "All keys" of a range: a zero byte, in base64.
const ALL: &str = "AA==";

/// An etcd of one member, on ports and data that stay over its restarts.
#[derive(Debug)]
pub struct Etcd {
    /// To stop and freeze it.
    pub process: Process,
    world: World,
    data: PathBuf,
    client: SocketAddr,
    peer: u16,
    flags: Vec<String>,
}

impl Etcd {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(world: &World) -> Etcd {
        Etcd::with_data(world, "etcd")
    }

    /// Another one, which knows nothing of what was in the first.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_empty(world: &World) -> Etcd {
        Etcd::with_data(world, "etcd-empty")
    }

    /// One that takes so many bytes and no more.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_small(world: &World, bytes: u64) -> Etcd {
        let flag = format!("--quota-backend-bytes={bytes}");
        Etcd::with(world, "etcd", Ipv4Addr::LOCALHOST, vec![flag])
    }

    /// One that others reach at this address of the machine that `world` is.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_at(world: &World, address: Ipv4Addr) -> Etcd {
        Etcd::with(world, "etcd", address, Vec::new())
    }

    fn with_data(world: &World, folder: &str) -> Etcd {
        Etcd::with(world, folder, Ipv4Addr::LOCALHOST, Vec::new())
    }

    fn with(world: &World, folder: &str, address: Ipv4Addr, flags: Vec<String>) -> Etcd {
        let data = world.folder().join(folder);
        let (client, peer) = (SocketAddr::from((address, free_port())), free_port());
        let process = spawn(world, &data, client, peer, &flags);
        let etcd = Etcd { process, world: world.clone(), data, client, peer, flags };
        etcd.wait_until_healthy();
        etcd
    }

    /// For `--etcd`.
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.client.port()
    }

    /// Where its data is; it may be exchanged while it is down.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }

    /// To look into it.
    pub fn eye(&self) -> Eye {
        Eye(Address::Lab(self.client))
    }

    /// Ends it in the middle of whatever it does.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same data and ports, and waits until it answers.
    pub fn restart(&mut self) {
        self.process.kill9();
        self.process = spawn(&self.world, &self.data, self.client, self.peer, &self.flags);
        self.wait_until_healthy();
    }

    fn wait_until_healthy(&self) {
        let eye = self.eye();
        eventually("etcd answers", Duration::from_secs(20), || eye.revision().is_some());
    }
}

fn spawn(
    world: &World,
    data: &std::path::Path,
    client: SocketAddr,
    peer: u16,
    flags: &[String],
) -> Process {
    let (client, peer) = (format!("http://{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = world.command("etcd");
    command
        .args(["--name", "test", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .args(flags);
    Process::start(world, "etcd", command)
}

/// A port nobody listens on now.
///
/// # Panics
/// When the machine has none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Looks into an etcd, past our own programs.
#[derive(Clone, Debug)]
pub struct Eye(Address);

impl Eye {
    /// Looks into the etcd at a URL such as `http://127.0.0.1:2379`.
    ///
    /// # Panics
    /// When that is no such URL.
    pub fn at(url: &str) -> Eye {
        let port = url.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        Eye(Address::Tcp(port.unwrap_or_else(|| panic!("{url:?} names no port"))))
    }

    /// Every key with the revision it was last changed at, values aside.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub fn keys(&self) -> BTreeMap<String, i64> {
        let question = json!({ "key": ALL, "range_end": ALL, "keys_only": true });
        let answer = poll(LIMIT, || self.ask("/v3/kv/range", &question));
        let answer = answer.expect("etcd answers");
        let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let entry = |kv: &Value| {
            let key = unbase64(kv["key"].as_str().unwrap_or_default());
            (key, number(&kv["mod_revision"]))
        };
        kvs.iter().map(entry).collect()
    }

    /// Every key with its value, as JSON.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub fn values(&self) -> BTreeMap<String, Value> {
        let question = json!({ "key": ALL, "range_end": ALL });
        let answer = poll(LIMIT, || self.ask("/v3/kv/range", &question));
        pairs(&answer.expect("etcd answers"))
    }

    /// What was written at this very revision: keys with their values. Removals are not seen.
    ///
    /// # Panics
    /// When etcd does not answer, or has forgotten it.
    pub fn written_at(&self, revision: i64) -> BTreeMap<String, Value> {
        let at = revision.to_string();
        let question =
            json!({ "key": ALL, "range_end": ALL, "revision": at, "min_mod_revision": at });
        pairs(&self.ask("/v3/kv/range", &question).expect("etcd answers"))
    }

    /// The keys that tell of volumes and tokens: those that change without anybody asking, such
    /// as beats and the election, are left out.
    pub fn wishes(&self) -> BTreeMap<String, i64> {
        let lasting =
            |key: &String| ["/volume", "/name", "/token"].iter().any(|part| key.contains(part));
        self.keys().into_iter().filter(|(key, _)| lasting(key)).collect()
    }

    /// The revision etcd is at; `None` when it does not answer.
    pub fn revision(&self) -> Option<i64> {
        let question = json!({ "key": "YQ==", "count_only": true });
        Some(number(&self.ask("/v3/kv/range", &question)?["header"]["revision"]))
    }

    /// Forgets the history up to now, so that watches that lag break.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn compact(&self) {
        let revision = self.revision().expect("etcd answers");
        let question = json!({ "revision": revision.to_string(), "physical": true });
        assert!(self.ask("/v3/kv/compaction", &question).is_some(), "etcd refused to compact");
    }

    /// Writes a key that is nobody's; whether it was taken.
    pub fn put(&self, key: &str, value: &[u8]) -> bool {
        let question = json!({ "key": base64(key.as_bytes()), "value": base64(value) });
        self.ask("/v3/kv/put", &question).is_some()
    }

    /// Removes a key.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn remove(&self, key: &str) {
        let question = json!({ "key": base64(key.as_bytes()) });
        assert!(self.ask("/v3/kv/deleterange", &question).is_some(), "etcd refused to delete");
    }

    /// Makes the room that compaction freed usable, and ends the alarm that there is none.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn defragment_and_disarm(&self) {
        assert!(self.ask("/v3/maintenance/defragment", &json!({})).is_some(), "defragment");
        let raised = self.ask("/v3/maintenance/alarm", &json!({ "action": "GET" }));
        for alarm in raised.expect("a list of alarms")["alarms"].as_array().into_iter().flatten() {
            let mut question = alarm.clone();
            question["action"] = json!("DEACTIVATE");
            assert!(self.ask("/v3/maintenance/alarm", &question).is_some(), "disarm");
        }
    }

    fn ask(&self, path: &str, question: &Value) -> Option<Value> {
        let body = question.to_string();
        let reply = request(&self.0, "POST", path, &[], body.as_bytes(), LIMIT).ok()?;
        (reply.status == 200).then(|| reply.json())
    }
}

/// Keys and values of a range, the values read as JSON.
fn pairs(answer: &Value) -> BTreeMap<String, Value> {
    let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
    let text = |field: &Value| unbase64(field.as_str().unwrap_or_default());
    let value = |kv: &Value| serde_json::from_str(&text(&kv["value"])).unwrap_or(Value::Null);
    kvs.iter().map(|kv| (text(&kv["key"]), value(kv))).collect()
}

/// The gateway writes 64-bit numbers as texts.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0, |all, &byte| (all << 8) | usize::from(byte));
        let all = all << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(all >> (18 - 6 * place)) & 63]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> String {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for digit in text.bytes().filter_map(|b| DIGITS.iter().position(|&d| d == b)) {
        held = (held << 6) | u32::try_from(digit).expect("a digit is below 64");
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).expect("eight bits"));
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_of_base64_as_they_went_in() {
        assert_eq!(unbase64("L2NvYmFsdC9h"), "/cobalt/a");
        assert_eq!(unbase64("YQ=="), "a");
        for text in ["", "a", "ab", "abc", "abcd"] {
            assert_eq!(unbase64(&base64(text.as_bytes())), text);
        }
    }

    #[test]
    fn an_etcd_killed_and_started_again_has_kept_its_revision() {
        let world = World::new();
        let mut etcd = Etcd::start(&world);
        let before = etcd.eye().revision();
        etcd.restart();
        assert_eq!(etcd.eye().revision(), before);
        assert!(etcd.eye().keys().is_empty());
    }
}

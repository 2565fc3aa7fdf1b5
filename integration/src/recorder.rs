//! Stands between dockerd and the plugin, passes everything on, and remembers the calls.
//!
//! It can break a call off where a crash would: the tests need that at an exact point, which no
//! kill from outside hits.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// One call as it passed.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `Mount`, `Activate`, …
    pub call: String,
    /// What was sent; null when it was empty.
    pub body: Value,
    /// What came back: status and body; `None` when the connection was closed instead.
    pub reply: Option<(u16, Value)>,
}

/// The calls so far, and where the next one is broken off.
#[derive(Debug, Default)]
struct Log {
    seen: Vec<Seen>,
    cut: Option<String>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    listen: PathBuf,
    log: Arc<Mutex<Log>>,
    ended: Arc<AtomicBool>,
}

impl Recorder {
    /// Listens on `listen` and passes everything to `plugin`; both are paths outside.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(listen: &Path, plugin: &Path) -> Recorder {
        let listener = UnixListener::bind(listen).expect("a socket for the recorder");
        let recorder =
            Recorder { listen: listen.to_owned(), log: Arc::default(), ended: Arc::default() };
        let (plugin, log) = (plugin.to_owned(), Arc::clone(&recorder.log));
        let ended = Arc::clone(&recorder.ended);
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (plugin, log) = (plugin.clone(), Arc::clone(&log));
                // Either side may close at any time: then this connection is over.
                std::thread::spawn(move || drop(pass(caller, &plugin, &log)));
            }
        });
        recorder
    }

    /// All calls of this name so far.
    pub fn calls(&self, name: &str) -> Vec<Seen> {
        let all = lock(&self.log);
        all.seen.iter().filter(|seen| seen.call == name).cloned().collect()
    }

    /// How many of this name.
    pub fn count(&self, name: &str) -> usize {
        self.calls(name).len()
    }

    /// How often Create, Mount, Unmount and Remove were called, in this order.
    pub fn changes(&self) -> [usize; 4] {
        ["Create", "Mount", "Unmount", "Remove"].map(|name| self.count(name))
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        lock(&self.log).seen.clear();
    }

    /// The next call of this name reaches the plugin, and the caller's connection is closed in
    /// place of the answer.
    pub fn cut_next(&self, name: &str) {
        lock(&self.log).cut = Some(name.to_owned());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.listen);
        let _ = std::fs::remove_file(&self.listen);
    }
}

fn pass(caller: UnixStream, plugin: &Path, log: &Mutex<Log>) -> io::Result<()> {
    let mut to_caller = caller.try_clone()?;
    let mut from_caller = BufReader::new(caller);
    let mut to_plugin = UnixStream::connect(plugin)?;
    let mut from_plugin = BufReader::new(to_plugin.try_clone()?);
    loop {
        let (head, body) = message(&mut from_caller)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let call = path.rsplit(['.', '/']).next().unwrap_or_default().to_owned();
        let index = {
            let mut log = lock(log);
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            log.seen.push(Seen { call: call.clone(), body, reply: None });
            log.seen.len() - 1
        };
        to_plugin.write_all(&[head.as_bytes(), &body].concat())?;
        let (head, body) = message(&mut from_plugin)?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        {
            let mut log = lock(log);
            if let Some(seen) = log.seen.get_mut(index) {
                seen.reply = Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)));
            }
            if log.cut.take_if(|cut| *cut == call).is_some() {
                return Ok(());
            }
        }
        to_caller.write_all(&[head.as_bytes(), &body].concat())?;
    }
}

/// A head and as many bytes of body as it says.
fn message(stream: &mut impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

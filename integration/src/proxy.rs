//! Stands between our programs and a server, passes bytes on, and fails as networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens to what comes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// It is passed on.
    #[default]
    Open,
    /// Requests are passed on; the answers vanish.
    Deaf,
    /// Nobody gets through.
    Closed,
}

#[derive(Debug, Default)]
struct Shared {
    mode: Mutex<Mode>,
    /// Both ends of every connection so far, to cut them.
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Passes everything on to a port of this machine.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                // One that is turned away is closed by being dropped.
                if *lock(&accepting.mode) != Mode::Closed
                    && let Ok(there) = TcpStream::connect(("127.0.0.1", server))
                {
                    pass_on(&accepting, caller, there);
                }
            }
        });
        Proxy { port, shared }
    }

    /// For `--etcd`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on what is asked gets through, and no answer comes back.
    pub fn swallow_answers(&self) {
        *lock(&self.shared.mode) = Mode::Deaf;
    }

    /// Cuts all connections and turns away new ones.
    pub fn close(&self) {
        *lock(&self.shared.mode) = Mode::Closed;
        self.cut();
    }

    /// Cuts what answers vanished on, and lets everything through from now on.
    pub fn open(&self) {
        self.cut();
        *lock(&self.shared.mode) = Mode::Open;
    }

    fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            // One that is closed already is cut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass_on(shared: &Arc<Shared>, caller: TcpStream, server: TcpStream) {
    let twin = |stream: &TcpStream| stream.try_clone().expect("a second handle of a connection");
    lock(&shared.open).extend([twin(&caller), twin(&server)]);
    let (asking, answering) = (twin(&caller), twin(&server));
    std::thread::spawn(move || copy(asking, server, || true));
    let shared = Arc::clone(shared);
    std::thread::spawn(move || copy(answering, caller, || *lock(&shared.mode) != Mode::Deaf));
}

/// Copies while `passes` says so, and reads into nothing while it does not.
fn copy(mut from: TcpStream, mut to: TcpStream, passes: impl Fn() -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if passes() && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A small HTTP client on one kept unix connection that blocks: little stands between the clock
//! and the server, and it is the same for what is measured and for its floor.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than any call here takes.
const PATIENCE: Duration = Duration::from_secs(150);

/// One connection, made anew when the server has closed it.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Connects at the first call.
    pub(crate) fn new(path: &Path) -> Client {
        Client { path: path.to_owned(), stream: None }
    }

    /// Sends one request and reads the answer to its end.
    pub(crate) fn call(&mut self, method: &str, target: &str, body: &str) -> io::Result<Reply> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let kept = self.stream.is_some();
        match self.exchange(&request) {
            // The server may have closed a connection that was idle.
            Err(_) if kept => {
                self.stream = None;
                self.exchange(&request)
            }
            outcome => outcome,
        }
    }

    /// The same; any other status than these is an error that quotes the answer.
    pub(crate) fn expect(
        &mut self,
        statuses: &[u16],
        method: &str,
        target: &str,
        body: &str,
    ) -> io::Result<Vec<u8>> {
        let reply = self.call(method, target, body)?;
        if statuses.contains(&reply.status) {
            return Ok(reply.body);
        }
        let said = String::from_utf8_lossy(&reply.body);
        Err(io::Error::other(format!("{method} {target}: {} {said}", reply.status)))
    }

    fn exchange(&mut self, request: &str) -> io::Result<Reply> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.get_mut().write_all(request.as_bytes())?;
        let (reply, close) = read(stream)?;
        if close {
            self.stream = None;
        }
        Ok(reply)
    }
}

fn read(stream: &mut BufReader<UnixStream>) -> io::Result<(Reply, bool)> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status: u16 = status.ok_or_else(|| io::Error::other(format!("not HTTP: {first:?}")))?;
    let (mut length, mut chunked, mut close) = (0, false, false);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = value.parse().unwrap_or(0),
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            Some(("connection", value)) => close = value.contains("close"),
            Some(_) => (),
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    while chunked {
        let size = line(stream)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        line(stream)?;
        chunked = size > 0;
    }
    Ok((Reply { status, body }, close))
}

fn line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

//! What etcd counts of the requests it gets: its own metrics, read over TCP. A call counts twice:
//! when its message comes, and when it is ended.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Fault;

/// Messages that etcd received and calls that it ended, by method.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(BTreeMap<String, f64>);

impl Traffic {
    /// As it is now.
    pub(crate) fn read(url: &str) -> Result<Traffic, Fault> {
        let address = url.strip_prefix("http://").ok_or("etcd's address is no http:// URL")?;
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mut traffic = Traffic::default();
        for line in text.lines() {
            let counted = ["grpc_server_msg_received_total{", "grpc_server_handled_total{"];
            if !counted.iter().any(|start| line.starts_with(start)) {
                continue;
            }
            let method =
                line.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            if let (Some(method), Some(count)) = (method, count) {
                *traffic.0.entry(method.to_owned()).or_default() += count;
            }
        }
        Ok(traffic)
    }

    /// What was added to `before`, by method.
    pub(crate) fn since(&self, before: &Traffic) -> BTreeMap<String, f64> {
        let added = |(method, count): (&String, &f64)| {
            let more = count - before.0.get(method).copied().unwrap_or(0.0);
            (more > 0.0).then(|| (method.clone(), more))
        };
        self.0.iter().filter_map(added).collect()
    }
}

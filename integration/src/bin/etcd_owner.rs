//! A process that owns an etcd and does nothing else, for a test to kill: it prints the number
//! of the etcd process and waits for its own end. It must not end the etcd itself.

use std::io::{Read, Write};
use std::path::PathBuf;

use cobalt_host::{EtcdChild, EtcdOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("give a folder")?);
    let options = EtcdOptions { data_dir: folder.join("etcd"), client_port: None };
    let etcd = EtcdChild::start(&options)?;
    println!("{} {}", etcd.pid().ok_or("it has ended")?, etcd.client_url());
    std::io::stdout().flush()?;
    // Until we are killed, or the test is gone.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

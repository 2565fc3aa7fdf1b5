//! The API over TLS: a real server with a certificate made here, and the client that operators
//! and Docker hosts use.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use cobalt_api::client::{Client, ClientError};
use cobalt_store::kv::Kv;
use cobalt_store::{Follower, Memory, Store};
use cobaltd::args::Arguments;
use cobaltd::http::{Api, ApiOptions, Listener, Tls, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(10);

struct Files {
    folder: TempDir,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(name: &str) -> Files {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let files = Files { folder, certificate, key };
        files.renew(name);
        files
    }

    /// Another certificate in the same place.
    fn renew(&self, name: &str) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(&self.certificate, made.cert.pem()).unwrap();
        std::fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&self.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn pem(&self) -> Vec<u8> {
        std::fs::read(&self.certificate).unwrap()
    }

    fn flags(&self) -> [String; 4] {
        let text = |path: &PathBuf| path.display().to_string();
        ["--tls-cert".into(), text(&self.certificate), "--tls-key".into(), text(&self.key)]
    }
}

async fn served(tls: Arc<Tls>) -> u16 {
    let options = ApiOptions::default();
    let store = Store::new(Kv::Memory(Memory::default()), &options.cluster);
    let follower = Follower::start(&store, || 0);
    follower.in_touch().await;
    let api = Api::new(store, follower, options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(api, Listener::Tls(listener, tls), std::future::pending()));
    port
}

fn client(port: u16, pem: &[u8]) -> Client {
    let endpoint = format!("https://localhost:{port}").parse().unwrap();
    Client::with_ca(vec![endpoint], None, pem).unwrap()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn who_believes_the_certificate_is_answered_and_still_needs_a_token() {
    let files = Files::new("localhost");
    let port = served(Tls::load(&files.certificate, &files.key).unwrap()).await;
    let client = client(port, &files.pem());
    assert_eq!(client.ready(SOON).await.unwrap().status, "ok");
    let refused = client.status(SOON).await.unwrap_err();
    assert_eq!(refused.code(), Some(cobalt_api::error::Code::Unauthenticated));
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_or_of_another_name_is_not_believed() {
    let (files, others) = (Files::new("localhost"), Files::new("localhost"));
    let port = served(Tls::load(&files.certificate, &files.key).unwrap()).await;
    for pem in [others.pem(), Files::new("elsewhere").pem()] {
        let error = client(port, &pem).ready(SOON).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        assert!(error.is_distrust(), "{error:?}");
        assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    }
    // The system's authorities do not know it either.
    let endpoint = format!("https://localhost:{port}").parse().unwrap();
    assert!(Client::new(vec![endpoint], None).ready(SOON).await.is_err());
    let named = Files::new("elsewhere");
    let port = served(Tls::load(&named.certificate, &named.key).unwrap()).await;
    assert!(client(port, &named.pem()).ready(SOON).await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let files = Files::new("localhost");
    let tls = Tls::load(&files.certificate, &files.key).unwrap();
    let port = served(tls.clone()).await;
    let old = files.pem();
    files.renew("localhost");
    tls.reload().unwrap();
    assert!(client(port, &old).ready(SOON).await.is_err(), "the old one is no longer shown");
    assert!(client(port, &files.pem()).ready(SOON).await.is_ok());
    let good = files.pem();
    std::fs::write(&files.certificate, "broken").unwrap();
    assert!(tls.reload().unwrap_err().contains("cert.pem"));
    assert!(client(port, &good).ready(SOON).await.is_ok(), "the one before is kept");
}

#[tokio::test]
async fn plain_http_to_the_tls_address_gets_no_answer() {
    let files = Files::new("localhost");
    let port = served(Tls::load(&files.certificate, &files.key).unwrap()).await;
    let endpoint = format!("http://localhost:{port}").parse().unwrap();
    assert!(Client::new(vec![endpoint], None).ready(SOON).await.is_err());
}

#[test]
fn keys_that_everybody_can_read_and_files_that_are_none_are_refused() {
    let files = Files::new("localhost");
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = Tls::load(&files.certificate, &files.key).unwrap_err();
    assert!(said.contains("chmod 600"), "{said}");
    let missing = files.folder.path().join("none.pem");
    assert!(Tls::load(&files.certificate, &missing).unwrap_err().contains("none.pem"));
    let other = Files::new("localhost");
    let said = Tls::load(&files.certificate, &other.key).unwrap_err();
    assert!(said.contains("key.pem"), "{said}");
    assert!(Client::with_ca(Vec::new(), None, b"no certificate").is_err());
}

#[test]
fn tokens_do_not_cross_a_network_in_plain_text_unless_somebody_insists() {
    let files = Files::new("localhost");
    let tls = |more: &[&str]| {
        let words = [&["cobaltd"], more].concat();
        Arguments::try_parse_from(words).unwrap().common.tls().map(|tls| tls.is_some())
    };
    let said = tls(&["--listen", "0.0.0.0:7420"]).unwrap_err();
    assert!(said.contains("--tls-cert") && said.contains("--insecure-plain-tcp"), "{said}");
    assert!(tls(&["--listen", "[::]:7420"]).is_err());
    for fine in [
        &["--listen", "127.0.0.1:7420"][..],
        &["--listen", "[::1]:7420"],
        &["--listen", "none"],
        &["--listen", "192.0.2.1:7420", "--insecure-plain-tcp"],
    ] {
        assert_eq!(tls(fine), Ok(false), "{fine:?}");
    }
    let flags = files.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(tls(&[&["--listen", "0.0.0.0:7420"], &flags[..]].concat()), Ok(true));
}

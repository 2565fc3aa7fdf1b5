//! Whom to believe about the other end of `https://`. Knows nothing of requests.

use std::fmt;
use std::sync::Arc;

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Authorities that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCa(String);

impl fmt::Display for BadCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCa {}

/// Which authorities may sign the other end's certificate.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those of the system. Where it has none, nobody is believed.
    pub(super) fn of_system() -> Trust {
        let config = builder().with_native_roots().map(|config| config.with_no_client_auth());
        let nobody = || builder().with_root_certificates(RootCertStore::empty());
        Trust(Arc::new(config.unwrap_or_else(|_| nobody().with_no_client_auth())))
    }

    /// Those in this PEM text, and no others.
    pub(super) fn in_pem(pem: &[u8]) -> Result<Trust, BadCa> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| BadCa(error.to_string()))?;
            roots.add(certificate).map_err(|error| BadCa(error.to_string()))?;
        }
        match roots.is_empty() {
            true => Err(BadCa("it holds no certificate in PEM".to_owned())),
            false => {
                Ok(Trust(Arc::new(builder().with_root_certificates(roots).with_no_client_auth())))
            }
        }
    }

    /// Connects over TLS what connects over TCP.
    pub(super) fn around(&self, tcp: HttpConnector) -> HttpsConnector<HttpConnector> {
        HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&self.0))
            .https_only()
            .enable_http1()
            .wrap_connector(tcp)
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
}

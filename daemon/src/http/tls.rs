//! The certificate of the TCP listener, read from files, and read again when somebody says that
//! it was renewed. It knows nothing of HTTP.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate with its key, and where they lie.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads both files, PEM each.
    ///
    /// # Errors
    /// A sentence, when one cannot be read, everybody can read the key, or they do not belong
    /// together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Tls>, String> {
        let current = RwLock::new(config(certificate, key)?);
        Ok(Arc::new(Tls { certificate: certificate.to_owned(), key: key.to_owned(), current }))
    }

    /// Reads both again, for connections from now on. When that fails, the old ones stay.
    ///
    /// # Errors
    /// As for [`Tls::load`].
    pub fn reload(&self) -> Result<(), String> {
        let fresh = config(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let cannot = |path: &Path, why: &dyn std::fmt::Display| {
        format!("the TLS file {} cannot be used: {why}", path.display())
    };
    let metadata = std::fs::metadata(key).map_err(|error| cannot(key, &error))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        let path = key.display();
        return Err(format!(
            "everybody on this machine can use the TLS key {path}: run chmod 600 {path}"
        ));
    }
    let pem = std::fs::read(certificate).map_err(|error| cannot(certificate, &error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| cannot(certificate, &error))?;
    if chain.is_empty() {
        return Err(cannot(certificate, &"it holds no certificate in PEM"));
    }
    let pem = std::fs::read(key).map_err(|error| cannot(key, &error))?;
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| cannot(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| cannot(key, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

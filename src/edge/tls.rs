//! TLS: certificate and key, read again when their files change, so that a renewed certificate needs no restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::auth::files;

/// What HTTP may be spoken, the better one first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {}: {why}", path.display())]
pub struct TlsError {
    setting: &'static str,
    path: PathBuf,
    why: String,
}

type Marks = [Option<(SystemTime, u64)>; 2];

/// The certificate of the moment. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    cert: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    seen: Mutex<Marks>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.cert).finish()
    }
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(cert: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let seen = Mutex::new([files::mark(&cert), files::mark(&key)]);
        let config = ArcSwap::from_pointee(read(&cert, &key)?);
        Ok(Self(Arc::new(Shared { cert, key, config, seen })))
    }

    /// What a socket that has just come speaks.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.config.load_full())
    }

    /// Reads the files again if they have changed; those from before hold if something is wrong. Blocks on the disk.
    pub fn look_after_files(&self) {
        let Shared { cert, key, config, seen } = &*self.0;
        let now = [files::mark(cert), files::mark(key)];
        if std::mem::replace(&mut *seen.lock(), now) == now {
            return;
        }
        match read(cert, key) {
            Ok(fresh) => {
                config.store(Arc::new(fresh));
                tracing::info!("the certificate was read again, because its file has changed");
            }
            // The key may come a moment after the certificate; then both are read again.
            Err(error) => tracing::warn!(%error, "the certificate was not read again; the one from before holds"),
        }
    }
}

fn read(cert: &PathBuf, key: &PathBuf) -> Result<ServerConfig, TlsError> {
    let fault = |setting, path: &PathBuf, why: String| TlsError { setting, path: path.clone(), why };
    let bad_cert = |why: String| fault("server.tls_cert", cert, why);
    let bad_key = |why: String| fault("server.tls_key", key, why);
    let chain = CertificateDer::pem_file_iter(cert).map_err(|error| bad_cert(error.to_string()))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| bad_cert(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("there is no certificate in it".into()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_cert(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key_der);
    let mut config = config.map_err(|error| bad_key(error.to_string()))?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

//! TLS configurations from PEM.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::{BuildError, ServerTls};

fn bad(error: impl std::fmt::Display) -> BuildError {
    BuildError::Tls(error.to_string())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(bad)
}

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(bad)?;
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server's side: a client certificate is asked for, and checked when there is one.
pub(crate) fn server(tls: &ServerTls) -> Result<ServerConfig, BuildError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&tls.client_ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(bad)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(bad)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(bad)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client with a certificate.
pub(crate) fn client(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<ClientConfig, BuildError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(bad)?;
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(bad)
}

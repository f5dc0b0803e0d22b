//! TLS configurations from PEM.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::config::{BuildError, ServerTls};

fn bad(error: impl std::fmt::Display) -> BuildError {
    BuildError::Tls(error.to_string())
}

/// All certificates of a PEM file.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(bad)
}

/// Authorities of a PEM file.
pub(crate) fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(bad)?;
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server's side. A client certificate is asked for, and taken whoever signed it, as long as the client has its key:
/// whether it is believed, and as whose, is for authentication to say (upstream: `tls.RequestClientCert`). `authorities`
/// are what clients are told to choose by.
pub(crate) fn server(tls: &ServerTls, authorities: &[&RootCertStore]) -> Result<ServerConfig, BuildError> {
    let hints = authorities.iter().flat_map(|roots| roots.subjects()).collect();
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(bad)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_client_cert_verifier(Arc::new(Presented { hints, provider: provider() }))
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(bad)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Checks the certificates of clients against authorities, outside of a handshake.
pub(crate) fn callers(roots: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, BuildError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().map_err(bad)
}

/// Checks that clients have the keys of their certificates, and nothing else.
#[derive(Debug)]
struct Presented {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Presented {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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

/// Where systems keep the authorities that everyone believes.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A client that believes what a bundle says, or what the system does if it is empty.
pub(crate) fn of_webhook(bundle: &[u8]) -> Result<ClientConfig, BuildError> {
    Ok(believing(bundle)?.with_no_client_auth())
}

/// A client as a kubeconfig describes it: with a certificate and its key perhaps, and without authorities if whoever
/// answers is believed.
pub(crate) fn of_kubeconfig(
    authority: Option<&[u8]>,
    identity: Option<&(Vec<u8>, Vec<u8>)>,
) -> Result<ClientConfig, BuildError> {
    let config = match authority {
        Some(bundle) => believing(bundle)?,
        None => checked_by(transport::answerers(None).map_err(bad)?)?,
    };
    let Some((certificate, key)) = identity else { return Ok(config.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(bad)?;
    config.with_client_auth_cert(certificates(certificate)?, key).map_err(bad)
}

fn believing(bundle: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, BuildError> {
    let system = || SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let believed = match bundle {
        // One that cannot be read spoils no other.
        [] => certificates(&system()).unwrap_or_default(),
        bundle => {
            roots(bundle)?;
            certificates(bundle)?
        }
    };
    checked_by(transport::answerers(Some(believed)).map_err(bad)?)
}

fn checked_by(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, BuildError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// What Go says when a certificate is not believed.
pub(crate) fn in_gos_words(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let why = match inner {
        Some(Error::InvalidCertificate(why)) => why,
        Some(other) => return format!("tls: {other}"),
        None => return error.to_string(),
    };
    let why = match why {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate is not valid for the name that was asked for".to_owned()
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

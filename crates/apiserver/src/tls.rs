//! TLS configurations from PEM.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

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

/// Where systems keep the authorities that everyone believes.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A client that believes what a bundle says, or what the system does if it is empty.
pub(crate) fn of_webhook(bundle: &[u8]) -> Result<ClientConfig, BuildError> {
    Ok(believing(bundle)?.with_no_client_auth())
}

/// The same with a certificate of its own.
pub(crate) fn of_webhook_as(
    bundle: &[u8],
    certificate: &[u8],
    key: &[u8],
) -> Result<ClientConfig, BuildError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(bad)?;
    believing(bundle)?.with_client_auth_cert(certificates(certificate)?, key).map_err(bad)
}

fn believing(bundle: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, BuildError> {
    let system = || SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let mut store = RootCertStore::empty();
    let pinned: Vec<CertificateDer<'static>> = match bundle {
        [] => {
            // One that cannot be read spoils no other.
            store.add_parsable_certificates(certificates(&system()).unwrap_or_default());
            Vec::new()
        }
        bundle => {
            let pinned = certificates(bundle)?;
            for certificate in &pinned {
                store.add(certificate.clone()).map_err(bad)?;
            }
            pinned
        }
    };
    let verifier: Arc<dyn ServerCertVerifier> = match store.is_empty() {
        // Nobody is believed.
        true => Arc::new(Nobody),
        false => {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
            Arc::new(OrPinned { inner: inner.build().map_err(bad)?, pinned })
        }
    };
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
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate is not valid for the name that was asked for".to_owned()
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// Believes what the authorities say, and also a certificate that stands among them itself: Go takes one that is its
/// own authority, webpki does not.
#[derive(Debug)]
struct OrPinned {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl OrPinned {
    fn is_pinned(
        &self,
        end: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<bool, Error> {
        if !self.pinned.iter().any(|own| own.as_ref() == end.as_ref()) {
            return Ok(false);
        }
        verify_server_name(&ParsedCertificate::try_from(end)?, name)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = x509_parser::parse_x509_certificate(end.as_ref()).is_ok_and(|(_, parsed)| {
            let validity = parsed.validity();
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&seconds)
        });
        if valid { Ok(true) } else { Err(Error::InvalidCertificate(CertificateError::Expired)) }
    }
}

impl ServerCertVerifier for OrPinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.is_pinned(end_entity, server_name, now)? {
            return Ok(ServerCertVerified::assertion());
        }
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Believes nothing.
#[derive(Debug)]
struct Nobody;

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

//! Whose certificate is believed: by an authority that is named, as Go's library does it.
//!
//! webpki refuses an authority's certificate that is shown as somebody's own; Go takes it. etcd's users have such
//! certificates (they are quickly made), so those alone are checked here, link by link. Nothing else is laxer.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use crate::names::Names;

/// Authorities between a certificate and one that is trusted, at most.
const MAX_DEPTH: usize = 8;

/// Names that are admitted; anybody without any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    pub common_names: Vec<String>,
    pub hostnames: Vec<String>,
}

impl Allowed {
    /// Refuses a certificate that is good, and not one that was asked for.
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.common_names.is_empty() && self.hostnames.is_empty() {
            return Ok(());
        }
        let names = Names::of(certificate).ok_or(CertificateError::BadEncoding)?;
        let good = self.common_names.contains(&names.common_name)
            || self.hostnames.iter().any(|host| names.check(host).is_ok());
        if good { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    Server,
    Client,
}

/// Trusted certificates, as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots(Arc<Vec<CertificateDer<'static>>>);

impl Roots {
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self(Arc::new(certificates))
    }

    pub fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.0.iter().cloned());
        store
    }

    /// Whether webpki would refuse a certificate only for what it is.
    fn is_for_us(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_authority = |parsed: &X509Certificate<'_>| parsed.is_ca();
        self.0.iter().any(|root| root == certificate)
            || X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| is_authority(&parsed))
    }

    /// Goes from a certificate up to one that is trusted.
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = parse(certificate)?;
        check_usage(&leaf, usage)?;
        check_time(&leaf, now)?;
        if self.0.iter().any(|root| root == certificate) {
            return Ok(());
        }
        let roots = self.0.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let between = intermediates.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        climb(&leaf, &between, &roots, now, MAX_DEPTH)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let parsed = X509Certificate::from_der(certificate);
    Ok(parsed.map_err(|_| CertificateError::BadEncoding)?.1)
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(now).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

fn check_usage(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), Error> {
    let extension = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let Some(extension) = extension else { return Ok(()) };
    let wanted = match usage {
        Usage::Server => extension.value.server_auth,
        Usage::Client => extension.value.client_auth,
    };
    if wanted || extension.value.any { Ok(()) } else { Err(CertificateError::InvalidPurpose.into()) }
}

/// Whether a certificate may sign others here. One whose constraints are not understood may not.
fn may_sign(authority: &X509Certificate<'_>, now: UnixTime) -> bool {
    let signs = match authority.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    let unconstrained = matches!(authority.name_constraints(), Ok(None));
    authority.is_ca() && signs && unconstrained && check_time(authority, now).is_ok()
}

fn climb(
    certificate: &X509Certificate<'_>,
    between: &[X509Certificate<'_>],
    roots: &[X509Certificate<'_>],
    now: UnixTime,
    depth: usize,
) -> Result<(), Error> {
    let signed_by = |authority: &X509Certificate<'_>| {
        authority.subject().as_raw() == certificate.issuer().as_raw()
            && may_sign(authority, now)
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
    };
    if roots.iter().any(signed_by) {
        return Ok(());
    }
    if depth > 0 {
        for authority in between.iter().filter(|authority| signed_by(authority)) {
            if climb(authority, between, roots, now, depth - 1).is_ok() {
                return Ok(());
            }
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

/// Checks those who call.
#[derive(Debug)]
pub(crate) struct Callers {
    webpki: Arc<dyn ClientCertVerifier>,
    roots: Roots,
    allowed: Allowed,
}

impl Callers {
    pub fn new(roots: Roots, allowed: Allowed, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.store()), provider);
        let webpki = webpki.build().map_err(|error| error.to_string())?;
        Ok(Self { webpki, roots, allowed })
    }
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.roots.is_for_us(certificate) {
            self.roots.check(certificate, intermediates, Usage::Client, now)?;
        } else {
            self.webpki.verify_client_cert(certificate, intermediates, now)?;
        }
        self.allowed.check(certificate)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks those who answer.
#[derive(Debug)]
pub(crate) struct Answerers {
    /// None if whoever answers is believed: the handshake must still be signed by the key of what it shows. Without
    /// roots nobody is.
    trust: Option<(Option<Arc<WebPkiServerVerifier>>, Roots)>,
    allowed: Allowed,
    provider: Arc<CryptoProvider>,
}

impl Answerers {
    pub fn new(
        roots: Option<Roots>,
        allowed: Allowed,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let webpki = |store| {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
            built.map_err(|error| error.to_string())
        };
        let trust = match roots {
            None => None,
            Some(roots) => {
                let store = roots.store();
                Some(((!store.is_empty()).then(|| webpki(store)).transpose()?, roots))
            }
        };
        Ok(Self { trust, allowed, provider })
    }
}

impl ServerCertVerifier for Answerers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((webpki, roots)) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if roots.is_for_us(certificate) {
            roots.check(certificate, intermediates, Usage::Server, now)?;
            check_name(certificate, name)?;
        } else {
            let webpki = webpki.as_ref().ok_or(CertificateError::UnknownIssuer)?;
            webpki.verify_server_cert(certificate, intermediates, name, ocsp, now)?;
        }
        self.allowed.check(certificate)?;
        Ok(ServerCertVerified::assertion())
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

/// Checks those who answer against these authorities, or takes any of their certificates without any. That the other
/// side holds the key of what it shows is checked in both cases.
///
/// # Errors
/// The authorities cannot be used.
pub fn answerers(
    authorities: Option<Vec<CertificateDer<'static>>>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(Arc::new(Answerers::new(authorities.map(Roots::new), Allowed::default(), provider)?))
}

fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let names = Names::of(certificate).ok_or(CertificateError::BadEncoding)?;
    if names.check(&name.to_str()).is_ok() {
        return Ok(());
    }
    let addresses = names.addresses.iter().map(std::net::IpAddr::to_string);
    let presented = addresses.chain(names.hosts.iter().cloned()).collect();
    Err(CertificateError::NotValidForNameContext { expected: name.to_owned(), presented }.into())
}

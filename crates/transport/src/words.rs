//! Failures of TLS in the words of Go's library, which people and tools look for in logs.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What etcd says when a certificate is good but not one that was asked for.
pub(crate) const NOT_ALLOWED: &str = "client certificate authentication failed";

/// A failure of a connection.
pub(crate) fn failure(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "EOF".to_owned();
    }
    match tls_error(error) {
        Some(tls) => tls_failure(tls),
        None => error.to_string(),
    }
}

/// The TLS library's error in an error of a connection.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<Error>() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

fn tls_failure(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_words(*alert)),
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidCertificate(error) => certificate_failure(error),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::PeerIncompatible(rustls::PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

pub(crate) fn certificate_failure(error: &CertificateError) -> String {
    match error {
        // Said here only of names that the configuration allows.
        CertificateError::NotValidForName => NOT_ALLOWED.to_owned(),
        CertificateError::UnknownIssuer => "x509: certificate signed by unknown authority".to_owned(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("x509: certificate has expired or is not yet valid: {error}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("x509: certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        other => format!("x509: {other}"),
    }
}

fn alert_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({other:?})"),
    };
    words.to_owned()
}

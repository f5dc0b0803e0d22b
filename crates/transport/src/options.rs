//! What TLS is configured with, in etcd's terms.

use std::path::PathBuf;

use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Certificates and rules for one side: towards clients, or between members.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The certificate chain that is served, and shown to others unless there is one for that.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The certificate chain that is shown when calling (`--client-cert-file`).
    pub client_certificate: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
    /// Who may sign the others' certificates. When it is set every caller needs one.
    pub trusted_ca: Option<PathBuf>,
    /// Whether callers need a certificate even if no authority is named: the system's authorities are asked then.
    pub client_cert_auth: bool,
    /// Certificates that are not believed any more.
    pub revocation_list: Option<PathBuf>,
    /// The common name must be one of these, if there are any.
    pub allowed_common_names: Vec<String>,
    /// The certificate must be valid for one of these, if there are any.
    pub allowed_hostnames: Vec<String>,
    /// Whether callers must come from an address that their certificate names.
    pub check_caller_address: bool,
    /// Whether whoever answers is believed (certificates that nobody signed).
    pub believe_anyone: bool,
    /// The name that those who answer must have, instead of the one they are called by.
    pub server_name: Option<String>,
    /// Cipher suites of TLS 1.2; all without.
    pub cipher_suites: Vec<SupportedCipherSuite>,
    /// Versions that are spoken.
    pub versions: TlsVersions,
}

/// The versions of TLS that are spoken: at least the one, at most the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsVersions {
    /// Whether TLS 1.2 is refused.
    pub without_12: bool,
    /// Whether TLS 1.3 is refused.
    pub without_13: bool,
}

/// A version that does not exist here, or an empty range. The words are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not a version.
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    Unknown(String),
    /// Nothing is left.
    #[error("min version ({0}) is greater than max version ({1})")]
    Empty(String, String),
}

impl TlsVersions {
    /// etcd's `--tls-min-version` and `--tls-max-version`; empty text sets no bound.
    ///
    /// # Errors
    /// See [`VersionError`].
    pub fn parse(min: &str, max: &str) -> Result<Self, VersionError> {
        for text in [min, max] {
            if !matches!(text, "" | "TLS1.2" | "TLS1.3") {
                return Err(VersionError::Unknown(text.to_owned()));
            }
        }
        let versions = Self { without_12: min == "TLS1.3", without_13: max == "TLS1.2" };
        if versions.without_12 && versions.without_13 {
            return Err(VersionError::Empty(min.to_owned(), max.to_owned()));
        }
        Ok(versions)
    }

    pub(crate) fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let mut list = Vec::new();
        if !self.without_13 {
            list.push(&rustls::version::TLS13);
        }
        if !self.without_12 {
            list.push(&rustls::version::TLS12);
        }
        list
    }
}

/// A name that Go does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected TLS cipher suite {0:?}")]
pub struct CipherSuiteError(String);

/// Go's names of what rustls has too.
const SUITES: &[(&str, SupportedCipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Go's names of what is too weak for rustls: known, and never offered.
const WEAK: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// etcd's `--cipher-suites`. As in Go they choose among those of TLS 1.2; the ones of TLS 1.3 are always there.
///
/// # Errors
/// A name that Go does not know.
pub fn cipher_suites(names: &[String]) -> Result<Vec<SupportedCipherSuite>, CipherSuiteError> {
    let mut chosen = Vec::new();
    for name in names {
        match SUITES.iter().find(|(known, _)| known == name) {
            Some((_, suite)) => chosen.push(*suite),
            None if WEAK.contains(&name.as_str()) => {
                tracing::warn!(name, "this TLS cipher suite is too weak and is not offered");
            }
            None => return Err(CipherSuiteError(name.clone())),
        }
    }
    Ok(chosen)
}

impl TlsOptions {
    /// The suites to offer. Of TLS 1.3 all: Go does not let them be chosen.
    pub(crate) fn suites(&self) -> Vec<SupportedCipherSuite> {
        let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        if self.cipher_suites.is_empty() {
            return rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec();
        }
        let chosen =
            |suite: &&SupportedCipherSuite| suite.tls13().is_some() || self.cipher_suites.contains(suite);
        all.iter().filter(chosen).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_a_range() {
        let parse = TlsVersions::parse;
        assert_eq!(parse("TLS1.2", "").expect("a range").list().len(), 2);
        assert_eq!(parse("TLS1.3", "TLS1.3").expect("a range").list(), [&rustls::version::TLS13]);
        assert_eq!(
            parse("TLS1.3", "TLS1.2").expect_err("empty").to_string(),
            "min version (TLS1.3) is greater than max version (TLS1.2)"
        );
        assert_eq!(
            parse("1.1", "").expect_err("unknown").to_string(),
            "unexpected TLS version \"1.1\" (must be one of: TLS1.2, TLS1.3)"
        );
    }

    #[test]
    fn suites_have_the_names_of_go() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let chosen = cipher_suites(&names(&[
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        ]));
        let options = TlsOptions { cipher_suites: chosen.expect("known"), ..TlsOptions::default() };
        let offered = options.suites();
        assert_eq!(offered.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        assert_eq!(offered.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        let unknown = cipher_suites(&names(&["TLS_NONSENSE"])).expect_err("unknown");
        assert_eq!(unknown.to_string(), "unexpected TLS cipher suite \"TLS_NONSENSE\"");
    }
}

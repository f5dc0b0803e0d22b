//! TLS made from files that may change while it is used.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::names::Names;
use crate::options::TlsOptions;
use crate::verify::{Allowed, Answerers, Callers, Roots};

/// What both sides of etcd speak.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Where systems keep the authorities that they trust, the first that is there.
const SYSTEM_AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why files make no TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Only one of a certificate and its key.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]")]
    HalfPair {
        /// The key's file, if there is one.
        key: String,
        /// The certificate's file, if there is one.
        certificate: String,
    },
    /// Only one of a certificate to show and its key.
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {certificate}]"
    )]
    HalfClientPair {
        /// The key's file, if there is one.
        key: String,
        /// The certificate's file, if there is one.
        certificate: String,
    },
    /// Two rules for names.
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={names:?}, hostnames={hostnames:?})"
    )]
    TwoRules {
        /// Common names.
        names: Vec<String>,
        /// Host names.
        hostnames: Vec<String>,
    },
    /// A file cannot be read.
    #[error("open {path}: {cause}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        cause: String,
    },
    /// A file holds something else.
    #[error("{path}: {cause}")]
    Content {
        /// Which.
        path: String,
        /// Why.
        cause: String,
    },
    /// Files that do not fit together.
    #[error("{0}")]
    Unfit(String),
}

/// Both ends' settings, made from one reading of the files.
#[derive(Clone)]
pub(crate) struct Configs {
    /// None without a certificate.
    pub server: Option<Arc<ServerConfig>>,
    pub client: Arc<ClientConfig>,
    /// Serial numbers of certificates that are not believed any more, without leading zeros.
    pub revoked: Arc<BTreeSet<Vec<u8>>>,
}

/// A file as it was when it was read: another one in its place differs in one of these.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

/// TLS of one side. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    options: TlsOptions,
    files: Vec<PathBuf>,
    loaded: Mutex<(Vec<Option<Stamp>>, Configs)>,
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(options: TlsOptions) -> Result<Self, TlsError> {
        check(&options)?;
        let named = [
            &options.certificate,
            &options.key,
            &options.client_certificate,
            &options.client_key,
            &options.trusted_ca,
            &options.revocation_list,
        ];
        let files: Vec<PathBuf> = named.into_iter().flatten().cloned().collect();
        let stamps = stamps(&files);
        let configs = load(&options)?;
        Ok(Self(Arc::new(Inner { options, files, loaded: Mutex::new((stamps, configs)) })))
    }

    /// What it was made from.
    pub fn options(&self) -> &TlsOptions {
        &self.0.options
    }

    /// Settings from the files as they are now, or as they were when they could be used last.
    pub(crate) fn current(&self) -> Configs {
        let mut loaded = self.0.loaded.lock();
        let stamps = stamps(&self.0.files);
        if stamps != loaded.0 {
            match load(&self.0.options) {
                Ok(configs) => {
                    tracing::info!(files = ?self.0.files, "loaded TLS files that have changed");
                    loaded.1 = configs;
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to load TLS files that have changed; the ones before stay in use");
                }
            }
            loaded.0 = stamps;
        }
        loaded.1.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        Some(Stamp {
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
            size: data.len(),
            inode: (data.dev(), data.ino()),
        })
    };
    files.iter().map(stamp).collect()
}

fn text(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn check(options: &TlsOptions) -> Result<(), TlsError> {
    if options.certificate.is_some() != options.key.is_some() {
        return Err(TlsError::HalfPair {
            key: text(options.key.as_ref()),
            certificate: text(options.certificate.as_ref()),
        });
    }
    if options.client_certificate.is_some() != options.client_key.is_some() {
        return Err(TlsError::HalfClientPair {
            key: text(options.client_key.as_ref()),
            certificate: text(options.client_certificate.as_ref()),
        });
    }
    if !options.allowed_common_names.is_empty() && !options.allowed_hostnames.is_empty() {
        return Err(TlsError::TwoRules {
            names: options.allowed_common_names.clone(),
            hostnames: options.allowed_hostnames.clone(),
        });
    }
    Ok(())
}

fn load(options: &TlsOptions) -> Result<Configs, TlsError> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: options.suites(),
        ..rustls::crypto::aws_lc_rs::default_provider()
    });
    Ok(Configs {
        server: server(options, &provider)?.map(Arc::new),
        client: Arc::new(client(options, &provider)?),
        revoked: Arc::new(options.revocation_list.as_deref().map(revoked).transpose()?.unwrap_or_default()),
    })
}

fn allowed(options: &TlsOptions) -> Allowed {
    Allowed {
        common_names: options.allowed_common_names.clone(),
        hostnames: options.allowed_hostnames.clone(),
    }
}

fn unfit(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unfit(error.to_string())
}

fn server(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Option<ServerConfig>, TlsError> {
    let (Some(certificate), Some(key)) = (&options.certificate, &options.key) else { return Ok(None) };
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&options.versions.list()).map_err(unfit)?;
    let builder = if options.trusted_ca.is_some() || options.client_cert_auth {
        let callers = Callers::new(roots(options)?, allowed(options), provider.clone()).map_err(unfit)?;
        builder.with_client_cert_verifier(Arc::new(callers))
    } else {
        builder.with_no_client_auth()
    };
    let config = builder.with_single_cert(chain(certificate)?, private_key(key)?);
    let mut config = config.map_err(|error| content(certificate, error))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Some(config))
}

fn client(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&options.versions.list()).map_err(unfit)?;
    let roots = if options.believe_anyone { None } else { Some(roots(options)?) };
    let answerers = Answerers::new(roots, allowed(options), provider.clone()).map_err(unfit)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(answerers));
    let pair = match (&options.client_certificate, &options.client_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        _ => options.certificate.as_ref().zip(options.key.as_ref()),
    };
    let mut config = match pair {
        Some((certificate, key)) => builder
            .with_client_auth_cert(chain(certificate)?, private_key(key)?)
            .map_err(|error| content(certificate, error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn content(path: &Path, cause: impl std::fmt::Display) -> TlsError {
    TlsError::Content { path: path.display().to_string(), cause: cause.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        TlsError::Read { path: path.display().to_string(), cause }
    })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| content(path, error))?;
    if chain.is_empty() { Err(content(path, "there is no certificate in it")) } else { Ok(chain) }
}

/// The common name in a certificate's file; empty if it has none.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn common_name(certificate: &Path) -> Result<String, TlsError> {
    let chain = chain(certificate)?;
    let names = Names::of(&chain[0]).ok_or_else(|| content(certificate, "it is no certificate"))?;
    Ok(names.common_name)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| content(path, error))
}

/// The authorities that are named, or the system's; none at all is no fault until somebody is to be believed.
fn roots(options: &TlsOptions) -> Result<Roots, TlsError> {
    if let Some(path) = &options.trusted_ca {
        return Ok(Roots::new(chain(path)?));
    }
    let system = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let certificates = match system {
        Some(path) => chain(path)?,
        // Webpki wants one authority: a server's own certificate is as good as none to anybody else.
        None => options.certificate.as_deref().map(chain).transpose()?.unwrap_or_default(),
    };
    Ok(Roots::new(certificates))
}

/// A list of revoked certificates, as DER or as PEM. etcd looks at serial numbers alone.
fn revoked(path: &Path) -> Result<BTreeSet<Vec<u8>>, TlsError> {
    let bytes = read(path)?;
    let der = match CertificateRevocationListDer::from_pem_slice(&bytes) {
        Ok(der) => der.as_ref().to_vec(),
        Err(_) => bytes,
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| content(path, error))?;
    Ok(list.iter_revoked_certificates().map(|entry| bare_serial(entry.raw_serial()).to_vec()).collect())
}

/// A serial number without the zero that keeps it positive.
pub(crate) fn bare_serial(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

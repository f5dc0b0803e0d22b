//! Client certificates: the common name is the user, organizations are the groups (upstream:
//! `apiserver/pkg/authentication/request/x509`). They are checked when a request comes, not in the handshake: whoever
//! shows one that is not believed may have a token that is.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Histogram, histogram};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::headers::RequestHeaderConfig;
use crate::api::Api;
use crate::config::{BuildError, ServerTls, ServerTlsFiles};
use crate::tls;
use crate::user::UserInfo;

/// Where a certificate is told of in what is known of its user.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The part of a subject that holds a user's UID (upstream: `X509UID`).
const UID: &str = "1.3.6.1.4.1.57683.2";
/// Seconds that a chain which was found good is not looked at again, while the authorities stay the same and its own
/// certificate is valid.
const KEPT_SECONDS: i64 = 10;

/// Whose certificates are believed, and what the server shows itself.
pub(crate) struct Certificates {
    /// Where the server's own are read again.
    files: Option<ServerTlsFiles>,
    /// The authorities of proxies.
    proxies: Option<PathBuf>,
    current: ArcSwap<Trust>,
}

/// What everything is made of, PEM.
#[derive(Clone, PartialEq, Eq)]
struct Sources {
    own: ServerTls,
    proxies: Option<Vec<u8>>,
}

/// As it is now.
pub(crate) struct Trust {
    /// What connections are accepted with.
    pub server: Arc<ServerConfig>,
    users: Arc<dyn ClientCertVerifier>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
    sources: Sources,
}

impl Trust {
    fn new(sources: Sources) -> Result<Self, BuildError> {
        let users = tls::roots(&sources.own.client_ca)?;
        let roots = sources.proxies.as_deref().map(tls::roots).transpose()?;
        if roots.as_ref().is_some_and(|roots| roots.is_empty()) {
            return Err(BuildError::Tls("there is no authority of proxies in the file".to_owned()));
        }
        let all: Vec<&RootCertStore> =
            [Some(&users), roots.as_ref()].into_iter().flatten().map(|roots| &**roots).collect();
        let server = Arc::new(tls::server(&sources.own, &all)?);
        let proxies = roots.as_ref().map(tls::callers).transpose()?;
        Ok(Self { server, users: tls::callers(&users)?, proxies, sources })
    }

    /// The authorities of users, PEM.
    pub fn user_authorities(&self) -> &[u8] {
        &self.sources.own.client_ca
    }

    /// The authorities of proxies, PEM.
    pub fn proxy_authorities(&self) -> Option<&[u8]> {
        self.sources.proxies.as_deref()
    }
}

impl Certificates {
    /// `files`: where `own` is read again.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn new(
        own: &ServerTls,
        files: Option<ServerTlsFiles>,
        headers: &RequestHeaderConfig,
    ) -> Result<Self, BuildError> {
        let proxies = headers.client_ca_file.clone();
        let read = |path: &PathBuf| {
            let failed = |error| BuildError::Authentication(format!("open {}: {error}", path.display()));
            std::fs::read(path).map_err(failed)
        };
        let authorities = proxies.as_ref().map(read).transpose()?;
        let trust = Trust::new(Sources { own: own.clone(), proxies: authorities })?;
        headers.check(&own.client_ca, trust.proxy_authorities()).map_err(BuildError::Authentication)?;
        Ok(Self { files, proxies, current: ArcSwap::from_pointee(trust) })
    }

    pub fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// Follows the files: what they hold when it can be used together replaces what was, for new connections and for
    /// the certificates that were shown on open ones.
    pub async fn keep(&self, api: &Api, interval: Duration) {
        let mut refused = None;
        loop {
            api.storage.env.clock.sleep(interval).await;
            // A file that is just being replaced is read the next time.
            let Ok(found) = self.read().await else { continue };
            if found == self.current.load().sources || refused.as_ref() == Some(&found) {
                continue;
            }
            match Trust::new(found.clone()) {
                Ok(trust) => {
                    self.current.store(Arc::new(trust));
                    tracing::info!("the certificates of the API changed");
                }
                Err(error) => {
                    tracing::error!(%error, "certificates changed, and those before stay in use");
                    refused = Some(found);
                }
            }
        }
    }

    async fn read(&self) -> io::Result<Sources> {
        let mut found = self.current.load().sources.clone();
        if let Some(files) = &self.files {
            found.own = ServerTls {
                certificate: tokio::fs::read(&files.certificate).await?,
                key: tokio::fs::read(&files.key).await?,
                client_ca: tokio::fs::read(&files.client_ca).await?,
            };
        }
        if let Some(file) = &self.proxies {
            found.proxies = Some(tokio::fs::read(file).await?);
        }
        Ok(found)
    }
}

/// What a connection's client has shown.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    user: Result<Option<UserInfo>, String>,
    pub common_name: String,
    /// Seconds since the epoch at which it ends.
    ends: i64,
    judged: Mutex<Option<Judged>>,
    validity: OnceLock<Histogram>,
}

/// What was found of it, and how long that holds.
#[derive(Clone)]
struct Judged {
    by: Arc<Trust>,
    /// Seconds since the epoch.
    until: i64,
    as_user: Result<(), String>,
    as_proxy: Option<Result<(), String>>,
}

impl Shown {
    /// None when there is no certificate, or none that can be read.
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
        let common_name = parsed.subject().iter_common_name().next();
        let common_name = common_name.and_then(|entry| entry.as_str().ok()).unwrap_or_default().to_owned();
        Some(Self {
            user: user_of(chain.first()?, &parsed, &common_name),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            common_name,
            ends: parsed.validity().not_after.timestamp(),
            judged: Mutex::default(),
            validity: OnceLock::new(),
        })
    }

    /// The user that it names, if it is believed; none when it names nobody. `now` in milliseconds.
    pub fn user(&self, trust: &Arc<Trust>, now: i64) -> Result<Option<UserInfo>, String> {
        self.judge(trust, now).as_user?;
        self.user.clone()
    }

    /// Counts how long the certificate of a request is still valid; `now` in milliseconds.
    pub fn count_validity(&self, now: i64) {
        let left =
            self.validity.get_or_init(|| histogram!("apiserver_client_certificate_expiration_seconds"));
        left.record((self.ends - now.div_euclid(1000)) as f64);
    }

    /// Whether it is a proxy's; none when no proxy is believed.
    pub fn as_proxy(&self, trust: &Arc<Trust>, now: i64) -> Option<Result<(), String>> {
        self.judge(trust, now).as_proxy
    }

    fn judge(&self, trust: &Arc<Trust>, now: i64) -> Judged {
        let now = now.div_euclid(1000);
        let mut judged = self.judged.lock();
        if let Some(known) =
            judged.as_ref().filter(|known| Arc::ptr_eq(&known.by, trust) && now < known.until)
        {
            return known.clone();
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
        let check = |verifier: &Arc<dyn ClientCertVerifier>| {
            let checked = verifier.verify_client_cert(&self.chain[0], &self.chain[1..], time);
            checked.map(drop).map_err(|error| error.to_string())
        };
        let found = Judged {
            by: trust.clone(),
            until: (now + KEPT_SECONDS).min(self.ends + 1),
            as_user: check(&trust.users),
            as_proxy: trust.proxies.as_ref().map(check),
        };
        *judged = Some(found.clone());
        found
    }
}

fn user_of(der: &[u8], parsed: &X509Certificate<'_>, name: &str) -> Result<Option<UserInfo>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let subject = parsed.subject();
    let uids: Vec<&str> = subject
        .iter_attributes()
        .filter(|entry| entry.attr_type().to_id_string() == UID)
        .map(|entry| entry.as_str().map_err(|_| "unable to parse UID into a string".to_owned()))
        .collect::<Result<_, _>>()?;
    let uid = match uids.as_slice() {
        [] => "",
        ["", ..] => return Err("UID cannot be an empty string".to_owned()),
        [one] => one,
        many => return Err(format!("expected 1 UID, but found multiple: {many:?}")),
    };
    let mut id = "X509SHA256=".to_owned();
    for byte in Sha256::digest(der) {
        write!(id, "{byte:02x}").expect("invariant: a text takes everything");
    }
    let groups = subject.iter_organization().filter_map(|entry| entry.as_str().ok());
    Ok(Some(UserInfo {
        name: name.to_owned(),
        uid: uid.to_owned(),
        groups: groups.map(str::to_owned).collect(),
        extra: [(CREDENTIAL_ID.to_owned(), vec![id])].into(),
    }))
}

//! Client certificates: the common name is the user, organizations are the groups (upstream:
//! `apiserver/pkg/authentication/request/x509`). They are checked when a request comes, not in the handshake: whoever
//! shows one that is not believed may have a token that is.

use std::fmt::Write as _;
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
use crate::config::{BuildError, ServerTls};
use crate::user::UserInfo;
use crate::{config_file, tls};

/// Where a certificate is told of in what is known of its user.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The part of a subject that holds a user's UID (upstream: `X509UID`).
const UID: &str = "1.3.6.1.4.1.57683.2";
/// Seconds that a chain which was found good is not looked at again, while the authorities stay the same and its own
/// certificate is valid.
const KEPT_SECONDS: i64 = 10;

/// Whose certificates are believed, and what the server shows itself.
pub(crate) struct Certificates {
    tls: ServerTls,
    /// The authorities of proxies, which may change.
    file: Option<PathBuf>,
    current: ArcSwap<Trust>,
}

/// As it is now.
pub(crate) struct Trust {
    /// What connections are accepted with.
    pub server: Arc<ServerConfig>,
    users: Arc<dyn ClientCertVerifier>,
    proxies: Option<Proxies>,
}

struct Proxies {
    /// PEM.
    authorities: Vec<u8>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    fn new(own: &ServerTls, proxies: Option<Vec<u8>>) -> Result<Self, BuildError> {
        let users = tls::roots(&own.client_ca)?;
        let roots = proxies.as_deref().map(tls::roots).transpose()?;
        if roots.as_ref().is_some_and(|roots| roots.is_empty()) {
            return Err(BuildError::Tls("there is no authority of proxies in the file".to_owned()));
        }
        let all: Vec<&RootCertStore> =
            [Some(&users), roots.as_ref()].into_iter().flatten().map(|roots| &**roots).collect();
        let server = Arc::new(tls::server(own, &all)?);
        let proxies = proxies.zip(roots).map(|(authorities, roots)| {
            Ok::<_, BuildError>(Proxies { authorities, verifier: tls::callers(&roots)? })
        });
        Ok(Self { server, users: tls::callers(&users)?, proxies: proxies.transpose()? })
    }

    /// The authorities of proxies, PEM.
    pub fn proxy_authorities(&self) -> Option<&[u8]> {
        self.proxies.as_ref().map(|proxies| proxies.authorities.as_slice())
    }
}

impl Certificates {
    /// # Errors
    /// Files that cannot be used.
    pub fn new(own: &ServerTls, proxies: &RequestHeaderConfig) -> Result<Self, BuildError> {
        let file = proxies.client_ca_file.clone();
        let read = |path: &PathBuf| {
            let failed = |error| BuildError::Authentication(format!("open {}: {error}", path.display()));
            std::fs::read(path).map_err(failed)
        };
        let trust = Trust::new(own, file.as_ref().map(read).transpose()?)?;
        proxies.check(&own.client_ca, trust.proxy_authorities()).map_err(BuildError::Authentication)?;
        Ok(Self { tls: own.clone(), file, current: ArcSwap::from_pointee(trust) })
    }

    pub fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// The authorities of users, PEM.
    pub fn user_authorities(&self) -> &[u8] {
        &self.tls.client_ca
    }

    /// Follows the file of the proxies' authorities: what it holds when it can be used replaces what was.
    pub async fn keep(&self, api: &Api, interval: Duration) {
        let Some(file) = &self.file else { return };
        let is_known = |text: &[u8]| self.current.load().proxy_authorities() == Some(text);
        let take = |text: Vec<u8>| {
            let trust = Trust::new(&self.tls, Some(text)).map_err(|error| error.to_string())?;
            self.current.store(Arc::new(trust));
            Ok(())
        };
        config_file::follow(&api.storage.env.clock, "request header", file, interval, is_known, take).await;
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
            as_proxy: trust.proxies.as_ref().map(|proxies| check(&proxies.verifier)),
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

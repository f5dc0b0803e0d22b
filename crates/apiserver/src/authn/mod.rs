//! Who is asking: a proxy's headers, client certificates, tokens of a file, of service accounts, of machines that join, of other
//! issuers or of a server that knows them, or nobody.
//!
//! Everyone is asked in upstream's order until one knows who it is (`pkg/kubeapiserver/authenticator`); one that is
//! certain that something is wrong keeps the others from nobody's request, not from a better answer.

mod bootstrap;
mod certificate;
mod headers;
mod keys;
mod oidc;
mod protocol;
mod token;
mod token_file;
mod webhook;

use std::net::SocketAddr;

use api_types::status::Status;
use env::{Env, TaskGroup};
use http::{HeaderMap, header};
use tokio::time::Instant;

pub(crate) use certificate::{Certificates, Shown};
pub use headers::RequestHeaderConfig;
use keys::{Discovery, Keys};
pub(crate) use oidc::Oidc;
pub use oidc::OidcConfig;
pub(crate) use token::{Bound, Reference, Tokens, Verified};
pub use webhook::TokenWebhookConfig;

use crate::api::Api;
use crate::config::{ApiServerConfig, BuildError};
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, UserInfo};
use token::TokenError;
use token_file::TokenFile;
use webhook::TokenWebhook;

/// Paths that are answered whoever asks (upstream's default of `--authorization-always-allow-paths`).
const PUBLIC: [&str; 3] = ["/healthz", "/livez", "/readyz"];
/// What is said of a token that nobody knows.
const UNKNOWN_TOKEN: &str = "invalid bearer token";

/// Finds out who asks.
pub(crate) struct Authenticator {
    pub certificates: Certificates,
    pub proxies: RequestHeaderConfig,
    pub tokens: Tokens,
    /// What others are told of the keys of service account tokens, if they are.
    pub discovery: Option<Discovery>,
    pub oidc: Oidc,
    webhook: Option<TokenWebhook>,
    file: TokenFile,
    anonymous: bool,
    bootstrap_tokens: bool,
}

impl Authenticator {
    pub fn new(config: &ApiServerConfig, env: &Env, tasks: &TaskGroup) -> Result<Self, BuildError> {
        let accounts = &config.service_account;
        let keys = Keys::read(accounts)?;
        let address = SocketAddr::new(config.advertise_address, config.listen.port()).to_string();
        let discovery = Discovery::new(&keys, accounts, &address);
        let tokens = Tokens::new(keys, accounts, &config.api_audiences);
        let file = config.token_file.as_deref().map_or_else(|| Ok(TokenFile::default()), TokenFile::load);
        let (asked, wait) = (&config.token_webhook, config.review_retry);
        let webhook = TokenWebhook::new(asked, tokens.audiences(), wait, env, tasks);
        Ok(Self {
            certificates: Certificates::new(&config.tls, config.tls_files.clone(), &config.request_header)?,
            proxies: config.request_header.clone(),
            oidc: Oidc::new(config)?,
            webhook: webhook.map_err(BuildError::Authentication)?,
            file: file.map_err(BuildError::Authentication)?,
            tokens,
            discovery,
            anonymous: config.anonymous_auth.unwrap_or(true) && !config.authorization.allows_always(),
            bootstrap_tokens: config.bootstrap_token_auth,
        })
    }

    /// The user of a request from the network, whose headers lose what said so; `since`: when it came.
    ///
    /// # Errors
    /// 401 for credentials that are not good, and for nobody if nobody may ask.
    pub async fn authenticate(
        &self,
        api: &Api,
        shown: Option<&Shown>,
        headers: &mut HeaderMap,
        path: &str,
        since: Instant,
    ) -> Result<UserInfo, Status> {
        let mut faults = Vec::new();
        let found = self.known(api, shown, headers, &mut faults).await;
        let took = api.storage.env.clock.monotonic().saturating_duration_since(since);
        headers.remove(header::AUTHORIZATION);
        self.proxies.clear(headers);
        if let Some(user) = found {
            api.counts.access.authenticated(&user.name, took);
            return Ok(with_group(user));
        }
        let anonymous = || self.oidc.lets_in_anonymous(path).unwrap_or(self.anonymous);
        if faults.is_empty() && anonymous() {
            let user = UserInfo::anonymous();
            api.counts.access.authenticated(&user.name, took);
            return Ok(user);
        }
        api.counts.access.not_authenticated(!faults.is_empty(), took);
        tracing::debug!(faults = faults.join(", "), path, "unable to authenticate a request");
        Err(Status::unauthorized("Unauthorized"))
    }

    async fn known(
        &self,
        api: &Api,
        shown: Option<&Shown>,
        headers: &mut HeaderMap,
        faults: &mut Vec<String>,
    ) -> Option<UserInfo> {
        let mut take = |found: Result<Option<UserInfo>, String>| match found {
            Ok(user) => user,
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        if let Some(shown) = shown {
            let (trust, now) = (self.certificates.current(), api.now());
            let proxied = shown.as_proxy(&trust, now).map_or(Ok(None), |believed| {
                believed.and_then(|()| self.proxies.user(headers, &shown.common_name))
            });
            if let Some(user) = take(proxied) {
                return Some(user);
            }
            if let Some(user) = take(shown.user(&trust, now)) {
                shown.count_validity(now);
                return Some(user);
            }
        }
        // What is no text is a token that nobody knows, not none.
        let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let authorization = String::from_utf8_lossy(authorization.unwrap_or_default()).into_owned();
        if let Some(token) = bearer(&authorization)
            && let Some(user) = take(self.user_of_token(api, token).await)
        {
            return Some(user);
        }
        match protocol::token(headers) {
            Ok(None) => None,
            Err(fault) => take(Err(fault.to_owned())),
            Ok(Some((token, others))) => {
                let user = take(self.user_of_token(api, &token).await)?;
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
                Some(user)
            }
        }
    }

    async fn user_of_token(&self, api: &Api, token: &str) -> Result<Option<UserInfo>, String> {
        Ok(Some(self.verify_token(api, token, &[]).await?.user))
    }

    /// Whose a token is, and for which of the audiences that are wanted; without any it must be meant for this server.
    ///
    /// # Errors
    /// Why nobody vouches for it.
    pub async fn verify_token(&self, api: &Api, token: &str, wanted: &[String]) -> Result<Verified, String> {
        let (view, now) = (api.storage.view(), api.now());
        let mut faults = Vec::new();
        let own = self.tokens.audiences();
        let wanted = if wanted.is_empty() { own } else { wanted };
        // Those who know no audiences know tokens that are meant for this server.
        let ours: Vec<String> = own.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        let found = |user| Verified { user: with_group(user), audiences: ours.clone() };
        if let Some(user) = self.file.user(token).filter(|_| !ours.is_empty()) {
            return Ok(found(user));
        }
        match self.tokens.verify(&view, token, wanted, now) {
            Ok(found) => return Ok(found),
            // Somebody else's, for all that is known.
            Err(TokenError::Issuer) => {}
            Err(fault) => faults.push(fault.to_string()),
        }
        if !ours.is_empty() {
            let mut user = self.bootstrap_tokens.then(|| bootstrap::verify(&view, token, now)).flatten();
            if user.is_none() {
                user = self.oidc.verify(api, token).await.unwrap_or_else(|fault| {
                    faults.push(fault);
                    None
                });
            }
            if let Some(user) = user {
                return Ok(found(user));
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.verify(token, wanted).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            faults.push(UNKNOWN_TOKEN.to_owned());
        }
        Err(told(faults))
    }
}

/// A user that is known is in the group of those (upstream: `AuthenticatedGroupAdder`).
fn with_group(mut user: UserInfo) -> UserInfo {
    let anonymous = user.name == UserInfo::anonymous().name;
    if !anonymous && !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// Faults as Go's aggregates of errors print them, each once.
fn told(faults: Vec<String>) -> String {
    let mut each: Vec<String> = Vec::new();
    for fault in faults {
        if !each.contains(&fault) {
            each.push(fault);
        }
    }
    match each.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The token of an `Authorization` header: what stands between its first spaces.
fn bearer(authorization: &str) -> Option<&str> {
    let mut parts = authorization.trim().split(' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    scheme.eq_ignore_ascii_case("bearer").then_some(token).filter(|token| !token.is_empty())
}

/// Whether a token is left aside because a further space is before it.
pub(crate) fn has_spaced_token(headers: &HeaderMap) -> bool {
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = text.trim().split(' ');
    let is_bearer = parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    is_bearer && parts.next() == Some("") && parts.next().is_some()
}

/// Whether a path is for everyone.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_is_public() {
        for path in PUBLIC {
            assert!(is_public(path), "{path}");
        }
        for path in ["/", "/metrics", "/livezz", "/livez/ping", "/version", "/api"] {
            assert!(!is_public(path), "{path}");
        }
    }

    #[test]
    fn known_users_are_in_the_group_of_those() {
        let named = |name: &str, groups: &[&str]| UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        };
        assert_eq!(with_group(named("ann", &["a"])).groups, ["a", AUTHENTICATED]);
        assert_eq!(with_group(named("ann", &[AUTHENTICATED])).groups, [AUTHENTICATED]);
        assert_eq!(with_group(named("ann", &[UNAUTHENTICATED])).groups, [UNAUTHENTICATED]);
        assert!(with_group(named("system:anonymous", &[])).groups.is_empty());
    }

    #[test]
    fn the_scheme_is_bearer() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer(" bearer abc def"), Some("abc"));
        assert_eq!(bearer("Bearer  abc"), None);
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
    }
}

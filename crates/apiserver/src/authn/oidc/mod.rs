//! JSON Web Tokens of other issuers (OpenID Connect, KEP-3331): whose they are is what their issuer's configuration makes
//! of their claims (upstream: `apiserver/plugin/pkg/authenticator/token/oidc`).

mod config;
mod flags;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_rules::look::Look;
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub(crate) use config::{Anonymous, AuthenticationConfig};
use config::{ClaimRule, IssuerConfig, Mapping};
pub use flags::OidcConfig;

use super::token::unverified;
use crate::api::Api;
use crate::config::{ApiServerConfig, BuildError};
use crate::config_file;
use crate::user::{AUTHENTICATED, UserInfo};
use crate::webhook::Client;

/// How long fetching keys may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two fetches of an issuer's keys, at least.
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of a description of keys, at most.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Milliseconds that clocks may differ.
const LEEWAY: i64 = 10_000;
/// Signatures that are believed (upstream: `AllValidSigningAlgorithms`).
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// What is said of flag and configuration when both let nobody in, or keep them out.
const TWICE: &str = "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file";

/// The other issuers, as the file says now.
pub(crate) struct Oidc {
    file: Option<PathBuf>,
    own_issuer: String,
    /// Signatures that are believed.
    algorithms: Vec<Algorithm>,
    current: ArcSwap<Current>,
}

#[derive(Default)]
struct Current {
    text: Vec<u8>,
    issuers: Vec<Issuer>,
    anonymous: Option<Anonymous>,
}

struct Issuer {
    config: IssuerConfig,
    keys: Mutex<Keys>,
}

/// An issuer's keys, as they were fetched last.
#[derive(Default)]
struct Keys {
    set: Option<JwkSet>,
    fetched: Option<Instant>,
}

impl Current {
    fn new(text: Vec<u8>, config: AuthenticationConfig) -> Self {
        let issuers = config.issuers.into_iter();
        let issuers = issuers.map(|config| Issuer { config, keys: Mutex::default() }).collect();
        Self { text, issuers, anonymous: config.anonymous }
    }
}

impl Oidc {
    /// Reads the configuration, or the flags that stand for one, if there are any.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(config: &ApiServerConfig) -> Result<Self, BuildError> {
        let own_issuer = config.service_account.issuer.clone();
        let file = config.authentication_config.clone();
        let mut algorithms = ALGORITHMS.to_vec();
        let current = match (&file, &config.oidc) {
            (None, None) => Current::default(),
            (Some(_), Some(_)) => {
                let text = "authentication-config file and oidc-* flags are mutually exclusive";
                return Err(BuildError::Authentication(text.to_owned()));
            }
            (None, Some(flags)) => {
                let (issuer, believed) = flags.read(&own_issuer).map_err(BuildError::Authentication)?;
                algorithms = believed;
                Current::new(Vec::new(), issuer)
            }
            (Some(path), None) => {
                let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
                let read = text.and_then(|text| Ok((config::read(&text, &own_issuer)?, text)));
                let (found, text) = read.map_err(BuildError::AuthenticationConfig)?;
                if found.anonymous.is_some() && config.anonymous_auth.is_some() {
                    return Err(BuildError::Authentication(TWICE.to_owned()));
                }
                Current::new(text, found)
            }
        };
        Ok(Self { file, own_issuer, algorithms, current: ArcSwap::from_pointee(current) })
    }

    /// Whether requests without credentials are let in on a path; none when the configuration does not say.
    pub fn lets_in_anonymous(&self, path: &str) -> Option<bool> {
        let current = self.current.load();
        let anonymous = current.anonymous.as_ref()?;
        let on_path = anonymous.paths.is_empty() || anonymous.paths.iter().any(|own| own == path);
        Some(anonymous.enabled && on_path)
    }

    /// The user of a token; none when it is of no issuer of the configuration.
    ///
    /// # Errors
    /// Why its issuer does not vouch for it.
    pub async fn verify(&self, api: &Api, token: &str) -> Result<Option<UserInfo>, String> {
        let current = self.current.load_full();
        if current.issuers.is_empty() {
            return Ok(None);
        }
        let Some(claims) = unverified(token) else { return Ok(None) };
        let is_its = |issuer: &&Issuer| issuer.config.url == claims.text("iss");
        match current.issuers.iter().find(is_its) {
            None => Ok(None),
            Some(issuer) => issuer.verify(api, token, &self.algorithms).await.map(Some),
        }
    }

    /// Follows the file: what it says when it can be used replaces what was.
    pub async fn keep(&self, api: &Api, interval: Duration) {
        let Some(file) = &self.file else { return };
        let is_known = |text: &[u8]| text == self.current.load().text;
        let take = |text: Vec<u8>| {
            let config = config::read(&text, &self.own_issuer)?;
            if config.anonymous != self.current.load().anonymous {
                return Err("anonymous: Forbidden: changed from initial configuration file".to_owned());
            }
            self.current.store(Arc::new(Current::new(text, config)));
            Ok(())
        };
        config_file::follow(&api.storage.env.clock, "authentication", file, interval, is_known, take).await;
    }
}

impl Issuer {
    async fn verify(&self, api: &Api, token: &str, algorithms: &[Algorithm]) -> Result<UserInfo, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        if !algorithms.contains(&header.alg) {
            return Err(format!("signatures by {:?} are not believed", header.alg));
        }
        let key = self.key(api, header.kid.as_deref(), header.alg).await?;
        let mut validation = Validation::new(header.alg);
        // Times and audiences are checked below, against the server's clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims =
            jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|error| error.to_string())?;
        self.config.user(&claims.claims, api.now())
    }

    /// The key that a token names; keys are fetched anew for a name that is not known.
    async fn key(&self, api: &Api, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, String> {
        let mut keys = self.keys.lock().await;
        if let Some(key) = keys.find(id, algorithm) {
            return Ok(key);
        }
        let now = api.storage.env.clock.monotonic();
        if keys.fetched.is_none_or(|fetched| now.duration_since(fetched) >= FETCH_INTERVAL) {
            keys.fetched = Some(now);
            keys.set = Some(self.fetch(api).await?);
        }
        keys.find(id, algorithm).ok_or_else(|| "no key of the issuer has signed it".to_owned())
    }

    async fn fetch(&self, api: &Api) -> Result<JwkSet, String> {
        let config = &self.config;
        let discovery = match config.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", config.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let get = async |url: &str| {
            let bundle = STANDARD.encode(&config.authority);
            let client = Client::new(&json!({"url": url, "caBundle": bundle}));
            let answer = client.get(api, TIMEOUT, MAX_ANSWER_BYTES).await?;
            serde_json::from_slice::<Value>(&answer).map_err(|error| format!("{url}: {error}"))
        };
        let document = get(&discovery).await?;
        if document.text("issuer") != config.url {
            let found = document.text("issuer");
            return Err(format!("issuer did not match: {} was wanted, {found} was found", config.url));
        }
        let set = get(document.text("jwks_uri")).await?;
        serde_json::from_value(set).map_err(|error| error.to_string())
    }
}

impl Keys {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let set = self.set.as_ref()?;
        let fits = |key: &&jsonwebtoken::jwk::Jwk| match id {
            Some(id) => key.common.key_id.as_deref() == Some(id),
            None => true,
        };
        let by_name = |key: &&jsonwebtoken::jwk::Jwk| {
            let named = key.common.key_algorithm.map(|own| own.to_string());
            named.is_none_or(|own| own == format!("{algorithm:?}"))
        };
        set.keys.iter().filter(fits).filter(by_name).find_map(|key| DecodingKey::from_jwk(key).ok())
    }
}

impl IssuerConfig {
    /// What the claims of a token say of its user, `now` in milliseconds.
    fn user(&self, claims: &Value, now: i64) -> Result<UserInfo, String> {
        let seconds = |name: &str| claims.key(name).as_f64().map(|seconds| (seconds * 1000.0) as i64);
        let expires = seconds("exp").ok_or("the token does not say when it expires")?;
        if now > expires {
            return Err("the token has expired".to_owned());
        }
        if seconds("nbf").is_some_and(|from| now + LEEWAY < from) {
            return Err("the token is not valid yet".to_owned());
        }
        if !texts(claims.key("aud")).iter().any(|audience| self.audiences.contains(audience)) {
            return Err(format!("expected audience in {:?} got {}", self.audiences, claims.key("aud")));
        }
        for rule in &self.claim_rules {
            rule.check(claims)?;
        }
        let mut groups = self.groups.as_ref().map_or(Ok(Vec::new()), |groups| groups.texts(claims))?;
        let uid =
            self.uid.as_ref().map_or(Ok(Vec::new()), |uid| uid.texts(claims))?.pop().unwrap_or_default();
        let name = self.name(claims)?;
        let mut extra = Map::new();
        for (key, rule) in &self.extra {
            let found = texts(&rule.value(&[("claims", claims)])?);
            if !found.is_empty() {
                extra.insert(key.clone(), json!(found));
            }
        }
        let user = json!({"username": name, "uid": uid, "groups": groups, "extra": extra});
        for (rule, message) in &self.user_rules {
            if rule.value(&[("user", &user)])? != true {
                return Err(format!("error evaluating user info: {message}"));
            }
        }
        groups.push(AUTHENTICATED.to_owned());
        let extra = extra.into_iter().map(|(key, value)| (key, texts(&value))).collect();
        Ok(UserInfo { name, uid, groups, extra })
    }

    fn name(&self, claims: &Value) -> Result<String, String> {
        if let Mapping::Claim { claim, .. } = &self.username
            && claim == "email"
            && claims.get("email_verified").is_some_and(|verified| *verified != true)
        {
            return Err("oidc: email not verified".to_owned());
        }
        match self.username.texts(claims)?.as_slice() {
            [name] if !name.is_empty() => Ok(name.clone()),
            _ => Err("the claims name no user".to_owned()),
        }
    }
}

impl ClaimRule {
    fn check(&self, claims: &Value) -> Result<(), String> {
        match self {
            Self::Equals { claim, value } => match claims.key(claim).as_str() {
                Some(found) if found == value => Ok(()),
                Some(found) => Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {value}"
                )),
                None => Err(format!("oidc: required claim {claim} not present in ID token")),
            },
            Self::Holds { rule, message } => match rule.value(&[("claims", claims)])? == true {
                true => Ok(()),
                false => Err(format!("oidc: error evaluating claim validation expression: {message}")),
            },
        }
    }
}

impl Mapping {
    fn texts(&self, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Claim { claim, prefix } => {
                Ok(texts(claims.key(claim)).iter().map(|text| format!("{prefix}{text}")).collect())
            }
            Self::Expression(rule) => Ok(texts(&rule.value(&[("claims", claims)])?)),
        }
    }
}

/// A text or a list of texts; empty ones do not count.
fn texts(value: &Value) -> Vec<String> {
    let all = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    all.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> IssuerConfig {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://a', audiences: [k]}}\n{rest}"
        );
        config::read(text.as_bytes(), "").unwrap().issuers.pop().unwrap()
    }

    #[test]
    fn claims_become_a_user() {
        let config = config(
            "  claimMappings:\n    username: {claim: sub, prefix: 'a:'}\n    groups: {expression: \"claims.roles.split(',')\"}\n    uid: {claim: sub}\n    extra: [{key: example.com/tenant, valueExpression: claims.tenant}]\n  claimValidationRules: [{claim: hd, requiredValue: example.com}]\n  userValidationRules: [{expression: \"!user.username.startsWith('a:system')\", message: reserved}]\n",
        );
        let claims =
            json!({"exp": 100, "aud": "k", "sub": "ann", "roles": "x,y", "tenant": "t", "hd": "example.com"});
        let user = config.user(&claims, 99_000).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("a:ann", "ann"));
        assert_eq!(user.groups, ["x", "y", "system:authenticated"]);
        assert_eq!(user.extra["example.com/tenant"], ["t"]);
        let wrong = |field: &str, value: Value| {
            let mut claims = claims.clone();
            claims[field] = value;
            config.user(&claims, 99_000).unwrap_err()
        };
        assert!(wrong("exp", json!(98)).contains("expired"));
        assert!(wrong("nbf", json!(200)).contains("not valid yet"));
        assert!(wrong("aud", json!(["other"])).contains("audience"));
        assert!(wrong("hd", json!("other")).contains("required claim hd"));
        assert!(wrong("sub", json!("system:x")).contains("reserved"));
        assert!(wrong("sub", json!("")).contains("no user"));
    }

    #[test]
    fn an_address_that_was_not_verified_is_nobodys() {
        let config = config("  claimMappings:\n    username: {claim: email, prefix: ''}\n");
        let claims =
            |verified: bool| json!({"exp": 100, "aud": "k", "email": "a@b", "email_verified": verified});
        assert_eq!(config.user(&claims(true), 0).unwrap().name, "a@b");
        assert_eq!(config.user(&claims(false), 0).unwrap_err(), "oidc: email not verified");
    }
}

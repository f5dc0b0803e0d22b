//! JSON Web Tokens of other issuers (OpenID Connect, KEP-3331): whose they are is what their issuer's configuration makes
//! of their claims (upstream: `apiserver/plugin/pkg/authenticator/token/oidc`).

mod config;
mod flags;

use std::collections::HashMap;
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
/// Issuers that vouch for claims which are told elsewhere, for each issuer of tokens, at most.
const MAX_OTHERS: usize = 16;
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
    /// Keys of those who vouch for claims that are told elsewhere.
    others: parking_lot::Mutex<HashMap<String, Arc<Mutex<Keys>>>>,
}

/// Where the keys of an issuer come from.
struct Source<'a> {
    url: &'a str,
    /// Where its keys are described, if not below the URL.
    discovery_url: &'a str,
    /// PEM; empty for the system's.
    authority: &'a str,
    keys: &'a Mutex<Keys>,
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
        let issuer =
            |config| Issuer { config, keys: Mutex::default(), others: parking_lot::Mutex::default() };
        let issuers = issuers.map(issuer).collect();
        Self { text, issuers, anonymous: config.anonymous }
    }
}

impl Oidc {
    /// Reads the configuration, or the flags that stand for one, if there are any.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(config: &ApiServerConfig) -> Result<Self, BuildError> {
        let own_issuer = config.service_account.issuers.first().cloned().unwrap_or_default();
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
        let mut claims = self.source().claims(api, token, algorithms).await?;
        self.config.check(&claims, api.now())?;
        if let Some(Mapping::Claim { claim, .. }) = &self.config.groups {
            let expanded = self.expand(api, &mut claims, claim, algorithms).await;
            expanded.map_err(|error| format!("oidc: could not expand distributed claims: {error}"))?;
        }
        self.config.user(&claims)
    }

    fn source(&self) -> Source<'_> {
        let IssuerConfig { url, discovery_url, authority, .. } = &self.config;
        Source { url, discovery_url, authority, keys: &self.keys }
    }

    /// Fetches a claim that the token says is told elsewhere (OpenID Connect Core 1.0, section 5.6.2), in a token of
    /// whoever vouches for it there. Upstream does that for groups only.
    async fn expand(
        &self,
        api: &Api,
        claims: &mut Value,
        claim: &str,
        algorithms: &[Algorithm],
    ) -> Result<(), String> {
        let Some((endpoint, access_token)) = elsewhere(claims, claim)? else { return Ok(()) };
        let client = client(&endpoint, &self.config.authority);
        let answer = client.get_as(api, &access_token, TIMEOUT, MAX_ANSWER_BYTES).await;
        let answer = answer.map_err(|error| format!("while getting distributed claim {claim:?}: {error}"))?;
        let token = String::from_utf8_lossy(&answer);
        let token = token.trim();
        let issuer = unverified(token).map(|claims| claims.text("iss").to_owned()).ok_or_else(|| {
            format!("getting untrusted issuer from endpoint {endpoint} failed for claim {claim:?}")
        })?;
        let found = if issuer == self.config.url {
            self.source().claims(api, token, algorithms).await
        } else {
            let keys = self.keys_of(&issuer)?;
            let (url, authority) = (issuer.as_str(), self.config.authority.as_str());
            Source { url, discovery_url: "", authority, keys: &keys }.claims(api, token, algorithms).await
        };
        let checked = found.and_then(|found| self.config.check(&found, api.now()).map(|()| found));
        let mut found = checked.map_err(|error| format!("verify distributed claim token: {error}"))?;
        if found.get(claim).is_none() {
            return Err(format!(
                "jwt returned by distributed claim endpoint {endpoint:?} did not contain claim: {claim}"
            ));
        }
        claims[claim] = found[claim].take();
        Ok(())
    }

    /// The keys of another issuer.
    fn keys_of(&self, issuer: &str) -> Result<Arc<Mutex<Keys>>, String> {
        let mut others = self.others.lock();
        if others.len() >= MAX_OTHERS && !others.contains_key(issuer) {
            return Err(format!("verifier not initialized for issuer: {issuer:?}"));
        }
        Ok(others.entry(issuer.to_owned()).or_default().clone())
    }
}

/// Where a claim is told that a token does not have, and the token with which it is asked for.
///
/// # Errors
/// Upstream's text for what contradicts itself.
fn elsewhere(claims: &Value, claim: &str) -> Result<Option<(String, String)>, String> {
    let names = match (claims.get(claim), claims.get("_claim_names")) {
        (None, Some(names)) => names.as_object().ok_or("oidc: error parsing distributed claim names")?,
        _ => return Ok(None),
    };
    let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
    let sources = sources.as_object().ok_or("oidc: could not parse claim sources")?;
    let Some(name) = names.get(claim).and_then(Value::as_str) else { return Ok(None) };
    let source = sources.get(name).ok_or_else(|| {
        format!("id token _claim_names contained a source {name} missing in _claims_sources")
    })?;
    let text = |field: &str| source[field].as_str().unwrap_or_default().to_owned();
    let endpoint = text("endpoint");
    Ok((!endpoint.is_empty()).then(|| (endpoint, text("access_token"))))
}

/// Asks at a URL. `authority`: PEM; empty for the system's.
fn client(url: &str, authority: &str) -> Client {
    Client::new(&json!({"url": url, "caBundle": STANDARD.encode(authority)}))
}

impl Source<'_> {
    /// The claims of a token that the issuer has signed.
    async fn claims(&self, api: &Api, token: &str, algorithms: &[Algorithm]) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        if !algorithms.contains(&header.alg) {
            return Err(format!("signatures by {:?} are not believed", header.alg));
        }
        let key = self.key(api, header.kid.as_deref(), header.alg).await?;
        let mut validation = Validation::new(header.alg);
        // Times and audiences are checked by the issuer's configuration, against the server's clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Value>(token, &key, &validation);
        claims.map(|token| token.claims).map_err(|error| error.to_string())
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
        let discovery = match self.discovery_url {
            "" => format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let get = async |url: &str| {
            let answer = client(url, self.authority).get(api, TIMEOUT, MAX_ANSWER_BYTES).await?;
            serde_json::from_slice::<Value>(&answer).map_err(|error| format!("{url}: {error}"))
        };
        let document = get(&discovery).await?;
        if document.text("issuer") != self.url {
            let found = document.text("issuer");
            return Err(format!("issuer did not match: {} was wanted, {found} was found", self.url));
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
    /// Whether a token is for here and now, `now` in milliseconds.
    fn check(&self, claims: &Value, now: i64) -> Result<(), String> {
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
        Ok(())
    }

    /// What the claims of a token say of its user.
    fn user(&self, claims: &Value) -> Result<UserInfo, String> {
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
        let user = |claims: &Value| config.check(claims, 99_000).and_then(|()| config.user(claims));
        let fault = |claims: &Value| user(claims).unwrap_err();
        let user = user(&claims).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("a:ann", "ann"));
        assert_eq!(user.groups, ["x", "y", "system:authenticated"]);
        assert_eq!(user.extra["example.com/tenant"], ["t"]);
        let wrong = |field: &str, value: Value| {
            let mut claims = claims.clone();
            claims[field] = value;
            fault(&claims)
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
        assert_eq!(config.user(&claims(true)).unwrap().name, "a@b");
        assert_eq!(config.user(&claims(false)).unwrap_err(), "oidc: email not verified");
    }

    #[test]
    fn a_claim_may_be_told_elsewhere() {
        let claims = json!({"_claim_names": {"groups": "there", "lost": "nowhere", "inside": "here"},
            "_claim_sources": {"there": {"endpoint": "https://a/b", "access_token": "t"}, "here": {"JWT": "x"}}});
        let place = Some(("https://a/b".to_owned(), "t".to_owned()));
        assert_eq!(elsewhere(&claims, "groups"), Ok(place));
        assert_eq!(elsewhere(&claims, "roles"), Ok(None), "nobody says where");
        assert_eq!(elsewhere(&claims, "inside"), Ok(None), "an aggregated claim");
        assert!(elsewhere(&claims, "lost").unwrap_err().contains("a source nowhere missing"));
        let there = json!({"groups": [], "_claim_names": 1});
        assert_eq!(elsewhere(&there, "groups"), Ok(None), "it is there already");
        let odd = |claims: Value| elsewhere(&claims, "groups").unwrap_err();
        assert_eq!(odd(json!({"_claim_names": {}})), "oidc: no claim sources");
        assert_eq!(odd(json!({"_claim_names": 1})), "oidc: error parsing distributed claim names");
    }
}

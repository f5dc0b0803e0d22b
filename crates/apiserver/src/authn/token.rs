//! Service account tokens: signed JWTs, bound to the account and maybe to a pod, a secret or a node
//! (`pkg/serviceaccount` upstream).

use std::collections::BTreeMap;

use api_types::codec::peek;
use api_types::{codec, meta, table};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keys::Keys;
use crate::config::ServiceAccountKeys;
use crate::storage::{self, View};
use crate::user::{SERVICE_ACCOUNT_PREFIX, UserInfo};

/// Seconds that clocks may differ (upstream: `jwt.DefaultLeeway`); so long a token also outlives the mark that its object
/// is being deleted.
const LEEWAY: i64 = 60;

/// An object that a token lives and dies with.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Reference {
    pub name: String,
    pub uid: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Bound {
    pub namespace: String,
    pub serviceaccount: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warnafter: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Audiences,
    exp: i64,
    iat: i64,
    iss: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
    #[serde(default)]
    nbf: i64,
    sub: String,
}

/// One audience or several.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Issuer of the tokens that lie in Secrets (upstream: `pkg/serviceaccount/legacy.go`).
const SECRET_ISSUER: &str = "kubernetes/serviceaccount";

/// Claims of a token that lies in a Secret.
#[derive(Serialize, Deserialize)]
struct SecretClaims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// A good token.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub user: UserInfo,
    /// Audiences of the token that were asked for.
    pub audiences: Vec<String>,
}

/// Why a token is not good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is not signed by a key of this cluster: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
    #[error("the token is from another issuer")]
    Issuer,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("service account token is issued in the future")]
    Future,
    #[error("token audiences {0:?} is invalid for the target audiences")]
    Audience(Vec<String>),
    #[error("the token names no service account")]
    Subject,
    #[error("Token does not match server's copy")]
    Copy,
    #[error("{0} has been invalidated: the object is gone")]
    Gone(&'static str),
}

/// Signs and checks tokens.
pub(crate) struct Tokens {
    keys: Keys,
    /// Whose tokens are taken; new ones are the first's.
    issuers: Vec<String>,
    /// Those of this server, which are those of tokens that name none.
    audiences: Vec<String>,
    /// Seconds that a new token may last.
    pub max_seconds: Option<i64>,
    /// Whether tokens of pods outlive what they say.
    pub extends: bool,
}

impl Tokens {
    /// `keys`: those of `accounts`; `audiences`: this server's, its issuers without any.
    pub fn new(keys: Keys, accounts: &ServiceAccountKeys, audiences: &[String]) -> Self {
        let issuers = accounts.issuers.clone();
        let audiences = if audiences.is_empty() { issuers.clone() } else { audiences.to_vec() };
        let max_seconds = accounts.max_expiration.and_then(|max| i64::try_from(max.as_secs()).ok());
        Self { keys, issuers, audiences, max_seconds, extends: accounts.extend_expiration }
    }

    /// The audiences of this server, and of tokens that name none.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A token that is good from `now` for so many seconds (`now` in milliseconds).
    pub fn sign(
        &self,
        bound: Bound,
        audiences: Vec<String>,
        now: i64,
        seconds: i64,
        id: String,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let account = bound.serviceaccount.as_ref().map_or("", |account| account.name.as_str());
        let now = now.div_euclid(1000);
        let claims = Claims {
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{}:{account}", bound.namespace),
            aud: Audiences::Many(audiences),
            exp: now + seconds,
            iat: now,
            nbf: now,
            iss: self.issuers.first().cloned().unwrap_or_default(),
            jti: id,
            bound,
        };
        self.keys.sign(&claims)
    }

    /// Checks a token against the keys, the clock (`now` in milliseconds) and what it is bound to. Without
    /// `audiences` it must be meant for the API server.
    pub fn verify(
        &self,
        view: &View,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<Verified, TokenError> {
        // Whoever else issued it checks the signature.
        let issuer = unverified(token).ok_or(TokenError::Issuer)?;
        let issuer = issuer["iss"].as_str().unwrap_or_default();
        if issuer == SECRET_ISSUER {
            return self.verify_secret(view, token, &self.keys.claims(token)?, audiences);
        }
        if !self.issuers.iter().any(|own| own == issuer) {
            return Err(TokenError::Issuer);
        }
        let claims: Claims = self.keys.claims(token)?;
        let now = now.div_euclid(1000);
        if now > claims.exp + LEEWAY {
            return Err(TokenError::Expired);
        }
        if now + LEEWAY < claims.nbf {
            return Err(TokenError::NotYet);
        }
        if now + LEEWAY < claims.iat {
            return Err(TokenError::Future);
        }
        let asked = if audiences.is_empty() { &self.audiences[..] } else { audiences };
        let audiences: Vec<String> =
            asked.iter().filter(|audience| claims.aud.list().contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience(claims.aud.list().to_vec()));
        }
        let user = check_bound(view, &claims, now)?;
        Ok(Verified { user, audiences })
    }

    /// The token of an account that lies in a Secret: it lasts as long as they do.
    pub fn sign_secret(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        secret: &str,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = SecretClaims {
            iss: SECRET_ISSUER.to_owned(),
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{account}"),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
        };
        self.keys.sign(&claims)
    }

    fn verify_secret(
        &self,
        view: &View,
        token: &str,
        claims: &SecretClaims,
        audiences: &[String],
    ) -> Result<Verified, TokenError> {
        if claims.sub != format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", claims.namespace, claims.account) {
            return Err(TokenError::Subject);
        }
        let reference = Reference { name: claims.account.clone(), uid: claims.uid.clone() };
        if !exists(view, "serviceaccounts", &claims.namespace, &reference, i64::MAX) {
            return Err(TokenError::Gone("service account"));
        }
        let key = table::find("", "v1", "secrets").map(|kind| kind.key(&claims.namespace, &claims.secret));
        let found = key.and_then(|key| storage::get(view, key.as_bytes()).ok().flatten());
        let secret = found.and_then(|kv| codec::from_stored(&kv.value, 0).ok());
        let secret =
            secret.filter(|secret| !meta::is_being_deleted(secret)).ok_or(TokenError::Gone("secret"))?;
        let copy = secret["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let digest = |bytes: &[u8]| Sha256::digest(bytes);
        if copy.is_none_or(|copy| digest(&copy) != digest(token.as_bytes())) {
            return Err(TokenError::Copy);
        }
        // It is meant for the API server alone.
        let asked = if audiences.is_empty() { &self.audiences[..] } else { audiences };
        let audiences: Vec<String> =
            asked.iter().filter(|audience| self.audiences.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience(self.audiences.clone()));
        }
        let user = UserInfo::service_account(&claims.namespace, &claims.account, &claims.uid);
        Ok(Verified { user, audiences })
    }
}

/// The claims of a token that nobody has vouched for yet.
pub(super) fn unverified(token: &str) -> Option<serde_json::Value> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()
}

/// `now` in seconds.
fn check_bound(view: &View, claims: &Claims, now: i64) -> Result<UserInfo, TokenError> {
    let bound = &claims.bound;
    let account = bound.serviceaccount.as_ref().ok_or(TokenError::Subject)?;
    let subject = format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", bound.namespace, account.name);
    if claims.sub != subject {
        return Err(TokenError::Subject);
    }
    let checks = [
        ("serviceaccounts", Some(account), "service account"),
        ("pods", bound.pod.as_ref(), "pod"),
        ("secrets", bound.secret.as_ref(), "secret"),
        // A pod's token names its node too; the pod decides how long it lives.
        ("nodes", bound.node.as_ref().filter(|_| bound.pod.is_none()), "node"),
    ];
    for (resource, reference, what) in checks {
        let Some(reference) = reference else { continue };
        if !exists(view, resource, &bound.namespace, reference, now) {
            return Err(TokenError::Gone(what));
        }
    }
    let mut user = UserInfo::service_account(&bound.namespace, &account.name, &account.uid);
    user.extra = extra(claims);
    Ok(user)
}

/// Whether an object is there, and was not marked for deletion more than [`LEEWAY`] before `now` (in seconds).
fn exists(view: &View, resource: &str, namespace: &str, reference: &Reference, now: i64) -> bool {
    let Some(resource) = table::find("", "v1", resource) else { return false };
    // What cannot be read vouches for nobody.
    let found = storage::get(view, resource.key(namespace, &reference.name).as_bytes());
    let Ok(Some(kv)) = found else { return false };
    let Ok(object) = peek::open(&kv.value) else { return false };
    let over = object.deletion_timestamp().is_some_and(|at| at < now - LEEWAY);
    object.uid() == reference.uid && !over
}

fn extra(claims: &Claims) -> BTreeMap<String, Vec<String>> {
    let mut extra = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    if !claims.jti.is_empty() {
        put("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &claims.bound.pod {
        put("pod-name", &pod.name);
        put("pod-uid", &pod.uid);
    }
    if let Some(node) = &claims.bound.node {
        put("node-name", &node.name);
        put("node-uid", &node.uid);
    }
    extra
}

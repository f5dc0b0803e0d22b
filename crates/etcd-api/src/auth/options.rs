//! What `--auth-token`, `--auth-token-ttl` and `--bcrypt-cost` say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::signing::Method;
use crate::compactor::duration;

/// Rounds of bcrypt, as a power of two, when the flag names none that bcrypt has (etcd's default).
const DEFAULT_COST: u32 = 10;
/// The powers that bcrypt has.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// How long a JWT is good that names no time (etcd's `DefaultTTL`).
const JWT_TTL: Duration = Duration::from_secs(300);

/// How callers are known.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    pub(crate) tokens: TokenOptions,
    pub(crate) bcrypt_cost: u32,
    /// Whether the common name of a client's certificate stands for a user (`--client-cert-auth`).
    pub(crate) certificates: bool,
}

/// Which tokens are given out.
#[derive(Clone, Debug)]
pub(crate) enum TokenOptions {
    /// None: nobody can authenticate by password.
    None,
    /// Random ones, known by every member.
    Simple {
        /// How long one is good that nobody uses.
        ttl: Duration,
    },
    /// Signed ones.
    Jwt(JwtOptions),
}

/// How tokens are signed.
#[derive(Clone, Debug)]
pub(crate) struct JwtOptions {
    pub method: &'static Method,
    pub public_key: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub ttl: Duration,
}

/// Why the options cannot be used. The texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum AuthOptionsError {
    /// An option that is not known, or said twice.
    #[error("auth: invalid auth options")]
    Invalid,
    /// The options name no key.
    #[error("auth: missing key data")]
    MissingKey,
    /// The public key is not that of the private one.
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    /// A private key that cannot be used.
    #[error("auth: {0}")]
    Key(String),
    /// A file cannot be used.
    #[error("cannot use {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl Default for AuthOptions {
    /// etcd's defaults: simple tokens that are good for five minutes.
    fn default() -> Self {
        let tokens = TokenOptions::Simple { ttl: Duration::from_secs(300) };
        Self { tokens, bcrypt_cost: DEFAULT_COST, certificates: false }
    }
}

impl AuthOptions {
    /// Reads the flags: `auth_token` is `simple` or `jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…`.
    ///
    /// # Errors
    /// Options that etcd refuses too.
    pub fn parse(
        auth_token: &str,
        token_ttl: Duration,
        bcrypt_cost: u64,
        certificates: bool,
    ) -> Result<Self, AuthOptionsError> {
        let mut words = auth_token.split(',');
        let kind = words.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or(AuthOptionsError::Invalid)?;
            if value.contains('=') || options.insert(name, value).is_some() {
                return Err(AuthOptionsError::Invalid);
            }
        }
        let tokens = match kind {
            "" => TokenOptions::None,
            "simple" => TokenOptions::Simple { ttl: token_ttl },
            "jwt" => TokenOptions::Jwt(JwtOptions::parse(&options)?),
            _ => return Err(AuthOptionsError::Invalid),
        };
        let cost = u32::try_from(bcrypt_cost).ok().filter(|cost| COSTS.contains(cost));
        if cost.is_none() {
            tracing::warn!(given = bcrypt_cost, used = DEFAULT_COST, "the given bcrypt cost is invalid");
        }
        Ok(Self { tokens, bcrypt_cost: cost.unwrap_or(DEFAULT_COST), certificates })
    }
}

impl JwtOptions {
    fn parse(options: &BTreeMap<&str, &str>) -> Result<Self, AuthOptionsError> {
        let some = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
        for name in
            options.keys().filter(|name| !["sign-method", "pub-key", "priv-key", "ttl"].contains(name))
        {
            tracing::warn!(name, "unknown JWT option");
        }
        let method = Method::named(some("sign-method").unwrap_or_default());
        let method = method.ok_or(AuthOptionsError::Invalid)?;
        let ttl = match some("ttl") {
            Some(ttl) => duration(ttl).ok_or(AuthOptionsError::Invalid)?,
            None => JWT_TTL,
        };
        let file = |name| some(name).map(PathBuf::from);
        Ok(Self { method, public_key: file("pub-key"), private_key: file("priv-key"), ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TokenOptions, AuthOptionsError> {
        AuthOptions::parse(text, Duration::from_secs(300), 10, false).map(|options| options.tokens)
    }

    #[test]
    fn options_are_read_as_etcd_reads_them() {
        assert!(matches!(parse("simple"), Ok(TokenOptions::Simple { .. })));
        assert!(matches!(parse(""), Ok(TokenOptions::None)));
        let jwt = parse("jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m");
        assert!(matches!(jwt, Ok(TokenOptions::Jwt(JwtOptions { ttl, .. })) if ttl.as_secs() == 600));
        for bad in
            ["other", "jwt", "jwt,sign-method=none", "jwt,sign-method=RS256,sign-method=RS256", "jwt,x"]
        {
            assert!(matches!(parse(bad), Err(AuthOptionsError::Invalid)), "{bad}");
        }
    }

    #[test]
    fn a_cost_that_bcrypt_has_not_becomes_the_default() {
        let cost =
            |cost| AuthOptions::parse("", Duration::ZERO, cost, false).map(|options| options.bcrypt_cost);
        assert!(matches!(cost(3), Ok(10)));
        assert!(matches!(cost(4), Ok(4)));
        assert!(matches!(cost(32), Ok(10)));
    }
}

//! Tokens that carry who they are, signed (etcd's `auth/jwt.go`): claims `username`, `revision` and `exp`.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use env::Timestamp;
use mvcc::Caller;
use serde::{Deserialize, Serialize};

use super::options::{AuthOptionsError, JwtOptions};
use super::signing::{Checker, Signer};

/// What is signed to see whether two keys belong together.
const PROBE: &[u8] = b"trierarch";

#[derive(Serialize, Deserialize)]
struct Head {
    alg: String,
    #[serde(default)]
    typ: String,
}

/// What a token that is made here says. Times are seconds since the Unix epoch.
#[derive(Serialize)]
struct Claims<'a> {
    username: &'a str,
    revision: u64,
    exp: i64,
}

/// What one that is shown may say; its numbers are JSON's.
#[derive(Deserialize)]
struct Shown {
    username: String,
    revision: f64,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// Signs and checks tokens. The keys follow their files.
pub(crate) struct Jwt {
    options: JwtOptions,
    keys: ArcSwap<Keys>,
}

struct Keys {
    /// None where there is only a public key: tokens are then made elsewhere.
    signer: Option<Signer>,
    checker: Checker,
    /// When the files were changed last.
    changed: Vec<Option<SystemTime>>,
}

impl Jwt {
    pub fn open(options: JwtOptions) -> Result<Self, AuthOptionsError> {
        let keys = ArcSwap::from_pointee(Keys::read(&options)?);
        Ok(Self { options, keys })
    }

    /// Reads the keys again if their files have changed; keys that cannot be read leave the old ones in use.
    pub fn refresh(&self) {
        if changed(&self.options) == self.keys.load().changed {
            return;
        }
        match Keys::read(&self.options) {
            Ok(keys) => self.keys.store(keys.into()),
            Err(error) => tracing::warn!(%error, "the keys of tokens were changed, and cannot be read"),
        }
    }

    /// A token for a user who has shown the password at an auth revision; none without a private key.
    pub fn sign(&self, username: &str, revision: u64, now: Timestamp) -> Option<String> {
        let ttl = i64::try_from(self.options.ttl.as_secs()).unwrap_or(i64::MAX);
        let exp = (now.millis() / 1000).saturating_add(ttl);
        let head = Head { alg: self.options.method.name.to_owned(), typ: "JWT".to_owned() };
        let signed = format!("{}.{}", encoded(&head)?, encoded(&Claims { username, revision, exp })?);
        let signature = self.keys.load().signer.as_ref()?.sign(signed.as_bytes());
        if signature.is_none() {
            tracing::warn!("failed to sign a JWT token");
        }
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature?)))
    }

    /// Who a token says that its bearer is.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Caller> {
        let read = self.read(token, now);
        read.inspect_err(|error| tracing::warn!(error, "failed to parse a JWT token")).ok()
    }

    fn read(&self, token: &str, now: Timestamp) -> Result<Caller, &'static str> {
        let malformed = "token is malformed";
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (head, claims) = signed.split_once('.').ok_or(malformed)?;
        let head: Head = decoded(head).ok_or(malformed)?;
        if head.alg != self.options.method.name {
            return Err("invalid signing method");
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
        if !self.keys.load().checker.is_good(signed.as_bytes(), &signature) {
            return Err("token signature is invalid");
        }
        let shown: Shown = decoded(claims).ok_or("token has invalid claims")?;
        let now = now.millis() as f64 / 1000.0;
        if shown.exp.is_some_and(|end| now >= end) {
            return Err("token is expired");
        }
        if shown.nbf.is_some_and(|start| now < start) {
            return Err("token is not valid yet");
        }
        Ok(Caller { user: shown.username, revision: shown.revision as u64 })
    }
}

fn encoded(part: &impl Serialize) -> Option<String> {
    serde_json::to_vec(part).ok().map(|json| URL_SAFE_NO_PAD.encode(json))
}

fn decoded<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn changed(options: &JwtOptions) -> Vec<Option<SystemTime>> {
    let files = options.public_key.iter().chain(&options.private_key);
    files.map(|path| fs::metadata(path).and_then(|file| file.modified()).ok()).collect()
}

impl Keys {
    fn read(options: &JwtOptions) -> Result<Self, AuthOptionsError> {
        let (method, changed) = (options.method, changed(options));
        let signer = options.private_key.as_ref().map(|path| key(path, |file| method.signer(file)));
        let signer = signer.transpose()?;
        let public = options.public_key.as_ref().filter(|_| !method.is_secret());
        let checker = public.map(|path| key(path, |file| method.checker(file))).transpose()?;
        let checker = match (&signer, checker) {
            (None, None) => return Err(AuthOptionsError::MissingKey),
            (None, Some(checker)) => checker,
            (Some(signer), None) => method.checker_of(signer).map_err(AuthOptionsError::Key)?,
            (Some(signer), Some(checker)) => {
                let fits = signer.sign(PROBE).is_some_and(|signature| checker.is_good(PROBE, &signature));
                fits.then_some(checker).ok_or(AuthOptionsError::KeyMismatch)?
            }
        };
        Ok(Self { signer, checker, changed })
    }
}

/// What a file holds.
fn key<T>(path: &Path, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, AuthOptionsError> {
    let file = fs::read(path).map_err(|error| error.to_string());
    let failure = |cause| AuthOptionsError::File { path: path.to_owned(), cause };
    file.and_then(|file| read(&file)).map_err(failure)
}

/// Looks at a token; claims that are JSON are signed before. For the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_token(data: &[u8]) {
    let method = super::signing::Method::named("HS256").expect("invariant: it is known");
    let signer = method.signer(b"of nobody").expect("invariant: any secret will do");
    let checker = method.checker_of(&signer).expect("invariant: it is the same secret");
    let options =
        JwtOptions { method, public_key: None, private_key: None, ttl: std::time::Duration::from_secs(1) };
    let keys = Keys { signer: None, checker, changed: Vec::new() };
    let jwt = Jwt { options, keys: ArcSwap::from_pointee(keys) };
    let now = Timestamp::default();
    if serde_json::from_slice::<serde_json::Value>(data).is_ok()
        && let Some(head) = encoded(&Head { alg: method.name.to_owned(), typ: String::new() })
    {
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(data));
        let signature = signer.sign(signed.as_bytes()).unwrap_or_default();
        drop(jwt.verify(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)), now));
    }
    drop(jwt.verify(&String::from_utf8_lossy(data), now));
}

#[cfg(test)]
mod tests;

//! Tokens that carry who they are, signed (etcd's `auth/jwt.go`): claims `username`, `revision` and `exp`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use env::Timestamp;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use mvcc::Caller;
use rcgen::PublicKeyData as _;
use serde::{Deserialize, Serialize};

use super::options::{AuthOptionsError, JwtOptions};

/// What of a public key's certificate or of a bare key goes between these lines.
const PUBLIC_KEY: &str = "PUBLIC KEY";

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    exp: Option<i64>,
}

/// Signs and checks tokens. The keys follow their files.
pub(crate) struct Jwt {
    options: JwtOptions,
    keys: ArcSwap<Keys>,
}

struct Keys {
    /// None where there is only a public key: tokens are then made elsewhere.
    signing: Option<EncodingKey>,
    verifying: DecodingKey,
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
        let exp = Some((now.millis() / 1000).saturating_add(ttl));
        let claims = Claims { username: username.to_owned(), revision, exp };
        let header = Header::new(self.options.algorithm);
        let keys = self.keys.load();
        let signed = jsonwebtoken::encode(&header, &claims, keys.signing.as_ref()?);
        signed.inspect_err(|error| tracing::warn!(%error, "failed to sign a JWT token")).ok()
    }

    /// Who a token says that its bearer is.
    pub fn verify(&self, token: &str) -> Option<Caller> {
        let mut validation = Validation::new(self.options.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_aud = false;
        validation.leeway = 0;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.keys.load().verifying, &validation);
        let Claims { username, revision, .. } =
            decoded.inspect_err(|error| tracing::warn!(%error, "failed to parse a JWT token")).ok()?.claims;
        Some(Caller { user: username, revision })
    }
}

fn changed(options: &JwtOptions) -> Vec<Option<SystemTime>> {
    let files = options.public_key.iter().chain(&options.private_key);
    files.map(|path| fs::metadata(path).and_then(|file| file.modified()).ok()).collect()
}

impl Keys {
    fn read(options: &JwtOptions) -> Result<Self, AuthOptionsError> {
        let changed = changed(options);
        if options.algorithm.family() == AlgorithmFamily::Hmac {
            let path = options.private_key.as_ref().ok_or(AuthOptionsError::MissingKey)?;
            let secret = read(path)?;
            let (signing, verifying) = (EncodingKey::from_secret(&secret), DecodingKey::from_secret(&secret));
            return Ok(Self { signing: Some(signing), verifying, changed });
        }
        let private = options.private_key.as_ref().map(PrivateKey::read).transpose()?;
        let public = options.public_key.as_ref().map(|path| Ok((path, public_key(path)?))).transpose()?;
        let (path, der) = match (&private, public) {
            (None, None) => return Err(AuthOptionsError::MissingKey),
            (Some(private), Some((_, der))) if private.pair.subject_public_key_info() != der => {
                return Err(AuthOptionsError::KeyMismatch);
            }
            (Some(private), None) => (private.path, private.pair.subject_public_key_info()),
            (_, Some((path, der))) => (path, der),
        };
        let signing = private.as_ref().map(|private| private.signing_key(options.algorithm));
        let verifying = verifying_key(options.algorithm, path, &der)?;
        Ok(Self { signing: signing.transpose()?, verifying, changed })
    }
}

fn failure(path: &Path, cause: impl ToString) -> AuthOptionsError {
    AuthOptionsError::File { path: path.to_owned(), cause: cause.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, AuthOptionsError> {
    fs::read(path).map_err(|error| failure(path, error))
}

struct PrivateKey<'a> {
    path: &'a PathBuf,
    pem: String,
    pair: rcgen::KeyPair,
}

impl<'a> PrivateKey<'a> {
    fn read(path: &'a PathBuf) -> Result<Self, AuthOptionsError> {
        let pem = String::from_utf8(read(path)?).map_err(|error| failure(path, error))?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|error| failure(path, error))?;
        Ok(Self { path, pem, pair })
    }

    fn signing_key(&self, algorithm: Algorithm) -> Result<EncodingKey, AuthOptionsError> {
        let key = match algorithm.family() {
            // Files of elliptic keys are often older than PKCS#8, which the library needs.
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()),
            AlgorithmFamily::Ed => EncodingKey::from_ed_pem(self.pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(self.pem.as_bytes()),
        };
        key.map_err(|error| failure(self.path, error))
    }
}

/// A public key's DER: the file holds the key, or a certificate of it.
fn public_key(path: &Path) -> Result<Vec<u8>, AuthOptionsError> {
    let bytes = read(path)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|error| failure(path, error))?;
    if pem.label != "CERTIFICATE" {
        return Ok(pem.contents);
    }
    let certificate = pem.parse_x509().map_err(|error| failure(path, error))?;
    Ok(certificate.public_key().raw.to_vec())
}

fn verifying_key(algorithm: Algorithm, path: &Path, der: &[u8]) -> Result<DecodingKey, AuthOptionsError> {
    let text = STANDARD.encode(der);
    let pem = format!("-----BEGIN {PUBLIC_KEY}-----\n{text}\n-----END {PUBLIC_KEY}-----\n");
    let key = match algorithm.family() {
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem.as_bytes()),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem.as_bytes()),
        _ => DecodingKey::from_rsa_pem(pem.as_bytes()),
    };
    key.map_err(|error| failure(path, error))
}

/// Looks at a token; claims that are JSON are signed before. For the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_token(data: &[u8]) {
    const SECRET: &[u8] = b"of nobody";
    let signing = EncodingKey::from_secret(SECRET);
    let keys = Keys { signing: None, verifying: DecodingKey::from_secret(SECRET), changed: Vec::new() };
    let ttl = std::time::Duration::from_secs(1);
    let options = JwtOptions { algorithm: Algorithm::HS256, public_key: None, private_key: None, ttl };
    let jwt = Jwt { options, keys: ArcSwap::from_pointee(keys) };
    if let Ok(claims) = serde_json::from_slice::<serde_json::Value>(data)
        && let Ok(token) = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &signing)
    {
        drop(jwt.verify(&token));
    }
    drop(jwt.verify(&String::from_utf8_lossy(data)));
}

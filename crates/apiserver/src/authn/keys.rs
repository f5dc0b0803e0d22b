//! The public keys of service account tokens, for others to check them (OpenID discovery).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::body::{self, Body};
use crate::config::ServiceAccountKeys;

/// The two documents of discovery.
pub(crate) struct PublicKeys {
    keys: Vec<Value>,
    issuer: String,
}

impl PublicKeys {
    pub fn new(keys: &ServiceAccountKeys) -> Self {
        Self {
            keys: keys.public_keys.iter().filter_map(|pem| key(pem)).collect(),
            issuer: keys.issuer.clone(),
        }
    }

    /// The id of the first key, which tokens are signed with.
    pub fn id(&self) -> Option<String> {
        self.keys.first()?["kid"].as_str().map(str::to_owned)
    }

    pub fn jwks(&self) -> Response<Body> {
        body::response(200, "application/jwk-set+json", json!({"keys": self.keys}).to_string())
    }

    pub fn configuration(&self) -> Response<Body> {
        let document = json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        body::response(200, crate::negotiate::JSON, document.to_string())
    }
}

/// One RSA key as a JWK; its id is the digest of the whole key, as upstream's.
fn key(pem: &[u8]) -> Option<Value> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    let PublicKey::RSA(rsa) = info.parsed().ok()? else { return None };
    let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
    Some(json!({
        "use": "sig",
        "kty": "RSA",
        "kid": URL_SAFE_NO_PAD.encode(Sha256::digest(&der)),
        "alg": "RS256",
        "n": URL_SAFE_NO_PAD.encode(modulus),
        "e": URL_SAFE_NO_PAD.encode(rsa.exponent),
    }))
}

//! The keys of service account tokens: the one that signs, those whose signatures are believed, and what others are told of
//! them (OpenID discovery).

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::body::{self, Body};
use crate::config::{BuildError, ServiceAccountKeys};

/// Where the keys are told.
const JWKS_PATH: &str = "/openid/v1/jwks";
/// Curves of keys, and the signatures that are made with them.
const CURVES: [(&EcdsaSigningAlgorithm, Algorithm); 2] = [
    (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256),
    (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384),
];

/// A key whose signatures are believed.
struct Believed {
    jwk: Value,
    id: String,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The key that signs.
struct Signer {
    key: EncodingKey,
    header: Header,
}

/// Signs tokens, and knows whose signatures are believed.
pub(crate) struct Keys {
    signer: Signer,
    believed: Vec<Believed>,
}

/// A private key.
enum Pair {
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair),
}

impl Keys {
    /// # Errors
    /// When the key that signs is not one, or another is of a kind that nobody signs with here.
    pub fn read(keys: &ServiceAccountKeys) -> Result<Self, BuildError> {
        Self::of_pem(keys).map_err(BuildError::ServiceAccountKeys)
    }

    fn of_pem(keys: &ServiceAccountKeys) -> Result<Self, String> {
        let (key, own) = signing_key(&keys.signing_key)?;
        let own = believed(&own)?;
        let header = Header { kid: Some(own.id.clone()), typ: None, ..Header::new(own.algorithm) };
        let mut all: Vec<Believed> = Vec::new();
        for pem in &keys.public_keys {
            for key in public_halves(pem)? {
                let key = believed(&key)?;
                if all.iter().all(|other| other.id != key.id) {
                    all.push(key);
                }
            }
        }
        if all.iter().all(|other| other.id != own.id) {
            all.push(own);
        }
        Ok(Self { signer: Signer { key, header }, believed: all })
    }

    /// A token.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.signer.header, claims, &self.signer.key)
    }

    /// The claims of a token that one of the keys has signed; times and audiences are not looked at.
    pub fn claims<T: DeserializeOwned>(&self, token: &str) -> Result<T, jsonwebtoken::errors::Error> {
        let id = jsonwebtoken::decode_header(token)?.kid;
        // The key that the token names comes first; tokens of elsewhere may name none, or name it otherwise.
        let is_named = |key: &&Believed| id.as_deref() == Some(key.id.as_str());
        let named = self.believed.iter().filter(is_named);
        let others = self.believed.iter().filter(|key| !is_named(key));
        let mut last = None;
        for key in named.chain(others) {
            let mut validation = Validation::new(key.algorithm);
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match jsonwebtoken::decode::<T>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| jsonwebtoken::errors::ErrorKind::InvalidToken.into()))
    }
}

/// What signs, and the public half, as DER.
fn signing_key(pem: &[u8]) -> Result<(EncodingKey, Vec<u8>), String> {
    let (kind, der) = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .find(|(kind, _)| is_private(*kind))
        .ok_or("the key that signs is no private key in PEM")?;
    let pair = pair(kind, &der)?;
    let public = public_half(&pair)?;
    let key = match pair {
        Pair::Rsa(_) => EncodingKey::from_rsa_pem(pem).map_err(|error| error.to_string())?,
        Pair::Ec(pair) => {
            let der = pair.to_pkcs8v1().map_err(|error| error.to_string())?;
            EncodingKey::from_ec_der(der.as_ref())
        }
    };
    Ok((key, public))
}

fn is_private(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

fn pair(kind: SectionKind, der: &[u8]) -> Result<Pair, String> {
    let rsa = match kind {
        SectionKind::RsaPrivateKey => rsa::KeyPair::from_der(der).ok(),
        SectionKind::PrivateKey => rsa::KeyPair::from_pkcs8(der).ok(),
        _ => None,
    };
    let of_curve = |(curve, _): &(&'static EcdsaSigningAlgorithm, Algorithm)| match kind {
        SectionKind::EcPrivateKey => EcdsaKeyPair::from_private_key_der(curve, der).ok(),
        SectionKind::PrivateKey => EcdsaKeyPair::from_pkcs8(curve, der).ok(),
        _ => None,
    };
    let ec = || CURVES.iter().find_map(of_curve).map(Pair::Ec);
    rsa.map(Pair::Rsa).or_else(ec).ok_or_else(|| {
        "a private key is neither RSA of 2,048 to 8,192 bits nor ECDSA of curve P-256 or P-384".to_owned()
    })
}

fn public_half(pair: &Pair) -> Result<Vec<u8>, String> {
    let der: Result<PublicKeyX509Der<'_>, _> = match pair {
        Pair::Rsa(pair) => pair.public_key().as_der(),
        Pair::Ec(pair) => pair.public_key().as_der(),
    };
    der.map(|der| der.as_ref().to_vec()).map_err(|error| error.to_string())
}

/// The public keys of a file of keys and certificates, as DER; of private keys their public halves.
fn public_halves(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| error.to_string())?;
        match kind {
            SectionKind::PublicKey => found.push(der),
            SectionKind::Certificate => {
                let (_, certificate) =
                    X509Certificate::from_der(&der).map_err(|error| format!("a certificate: {error}"))?;
                found.push(certificate.public_key().raw.to_vec());
            }
            _ if is_private(kind) => found.push(public_half(&pair(kind, &der)?)?),
            _ => {}
        }
    }
    if found.is_empty() {
        return Err("data does not contain any valid RSA or ECDSA public keys".to_owned());
    }
    Ok(found)
}

/// A public key, of DER; its id is the digest of the whole key, as upstream's.
fn believed(der: &[u8]) -> Result<Believed, String> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| format!("a public key: {error}"))?;
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let id = text(&Sha256::digest(der));
    let (algorithm, mut jwk) = match info.parsed().map_err(|error| format!("a public key: {error}"))? {
        PublicKey::RSA(rsa) => {
            let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            (Algorithm::RS256, json!({"kty": "RSA", "n": text(modulus), "e": text(rsa.exponent)}))
        }
        PublicKey::EC(point) => {
            let point = point.data();
            let (algorithm, curve) = match point.len() {
                65 => (Algorithm::ES256, "P-256"),
                97 => (Algorithm::ES384, "P-384"),
                _ => return Err("a public key is of another curve than P-256 and P-384".to_owned()),
            };
            let (x, y) = point[1..].split_at(point.len() / 2);
            (algorithm, json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)}))
        }
        _ => return Err("a public key is neither RSA nor ECDSA".to_owned()),
    };
    jwk["use"] = "sig".into();
    jwk["kid"] = id.clone().into();
    jwk["alg"] = format!("{algorithm:?}").into();
    let key = serde_json::from_value::<Jwk>(jwk.clone()).map_err(|error| error.to_string())?;
    let key = DecodingKey::from_jwk(&key).map_err(|error| error.to_string())?;
    Ok(Believed { jwk, id, algorithm, key })
}

/// The two documents of discovery; there are none of an issuer that is no address (upstream:
/// `pkg/serviceaccount/openidmetadata.go`).
pub(crate) struct Discovery {
    keys: String,
    configuration: String,
}

impl Discovery {
    /// `address`: where this server is reached, for an issuer that does not say where its keys are.
    pub fn new(keys: &Keys, of: &ServiceAccountKeys, address: &str) -> Option<Self> {
        let issuer = of.issuers.first()?;
        let url = Url::parse(issuer).ok()?;
        if url.scheme() != "https" || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let uri = of.jwks_uri.clone().unwrap_or_else(|| format!("https://{address}{JWKS_PATH}"));
        let mut algorithms: Vec<&str> =
            keys.believed.iter().filter_map(|key| key.jwk["alg"].as_str()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let configuration = json!({
            "issuer": issuer,
            "jwks_uri": uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        });
        let all: Vec<&Value> = keys.believed.iter().map(|key| &key.jwk).collect();
        Some(Self { keys: json!({"keys": all}).to_string(), configuration: configuration.to_string() })
    }

    pub fn jwks(&self) -> Response<Body> {
        body::response(200, "application/jwk-set+json", self.keys.clone())
    }

    pub fn configuration(&self) -> Response<Body> {
        body::response(200, crate::negotiate::JSON, self.configuration.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256,
    };

    fn of(signing: &KeyPair, believed: &[Vec<u8>]) -> ServiceAccountKeys {
        ServiceAccountKeys::new(signing.serialize_pem().into_bytes(), believed.to_vec(), "https://issuer")
    }

    #[test]
    fn keys_of_each_kind_sign_and_are_believed() {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        for key in [&rsa, &p256, &p384] {
            // All in one file, private ones too.
            let all =
                [rsa.public_key_pem(), p256.serialize_pem(), p384.public_key_pem()].concat().into_bytes();
            let keys = Keys::read(&of(key, &[all])).unwrap();
            assert_eq!(keys.believed.len(), 3);
            let token = keys.sign(&json!({"sub": "x"})).unwrap();
            assert_eq!(keys.claims::<Value>(&token).unwrap()["sub"], "x");
            // Who signs is believed, whether it is said or not; others are not.
            let alone = Keys::read(&of(key, &[])).unwrap();
            assert_eq!(alone.claims::<Value>(&token).unwrap()["sub"], "x");
            let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            assert!(Keys::read(&of(&other, &[])).unwrap().claims::<Value>(&token).is_err());
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused() {
        let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let error = |keys: &ServiceAccountKeys| Keys::read(keys).err().map(|error| error.to_string());
        let wrong = error(&of(&p521, &[])).unwrap();
        assert!(wrong.contains("neither RSA of 2,048 to 8,192 bits nor ECDSA"), "{wrong}");
        let wrong = error(&of(&p256, &[p521.public_key_pem().into_bytes()])).unwrap();
        assert!(wrong.contains("another curve"), "{wrong}");
        let wrong = error(&of(&p256, &[b"nothing".to_vec()])).unwrap();
        assert!(wrong.contains("does not contain any valid RSA or ECDSA public keys"), "{wrong}");
    }

    #[test]
    fn discovery_tells_the_first_issuer_and_every_key() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let mut of = of(&key, &[]);
        let keys = Keys::read(&of).unwrap();
        let told = |of: &ServiceAccountKeys| {
            let told = Discovery::new(&keys, of, "192.0.2.1:6443")?;
            serde_json::from_str::<Value>(&told.configuration).ok()
        };
        of.issuers.push("https://older".to_owned());
        let document = told(&of).unwrap();
        assert_eq!(document["issuer"], "https://issuer");
        assert_eq!(document["jwks_uri"], "https://192.0.2.1:6443/openid/v1/jwks");
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES384"]));
        of.jwks_uri = Some("https://keys.example.com/all".to_owned());
        assert_eq!(told(&of).unwrap()["jwks_uri"], "https://keys.example.com/all");
        for issuer in ["api", "http://issuer", "https://issuer?a", "https://issuer#a"] {
            of.issuers[0] = issuer.to_owned();
            assert!(told(&of).is_none(), "{issuer}");
        }
    }
}

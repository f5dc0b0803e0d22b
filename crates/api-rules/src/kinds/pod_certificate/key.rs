//! Public keys of requests: of which kind they are, and whether a signature is theirs.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Object identifiers of algorithms (RFC 8410, RFC 5480, RFC 3279).
const ED25519: &str = "1.3.101.112";
const ELLIPTIC: &str = "1.2.840.10045.2.1";
const RSA: &str = "1.2.840.113549.1.1.1";
const DSA: &str = "1.2.840.10040.4.1";
const X25519: &str = "1.3.101.110";
/// Curves with their names (RFC 5480).
const CURVES: [(&str, &str); 4] = [
    ("1.3.132.0.33", "P-224"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
];
/// Signatures on P-521 (RFC 5758), which the parser does not check.
const ECDSA_P521: [(&str, &signature::EcdsaVerificationAlgorithm); 3] = [
    ("1.2.840.10045.4.3.2", &signature::ECDSA_P521_SHA256_ASN1),
    ("1.2.840.10045.4.3.3", &signature::ECDSA_P521_SHA384_ASN1),
    ("1.2.840.10045.4.3.4", &signature::ECDSA_P521_SHA512_ASN1),
];

/// The kind of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Ed25519,
    /// Elliptic, on a curve of this name.
    Curve(&'static str),
    /// RSA, with so many bits of modulus.
    Rsa(usize),
    /// Of a kind that is known, but not meant for this.
    Other,
    /// Of a kind that nobody can read.
    Unread,
}

impl Key {
    pub fn of(key: &SubjectPublicKeyInfo<'_>) -> Key {
        match key.algorithm.algorithm.to_id_string().as_str() {
            ED25519 => Key::Ed25519,
            ELLIPTIC => curve(key).map_or(Key::Unread, Key::Curve),
            RSA => match key.parsed() {
                Ok(PublicKey::RSA(rsa)) => {
                    let modulus = rsa.modulus.iter().skip_while(|byte| **byte == 0).count();
                    Key::Rsa(modulus * 8)
                }
                _ => Key::Unread,
            },
            DSA | X25519 => Key::Other,
            _ => Key::Unread,
        }
    }
}

fn curve(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static str> {
    let id = key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
    CURVES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

fn verify(
    key: &SubjectPublicKeyInfo<'_>,
    by: &'static dyn VerificationAlgorithm,
    said: &[u8],
    proof: &[u8],
) -> bool {
    UnparsedPublicKey::new(by, &key.subject_public_key.data).verify(said, proof).is_ok()
}

/// Whether the request is signed by the key that it is for.
pub(super) fn signed_itself(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    if Key::of(key) != Key::Curve("P-521") {
        return request.verify_signature().is_ok();
    }
    let id = request.signature_algorithm.algorithm.to_id_string();
    let by = ECDSA_P521.iter().find(|(known, _)| *known == id);
    by.is_some_and(|(_, by)| verify(key, *by, info.raw, &request.signature_value.data))
}

/// Whether who has the private key signed what is said.
pub(super) fn proves(key: &SubjectPublicKeyInfo<'_>, said: &[u8], proof: &[u8]) -> bool {
    let by: &dyn VerificationAlgorithm = match Key::of(key) {
        Key::Ed25519 => &signature::ED25519,
        Key::Curve("P-256") => &signature::ECDSA_P256_SHA256_ASN1,
        Key::Curve("P-384") => &signature::ECDSA_P384_SHA256_ASN1,
        Key::Curve("P-521") => &signature::ECDSA_P521_SHA256_ASN1,
        Key::Rsa(_) => &signature::RSA_PSS_2048_8192_SHA256,
        _ => return false,
    };
    verify(key, by, said, proof)
}

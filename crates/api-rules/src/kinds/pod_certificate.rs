//! PodCertificateRequest: a certificate for a pod, asked for by the agent of its node (upstream:
//! `pkg/apis/certificates/validation`; KEP-4317).

mod chain;
mod key;

use super::Kind;
use super::security::signer_name;
use super::shared::{conditions, unchanged};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, remove, same};
use api_types::field::{ErrorType, FieldError, OMITTED};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use key::Key;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

const SPEC: At<'static> = At::root("spec");
const STATUS: At<'static> = At::root("status");
const STUB: &str = "spec.stubPKCS10Request";
const PUBLIC_KEY: &str = "spec.pkixPublicKey";
const PROOF: &str = "spec.proofOfPossession";
/// Bytes of a UID.
const MAX_UID: usize = 128;
/// Bytes of a key, a proof, a request.
const MAX_KEY: usize = 10 * 1024;
/// Bytes of all keys and values of a user's annotations.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Shortest life of a certificate that may be asked for, in seconds.
const MIN_LIFE: i64 = 60 * 60;
/// Longest one of Kubernetes' own signers, and of others.
const MAX_OWN_LIFE: i64 = 24 * 60 * 60;
const MAX_LIFE: i64 = 91 * 24 * 60 * 60;
/// How far a certificate may begin from now, in seconds.
const MAX_SKEW: i64 = 5 * 60;
/// Conditions that end a request.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

pub(super) static KINDS: &[Kind] = &[Kind::new("certificates.k8s.io", "PodCertificateRequest")
    .create(request)
    .update(|new, old, errors| unchanged(new, old, &["spec"], At::root(""), errors))
    .status(status)];

/// What is wrong with a field: its path, the value that is shown, and the text.
type Fault = (&'static str, Value, String);

fn fault<T>(field: &'static str, value: impl Into<Value>, text: impl Into<String>) -> Result<T, Fault> {
    Err((field, value.into(), text.into()))
}

fn request(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let signer = spec.text("signerName");
    signer_name(signer, SPEC.at("signerName"), errors);
    annotations(spec, errors);
    for (name, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        errors.format(SPEC.at(name), spec.text(name), format::dns1123_subdomain(spec.text(name)));
        match spec.text(uid) {
            "" => errors.invalid(SPEC.at(uid), "", "must not be empty"),
            text if text.len() > MAX_UID => errors.too_long(SPEC.at(uid), MAX_UID),
            _ => {}
        }
    }
    let at = SPEC.at("maxExpirationSeconds");
    let Some(life) = spec.int_opt("maxExpirationSeconds") else {
        return errors.required(at, "must be set");
    };
    let max = if is_own(signer) { MAX_OWN_LIFE } else { MAX_LIFE };
    if !(MIN_LIFE..=max).contains(&life) {
        errors.invalid(at, life, format!("must be in the range [{MIN_LIFE}, {max}]"));
    }
    keys(spec, errors);
}

/// Whether the signer is one of Kubernetes' own.
fn is_own(signer: &str) -> bool {
    let host = signer.split('/').next().unwrap_or("");
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// What the user of the pod tells the signer: domain-prefixed keys.
fn annotations(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("unverifiedUserAnnotations");
    let mut total = 0;
    for (key, value) in spec.entries("unverifiedUserAnnotations") {
        total += key.len() + value.as_str().map_or(0, str::len);
        let lower = key.to_lowercase();
        let problems = format::qualified_name(&lower);
        if lower.is_empty() {
            errors.required(at, "");
        } else if problems.is_empty() && !lower.contains('/') {
            errors.invalid(at, lower, "must be a domain-prefixed key (such as \"acme.io/foo\")");
        } else {
            errors.format(at, &lower, problems);
        }
    }
    if total > MAX_ANNOTATIONS {
        errors.too_long(at, MAX_ANNOTATIONS);
    }
}

/// The bytes of a field.
fn bytes(spec: &Value, field: &str) -> Vec<u8> {
    STANDARD.decode(spec.text(field)).unwrap_or_default()
}

/// A request that signs itself, or a key with a proof that the agent has its other half.
fn keys(spec: &Value, errors: &mut Errors) {
    let [stub, public, proof] =
        ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"].map(|field| bytes(spec, field));
    let found = match [!stub.is_empty(), !public.is_empty(), !proof.is_empty()] {
        [true, false, false] => {
            if stub.len() > MAX_KEY {
                return errors.too_long(At::root(STUB), MAX_KEY);
            }
            stub_request(&stub)
        }
        [false, true, true] => {
            for (field, bytes) in [(PUBLIC_KEY, &public), (PROOF, &proof)] {
                if bytes.len() > MAX_KEY {
                    return errors.too_long(At::root(field), MAX_KEY);
                }
            }
            proven_key(spec, &public, &proof)
        }
        _ => {
            let text = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            fault("spec", OMITTED, text)
        }
    };
    if let Err((field, value, text)) = found {
        errors.invalid(At::root(field), value, text);
    }
}

fn stub_request(stub: &[u8]) -> Result<(), Fault> {
    let Ok((&[], stub)) = X509CertificationRequest::from_der(stub) else {
        return fault(STUB, OMITTED, "must be a valid PKCS#10 CSR");
    };
    let key = &stub.certification_request_info.subject_pki;
    usable(Key::of(key), STUB, OMITTED.into(), "P256, P384, or P521")?;
    match key::signed_itself(&stub) {
        true => Ok(()),
        false => fault(STUB, OMITTED, "invalid signature"),
    }
}

fn proven_key(spec: &Value, public: &[u8], proof: &[u8]) -> Result<(), Fault> {
    let shown = spec.at("pkixPublicKey").clone();
    let parsed = SubjectPublicKeyInfo::from_der(public).ok().filter(|(rest, _)| rest.is_empty());
    let Some((_, public)) = parsed.filter(|(_, public)| Key::of(public) != Key::Unread) else {
        return fault(PUBLIC_KEY, shown, "must be a valid PKIX-serialized public key");
    };
    usable(Key::of(&public), PUBLIC_KEY, shown, "P256 or P384")?;
    match key::proves(&public, spec.text("podUID").as_bytes(), proof) {
        true => Ok(()),
        false => fault(PROOF, OMITTED, "could not verify proof-of-possession signature"),
    }
}

/// Keys that are strong enough; `shown` stands for a key of another kind.
fn usable(key: Key, field: &'static str, shown: Value, curves: &str) -> Result<(), Fault> {
    match key {
        Key::Ed25519 | Key::Curve("P-256" | "P-384" | "P-521") | Key::Rsa(3072 | 4096) => Ok(()),
        Key::Curve(name) => {
            let text = format!("elliptic public keys must use curve {curves}");
            fault(field, format!("curve {name}"), text)
        }
        Key::Rsa(bits) => {
            fault(field, format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096")
        }
        Key::Other | Key::Unread => {
            let text = "unknown public key type; supported types are Ed25519, ECDSA, and RSA";
            fault(field, shown, text)
        }
    }
}

/// Whether the request has ended in this way.
fn has(object: &Value, kind: &str) -> bool {
    let list = object.items("status.conditions").iter();
    list.filter(|condition| condition.text("type") == kind)
        .any(|condition| condition.text("status") == "True")
}

fn has_ended(object: &Value) -> bool {
    ENDS.iter().any(|kind| has(object, kind))
}

/// A request ends once: issued, with a chain that is what was asked for, or denied or failed, with nothing.
fn status(new: &Value, old: &Value, errors: &mut Errors) {
    if !errors.is_empty() {
        return;
    }
    ends(new.items("status.conditions"), errors);
    conditions(new.items("status.conditions"), STATUS.at("conditions"), errors);
    if !errors.is_empty() {
        return;
    }
    let changed = !same(new.at("status"), old.at("status"));
    if has_ended(old) {
        if changed {
            let text = "immutable after PodCertificateRequest is issued, denied, or failed";
            errors.invalid(STATUS, OMITTED, text);
        }
    } else if has(new, "Denied") || has(new, "Failed") {
        let mut rest = new.at("status").clone();
        remove(&mut rest, "conditions");
        if !same(&rest, &Value::Object(serde_json::Map::new())) {
            let text =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            errors.invalid(STATUS, OMITTED, text);
        }
    } else if has(new, "Issued") {
        chain::issued(new, old, errors);
    } else if changed {
        let text = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        errors.invalid(STATUS, OMITTED, text);
    }
}

/// One of the known conditions, and it is true.
fn ends(list: &[Value], errors: &mut Errors) {
    let at = STATUS.at("conditions");
    let mut known = 0;
    for (i, condition) in list.iter().enumerate() {
        // The index is a step of its own in upstream's path.
        let index = format!("[{i}]");
        let at = at.at(&index);
        let kind = condition.text("type");
        if !ENDS.contains(&kind) {
            errors.not_supported(at.at("type"), kind, &ENDS);
            continue;
        }
        known += 1;
        if known > 1 {
            let text = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(at.at("type"), kind, text);
        }
        if condition.text("status") != "True" {
            errors.not_supported(at.at("status"), condition.text("status"), &["True"]);
        }
    }
}

fn time(object: &Value, field: &str) -> Option<Timestamp> {
    object.text(field).parse().ok()
}

/// What only the clock tells of an update of the status: a certificate that is issued begins about now (seconds since
/// the epoch). Everything else was found good before.
pub fn validate_issued_at(new: &Value, old: &Value, now: i64) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let begin = time(new, "status.notBefore").map(Timestamp::as_second);
    let issued = has(new, "Issued") && !has_ended(old);
    if issued && begin.is_some_and(|begin| (begin - now).abs() >= MAX_SKEW) {
        let text = "must be set to within 5 minutes of kube-apiserver's current time";
        errors.invalid(STATUS.at("notBefore"), new.at("status.notBefore").clone(), text);
    }
    errors.done()
}

/// What is told to somebody who changes the status of a request and may not sign for its signer.
pub fn not_permitted_to_sign(user: &str, signer: &str) -> FieldError {
    let [user, signer] = [user, signer].map(api_types::field::quote);
    FieldError {
        field: "spec.signerName".into(),
        ty: ErrorType::Forbidden,
        bad_value: Value::Null,
        detail: format!("User {user} is not permitted to \"sign\" for signer {signer}"),
        origin: "",
    }
}

#[cfg(test)]
mod tests;

//! Certificate signing requests and token requests.

use super::Kind;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, set};
use crate::meta::NameFormat;
use serde_json::Value;
use x509_parser::pem::Pem;

const SPEC: At<'static> = At::root("spec");
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Shortest life of a certificate and of a token in seconds.
const MIN_SECONDS: i64 = 600;
/// Bytes of a trust bundle.
const MAX_TRUST_BUNDLE: usize = 1 << 20;
/// What stands in errors in place of a bundle.
const OMITTED: &str = "<value omitted>";
/// Bytes of the domain of a signer's name, and of the name: domain, slash, a label, a dot, a subdomain.
const MAX_SIGNER_DOMAIN: usize = 253;
const MAX_SIGNER: usize = 253 + 1 + 63 + 1 + 253;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

pub(super) static KINDS: &[Kind] = &[
    Kind {
        // What was asked for, and by whom, is settled when the request is made.
        prepare_update: |new, old| set(new, "spec", old.at("spec").clone()),
        ..Kind::new("certificates.k8s.io", "CertificateSigningRequest")
            .create(signing_request)
            .update(kept_conditions)
            .status(kept_conditions)
    },
    Kind::new("certificates.k8s.io", "ClusterTrustBundle")
        .names(NameFormat::Own)
        .create(trust_bundle)
        .update(trust_bundle_update),
    Kind::new("authentication.k8s.io", "TokenRequest").names(NameFormat::Own).create(token_request),
];

fn signing_request(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    if spec.text("request").is_empty() {
        errors.invalid(SPEC.at("request"), "", "PEM block type must be CERTIFICATE REQUEST");
    }
    let list = SPEC.at("usages");
    let usages = spec.items("usages");
    if usages.is_empty() {
        errors.required(list, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        let name = usage.as_str().unwrap_or("");
        if !USAGES.contains(&name) {
            errors.not_supported(list.index(i), name, USAGES);
        }
        if usages[..i].contains(usage) {
            errors.duplicate(list.index(i), name);
        }
    }
    let signer = spec.text("signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        let text = "the legacy signerName is not allowed via this API version";
        errors.invalid(SPEC.at("signerName"), signer, text);
    } else {
        signer_name(signer, SPEC.at("signerName"), errors);
    }
    if let Some(seconds) = spec.int_opt("expirationSeconds").filter(|s| *s < MIN_SECONDS) {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(SPEC.at("expirationSeconds"), seconds, text);
    }
    conditions(object, errors);
}

/// Who signs: a domain and a path (upstream: `ValidateSignerName`). Of each part only the first wrong label is told.
pub(super) fn signer_name(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(at, name, text);
    };
    if domain.len() > MAX_SIGNER_DOMAIN {
        errors.too_long(at, MAX_SIGNER_DOMAIN);
    }
    labels(domain, format::dns1123_label, at, errors);
    if !domain.contains('.') {
        errors.invalid(at, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(path, format::dns1123_subdomain, at, errors);
    if name.len() > MAX_SIGNER {
        errors.too_long(at, MAX_SIGNER);
    }
}

/// The first wrong label between the dots.
fn labels(part: &str, check: fn(&str) -> format::Problems, at: At<'_>, errors: &mut Errors) {
    let wrong = part.split('.').map(|label| (label, check(label))).find(|(_, problems)| !problems.is_empty());
    let Some((label, problems)) = wrong else { return };
    for problem in problems {
        let label = api_types::field::quote(label);
        errors.invalid(at, part, format!("validating label {label}: {problem}"));
    }
}

fn conditions(object: &Value, errors: &mut Errors) {
    let list = At::root("status.conditions");
    let all = object.items("status.conditions");
    for (i, condition) in all.iter().enumerate() {
        let at = list.index(i);
        let (kind, status) = (condition.text("type"), condition.text("status"));
        if kind.is_empty() {
            errors.required(at.at("type"), "");
        }
        match (kind, status) {
            (_, "") => errors.required(at.at("status"), ""),
            ("Approved" | "Denied" | "Failed", other) if other != "True" => {
                errors.not_supported(at.at("status"), other, &["True"]);
            }
            _ => {}
        }
        if all[..i].iter().any(|c| c.text("type") == kind) {
            errors.duplicate(at.at("type"), kind);
        }
    }
    let has = |kind: &str| all.iter().any(|c| c.text("type") == kind);
    if has("Approved") && has("Denied") {
        errors.invalid(list, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
}

/// Decisions stay.
fn kept_conditions(new: &Value, old: &Value, errors: &mut Errors) {
    conditions(new, errors);
    for kind in ["Approved", "Denied", "Failed"] {
        let has = |o: &Value| o.items("status.conditions").iter().any(|c| c.text("type") == kind);
        if has(old) && !has(new) {
            let text = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden(At::root("status.conditions"), text);
        }
    }
}

/// Its name says who signs it.
fn trust_bundle(object: &Value, errors: &mut Errors) {
    trust_bundle_name(object, errors);
    trust_anchors(object.text("spec.trustBundle"), errors);
}

fn trust_bundle_update(new: &Value, old: &Value, errors: &mut Errors) {
    trust_bundle_name(new, errors);
    if new.at("spec.trustBundle") != old.at("spec.trustBundle") {
        trust_anchors(new.text("spec.trustBundle"), errors);
    }
    errors.immutable(SPEC.at("signerName"), new.at("spec.signerName"), old.at("spec.signerName"));
}

fn trust_bundle_name(object: &Value, errors: &mut Errors) {
    let (name, signed_by) = (object.text("metadata.name"), object.text("spec.signerName"));
    let at = At::root("metadata.name");
    if signed_by.is_empty() {
        match name.contains(':') {
            true => {
                errors.invalid(
                    at,
                    name,
                    "ClusterTrustBundle without signer name must not have \":\" in its name",
                );
            }
            false => errors.format(at, name, format::dns1123_subdomain(name)),
        }
        return;
    }
    let prefix = format!("{}:", signed_by.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => errors.format(at, name, format::dns1123_subdomain(rest)),
        None => {
            let text =
                format!("ClusterTrustBundle for signerName {signed_by} must be named with prefix {prefix}");
            errors.invalid(at, name, text);
        }
    }
    signer_name(signed_by, SPEC.at("signerName"), errors);
}

/// Certificates of authorities in PEM, each once (upstream: `pkg/apis/certificates/validation`).
fn trust_anchors(text: &str, errors: &mut Errors) {
    let at = SPEC.at("trustBundle");
    if text.len() > MAX_TRUST_BUNDLE {
        errors.too_long(at, MAX_TRUST_BUNDLE);
        return;
    }
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let blocks = Pem::iter_from_buffer(text.as_bytes()).map_while(Result::ok);
    for (i, block) in blocks.enumerate() {
        if let Some(problem) = anchor_problem(&block) {
            errors.invalid(at, OMITTED, format!("entry {i} {problem}"));
        }
        if let Some(first) = seen.iter().position(|other| *other == block.contents) {
            errors.invalid(at, OMITTED, format!("duplicate trust anchor (indices [{first} {i}])"));
        }
        seen.push(block.contents);
    }
    if seen.is_empty() {
        errors.invalid(at, OMITTED, "at least one trust anchor must be provided");
    }
}

fn anchor_problem(block: &Pem) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    let Ok(certificate) = block.parse_x509() else {
        return Some("does not parse as X.509".to_owned());
    };
    (!certificate.is_ca()).then(|| "does not have the CA bit set".to_owned())
}

fn token_request(object: &Value, errors: &mut Errors) {
    let seconds = object.int("spec.expirationSeconds");
    let at = SPEC.at("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_TOKEN_SECONDS {
        errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    #[test]
    fn signing_requests() {
        let rules = rules_of("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
        let of = |spec: Value| {
            let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "a"}, "spec": spec});
            (rules.validate)(&object).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(of(json!({"request": "eA==", "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client"})).is_empty());
        assert_eq!(
            of(json!({"request": "eA==", "signerName": "x", "expirationSeconds": 5})),
            [
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        let signer =
            |name: &str| of(json!({"request": "eA==", "usages": ["client auth"], "signerName": name}));
        let legacy = "kubernetes.io/legacy-unknown";
        let text = "the legacy signerName is not allowed via this API version";
        assert_eq!(signer(legacy), [format!("spec.signerName: Invalid value: \"{legacy}\": {text}")]);
        let found = signer("A.B/C");
        assert!(
            found[0].starts_with("spec.signerName: Invalid value: \"A.B\": validating label \"A\": a low"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("spec.signerName: Invalid value: \"C\": validating label \"C\": a low"),
            "{found:?}"
        );
        let text = "should be a domain with at least two segments separated by dots";
        assert_eq!(signer("a/b"), [format!("spec.signerName: Invalid value: \"a\": {text}")]);
        assert_eq!(
            signer(&format!("{}a/b", "a.".repeat(127))),
            ["spec.signerName: Too long: may not be more than 253 bytes"]
        );
    }

    #[test]
    fn a_request_stays_what_it_was() {
        let rules = rules_of("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
        let of = |name: &str| {
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "a"},
                "spec": {"request": "eA==", "username": name}})
        };
        let mut new = of("somebody else");
        (rules.prepare_update)(&mut new, &of("jane"));
        assert_eq!(new["spec"], of("jane")["spec"]);
    }

    #[test]
    fn trust_bundles_are_named_after_their_signer() {
        let rules = rules_of("certificates.k8s.io", "v1", "ClusterTrustBundle").unwrap();
        let of = |name: &str, signer: &str, bundle: &str| {
            let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
                "metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": bundle}});
            (rules.validate)(&object).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let authority = |is_ca: bool| {
            let mut params = rcgen::CertificateParams::default();
            if is_ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let (good, leaf) = (authority(true), authority(false));
        assert!(of("a", "", &good).is_empty());
        assert!(of("example.com:x:a", "example.com/x", &good).is_empty());
        let name = |name, text: &str| [format!("metadata.name: Invalid value: \"{name}\": {text}")];
        let text = "ClusterTrustBundle without signer name must not have \":\" in its name";
        assert_eq!(of("x:a", "", &good), name("x:a", text));
        let text = "ClusterTrustBundle for signerName example.com/x must be named with prefix example.com:x:";
        assert_eq!(of("a", "example.com/x", &good), name("a", text));
        let bundle = |text: &str| format!("spec.trustBundle: Invalid value: \"<value omitted>\": {text}");
        assert_eq!(of("a", "", "x"), [bundle("at least one trust anchor must be provided")]);
        assert_eq!(of("a", "", &leaf), [bundle("entry 0 does not have the CA bit set")]);
        let twice = format!("{good}{good}");
        assert_eq!(of("a", "", &twice), [bundle("duplicate trust anchor (indices [0 1])")]);
    }

    #[test]
    fn decisions_stay() {
        let rules = rules_of("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
        let of = |conditions: Value| {
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "a"},
            "status": {"conditions": conditions}})
        };
        let old = of(json!([{"type": "Approved", "status": "True"}]));
        let found = (rules.validate_status_update)(&of(json!([])), &old);
        assert_eq!(
            found[0].to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }
}

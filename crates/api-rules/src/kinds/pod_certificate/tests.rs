use super::super::bench::{
    check_created, check_status, check_updated, created, defaulted, status_updated, with,
};
use super::validate_issued_at;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use serde_json::{Value, json};

const UID: &str = "00000000-0000-4000-8000-000000000001";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn stub(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn request(key: &KeyPair) -> Value {
    defaulted(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {"signerName": "example.com/s", "podName": "p", "podUID": UID, "serviceAccountName": "s",
            "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u", "stubPKCS10Request": STANDARD.encode(stub(key))}}))
}

fn p256() -> KeyPair {
    key(&rcgen::PKCS_ECDSA_P256_SHA256)
}

#[test]
fn who_asks_for_what() {
    let good = request(&p256());
    let bad = |field: &str| format!("spec.{field}: Invalid value: \"A\": {SUBDOMAIN}");
    let [pod, account, node] = ["podName", "serviceAccountName", "nodeName"].map(bad);
    let long = json!("x".repeat(129));
    check_created(
        &good,
        &[
            ("/spec/signerName", Value::Null, &["spec.signerName: Required value"]),
            (
                "/spec/signerName",
                json!("s"),
                &[
                    "spec.signerName: Invalid value: \"s\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            ("/spec/podName", json!("A"), &[&pod]),
            ("/spec/serviceAccountName", json!("A"), &[&account]),
            ("/spec/nodeName", json!("A"), &[&node]),
            ("/spec/podUID", Value::Null, &["spec.podUID: Invalid value: \"\": must not be empty"]),
            ("/spec/nodeUID", long.clone(), &["spec.nodeUID: Too long: may not be more than 128 bytes"]),
            (
                "/spec/serviceAccountUID",
                long,
                &["spec.serviceAccountUID: Too long: may not be more than 128 bytes"],
            ),
            (
                "/spec/maxExpirationSeconds",
                Value::Null,
                &["spec.maxExpirationSeconds: Required value: must be set"],
            ),
            ("/spec/maxExpirationSeconds", json!(3600), &[]),
            ("/spec/maxExpirationSeconds", json!(7_862_400), &[]),
            (
                "/spec/maxExpirationSeconds",
                json!(7_862_401),
                &["spec.maxExpirationSeconds: Invalid value: 7862401: must be in the range [3600, 7862400]"],
            ),
            ("/spec/unverifiedUserAnnotations", json!({"a.b/C": "x"}), &[]),
            (
                "/spec/unverifiedUserAnnotations",
                json!({"c": "x"}),
                &[
                    "spec.unverifiedUserAnnotations: Invalid value: \"c\": must be a domain-prefixed key (such as \"acme.io/foo\")",
                ],
            ),
            (
                "/spec/unverifiedUserAnnotations",
                json!({"a.b/c": "x".repeat(256 * 1024)}),
                &["spec.unverifiedUserAnnotations: Too long: may not be more than 262144 bytes"],
            ),
        ],
    );
    let own = with(&good, "/spec/signerName", json!("x.kubernetes.io/s"));
    assert_eq!(
        created(&with(&own, "/spec/maxExpirationSeconds", json!(86_401))),
        ["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"]
    );
    let found = super::super::bench::updated(&with(&good, "/spec/podName", json!("q")), &good);
    assert!(
        found[0].starts_with("spec: Invalid value: {") && found[0].ends_with(": field is immutable"),
        "{found:?}"
    );
    check_updated(&good, &[("/metadata/labels", json!({"a": "b"}), &[])]);
}

#[test]
fn requests_that_sign_themselves() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ] {
        assert_eq!(created(&request(&key(algorithm))), [""; 0]);
    }
    let mut forged = stub(&key(&rcgen::PKCS_ED25519));
    *forged.last_mut().unwrap() ^= 1;
    let weak = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let pointer = "/spec/stubPKCS10Request";
    let text = |bytes: &[u8]| json!(STANDARD.encode(bytes));
    let one_of = "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
    check_created(
        &request(&p256()),
        &[
            (pointer, Value::Null, &[one_of]),
            ("/spec/pkixPublicKey", text(b"x"), &[one_of]),
            (pointer, text(b"x"), &["spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"]),
            (
                pointer,
                text(&[0; 10_241]),
                &["spec.stubPKCS10Request: Too long: may not be more than 10240 bytes"],
            ),
            (pointer, text(&forged), &["spec.stubPKCS10Request: Invalid value: invalid signature"]),
            (
                pointer,
                text(&stub(&weak)),
                &[
                    "spec.stubPKCS10Request: Invalid value: \"2048-bit modulus\": RSA keys must have modulus size 3072 or 4096",
                ],
            ),
        ],
    );
}

#[test]
fn keys_with_a_proof() {
    let key = p256();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
    let proof = signer.sign(&SystemRandom::new(), UID.as_bytes()).unwrap();
    let mut good = with(&request(&key), "/spec/stubPKCS10Request", Value::Null);
    let text = |bytes: &[u8]| json!(STANDARD.encode(bytes));
    good["spec"]["pkixPublicKey"] = text(&key.subject_public_key_info());
    good["spec"]["proofOfPossession"] = text(proof.as_ref());
    let other = "spec.proofOfPossession: Invalid value: could not verify proof-of-possession signature";
    let weak = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    check_created(
        &good,
        &[
            ("/spec/podUID", json!("another"), &[other]),
            ("/spec/pkixPublicKey", text(&p256().subject_public_key_info()), &[other]),
            (
                "/spec/pkixPublicKey",
                text(b"x"),
                &["spec.pkixPublicKey: Invalid value: \"eA==\": must be a valid PKIX-serialized public key"],
            ),
            (
                "/spec/pkixPublicKey",
                text(&weak.subject_public_key_info()),
                &[
                    "spec.pkixPublicKey: Invalid value: \"2048-bit modulus\": RSA keys must have modulus size 3072 or 4096",
                ],
            ),
            (
                "/spec/proofOfPossession",
                text(&[0; 10_241]),
                &["spec.proofOfPossession: Too long: may not be more than 10240 bytes"],
            ),
        ],
    );
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A certificate that lives for some days from the first of January.
fn certificate(key: &KeyPair, days: u8, names: &[&str]) -> String {
    let mut params = CertificateParams::default();
    let name = |name: &&str| rcgen::SanType::DnsName((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(name).collect();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 1, 1 + days);
    params.self_signed(key).unwrap().pem()
}

fn issued(request: &Value, chain: &str) -> Value {
    with(
        request,
        "/status",
        json!({"conditions": [condition("Issued")], "certificateChain": chain, "notBefore": "2026-01-01T00:00:00Z",
            "notAfter": "2026-01-02T00:00:00Z", "beginRefreshAt": "2026-01-01T12:00:00Z"}),
    )
}

#[test]
fn a_request_ends_once() {
    let key = p256();
    let pending = with(&request(&key), "/status", json!({}));
    let denied = json!({"conditions": [condition("Denied")]});
    let done = issued(&pending, &certificate(&key, 1, &[]));
    check_status(
        &pending,
        &[
            ("/status", denied.clone(), &[]),
            ("/status", done["status"].clone(), &[]),
            (
                "/status",
                json!({"notBefore": "2026-01-01T00:00:00Z"}),
                &[
                    "status: Invalid value: status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
                ],
            ),
            (
                "/status",
                json!({"conditions": [condition("Failed")], "notBefore": "2026-01-01T00:00:00Z"}),
                &[
                    "status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest",
                ],
            ),
            (
                "/status",
                json!({"conditions": [condition("Odd")]}),
                &[
                    "status.conditions.[0].type: Unsupported value: \"Odd\": supported values: \"Issued\", \"Denied\", \"Failed\"",
                ],
            ),
            (
                "/status",
                json!({"conditions": [condition("Denied"), with(&condition("Failed"), "/status", json!("False"))]}),
                &[
                    "status.conditions.[1].type: Invalid value: \"Failed\": There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"",
                    "status.conditions.[1].status: Unsupported value: \"False\": supported values: \"True\"",
                ],
            ),
            (
                "/status",
                json!({"conditions": [with(&condition("Denied"), "/reason", Value::Null)]}),
                &["status.conditions[0].reason: Required value"],
            ),
        ],
    );
    let ended = with(&pending, "/status", denied);
    let wanted =
        &["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"];
    check_status(&ended, &[("/status", done["status"].clone(), wanted)]);
}

#[test]
fn chains() {
    let key = p256();
    let pending = with(&request(&key), "/status", json!({}));
    let good = certificate(&key, 1, &["a.b"]);
    let issued = |chain: &str| issued(&pending, chain);
    let found = |chain: &str| status_updated(&issued(chain), &pending).join("\n");
    let on_chain = |chain: &str, text: &str| {
        format!("status.certificateChain: Invalid value: {}: {text}", api_types::field::quote(chain))
    };
    assert_eq!(found(&good), "");
    assert_eq!(found(&format!("{good}{}", certificate(&p256(), 1, &[]))), "");
    assert_eq!(found("x"), on_chain("x", "issued certificate chain must contain at least one certificate"));
    assert_eq!(
        found(&"x".repeat(100 * 1024 + 1)),
        "status.certificateChain: Too long: may not be more than 102400 bytes"
    );
    let other = good.replace("CERTIFICATE", "SOMETHING");
    let text = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    assert_eq!(found(&other), on_chain(&other, text));
    let then = format!("{good}{other}");
    let text = "issued certificate chain must consist entirely of CERTFICATE PEM blocks";
    assert_eq!(found(&then), on_chain(&then, text));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(found(broken), on_chain(broken, "leaf certificate does not parse as valid X.509"));
    let then = format!("{good}{broken}");
    assert_eq!(found(&then), on_chain(&then, "intermediate certificate does not parse as valid X.509"));
    let stranger = certificate(&p256(), 1, &[]);
    let text = "leaf certificate was not issued to the requested public key";
    assert_eq!(found(&stranger), on_chain(&stranger, text));
    let named = certificate(&key, 1, &["a..b", ".c"]);
    assert_eq!(
        found(&named),
        "status.certificateChain: Invalid value: \"a..b\": leaf certificate's DNSName should not contain '..'\n\
         status.certificateChain: Invalid value: \".c\": leaf certificate's DNSName should not start or end with '.'"
    );
}

#[test]
fn times_are_the_certificates() {
    let key = p256();
    let pending = with(&request(&key), "/status", json!({}));
    let good = issued(&pending, &certificate(&key, 1, &[]));
    let said = |pointer: &str, value: Value| status_updated(&with(&good, pointer, value), &pending);
    for (field, text) in [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        let found = said(&format!("/status/{field}"), Value::Null);
        assert_eq!(found, [format!("status.{field}: Required value: {text}")]);
    }
    let later = "2026-01-01T00:00:01Z";
    for (field, text) in [
        ("notBefore", "must be set to the NotBefore time encoded in the leaf certificate"),
        ("notAfter", "must be set to the NotAfter time encoded in the leaf certificate"),
        ("beginRefreshAt", "must be at least 10 minutes after status.notBefore"),
    ] {
        let found = said(&format!("/status/{field}"), json!(later));
        assert_eq!(found, [format!("status.{field}: Invalid value: \"{later}\": {text}")]);
    }
    assert_eq!(
        said("/status/beginRefreshAt", json!("2026-01-01T23:50:01Z")),
        [
            "status.beginRefreshAt: Invalid value: \"2026-01-01T23:50:01Z\": must be at least 10 minutes before status.notAfter"
        ]
    );
    let long = with(
        &issued(&pending, &certificate(&key, 2, &[])),
        "/status/notAfter",
        json!("2026-01-03T00:00:00Z"),
    );
    assert_eq!(
        status_updated(&long, &pending),
        [
            "status.certificateChain: Invalid value: 172800000000000: leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"
        ]
    );
    let short = with(
        &issued(&pending, &certificate(&key, 0, &[])),
        "/status/notAfter",
        json!("2026-01-01T00:00:00Z"),
    );
    assert_eq!(
        status_updated(&short, &pending),
        ["status.certificateChain: Invalid value: 0: leaf certificate lifetime must be >= 1 hour"]
    );
}

#[test]
fn a_certificate_begins_about_now() {
    let key = p256();
    let pending = with(&request(&key), "/status", json!({}));
    let done = issued(&pending, &certificate(&key, 1, &[]));
    let midnight = 1_767_225_600;
    for (now, is_good) in [(0, true), (299, true), (-299, true), (300, false), (-300, false)] {
        assert_eq!(validate_issued_at(&done, &pending, midnight + now).is_empty(), is_good, "{now}");
    }
    let found = validate_issued_at(&done, &pending, 0)[0].to_string();
    assert_eq!(
        found,
        "status.notBefore: Invalid value: \"2026-01-01T00:00:00Z\": must be set to within 5 minutes of kube-apiserver's current time"
    );
    assert!(validate_issued_at(&done, &done, 0).is_empty(), "only when it is issued");
}

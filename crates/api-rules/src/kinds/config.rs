//! ConfigMap, Secret, ServiceAccount: what pods are configured with.

use super::Kind;
use super::shared::unchanged;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, object_mut, remove, same, set};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Most bytes of all values together.
const MAX_BYTES: usize = 1024 * 1024;
const FIXED: &str = "field is immutable when `immutable` is set";
const ACCOUNT: &str = "kubernetes.io/service-account.name";

pub(super) static KINDS: &[Kind] = &[
    Kind::new("", "ConfigMap").create(config_map).update(config_map_update),
    Kind {
        prepare_create: string_data,
        prepare_update: |new, _| string_data(new),
        ..Kind::new("", "Secret").create(secret).update(secret_update)
    },
    Kind::new("", "ServiceAccount"),
];

/// `stringData` is for writing only: it goes into `data`, base64, and wins over what stands there.
fn string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = remove(secret, "stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = object_mut(secret, "data");
    for (key, value) in plain {
        data.insert(key, Value::from(STANDARD.encode(value.as_str().unwrap_or(""))));
    }
    if secret.text("type").is_empty() {
        set(secret, "type", Value::from("Opaque"));
    }
}

/// Bytes behind a base64 text, without decoding it.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn config_map(object: &Value, errors: &mut Errors) {
    let (data_at, binary_at) = (At::root("data"), At::root("binaryData"));
    let mut total = 0;
    for (key, value) in object.entries("data") {
        errors.format(data_at.key(key), key, format::config_map_key(key));
        if object.at("binaryData").key(key).is_string() {
            errors.invalid(data_at.key(key), key, "duplicate of key present in binaryData");
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in object.entries("binaryData") {
        errors.format(binary_at.key(key), key, format::config_map_key(key));
        total += value.as_str().map_or(0, decoded_len);
    }
    if total > MAX_BYTES {
        errors.too_long(At::root(""), MAX_BYTES);
    }
}

fn config_map_update(new: &Value, old: &Value, errors: &mut Errors) {
    config_map(new, errors);
    fixed(new, old, &["data", "binaryData"], errors);
}

/// Once `immutable` is true it stays, and so do the fields.
fn fixed(new: &Value, old: &Value, fields: &[&'static str], errors: &mut Errors) {
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        errors.forbidden(At::root("immutable"), FIXED);
    }
    for field in fields {
        if !same(new.at(field), old.at(field)) {
            errors.forbidden(At::root(field), FIXED);
        }
    }
}

fn secret(object: &Value, errors: &mut Errors) {
    let at = At::root("data");
    let mut total = 0;
    for (key, value) in object.entries("data") {
        errors.format(at.key(key), key, format::config_map_key(key));
        total += value.as_str().map_or(0, decoded_len);
    }
    if total > MAX_BYTES {
        errors.too_long(at, MAX_BYTES);
    }
    typed_secret(object, at, errors);
}

fn typed_secret(object: &Value, at: At<'_>, errors: &mut Errors) {
    let data = object.at("data");
    let mut need = |key: &str| {
        if !data.key(key).is_string() {
            errors.required(at.key(key), "");
        }
    };
    match object.text("type") {
        "kubernetes.io/service-account-token"
            if object.at("metadata.annotations").key(ACCOUNT).as_str().unwrap_or("").is_empty() =>
        {
            errors.required(At::root("metadata.annotations").key(ACCOUNT), "");
        }
        "kubernetes.io/dockercfg" => json_value(data, ".dockercfg", at, errors),
        "kubernetes.io/dockerconfigjson" => json_value(data, ".dockerconfigjson", at, errors),
        "kubernetes.io/basic-auth"
            if !data.key("username").is_string() && !data.key("password").is_string() =>
        {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").as_str().unwrap_or("").is_empty() => {
            errors.required(at.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn json_value(data: &Value, key: &str, at: At<'_>, errors: &mut Errors) {
    let Some(encoded) = data.key(key).as_str() else {
        errors.required(at.key(key), "");
        return;
    };
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        errors.invalid(at.key(key), "<secret contents redacted>", go_json_error(&bytes, &error));
    }
}

/// The decoder's words for the most common case, an empty value; else what our decoder says.
fn go_json_error(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.is_empty() { "unexpected end of JSON input".into() } else { error.to_string() }
}

fn secret_update(new: &Value, old: &Value, errors: &mut Errors) {
    unchanged(new, old, &["type"], At::root(""), errors);
    fixed(new, old, &["data"], errors);
    secret(new, errors);
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    fn check(object: &Value) -> Vec<String> {
        let rules = rules_of("", "v1", object["kind"].as_str().unwrap()).unwrap();
        (rules.validate)(object).iter().map(ToString::to_string).collect()
    }

    fn change(new: &Value, old: &Value) -> Vec<String> {
        let rules = rules_of("", "v1", new["kind"].as_str().unwrap()).unwrap();
        (rules.validate_update)(new, old).iter().map(ToString::to_string).collect()
    }

    fn object(kind: &str, rest: Value) -> Value {
        let mut object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": "b"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    }

    #[test]
    fn config_map_keys_and_size() {
        assert!(
            check(&object("ConfigMap", json!({"data": {"a.b": "1"}, "binaryData": {"c": "AAAA"}})))
                .is_empty()
        );
        let found = check(&object("ConfigMap", json!({"data": {"a b": "1"}})));
        assert!(
            found[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist"),
            "{found:?}"
        );
        let found = check(&object("ConfigMap", json!({"data": {"a": "1"}, "binaryData": {"a": ""}})));
        assert_eq!(found, ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]);
        let found = check(&object("ConfigMap", json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}})));
        assert_eq!(found, ["<nil>: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn immutable_stays() {
        let old = object("ConfigMap", json!({"immutable": true, "data": {"a": "1"}}));
        let new = object("ConfigMap", json!({"data": {"a": "2"}}));
        assert_eq!(
            change(&new, &old),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
        let old = object("Secret", json!({"type": "Opaque"}));
        let new = object("Secret", json!({"type": "x"}));
        assert_eq!(change(&new, &old), ["type: Invalid value: \"x\": field is immutable"]);
    }

    #[test]
    fn secrets_of_known_types() {
        let of = |kind: &str, data: Value| check(&object("Secret", json!({"type": kind, "data": data})));
        assert_eq!(of("kubernetes.io/tls", json!({"tls.crt": ""})), ["data[tls.key]: Required value"]);
        assert_eq!(
            of("kubernetes.io/basic-auth", json!({})),
            ["data[username]: Required value", "data[password]: Required value"]
        );
        assert_eq!(
            of("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": ""})),
            [
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"
            ]
        );
        assert_eq!(
            of("kubernetes.io/service-account-token", json!({})),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
    }

    #[test]
    fn string_data_is_encoded_into_data() {
        let mut secret =
            object("Secret", json!({"data": {"a": "AA=="}, "stringData": {"a": "x", "b": "hunter2"}}));
        (rules_of("", "v1", "Secret").unwrap().prepare_create)(&mut secret);
        assert_eq!(secret["data"], json!({"a": "eA==", "b": "aHVudGVyMg=="}));
        assert!(secret.get("stringData").is_none());
    }
}

//! Every kind with every field filled: nothing is lost between JSON, YAML and protobuf. `testdata/full.tsv` says of each
//! kind how many values such an object has, how long it is in JSON and protobuf, and fingerprints of both: a change
//! of the encoding or of the fields of a kind shows there. `make golden` writes it anew.

use std::fmt::Write as _;

use api_types::schema::MessageId;
use api_types::{codec, schema, table};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fill::{base64, fingerprint, full, leaves, named};
use crate::properties::{Random, object as random_object};

/// Where a value lacks something of another one, or has something else there.
fn lost(given: &Value, found: &Value, path: &str) -> Option<String> {
    match (given, found) {
        (Value::Object(given), Value::Object(found)) => given.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            lost(value, found.get(name).unwrap_or(&Value::Null), &path)
        }),
        (Value::Array(given), Value::Array(found)) if given.len() == found.len() => {
            let pairs = given.iter().zip(found).enumerate();
            pairs.into_iter().find_map(|(at, (given, found))| lost(given, found, &format!("{path}[{at}]")))
        }
        _ => (given != found).then(|| format!("{path}: {given} became {found}")),
    }
}

/// Every message that stands alone, with one of its names.
fn kinds() -> Vec<(MessageId, String, &'static str)> {
    let name = |message: &MessageId| {
        let (group, version, kind) = message.kinds.first().filter(|_| message.typed)?;
        Some((*message, table::api_version(group, version), *kind))
    };
    schema::messages().iter().filter_map(name).collect()
}

#[test]
fn every_field_survives_every_form() {
    let mut faults = Vec::new();
    for (message, api_version, kind) in kinds() {
        let given = named(&full(message, &[]), &api_version, kind);
        let mut check = |form: &str, found: &Value| {
            if let Some(fault) = lost(&given, found, "") {
                faults.push(format!("{api_version} {kind} in {form}: {fault}"));
            }
        };
        let report = schema::check(message, &given);
        assert!(report.is_clean(), "{api_version} {kind}: {report:?}");
        let envelope = codec::to_envelope(message, &api_version, kind, &given).unwrap();
        check("protobuf", &codec::from_envelope(&envelope).unwrap());
        let raw = codec::unwrap_unknown(&envelope).unwrap().raw;
        let mut text = Vec::new();
        codec::object_to_json(message, &api_version, kind, raw, 0, &mut text).unwrap();
        check("protobuf to JSON", &serde_json::from_slice(&text).unwrap());
        let mut text = Vec::new();
        codec::encode_json(message, &given, &mut text).unwrap();
        check("JSON", &codec::decode_json(&text).unwrap().value);
        let yaml = codec::encode_yaml(&given);
        check("YAML", &codec::decode_yaml(yaml.as_bytes()).unwrap().value);
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_encoding_of_every_kind_is_known() {
    let mut found = String::from("kind\tvalues\tJSON bytes\tJSON\tprotobuf bytes\tprotobuf\n");
    for resource in table::resources() {
        let message = resource.built_in_message();
        let (api_version, kind) = (resource.api_version(), resource.kind.as_str());
        let given = full(message, &[]);
        let mut text = Vec::new();
        codec::encode_json(message, &given, &mut text).unwrap();
        let proto = codec::to_envelope(message, &api_version, kind, &given).unwrap();
        let values = leaves(&given);
        let (json, bytes) = (fingerprint(&text), fingerprint(&proto));
        let (long, short) = (text.len(), proto.len());
        writeln!(found, "{api_version} {kind}\t{values}\t{long}\t{json:016x}\t{short}\t{bytes:016x}")
            .unwrap();
    }
    let path = format!("{}/testdata/full.tsv", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN_BLESS").is_some() {
        return std::fs::write(path, found).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    let different = found.lines().filter(|line| !known.lines().any(|other| other == *line));
    let gone = known.lines().filter(|line| !found.lines().any(|other| other == *line));
    let all: Vec<String> =
        gone.map(|l| format!("- {l}")).chain(different.map(|l| format!("+ {l}"))).collect();
    assert!(
        all.is_empty(),
        "not as in testdata/full.tsv (`make golden` writes it anew):\n{}",
        all.join("\n")
    );
}

/// An object without what has no value of its own: null, and lists and maps of nothing.
fn dense(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(dense);
            map.retain(|_, value| !is_nothing(value));
        }
        Value::Array(items) => items.iter_mut().for_each(dense),
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_nothing) && map.is_empty(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// JSON → protobuf → JSON keeps every value that is not its type's zero, of every kind, stored or not.
    #[test]
    fn protobuf_loses_nothing(index in 0_usize..10_000, seed: u64) {
        let kinds = kinds();
        let (message, api_version, kind) = &kinds[index % kinds.len()];
        let mut given = random_object(message, &mut Random::new(seed), 0);
        dense(&mut given);
        let canonical = codec::normalize(message, &given).unwrap();
        let envelope = codec::to_envelope(message, api_version, kind, &given).unwrap();
        let found = codec::from_envelope(&envelope).unwrap();
        prop_assert_eq!(lost(&canonical, &found, ""), None);
        prop_assert_eq!(codec::to_envelope(message, api_version, kind, &found).unwrap(), envelope);
    }
}

#[test]
fn the_fillings_are_what_they_say() {
    assert_eq!(base64("hello"), "aGVsbG8=");
    assert_eq!(leaves(&json!({"a": [1, {"b": 2}], "c": {}})), 2);
    assert_eq!(
        lost(&json!({"a": [1]}), &json!({"a": [2], "b": 1}), ""),
        Some(".a[0]: 1 became 2".to_owned())
    );
    assert_eq!(lost(&json!({"a": 1}), &json!({"a": 1, "b": 1}), ""), None);
}

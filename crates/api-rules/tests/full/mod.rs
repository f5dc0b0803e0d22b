//! Every stored kind with every field filled goes through defaults, the store's form, columns, validation and the four
//! forms of patches. Such an object is rarely valid: unions have all their members. `testdata/full.tsv` says what
//! becomes of each; `make golden` writes it anew.

#[path = "../../../api-types/tests/it/fill.rs"]
mod fill;

use std::fmt::Write as _;

use api_rules::patch::apply::{self, Type, Writer};
use api_rules::{patch, rules};
use api_types::{Resource, codec, table};
use serde_json::{Value, json};

use fill::{fingerprint, full, leaves, named};

const WRITER: Writer<'static> =
    Writer { manager: "full", api_version: "", subresource: "", now: super::NOW, reset: &[] };

/// The object as it is stored, with its defaults.
fn stored(resource: &Resource) -> Value {
    let message = resource.built_in_message();
    let mut object = named(&full(message, &[]), &resource.api_version(), &resource.kind);
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    let mut object = codec::normalize(message, &object).unwrap();
    (rules(resource).default)(&mut object);
    let again = object.clone();
    (rules(resource).default)(&mut object);
    assert_eq!(object, again, "{}: defaults are stable", resource.kind);
    super::stored(&object)
}

/// What each form of patch makes of an object that it says nothing new of.
fn patched(resource: &Resource, object: &Value) {
    let what = format!("{} {}", resource.api_version(), resource.kind);
    let message = resource.built_in_message();
    let steps = json!([{"op": "test", "path": "", "value": object}, {"op": "replace", "path": "/metadata", "value": object["metadata"]}]);
    assert_eq!(&patch::json_patch(object.clone(), &steps).unwrap(), object, "{what}: JSON patch");
    assert_eq!(&patch::merge_patch(object.clone(), object).unwrap(), object, "{what}: merge patch");
    let merged = patch::strategic_merge(message, object.clone(), object).unwrap();
    assert_eq!(&merged, object, "{what}: strategic merge patch");
}

/// What a manager that applies all of an object owns of it.
fn applied(resource: &Resource, object: &Value) -> Value {
    let what = format!("{} {}", resource.api_version(), resource.kind);
    let ty = || Type::Message(resource.built_in_message());
    let version = resource.api_version();
    let writer = Writer { api_version: &version, ..WRITER };
    let mut first = apply::apply(ty(), &json!({}), object, &writer, false).unwrap();
    let mut bare = first.clone();
    bare["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(&bare, object, "{what}: applied");
    assert_eq!(apply::apply(ty(), &first, object, &writer, false).unwrap(), first, "{what}: applied again");
    apply::show_fields(&mut first);
    first["metadata"]["managedFields"][0]["fieldsV1"].clone()
}

#[test]
fn every_kind_with_every_field() {
    let mut found = String::from("kind\tvalues\tobject\terrors\towned\tfields\tcells\n");
    for resource in table::resources().iter().filter(|resource| resource.is_stored()) {
        let rules = rules(resource);
        let object = stored(resource);
        patched(resource, &object);
        let owned = applied(resource, &object);
        let errors = (rules.validate)(&object).len() + (rules.validate_update)(&object, &object).len();
        let cells = (rules.cells)(&object, 0);
        assert_eq!(cells.len(), rules.columns.len(), "{}", resource.kind);
        let cells: Vec<String> = cells.iter().map(Value::to_string).collect();
        writeln!(
            found,
            "{} {}\t{}\t{:016x}\t{errors}\t{}\t{:016x}\t{}",
            resource.api_version(),
            resource.kind,
            leaves(&object),
            fingerprint(object.to_string().as_bytes()),
            count(&owned),
            fingerprint(owned.to_string().as_bytes()),
            cells.join(" ")
        )
        .unwrap();
    }
    let path = format!("{}/testdata/full.tsv", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN_BLESS").is_some() {
        return std::fs::write(path, found).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    let new = found.lines().filter(|line| !known.lines().any(|other| other == *line));
    let gone = known.lines().filter(|line| !found.lines().any(|other| other == *line));
    let all: Vec<String> = gone.map(|l| format!("- {l}")).chain(new.map(|l| format!("+ {l}"))).collect();
    assert!(
        all.is_empty(),
        "not as in testdata/full.tsv (`make golden` writes it anew):\n{}",
        all.join("\n")
    );
}

/// Fields in a set of fields.
fn count(fields: &Value) -> usize {
    fields.as_object().map_or(0, |map| map.values().map(|inner| 1 + count(inner)).sum())
}

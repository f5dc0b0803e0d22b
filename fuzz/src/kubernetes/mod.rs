//! Targets that see Kubernetes objects and what is said of them. The tests of `api-rules` play their corpora.

mod choices;

use api_rules::cel::Rule;
use api_rules::patch::apply::{self, Type, Writer};
use api_rules::patch::{json_patch, merge_patch, strategic_merge};
use api_rules::{CustomRules, JsonPath};
use api_types::schema::MessageId;
use api_types::selector::{FieldSelector, LabelSelector};
use api_types::{Resource, Value, codec, quantity, table, time};
use choices::{Choices, of_resource, resource};
use serde_json::json;

/// Milliseconds since the epoch at which all of it happens.
const NOW: i64 = 1_767_225_600_000;

/// Objects of every kind, between protobuf, trees and JSON: what was written once is read, and read again as it was.
/// The first byte says which kind, the second from which form: protobuf, JSON, or choices that make an object.
///
/// # Panics
/// When it is not.
pub fn round_trip(data: &[u8]) {
    let [kind, form, data @ ..] = data else { return };
    let resources = table::resources();
    let mut message = resources[usize::from(*kind) % resources.len()].built_in_message();
    let tree = match form % 3 {
        0 => codec::from_proto(message, data).ok(),
        2 => {
            let mut choices = Choices::new(data);
            let resource = resource(&mut choices);
            message = resource.built_in_message();
            Some(of_resource(resource, &mut choices))
        }
        _ => codec::decode_json(data).ok().map(|decoded| decoded.value),
    };
    let Some(proto) = tree.and_then(|tree| written(message, &tree)) else { return };
    let tree = codec::from_proto(message, &proto).expect("what was written is read");
    // Fields that are there and empty may go, as long as nobody can see it.
    let again = written(message, &tree).expect("what was read is written");
    assert_eq!(codec::from_proto(message, &again).expect("it is read again"), tree, "{message:?}");
    let json = |proto: &[u8]| {
        let mut json = Vec::new();
        codec::proto_to_json(message, proto, &mut json).expect("what was written becomes JSON");
        json
    };
    let text = json(&proto);
    let tree = codec::decode_json(&text).expect("our JSON is read").value;
    let proto = written(message, &tree).expect("our JSON is written");
    assert_eq!(String::from_utf8(json(&proto)), String::from_utf8(text));
}

fn written(message: MessageId, tree: &Value) -> Option<Vec<u8>> {
    let mut proto = Vec::new();
    codec::to_proto(message, tree, &mut proto).ok().map(|()| proto)
}

/// Texts in queries and fields: selectors, quantities, times, durations.
///
/// # Panics
/// When what was written is another matter than what was read.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop((LabelSelector::parse(text), FieldSelector::parse(text)));
    if let Ok(normal) = quantity::normalize(text) {
        assert_eq!(quantity::normalize(&normal).ok(), Some(normal));
    }
    if let Some(nanos) = time::parse_duration(text) {
        assert_eq!(time::parse_duration(&time::format_duration(nanos)), Some(nanos));
    }
    if let Some(millis) = time::to_millis(text) {
        assert_eq!(time::to_millis(&time::micro_from_millis(millis)), Some(millis));
    }
    drop((time::parse(text), time::parse_micro(text)));
}

/// What happens to objects of every kind behind their decoding: defaults, preparation, validation, columns.
///
/// # Panics
/// When defaults are not idempotent.
pub fn rules(data: &[u8]) {
    let mut choices = Choices::new(data);
    let resource = resource(&mut choices);
    let rules = api_rules::rules(resource);
    let (Some(mut old), Some(mut new)) = (taken(resource, &mut choices), taken(resource, &mut choices))
    else {
        return;
    };
    (rules.default)(&mut old);
    let once = old.clone();
    (rules.default)(&mut old);
    assert_eq!(once, old, "defaults are idempotent");
    (rules.prepare_create)(&mut old);
    drop(((rules.validate)(&old), (rules.warnings)(&old, None)));
    drop(((rules.cells)(&old, NOW), (rules.row_conditions)(&old)));
    for label in rules.supported_field_labels {
        drop((rules.field_label)(&old, label));
    }
    if let Some(grace) = rules.graceful_delete {
        grace(&old, Some(1));
    }
    (rules.default)(&mut new);
    let mut status = new.clone();
    (rules.prepare_update)(&mut new, &old);
    drop(((rules.validate_update)(&new, &old), (rules.warnings)(&new, Some(&old))));
    (rules.prepare_status_update)(&mut status, &old);
    drop((rules.validate_status_update)(&status, &old));
}

/// As a body is taken; none if it does not fit.
fn taken(resource: &Resource, choices: &mut Choices<'_>) -> Option<Value> {
    let object = of_resource(resource, choices);
    codec::normalize(resource.built_in_message(), &object).ok()
}

/// Patches of every sort, of objects of every kind.
pub fn patch(data: &[u8]) {
    let mut choices = Choices::new(data);
    let resource = resource(&mut choices);
    let (message, sort) = (resource.built_in_message(), choices.next(5));
    let object = of_resource(resource, &mut choices);
    let Ok(object) = codec::normalize(message, &object) else { return };
    let (of_kind, force) = (of_resource(resource, &mut choices), choices.next(2) == 0);
    let any = || codec::decode_json(choices.rest()).ok().map(|decoded| decoded.value);
    let writer =
        Writer { manager: "a", api_version: "v1", subresource: "", now: "2026-01-02T03:04:05Z", reset: &[] };
    let patched = match sort {
        0 => any().and_then(|patch| json_patch(object, &patch).ok()),
        1 => merge_patch(object, &any().unwrap_or(of_kind)).ok(),
        2 => strategic_merge(message, object, &any().unwrap_or(of_kind)).ok(),
        3 => {
            let mut new = of_kind;
            apply::update(Type::Message(message), Some(&object), &mut new, &writer);
            Some(new)
        }
        _ => apply::apply(Type::Message(message), &object, &of_kind, &writer, force).ok(),
    };
    drop(patched.and_then(|patched: Value| codec::normalize(message, &patched).ok()));
}

/// Definitions of custom kinds, and objects of theirs.
pub fn custom(data: &[u8]) {
    let is_definition = |kind: &str| kind == "CustomResourceDefinition";
    let Some(resource) = table::resources().iter().find(|resource| is_definition(resource.kind.as_str()))
    else {
        return;
    };
    let mut choices = Choices::new(data);
    let definition = of_resource(resource, &mut choices);
    let schema = of_resource(resource, &mut choices);
    let Ok(definition) = codec::normalize(resource.built_in_message(), &definition) else { return };
    let given = codec::decode_json(choices.rest()).ok().map(|decoded| decoded.value);
    let given = given.filter(Value::is_object).unwrap_or_else(|| some("a"));
    let of = |object: &Value| object["spec"]["versions"].as_array().cloned().unwrap_or_default();
    for version in of(&definition).iter().chain(&of(&schema)) {
        let rules = CustomRules::new(&definition, version);
        let (mut new, old) = (given.clone(), some("b"));
        rules.schema().prune(&mut new);
        drop(rules.settle(&mut new));
        rules.default(&mut new);
        rules.prepare_create(&mut new);
        drop((rules.validate(&new), rules.columns(), rules.cells(&new, NOW)));
        rules.prepare_update(&mut new, &old);
        drop(rules.validate_update(&new, &old));
        rules.prepare_status_update(&mut new, &old);
    }
}

fn some(name: &str) -> Value {
    json!({"apiVersion": "a.example/v1", "kind": "A", "metadata": {"name": name}, "spec": {"a": 1, "b": [{"a": "x"}, null]},
        "status": {"a": {"b": true}}, "a": "1", "b": [1, 1], "1": null})
}

/// Expressions: rules in CEL, over an object, and paths into objects.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let object =
        json!({"a": 1, "b": "x", "c": [1, 2, "é"], "d": {"e": null, "f": 1.5}, "g": "1h2m", "h": true});
    if let Ok(rule) = Rule::compile(text) {
        drop(rule.value(&[("self", &object), ("oldSelf", &object)]));
    }
    if let Some(path) = JsonPath::parse(text) {
        drop((path.first(&object), path.fields()));
    }
}

//! The golden data of `testdata/`: what upstream's own libraries answer.

use api_types::field::{FieldError, Path};
use api_types::quantity::{Quantity, normalize};
use api_types::selector::{FieldSelector, LabelSelector};
use api_types::status::Status;
use api_types::{codec, schema};
use serde_json::{Value, json};

fn load(name: &str) -> Value {
    let path = format!("{}/testdata/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// (input, output, error) of every case.
fn cases(name: &str) -> Vec<(String, String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let cases = load(name);
    let cases = cases.as_array().unwrap();
    cases.iter().map(|c| (text(&c["in"]), text(&c["out"]), text(&c["error"]))).collect()
}

/// Compares all cases before failing, so that one run shows every difference.
fn report(differences: Vec<String>) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn objects() {
    let mut differences = Vec::new();
    for case in load("objects").as_array().unwrap() {
        let text = case["in"].as_str().unwrap();
        let decoded = codec::decode_json(text.as_bytes()).unwrap();
        let (api_version, kind) = (&decoded.value["apiVersion"], &decoded.value["kind"]);
        let (api_version, kind) = (api_version.as_str().unwrap(), kind.as_str().unwrap());
        let message = schema::lookup_api_version(api_version, kind).unwrap();
        let report = schema::check_document(message, &decoded, text.as_bytes());
        let mut compare = |what: &str, mine: &Value, theirs: &Value| {
            if mine != theirs {
                differences.push(format!("{text}\n  {what}: {mine}\n  expected {theirs}"));
            }
        };
        compare("type error", &json!(report.type_errors.first()), &case["error"]);
        if case["error"].is_string() {
            continue;
        }
        let strict = if report.strict_errors.is_empty() { Value::Null } else { json!(report.strict_errors) };
        compare("strict errors", &strict, &case["strict"]);
        let envelope = codec::to_envelope(message, api_version, kind, &decoded.value).unwrap();
        let hex: String = envelope.iter().map(|b| format!("{b:02x}")).collect();
        compare("protobuf", &json!(hex), &case["proto"]);
        let raw = codec::unwrap_unknown(&envelope).unwrap().raw;
        let mut json = Vec::new();
        codec::object_to_json(message, api_version, kind, raw, 0, &mut json).unwrap();
        compare("json", &json!(String::from_utf8(json).unwrap()), &case["json"]);
    }
    report(differences);
}

#[test]
fn quantities() {
    let differences = cases("quantities").into_iter().filter_map(|(text, out, error)| {
        let found = match Quantity::parse(&text) {
            Ok(q) => format!("{} {} {}", normalize(&text).unwrap(), q.value(), q.milli_value()),
            Err(fault) => fault.to_string(),
        };
        let expected = if error.is_empty() { out } else { error };
        (found != expected).then(|| format!("{text}: {found}, expected {expected}"))
    });
    report(differences.collect());
}

#[test]
fn label_selectors() {
    let differences = cases("selectors").into_iter().filter_map(|(text, out, error)| {
        let found = match LabelSelector::parse(&text) {
            Ok(selector) => selector.to_string(),
            Err(fault) => fault.to_string(),
        };
        let expected = if error.is_empty() { out } else { error };
        (found != expected).then(|| format!("{text}: {found}, expected {expected}"))
    });
    report(differences.collect());
}

#[test]
fn field_selectors() {
    let differences = cases("fields").into_iter().filter_map(|(text, out, error)| {
        let found = match FieldSelector::parse(&text) {
            Ok(selector) => selector.to_string(),
            Err(fault) => fault.to_string(),
        };
        let expected = if error.is_empty() { out } else { error };
        (found != expected).then(|| format!("{text}: {found}, expected {expected}"))
    });
    report(differences.collect());
}

fn field_errors() -> Vec<FieldError> {
    let p = Path::new("spec").child("a").index(0).key("k");
    vec![
        FieldError::required(&p, ""),
        FieldError::required(&p, "d"),
        FieldError::invalid(&p, "v\u{1}\"é", "d"),
        FieldError::invalid(&p, 5, "d"),
        FieldError::invalid(&p, 5, ""),
        FieldError::invalid(&p, json!({"a": "b"}), "d"),
        FieldError::invalid(&p, json!(["x"]), "d"),
        FieldError::invalid(&p, true, "d"),
        FieldError::invalid(&p, Value::Null, "d"),
        FieldError::invalid(&p, 1.5, "d"),
        FieldError::not_supported(&p, "x", &["A", "B"]),
        FieldError::not_supported(&p, "x", &[]),
        FieldError::forbidden(&p, "d"),
        FieldError::forbidden(&p, ""),
        FieldError::duplicate(&p, "x"),
        FieldError::not_found(&p, "x"),
        FieldError::too_long(&p, 5),
        FieldError::too_long(&p, 1),
        FieldError::too_long(&p, -1),
        FieldError::too_long_characters(&p, 5),
        FieldError::too_many(&p, 3, 2),
        FieldError::too_many(&p, 3, 1),
        FieldError::too_many(&p, 3, -1),
        FieldError::too_few(&p, 1, 2),
        FieldError::too_few(&p, 0, 1),
        FieldError::too_short(&p, 3),
        FieldError::too_short(&p, 1),
        FieldError::internal(&p, "e"),
        FieldError::type_invalid(&p, "x", "d"),
        FieldError::required(&Path::root(), ""),
    ]
}

#[test]
fn field_error_texts() {
    let mut differences = Vec::new();
    for (error, (reason_and_field, text, body)) in field_errors().iter().zip(cases("field-errors")) {
        let found = (format!("{}|{}", error.ty.reason(), error.field), error.to_string(), error.body());
        if found != (reason_and_field.clone(), text.clone(), body.clone()) {
            differences.push(format!("{found:?}, expected {reason_and_field} {text}"));
        }
    }
    report(differences);
}

#[test]
fn statuses() {
    let (g, r, n) = ("apps", "deployments", "n");
    let errors = field_errors();
    let found = [
        ("not_found", Status::not_found(g, r, n)),
        ("not_found_core", Status::not_found("", "pods", n)),
        ("already_exists", Status::already_exists(g, r, n)),
        ("generate_name_conflict", Status::generate_name_conflict(g, r, n)),
        ("conflict", Status::conflict(g, r, n, "why")),
        ("forbidden", Status::forbidden(g, r, n, "why")),
        ("forbidden_noname", Status::forbidden(g, r, "", "why")),
        ("forbidden_nores", Status::forbidden("", "", "", "why")),
        ("unauthorized", Status::unauthorized("")),
        ("unauthorized_m", Status::unauthorized("x")),
        ("bad_request", Status::bad_request("x")),
        ("expired", Status::expired("x")),
        ("gone", Status::gone("x")),
        ("method_not_supported", Status::method_not_supported(g, r, "create")),
        ("too_many", Status::too_many("x", 1)),
        ("too_many_error", Status::too_many("Too many requests: x", 0)),
        ("timeout", Status::timeout("x", 3)),
        ("server_timeout", Status::server_timeout(g, r, "list", 2)),
        ("internal", Status::internal("x")),
        ("service_unavailable", Status::service_unavailable("x")),
        ("too_large", Status::request_entity_too_large("x")),
        ("invalid", Status::invalid(g, "Deployment", n, &errors[..3])),
        ("invalid1", Status::invalid("", "Pod", n, &errors[..1])),
        ("invalid_none", Status::invalid("", "Pod", n, &[])),
        ("apply_conflict", Status::apply_conflict("x").with_cause("FieldManagerConflict", "m", ".f")),
    ];
    let expected = load("statuses");
    let differences = found.iter().filter_map(|(name, status)| {
        let found = String::from_utf8(status.to_json()).unwrap();
        let expected = expected[name].as_str().unwrap();
        (found != expected).then(|| format!("{name}: {found}\n  expected {expected}"))
    });
    report(differences.collect());
}

use crate::look::{Look, set};
use crate::rules_of;
use serde_json::{Value, json};

const SCHEMA: &str = "spec.validation.openAPIV3Schema";

fn crd(changes: Value) -> Value {
    let mut crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object"}}}}}]}});
    for (path, value) in changes.as_object().unwrap() {
        set(&mut crd, path, value.clone());
    }
    let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    (rules.default)(&mut crd);
    (rules.prepare_create)(&mut crd);
    crd
}

fn check(changes: Value) -> Vec<String> {
    let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    (rules.validate)(&crd(changes)).iter().map(ToString::to_string).collect()
}

/// Errors of an update of a definition that is established.
fn change(old: Value, new: Value) -> Vec<String> {
    let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let mut old = crd(old);
    set(&mut old, "status.conditions", json!([{"type": "Established", "status": "True"}]));
    let mut new = crd(new);
    (rules.prepare_update)(&mut new, &old);
    (rules.validate_update)(&new, &old).iter().map(ToString::to_string).collect()
}

fn version(name: &str, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema": schema}})
}

fn versions(schema: Value) -> Value {
    json!({"spec.versions": [version("v1", schema)]})
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

/// Errors of a schema, with `$` for where it stands.
fn faults(schema: Value) -> Vec<String> {
    check(versions(schema)).iter().map(|error| error.replace(SCHEMA, "$")).collect()
}

#[track_caller]
fn refused(schema: Value, errors: &[&str]) {
    assert_eq!(faults(schema), errors);
}

#[track_caller]
fn accepted(schema: Value) {
    refused(schema, &[]);
}

#[test]
fn definitions() {
    let good = crd(json!({}));
    assert_eq!(good.at("status.storedVersions"), &json!(["v1"]));
    assert_eq!(good.text("spec.names.singular"), "widget");
    assert!(check(json!({})).is_empty(), "{:?}", check(json!({})));
    for (change, error) in [
        (
            json!({"metadata.name": "x"}),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            json!({"spec.scope": "Odd"}),
            "spec.scope: Unsupported value: \"Odd\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            json!({"spec.names.listKind": "Widget"}),
            "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
        ),
        (
            json!({"spec.preserveUnknownFields": true}),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
    ] {
        assert_eq!(check(change), [error]);
    }
}

#[test]
fn the_name_of_the_first_version_is_judged_twice() {
    let mut odd = version("v1", object(json!({})));
    odd["name"] = json!("V_1");
    let fields: Vec<String> = check(json!({"spec.versions": [odd]}))
        .iter()
        .map(|e| e.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(fields, ["spec.versions[0].name", "spec.version"]);
}

#[test]
fn what_versions_have_alike_is_judged_once() {
    let (a, b) = (object(json!({"a": {}})), object(json!({"b": {}})));
    let text = "Required value: must not be empty for specified object fields";
    assert_eq!(
        check(json!({"spec.versions": [version("v1", a.clone()), version("v2", a.clone())]})),
        [format!("{SCHEMA}.properties[a].type: {text}")]
    );
    assert_eq!(
        check(json!({"spec.versions": [version("v1", a), version("v2", b)]})),
        [
            format!("spec.versions[0].schema.openAPIV3Schema.properties[a].type: {text}"),
            format!("spec.versions[1].schema.openAPIV3Schema.properties[b].type: {text}"),
        ]
    );
}

#[test]
fn every_version_has_a_schema() {
    let bare = json!({"name": "v1", "served": true, "storage": true});
    let error = "spec.versions[0].schema.openAPIV3Schema: Required value";
    assert_eq!(check(json!({"spec.versions": [bare.clone()]})), [error]);
    let mut idle = bare.clone();
    idle["served"] = json!(false);
    assert_eq!(
        change(json!({"spec.versions": [bare.clone()]}), json!({"spec.versions": [bare]})),
        ["spec.versions[0].schema.openAPIV3Schema: Required value: because otherwise all fields are pruned"]
    );
    assert!(change(json!({"spec.versions": [idle.clone()]}), json!({"spec.versions": [idle]})).is_empty());
}

#[test]
fn every_value_has_a_type() {
    accepted(object(json!({"a": {"x-kubernetes-preserve-unknown-fields": true}})));
    refused(
        object(json!({"a": {}})),
        &["$.properties[a].type: Required value: must not be empty for specified object fields"],
    );
    refused(
        object(json!({"a": {"type": "array", "items": {}}})),
        &["$.properties[a].items.type: Required value: must not be empty for specified array items"],
    );
    refused(
        object(json!({"a": {"type": "array"}})),
        &["$.properties[a].items: Required value: must be specified"],
    );
    refused(json!({"properties": {}}), &["$.type: Required value: must not be empty at the root"]);
    refused(json!({"type": "string"}), &["$.type: Invalid value: \"string\": must be object at the root"]);
    refused(
        object(json!({"a": {"type": "odd"}})),
        &[
            "$.properties[a].type: Unsupported value: \"odd\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
}

#[test]
fn the_root_is_a_plain_object() {
    for more in [json!(true), json!(false), json!({"type": "string"})] {
        refused(
            json!({"type": "object", "additionalProperties": more}),
            &["$.additionalProperties: Forbidden: must not be used at the root"],
        );
    }
    refused(
        json!({"type": "object", "nullable": true}),
        &["$.nullable: Forbidden: nullable cannot be true at the root"],
    );
}

#[test]
fn beside_a_status_the_root_says_little() {
    let of = |schema: Value| {
        let mut version = version("v1", schema);
        version["subresources"] = json!({"status": {}});
        check(json!({"spec.versions": [version]}))
    };
    let any =
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]});
    accepted(any.clone());
    let found = of(any);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("only [Description Type Format")
            && found[0].ends_with("status subresource is enabled")
    );
    assert!(of(object(json!({}))).is_empty());
    assert_eq!(of(json!({"type": "string"})).len(), 2);
}

#[test]
fn properties_and_more_exclude_each_other() {
    let of = |more: Value| {
        object(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": more}}),
        )
    };
    let error = "$.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive";
    accepted(of(json!(true)));
    refused(of(json!(false)), &[error]);
    refused(of(json!({"type": "string"})), &[error]);
}

#[test]
fn some_of_json_schema_is_not_there() {
    refused(
        object(json!({"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": true}})),
        &[
            "$.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ],
    );
    refused(
        object(json!({"a": {"type": "object", "$ref": "x", "dependencies": {"y": ["x"]}}})),
        &[
            "$.properties[a].dependencies: Forbidden: dependencies is not supported",
            "$.properties[a].$ref: Forbidden: $ref is not supported",
        ],
    );
    refused(
        object(json!({"a": {"type": "array", "items": [{"type": "string"}]}})),
        &["$.properties[a].items: Forbidden: items must be a schema object and not an array"],
    );
    refused(
        object(json!({"a": {"type": "object", "$schema": "x"}})),
        &["$: Invalid value: \"\": OpenAPIV3Schema 'schema' is not supported"],
    );
}

#[test]
fn what_narrows_says_nothing_new() {
    accepted(object(
        json!({"a": {"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "a"}], "not": {"enum": ["x"]}}}),
    ));
    refused(
        object(
            json!({"a": {"type": "object", "allOf": [{"type": "object", "additionalProperties": true, "description": "x"}],
            "not": {"properties": {"metadata": {}, "b": {"default": 1}}}}}),
        ),
        &[
            "$.properties[a].allOf[0].additionalProperties: Forbidden: must be undefined to be structural",
            "$.properties[a].allOf[0].description: Forbidden: must be empty to be structural",
            "$.properties[a].allOf[0].type: Forbidden: must be empty to be structural",
            "$.properties[a].not.properties[b].default: Forbidden: must be undefined to be structural",
            "$.properties[a].not.properties[metadata]: Forbidden: must not be specified in a nested context",
        ],
    );
    refused(
        json!({"type": "object", "properties": {"b": {"type": "string"}},
            "allOf": [{"properties": {"b": {"minLength": 1}, "c": {"minLength": 1}}}]}),
        &["$.properties[c]: Required value: because it is defined in $.allOf[0].properties[c]"],
    );
}

#[test]
fn a_number_or_a_text() {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    accepted(object(json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": either},
        "b": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": either}, {"maxLength": 3}]}})));
    refused(
        object(json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "string"}]},
            "b": {"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}})),
        &[
            "$.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            "$.properties[b].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
        ],
    );
}

#[test]
fn metadata_speak_of_names_alone() {
    accepted(object(json!({"metadata": object(json!({"name": {"type": "string", "maxLength": 5}}))})));
    let error = "$.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified";
    refused(object(json!({"metadata": object(json!({"labels": {"type": "object"}}))})), &[error]);
    refused(object(json!({"metadata": {"type": "object", "description": "x"}})), &[error]);
    refused(
        object(json!({"metadata": {"type": "string"}, "kind": {"type": "integer"}})),
        &[
            "$.properties[kind].type: Invalid value: \"integer\": must be string",
            "$.properties[metadata].type: Invalid value: \"string\": must be object",
        ],
    );
    refused(
        object(json!({"kind": {"type": "string", "default": "a"}})),
        &["$.properties[kind].default: Forbidden: must not be set in top-level kind"],
    );
}

#[test]
fn embedded_objects() {
    let of = |more: Value| {
        let mut schema = json!({"type": "object", "x-kubernetes-embedded-resource": true});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object(json!({"a": schema}))
    };
    accepted(of(json!({"x-kubernetes-preserve-unknown-fields": true})));
    refused(
        of(json!({})),
        &[
            "$.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ],
    );
    refused(
        of(json!({"type": "string", "x-kubernetes-preserve-unknown-fields": true})),
        &[
            "$.properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-embedded-resource is true",
        ],
    );
    refused(
        of(
            json!({"properties": {"metadata": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}),
        ),
        &[
            "$.properties[a].properties[metadata].x-kubernetes-embedded-resource: Forbidden: must not be used inside of resource meta",
        ],
    );
}

#[test]
fn patterns_are_those_of_go() {
    accepted(object(json!({"a": {"type": "string", "pattern": "^a{,3}$"}})));
    refused(
        object(json!({"a": {"type": "string", "pattern": "(?=x)", "not": {"pattern": "("}}})),
        &[
            "$.properties[a].not.pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
            "$.properties[a].pattern: Invalid value: \"(?=x)\": must be a valid regular expression, but isn't: error parsing regexp: invalid or unsupported Perl syntax: `(?=`",
        ],
    );
}

#[test]
fn types_of_lists_and_maps() {
    refused(
        object(
            json!({"a": {"type": "string", "x-kubernetes-map-type": "odd"}, "b": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-map-keys": ["a"]},
            "c": {"type": "string", "x-kubernetes-list-type": "odd"}, "d": {"type": "object", "x-kubernetes-preserve-unknown-fields": false}}),
        ),
        &[
            "$.properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified",
            "$.properties[a].x-kubernetes-map-type: Unsupported value: \"odd\": supported values: \"atomic\", \"granular\"",
            "$.properties[b].x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
            "$.properties[c].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
            "$.properties[c].x-kubernetes-list-type: Unsupported value: \"odd\": supported values: \"atomic\", \"set\", \"map\"",
            "$.properties[d].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ],
    );
}

fn set_of(items: Value) -> Value {
    object(json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": items}}))
}

#[test]
fn elements_of_sets_are_whole() {
    accepted(set_of(json!({"type": "string"})));
    accepted(set_of(json!({"type": "object", "x-kubernetes-map-type": "atomic"})));
    refused(
        set_of(json!({"type": "object"})),
        &[
            "$.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ],
    );
    refused(
        set_of(json!({"type": "string", "nullable": true})),
        &["$.properties[a].items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set"],
    );
}

#[test]
fn keys_of_lists_are_there_and_plain() {
    let of = |keys: Value, items: Value| {
        object(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": items}}),
        )
    };
    accepted(of(
        json!(["x", "y"]),
        json!({"type": "object", "required": ["x"],
        "properties": {"x": {"type": "string"}, "y": {"type": "integer", "default": 1}}}),
    ));
    refused(
        of(json!([]), json!({"type": "object"})),
        &[
            "$.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ],
    );
    refused(
        of(json!(["x"]), json!({"type": "string"})),
        &[
            "$.properties[a].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
        ],
    );
    refused(
        of(
            json!(["x", "x", "z", "o"]),
            json!({"type": "object", "required": ["o"],
            "properties": {"x": {"type": "string", "nullable": true}, "o": {"type": "object"}}}),
        ),
        &[
            "$.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"x\",\"x\",\"z\",\"o\"]: must not contain duplicate entries",
            "$.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"x\",\"x\",\"z\",\"o\"]: entries must all be names of item properties",
            "$.properties[a].items.properties[o].type: Invalid value: \"object\": must be a scalar type if parent array's x-kubernetes-list-type is map",
            "$.properties[a].items.properties[x].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            "$.properties[a].items.properties[x].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            "$.properties[a].items.properties[x].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            "$.properties[a].items.properties[x].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        ],
    );
}

#[test]
fn defaults_fit_their_schemas() {
    accepted(object(
        json!({"a": {"type": "string", "default": "x"}, "b": object(json!({"c": {"type": "integer", "default": 1}})),
        "n": {"type": "string", "nullable": true, "default": null}}),
    ));
    refused(
        object(json!({"a": {"type": "string", "default": 1},
            "b": {"type": "object", "default": {"x": 1, "y": 2}, "properties": {"x": {"type": "string"}}},
            "c": {"type": "array", "items": {"type": "string", "enum": ["a"], "default": "b"}},
            "k": {"type": "object", "default": {}, "required": ["z"], "properties": {"z": {"type": "string"}}}})),
        &[
            "$.properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
            "$.properties[b].default: Invalid value: {\"x\":1,\"y\":2}: must not have unknown fields",
            "$.properties[b].default.x: Invalid value: \"integer\": x in body must be of type string: \"integer\"",
            "$.properties[c].items.default: Unsupported value: \"b\": supported values: \"a\"",
            "$.properties[k].default.z: Required value",
        ],
    );
}

#[test]
fn defaults_obey_their_rules() {
    let of = |rule: Value| {
        object(json!({"a": {"type": "integer", "default": 1, "x-kubernetes-validations": [rule]}}))
    };
    accepted(of(json!({"rule": "self == 1"})));
    refused(
        of(json!({"rule": "self == 2"})),
        &["$.properties[a].default: Invalid value: 1: failed rule: self == 2"],
    );
    refused(
        of(json!({"rule": "oldSelf.hasValue() || self > 1", "optionalOldSelf": true})),
        &["$.properties[a].default: Invalid value: 1: failed rule: oldSelf.hasValue() || self > 1"],
    );
}

#[test]
fn defaults_of_embedded_objects_name_them_well() {
    let embedded = |properties: Value| {
        object(
            json!({"a": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": properties}}),
        )
    };
    accepted(embedded(
        json!({"metadata": object(json!({"labels": {"type": "object", "additionalProperties": {"type": "string"}, "default": {"a": "b"}}}))}),
    ));
    refused(
        embedded(json!({"apiVersion": {"type": "string", "default": "a/b/c"}})),
        &[
            "$.properties[a].properties[apiVersion].default: Invalid value: \"a/b/c\": must result in valid metadata: apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ],
    );
    refused(
        embedded(
            json!({"metadata": object(json!({"labels": {"type": "object", "additionalProperties": {"type": "string", "default": "x"}}}))}),
        ),
        &[
            "$.properties[a].properties[metadata].properties[labels].additionalProperties.default: Forbidden: must not be set inside additionalProperties applying to object metadata",
        ],
    );
    refused(
        object(
            json!({"a": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true, "default": {"x": 1}}}),
        ),
        &[
            "$.properties[a].default.apiVersion: Required value",
            "$.properties[a].default.kind: Required value",
        ],
    );
}

#[test]
fn fields_of_rules() {
    let of = |rule: Value| {
        let mut schema = object(
            json!({"a": {"type": "string"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}}),
        );
        schema["x-kubernetes-validations"] = json!([rule]);
        let errors = faults(schema);
        errors.iter().map(|error| error.replace("$.x-kubernetes-validations[0].", "")).collect::<Vec<_>>()
    };
    for (more, errors) in [
        (json!({"rule": " "}), vec!["rule: Required value: rule is not specified"]),
        (json!({"message": " "}), vec!["message: Invalid value: \" \": must be non-empty if specified"]),
        (json!({"message": "a\nb"}), vec!["message: Invalid value: \"a\\nb\": must not contain line breaks"]),
        (json!({"message": " a\n"}), vec![]),
        (
            json!({"rule": "true\n&& true"}),
            vec!["message: Required value: message must be specified if rule contains line breaks"],
        ),
        (
            json!({"messageExpression": " "}),
            vec!["messageExpression: Required value: messageExpression must be non-empty if specified"],
        ),
        (
            json!({"messageExpression": "1"}),
            vec![
                "messageExpression: Invalid value: {\"messageExpression\":\"1\",\"rule\":\"true\"}: messageExpression must evaluate to a string",
            ],
        ),
        (
            json!({"reason": "Odd"}),
            vec![
                "reason: Unsupported value: \"Odd\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ],
        ),
        (
            json!({"fieldPath": " "}),
            vec![
                "fieldPath: Invalid value: \" \": must be non-empty if specified",
                "fieldPath: Invalid value: \" \": must be a valid path",
            ],
        ),
        (json!({"fieldPath": ".z"}), vec!["fieldPath: Invalid value: \".z\": must be a valid path"]),
        (json!({"fieldPath": ".m['x']"}), vec![]),
        (
            json!({"rule": "self.a"}),
            vec!["rule: Invalid value: {\"rule\":\"self.a\"}: cel expression must evaluate to a bool"],
        ),
    ] {
        let mut rule = json!({"rule": "true"});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(of(rule), errors, "{more}");
    }
}

#[test]
fn rules_of_changes_stand_where_values_can_be_compared() {
    let rule =
        |text: &str| json!({"type": "string", "maxLength": 3, "x-kubernetes-validations": [{"rule": text}]});
    let list = |more: Value, items: Value| {
        let mut list = json!({"type": "array", "maxItems": 3, "items": items});
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object(json!({"l": list}))
    };
    let error = "Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within $.properties[l]";
    for more in
        [json!({}), json!({"x-kubernetes-list-type": "set"}), json!({"x-kubernetes-list-type": "atomic"})]
    {
        refused(
            list(more, rule("self == oldSelf")),
            &[&format!("$.properties[l].items.x-kubernetes-validations[0].rule: {error}")],
        );
    }
    let keyed = json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]});
    let item = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}, "v": rule("self == oldSelf")}});
    accepted(list(keyed, item));
    accepted(list(json!({}), rule("self != ''")));
    accepted(object(
        json!({"m": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"v": rule("self == oldSelf")}}}),
    ));
    let with = |optional: Value, text: &str| {
        let mut schema = rule(text);
        schema["x-kubernetes-validations"][0]["optionalOldSelf"] = optional;
        faults(object(json!({"a": schema})))
    };
    assert!(with(json!(true), "oldSelf.hasValue()").is_empty());
    assert_eq!(
        with(json!(false), "self != ''"),
        [
            "$.properties[a].x-kubernetes-validations[0].optionalOldSelf: Invalid value: false: may not be set if oldSelf is not used in rule"
        ]
    );
}

#[test]
fn rules_compile() {
    let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.size > 0"}, {"rule": "self.size >"}]});
    let found = faults(schema);
    assert_eq!(found.len(), 1, "{found:?}");
    let start = "$.x-kubernetes-validations[1].rule: Invalid value: {\"rule\":\"self.size >\"}: compilation failed: ERROR: <input>:1:12: Syntax error";
    assert!(found[0].starts_with(start), "{found:?}");
}

#[test]
fn rules_at_what_is_wrong_otherwise_are_not_read() {
    let broken = json!([{"rule": "self ==="}]);
    let schema = json!({"type": "object", "x-kubernetes-validations": broken, "properties": {
        "a": {"type": "array", "items": {"type": "string"}, "uniqueItems": true, "x-kubernetes-validations": broken},
        "b": {"type": "string", "x-kubernetes-validations": broken}}});
    let found = faults(schema);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("$.properties[a].uniqueItems") && found[1].starts_with("$.properties[b].x-")
    );
}

#[test]
fn selectable_fields_are_plain() {
    let of = |paths: &[&str]| {
        let spec = object(
            json!({"a": {"type": "string"}, "n": {"type": "number"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}}),
        );
        let mut version = version("v1", object(json!({"spec": spec, "metadata": {"type": "object"}})));
        version["selectableFields"] = paths.iter().map(|path| json!({"jsonPath": path})).collect();
        let errors = check(json!({"spec.versions": [version]}));
        errors.iter().map(|error| error.replace("spec.selectableFields", "")).collect::<Vec<_>>()
    };
    let plain = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
    assert!(of(&[".spec.a", ".spec.m.x"]).is_empty());
    assert_eq!(
        of(&[
            ".spec.a",
            ".spec.a",
            ".spec.n",
            ".spec.z",
            "spec.a",
            ".spec.m['x']",
            ".metadata",
            "",
            ".spec."
        ]),
        [
            "[1].jsonPath: Duplicate value: \".spec.a\"",
            &format!("[2].jsonPath: Invalid value: \".spec.n\": {plain}"),
            "[3].jsonPath: Invalid value: \".spec.z\": is an invalid path: does not refer to a valid field",
            "[4].jsonPath: Invalid value: \"spec.a\": is an invalid path: expected [ or . but got: spec",
            "[5].jsonPath: Invalid value: \".spec.m['x']\": is an invalid path: array notation is not allowed",
            "[6].jsonPath: Invalid value: \".metadata\": must not point to fields in metadata",
            &format!("[6].jsonPath: Invalid value: \".metadata\": {plain}"),
            "[7].jsonPath: Required value",
            "[8].jsonPath: Invalid value: \".spec.\": is an invalid path: unexpected end of JSON path",
        ]
    );
}

#[test]
fn there_are_eight_selectable_fields() {
    let of = |count: u32| {
        let names: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
        let properties: Value = names.iter().map(|name| (name.clone(), json!({"type": "string"}))).collect();
        let mut version = version("v1", object(properties));
        version["selectableFields"] =
            names.iter().map(|name| json!({"jsonPath": format!(".{name}")})).collect();
        json!({"spec.versions": [version]})
    };
    let error = "spec.selectableFields: Too many: 9: must have at most 8 items";
    assert!(check(of(8)).is_empty());
    assert_eq!(check(of(9)), [error]);
    assert!(change(of(9), of(9)).is_empty(), "it was so before");
    assert_eq!(change(of(8), of(9)), [error]);
}

#[test]
fn columns_and_scales_have_simple_paths() {
    let mut own = version("v1", object(json!({})));
    own["additionalPrinterColumns"] = json!([{"name": "a", "type": "odd", "jsonPath": "x"}, {"name": "b", "type": "string", "jsonPath": ".x"}]);
    own["subresources"] = json!({"scale": {"specReplicasPath": "spec.x", "statusReplicasPath": ".spec.x", "labelSelectorPath": ".meta.x"}});
    assert_eq!(
        check(json!({"spec.versions": [own]})),
        [
            "spec.subresources.scale.specReplicasPath: Invalid value: \"spec.x\": must be a simple json path starting with .",
            "spec.subresources.scale.statusReplicasPath: Invalid value: \".spec.x\": should be a json path under .status",
            "spec.subresources.scale.labelSelectorPath: Invalid value: \".meta.x\": should be a json path under either .spec or .status",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"odd\": must be one of boolean,date,integer,number,string",
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"x\": must be a simple json path starting with .",
        ]
    );
}

#[test]
fn deprecation_warnings_are_short_and_printable() {
    let of = |deprecated: bool, text: &str| {
        let mut own = version("v1", object(json!({})));
        own["deprecated"] = json!(deprecated);
        own["deprecationWarning"] = json!(text);
        let errors = check(json!({"spec.versions": [own]}));
        errors.iter().map(|error| error.rsplit(": ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(of(true, "use v2").is_empty());
    assert_eq!(of(false, "x"), ["can only be set for deprecated versions"]);
    assert_eq!(of(true, ""), ["must not be an empty string"]);
    assert_eq!(
        of(true, &("é".repeat(129) + "\n")),
        [
            "must be <= 256 characters long",
            "must only contain printable UTF-8 characters; non-printable character found at index 258"
        ]
    );
}

fn converted(client: Value, versions: Value) -> Value {
    json!({"spec.conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": versions}}})
}

#[test]
fn conversions() {
    let url = || json!({"url": "https://a"});
    assert!(check(converted(url(), json!(["v1"]))).is_empty());
    assert_eq!(
        check(
            json!({"spec.conversion": {"strategy": "None", "webhook": {"clientConfig": url(), "conversionReviewVersions": ["v1"]}}})
        ),
        [
            "spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ]
    );
    assert_eq!(
        check(json!({"spec.conversion": {"strategy": "Webhook"}})),
        [
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
        ]
    );
    let found = check(converted(json!({"url": "http://a"}), json!(["v2", "v2", "A"])));
    assert_eq!(found.len(), 4);
    assert!(found[0].starts_with("spec.conversion.webhookClientConfig.url: Invalid value: \"http\""));
    assert_eq!(
        found[1],
        "spec.conversion.conversionReviewVersions[1]: Invalid value: \"v2\": duplicate version"
    );
    assert!(
        found[2].starts_with("spec.conversion.conversionReviewVersions[2]: Invalid value: \"A\": a DNS-1035")
    );
    assert!(found[3].ends_with("must include at least one of v1, v1beta1"));
    let odd = || converted(url(), json!(["v2"]));
    assert!(change(odd(), odd()).is_empty(), "it was so before");
    assert_eq!(change(converted(url(), json!(["v1"])), odd()).len(), 1);
}

#[test]
fn certificates_of_conversions_are_sound_once_they_were() {
    let of = |bundle: &str| converted(json!({"url": "https://a", "caBundle": bundle}), json!(["v1"]));
    assert!(check(of("eA==")).is_empty(), "it may be filled in later");
    assert!(change(of("eA=="), of("eQ==")).is_empty(), "it was no better before");
    assert_eq!(
        change(of(""), of("eA==")),
        [
            "spec.conversion.webhookClientConfig.caBundle: Invalid value: \"eA==\": unable to load root certificates: unable to parse bytes as PEM block"
        ]
    );
}

#[test]
fn an_update_need_not_mend_what_was_wrong() {
    let odd = |extra: &str| {
        let items = json!({"type": "object", "properties": {"x": {"type": "string"}}});
        let mut properties = json!({
            "type": {"type": "odd"},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": items},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["x"], "items": items}});
        properties[extra] = json!({"type": "string"});
        versions(object(properties))
    };
    assert_eq!(check(odd("a")).len(), 3);
    assert_eq!(change(odd("a"), odd("b")), Vec::<String>::new());
    assert_eq!(change(json!({}), odd("b")).len(), 3);
    let loose = |extra: &str| {
        let mut properties = json!({"o": {"type": "object", "default": {"y": 1}}});
        properties[extra] = json!({"type": "string"});
        versions(object(properties))
    };
    assert_eq!(change(loose("a"), loose("b")), Vec::<String>::new());
    assert_eq!(change(json!({}), loose("b")).len(), 1);
}

#[test]
fn approvals_may_stay_missing() {
    let of = |extra: &str| json!({"metadata.name": "widgets.x.k8s.io", "spec.group": "x.k8s.io", "metadata.annotations": {extra: "x"}});
    assert_eq!(check(of("a")).len(), 1);
    assert!(change(of("a"), of("b")).is_empty());
    assert_eq!(change(of("a"), of("api-approved.kubernetes.io")).len(), 1, "wrong in another way");
}

#[test]
fn a_new_storage_version_is_remembered() {
    let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let old = crd(json!({}));
    let mut new = old.clone();
    let first = new["spec"]["versions"][0].clone();
    let mut second = first.clone();
    second["name"] = json!("v2");
    new["spec"]["versions"] = json!([second, first]);
    new["spec"]["versions"][1]["storage"] = json!(false);
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(new.at("status.storedVersions"), &json!(["v1", "v2"]));
    assert!((rules.validate_update)(&new, &old).is_empty());
    let only = json!([new["spec"]["versions"][0].clone()]);
    set(&mut new, "spec.versions", only);
    let found = (rules.validate_update)(&new, &old);
    assert!(
        found[0].detail.starts_with("missing from spec.versions; v1 was previously a storage version"),
        "{found:?}"
    );
    assert!((rules.validate_status_update)(&new, &old).is_empty(), "a status is not asked for it");
}

#[test]
fn warnings_tell_what_is_said_in_vain() {
    let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let of = |forms: &[&str]| {
        let properties: Value = forms
            .iter()
            .map(|form| ((*form).to_owned(), json!({"type": "string", "format": form})))
            .collect();
        crd(versions(object(properties)))
    };
    let odd = of(&["odd", "date-time", "email", "k8s-short-name"]);
    assert_eq!((rules.warnings)(&odd, None), ["unrecognized format \"odd\""]);
    assert!((rules.warnings)(&odd, Some(&odd)).is_empty());
    assert_eq!((rules.warnings)(&of(&["odd", "new"]), Some(&odd)), ["unrecognized format \"new\""]);
    let set = crd(versions(set_of(json!({"type": "object", "x-kubernetes-map-type": "atomic"}))));
    assert_eq!(
        (rules.warnings)(&set, None),
        [
            "x-kubernetes-list-type: set for items of type \"object\" is not supported by server-side apply or CEL validation rules"
        ]
    );
}

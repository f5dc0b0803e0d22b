use super::super::bench::{
    check_created, check_status, check_updated, created, defaulted, status_updated, updated, with,
};
use super::{
    admin_access, admin_access_granted, changed_drivers, changes_binding, node_of, note_taint_times,
};
use crate::rules_of;
use serde_json::{Value, json};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const ANY_CASE: &str = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'Example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

fn object(kind: &str, spec: Value) -> Value {
    let mut metadata = json!({"name": "a"});
    if kind.starts_with("ResourceClaim") {
        metadata["namespace"] = json!("n");
    }
    defaulted(json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
}

fn many(count: usize, of: impl Fn(usize) -> Value) -> Value {
    (0..count).map(of).collect()
}

fn selector(expression: &str) -> Value {
    json!({"cel": {"expression": expression}})
}

#[test]
fn classes() {
    let good = object("DeviceClass", json!({"selectors": [selector("device.driver == 'd'")]}));
    let long = "x".repeat(10_241);
    let name = format!("metadata.name: Invalid value: \"A\": {SUBDOMAIN}");
    let driver = format!("spec.config[0].opaque.driver: Invalid value: \"d_\": {ANY_CASE}");
    let opaque =
        |driver: &str, parameters: Value| json!([{"opaque": {"driver": driver, "parameters": parameters}}]);
    check_created(
        &good,
        &[
            ("/metadata/name", json!("A"), &[&name]),
            ("/spec/selectors", json!([{}]), &["spec.selectors[0].cel: Required value"]),
            (
                "/spec/selectors",
                many(33, |_| selector("true")),
                &["spec.selectors: Too many: 33: must have at most 32 items"],
            ),
            (
                "/spec/selectors/0/cel/expression",
                json!(long),
                &["spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"],
            ),
            (
                "/spec/selectors/0/cel/expression",
                json!("device.driver"),
                &[
                    "spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string",
                ],
            ),
            ("/spec/selectors/0/cel/expression", json!("device.attributes['d'].fast"), &[]),
            (
                "/spec/selectors/0/cel/expression",
                json!(
                    "cel.bind(d, device.attributes['d'], d.fast && device.capacity['d'].memory.isGreaterThan(quantity('1Gi')))"
                ),
                &[],
            ),
            ("/spec/config", opaque("D", json!({"a": 1})), &[]),
            ("/spec/config", json!([{}]), &["spec.config[0].opaque: Required value"]),
            (
                "/spec/config",
                opaque("", Value::Null),
                &[
                    "spec.config[0].opaque.parameters: Required value",
                    "spec.config[0].opaque.driver: Required value",
                ],
            ),
            (
                "/spec/config",
                opaque("d_", json!([])),
                &[
                    "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                    &driver,
                ],
            ),
            (
                "/spec/config",
                opaque(&"d".repeat(64), json!({"a": long})),
                &[
                    "spec.config[0].opaque.parameters: Too long: may not be more than 10240 bytes",
                    "spec.config[0].opaque.driver: Too long: may not be more than 63 characters",
                ],
            ),
            (
                "/spec/config",
                many(33, |_| json!({})),
                &["spec.config: Too many: 33: must have at most 32 items"],
            ),
            ("/spec/extendedResourceName", json!("example.com/gpu"), &[]),
            (
                "/spec/extendedResourceName",
                json!("gpu"),
                &[
                    "spec.extendedResourceName: Invalid value: \"gpu\": a name must be a domain-prefixed path, such as 'example.com/my-prop'",
                ],
            ),
            (
                "/spec/extendedResourceName",
                json!("kubernetes.io/gpu"),
                &[
                    "spec.extendedResourceName: Invalid value: \"kubernetes.io/gpu\": must not have \"kubernetes.io/\" domain",
                ],
            ),
            (
                "/spec/extendedResourceName",
                json!("requests.a/b"),
                &[
                    "spec.extendedResourceName: Invalid value: \"requests.a/b\": must not have \"requests.\" prefix",
                ],
            ),
        ],
    );
    let undeclared = created(&with(&good, "/spec/selectors/0/cel/expression", json!("object.x")));
    assert!(
        undeclared[0].contains("compilation failed: ERROR: <input>:1:1: undeclared reference to 'object'"),
        "{undeclared:?}"
    );
    let unknown = created(&with(&good, "/spec/selectors/0/cel/expression", json!("device.name == 'x'")));
    assert!(unknown[0].contains("undefined field 'name'"), "{unknown:?}");
}

#[test]
fn what_a_class_had_is_not_looked_at_again() {
    let old = object("DeviceClass", json!({"selectors": [selector("object.x")]}));
    assert_eq!(updated(&with(&old, "/metadata/labels", json!({"a": "b"})), &old), [""; 0]);
    let new = with(&old, "/spec/selectors/-", selector("true"));
    assert_eq!(updated(&new, &old).len(), 1, "a change has all looked at");
}

fn claim() -> Value {
    let first = json!({"name": "one", "exactly": {"deviceClassName": "c"}});
    let second = json!({"name": "two", "firstAvailable": [{"name": "big", "deviceClassName": "c"}, {"name": "small", "deviceClassName": "c"}]});
    object("ResourceClaim", json!({"devices": {"requests": [first, second]}}))
}

#[test]
fn requests() {
    let name = format!("spec.devices.requests[0].name: Invalid value: \"A\": {LABEL}");
    let class =
        format!("spec.devices.requests[0].exactly.deviceClassName: Invalid value: \"C\": {SUBDOMAIN}");
    let other = format!(
        "spec.devices.requests[1].firstAvailable[0].deviceClassName: Invalid value: \"C\": {SUBDOMAIN}"
    );
    let at = "/spec/devices/requests";
    check_created(
        &claim(),
        &[
            ("/spec/devices/requests/0/name", json!("A"), &[&name]),
            ("/spec/devices/requests/0/exactly/deviceClassName", json!("C"), &[&class]),
            (
                "/spec/devices/requests/0/exactly/deviceClassName",
                json!(""),
                &["spec.devices.requests[0].exactly.deviceClassName: Required value"],
            ),
            ("/spec/devices/requests/1/firstAvailable/0/deviceClassName", json!("C"), &[&other]),
            (
                "/spec/devices/requests/1/firstAvailable/0/deviceClassName",
                Value::Null,
                &["spec.devices.requests[1].firstAvailable[0].deviceClassName: Required value"],
            ),
            (
                "/spec/devices/requests/0/exactly",
                Value::Null,
                &[
                    "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                ],
            ),
            (
                "/spec/devices/requests/1/exactly",
                json!({"deviceClassName": "c"}),
                &[
                    "spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ],
            ),
            (
                at,
                many(33, |i| json!({"name": format!("r{i}")})),
                &["spec.devices.requests: Too many: 33: must have at most 32 items"],
            ),
            (
                "/spec/devices/requests/1/firstAvailable",
                many(9, |i| json!({"name": format!("r{i}")})),
                &["spec.devices.requests[1].firstAvailable: Too many: 9: must have at most 8 items"],
            ),
            (
                at,
                json!([
                    {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All"}},
                    {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All"}},
                ]),
                &[
                    "spec.devices.requests[1]: Duplicate value: {\"exactly\":{\"allocationMode\":\"All\",\"deviceClassName\":\"c\"},\"name\":\"a\"}",
                ],
            ),
        ],
    );
}

#[test]
fn amounts_and_tolerations() {
    let exactly = "/spec/devices/requests/0/exactly";
    let of = |rest: Value| {
        let mut exactly = json!({"deviceClassName": "c", "allocationMode": "All"});
        exactly.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        exactly
    };
    let at = "spec.devices.requests[0].exactly";
    let key = format!("{at}.tolerations[0].key: Invalid value: \"_\": {QUALIFIED}");
    for (rest, wanted) in [
        (json!({}), ""),
        (json!({"count": 1}), ".count: Invalid value: 1: must not be specified when allocationMode is 'All'"),
        (
            json!({"allocationMode": "ExactCount", "count": -1}),
            ".count: Invalid value: -1: must be greater than zero",
        ),
        (
            json!({"allocationMode": "Some"}),
            ".allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
        ),
        (json!({"tolerations": [{"operator": "Exists"}]}), ""),
        (
            json!({"tolerations": [{"operator": "Exists", "value": "x"}]}),
            ".tolerations[0].value: Invalid value: \"x\": must be empty for operator `Exists`",
        ),
        (json!({"tolerations": [{"key": "k"}]}), ".tolerations[0].operator: Required value"),
        (
            json!({"tolerations": [{"operator": "Near"}]}),
            ".tolerations[0].operator: Unsupported value: \"Near\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            json!({"tolerations": [{"operator": "Equal", "effect": "NoRun"}]}),
            ".tolerations[0].effect: Unsupported value: \"NoRun\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
        ),
    ] {
        let wanted: Vec<String> = if wanted.is_empty() { Vec::new() } else { vec![format!("{at}{wanted}")] };
        assert_eq!(created(&with(&claim(), exactly, of(rest))), wanted);
    }
    let bad = of(json!({"tolerations": [{"key": "_", "operator": "Exists"}]}));
    check_created(&claim(), &[(exactly, bad, &[&key])]);
}

#[test]
fn constraints_and_configurations() {
    let label = format!("spec.devices.constraints[0].requests[0]: Invalid value: \"A\": {LABEL}");
    let unknown = |name: &str| {
        format!("spec.devices.constraints[0].requests[0]: Invalid value: \"{name}\": {NO_REQUEST}")
    };
    let (none, three, odd) = (unknown("two/none"), unknown("a/b/c"), unknown("A"));
    let domain =
        format!("spec.devices.constraints[0].matchAttribute: Invalid value: \"A\": prefix: {SUBDOMAIN}");
    let id = format!("spec.devices.constraints[0].distinctAttribute: Invalid value: \"1\": {IDENTIFIER}");
    let of = |requests: Value| json!([{"requests": requests, "matchAttribute": "a.b/c"}]);
    let at = "/spec/devices/constraints";
    check_created(
        &claim(),
        &[
            (at, of(json!(["one", "two", "two/small"])), &[]),
            (at, of(json!(["two/none"])), &[&none]),
            (at, of(json!(["a/b/c"])), &[&three]),
            (at, of(json!(["A"])), &[&label, &odd]),
            (
                at,
                of(json!(["one", "one"])),
                &["spec.devices.constraints[0].requests[1]: Duplicate value: \"one\""],
            ),
            (
                at,
                json!([{}]),
                &[
                    "spec.devices.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ],
            ),
            (at, json!([{"matchAttribute": "A/c"}]), &[&domain]),
            (
                at,
                json!([{"matchAttribute": "/"}]),
                &[
                    "spec.devices.constraints[0].matchAttribute: Invalid value: \"\": prefix must not be empty",
                    "spec.devices.constraints[0].matchAttribute: Invalid value: \"\": name must not be empty",
                ],
            ),
            (
                at,
                json!([{"distinctAttribute": "1"}]),
                &[
                    &id,
                    "spec.devices.constraints[0].distinctAttribute: Invalid value: \"1\": a fully qualified name must be a domain and a name separated by a slash",
                ],
            ),
            (
                at,
                many(33, |_| json!({})),
                &["spec.devices.constraints: Too many: 33: must have at most 32 items"],
            ),
            (
                "/spec/devices/config",
                json!([{"requests": ["one"], "opaque": {"driver": "d", "parameters": {}}}]),
                &[],
            ),
            ("/spec/devices/config", json!([{}]), &["spec.devices.config[0].opaque: Required value"]),
            (
                "/spec/devices/config",
                many(33, |_| json!({})),
                &["spec.devices.config: Too many: 33: must have at most 32 items"],
            ),
        ],
    );
    check_updated(
        &claim(),
        &[(
            "/spec/devices/requests/0/name",
            json!("three"),
            &["spec: Invalid value: null: field is immutable"],
        )],
    );
}

#[test]
fn templates() {
    let spec = claim()["spec"].clone();
    let good = object("ResourceClaimTemplate", json!({"spec": spec}));
    let label = format!("spec.metadata.labels: Invalid value: \"_\": {QUALIFIED}");
    check_created(
        &good,
        &[
            ("/spec/metadata", json!({"labels": {"_": "b"}}), &[&label]),
            (
                "/spec/spec/devices/requests/0/exactly",
                Value::Null,
                &[
                    "spec.spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                ],
            ),
        ],
    );
    let found = updated(&with(&good, "/spec/spec/devices/requests/0/name", json!("three")), &good);
    assert!(
        found[0].starts_with("spec: Invalid value: {") && found[0].ends_with("}: field is immutable"),
        "{found:?}"
    );
}

#[test]
fn alpha_fields_are_dropped_from_what_is_new() {
    let rules = rules_of("resource.k8s.io", "v1", "ResourceClaim").unwrap();
    let derived = json!([{"name": "a/b", "expression": "1"}]);
    let old = with(&claim(), "/spec/devices/requests/0/exactly/derivedAttributes", derived);
    let mut new = old.clone();
    (rules.prepare_create)(&mut new);
    assert!(new["spec"]["devices"]["requests"][0]["exactly"].get("derivedAttributes").is_none());
    let mut new = old.clone();
    (rules.prepare_update)(&mut new, &old);
    assert!(new["spec"]["devices"]["requests"][0]["exactly"].get("derivedAttributes").is_some());
    let rules = rules_of("resource.k8s.io", "v1", "ResourceSlice").unwrap();
    let device = json!({"name": "d", "attributes": {"a": {"ints": [1]}, "b": {"int": 1}},
        "consumesCounters": [{"counterSet": "c", "compatibilityGroups": ["g"]}], "nodeAllocatableResources": {"cpu": {}}});
    let old =
        slice(json!({"devices": [device], "skipNodeOperations": ["*"], "partitionTypeAttribute": "a/b"}));
    let mut new = old.clone();
    (rules.prepare_create)(&mut new);
    let device = json!({"name": "d", "attributes": {"a": {}, "b": {"int": 1}}, "consumesCounters": [{"counterSet": "c"}]});
    assert_eq!(new["spec"]["devices"], json!([device]));
    assert_eq!(
        (new["spec"].get("skipNodeOperations"), new["spec"].get("partitionTypeAttribute")),
        (None, None)
    );
    let mut new = old.clone();
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(new["spec"], old["spec"]);
}

fn slice(rest: Value) -> Value {
    let mut spec = json!({"driver": "d", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}});
    spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object("ResourceSlice", spec)
}

#[test]
fn slices() {
    let good = slice(json!({"devices": [{"name": "a"}]}));
    let driver = format!("spec.driver: Invalid value: \"d_\": {SUBDOMAIN}");
    let pool = format!("spec.pool.name: Invalid value: \"P\": {SUBDOMAIN}");
    let node = format!("spec.nodeName: Invalid value: \"N\": {SUBDOMAIN}");
    let name = format!("spec.devices[0].name: Invalid value: \"A\": {LABEL}");
    let ways = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let none = format!("spec: Required value: {ways}");
    let both =
        format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {ways}, but multiple fields are set");
    check_created(
        &good,
        &[
            ("/spec/driver", json!("d_"), &[&driver]),
            ("/spec/driver", json!(""), &["spec.driver: Required value"]),
            ("/spec/pool/name", json!("a/b"), &[]),
            ("/spec/pool/name", json!("a/P"), &[&pool]),
            ("/spec/pool/name", json!(""), &["spec.pool.name: Required value"]),
            (
                "/spec/pool/resourceSliceCount",
                json!(0),
                &["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"],
            ),
            (
                "/spec/pool/generation",
                json!(-1),
                &["spec.pool.generation: Invalid value: -1: must be greater than or equal to zero"],
            ),
            ("/spec/nodeName", json!("N"), &[&node]),
            ("/spec/nodeName", Value::Null, &[&none]),
            (
                "/spec/nodeName",
                json!(""),
                &[
                    "spec.nodeName: Invalid value: \"\": must be either unset or set to a non-empty string",
                    &none,
                ],
            ),
            ("/spec/allNodes", json!(true), &[&both]),
            (
                "/spec/allNodes",
                json!(false),
                &["spec.allNodes: Invalid value: false: must be either unset or set to true"],
            ),
            (
                "/spec/sharedCounters",
                json!([{"name": "c", "counters": {"x": {"value": "1"}}}]),
                &["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed"],
            ),
            ("/spec/devices/0/name", json!("A"), &[&name]),
            ("/spec/devices/-", json!({"name": "a"}), &["spec.devices[1]: Duplicate value: \"a\""]),
            ("/spec/devices", many(128, |i| json!({"name": format!("d{i}")})), &[]),
            (
                "/spec/devices",
                many(129, |i| json!({"name": format!("d{i}")})),
                &["spec.devices: Too many: 129: must have at most 128 items"],
            ),
            (
                "/spec/devices",
                many(65, |i| json!({"name": format!("d{i}"), "taints": [{"key": "k", "effect": "None"}]})),
                &["spec.devices: Too many: 65: must have at most 64 items"],
            ),
        ],
    );
    check_updated(
        &good,
        &[
            ("/spec/pool/generation", json!(2), &[]),
            ("/spec/pool/name", json!("q"), &["spec.pool.name: Invalid value: \"q\": field is immutable"]),
            ("/spec/driver", json!("e"), &["spec.driver: Invalid value: \"e\": field is immutable"]),
            ("/spec/nodeName", json!("m"), &["spec.nodeName: Invalid value: \"m\": field is immutable"]),
        ],
    );
    let rules = rules_of("resource.k8s.io", "v1", "ResourceSlice").unwrap();
    assert_eq!((rules.warnings)(&good, None), [""; 0]);
    assert_eq!(
        (rules.warnings)(&with(&good, "/spec/driver", json!("D")), Some(&good)),
        ["spec.driver: driver names should be lowercase; \"D\" contains uppercase characters"]
    );
}

#[test]
fn attributes() {
    let of = |name: &str, attribute: Value| {
        slice(json!({"devices": [{"name": "a", "attributes": {name: attribute}}]}))
    };
    let at = "spec.devices[0].attributes";
    let all = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
    let domain = format!("{at}: Invalid value: \"_\": {SUBDOMAIN}");
    let id = format!("{at}: Invalid value: \"1\": {IDENTIFIER}");
    for (name, attribute, wanted) in [
        ("x", json!({"int": 1}), vec![]),
        ("d.e/x", json!({"bool": false}), vec![]),
        ("1", json!({"int": 1}), vec![id.clone()]),
        ("_/1", json!({"int": 1}), vec![domain, id]),
        (
            "/",
            json!({"int": 1}),
            vec![
                format!("{at}: Invalid value: \"\": the domain must not be empty"),
                format!("{at}: Invalid value: \"\": the name must not be empty"),
            ],
        ),
        ("x", json!({}), vec![format!("{at}[x]: Invalid value: \"\": must specify one of: {all}")]),
        (
            "x",
            json!({"string": "a", "int": 1}),
            vec![format!("{at}[x]: Invalid value: \"{{int, string}}\": must specify exactly one of: {all}")],
        ),
        (
            "x",
            json!({"string": "a".repeat(65)}),
            vec![format!("{at}[x].string: Too long: may not be more than 64 bytes")],
        ),
        ("x", json!({"version": "1.2.3-alpha.1+b.02"}), vec![]),
        (
            "x",
            json!({"version": "1.02.3"}),
            vec![format!(
                "{at}[x].version: Invalid value: \"1.02.3\": must be a string compatible with semver.org spec 2.0.0"
            )],
        ),
    ] {
        assert_eq!(created(&of(name, attribute)), wanted, "{name}");
    }
    let long = "a".repeat(100);
    assert_eq!(
        created(&of(&long, json!({}))),
        [
            format!("{at}: Too long: may not be more than 32 bytes"),
            format!(
                "{at}[{}...{}]: Invalid value: \"\": must specify one of: {all}",
                &long[..47],
                &long[..46]
            ),
        ]
    );
    let attributes: serde_json::Map<String, Value> =
        (0..33).map(|i| (format!("a{i}"), json!({"int": 1}))).collect();
    let crowded = slice(json!({"devices": [{"name": "a", "attributes": attributes}]}));
    assert_eq!(
        created(&crowded),
        [
            "spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32"
        ]
    );
}

#[test]
fn places_counters_and_conditions_of_devices() {
    let of = |rest: Value| {
        let mut device = json!({"name": "a"});
        device.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        device
    };
    let good = slice(json!({"devices": [of(json!({}))]}));
    let at = "/spec/devices/0";
    let short = format!("spec.devices[0].consumesCounters[0].counterSet: Invalid value: \"C\": {LABEL}");
    let key = format!("spec.devices[0].consumesCounters[0].counters: Invalid value: \"X\": {LABEL}");
    let condition = format!("spec.devices[0].bindingConditions[0]: Invalid value: \"_\": {QUALIFIED}");
    let consumed =
        |set: &str, counter: &str| json!({"counterSet": set, "counters": {counter: {"value": "1"}}});
    let conditions = |wanted: Value, failing: Value| {
        of(json!({"bindingConditions": wanted, "bindingFailureConditions": failing}))
    };
    check_created(
        &good,
        &[
            (
                at,
                of(json!({"allNodes": true})),
                &[
                    "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                ],
            ),
            (at, of(json!({"consumesCounters": [consumed("c", "x")]})), &[]),
            (at, of(json!({"consumesCounters": [consumed("C", "X")]})), &[&short, &key]),
            (
                at,
                of(json!({"consumesCounters": [{}]})),
                &[
                    "spec.devices[0].consumesCounters[0].counterSet: Required value",
                    "spec.devices[0].consumesCounters[0].counters: Required value",
                ],
            ),
            (
                at,
                of(json!({"consumesCounters": [consumed("c", "x"), consumed("c", "x")]})),
                &[
                    "spec.devices[0].consumesCounters[1]: Duplicate value: {\"counterSet\":\"c\",\"counters\":{\"x\":{\"value\":\"1\"}}}",
                ],
            ),
            (
                at,
                of(json!({"consumesCounters": [{}, {}, {}]})),
                &["spec.devices[0].consumesCounters: Too many: 3: must have at most 2 items"],
            ),
            (at, conditions(json!(["a"]), json!(["b"])), &[]),
            (
                at,
                conditions(json!(["a", "a"]), json!(["a"])),
                &[
                    "spec.devices[0].bindingConditions[1]: Duplicate value: \"a\"",
                    "spec.devices[0].bindingFailureConditions[0]: Invalid value: \"a\": bindingFailureConditions must not overlap with bindingConditions",
                ],
            ),
            (
                at,
                conditions(json!(["_"]), json!([])),
                &[
                    &condition,
                    "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
                ],
            ),
            (
                at,
                conditions(json!([]), json!(["b"])),
                &[
                    "spec.devices[0].bindingConditions: Invalid value: null: bindingConditions are required to use bindingFailureConditions",
                ],
            ),
            (
                at,
                conditions(json!(["a", "b", "c", "d", "e"]), json!(["f"])),
                &["spec.devices[0].bindingConditions: Too many: 5: must have at most 4 items"],
            ),
        ],
    );
    let placed =
        with(&with(&good, "/spec/nodeName", Value::Null), "/spec/perDeviceNodeSelection", json!(true));
    let ways = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let none = format!("spec.devices[0]: Required value: {ways}");
    let both = format!("spec.devices[0]: Invalid value: \"{{`nodeName`, `allNodes`}}\": {ways}");
    check_created(
        &with(&placed, at, of(json!({"nodeName": "n"}))),
        &[
            (at, of(json!({})), &[&none]),
            (
                at,
                of(json!({"nodeName": ""})),
                &["spec.devices[0].nodeName: Invalid value: \"\": must not be empty", &none],
            ),
            (at, of(json!({"nodeName": "n", "allNodes": true})), &[&both]),
            (
                at,
                of(json!({"nodeName": "n", "allNodes": false})),
                &["spec.devices[0].allNodes: Invalid value: false: must be either unset or set to true"],
            ),
        ],
    );
    let sets = slice(json!({"sharedCounters": [{"name": "c", "counters": {"x": {"value": "1"}}}]}));
    let counters: serde_json::Map<String, Value> =
        (0..33).map(|i| (format!("c{i}"), json!({"value": "1"}))).collect();
    check_created(
        &sets,
        &[
            (
                "/spec/sharedCounters",
                many(9, |_| json!({})),
                &["spec.sharedCounters: Too many: 9: must have at most 8 items"],
            ),
            ("/spec/sharedCounters/0/name", Value::Null, &["spec.sharedCounters[0].name: Required value"]),
            (
                "/spec/sharedCounters/0/counters",
                Value::Object(counters),
                &["spec.sharedCounters[0].counters: Too many: 33: must have at most 32 items"],
            ),
        ],
    );
}

#[test]
fn capacities() {
    let of = |shared: bool, policy: Value| {
        let capacity = json!({"memory": {"value": "10Gi", "requestPolicy": policy}});
        slice(json!({"devices": [{"name": "a", "allowMultipleAllocations": shared, "capacity": capacity}]}))
    };
    let at = "spec.devices[0].capacity[memory].requestPolicy";
    let range = |min: &str, max: &str, step: &str| json!({"min": min, "max": max, "step": step});
    for (policy, wanted) in [
        (json!({}), vec![]),
        (json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]}), vec![]),
        (
            json!({"validValues": ["1Gi"], "validRange": {"min": "1Gi"}}),
            vec![
                ": Forbidden: exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
            ],
        ),
        (
            json!({"validValues": ["1Gi"]}),
            vec![".default: Required value: required when validValues is defined"],
        ),
        (
            json!({"validRange": {"min": "1Gi"}}),
            vec![".default: Required value: required when validRange is defined"],
        ),
        (
            json!({"default": "1Gi", "validRange": {}}),
            vec![".validRange.min: Required value: required when validRange is defined"],
        ),
        (
            json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "1024Mi", "11Gi"]}),
            vec![
                ".validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
                ".validValues[3]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi",
                ".validValues[2]: Duplicate value: \"1073741824\"",
                ".validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy",
            ],
        ),
        (json!({"default": "2Gi", "validRange": range("1Gi", "3Gi", "1Gi")}), vec![]),
        (json!({"default": "1500m", "validRange": range("1", "2", "500m")}), vec![]),
        (
            json!({"default": "12Gi", "validRange": range("11Gi", "10Gi", "1Gi")}),
            vec![
                ".validRange.min: Invalid value: \"11Gi\": min is larger than capacity value: 10Gi",
                ".validRange.max: Invalid value: \"11Gi\": min is larger than max: 10Gi",
                ".validRange.default: Invalid value: \"12Gi\": default is more than max: 10Gi",
                ".validRange.step: Invalid value: \"1Gi\": one step 12Gi is larger than capacity value: 10Gi",
            ],
        ),
        (
            json!({"default": "512Mi", "validRange": range("1Gi", "11Gi", "0")}),
            vec![
                ".validRange.default: Invalid value: \"512Mi\": default is less than min: 1Gi",
                ".validRange.max: Invalid value: \"11Gi\": max is larger than capacity value: 10Gi",
                ".validRange.step: Invalid value: \"0\": must be greater than zero",
            ],
        ),
        (
            json!({"default": "3Gi", "validRange": range("1Gi", "4Gi", "2Gi")}),
            vec![
                ".validRange.step: Invalid value: \"4Gi\": value is not a multiple of a given step (2Gi) from (1Gi)",
            ],
        ),
        (
            json!({"default": "1u", "validRange": {"min": "0"}}),
            vec![".validRange.default: Invalid value: \"1u\": value cannot be represented as a milli value"],
        ),
        (
            json!({"default": "1", "validRange": range("-1", "2", "1")}),
            vec![".validRange.min: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
    ] {
        let wanted: Vec<String> = wanted.iter().map(|text| format!("{at}{text}")).collect();
        assert_eq!(created(&of(true, policy.clone())), wanted, "{policy}");
    }
    let alone = of(false, json!({}));
    assert_eq!(created(&alone), [format!("{at}: Forbidden: allowMultipleAllocations must be true")]);
    assert_eq!(updated(&alone, &alone), [""; 0], "what was there before stays");
}

#[test]
fn taints() {
    let good = object(
        "DeviceTaintRule",
        json!({"deviceSelector": {"driver": "d"}, "taint": {"key": "k", "effect": "None"}}),
    );
    let driver = format!("spec.deviceSelector.driver: Invalid value: \"d_\": {SUBDOMAIN}");
    let pool = format!("spec.deviceSelector.pool: Invalid value: \"P\": {SUBDOMAIN}");
    let device = format!("spec.deviceSelector.device: Invalid value: \"D\": {LABEL}");
    let key = format!("spec.taint.key: Invalid value: \"\": {QUALIFIED}");
    let value = "spec.taint.value: Invalid value: \"_\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    check_created(
        &good,
        &[
            ("/spec/deviceSelector", Value::Null, &[]),
            (
                "/spec/deviceSelector",
                json!({"driver": "d_", "pool": "P", "device": "D"}),
                &[&driver, &pool, &device],
            ),
            (
                "/spec/taint/key",
                Value::Null,
                &["spec.taint.key: Invalid value: \"\": name part must be non-empty", &key],
            ),
            ("/spec/taint/value", json!("_"), &[value]),
            ("/spec/taint/effect", Value::Null, &["spec.taint.effect: Required value"]),
            (
                "/spec/taint/effect",
                json!("NoRun"),
                &[
                    "spec.taint.effect: Unsupported value: \"NoRun\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                ],
            ),
        ],
    );
    let odd = with(&good, "/spec/taint/effect", json!("FromTheFuture"));
    assert_eq!(updated(&odd, &odd), [""; 0], "an effect that was there before stays");
    let condition = |i: usize| json!({"type": format!("A{i}"), "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    check_status(
        &good,
        &[
            ("/status", json!({"conditions": [condition(1)]}), &[]),
            (
                "/status",
                json!({"conditions": many(9, condition)}),
                &["status.conditions: Too many: 9: must have at most 8 items"],
            ),
        ],
    );
    let crowded = slice(json!({"devices": [{"name": "a", "taints": many(17, |_| json!({}))}]}));
    assert_eq!(created(&crowded), ["spec.devices[0].taints: Too many: 17: must have at most 16 items"]);
}

#[test]
fn taints_say_since_when() {
    let mut rule = object("DeviceTaintRule", json!({"taint": {"key": "k", "effect": "None"}}));
    note_taint_times(&mut rule, None, "1");
    assert_eq!(rule["spec"]["taint"]["timeAdded"], "1");
    let time_of = |new: &Value| {
        let mut new = new.clone();
        note_taint_times(&mut new, Some(&rule), "2");
        new["spec"]["taint"]["timeAdded"].clone()
    };
    assert_eq!(time_of(&rule), "1");
    let changed = with(&rule, "/spec/taint/effect", json!("NoExecute"));
    assert_eq!(time_of(&changed), "2");
    assert_eq!(time_of(&with(&changed, "/spec/taint/timeAdded", json!("0"))), "0");
    let mut slice = slice(json!({"devices": [{"name": "a", "taints": [{"key": "k", "effect": "None"}]}]}));
    note_taint_times(&mut slice, None, "3");
    assert_eq!(slice["spec"]["devices"][0]["taints"][0]["timeAdded"], "3");
}

fn allocated() -> Value {
    let result = json!({"request": "one", "driver": "d", "pool": "p", "device": "x"});
    with(&claim(), "/status", json!({"allocation": {"devices": {"results": [result]}}}))
}

#[test]
fn allocations() {
    let fresh = with(&claim(), "/status", json!({}));
    let given = |result: Value| json!({"devices": {"results": [result]}});
    let at = "status.allocation.devices.results[0]";
    let request = format!("{at}.request: Invalid value: \"none\": {NO_REQUEST}");
    let device = format!("{at}.device: Invalid value: \"D\": {LABEL}");
    let driver = format!("{at}.driver: Invalid value: \"d_\": {ANY_CASE}");
    let pool = format!("{at}.pool: Invalid value: \"p//q\": segment 1: must not be empty");
    let share = format!("{at}.shareID: Invalid value: \"x\": must be a lowercase UUID in 8-4-4-4-12 format");
    let [no_driver, no_pool] = ["driver", "pool"].map(|field| format!("{at}.{field}: Required value"));
    let empty = |field: &str| format!("{at}.{field}: Invalid value: \"\": {LABEL}");
    let nothing =
        [empty("request"), format!("{at}.request: Invalid value: \"\": {NO_REQUEST}"), empty("device")];
    let config = |source: Value| json!({"devices": {"config": [{"source": source, "opaque": {"driver": "d", "parameters": {}}}]}});
    check_status(
        &fresh,
        &[
            ("/status/allocation", allocated()["status"]["allocation"].clone(), &[]),
            (
                "/status/allocation",
                given(
                    json!({"request": "none", "driver": "d_", "pool": "p//q", "device": "D", "shareID": "x"}),
                ),
                &[&request, &device, &driver, &pool, &share],
            ),
            (
                "/status/allocation",
                given(json!({})),
                &[&nothing[0], &nothing[1], &nothing[2], &no_driver, &no_pool],
            ),
            (
                "/status/allocation",
                json!({"devices": {"results": many(33, |_| json!({}))}}),
                &["status.allocation.devices.results: Too many: 33: must have at most 32 items"],
            ),
            ("/status/allocation", config(json!("FromClass")), &[]),
            (
                "/status/allocation",
                config(Value::Null),
                &["status.allocation.devices.config[0].source: Required value"],
            ),
            (
                "/status/allocation",
                config(json!("FromDriver")),
                &[
                    "status.allocation.devices.config[0].source: Unsupported value: \"FromDriver\": supported values: \"FromClaim\", \"FromClass\"",
                ],
            ),
            (
                "/status/allocation",
                json!({"nodeSelector": {}}),
                &[
                    "status.allocation.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term",
                ],
            ),
        ],
    );
    check_status(
        &allocated(),
        &[
            ("/status/allocation", Value::Null, &[]),
            (
                "/status/allocation",
                given(json!({"request": "two"})),
                &["status.allocation: Invalid value: null: field cannot be modified once set"],
            ),
        ],
    );
}

#[test]
fn users_of_a_claim() {
    let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
    let at = "/status/reservedFor";
    check_status(
        &allocated(),
        &[
            (at, json!([user("1"), user("2")]), &[]),
            (
                at,
                json!([{}]),
                &[
                    "status.reservedFor[0].resource: Required value",
                    "status.reservedFor[0].name: Required value",
                    "status.reservedFor[0].uid: Required value",
                ],
            ),
            (
                at,
                json!([user("1"), user("1")]),
                &[
                    "status.reservedFor[1]: Duplicate value: {\"name\":\"p\",\"resource\":\"pods\",\"uid\":\"1\"}",
                ],
            ),
            (
                at,
                many(257, |i| user(&i.to_string())),
                &["status.reservedFor: Too many: 257: must have at most 256 items"],
            ),
        ],
    );
    let fresh = with(&claim(), "/status", json!({}));
    let wanted = &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"];
    check_status(&fresh, &[(at, json!([user("1")]), wanted)]);
    let ending = with(
        &with(&allocated(), at, json!([user("1")])),
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:00:00Z"),
    );
    let wanted = &[
        "status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
    ];
    check_status(&ending, &[(at, json!([]), &[]), (at, json!([user("1"), user("2")]), wanted)]);
}

#[test]
fn what_drivers_tell() {
    let told = |rest: Value| {
        let mut device = json!({"driver": "d", "pool": "p", "device": "x"});
        device.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        device
    };
    let at = "/status/devices";
    let address = "status.devices[0].networkData.ips[0]: Invalid value";
    let bad = format!(
        "{address}: \"x\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"
    );
    let other = format!("{address}: \"010.0.0.1/24\": must be in canonical form (\"10.0.0.1/24\")");
    let network = |data: Value| json!([told(json!({"networkData": data}))]);
    check_status(
        &allocated(),
        &[
            (
                at,
                json!([told(
                    json!({"data": {"a": 1}, "networkData": {"interfaceName": "e", "ips": ["10.0.0.1/24", "2001:db8::1/64"]}})
                )]),
                &[],
            ),
            (
                at,
                json!([told(json!({"device": "y"}))]),
                &[
                    "status.devices[0]: Invalid value: {\"Device\":\"y\",\"Driver\":\"d\",\"Pool\":\"p\",\"ShareID\":\"\"}: must be an allocated device in the claim",
                ],
            ),
            (
                at,
                json!([told(json!({})), told(json!({}))]),
                &["status.devices[1]: Duplicate value: {\"device\":\"x\",\"driver\":\"d\",\"pool\":\"p\"}"],
            ),
            (
                at,
                json!([told(json!({"data": [1]}))]),
                &["status.devices[0].data: Invalid value: \"<value omitted>\": must be a valid JSON object"],
            ),
            (at, network(json!({"ips": ["x"]})), &[&bad]),
            (at, network(json!({"ips": ["010.0.0.1/24"]})), &[&other]),
            (
                at,
                network(json!({"ips": ["10.0.0.1/24", "10.0.0.1/24"]})),
                &["status.devices[0].networkData.ips[1]: Duplicate value: \"10.0.0.1/24\""],
            ),
            (
                at,
                network(
                    json!({"interfaceName": "x".repeat(257), "hardwareAddress": "x".repeat(129), "ips": many(17, |_| json!("x"))}),
                ),
                &[
                    "status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes",
                    "status.devices[0].networkData.ips: Too many: 17: must have at most 16 items",
                    "status.devices[0].networkData.hardwareAddress: Too long: may not be more than 128 bytes",
                ],
            ),
        ],
    );
    let rules = rules_of("resource.k8s.io", "v1", "ResourceClaim").unwrap();
    let mut freed =
        with(&with(&allocated(), at, json!([told(json!({}))])), "/status/allocation", Value::Null);
    (rules.prepare_status_update)(&mut freed, &allocated());
    assert_eq!(status_updated(&freed, &allocated()), [""; 0], "what was told of it goes with it");
}

#[test]
fn what_needs_more_rights() {
    let admin = with(&claim(), "/spec/devices/requests/0/exactly/adminAccess", json!(true));
    assert_eq!(admin_access(&admin).as_deref(), Some("spec.devices.requests[0].adminAccess"));
    assert_eq!(admin_access(&claim()), None);
    let template = object("ResourceClaimTemplate", json!({"spec": admin["spec"]}));
    assert_eq!(admin_access(&template).as_deref(), Some("spec.devices.requests[0].adminAccess"));
    let granted = with(&allocated(), "/status/allocation/devices/results/0/adminAccess", json!(true));
    let path = "status.allocation.devices.results[0].adminAccess";
    assert_eq!(admin_access_granted(&granted, &claim()).as_deref(), Some(path));
    assert_eq!(admin_access_granted(&granted, &granted), None);
    assert!(changes_binding(&allocated(), &claim()) && !changes_binding(&allocated(), &allocated()));
    let told =
        with(&allocated(), "/status/devices", json!([{"driver": "d", "device": "x"}, {"driver": "e"}]));
    assert_eq!(changed_drivers(&told, &allocated()).into_iter().collect::<Vec<_>>(), ["d", "e"]);
    let less = with(&told, "/status/devices/1", json!({"driver": "f"}));
    assert_eq!(changed_drivers(&less, &told).into_iter().collect::<Vec<_>>(), ["e", "f"]);
    assert!(changed_drivers(&with(&told, "/status/allocation", Value::Null), &allocated()).is_empty());
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    assert_eq!(node_of(&with(&allocated(), "/status/allocation/nodeSelector", selector)), Some("n"));
    assert_eq!(node_of(&allocated()), None);
}

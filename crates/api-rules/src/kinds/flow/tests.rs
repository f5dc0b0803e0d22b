use super::super::bench::{check_created, check_status, check_updated, created, defaulted, with};
use super::mandatory_flow_spec;
use serde_json::{Value, json};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    defaulted(json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "spec": spec}))
}

fn schema() -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "u"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["n"]}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}],
    });
    object("FlowSchema", "s", json!({"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}))
}

#[test]
fn schemas() {
    let bad_level = format!("spec.priorityLevelConfiguration.name: Invalid value: \"L\": {SUBDOMAIN}");
    check_created(
        &schema(),
        &[
            (
                "/spec/matchingPrecedence",
                json!(-1),
                &["spec.matchingPrecedence: Invalid value: -1: must be a positive value"],
            ),
            ("/spec/matchingPrecedence", json!(10_000), &[]),
            (
                "/spec/matchingPrecedence",
                json!(10_001),
                &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
            ),
            (
                "/spec/matchingPrecedence",
                json!(1),
                &[
                    "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                ],
            ),
            ("/spec/distinguisherMethod", json!({"type": "ByUser"}), &[]),
            (
                "/spec/distinguisherMethod",
                json!({"type": "ByName"}),
                &[
                    "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"ByName\"}: supported values: \"ByNamespace\", \"ByUser\"",
                ],
            ),
            (
                "/spec/priorityLevelConfiguration",
                json!({}),
                &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"],
            ),
            ("/spec/priorityLevelConfiguration/name", json!("L"), &[&bad_level]),
            ("/spec/rules", json!([]), &[]),
            (
                "/spec/rules/0",
                json!({}),
                &[
                    "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                    "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                ],
            ),
        ],
    );
}

#[test]
fn subjects() {
    let bad_name =
        format!("spec.rules[0].subjects[0].serviceAccount.name: Invalid value: \"A\": {SUBDOMAIN}");
    let bad_namespace =
        format!("spec.rules[0].subjects[0].serviceAccount.namespace: Invalid value: \"N\": {LABEL}");
    let account = |name: &str, namespace: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": namespace}});
    let at = "/spec/rules/0/subjects/0";
    check_created(
        &schema(),
        &[
            (at, account("*", "n"), &[]),
            (at, account("A", "N"), &[&bad_name, &bad_namespace]),
            (
                at,
                account("", ""),
                &[
                    "spec.rules[0].subjects[0].serviceAccount.name: Required value",
                    "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
                ],
            ),
            (at, json!({"kind": "Group", "group": {"name": "g"}}), &[]),
            (
                at,
                json!({"kind": "Group", "user": {"name": "u"}, "serviceAccount": {"name": "a", "namespace": "n"}}),
                &[
                    "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                    "spec.rules[0].subjects[0].serviceAccount: Forbidden: serviceAccount is forbidden when subject kind is not 'ServiceAccount'",
                    "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                ],
            ),
            (
                at,
                json!({"kind": "User", "user": {}, "group": {"name": "g"}}),
                &[
                    "spec.rules[0].subjects[0].user.name: Required value",
                    "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                ],
            ),
            (
                at,
                json!({"kind": "Robot"}),
                &[
                    "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                ],
            ),
        ],
    );
}

#[test]
fn rules_of_resources_and_paths() {
    let namespace = format!(
        "spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"N\": each member of this list must be '*' or a DNS-1123 label; {LABEL}"
    );
    let resource = "/spec/rules/0/resourceRules/0";
    let path = "/spec/rules/0/nonResourceRules/0";
    let of =
        |text: &str| format!("spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: {text}");
    let paths: Vec<(Value, String)> = [
        ("", "\"\": must not be empty"),
        ("x", "\"x\": must start with slash"),
        ("/a b", "\"/a b\": must not contain white-space"),
        ("/a//b", "\"/a//b\": must not contain double slash"),
        ("/*/a", "\"/*/a\": wildcard can only do suffix matching"),
        ("/a/*/*", "\"/a/*/*\": wildcard can only do suffix matching"),
    ]
    .map(|(bad, text)| (json!([bad]), of(text)))
    .into();
    for (urls, wanted) in &paths {
        check_created(&schema(), &[(&format!("{path}/nonResourceURLs"), urls.clone(), &[wanted])]);
    }
    check_created(
        &schema(),
        &[
            (&format!("{path}/nonResourceURLs"), json!(["/", "/a/*"]), &[]),
            (&format!("{resource}/verbs"), json!(["*"]), &[]),
            (
                &format!("{resource}/verbs"),
                json!(["*", "get"]),
                &[
                    "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                ],
            ),
            (
                &format!("{path}/verbs"),
                json!(["fly"]),
                &[
                    "spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"fly\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                ],
            ),
            (
                resource,
                json!({}),
                &[
                    "spec.rules[0].resourceRules[0].verbs: Required value: verbs must contain at least one value",
                    "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                    "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                ],
            ),
            (
                path,
                json!({"nonResourceURLs": ["*", "/"]}),
                &[
                    "spec.rules[0].nonResourceRules[0].verbs: Required value: verbs must contain at least one value",
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs: Invalid value: [\"*\",\"/\"]: if '*' is present, must not specify other non-resource URLs",
                ],
            ),
            (
                resource,
                json!({"verbs": ["get"], "apiGroups": ["*", "a"], "resources": ["*", "b"], "namespaces": ["*", "c"]}),
                &[
                    "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                    "spec.rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"b\"]: if '*' is present, must not specify other resources",
                    "spec.rules[0].resourceRules[0].namespaces: Invalid value: [\"*\",\"c\"]: if '*' is present, must not specify other namespaces",
                ],
            ),
            (&format!("{resource}/namespaces"), json!(["N"]), &[&namespace]),
            (
                resource,
                json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}),
                &[],
            ),
        ],
    );
}

#[test]
fn what_every_cluster_has_stays() {
    for name in ["exempt", "catch-all"] {
        let schema = object("FlowSchema", name, mandatory_flow_spec("FlowSchema", name).unwrap());
        assert_eq!(created(&schema), [""; 0]);
        let found = created(&with(&schema, "/spec/rules", json!([])));
        assert!(found[0].starts_with("spec: Invalid value: {"), "{found:?}");
        assert!(found[0].ends_with(&format!("spec of '{name}' must equal the fixed value")), "{found:?}");
        let kind = "PriorityLevelConfiguration";
        let level = object(kind, name, mandatory_flow_spec(kind, name).unwrap());
        assert_eq!(created(&level), [""; 0]);
    }
    let spec = mandatory_flow_spec("PriorityLevelConfiguration", "catch-all").unwrap();
    let level = object("PriorityLevelConfiguration", "catch-all", spec);
    let found = created(&with(&level, "/spec/limited/nominalConcurrencyShares", json!(6)));
    assert!(found[0].ends_with("}: spec of 'catch-all' must equal the fixed value"), "{found:?}");
    let spec = mandatory_flow_spec("PriorityLevelConfiguration", "exempt").unwrap();
    let level = object("PriorityLevelConfiguration", "exempt", spec);
    assert_eq!(created(&with(&level, "/spec/exempt/lendablePercent", json!(7))), [""; 0]);
    let limited = json!({"limitResponse": {"type": "Reject"}});
    let found = created(&with(&level, "/spec/limited", limited));
    assert!(
        found[0].ends_with("}: spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"),
        "{found:?}"
    );
    assert_eq!(found[1], "spec.limited: Forbidden");
}

fn level() -> Value {
    let response = json!({"type": "Queue", "queuing": {}});
    object(
        "PriorityLevelConfiguration",
        "l",
        json!({"type": "Limited", "limited": {"limitResponse": response}}),
    )
}

#[test]
fn levels() {
    check_created(
        &level(),
        &[
            (
                "/metadata/annotations",
                json!({"flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares": ""}),
                &[
                    "metadata.annotations: Forbidden: annotation 'flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares' is forbidden",
                ],
            ),
            (
                "/spec",
                json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": -1, "lendablePercent": 101}}),
                &[
                    "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
                    "spec.exempt.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                    "spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                ],
            ),
            ("/spec/exempt", json!({}), &["spec.exempt: Forbidden"]),
            ("/spec/limited", Value::Null, &["spec.limited: Required value"]),
            ("/spec", json!({}), &["spec.type: Required value"]),
            (
                "/spec/type",
                json!("Odd"),
                &[
                    "spec.type: Unsupported value: \"Odd\": supported values: \"Exempt\", \"Limited\"",
                    "spec.limited: Forbidden",
                ],
            ),
            (
                "/spec/limited/nominalConcurrencyShares",
                json!(-1),
                &["spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer"],
            ),
            (
                "/spec/limited/lendablePercent",
                json!(-1),
                &["spec.limited.lendablePercent: Invalid value: -1: must be between 0 and 100, inclusive"],
            ),
            (
                "/spec/limited/borrowingLimitPercent",
                json!(-1),
                &[
                    "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
                ],
            ),
        ],
    );
}

#[test]
fn responses() {
    let at = "/spec/limited/limitResponse";
    let queuing = format!("{at}/queuing");
    check_created(
        &level(),
        &[
            (at, json!({"type": "Reject"}), &[]),
            (
                at,
                json!({"type": "Reject", "queuing": {}}),
                &["spec.limited.limitResponse.queuing: Forbidden"],
            ),
            (at, json!({"type": "Queue"}), &["spec.limited.limitResponse.queuing: Required value"]),
            (at, json!({}), &["spec.limited.limitResponse.type: Required value"]),
            (
                at,
                json!({"type": "Wait"}),
                &[
                    "spec.limited.limitResponse.type: Unsupported value: \"Wait\": supported values: \"Queue\", \"Reject\"",
                ],
            ),
            (
                &queuing,
                json!({"queues": -1, "handSize": -1, "queueLengthLimit": -1}),
                &[
                    "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                    "spec.limited.limitResponse.queuing.queues: Invalid value: -1: must be positive",
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: -1: must be positive",
                ],
            ),
            (
                &queuing,
                json!({"queues": 10_000_001, "handSize": 2, "queueLengthLimit": 1}),
                &[
                    "spec.limited.limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000",
                ],
            ),
            (
                &queuing,
                json!({"queues": 4, "handSize": 5, "queueLengthLimit": 1}),
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
                ],
            ),
            (&queuing, json!({"queues": 64, "handSize": 10, "queueLengthLimit": 1}), &[]),
            (
                &queuing,
                json!({"queues": 64, "handSize": 11, "queueLengthLimit": 1}),
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 11: required entropy bits of deckSize 64 and handSize 11 should not be greater than 60",
                ],
            ),
        ],
    );
}

#[test]
fn updates_and_statuses() {
    let changed = &["spec.matchingPrecedence: Invalid value: -1: must be a positive value"];
    check_updated(&schema(), &[("/spec/matchingPrecedence", json!(-1), changed)]);
    check_updated(&level(), &[("/spec/limited", Value::Null, &["spec.limited: Required value"])]);
    let twice = json!({"conditions": [{"type": "A"}, {"type": "A"}, {}]});
    let wanted =
        &["status.conditions[1].type: Duplicate value: \"A\"", "status.conditions[2].type: Required value"];
    for good in [schema(), level()] {
        check_status(
            &good,
            &[("/status", json!({"conditions": [{"type": "A"}]}), &[]), ("/status", twice.clone(), wanted)],
        );
    }
}

//! The FlowSchemas and priority levels that every cluster has (upstream's `apis/flowcontrol/bootstrap`). Pure.

use api_types::Value;
use serde_json::json;

use super::config::{CATCH_ALL, EXEMPT};

pub(super) const SCHEMA: &str = "FlowSchema";
pub(super) const LEVEL: &str = "PriorityLevelConfiguration";
/// On an object: whether its spec is to be kept as it is here.
pub(super) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// An object that every cluster has.
pub(super) struct Preset {
    pub object: Value,
    /// Whether it cannot be changed, and counts even while it is not stored.
    pub is_mandatory: bool,
}

/// Levels come before the schemas that name them.
pub(super) fn all() -> Vec<Preset> {
    let suggested = |object| Preset { object, is_mandatory: false };
    let levels = [
        ("system", 30, 33, [64, 6]),
        ("node-high", 40, 25, [64, 6]),
        ("leader-election", 10, 0, [16, 4]),
        ("workload-high", 40, 50, [128, 6]),
        ("workload-low", 100, 90, [128, 6]),
        ("global-default", 20, 50, [128, 6]),
    ];
    let levels = levels
        .into_iter()
        .map(|(name, shares, lendable, queues)| suggested(level(name, shares, lendable, queues)));
    [mandatory(LEVEL, EXEMPT), mandatory(LEVEL, CATCH_ALL)]
        .into_iter()
        .chain(levels)
        .chain(schemas())
        .collect()
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

/// One that cannot be changed.
fn mandatory(kind: &str, name: &str) -> Preset {
    let spec = api_rules::mandatory_flow_spec(kind, name).expect("invariant: every cluster has it");
    Preset { object: object(kind, name, spec), is_mandatory: true }
}

fn level(name: &str, shares: i64, lendable: i64, [queues, hand]: [i64; 2]) -> Value {
    let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": {"type": "Queue", "queuing": queuing},
    });
    object(LEVEL, name, json!({"type": "Limited", "limited": limited}))
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

/// Accounts of namespace kube-system.
fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn everything(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn schemas() -> Vec<Preset> {
    let schema = |name: &str, level: &str, precedence: i64, distinguisher: &str, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
        });
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        Preset { object: object(SCHEMA, name, spec), is_mandatory: false }
    };
    let anyone = || groups(&["system:unauthenticated", "system:authenticated"]);
    let manager = "system:kube-controller-manager";
    let scheduler = "system:kube-scheduler";
    let mut candidates = users(&[manager, scheduler]);
    candidates.push(system_accounts());
    let nodes = || groups(&["system:nodes"]);
    let lease = "coordination.k8s.io";
    let probes = json!({
        "subjects": anyone(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let election = json!({
        "subjects": candidates,
        "resourceRules": [resources(&["get", "create", "update"], lease, &["leases"], false)],
    });
    let node_high = json!({
        "subjects": nodes(),
        "resourceRules": [
            resources(&["*"], "", &["nodes", "nodes/status"], true),
            resources(&["*"], lease, &["leases"], false),
        ],
    });
    vec![
        mandatory(SCHEMA, EXEMPT),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("system-node-high", "node-high", 400, "ByUser", node_high),
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(users(&[manager]))),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(users(&[scheduler]))),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(vec![system_accounts()]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(anyone())),
        mandatory(SCHEMA, CATCH_ALL),
    ]
}

//! Columns of access control, admission, certificates, flow control, devices and the extension kinds.

use super::cluster::three;
use super::{
    AGE, CREATED_AT, Cell, Column, KindColumns, NAME, condition, duration, first_few, is_true, number, plain,
    text, wide,
};
use crate::look::Look;
use serde_json::Value;

const ACCESS: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const SCHEDULING: &str = "scheduling.k8s.io";

pub(super) static KINDS: &[KindColumns] = &[
    (ACCESS, "Role", &[NAME, CREATED_AT]),
    (ACCESS, "ClusterRole", &[NAME, CREATED_AT]),
    (ACCESS, "RoleBinding", BINDING),
    (ACCESS, "ClusterRoleBinding", BINDING),
    ("", "LimitRange", &[NAME, CREATED_AT]),
    (
        CERTIFICATES,
        "CertificateSigningRequest",
        &[
            NAME,
            AGE,
            text("SignerName", Cell::Text("spec.signerName", "<none>")),
            text("Requestor", Cell::Text("spec.username", "")),
            text("RequestedDuration", Cell::Of(requested_duration)),
            text("Condition", Cell::Of(signing_state)),
        ],
    ),
    (
        CERTIFICATES,
        "ClusterTrustBundle",
        &[NAME, text("SignerName", Cell::Text("spec.signerName", "<none>"))],
    ),
    (
        CERTIFICATES,
        "PodCertificateRequest",
        &[
            NAME,
            text("PodName", Cell::Text("spec.podName", "")),
            text("ServiceAccountName", Cell::Text("spec.serviceAccountName", "")),
            text("NodeName", Cell::Text("spec.nodeName", "")),
            text("SignerName", Cell::Text("spec.signerName", "")),
            text(
                "State",
                Cell::Of(|o, _| last_condition(o, &["Issued", "Denied", "Failed"], "Pending", false)),
            ),
            text("UnverifiedUserAnnotations", Cell::Labels("spec.unverifiedUserAnnotations")),
        ],
    ),
    (ADMISSION, "MutatingWebhookConfiguration", WEBHOOKS),
    (ADMISSION, "ValidatingWebhookConfiguration", WEBHOOKS),
    (
        ADMISSION,
        "ValidatingAdmissionPolicy",
        &[NAME, counted("Validations", "spec.validations"), PARAM_KIND, AGE],
    ),
    (ADMISSION, "MutatingAdmissionPolicy", &[NAME, counted("Mutations", "spec.mutations"), PARAM_KIND, AGE]),
    (ADMISSION, "ValidatingAdmissionPolicyBinding", POLICY_BINDING),
    (ADMISSION, "MutatingAdmissionPolicyBinding", POLICY_BINDING),
    (
        FLOW,
        "FlowSchema",
        &[
            NAME,
            text("PriorityLevel", Cell::Text("spec.priorityLevelConfiguration.name", "")),
            text("MatchingPrecedence", Cell::Int("spec.matchingPrecedence")),
            text("DistinguisherMethod", Cell::Text("spec.distinguisherMethod.type", "<none>")),
            AGE,
            text(
                "MissingPL",
                Cell::Of(|o, _| {
                    condition(o, "status.conditions", "Dangling").map_or("?", |c| c.text("status")).into()
                }),
            ),
        ],
    ),
    (
        FLOW,
        "PriorityLevelConfiguration",
        &[
            NAME,
            text("Type", Cell::Text("spec.type", "")),
            text("NominalConcurrencyShares", Cell::Text("spec.limited.nominalConcurrencyShares", "<none>")),
            text("Queues", Cell::Text("spec.limited.limitResponse.queuing.queues", "<none>")),
            text("HandSize", Cell::Text("spec.limited.limitResponse.queuing.handSize", "<none>")),
            text(
                "QueueLengthLimit",
                Cell::Text("spec.limited.limitResponse.queuing.queueLengthLimit", "<none>"),
            ),
            AGE,
        ],
    ),
    (
        "internal.apiserver.k8s.io",
        "StorageVersion",
        &[
            NAME,
            text("CommonEncodingVersion", Cell::Text("status.commonEncodingVersion", "<unset>")),
            text("StorageVersions", Cell::Of(storage_versions)),
            AGE,
        ],
    ),
    (
        "storagemigration.k8s.io",
        "StorageVersionMigration",
        &[
            Column { format: "", ..NAME },
            text("Resource", Cell::Of(migrated)),
            text(
                "Status",
                Cell::Of(|o, _| last_condition(o, &["Running", "Failed", "Succeeded"], "Unknown", true)),
            ),
        ],
    ),
    (
        "autoscaling",
        "Scale",
        &[
            Column { format: "", ..NAME },
            number("Desired", "spec.replicas"),
            number("Available", "status.replicas"),
            AGE,
        ],
    ),
    (DEVICES, "DeviceClass", &[NAME, AGE]),
    (DEVICES, "ResourceClaim", &[NAME, text("State", Cell::Of(claim_state)), AGE]),
    (DEVICES, "ResourceClaimTemplate", &[NAME, AGE]),
    (
        DEVICES,
        "ResourceSlice",
        &[
            NAME,
            text("Node", Cell::Text("spec.nodeName", "")),
            text("Driver", Cell::Text("spec.driver", "")),
            text("Pool", Cell::Text("spec.pool.name", "")),
            AGE,
        ],
    ),
    (
        DEVICES,
        "ResourcePoolStatusRequest",
        &[
            NAME,
            text("Driver", Cell::Text("spec.driver", "")),
            text("Total", Cell::Of(|o, _| pool_sum(o, "totalDevices"))),
            text("Available", Cell::Of(|o, _| pool_sum(o, "availableDevices"))),
            text("Allocated", Cell::Of(|o, _| pool_sum(o, "allocatedDevices"))),
            text("Unavailable", Cell::Of(|o, _| pool_sum(o, "unavailableDevices"))),
            text("Errors", Cell::Of(pool_errors)),
            number("Pools", "status.poolCount"),
            text("Status", Cell::Of(pool_state)),
            text("Completed", Cell::Of(pool_completed)),
        ],
    ),
    (
        DEVICES,
        "DeviceTaintRule",
        &[
            NAME,
            text("Key", Cell::Text("spec.taint.key", "")),
            text("Value", Cell::Text("spec.taint.value", "")),
            text("Effect", Cell::Text("spec.taint.effect", "")),
            text("TimeAdded", Cell::Since("spec.taint.timeAdded", "")),
            AGE,
        ],
    ),
    (SCHEDULING, "Workload", &[NAME, AGE]),
    (SCHEDULING, "PodGroup", &[NAME, POLICY, WORKLOAD, text("Status", Cell::Of(pod_group_status)), AGE]),
    (SCHEDULING, "CompositePodGroup", &[NAME, POLICY, WORKLOAD, AGE]),
    (
        "apiregistration.k8s.io",
        "APIService",
        &[NAME, text("Service", Cell::Of(api_service)), text("Available", Cell::Of(available)), AGE],
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        &[
            NAME,
            text("Scope", Cell::Text("spec.scope", "")),
            text("Versions", Cell::Of(served_versions)),
            CREATED_AT,
            wide("Group", Cell::Text("spec.group", "")),
            wide("Kind", Cell::Text("spec.names.kind", "")),
            wide("ShortNames", Cell::Join("spec.names.shortNames", ",", "")),
            Column {
                name: "Established",
                type_: "boolean",
                format: "",
                priority: 1,
                description: "",
                cell: Cell::Of(|o, _| is_true(o, "Established").into()),
            },
        ],
    ),
];

static BINDING: &[Column] = &[
    NAME,
    text("Role", Cell::Of(|o, _| format!("{}/{}", o.text("roleRef.kind"), o.text("roleRef.name")).into())),
    AGE,
    wide("Users", Cell::Of(|o, _| subjects(o, "User"))),
    wide("Groups", Cell::Of(|o, _| subjects(o, "Group"))),
    wide("ServiceAccounts", Cell::Of(|o, _| subjects(o, "ServiceAccount"))),
];
static WEBHOOKS: &[Column] = &[NAME, counted("Webhooks", "webhooks"), AGE];
static POLICY_BINDING: &[Column] = &[
    NAME,
    text("PolicyName", Cell::Text("spec.policyName", "")),
    text("ParamRef", Cell::Of(param_ref)),
    AGE,
];
const PARAM_KIND: Column = text("ParamKind", Cell::Of(param_kind));
const POLICY: Column = text(
    "Policy",
    Cell::Of(|o, _| if o.has("spec.schedulingPolicy.gang") { "Gang" } else { "Basic" }.into()),
);
const WORKLOAD: Column = text("Workload", Cell::Text("spec.workloadRef.workloadName", "<none>"));

const fn counted(name: &'static str, path: &'static str) -> Column {
    Column { name, type_: "integer", format: "", priority: 0, description: "", cell: Cell::Count(path) }
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = binding
        .items("subjects")
        .iter()
        .filter(|s| s.text("kind") == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.text("namespace"), s.text("name")),
            _ => s.text("name").to_owned(),
        })
        .collect();
    names.join(", ").into()
}

fn requested_duration(request: &Value, _: i64) -> Value {
    match request.int_opt("spec.expirationSeconds") {
        Some(seconds) => duration::human(seconds.saturating_mul(1_000)).into(),
        None => "<none>".into(),
    }
}

fn signing_state(request: &Value, _: i64) -> Value {
    let has = |type_| condition(request, "status.conditions", type_).is_some();
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !request.text("status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    state.into()
}

/// The last condition among `types` in list order, when `must_hold` only those that are True.
fn last_condition(object: &Value, types: &[&str], none: &str, must_hold: bool) -> Value {
    let found = object
        .items("status.conditions")
        .iter()
        .rev()
        .find(|c| types.contains(&c.text("type")) && (!must_hold || c.text("status") == "True"));
    found.map_or(none, |c| c.text("type")).into()
}

fn param_kind(policy: &Value, _: i64) -> Value {
    let kind = policy.at("spec.paramKind");
    if kind.is_object() {
        format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into()
    } else {
        "<unset>".into()
    }
}

fn param_ref(binding: &Value, _: i64) -> Value {
    let reference = binding.at("spec.paramRef");
    if !reference.is_object() {
        return "<unset>".into();
    }
    match reference.text("name") {
        "" => super::selector_text(reference.at("selector")).into(),
        name => format!("{}/{name}", plain(reference.at("namespace"), "*")).into(),
    }
}

fn storage_versions(object: &Value, _: i64) -> Value {
    let all: Vec<String> = object
        .items("status.storageVersions")
        .iter()
        .map(|v| format!("{}={}", v.text("apiServerID"), v.text("encodingVersion")))
        .collect();
    three(&all)
}

fn migrated(migration: &Value, _: i64) -> Value {
    let resource = migration.at("spec.resource");
    match resource.text("group") {
        "" => resource.text("resource").into(),
        group => format!("{}.{group}", resource.text("resource")).into(),
    }
}

fn claim_state(claim: &Value, _: i64) -> Value {
    let mut states = Vec::new();
    let deleted = claim.has("metadata.deletionTimestamp");
    if deleted {
        states.push("deleted");
    }
    if claim.has("status.allocation") {
        states.push("allocated");
        if !claim.items("status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",").into()
}

fn pools(request: &Value) -> Option<&[Value]> {
    (request.has("status") && !is_true(request, "Failed")).then(|| request.items("status.pools"))
}

fn pool_sum(request: &Value, field: &str) -> Value {
    pools(request)
        .map_or_else(|| "-".into(), |p| p.iter().map(|p| p.int(field)).sum::<i64>().to_string().into())
}

fn pool_errors(request: &Value, _: i64) -> Value {
    let errors = |pools: &[Value]| pools.iter().filter(|p| p.has("validationError")).count();
    pools(request).map_or_else(|| "-".into(), |p| errors(p).to_string().into())
}

fn pool_state(request: &Value, _: i64) -> Value {
    let first = request
        .items("status.conditions")
        .iter()
        .find(|c| matches!(c.text("type"), "Complete" | "Failed") && c.text("status") == "True");
    let (shown, total) = (request.items("status.pools").len() as i64, request.int("status.poolCount"));
    match first.map(|c| c.text("type")) {
        Some("Complete") if shown < total => format!("Complete ({shown}/{total} pools)").into(),
        Some(state) => state.into(),
        None => "Pending".into(),
    }
}

fn pool_completed(request: &Value, now: i64) -> Value {
    let done = condition(request, "status.conditions", "Complete").filter(|c| c.text("status") == "True");
    done.map_or_else(|| "<none>".into(), |c| duration::since(c.text("lastTransitionTime"), now, "<none>"))
        .into()
}

fn pod_group_status(group: &Value, _: i64) -> Value {
    if let Some(target) = condition(group, "status.conditions", "DisruptionTarget") {
        return target.text("reason").into();
    }
    match condition(group, "status.conditions", "PodGroupInitiallyScheduled").map(|c| c.text("status")) {
        Some("True") => "Scheduled".into(),
        Some(_) => "Unschedulable".into(),
        None => "Pending".into(),
    }
}

fn api_service(object: &Value, _: i64) -> Value {
    let service = object.at("spec.service");
    if service.is_object() {
        format!("{}/{}", service.text("namespace"), service.text("name")).into()
    } else {
        "Local".into()
    }
}

fn available(object: &Value, _: i64) -> Value {
    let Some(state) = condition(object, "status.conditions", "Available") else { return "Unknown".into() };
    match (state.text("status"), state.text("reason")) {
        ("True", _) => "True".into(),
        (status, "") => status.into(),
        (status, reason) => format!("{status} ({reason})").into(),
    }
}

fn served_versions(crd: &Value, _: i64) -> Value {
    let mut all: Vec<String> = crd
        .items("spec.versions")
        .iter()
        .filter(|v| v.flag("served"))
        .map(|v| {
            if v.flag("storage") { format!("{}(storage)", v.text("name")) } else { v.text("name").to_owned() }
        })
        .collect();
    all.sort_unstable();
    first_few(&all, usize::MAX, ",").into()
}

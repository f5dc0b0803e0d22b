//! Columns of the objects that describe the cluster: nodes, namespaces, configuration, storage, events, leases.

use super::{
    AGE, CREATED_AT, Cell, Column, KindColumns, NAME, condition, duration, first_few, number, plain, text,
    wide,
};
use crate::look::Look;
use serde_json::Value;

pub(super) static KINDS: &[KindColumns] = &[
    (
        "",
        "Node",
        &[
            NAME,
            text("Status", Cell::Of(node_status)),
            text("Roles", Cell::Of(node_roles)),
            AGE,
            text("Version", Cell::Text("status.nodeInfo.kubeletVersion", "")),
            wide("Internal-IP", Cell::Of(|o, _| address(o, "InternalIP"))),
            wide("External-IP", Cell::Of(|o, _| address(o, "ExternalIP"))),
            wide("OS-Image", Cell::Text("status.nodeInfo.osImage", "<unknown>")),
            wide("Kernel-Version", Cell::Of(kernel)),
            wide("Container-Runtime", Cell::Text("status.nodeInfo.containerRuntimeVersion", "<unknown>")),
        ],
    ),
    ("", "Namespace", &[NAME, text("Status", Cell::Text("status.phase", "")), AGE]),
    ("", "Secret", &[NAME, text("Type", Cell::Text("type", "")), text("Data", Cell::Count("data")), AGE]),
    ("", "ConfigMap", &[NAME, text("Data", Cell::Of(config_data)), AGE]),
    ("", "ServiceAccount", &[NAME, AGE]),
    (
        "",
        "ResourceQuota",
        &[
            NAME,
            text("Request", Cell::Of(|o, _| quota(o, false))),
            text("Limit", Cell::Of(|o, _| quota(o, true))),
            AGE,
        ],
    ),
    (
        "",
        "ComponentStatus",
        &[
            NAME,
            text("Status", Cell::Of(component_status)),
            text("Message", Cell::Of(|o, _| component(o, "message"))),
            text("Error", Cell::Of(|o, _| component(o, "error"))),
        ],
    ),
    ("", "Event", EVENT),
    ("events.k8s.io", "Event", EVENT),
    (
        "",
        "PersistentVolume",
        &[
            NAME,
            text("Capacity", Cell::Text("spec.capacity.storage", "0")),
            text("Access Modes", Cell::Of(|o, _| access_modes(o.items("spec.accessModes")))),
            text("Reclaim Policy", Cell::Text("spec.persistentVolumeReclaimPolicy", "")),
            text("Status", Cell::Of(phase)),
            text("Claim", Cell::Of(claim)),
            text("StorageClass", Cell::Of(storage_class)),
            text("VolumeAttributesClass", Cell::Text("spec.volumeAttributesClassName", "<unset>")),
            text("Reason", Cell::Text("status.reason", "")),
            AGE,
            wide("VolumeMode", Cell::Text("spec.volumeMode", "<unset>")),
        ],
    ),
    (
        "",
        "PersistentVolumeClaim",
        &[
            NAME,
            text("Status", Cell::Of(phase)),
            text("Volume", Cell::Text("spec.volumeName", "")),
            text(
                "Capacity",
                Cell::Of(|o, _| bound(o, || plain(o.at("status.capacity.storage"), "0").into())),
            ),
            text("Access Modes", Cell::Of(|o, _| bound(o, || access_modes(o.items("status.accessModes"))))),
            text("StorageClass", Cell::Of(storage_class)),
            text("VolumeAttributesClass", Cell::Text("spec.volumeAttributesClassName", "<unset>")),
            AGE,
            wide("VolumeMode", Cell::Text("spec.volumeMode", "<unset>")),
        ],
    ),
    (
        "storage.k8s.io",
        "StorageClass",
        &[
            NAME,
            text("Provisioner", Cell::Text("provisioner", "")),
            text("ReclaimPolicy", Cell::Text("reclaimPolicy", "Delete")),
            text("VolumeBindingMode", Cell::Text("volumeBindingMode", "Immediate")),
            text("AllowVolumeExpansion", Cell::Bool("allowVolumeExpansion", false)),
            AGE,
        ],
    ),
    (
        "storage.k8s.io",
        "VolumeAttributesClass",
        &[NAME, text("DriverName", Cell::Text("driverName", "")), AGE],
    ),
    (
        "storage.k8s.io",
        "VolumeAttachment",
        &[
            NAME,
            Column {
                name: "Attacher",
                type_: "string",
                format: "name",
                priority: 0,
                description: "",
                cell: Cell::Text("spec.attacher", ""),
            },
            text("PV", Cell::Text("spec.source.persistentVolumeName", "")),
            text("Node", Cell::Text("spec.nodeName", "")),
            boolean("Attached", Cell::Bool("status.attached", false)),
            AGE,
        ],
    ),
    (
        "storage.k8s.io",
        "CSINode",
        &[
            NAME,
            Column {
                name: "Drivers",
                type_: "integer",
                format: "",
                priority: 0,
                description: "",
                cell: Cell::Count("spec.drivers"),
            },
            AGE,
        ],
    ),
    (
        "storage.k8s.io",
        "CSIDriver",
        &[
            NAME,
            boolean("AttachRequired", Cell::Bool("spec.attachRequired", true)),
            boolean("PodInfoOnMount", Cell::Bool("spec.podInfoOnMount", false)),
            boolean("StorageCapacity", Cell::Bool("spec.storageCapacity", false)),
            text("TokenRequests", Cell::Of(token_requests)),
            boolean("RequiresRepublish", Cell::Bool("spec.requiresRepublish", false)),
            text("Modes", Cell::Join("spec.volumeLifecycleModes", ",", "<none>")),
            AGE,
        ],
    ),
    ("storage.k8s.io", "CSIStorageCapacity", &[NAME, CREATED_AT]),
    ("coordination.k8s.io", "Lease", &[NAME, text("Holder", Cell::Text("spec.holderIdentity", "")), AGE]),
    (
        "coordination.k8s.io",
        "LeaseCandidate",
        &[
            NAME,
            text("LeaseName", Cell::Text("spec.leaseName", "")),
            text("BinaryVersion", Cell::Text("spec.binaryVersion", "")),
            text("EmulationVersion", Cell::Text("spec.emulationVersion", "")),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "IngressClass",
        &[
            Column { cell: Cell::Of(ingress_class_name), ..NAME },
            text("Controller", Cell::Text("spec.controller", "")),
            text("Parameters", Cell::Of(ingress_class_parameters)),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        &[NAME, text("Pod-Selector", Cell::Selector("spec.podSelector", "<none>")), AGE],
    ),
    ("networking.k8s.io", "ServiceCIDR", &[NAME, text("CIDRs", Cell::Join("spec.cidrs", ",", "")), AGE]),
    ("networking.k8s.io", "IPAddress", &[NAME, text("ParentRef", Cell::Of(parent_ref))]),
    ("node.k8s.io", "RuntimeClass", &[NAME, text("Handler", Cell::Text("handler", "")), AGE]),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        &[
            NAME,
            number("Value", "value"),
            boolean("Global-Default", Cell::Bool("globalDefault", false)),
            AGE,
            text("PreemptionPolicy", Cell::Text("preemptionPolicy", "")),
        ],
    ),
];

static EVENT: &[Column] = &[
    text("Last Seen", Cell::Of(last_seen)),
    text("Type", Cell::Text("type", "")),
    text("Reason", Cell::Text("reason", "")),
    text("Object", Cell::Of(event_object)),
    wide(
        "Subobject",
        Cell::Of(|o, _| event_field(o, "involvedObject.fieldPath", "regarding.fieldPath").into()),
    ),
    wide("Source", Cell::Of(event_source)),
    text("Message", Cell::Of(|o, _| event_field(o, "message", "note").trim().into())),
    wide("First Seen", Cell::Of(|o, now| first_seen(o, now).into())),
    wide("Count", Cell::Of(event_count)),
    Column { name: "Name", type_: "string", format: "name", priority: 1, description: "", cell: Cell::Name },
];

const fn boolean(name: &'static str, cell: Cell) -> Column {
    Column { name, type_: "boolean", format: "", priority: 0, description: "", cell }
}

fn node_status(node: &Value, _: i64) -> Value {
    let mut status = match condition(node, "status.conditions", "Ready").map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_roles(node: &Value, _: i64) -> Value {
    let mut roles: Vec<&str> = node
        .entries("metadata.labels")
        .filter_map(|(key, value)| match key {
            "kubernetes.io/role" => value.as_str(),
            _ => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    super::or(roles.join(","), "<none>").into()
}

fn address(node: &Value, type_: &str) -> Value {
    let found = condition(node, "status.addresses", type_);
    found.map_or("<none>", |a| a.text("address")).into()
}

fn kernel(node: &Value, _: i64) -> Value {
    let version = plain(node.at("status.nodeInfo.kernelVersion"), "<unknown>");
    match node.text("status.nodeInfo.architecture") {
        "" => version.into(),
        architecture => format!("{version} ({architecture})").into(),
    }
}

fn config_data(map: &Value, _: i64) -> Value {
    (map.entries("data").count() + map.entries("binaryData").count()).into()
}

fn quota(object: &Value, limits: bool) -> Value {
    let mut rows: Vec<String> = object
        .entries("status.hard")
        .filter(|(key, _)| (key.split('.').next() == Some("limits")) == limits)
        .map(|(key, hard)| {
            let used = object.at("status.used").key(key);
            format!("{key}: {}/{}", plain(used, "0"), plain(hard, "0"))
        })
        .collect();
    rows.sort_unstable();
    rows.join(", ").into()
}

fn component_status(object: &Value, _: i64) -> Value {
    match condition(object, "conditions", "Healthy").map(|c| c.text("status")) {
        Some("True") => "Healthy".into(),
        Some(_) => "Unhealthy".into(),
        None => "Unknown".into(),
    }
}

fn component(object: &Value, field: &str) -> Value {
    condition(object, "conditions", "Healthy").map_or("", |c| c.text(field)).into()
}

/// A field under its core v1 name, else under its events.k8s.io name.
fn event_field<'a>(event: &'a Value, core: &str, newer: &str) -> &'a str {
    let text = event.text(core);
    if text.is_empty() { event.text(newer) } else { text }
}

fn first_seen(event: &Value, now: i64) -> String {
    let first = event_field(event, "firstTimestamp", "deprecatedFirstTimestamp");
    let time = if first.is_empty() { event.text("eventTime") } else { first };
    duration::since(time, now, "<unknown>")
}

fn last_seen(event: &Value, now: i64) -> Value {
    let last = event_field(event, "lastTimestamp", "deprecatedLastTimestamp");
    if event.has("series") {
        duration::since(event.text("series.lastObservedTime"), now, "<unknown>").into()
    } else if !last.is_empty() {
        duration::since(last, now, "<unknown>").into()
    } else {
        first_seen(event, now).into()
    }
}

fn event_object(event: &Value, _: i64) -> Value {
    let kind = event_field(event, "involvedObject.kind", "regarding.kind").to_lowercase();
    match event_field(event, "involvedObject.name", "regarding.name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn event_source(event: &Value, _: i64) -> Value {
    let mut component = event_field(event, "source.component", "deprecatedSource.component");
    if component.is_empty() {
        component = event_field(event, "reportingComponent", "reportingController");
    }
    let mut host = event_field(event, "source.host", "deprecatedSource.host");
    if host.is_empty() {
        host = event.text("reportingInstance");
    }
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}

fn event_count(event: &Value, _: i64) -> Value {
    if event.has("series") {
        return event.int("series.count").into();
    }
    event.int("count").max(event.int("deprecatedCount")).max(1).into()
}

fn access_modes(modes: &[Value]) -> Value {
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let short: Vec<&str> =
        all.iter().filter(|(long, _)| modes.iter().any(|m| m == long)).map(|(_, s)| *s).collect();
    short.join(",").into()
}

fn phase(object: &Value, _: i64) -> Value {
    if object.has("metadata.deletionTimestamp") {
        "Terminating".into()
    } else {
        object.text("status.phase").into()
    }
}

fn claim(volume: &Value, _: i64) -> Value {
    let claim = volume.at("spec.claimRef");
    if claim.is_object() {
        format!("{}/{}", claim.text("namespace"), claim.text("name")).into()
    } else {
        "".into()
    }
}

fn storage_class(object: &Value, _: i64) -> Value {
    match object.at("metadata.annotations").key("volume.beta.kubernetes.io/storage-class").as_str() {
        Some(class) => class.into(),
        None => object.text("spec.storageClassName").into(),
    }
}

fn bound(claim: &Value, cell: impl FnOnce() -> Value) -> Value {
    if claim.text("spec.volumeName").is_empty() { "".into() } else { cell() }
}

fn token_requests(driver: &Value, _: i64) -> Value {
    if driver.has("spec.tokenRequests") {
        super::each(driver.items("spec.tokenRequests"), "audience").into()
    } else {
        "<unset>".into()
    }
}

fn ingress_class_name(class: &Value, _: i64) -> Value {
    let name = class.text("metadata.name");
    let default = class.at("metadata.annotations").key("ingressclass.kubernetes.io/is-default-class");
    if default == "true" { format!("{name} (default)").into() } else { name.into() }
}

fn ingress_class_parameters(class: &Value, _: i64) -> Value {
    let parameters = class.at("spec.parameters");
    if !parameters.is_object() {
        return "<none>".into();
    }
    let (kind, name) = (parameters.text("kind"), parameters.text("name"));
    match parameters.text("apiGroup") {
        "" => format!("{kind}/{name}").into(),
        group => format!("{kind}.{group}/{name}").into(),
    }
}

fn parent_ref(address: &Value, _: i64) -> Value {
    let parent = address.at("spec.parentRef");
    if !parent.is_object() {
        return "<none>".into();
    }
    let mut kind = parent.text("resource").to_owned();
    if !parent.text("group").is_empty() {
        kind = format!("{kind}.{}", parent.text("group"));
    }
    let steps = [kind.to_lowercase(), parent.text("namespace").to_owned(), parent.text("name").to_owned()];
    steps.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/").into()
}

/// The first three of a list, `<unset>` when empty.
pub(super) fn three(all: &[String]) -> Value {
    super::or(first_few(all, 3, ","), "<unset>").into()
}

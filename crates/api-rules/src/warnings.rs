//! Texts of `Warning` headers: fields that are deprecated, ignored or likely mistakes (upstream: `pkg/api/*/warnings.go`).

use crate::custom::{is_known_format, schemas};
use crate::errors::At;
use crate::look::{Look, quantity};
use crate::strategy::group_of;
use crate::{format, look};
use api_types::Resource;
use api_types::field::quote;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Node labels with their replacements.
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const OLD_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";

/// The release that these rules are of.
const RELEASE: (u32, u32) = (1, 37);

/// That a kind is deprecated in one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// The text of the warning that every request gets.
    pub warning: String,
    /// The release without it, as in `1.39`; empty where that is not known.
    pub removed: &'static str,
}

/// Whether a kind is deprecated in this version.
pub fn deprecation(resource: &Resource) -> Option<Deprecation> {
    let (since, removed, instead) = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "ComponentStatus") => ("1.19", "", ""),
        ("", "Endpoints") => ("1.33", "", "discovery.k8s.io/v1 EndpointSlice"),
        _ => (resource.deprecated, resource.removed, ""),
    };
    release(since).filter(|since| *since <= RELEASE)?;
    let mut text = format!("{} {} is deprecated in v{since}+", resource.api_version(), resource.kind);
    if !removed.is_empty() {
        text.push_str(&format!(", unavailable in v{removed}+"));
    }
    if !instead.is_empty() {
        text.push_str(&format!("; use {instead}"));
    }
    Some(Deprecation { warning: text, removed })
}

fn release(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The warnings of a new object (`old` absent) or an update.
pub(crate) fn of(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = finalizers(new);
    if old.is_none() {
        out.extend(owner_name(new));
    }
    match (group_of(new), new.text("kind")) {
        ("", "Pod") => {
            if old.is_none() {
                out.extend(host_name(new));
            }
            out.extend(pod(new, At::root("")));
        }
        ("", "Service") => out.extend(service(new)),
        ("", "PodTemplate") => out.extend(pod(new.at("template"), At::root("template"))),
        ("", "ReplicationController") | ("apps", _) | ("batch", "Job")
            if new.at("spec.template").is_object() =>
        {
            let changed = old.is_none_or(|o| o.int("metadata.generation") != new.int("metadata.generation"));
            if changed {
                out.extend(pod(new.at("spec.template"), At::root("spec.template")));
            }
        }
        ("batch", "CronJob") => {
            let at = At::root("spec.jobTemplate.spec.template");
            out.extend(pod(new.at("spec.jobTemplate.spec.template"), at));
        }
        ("", "Node") => out.extend(node(new)),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => out.extend(definition(new, old)),
        ("networking.k8s.io", "Ingress") if old.is_none() => out.extend(ingress(new)),
        ("resource.k8s.io", "ResourceSlice") => out.extend(driver(new)),
        ("storage.k8s.io", "CSIDriver") => out.extend(csi_driver(new, old)),
        ("storage.k8s.io", "CSIStorageCapacity") => {
            out.extend(node_selector(new.at("nodeTopology"), At::root("nodeTopology")));
        }
        ("storage.k8s.io", "StorageClass") => out.extend(storage_class(new)),
        _ => {}
    }
    out
}

/// What the schemas of a definition say in vain, if they did not say it before.
fn definition(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map(in_vain).unwrap_or_default();
    let (formats, sets) = in_vain(new);
    let formats = formats.into_iter().filter(|text| !known.0.contains(text));
    formats.chain(sets.into_iter().filter(|text| !known.1.contains(text))).collect()
}

/// Formats that nobody knows, in the order of the schemas, and sets of what is no scalar.
fn in_vain(definition: &Value) -> (Vec<String>, BTreeSet<String>) {
    let (mut formats, mut sets) = (Vec::new(), BTreeSet::new());
    for version in definition.items("spec.versions") {
        schemas::visit(version.at("schema.openAPIV3Schema"), &mut |schema| {
            let (kind, form) = (schema.text("type"), schema.text("format"));
            let text = format!("unrecognized format {}", quote(form));
            if !form.is_empty() && !is_known_format(kind, form) && !formats.contains(&text) {
                formats.push(text);
            }
            let kind = schema.text("items.type");
            if schema.text("x-kubernetes-list-type") == "set" && matches!(kind, "object" | "array") {
                sets.insert(format!(
                    "x-kubernetes-list-type: set for items of type \"{kind}\" is not supported by server-side apply or CEL validation rules"
                ));
            }
        });
    }
    (formats, sets)
}

/// A pod name that is no host name, and finalizers without a path.
fn finalizers(object: &Value) -> Vec<String> {
    let standard = ["orphan", "foregroundDeletion", "kubernetes"];
    let names = object.texts("metadata.finalizers");
    names
        .filter(|n| !n.contains('/') && !standard.contains(n))
        .map(|n| {
            format!(
                "metadata.finalizers: {}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
                quote(n)
            )
        })
        .collect()
}

/// Names of objects that pods are named after.
fn owner_name(object: &Value) -> Option<String> {
    let kinds = ["Deployment", "ReplicaSet", "ReplicationController", "Job", "CronJob"];
    let problems = format::dns1123_label(object.text("metadata.name"));
    (kinds.contains(&object.text("kind")) && object.has("metadata.name") && !problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

fn ingress(ingress: &Value) -> Option<String> {
    let class = ingress.at("metadata.annotations").key("kubernetes.io/ingress.class");
    class.is_string().then(|| {
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead".to_owned()
    })
}

fn driver(slice: &Value) -> Option<String> {
    let driver = slice.text("spec.driver");
    (driver != driver.to_lowercase()).then(|| {
        let shown = quote(driver);
        format!("spec.driver: driver names should be lowercase; {shown} contains uppercase characters")
    })
}

/// Tokens that a driver gets where they may be logged.
fn csi_driver(driver: &Value, old: Option<&Value>) -> Option<String> {
    let requests = driver.at("spec.tokenRequests");
    let changed = old.is_none_or(|old| !look::same(requests, old.at("spec.tokenRequests")));
    let unset = !driver.has("spec.serviceAccountTokenInSecrets");
    (changed && unset && !driver.items("spec.tokenRequests").is_empty()).then(|| {
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()
    })
}

/// Labels of nodes that have others in their place, in a label selector.
fn node_selector(selector: &Value, at: At<'_>) -> Vec<String> {
    let list = at.at("matchExpressions");
    let mut out = Vec::new();
    for (i, expression) in selector.items("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        let text = old_node_label(key);
        out.extend(text.map(|text| format!("{}: {key} is {text}", list.index(i).at("key"))));
    }
    for (key, _) in selector.entries("matchLabels") {
        let labels = at.at("matchLabels");
        out.extend(old_node_label(key).map(|text| format!("{}: {text}", labels.at(key))));
    }
    out
}

fn storage_class(class: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let list = At::root("allowedTopologies");
    for (i, term) in class.items("allowedTopologies").iter().enumerate() {
        let at = list.index(i);
        let expressions = at.at("matchLabelExpressions");
        for (j, expression) in term.items("matchLabelExpressions").iter().enumerate() {
            let text = old_node_label(expression.text("key"));
            out.extend(text.map(|text| format!("{}: {text}", expressions.index(j).at("key"))));
        }
    }
    out
}

fn host_name(pod: &Value) -> Option<String> {
    let problems = format::dns1123_label(pod.text("metadata.name"));
    (!problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

fn old_node_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

fn node(node: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if node.has("spec.configSource") {
        out.push("spec.configSource: the DynamicKubeletConfig feature was removed".into());
    }
    if !node.text("spec.externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
    }
    out
}

/// Warnings of a pod or a template; `at` is empty for a pod.
fn pod(pod: &Value, at: At<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let spec_at = at.at("spec");
    let spec = pod.at("spec");
    node_labels(spec, spec_at, &mut out);
    annotations(pod, at, &mut out);
    volumes(spec, spec_at, &mut out);
    duplicates(spec, spec_at, &mut out);
    for list in ["initContainers", "containers"] {
        let list_at = spec_at.at(list);
        for (i, container) in spec.items(list).iter().enumerate() {
            container_warnings(container, list_at.index(i), &mut out);
        }
    }
    ports(spec, spec_at, &mut out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        let at = spec_at.at("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    null_selectors(spec, spec_at, &mut out);
    out
}

fn node_labels(spec: &Value, at: At<'_>, out: &mut Vec<String>) {
    let selector = at.at("nodeSelector");
    for (key, _) in spec.entries("nodeSelector") {
        out.extend(old_node_label(key).map(|text| format!("{}: {text}", selector.key(key))));
    }
    let affinity = at.at("affinity.nodeAffinity");
    let node = spec.at("affinity.nodeAffinity");
    let required = affinity.at("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    for (i, term) in
        node.items("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms").iter().enumerate()
    {
        term_labels(term, required.index(i), out);
    }
    let preferred = affinity.at("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in node.items("preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        term_labels(term.at("preference"), preferred.index(i).at("preference"), out);
    }
    let spread = at.at("topologySpreadConstraints");
    for (i, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let key = constraint.text("topologyKey");
        if let Some(text) = old_node_label(key) {
            out.push(format!("{}: {key} is {text}", spread.index(i).at("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            let at = spread.index(i);
            out.push(format!("{}: a null labelSelector results in matching no pod", at.at("labelSelector")));
        }
    }
}

fn term_labels(term: &Value, at: At<'_>, out: &mut Vec<String>) {
    let list = at.at("matchExpressions");
    for (i, expression) in term.items("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        let at = list.index(i);
        out.extend(old_node_label(key).map(|text| format!("{}: {key} is {text}", at.at("key"))));
    }
}

fn annotations(pod: &Value, at: At<'_>, out: &mut Vec<String>) {
    let annotations = pod.at("metadata.annotations");
    let list = at.at("metadata.annotations");
    for (key, text) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotations.key(key).is_string()) {
        out.push(format!("{}: {text}", list.key(key)));
    }
    if annotations.key(SECCOMP_POD).is_string() && !pod.has("spec.securityContext.seccompProfile") {
        let text = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
        out.push(format!("{}: {text}", list.key(SECCOMP_POD)));
    }
}

fn volumes(spec: &Value, at: At<'_>, out: &mut Vec<String>) {
    let list = at.at("volumes");
    for (i, volume) in spec.items("volumes").iter().enumerate() {
        let at = list.index(i);
        for (_, shown, text) in OLD_VOLUMES.iter().filter(|(field, ..)| volume.has(field)) {
            out.push(format!("{}: {text}", at.at(shown)));
        }
    }
}

fn duplicates(spec: &Value, at: At<'_>, out: &mut Vec<String>) {
    for (field, key, word) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let all = spec.items(field);
        let list = at.at(field);
        for (i, item) in all.iter().enumerate() {
            let value = item.text(key);
            if all[..i].iter().any(|other| other.text(key) == value) {
                out.push(format!("{}: duplicate {word} {}", list.index(i).at(key), quote(value)));
            }
        }
    }
    let list = at.at("imagePullSecrets");
    for (i, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", list.index(i).at("name")));
        }
    }
}

fn container_warnings(container: &Value, at: At<'_>, out: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        for field in ["limits", "requests"] {
            let resources = at.at("resources");
            let at = resources.at(field);
            let amount = quantity(container.at("resources").at(field).key(resource));
            if let Some(amount) = amount.filter(|q| q.milli_value() % 1000 != 0) {
                let shown = quote(&amount.to_string());
                out.push(format!(
                    "{}: fractional byte value {shown} is invalid, must be an integer",
                    at.key(resource)
                ));
            }
        }
    }
    let list = at.at("env");
    let all = container.items("env");
    for (i, variable) in all.iter().enumerate() {
        let name = variable.text("name");
        let again = all[..i].iter().any(|v| v.text("name") == name);
        let own = format!("$({name})");
        let value = variable.text("value");
        let builds_on = !variable.has("valueFrom") && value.contains(&own) && value != own;
        if again && !builds_on {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                list.index(i),
                quote(name)
            ));
        }
    }
}

/// A port of a container with where it stands.
struct Port<'a> {
    path: String,
    port: &'a Value,
}

fn ports(spec: &Value, at: At<'_>, out: &mut Vec<String>) {
    let mut seen: HashMap<(i64, &str), Vec<Port<'_>>> = HashMap::new();
    for list in ["initContainers", "containers"] {
        let list_at = at.at(list);
        for (i, container) in spec.items(list).iter().enumerate() {
            let container_at = list_at.index(i);
            let ports_at = container_at.at("ports");
            for (j, port) in container.items("ports").iter().enumerate() {
                let path = ports_at.index(j).to_string();
                let others = seen.entry((port.int("containerPort"), port.text("protocol"))).or_default();
                out.extend(others.iter().filter_map(|other| clash(&path, port, other)));
                others.push(Port { path, port });
            }
        }
    }
}

fn clash(path: &str, port: &Value, other: &Port<'_>) -> Option<String> {
    let (ip, other_ip) = (port.text("hostIP"), other.port.text("hostIP"));
    let (host, other_host) = (port.int("hostPort"), other.port.int("hostPort"));
    let word = if ip == other_ip && host == other_host {
        "duplicate"
    } else if host == 0 || other_host == 0 {
        "overlapping"
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{path}: {word} port definition with {}", other.path))
}

fn null_selectors(spec: &Value, at: At<'_>, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = at.at("affinity");
        let kind_at = affinity.at(kind);
        for (field, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            let list = kind_at.at(field);
            for (i, term) in spec.at("affinity").at(kind).items(field).iter().enumerate() {
                if !term.at(inner).has("labelSelector") {
                    let at = list.index(i);
                    let at = if inner.is_empty() { at } else { at.at(inner) };
                    out.push(format!(
                        "{}: a null labelSelector results in matching no pod",
                        at.at("labelSelector")
                    ));
                }
            }
        }
    }
}

fn service(service: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let spec = service.at("spec");
    let kind = spec.text("type");
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    let external = !spec.items("externalIPs").is_empty();
    if service.at("metadata.annotations").key("service.kubernetes.io/topology-aware-hints").is_string() {
        out.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".into());
    }
    if headless {
        if !spec.text("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".into());
        }
        if external {
            out.push("spec.externalIPs is ignored for headless services".into());
        }
        if spec.text("sessionAffinity") != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".into());
        }
    }
    if external && !headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if kind == "ExternalName" && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !look::is_zero(spec.at("externalName")) {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a.b", "finalizers": ["x"]}, "spec": {
        "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "containers": [
            {"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"}],
             "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {"limits": {"memory": "100m"}}},
            {"name": "d", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
        ]}});
        let found = of(&pod, None);
        assert_eq!(
            found[0],
            "metadata.finalizers: \"x\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        );
        assert!(
            found[1].starts_with("metadata.name: this is used in the Pod's hostname, which can"),
            "{found:?}"
        );
        assert_eq!(
            &found[2..],
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }

    #[test]
    fn names_that_pods_get() {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a.b"}});
        assert!(of(&job, None)[0].starts_with("metadata.name: this is used in Pod names and hostnames"));
        assert!(of(&job, Some(&job)).is_empty());
    }

    #[test]
    fn deprecated_versions() {
        let of = |group: &str, version: &str, resource: &str| {
            deprecation(api_types::table::find(group, version, resource)?)
        };
        let said = |warning: &str, removed| Some(Deprecation { warning: warning.to_owned(), removed });
        assert_eq!(
            of("", "v1", "endpoints"),
            said("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice", "")
        );
        assert_eq!(
            of("resource.k8s.io", "v1beta2", "deviceclasses"),
            said(
                "resource.k8s.io/v1beta2 DeviceClass is deprecated in v1.36+, unavailable in v1.39+",
                "1.39"
            )
        );
        assert_eq!(of("apps", "v1", "deployments"), None);
        assert_eq!(of("scheduling.k8s.io", "v1beta1", "workloads"), None, "only from 1.40 on");
    }

    #[test]
    fn templates_and_services() {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"volumes": [{"name": "v", "gitRepo": {}}]}}}});
        assert_eq!(of(&deployment, None), ["spec.template.spec.volumes[0].gitRepo: deprecated in v1.11"]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "ClusterIP", "externalName": "x"}});
        assert_eq!(
            of(&service, None),
            ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
        );
    }
}

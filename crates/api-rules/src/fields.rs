//! Labels that field selectors may name, and their values (upstream: `conversion.go` and `strategy.go` of each kind).

use crate::look::Look;
use crate::strategy::group_of;
use serde_json::Value;

/// What every kind has.
pub const METADATA: &[&str] = &["metadata.name", "metadata.namespace"];
const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.host",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "metadata.name",
    "metadata.namespace",
];
const MODERN_EVENT: &[&str] = &[
    "reason",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reportingController",
    "type",
    "metadata.name",
    "metadata.namespace",
];

/// The labels of a kind.
pub fn labels(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => POD,
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "ReplicationController") => &["metadata.name", "metadata.namespace", "status.replicas"],
        ("", "Namespace") => &["metadata.name", "status.phase"],
        ("", "Secret") => &["metadata.name", "metadata.namespace", "type"],
        ("", "Service") => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        ("", "Event") => EVENT,
        ("events.k8s.io", "Event") => MODERN_EVENT,
        ("batch", "Job") => &["metadata.name", "metadata.namespace", "status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest" | "ClusterTrustBundle") => {
            &["metadata.name", "spec.signerName"]
        }
        ("certificates.k8s.io", "PodCertificateRequest") => {
            &["metadata.name", "spec.signerName", "spec.podName", "spec.nodeName"]
        }
        ("resource.k8s.io", "ResourceSlice") => {
            &["metadata.name", "spec.nodeName", "spec.driver", "spec.pool.name"]
        }
        _ => METADATA,
    }
}

/// The value a selector compares; `None` when the kind has no such label.
pub fn value(object: &Value, label: &str) -> Option<String> {
    let (group, kind) = (group_of(object), object.text("kind"));
    if !labels(group, kind).contains(&label) {
        return None;
    }
    Some(match (kind, label) {
        ("Pod", "spec.host") => object.text("spec.nodeName").to_owned(),
        ("Pod", "spec.hostNetwork") => object.flag("spec.hostNetwork").to_string(),
        ("Pod", "status.podIP") => {
            object.items("status.podIPs").first().map(|ip| ip.text("ip").to_owned()).unwrap_or_default()
        }
        ("Pod", "status.podIPs") => String::new(),
        ("Node", "spec.unschedulable") => object.flag("spec.unschedulable").to_string(),
        ("ReplicationController", _) if label == "status.replicas" => object.int(label).to_string(),
        ("Job", "status.successful") => object.int("status.succeeded").to_string(),
        ("Event", "source") => {
            let component = object.text("source.component");
            if component.is_empty() { object.text("reportingComponent") } else { component }.to_owned()
        }
        _ => object.text(label).to_owned(),
    })
}

/// The 400 answer for a label that the kind does not have.
pub fn unsupported(api_version: &str, group: &str, kind: &str, label: &str) -> String {
    match (group, kind) {
        ("batch", "Job") => format!("field label \"{label}\" not supported for Job"),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {api_version}, Kind=ResourceSlice: {label}")
        }
        _ if std::ptr::eq(labels(group, kind), METADATA) => {
            format!(
                "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        }
        _ => format!("field label not supported: {label}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_pods_and_jobs() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "podIPs": [{"ip": "1.2.3.4"}]}});
        for (label, want) in [
            ("spec.nodeName", Some("n")),
            ("spec.host", Some("n")),
            ("status.podIP", Some("1.2.3.4")),
            ("spec.hostNetwork", Some("false")),
            ("status.nominatedNodeName", Some("")),
            ("spec.replicas", None),
        ] {
            assert_eq!(value(&pod, label).as_deref(), want, "{label}");
        }
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "status": {"succeeded": 2}});
        assert_eq!(value(&job, "status.successful").as_deref(), Some("2"));
    }

    #[test]
    fn refusals_differ_by_kind() {
        assert_eq!(unsupported("v1", "", "Pod", "x"), "field label not supported: x");
        assert_eq!(
            unsupported("apps/v1", "apps", "ReplicaSet", "status.replicas"),
            "\"status.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}

//! PodTolerationRestriction: a pod tolerates what its namespace, or the cluster, says every pod does, and nothing that is
//! not among what pods there may tolerate.

use std::sync::Arc;

use api_rules::look::Look;
use api_rules::{qos, validate_tolerations};
use api_types::status::Status;
use api_types::{Value, codec, meta, schema};
use serde_json::json;

use super::lookup::{self, NAMESPACES};
use super::runtime_class::{covers, merge};
use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::config_file;

const GROUP: &str = "podtolerationrestriction.admission.k8s.io";
/// On a namespace: what each of its new pods tolerates besides.
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
/// On a namespace: what its pods may tolerate.
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, pod| match is_meant(attributes) {
        true => Some(Box::pin(admit(api, attributes, pod))),
        false => None,
    }),
    check: Check::Waits(|api, attributes, pod| match is_meant(attributes) {
        true => Some(Box::pin(check(api, attributes, pod))),
        false => None,
    }),
};

/// What counts for namespaces that say nothing.
#[derive(Default)]
pub(super) struct Cluster {
    defaults: Vec<Value>,
    allowed: Vec<Value>,
}

impl Cluster {
    /// Reads the plugin's configuration.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn read(document: Option<&Value>) -> Result<Self, String> {
        let Some(document) = document else { return Ok(Self::default()) };
        config_file::check_kind(document, GROUP, "Configuration", &["v1alpha1"])?;
        let list = |name: &str| tolerations(document.at(name));
        let cluster = Self { defaults: list("default")?, allowed: list("whitelist")? };
        let mut faults = validate_tolerations(&cluster.defaults, "podtolerationrestriction.default");
        faults.extend(validate_tolerations(&cluster.allowed, "podtolerationrestriction.whitelist"));
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(format!("invalid config: [{}]", faults.join(" ")));
        }
        Ok(cluster)
    }
}

fn is_meant(attributes: &Attributes<'_>) -> bool {
    attributes.is("", "pods") && matches!(attributes.operation, Operation::Create | Operation::Update)
}

async fn namespace(api: &Api, attributes: &Attributes<'_>) -> Result<Arc<Value>, Status> {
    let name = attributes.target.namespace.as_str();
    let found = lookup::get_fresh(api, NAMESPACES, "", name).await?;
    found.ok_or_else(|| Status::not_found("", "namespaces", name))
}

/// The tolerations in an annotation of a namespace; none when it has no such annotation.
fn annotated(namespace: &Value, key: &str) -> Result<Option<Vec<Value>>, Status> {
    let text = match meta::annotation(namespace, key) {
        None => return Ok(None),
        Some("") => return Ok(Some(Vec::new())),
        Some(text) => text,
    };
    let list = codec::decode_json(text.as_bytes()).map_err(|error| Status::unknown(error.to_string()))?.value;
    tolerations(&list).map(Some).map_err(Status::unknown)
}

/// Tolerations that are part of no object yet, as Go reads them.
///
/// # Errors
/// They are something else, in upstream's words.
fn tolerations(list: &Value) -> Result<Vec<Value>, String> {
    let message =
        schema::by_name("io.k8s.api.core.v1.Toleration").expect("invariant: the tables hold Toleration");
    let one = |value: &Value| match schema::check(message, value).type_errors.into_iter().next() {
        None => codec::normalize(message, value).map_err(|error| error.to_string()),
        Some(fault) => Err(fault),
    };
    match list {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(one).collect(),
        other => {
            let kind = codec::json_type(other);
            Err(format!("json: cannot unmarshal {kind} into Go value of type []v1.Toleration"))
        }
    }
}

async fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let namespace = namespace(api, attributes).await?;
    let mut more = match attributes.operation {
        Operation::Create => {
            let own = annotated(&namespace, DEFAULTS)?;
            own.unwrap_or_else(|| api.plugins.tolerations.defaults.clone())
        }
        _ => Vec::new(),
    };
    if class(pod) != "BestEffort" {
        more.push(json!({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}));
    }
    if !more.is_empty() {
        let all = pod.items("spec.tolerations").iter().cloned().chain(more).collect();
        meta::child_mut(pod, &["spec"]).insert("tolerations".to_owned(), merge(all).into());
    }
    check_allowed(&api.plugins.tolerations, &namespace, pod)
}

async fn check(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let namespace = namespace(api, attributes).await?;
    check_allowed(&api.plugins.tolerations, &namespace, pod)
}

/// The class that a pod has, or will have.
fn class(pod: &Value) -> &str {
    let told = pod.text("status.qosClass");
    if told.is_empty() { qos::class(pod) } else { told }
}

fn check_allowed(cluster: &Cluster, namespace: &Value, pod: &Value) -> Result<(), Status> {
    let own = pod.items("spec.tolerations");
    if own.is_empty() {
        return Ok(());
    }
    let (allowed, scope) = match annotated(namespace, ALLOWED)? {
        Some(allowed) => (allowed, "namespace"),
        None => (cluster.allowed.clone(), "cluster"),
    };
    let is_allowed = |own: &Value| allowed.iter().any(|allowed| covers(allowed, own));
    match allowed.is_empty() || own.iter().all(is_allowed) {
        true => Ok(()),
        false => Err(Status::unknown(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(key: &str, text: &str) -> Value {
        json!({"metadata": {"name": "n", "annotations": {key: text}}})
    }

    #[test]
    fn an_empty_annotation_is_not_a_missing_one() {
        assert_eq!(annotated(&json!({}), DEFAULTS).unwrap(), None);
        for text in ["", "[]", "null"] {
            assert_eq!(annotated(&namespace(DEFAULTS, text), DEFAULTS).unwrap(), Some(Vec::new()), "{text}");
        }
        let one = json!([{"key": "a", "operator": "Exists"}]);
        let found = annotated(&namespace(DEFAULTS, &one.to_string()), DEFAULTS).unwrap();
        assert_eq!(found.map(Value::from), Some(one));
        let found = annotated(&namespace(DEFAULTS, r#"[{"key": "a", "value": null, "color": 1}]"#), DEFAULTS);
        assert_eq!(found.unwrap(), Some(vec![json!({"key": "a"})]));
        let fault = |text: &str| annotated(&namespace(DEFAULTS, text), DEFAULTS).unwrap_err();
        for (text, why) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{}", "json: cannot unmarshal object into Go value of type []v1.Toleration"),
            ("[1]", "json: cannot unmarshal number into Go value of type v1.Toleration"),
            (
                r#"[{"key": 1}]"#,
                "json: cannot unmarshal number into Go struct field Toleration.key of type string",
            ),
        ] {
            assert_eq!((fault(text).code, fault(text).message.as_str()), (500, why));
        }
    }

    #[test]
    fn a_pod_tolerates_what_is_allowed() {
        let pod = json!({"spec": {"tolerations": [{"key": "a", "operator": "Equal", "value": "x", "effect": "NoSchedule"}]}});
        let allowed = vec![json!({"key": "b", "operator": "Exists"})];
        let cluster = Cluster { allowed, ..Cluster::default() };
        let refused = check_allowed(&cluster, &json!({}), &pod).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                500,
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its cluster whitelist"
            )
        );
        let wide = r#"[{"key": "a", "operator": "Exists"}]"#;
        assert!(check_allowed(&cluster, &namespace(ALLOWED, wide), &pod).is_ok());
        assert!(check_allowed(&cluster, &namespace(ALLOWED, "[]"), &pod).is_ok());
        let narrow = r#"[{"key": "a", "operator": "Equal", "value": "y"}]"#;
        let refused = check_allowed(&cluster, &namespace(ALLOWED, narrow), &pod).unwrap_err();
        assert!(refused.message.ends_with("conflict with its namespace whitelist"));
        assert!(check_allowed(&cluster, &json!({}), &json!({"spec": {}})).is_ok());
    }

    #[test]
    fn the_configuration_is_checked() {
        let document = |list: Value| json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Configuration", "default": list});
        let good = Cluster::read(Some(&document(json!([{"key": "a", "operator": "Exists"}])))).ok().unwrap();
        assert_eq!((good.defaults.len(), good.allowed.len()), (1, 0));
        let why = Cluster::read(Some(&document(json!([{"key": "a", "operator": "Is"}])))).err().unwrap();
        assert_eq!(
            why,
            "invalid config: [podtolerationrestriction.default[0].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"]"
        );
    }
}

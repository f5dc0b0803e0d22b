//! PodNodeSelector: a pod is placed where its namespace says, by an annotation or by the cluster's configuration, and
//! chooses by no other labels than its namespace may.

use std::collections::BTreeMap;

use api_rules::format;
use api_rules::look::Look;
use api_types::field::{FieldError, Path};
use api_types::status::Status;
use api_types::{Value, meta};

use super::lookup::{self, NAMESPACES};
use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

/// On a namespace: labels of its pods' nodes.
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// The configuration for namespaces without that annotation.
const DEFAULT: &str = "clusterDefaultNodeSelector";
const CONFIGURATION: &str = "podNodeSelectorPluginConfig";
const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";
const NOT_ALLOWED: &str = "pod node label selector labels conflict with its namespace whitelist";

type Labels = BTreeMap<String, String>;

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, pod| match attributes.creates("", "pods") {
        true => Some(Box::pin(admit(api, attributes, pod))),
        false => None,
    }),
    check: Check::Waits(|api, attributes, pod| match attributes.creates("", "pods") {
        true => Some(Box::pin(check(api, attributes, pod))),
        false => None,
    }),
};

/// Selectors by namespace, `key=value,key=value`: which labels its pods may choose nodes by.
#[derive(Default)]
pub(super) struct Selectors(Labels);

impl Selectors {
    /// Reads the plugin's configuration, or the file that upstream took for one before it had versions.
    ///
    /// # Errors
    /// A selector is no text.
    pub fn read(document: Option<&Value>) -> Result<Self, String> {
        let entries = document.map(|document| document.entries(CONFIGURATION)).into_iter().flatten();
        let selector = |(namespace, value): (&str, &Value)| match value.as_str() {
            Some(text) => Ok((namespace.to_owned(), text.to_owned())),
            None => Err(format!("{CONFIGURATION}.{namespace} is no text")),
        };
        entries.map(selector).collect::<Result<_, _>>().map(Self)
    }

    fn labels(&self, name: &str) -> Result<Labels, Status> {
        labels(self.0.get(name).map(String::as_str).unwrap_or_default())
    }

    /// What the nodes of a namespace's pods are labelled with.
    fn of(&self, namespace: &Value) -> Result<Labels, Status> {
        meta::annotation(namespace, ANNOTATION).map_or_else(|| self.labels(DEFAULT), labels)
    }
}

/// Reads `key=value,key=value` (upstream: `labels.ConvertSelectorToLabelsMap`).
fn labels(selector: &str) -> Result<Labels, Status> {
    let parts = selector.split(',').filter(|_| !selector.is_empty());
    let label = |part: &str| {
        let words: Vec<&str> = part.split('=').collect();
        let [key, value] = words.as_slice() else {
            return Err(Status::unknown(format!("invalid selector: [{}]", words.join(" "))));
        };
        let (key, value, path) = (key.trim(), value.trim(), Path::root());
        fault(&path, key, &format::qualified_name(key))?;
        fault(&path.key(key), value, &format::label_value(value))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    parts.map(label).collect()
}

fn fault(path: &Path, text: &str, problems: &[String]) -> Result<(), Status> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Status::unknown(FieldError::invalid(path, text, problems.join("; ")).to_string())),
    }
}

/// The pod's own selector.
fn own(pod: &Value) -> Labels {
    let entries = pod.entries("spec.nodeSelector");
    entries.map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn conflict(wanted: &Labels, own: &Labels) -> bool {
    wanted.iter().any(|(key, value)| own.get(key).is_some_and(|own| own != value))
}

/// Whether a pod may choose by all its labels; where nothing is said it may choose by any.
fn may_choose(own: &Labels, allowed: &Labels) -> bool {
    allowed.is_empty() || own.iter().all(|(key, value)| allowed.get(key) == Some(value))
}

/// What the namespace of a pod asks for, if the pod asks for nothing else.
async fn wanted(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<Labels, Status> {
    let name = attributes.target.namespace.as_str();
    let namespace = lookup::get_fresh(api, NAMESPACES, "", name).await?;
    let missing = || Status::internal(format_args!("namespace {name} does not exist"));
    let namespace = namespace.ok_or_else(missing)?;
    let wanted = api.plugins.node_selectors.of(&namespace)?;
    match conflict(&wanted, &own(pod)) {
        true => Err(attributes.target.forbidden(CONFLICT)),
        false => Ok(wanted),
    }
}

async fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let wanted = wanted(api, attributes, pod).await?;
    if !wanted.is_empty() {
        let selector = meta::child_mut(pod, &["spec", "nodeSelector"]);
        selector.extend(wanted.into_iter().map(|(key, value)| (key, value.into())));
    }
    check_allowed(api, attributes, pod)
}

async fn check(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    wanted(api, attributes, pod).await?;
    check_allowed(api, attributes, pod)
}

fn check_allowed(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let allowed = api.plugins.node_selectors.labels(&attributes.target.namespace)?;
    match may_choose(&own(pod), &allowed) {
        true => Ok(()),
        false => Err(attributes.target.forbidden(NOT_ALLOWED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selectors_are_read_as_upstream_reads_them() {
        assert_eq!(labels("").unwrap(), of(&[]));
        assert_eq!(labels("a=b, c.d/e = f,g=").unwrap(), of(&[("a", "b"), ("c.d/e", "f"), ("g", "")]));
        let fault = |text: &str| labels(text).unwrap_err();
        assert_eq!((fault("a").code, fault("a").message.as_str()), (500, "invalid selector: [a]"));
        assert_eq!(fault("a=b=c").message, "invalid selector: [a b c]");
        assert!(fault("a b=c").message.starts_with("<nil>: Invalid value: \"a b\": name part must"));
        assert!(fault("a=b c").message.starts_with("[a]: Invalid value: \"b c\": a valid label must"));
    }

    #[test]
    fn the_annotation_counts_before_the_default() {
        let document = json!({CONFIGURATION: {DEFAULT: "a=b", "n": "c=d"}});
        let selectors = Selectors::read(Some(&document)).unwrap();
        assert_eq!(selectors.of(&json!({})).unwrap(), of(&[("a", "b")]));
        let namespace = json!({"metadata": {"annotations": {ANNOTATION: ""}}});
        assert_eq!(selectors.of(&namespace).unwrap(), of(&[]));
        assert_eq!(selectors.labels("n").unwrap(), of(&[("c", "d")]));
        assert!(Selectors::read(Some(&json!({CONFIGURATION: {"n": 1}}))).is_err());
        assert!(Selectors::read(None).unwrap().of(&json!({})).unwrap().is_empty());
    }

    #[test]
    fn labels_conflict_where_they_differ() {
        assert!(conflict(&of(&[("a", "b")]), &of(&[("a", "c")])));
        assert!(!conflict(&of(&[("a", "b")]), &of(&[("d", "c")])));
        assert!(may_choose(&of(&[("a", "b")]), &of(&[])));
        assert!(may_choose(&of(&[("a", "b")]), &of(&[("a", "b"), ("c", "d")])));
        assert!(!may_choose(&of(&[("a", "c")]), &of(&[("a", "b")])));
        assert!(!may_choose(&of(&[("x", "y")]), &of(&[("a", "b")])));
    }
}

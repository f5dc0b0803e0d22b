//! What a CustomResourceDefinition says of the kinds that it defines.

use crate::table::{Resource, Subresource, find};
use crate::text::{List, Text};
use serde_json::Value;
use std::cmp::Ordering;

/// Verbs of every custom resource.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// The annotation that says who approved a definition in a group of the Kubernetes project.
pub const APPROVAL: &str = "api-approved.kubernetes.io";
const POLICY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What a definition in a group of the Kubernetes project says of its approval (upstream:
/// `apihelpers.GetAPIApprovalState`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    Missing,
    Invalid,
    /// It says that there is none, and why.
    Bypassed(String),
    /// Where it was given.
    Given(String),
}

impl Approval {
    pub fn is_given(&self) -> bool {
        matches!(self, Self::Given(_))
    }

    /// The reason of condition `KubernetesAPIApprovalPolicyConformant`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAnnotation",
            Self::Invalid => "InvalidAnnotation",
            Self::Bypassed(_) => "UnapprovedAnnotation",
            Self::Given(_) => "ApprovedAnnotation",
        }
    }

    /// Upstream's words for it.
    pub fn text(&self) -> String {
        match self {
            Self::Missing => {
                format!("protected groups must have approval annotation {APPROVAL:?}, {POLICY}")
            }
            Self::Invalid => format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", {POLICY}"
            ),
            Self::Bypassed(why) => format!("not approved: {}", crate::field::quote(why)),
            Self::Given(url) => format!("approved in {url}"),
        }
    }
}

/// What a definition says of its approval; none in groups that need none.
pub fn approval(definition: &Value) -> Option<Approval> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    if !["k8s.io", "kubernetes.io"].iter().any(|domain| crate::meta::is_within(group, domain)) {
        return None;
    }
    let said = crate::meta::annotation(definition, APPROVAL).unwrap_or_default();
    let is_url = said.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !host.is_empty()
    });
    Some(match said {
        "" => Approval::Missing,
        said if said.starts_with("unapproved") => Approval::Bypassed(said.to_owned()),
        said if is_url => Approval::Given(said.to_owned()),
        _ => Approval::Invalid,
    })
}

/// Whether a condition of the definition's status holds.
pub fn has_condition(definition: &Value, name: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == name && c["status"] == "True"))
}

/// Elements of `spec.versions` that are served, the preferred first.
pub fn served(definition: &Value) -> Vec<&Value> {
    let versions = definition["spec"]["versions"].as_array();
    let mut served: Vec<&Value> =
        versions.into_iter().flatten().filter(|version| version["served"] == true).collect();
    served.sort_by(|a, b| compare_versions(name(a), name(b)));
    served
}

fn name(version: &Value) -> &str {
    version["name"].as_str().unwrap_or_default()
}

fn text(value: &Value) -> Text {
    Text::from(value.as_str().unwrap_or_default())
}

/// The kind in one of the definition's versions (an element of `spec.versions`), under the names that were accepted.
/// The hash of its storage version is left out.
pub fn resource(definition: &Value, version: &Value) -> Resource {
    let spec = &definition["spec"];
    let names = match definition["status"].get("acceptedNames") {
        Some(names) if names["plural"].as_str().is_some_and(|plural| !plural.is_empty()) => names,
        _ => &spec["names"],
    };
    let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    let (group, plural, kind, own) =
        (text(&spec["group"]), text(&names["plural"]), text(&names["kind"]), text(&version["name"]));
    let versions = spec["versions"].as_array();
    let storage = versions.into_iter().flatten().find(|version| version["storage"] == true);
    Resource {
        namespaced: spec["scope"] == "Namespaced",
        verbs: VERBS,
        singular: text(&names["singular"]),
        list_kind: text(&names["listKind"]),
        short_names: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        storage_prefix: format!("/registry/{group}/{plural}/").into(),
        storage_group: group.clone(),
        storage_version: storage.map_or_else(|| own.clone(), |version| text(&version["name"])),
        storage_version_hash: Text::Static(""),
        message: None,
        preferred_version: served(definition).first().map_or_else(|| own.clone(), |v| text(&v["name"])),
        served_by_default: true,
        feature_gate: "",
        introduced: "",
        deprecated: "",
        removed: "",
        subresources: subresources(&group, &own, &kind, version),
        group,
        version: own,
        resource: plural,
        kind,
    }
}

fn subresources(group: &Text, version: &Text, kind: &Text, definition: &Value) -> List<Subresource> {
    let own = &definition["subresources"];
    let status = own["status"].is_object().then(|| Subresource {
        name: "status",
        kind: kind.clone(),
        group: group.clone(),
        version: version.clone(),
        verbs: SUBRESOURCE_VERBS,
        message: None,
        served_by_default: true,
    });
    let scales = find("apps", "v1", "deployments").and_then(|row| row.subresource("scale"));
    let scale = own["scale"].is_object().then(|| Subresource {
        name: "scale",
        kind: Text::Static("Scale"),
        group: Text::Static("autoscaling"),
        version: Text::Static("v1"),
        verbs: SUBRESOURCE_VERBS,
        message: scales.and_then(|scale| scale.message),
        served_by_default: true,
    });
    status.into_iter().chain(scale).collect()
}

/// Upstream's order of versions, the preferred first: stable before beta before alpha, higher numbers before lower,
/// and what has another form behind them by its letters.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_key(a), version_key(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Maturity, major and minor number of `v1`, `v1beta2`, `v2alpha1`.
fn version_key(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    for (word, maturity) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((maturity, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["foo1", "v1alpha1", "v1", "v10", "v1beta2", "v2beta1", "v11alpha2", "v2"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v11alpha2", "v1alpha1", "foo1"]);
    }

    #[test]
    fn a_definition_makes_a_resource() {
        let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["w"]},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {}}},
                {"name": "v1", "served": true}, {"name": "v2", "served": false}]}});
        let served = served(&definition);
        assert_eq!(served.iter().map(|v| &v["name"]).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        let widgets = resource(&definition, served[1]);
        assert_eq!(widgets.key("n", "a"), "/registry/example.com/widgets/n/a");
        assert_eq!((&*widgets.preferred_version, &*widgets.storage_version), ("v1", "v1beta1"));
        assert_eq!(widgets.subresource("scale").unwrap().api_version(), "autoscaling/v1");
        assert_eq!(widgets.subresource("status").unwrap().kind, "Widget");
    }
}

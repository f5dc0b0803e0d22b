//! Which requests a webhook, a policy or a binding is about: rules, selectors, equivalent kinds (upstream:
//! `apiserver/pkg/admission/plugin/webhook/predicates`, `…/policy/matching`).

use std::sync::Arc;

use api_rules::look::Look;
use api_types::selector::LabelSelector;
use api_types::status::Status;
use api_types::{Resource, Value, meta};

use super::{text, texts};
use crate::admission::{Attributes, Operation, lookup};
use crate::api::Api;
use crate::catalog::Kind;

/// One rule.
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

/// Whom a webhook, a policy or a binding is about.
pub(super) struct Matching {
    rules: Vec<Rule>,
    exclude: Vec<Rule>,
    /// Whether only the versions that are named count.
    exact: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Whether no rule means every request.
    open: bool,
}

/// Whether a list of a rule names something.
fn any(all: &[String], one: &str) -> bool {
    all.iter().any(|own| own == "*" || own == one)
}

impl Rule {
    fn new(value: &Value) -> Self {
        Self {
            operations: texts(value, "operations"),
            groups: texts(value, "apiGroups"),
            versions: texts(value, "apiVersions"),
            resources: texts(value, "resources"),
            names: texts(value, "resourceNames"),
            scope: text(value, "scope"),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        any(&self.groups, &resource.group)
            && any(&self.versions, &resource.version)
            && self.could_match(attributes, resource)
    }

    /// Whether it matches but for group and version.
    fn could_match(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        let fits = |named: &String| {
            let (main, sub) = named.split_once('/').unwrap_or((named, ""));
            (main == "*" || resource.resource == main) && (sub == "*" || sub == attributes.subresource)
        };
        let cluster = !resource.namespaced;
        any(&self.operations, attributes.operation.name())
            && self.resources.iter().any(fits)
            && (self.names.is_empty() || self.names.contains(&attributes.target.name))
            && match self.scope.as_str() {
                "Namespaced" => !cluster,
                "Cluster" => cluster,
                _ => true,
            }
    }
}

fn selector(value: &Value) -> LabelSelector {
    match value.is_object() {
        true => LabelSelector::from_value(value).unwrap_or_else(|_| LabelSelector::nothing()),
        false => LabelSelector::everything(),
    }
}

/// The kind that the first matching rule names: the request's own, or else one of its equivalents.
fn first(
    rules: &[Rule],
    attributes: &Attributes<'_>,
    equivalents: impl FnOnce() -> Result<Vec<Kind>, Status>,
) -> Result<Option<Kind>, Status> {
    let own = &attributes.target.resource;
    if rules.iter().any(|rule| rule.matches(attributes, own)) {
        return Ok(Some(own.clone()));
    }
    // Equivalents differ in group and version alone: no rule about other resources asks for them.
    if !rules.iter().any(|rule| rule.could_match(attributes, own)) {
        return Ok(None);
    }
    let others = equivalents()?;
    let found = rules.iter().find_map(|rule| others.iter().find(|other| rule.matches(attributes, other)));
    Ok(found.cloned())
}

impl Matching {
    /// Of a webhook.
    pub fn of_hook(hook: &Value) -> Self {
        Self::new(hook.items("rules"), &[], hook, false)
    }

    /// Of `matchConstraints` or `matchResources`; none matches everything.
    pub fn of_policy(value: &Value) -> Self {
        Self::new(value.items("resourceRules"), value.items("excludeResourceRules"), value, true)
    }

    fn new(rules: &[Value], exclude: &[Value], rest: &Value, open: bool) -> Self {
        Self {
            rules: rules.iter().map(Rule::new).collect(),
            exclude: exclude.iter().map(Rule::new).collect(),
            exact: rest["matchPolicy"] == "Exact",
            namespaces: selector(&rest["namespaceSelector"]),
            objects: selector(&rest["objectSelector"]),
            open,
        }
    }

    /// The kind as which the request is meant; none when it is not.
    pub fn find(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Kind>, Status> {
        if !self.matches_object(attributes, object) {
            return Ok(None);
        }
        let equivalents = || match self.exact {
            true => Ok(Vec::new()),
            false => api.catalog.equivalents(&api.storage.view(), &attributes.target.resource),
        };
        if first(&self.exclude, attributes, equivalents)?.is_some() {
            return Ok(None);
        }
        let found = match self.rules.is_empty() && self.open {
            true => Some(attributes.target.resource.clone()),
            false => first(&self.rules, attributes, equivalents)?,
        };
        match found {
            Some(found) if self.matches_namespace(api, attributes, object)? => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    fn matches_object(&self, attributes: &Attributes<'_>, object: &Value) -> bool {
        let fits = |object: &Value| object.is_object() && self.objects.matches_object(object);
        self.objects.matches_everything() || fits(object) || attributes.old.is_some_and(fits)
    }

    fn matches_namespace(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, Status> {
        if self.namespaces.matches_everything() {
            return Ok(true);
        }
        let resource = &attributes.target.resource;
        let itself = resource.group.is_empty() && resource.resource == "namespaces";
        if itself && attributes.subresource.is_empty() {
            let own = match attributes.operation {
                Operation::Create | Operation::Update => Some(object),
                _ => attributes.old,
            };
            return Ok(own.is_none_or(|own| self.namespaces.matches_object(own)));
        }
        if !resource.namespaced && !itself {
            return Ok(true);
        }
        let name = if itself { &attributes.target.name } else { &attributes.target.namespace };
        let namespace = find_namespace(api, name)?;
        Ok(self.namespaces.matches_object(&namespace))
    }
}

/// The namespace that a request is in; none for one that is in none, and for namespaces themselves.
pub(super) fn namespace(api: &Api, attributes: &Attributes<'_>) -> Result<Option<Arc<Value>>, Status> {
    match attributes.target.resource.namespaced {
        true => find_namespace(api, &attributes.target.namespace).map(Some),
        false => Ok(None),
    }
}

fn find_namespace(api: &Api, name: &str) -> Result<Arc<Value>, Status> {
    let found = lookup::get(&api.storage.view(), lookup::NAMESPACES, "", name)?;
    found.ok_or_else(|| Status::not_found("", "namespaces", name))
}

/// The namespace as expressions see it: without owners and managed fields.
pub(super) fn shown_namespace(namespace: Arc<Value>) -> Value {
    let mut namespace = Arc::unwrap_or_clone(namespace);
    let metadata = meta::metadata_mut(&mut namespace);
    metadata.remove("managedFields");
    metadata.remove("ownerReferences");
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::catalog::other_built_in;
    use crate::registry::Target;
    use api_types::table;
    use serde_json::json;

    fn matches(rule: Value, resource: (&str, &str, &str), subresource: &str) -> bool {
        let (group, version, name) = resource;
        let target = Target::new(table::find(group, version, name).unwrap(), "n", "a");
        let call = Call::internal();
        let attributes = Attributes { subresource, ..Attributes::new(Operation::Create, &target, &call) };
        let matching = Matching::of_hook(&json!({"rules": [rule]}));
        let others = || Ok(other_built_in(&target.resource));
        first(&matching.rules, &attributes, others).unwrap().is_some()
    }

    #[test]
    fn rules_name_resources_and_what_is_below() {
        let rule = |resources: Value, scope: &str| json!({"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": resources, "scope": scope});
        let (pods, nodes) = (("", "v1", "pods"), ("", "v1", "nodes"));
        assert!(matches(rule(json!(["pods"]), "*"), pods, ""));
        assert!(!matches(rule(json!(["pods"]), "*"), pods, "status"));
        assert!(matches(rule(json!(["pods/*"]), "*"), pods, "status"));
        assert!(matches(rule(json!(["*/status"]), "*"), pods, "status"));
        assert!(!matches(rule(json!(["*"]), "*"), pods, "status"));
        assert!(matches(rule(json!(["*/*"]), "Namespaced"), pods, "status"));
        assert!(!matches(rule(json!(["*/*"]), "Namespaced"), nodes, ""));
        assert!(matches(rule(json!(["nodes"]), "Cluster"), nodes, ""));
        let update = json!({"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        assert!(!matches(update, pods, ""));
    }

    #[test]
    fn other_versions_are_meant_too() {
        let rule = json!({"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"], "resources": ["horizontalpodautoscalers"]});
        assert!(matches(rule, ("autoscaling", "v1", "horizontalpodautoscalers"), ""));
    }
}

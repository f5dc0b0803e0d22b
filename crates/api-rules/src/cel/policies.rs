//! What is wrong with a ValidatingAdmissionPolicy for the kinds that it names (upstream:
//! `apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).

use api_types::{Resource, schema, table};
use serde_json::Value;

use super::{Kind, Schema, Scope, warnings};
use crate::look::Look;

/// Kinds that one policy is checked for, at most.
const MAX_KINDS: usize = 10;

/// A remark about one expression of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// `spec.validations[0].expression`.
    pub field: String,
    pub text: String,
}

/// Remarks about a policy's validations.
pub fn check_policy(policy: &Value) -> Vec<Warning> {
    let spec = policy.at("spec");
    let kinds = kinds(spec);
    let params = schema::lookup_api_version(spec.text("paramKind.apiVersion"), spec.text("paramKind.kind"));
    let mut found = Vec::new();
    for (at, validation) in spec.items("validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = validation.text(field);
            if source.is_empty() {
                continue;
            }
            let mut text = String::new();
            for resource in &kinds {
                let schema = Schema { object: resource.message, params };
                let (_, issues) = warnings(source, &scope(spec, &schema), &schema);
                if !issues.is_empty() {
                    let api_version = match resource.group.as_str() {
                        "" => format!("/{}", resource.version),
                        _ => resource.api_version(),
                    };
                    text += &format!("{api_version}, Kind={}: {}\n", resource.kind, issues.join("\n"));
                }
            }
            if !text.is_empty() {
                found.push(Warning { field: format!("spec.validations[{at}].{field}"), text });
            }
        }
    }
    found
}

/// What a policy's expressions may speak of, its variables as they are over a schema.
fn scope(spec: &Value, schema: &Schema) -> Scope {
    let mut scope = Scope { params: spec.has("paramKind"), authorizer: true, ..Scope::default() };
    for variable in spec.items("variables") {
        let (kind, issues) = warnings(variable.text("expression"), &scope, schema);
        let kind = if issues.is_empty() { kind } else { Kind::Unknown };
        scope.variables.push((variable.text("name").to_owned(), kind));
    }
    scope
}

/// The kinds that rules name without a wildcard.
fn kinds(spec: &Value) -> Vec<&'static Resource> {
    let mut found: Vec<&'static Resource> = Vec::new();
    for rule in spec.items("matchConstraints.resourceRules") {
        let texts = |field: &str| -> Vec<&str> {
            let all: Vec<&str> = rule.texts(field).collect();
            if all.iter().any(|text| text.contains('*')) { Vec::new() } else { all }
        };
        for group in texts("apiGroups") {
            for version in texts("apiVersions") {
                for resource in texts("resources").into_iter().filter(|name| !name.contains('/')) {
                    let one = table::find(group, version, resource);
                    let new = one.filter(|one| !found.iter().any(|known| std::ptr::eq(*known, *one)));
                    found.extend(new);
                }
            }
        }
    }
    found.truncate(MAX_KINDS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn remarks_name_the_kind_and_the_place() {
        let policy = json!({"spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}]},
        "variables": [{"name": "n", "expression": "object.spec.replicas"}],
        "validations": [
            {"expression": "object.spec.replicaz <= 3"},
            {"expression": "variables.n <= 3", "messageExpression": "'wanted ' + variables.n"},
        ]}});
        let found = check_policy(&policy);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].field, "spec.validations[0].expression");
        assert!(
            found[0]
                .text
                .starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicaz'")
        );
        assert_eq!(found[1].field, "spec.validations[1].messageExpression");
        assert!(found[1].text.contains("found no matching overload for '_+_' applied to '(string, int)'"));
        let mut open = policy;
        open["spec"]["matchConstraints"]["resourceRules"][0]["resources"] = json!(["*"]);
        assert!(check_policy(&open).is_empty());
    }
}

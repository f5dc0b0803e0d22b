//! The ways to change an object by a difference: JSON patch (RFC 6902), JSON merge patch (RFC 7386), Kubernetes'
//! strategic merge patch, and server-side apply ([`apply`]).

pub mod apply;
mod json;
mod schema;
mod strategic;

use crate::look::Look;
use serde_json::Value;

pub use json::json_patch;
pub use strategic::{go_text, strategic_merge};

/// Why a patch was refused. The variants are the HTTP answers that upstream gives.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// 400 BadRequest: the patch itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 422 Invalid: the patch does not fit the object (a missing path, a failed test).
    #[error("{0}")]
    Unprocessable(String),
    /// 413 RequestEntityTooLarge: too many operations.
    #[error("{0}")]
    TooLarge(String),
    /// 500: upstream has no better answer for it.
    #[error("{0}")]
    Internal(String),
    /// 409 Conflict of server-side apply: every field that another manager owns.
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that an apply changes although another manager owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it, as upstream prints it: `"name"`, `"name" using v1`, ... .
    pub manager: String,
    /// Path of the field as upstream prints it (`.spec.replicas`).
    pub field: String,
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    let mut managers: Vec<&str> = Vec::new();
    for conflict in conflicts {
        if !managers.contains(&conflict.manager.as_str()) {
            managers.push(&conflict.manager);
        }
    }
    let fields = |manager: &str| -> Vec<&str> {
        conflicts.iter().filter(|c| c.manager == manager).map(|c| c.field.as_str()).collect()
    };
    let noun = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let body = match (conflicts, managers.as_slice()) {
        ([one], _) => format!("conflict with {}: {}", one.manager, one.field),
        (_, managers) => {
            let groups: Vec<String> = managers
                .iter()
                .map(|m| {
                    format!(
                        "conflicts with {m}:\n{}",
                        fields(m).iter().map(|f| format!("- {f}")).collect::<Vec<_>>().join("\n")
                    )
                })
                .collect();
            groups.join("\n")
        }
    };
    format!("Apply failed with {} {noun}: {body}", conflicts.len())
}

/// JSON merge patch (RFC 7386): null removes, objects merge, all else replaces.
pub fn merge_patch(mut doc: Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::BadRequest("Invalid JSON Patch".into()));
    }
    merge_into(&mut doc, patch);
    Ok(doc)
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge_into(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Whether a patch leaves the identity of the object alone: apiVersion, kind and name may not change.
pub fn same_identity(before: &Value, after: &Value) -> bool {
    ["apiVersion", "kind", "metadata.name"].iter().all(|path| before.text(path) == after.text(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The table of RFC 7386, appendix A (patches that are objects).
    #[test]
    fn merge_patch_as_in_the_rfc() {
        for (doc, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge_patch(doc, &patch).unwrap(), want);
        }
        assert!(matches!(merge_patch(json!({}), &json!([1])), Err(PatchError::BadRequest(_))));
    }

    #[test]
    fn conflicts_read_as_upstream() {
        let one = |field: &str| Conflict { manager: "\"kubectl\" using apps/v1".into(), field: field.into() };
        assert_eq!(
            PatchError::Conflicts(vec![one(".spec.replicas")]).to_string(),
            "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
        );
        assert_eq!(
            PatchError::Conflicts(vec![one(".a"), one(".b")]).to_string(),
            "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .a\n- .b"
        );
    }
}

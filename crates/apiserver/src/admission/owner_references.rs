//! OwnerReferencesPermissionEnforcement: nobody has the garbage collector delete what they may not delete, and nobody
//! holds the deletion of an owner back whose finalizers they may not set (`plugin/pkg/admission/gc`).

use api_rules::look::{Look, same};
use api_types::Value;
use api_types::field::quote;
use api_types::meta::{self, OwnerReference};
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::authz::{Ask, Decision};
use crate::catalog::Kind;

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Never,
    check: Check::Waits(|api, attributes, object| match changes_owners(attributes, object) {
        true => Some(Box::pin(check(api, attributes, object))),
        false => None,
    }),
};

const OWNERS: &str = "metadata.ownerReferences";

fn changes_owners(attributes: &Attributes<'_>, object: &Value) -> bool {
    let own = &attributes.target.resource;
    let pod_status = own.group.is_empty() && own.resource == "pods" && attributes.subresource == "status";
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    // What may change of a pod's status never changes its owners.
    written && !pod_status && differ(object, attributes.old)
}

fn differ(object: &Value, old: Option<&Value>) -> bool {
    let before = old.map(|old| old.items(OWNERS)).unwrap_or_default();
    let after = object.items(OWNERS);
    before.len() != after.len() || before.iter().zip(after).any(|(before, after)| !same(before, after))
}

/// Owners whose deletion waits for the object, and did not before.
fn newly_blocked(object: &Value, old: Option<&Value>) -> Vec<OwnerReference> {
    let before = old.map(meta::owner_references).unwrap_or_default();
    // Of several references to one owner upstream looks at the last.
    let was_blocked = |uid: &str| {
        before.iter().rev().find(|known| known.uid == uid).is_some_and(|known| known.block_owner_deletion)
    };
    let mut owners = meta::owner_references(object);
    owners.retain(|owner| owner.block_owner_deletion && !was_blocked(&owner.uid));
    owners
}

async fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let (target, info) = (attributes.target, &attributes.target.resource);
    if attributes.operation == Operation::Update {
        let ask = Ask {
            verb: "delete",
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: attributes.subresource,
            namespace: &target.namespace,
            name: &target.name,
            ..Ask::default()
        };
        let what = "cannot set an ownerRef on a resource you can't delete";
        allowed(attributes, what, &decide(api, attributes, &ask).await)?;
    }
    let owners = newly_blocked(object, attributes.old);
    // Who may hold everything back needs not be asked about the kinds of owners, which are not always known.
    if owners.is_empty() || decide(api, attributes, &finalize(["*", "*", "*", "", "*"])).await.allows() {
        return Ok(());
    }
    for owner in &owners {
        let kind = kind(api, attributes, owner).await?;
        let namespace = if kind.namespaced { target.namespace.as_str() } else { "" };
        let ask = finalize([&kind.group, &kind.version, &kind.resource, namespace, &owner.name]);
        let what = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
        allowed(attributes, what, &decide(api, attributes, &ask).await)?;
    }
    Ok(())
}

/// The question whether somebody may set the finalizers of an object: group, version, resource, namespace, name.
fn finalize([group, version, resource, namespace, name]: [&str; 5]) -> Ask<'_> {
    let of_finalizers = Ask { verb: "update", subresource: "finalizers", ..Ask::default() };
    Ask { group, version, resource, namespace, name, ..of_finalizers }
}

async fn decide(api: &Api, attributes: &Attributes<'_>, ask: &Ask<'_>) -> Decision {
    api.authorizer.decide(&api.storage.view(), attributes.user, ask).await
}

fn allowed(attributes: &Attributes<'_>, what: &str, decision: &Decision) -> Result<(), Status> {
    if decision.allows() {
        return Ok(());
    }
    let error = decision.error.as_deref().unwrap_or("<nil>");
    Err(attributes.target.forbidden(&format!("{what}: {}, {error}", decision.reason)))
}

/// The kind of an owner. What this replica does not know yet it looks for again behind the others' writes.
async fn kind(api: &Api, attributes: &Attributes<'_>, owner: &OwnerReference) -> Result<Kind, Status> {
    let (version, kind) = (owner.api_version.as_str(), owner.kind.as_str());
    let why = match version.matches('/').count() > 1 {
        true => format!("unexpected GroupVersion string: {version}"),
        false => {
            if let Some(found) = api.catalog.by_kind(&api.storage.view(), version, kind)? {
                return Ok(found);
            }
            if let Some(found) = api.catalog.by_kind(&*api.storage.fresh().await?, version, kind)? {
                return Ok(found);
            }
            format!("no matches for kind {} in version {}", quote(kind), quote(version))
        }
    };
    Err(attributes.target.forbidden(&format!(
        "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}: {why}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owned(owners: Value) -> Value {
        json!({"metadata": {"ownerReferences": owners}})
    }

    #[test]
    fn a_change_of_owners_is_one_of_any_field() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"});
        let blocked =
            json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u", "blockOwnerDeletion": true});
        let (one, none) = (owned(json!([owner])), json!({"metadata": {}}));
        assert!(!differ(&none, None) && !differ(&one, Some(&one)) && !differ(&owned(json!([])), Some(&none)));
        assert!(differ(&one, None) && differ(&one, Some(&none)) && differ(&none, Some(&one)));
        assert!(differ(&owned(json!([blocked])), Some(&one)));
    }

    #[test]
    fn only_new_blocks_are_looked_at() {
        let owner = |uid: &str, blocks: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "blockOwnerDeletion": blocks});
        let new = owned(json!([owner("a", true), owner("b", true), owner("c", false), owner("d", true)]));
        let old = owned(json!([owner("a", true), owner("b", false), owner("c", true)]));
        let names = |old: Option<&Value>| -> Vec<String> {
            newly_blocked(&new, old).into_iter().map(|owner| owner.name).collect()
        };
        assert_eq!(names(Some(&old)), ["b", "d"]);
        assert_eq!(names(None), ["a", "b", "d"]);
    }
}

//! Which objects belong to an owner with a selector: those that it controls, and orphans that fit (upstream:
//! `controller_ref_manager.go`).

use std::sync::Arc;

use api_types::selector::LabelSelector;
use api_types::{Resource, Value, meta};
use client::{Change, Patch};
use serde_json::json;

use crate::controller::{Key, Listers, controller_key};
use crate::plan::Action;

/// A kind of objects that owners claim.
pub(crate) struct Claimable {
    pub resource: &'static Resource,
    /// Its lister.
    pub name: &'static str,
    /// Whether an orphan is worth having.
    pub is_wanted: fn(&Value) -> bool,
}

impl Claimable {
    /// What the owner controls and what fits its selector. Orphans that fit are adopted, and what fits no more is
    /// released: `actions` say so, and it counts when it was done.
    pub fn claim(
        &self,
        listers: &Listers,
        owner: &Arc<Value>,
        selector: &LabelSelector,
        actions: &mut Vec<Action>,
    ) -> Vec<Arc<Value>> {
        let mut owned = Vec::new();
        for own in listers.controlled(self.name, owner) {
            if selector.matches_object(&own) {
                owned.push(own);
            } else if !meta::is_being_deleted(&own) {
                actions.push(self.set_owner(own, &json!({ "$patch": "delete", "uid": meta::uid(owner) })));
            }
        }
        if meta::is_being_deleted(owner) {
            return owned;
        }
        let fitting = listers.get(self.name).map(|lister| lister.select(meta::namespace(owner), selector));
        let is_orphan = |one: &Arc<Value>| {
            meta::controller(one).is_none() && !meta::is_being_deleted(one) && (self.is_wanted)(one)
        };
        for orphan in fitting.into_iter().flatten().filter(is_orphan) {
            actions.push(self.set_owner(orphan, &meta::OwnerReference::controller_of(owner).to_value()));
        }
        owned
    }

    fn set_owner(&self, object: Arc<Value>, owner: &Value) -> Action {
        let metadata = json!({ "uid": meta::uid(&object), "ownerReferences": [owner] });
        Action::Patch(self.resource.into(), object, Patch::Strategic(json!({ "metadata": metadata })))
    }
}

/// The owner, of this kind, of an object that changed; without an owner, all that would like to be it. `owners`: their
/// lister.
pub(crate) fn keys(owners: &'static str, kind: &str, change: &Change, listers: &Listers) -> Vec<Key> {
    let object = change.object().peek();
    let keys = controller_key(owners, kind, change);
    if !keys.is_empty() || object.controller().is_some() {
        return keys;
    }
    let Some(all) = listers.get(owners) else { return Vec::new() };
    let likes = |owner: &&Arc<Value>| selector(owner).is_some_and(|selector| selector.matches_peek(&object));
    let found = all.in_namespace(&object.namespace());
    found.iter().filter(likes).map(|owner| Key::of(owners, owner)).collect()
}

/// What an owner selects: a ReplicationController has a plain map, others a selector. None: it cannot be read.
pub(crate) fn selector(owner: &Value) -> Option<LabelSelector> {
    let selector = &owner["spec"]["selector"];
    match meta::kind(owner) {
        "ReplicationController" => Some(LabelSelector::from_map(selector.as_object()?)),
        _ => LabelSelector::from_value(selector).ok(),
    }
}

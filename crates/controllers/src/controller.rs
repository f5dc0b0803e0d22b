//! The shape of a controller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::codec::peek::Peek;
use api_types::{Resource, meta, table};
use client::{Change, Index, Lister, Object};
use parking_lot::RwLock;
use serde_json::Value;

use crate::plan::{Action, Plan};
use crate::storage_protection::claims;
use crate::template::has_ended;

/// An object that needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind, as `resource.group`.
    pub resource: String,
    /// Its namespace; empty without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A key by its parts.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object.
    pub fn of(resource: &str, object: &Value) -> Self {
        Self::new(resource, meta::namespace(object), meta::name(object))
    }

    /// The key of an object that is not read whole.
    pub(crate) fn peeked(resource: &str, object: &Peek<'_>) -> Self {
        Self::new(resource, &object.namespace(), &object.name())
    }
}

/// Finds objects by any of their owners' uids.
pub(crate) const OWNER_INDEX: &str = "owner";
/// Finds an object by its uid.
pub(crate) const UID_INDEX: &str = "uid";

/// Finds pods by their node.
pub(crate) const NODE_INDEX: &str = "node";
/// Finds what is being deleted ([`GOING`]) and pods that have ended ([`OVER`]).
pub(crate) const STATE_INDEX: &str = "state";
pub(crate) const GOING: &str = "going";
pub(crate) const OVER: &str = "over";
/// Finds pods by the claims of volumes that they name, as `namespace/name`.
pub(crate) const CLAIM_INDEX: &str = "claim";

/// The indexes of every informer.
pub(crate) fn indexes() -> Vec<Index> {
    let owner = Index {
        name: OWNER_INDEX,
        field: "metadata",
        values: |object| object.owner_references().into_iter().map(|owner| owner.uid).collect(),
    };
    let uid = Index { name: UID_INDEX, field: "metadata", values: |object| vec![object.uid().into_owned()] };
    let node = Index {
        name: NODE_INDEX,
        field: "spec",
        values: |object| object.scalar(&["spec", "nodeName"]).map(Into::into).into_iter().collect(),
    };
    let state = Index {
        name: STATE_INDEX,
        field: "",
        values: |object| {
            let going = object.is_being_deleted().then_some(GOING);
            going.into_iter().chain(has_ended(object).then_some(OVER)).map(str::to_owned).collect()
        },
    };
    let claim = Index {
        name: CLAIM_INDEX,
        field: "spec",
        values: |object| {
            let namespace = object.namespace();
            claims(object).iter().map(|name| format!("{namespace}/{name}")).collect()
        },
    };
    vec![owner, uid, node, state, claim]
}

/// What the informers know, by `resource.group`.
#[derive(Clone, Default)]
pub struct Listers {
    by_resource: Arc<HashMap<String, Lister>>,
    /// Of custom kinds: they come and go with their definitions.
    custom: Arc<RwLock<HashMap<String, Lister>>>,
}

impl Listers {
    pub(crate) fn new(by_resource: HashMap<String, Lister>) -> Self {
        Self { by_resource: Arc::new(by_resource), custom: Arc::default() }
    }

    /// Makes the lister of a custom kind known, or forgets it.
    pub(crate) fn set_custom(&self, resource: &str, lister: Option<Lister>) {
        let mut custom = self.custom.write();
        match lister {
            Some(lister) => custom.insert(resource.to_owned(), lister),
            None => custom.remove(resource),
        };
    }

    /// The lister of any kind, custom ones too.
    pub(crate) fn any(&self, resource: &str) -> Option<Lister> {
        self.get(resource).cloned().or_else(|| self.custom.read().get(resource).cloned())
    }

    /// All listers, those of custom kinds too.
    pub(crate) fn everything(&self) -> Vec<(String, Lister)> {
        let custom = self.custom.read();
        self.by_resource
            .iter()
            .chain(custom.iter())
            .map(|(name, lister)| (name.clone(), lister.clone()))
            .collect()
    }

    /// The lister of a kind that some controller watches.
    pub fn get(&self, resource: &str) -> Option<&Lister> {
        self.by_resource.get(resource)
    }

    /// One object.
    pub fn object(&self, key: &Key) -> Option<Arc<Value>> {
        self.any(&key.resource)?.get(&key.namespace, &key.name)
    }

    /// Objects of a kind that an object owns as their controller.
    pub fn controlled(&self, resource: &str, owner: &Value) -> Vec<Arc<Value>> {
        let Some(lister) = self.get(resource) else { return Vec::new() };
        let mut found = lister.by_index(OWNER_INDEX, meta::uid(owner));
        found.retain(|object| meta::is_controlled_by(object, owner));
        found
    }

    /// The pods bound to a node.
    pub(crate) fn pods_on(&self, node: &str) -> Vec<Arc<Value>> {
        self.get("pods").map(|lister| lister.by_index(NODE_INDEX, node)).unwrap_or_default()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Lister)> {
        self.by_resource.iter()
    }
}

/// Which keys a change of a kind concerns.
pub type KeysOf = fn(&Change, &Listers) -> Vec<Key>;

/// A kind that a controller watches.
#[derive(Clone, Copy)]
pub struct Watch {
    /// The kind.
    pub resource: &'static Resource,
    /// Which keys a change concerns.
    pub keys: KeysOf,
}

/// When a decision is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Milliseconds since 1970 by the wall clock; it may jump.
    pub wall_millis: i64,
    /// Milliseconds since some moment by a clock that never jumps.
    pub steady_millis: i64,
}

impl Now {
    /// Both clocks at the same number.
    #[cfg(test)]
    pub(crate) fn at(millis: i64) -> Self {
        Self { wall_millis: millis, steady_millis: millis }
    }
}

/// A control loop.
pub trait Controller: Send + Sync + 'static {
    /// Its name, in logs and metrics: upstream's.
    fn name(&self) -> &'static str;

    /// Whom its events come from.
    fn component(&self) -> &'static str {
        self.name()
    }

    /// The kinds it watches.
    fn watches(&self) -> Vec<Watch>;

    /// A kind that it watches too, and how long keys wait after a change of it: a key that comes up many times in a pause is
    /// looked at once.
    fn later(&self) -> Option<(Watch, Duration)> {
        None
    }

    /// Keys that are looked at when it starts, whatever there is.
    fn first(&self) -> Vec<Key> {
        Vec::new()
    }

    /// What is to be done for a key. Reads nothing but the listers and the time; a controller that has to know since
    /// when something is so remembers when it saw it, and starts anew with a new leader.
    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan;

    /// What is to be said of an object that no pod could be made for.
    fn no_pod(&self, _listers: &Listers, _key: &Key, _why: &str, _now: Now) -> Option<Action> {
        None
    }
}

/// A row of the table that must be there.
pub(crate) fn kind(group: &str, version: &str, resource: &str) -> &'static Resource {
    table::find(group, version, resource).expect("invariant: the built-in kind is in the table")
}

/// Every kind that is stored and served, once, in a version that is served.
pub(crate) fn served_kinds() -> impl Iterator<Item = &'static Resource> {
    let mut seen = std::collections::HashSet::new();
    let stored =
        table::resources().iter().filter(|resource| resource.served_by_default && resource.is_stored());
    stored.filter(move |resource| seen.insert(resource.storage_prefix.as_str()))
}

/// The changed object's own key.
pub(crate) fn own_key(resource: &str, change: &Change) -> Vec<Key> {
    vec![Key::peeked(resource, &change.object().peek())]
}

/// The key of the changed object's controller, of a kind; before and after the change.
pub(crate) fn controller_key(resource: &str, kind: &str, change: &Change) -> Vec<Key> {
    let of = |object: &Arc<Object>| {
        let object = object.peek();
        let owner = object.controller().filter(|owner| owner.kind == kind)?;
        Some(Key::new(resource, &object.namespace(), &owner.name))
    };
    let mut keys: Vec<Key> =
        [Some(change.object()), change.before()].into_iter().flatten().filter_map(of).collect();
    keys.dedup();
    keys
}

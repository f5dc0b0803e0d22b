//! The table of kinds: every built-in resource of Kubernetes v1.37 with its subresources, and the groups.
//!
//! ```
//! use api_types::table;
//! let deployments = table::find("apps", "v1", "deployments").unwrap();
//! assert_eq!(deployments.storage_prefix, "/registry/deployments/");
//! assert_eq!(deployments.subresource("scale").unwrap().kind, "Scale");
//! assert_eq!(table::groups()[0].name, "");
//! ```

use crate::generated::resources::{GROUPS, RESOURCES};
use crate::schema::MessageId;
use crate::text::{List, Text};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// One resource in one version: of the table, or made from a CustomResourceDefinition.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Text,
    pub version: Text,
    /// Plural name: the path segment.
    pub resource: Text,
    pub singular: Text,
    pub kind: Text,
    /// Kind of a list of them.
    pub list_kind: Text,
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub short_names: List<Text>,
    pub categories: List<Text>,
    /// Key prefix in the store with a trailing slash; empty for kinds that are not stored.
    pub storage_prefix: Text,
    /// Group that upstream stores the kind in (events.k8s.io events are stored as core events).
    pub storage_group: Text,
    /// Version that upstream stores the kind in; empty for kinds that are not stored.
    pub storage_version: Text,
    pub storage_version_hash: Text,
    /// Schema and protobuf of the object; custom resources have none.
    pub message: Option<MessageId>,
    /// The preferred version of the group.
    pub preferred_version: Text,
    /// Whether a server with default settings serves it (all versions that are generally available).
    pub served_by_default: bool,
    pub feature_gate: &'static str,
    /// Release that introduced this version (`1.19`); empty when not known.
    pub introduced: &'static str,
    pub deprecated: &'static str,
    /// First release that no longer serves it.
    pub removed: &'static str,
    pub subresources: List<Subresource>,
}

/// A shared resource: a row of the table, or what a definition made.
#[derive(Clone, Debug)]
pub enum ResourceRef {
    Table(&'static Resource),
    Defined(Arc<Resource>),
}

impl Deref for ResourceRef {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        match self {
            Self::Table(resource) => resource,
            Self::Defined(resource) => resource,
        }
    }
}

impl From<&'static Resource> for ResourceRef {
    fn from(resource: &'static Resource) -> Self {
        Self::Table(resource)
    }
}

impl From<Arc<Resource>> for ResourceRef {
    fn from(resource: Arc<Resource>) -> Self {
        Self::Defined(resource)
    }
}

impl From<&ResourceRef> for ResourceRef {
    fn from(resource: &ResourceRef) -> Self {
        resource.clone()
    }
}

/// One subresource of a resource.
#[derive(Debug)]
pub struct Subresource {
    /// `status`, `scale`, …
    pub name: &'static str,
    /// Kind of the request and response body.
    pub kind: Text,
    /// Group of that kind.
    pub group: Text,
    /// Version of that kind.
    pub version: Text,
    pub verbs: &'static [&'static str],
    /// Schema and protobuf of that kind; the status of a custom resource has none.
    pub message: Option<MessageId>,
    pub served_by_default: bool,
}

/// An API group as discovery lists it.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    /// `groupPriorityMinimum` of the APIService; 0 for apiregistration.k8s.io, which has no APIService.
    pub priority: i32,
    pub preferred_version: &'static str,
    /// By falling priority.
    pub versions: &'static [GroupVersion],
}

/// A version of a [`Group`].
#[derive(Debug)]
pub struct GroupVersion {
    pub version: &'static str,
    /// `versionPriority` of the APIService.
    pub priority: i32,
    /// Whether a server with default settings serves at least one of its resources.
    pub served_by_default: bool,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods` or `deployments.apps`: the name in error messages.
    pub fn qualified(&self) -> String {
        qualified(&self.resource, &self.group)
    }

    /// `Pod` or `Deployment.apps`.
    pub fn qualified_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }

    /// The message of a built-in kind.
    ///
    /// # Panics
    /// For a custom resource: its callers know that the kind is of the table.
    pub fn built_in_message(&self) -> MessageId {
        self.message.expect("invariant: built-in kinds have a message")
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether objects of the kind are kept in the store.
    pub fn is_stored(&self) -> bool {
        !self.storage_prefix.is_empty()
    }

    /// Whether this version is the one that upstream stores.
    pub fn is_storage_version(&self) -> bool {
        self.group == self.storage_group && self.version == self.storage_version
    }

    /// The store key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}{namespace}/{name}", self.storage_prefix),
            false => format!("{}{name}", self.storage_prefix),
        }
    }
}

impl Subresource {
    /// The message of a subresource of a built-in kind.
    ///
    /// # Panics
    /// For the status of a custom resource.
    pub fn built_in_message(&self) -> MessageId {
        self.message.expect("invariant: built-in kinds have a message")
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// `v1` or `autoscaling/v1`: apiVersion of the body.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// `v1` for the core group, else `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `name` for the core group, else `name.group`.
pub fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// All resources in discovery order, also those that a default server does not serve.
pub fn resources() -> &'static [Resource] {
    &RESOURCES
}

/// Where a row of the table stands in [`resources`].
///
/// # Panics
/// For what is no row of the table.
pub fn position(row: &'static Resource) -> usize {
    let (rows, row) = (resources().as_ptr_range(), std::ptr::from_ref(row));
    assert!(rows.contains(&row), "invariant: every resource that lives for ever is a row");
    (row.addr() - rows.start.addr()) / size_of::<Resource>()
}

/// Resources by (group, version, name).
type Rows = HashMap<(&'static str, &'static str, &'static str), &'static Resource>;

/// The resources by a name of theirs; of those that share it the first.
fn rows(name: fn(&'static Resource) -> &'static str) -> Rows {
    RESOURCES.iter().rev().map(|r| ((r.group.as_str(), r.version.as_str(), name(r)), r)).collect()
}

/// The resource with this plural name.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    static BY_NAME: OnceLock<Rows> = OnceLock::new();
    BY_NAME.get_or_init(|| rows(|r| r.resource.as_str())).get(&(group, version, resource)).copied()
}

/// The resource of a kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    static BY_KIND: OnceLock<Rows> = OnceLock::new();
    BY_KIND.get_or_init(|| rows(|r| r.kind.as_str())).get(&(group, version, kind)).copied()
}

/// [`by_kind`] with `apps/v1` or `v1`.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    by_kind(group, version, kind)
}

/// Groups in upstream's order of priority.
pub fn groups() -> &'static [Group] {
    &GROUPS
}

//! Objects that plugins look at.

use std::sync::Arc;

use api_types::status::Status;
use api_types::{Resource, Value, codec, table};
use mvcc::{KeyRange, KeyValue};

use crate::api::Api;
use crate::storage::{self, View};

/// A built-in kind that is stored: its group, version and resource.
pub(crate) type Name = (&'static str, &'static str, &'static str);

pub(super) const NODES: Name = ("", "v1", "nodes");
pub(crate) const NAMESPACES: Name = ("", "v1", "namespaces");

/// The kind of the table.
pub(super) fn resource((group, version, resource): Name) -> &'static Resource {
    table::find(group, version, resource).expect("invariant: plugins name kinds of the table")
}

fn find(view: &View, kind: Name, namespace: &str, name: &str) -> Result<Option<KeyValue>, Status> {
    storage::get(view, resource(kind).key(namespace, name).as_bytes())
}

/// An object as a view has it; what cannot be read is not there.
pub(super) fn get(
    view: &View,
    kind: Name,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    Ok(find(view, kind, namespace, name)?.and_then(|kv| view.tree(&kv)))
}

/// [`get`] of what changes often, and is not kept for others.
pub(super) fn read(view: &View, kind: Name, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    let found = find(view, kind, namespace, name)?;
    Ok(found.and_then(|kv| codec::from_stored(&kv.value, kv.mod_revision).ok()))
}

/// Whether a view has an object.
pub(super) fn is_there(view: &View, kind: Name, namespace: &str, name: &str) -> bool {
    view.contains(resource(kind).key(namespace, name).as_bytes())
}

/// An object as this replica has it, and again behind the other masters' writes when this replica does not have it.
pub(crate) async fn get_fresh(
    api: &Api,
    kind: Name,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    match get(&api.storage.view(), kind, namespace, name)? {
        Some(found) => Ok(Some(found)),
        None => get(&*api.storage.fresh().await?, kind, namespace, name),
    }
}

/// All objects of a kind that can be read.
pub(super) fn list(view: &View, kind: Name) -> Result<Vec<Arc<Value>>, Status> {
    let range = KeyRange::prefix(resource(kind).storage_prefix.to_string());
    let stored: Vec<_> = storage::each(view, &range).collect::<Result<_, _>>()?;
    Ok(stored.iter().filter_map(|kv| view.tree(kv)).collect())
}

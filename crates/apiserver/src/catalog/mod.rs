//! What is served: the table of built-in kinds, and the kinds of established CustomResourceDefinitions.
//!
//! A definition lies under a key that follows from the path of a request (`<plural>.<group>`), so a kind is looked up
//! in the view that the request reads, and compiled anew only when its definition has another revision than the
//! compiled one. There is no second copy that could be behind. Discovery reads all definitions of a view; what it
//! makes of them is kept until one of them changes. [adr/0020](../../../docs/adr/0020-definitions-are-read-in-the-view.md).
//!
//! Reading order: `kind.rs`, `definition.rs`, here.

mod definition;
mod kind;

use std::collections::HashMap;
use std::sync::Arc;

use api_types::definition::compare_versions;
use api_types::status::Status;
use api_types::table;
use mvcc::{KeyRange, View};
use parking_lot::Mutex;

pub(crate) use definition::Definition;
pub(crate) use kind::{CustomKind, Kind};

use crate::discovery;
use crate::storage;

/// Group of the definitions themselves.
const GROUP: &str = "apiextensions.k8s.io";

/// See the module.
#[derive(Default)]
pub(crate) struct Catalog {
    compiled: Mutex<HashMap<String, Arc<Definition>>>,
    all: Mutex<Arc<Definitions>>,
}

/// All established definitions of a view.
#[derive(Default)]
pub(crate) struct Definitions {
    /// Name and revision of each, and of those that are not served.
    seen: Vec<(String, i64)>,
    /// By name.
    pub list: Vec<Arc<Definition>>,
}

fn prefix() -> &'static str {
    let resource = table::find(GROUP, "v1", "customresourcedefinitions");
    resource.expect("invariant: the table holds CustomResourceDefinition").storage_prefix.as_str()
}

impl Catalog {
    /// The kind of a path, as a view has it.
    pub fn find(
        &self,
        view: &View,
        group: &str,
        version: &str,
        resource: &str,
    ) -> Result<Option<Kind>, Status> {
        if let Some(resource) = discovery::find(group, version, resource) {
            return Ok(Some(Kind::BuiltIn(resource)));
        }
        if !group.contains('.') || resource.is_empty() {
            return Ok(None);
        }
        let definition = self.definition(view, &format!("{resource}.{group}"))?;
        Ok(definition.and_then(|found| found.served(version).map(|kind| Kind::Custom(kind.clone()))))
    }

    /// A definition that is established.
    fn definition(&self, view: &View, name: &str) -> Result<Option<Arc<Definition>>, Status> {
        let Some(kv) = storage::get(view, format!("{}{name}", prefix()).as_bytes())? else {
            self.compiled.lock().remove(name);
            return Ok(None);
        };
        self.compile(name, &kv)
    }

    fn compile(&self, name: &str, kv: &mvcc::KeyValue) -> Result<Option<Arc<Definition>>, Status> {
        if let Some(found) = self.compiled.lock().get(name)
            && found.revision == kv.mod_revision
        {
            return Ok(Some(found.clone()));
        }
        let Some(definition) = Definition::read(kv)?.map(Arc::new) else { return Ok(None) };
        self.compiled.lock().insert(name.to_owned(), definition.clone());
        Ok(Some(definition))
    }

    /// All established definitions, as a view has them.
    pub fn all(&self, view: &View) -> Result<Arc<Definitions>, Status> {
        let prefix = prefix();
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for kv in storage::each(view, &KeyRange::prefix(prefix)) {
            let kv = kv?;
            let name = String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
            seen.push((name, kv.mod_revision));
            found.push(kv);
        }
        let current = self.all.lock().clone();
        if current.seen == seen {
            return Ok(current);
        }
        let mut list = Vec::new();
        for ((name, _), kv) in seen.iter().zip(&found) {
            list.extend(self.compile(name, kv)?);
        }
        // Nobody may ask for a definition again that was deleted. The names are in order, as their keys are.
        let is_there = |name: &String| seen.binary_search_by(|(seen, _)| seen.cmp(name)).is_ok();
        self.compiled.lock().retain(|name, _| is_there(name));
        let all = Arc::new(Definitions { seen, list });
        *self.all.lock() = all.clone();
        Ok(all)
    }
}

fn shown(kind: &CustomKind) -> String {
    let resource = &kind.resource;
    format!("{}/{}/{}@{};", resource.group, resource.version, resource.resource, kind.published.hash)
}

impl Definitions {
    /// What tells these definitions from others: names and revisions.
    pub fn fingerprint(&self) -> String {
        self.seen.iter().map(|(name, revision)| format!("{name}@{revision};")).collect()
    }

    /// What tells that which OpenAPI shows of these definitions from what it shows of others.
    pub fn published(&self) -> String {
        let kinds = self.list.iter().flat_map(|definition| &definition.kinds);
        kinds.map(|kind| shown(kind)).collect()
    }

    /// The same for a group and version.
    pub fn published_of(&self, group: &str, version: &str) -> String {
        self.kinds(group, version).map(|kind| shown(kind)).collect()
    }

    /// Groups that have a served version, each with its versions, the preferred first.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for definition in &self.list {
            let versions = definition.kinds.iter().map(|kind| kind.resource.version.as_str());
            match groups.iter_mut().find(|(group, _)| *group == definition.group) {
                Some((_, known)) => known.extend(versions),
                None => groups.push((&definition.group, versions.collect())),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by(|a, b| compare_versions(a, b));
            versions.dedup();
        }
        groups.retain(|(_, versions)| !versions.is_empty());
        groups.sort_unstable();
        groups
    }

    /// The served kinds of a group and version.
    pub fn kinds<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<CustomKind>> {
        let of_group = self.list.iter().filter(move |definition| definition.group == group);
        of_group.filter_map(move |definition| definition.served(version))
    }
}

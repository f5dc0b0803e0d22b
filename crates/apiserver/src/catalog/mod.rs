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
use api_types::{Resource, table};
use mvcc::{KeyRange, Revision};
use parking_lot::Mutex;

pub(crate) use definition::Definition;
pub(crate) use kind::{CustomKind, Kind};

use crate::discovery;
use crate::storage::{self, View};

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

/// Where a definition lies.
pub(crate) fn definition_key(name: &str) -> String {
    format!("{}{name}", prefix())
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
        let Some(revision) = view.mod_revision(definition_key(name).as_bytes()) else {
            self.compiled.lock().remove(name);
            return Ok(None);
        };
        self.compile(view, name, revision)
    }

    /// The other served kinds that show the same objects.
    pub fn equivalents(&self, view: &View, kind: &Kind) -> Result<Vec<Kind>, Status> {
        let Kind::Custom(custom) = kind else { return Ok(other_built_in(kind)) };
        let found = self.definition(view, &custom.resource.qualified())?;
        let kinds = found.iter().flat_map(|definition| &definition.kinds);
        let others = kinds.filter(|other| other.resource.version != custom.resource.version);
        Ok(others.map(|other| Kind::Custom(other.clone())).collect())
    }

    /// The kind of objects with this `apiVersion` and `kind`.
    pub fn by_kind(&self, view: &View, api_version: &str, kind: &str) -> Result<Option<Kind>, Status> {
        if let Some(resource) = table::by_api_version(api_version, kind) {
            return Ok(Some(Kind::BuiltIn(resource)));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let all = self.all(view)?;
        let found = all.kinds(group, version).find(|custom| custom.resource.kind == kind);
        Ok(found.map(|custom| Kind::Custom(custom.clone())))
    }

    fn compile(
        &self,
        view: &View,
        name: &str,
        revision: Revision,
    ) -> Result<Option<Arc<Definition>>, Status> {
        if let Some(found) = self.compiled.lock().get(name)
            && found.revision == revision
        {
            return Ok(Some(found.clone()));
        }
        let Some(kv) = storage::get(view, definition_key(name).as_bytes())? else { return Ok(None) };
        let Some(definition) = Definition::read(&kv)?.map(Arc::new) else { return Ok(None) };
        self.compiled.lock().insert(name.to_owned(), definition.clone());
        Ok(Some(definition))
    }

    /// All established definitions, as a view has them.
    pub fn all(&self, view: &View) -> Result<Arc<Definitions>, Status> {
        let prefix = prefix();
        let range = KeyRange::prefix(prefix);
        let stored = || view.revisions(&range).map(|(key, revision)| (&key[prefix.len()..], revision));
        let current = self.all.lock().clone();
        let known = current.seen.iter().map(|(name, revision)| (name.as_bytes(), *revision));
        if stored().eq(known) {
            return Ok(current);
        }
        let named = |(name, revision): (&[u8], i64)| (String::from_utf8_lossy(name).into_owned(), revision);
        let seen: Vec<(String, i64)> = stored().map(named).collect();
        let mut list = Vec::new();
        for (name, revision) in &seen {
            list.extend(self.compile(view, name, *revision)?);
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

/// The served built-in kinds that show the same objects as another one: in other versions, in other groups.
pub(crate) fn other_built_in(own: &Resource) -> Vec<Kind> {
    let same = |other: &&'static Resource| {
        other.storage_prefix == own.storage_prefix
            && (&other.group, &other.version) != (&own.group, &own.version)
            && discovery::is_served(other)
    };
    table::resources().iter().filter(same).map(Kind::BuiltIn).collect()
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

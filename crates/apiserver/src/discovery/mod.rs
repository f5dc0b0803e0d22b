//! What the server serves: groups, versions, resources, and the OpenAPI documents of them.

mod aggregated;
mod descriptions;
mod documents;
mod openapi;
mod openapi_v2;
mod plain;

use std::cmp::Reverse;

use api_types::status::Status;
use api_types::table::{self, Group};
use api_types::{Resource, Value};
use http::{Response, header};

pub(crate) use documents::{Documents, Packed, hash};

use crate::aggregation::{RemoteVersion, by_version_priority};
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::catalog::Definitions;
use crate::negotiate::{self, Format};
use crate::storage::View;

/// Whether a resource of the table is served.
pub(crate) fn is_served(resource: &Resource) -> bool {
    resource.served_by_default
}

/// The served resource of a path.
pub(crate) fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    table::find(group, version, resource).filter(|resource| is_served(resource))
}

/// Whether a group has such a version.
pub(crate) fn has_version(group: &str, version: &str) -> bool {
    table::resources().iter().any(|r| r.group == group && r.version == version && is_served(r))
}

/// Whether a built-in group has that name.
pub(crate) fn has_group(group: &str) -> bool {
    table::resources().iter().any(|resource| resource.group == group && is_served(resource))
}

/// Whether upstream serves a path by a route, which takes one method and has certain representations, and not by a
/// plain handler.
pub(crate) fn is_route(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version" | "api"] | ["openid", "v1", "jwks"] | [".well-known", "openid-configuration"] => true,
        ["api", version] => has_version("", version),
        ["apis", group, version] => has_version(group, version),
        _ => false,
    }
}

/// Whether a path lies where upstream's routes do: what is not found there is told as a Status.
pub(crate) fn is_below_route(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["version" | "api", _, ..] => true,
        ["apis", group, _, ..] => has_group(group),
        _ => false,
    }
}

/// Groups with at least one served version, without the core.
fn groups() -> impl Iterator<Item = &'static Group> {
    table::groups().iter().filter(|group| group.versions.iter().any(|version| version.served_by_default))
}

fn resources(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    table::resources().iter().filter(move |r| r.group == group && r.version == version && is_served(r))
}

/// Everything that is served of a group and version: built-in kinds, then those of definitions.
fn all_resources<'a>(
    definitions: &'a Definitions,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    let built_in = resources(group, version).map(|resource| -> &'a Resource { resource });
    built_in.chain(definitions.kinds(group, version).map(|kind| &kind.resource))
}

/// Group priority of apiregistration.k8s.io, which has no APIService and goes before all that have one (upstream's).
const FIRST: i64 = 20_001;
/// Priorities of a definition's group and versions (upstream: `crdregistration`).
const CUSTOM: (i64, i64) = (1000, 100);

/// A group as discovery lists it.
pub(crate) struct ServedGroup {
    pub name: String,
    /// The preferred one first.
    pub versions: Vec<ServedVersion>,
}

/// A version of a group.
pub(crate) struct ServedVersion {
    pub name: String,
    group_priority: i64,
    priority: i64,
    /// What the server says of it that serves it in this one's place.
    pub remote: Option<Value>,
}

impl ServedGroup {
    fn priority(&self) -> i64 {
        self.versions.iter().map(|version| version.group_priority).max().unwrap_or_default()
    }

    /// Where plain discovery lists it: at the place of its first APIService, by priority and then by name.
    fn place(&self) -> (Reverse<i64>, String) {
        let priority = self.priority();
        let first = self.versions.iter().filter(|version| version.group_priority == priority);
        let names = first.map(|version| format!("{}.{}", version.name, self.name));
        (Reverse(priority), names.min().unwrap_or_default())
    }
}

/// All served groups with their versions. Versions that other servers serve take the place of our own.
fn all_groups(definitions: &Definitions, remotes: Vec<RemoteVersion>) -> Vec<ServedGroup> {
    let own = |name: &str, (group_priority, priority): (i64, i64)| ServedVersion {
        name: name.to_owned(),
        group_priority,
        priority,
        remote: None,
    };
    let built_in = groups().flat_map(|group| {
        let priority = if group.priority == 0 { FIRST } else { i64::from(group.priority) };
        let served = group.versions.iter().filter(|version| version.served_by_default);
        served.map(move |version| {
            (group.name.to_owned(), own(version.version, (priority, i64::from(version.priority))))
        })
    });
    let custom = definitions.groups().into_iter().flat_map(|(group, versions)| {
        versions.into_iter().map(move |version| (group.to_owned(), own(version, CUSTOM)))
    });
    let remote = remotes.into_iter().map(|one| {
        let (group_priority, priority) = (one.group_priority, one.version_priority);
        (one.group, ServedVersion { name: one.version, group_priority, priority, remote: Some(one.document) })
    });
    let mut all: Vec<ServedGroup> = Vec::new();
    for (name, version) in built_in.chain(custom).chain(remote) {
        let at = all.iter().position(|group| group.name == name).unwrap_or_else(|| {
            all.push(ServedGroup { name, versions: Vec::new() });
            all.len() - 1
        });
        let versions = &mut all[at].versions;
        match versions.iter_mut().find(|known| known.name == version.name) {
            Some(known) if version.remote.is_some() => *known = version,
            Some(_) => {}
            None => versions.push(version),
        }
    }
    for group in &mut all {
        group.versions.sort_by(|a, b| {
            by_version_priority((a.priority, a.name.as_str()), (b.priority, b.name.as_str()))
        });
    }
    all
}

/// In the order of plain discovery (upstream: `SortedByGroupAndVersion`).
fn plain_groups(definitions: &Definitions, remotes: Vec<RemoteVersion>) -> Vec<ServedGroup> {
    let mut all = all_groups(definitions, remotes);
    all.sort_by_cached_key(ServedGroup::place);
    all
}

/// In the order of aggregated discovery: by priority, then by name.
fn aggregated_groups(definitions: &Definitions, remotes: Vec<RemoteVersion>) -> Vec<ServedGroup> {
    let mut all = all_groups(definitions, remotes);
    all.sort_by_cached_key(|group| (Reverse(group.priority()), group.name.clone()));
    all
}

impl Api {
    /// Answers `/api`, `/apis` and what lies below them down to a version; none for other paths.
    pub(crate) fn discovery(&self, call: &Call) -> Result<Option<Response<Body>>, Status> {
        let parts: Vec<&str> = call.info.path.split('/').filter(|part| !part.is_empty()).collect();
        let aggregated = negotiate::aggregated_discovery(call.header(header::ACCEPT));
        let view = self.storage.view();
        let definitions = self.catalog.all(&view)?;
        match (parts.as_slice(), aggregated) {
            (["api"], Some(format)) => self.aggregated(call, format, true, &view, &definitions).map(Some),
            (["apis"], Some(format)) => self.aggregated(call, format, false, &view, &definitions).map(Some),
            (parts, _) => self.plain(call, parts, &view, &definitions),
        }
    }

    fn plain(
        &self,
        call: &Call,
        parts: &[&str],
        view: &View,
        definitions: &Definitions,
    ) -> Result<Option<Response<Body>>, Status> {
        let groups = || plain_groups(definitions, self.aggregation.versions(view));
        match parts {
            ["api"] => plain::versions(call).map(Some),
            ["apis"] => plain::groups(call, &groups()).map(Some),
            ["apis", group] => plain::group(call, &groups(), group),
            ["api", version] => plain::resources(call, definitions, "", version),
            ["apis", group, version] => plain::resources(call, definitions, group, version),
            _ => Ok(None),
        }
    }

    fn aggregated(
        &self,
        call: &Call,
        format: Format,
        core: bool,
        view: &View,
        definitions: &Definitions,
    ) -> Result<Response<Body>, Status> {
        let document = match core {
            true => self.documents.core(),
            false => {
                // The fingerprint first: what is newer than it is made again.
                let of = definitions.fingerprint() + &self.aggregation.fingerprint(view);
                self.documents.groups(
                    of,
                    || aggregated_groups(definitions, self.aggregation.versions(view)),
                    definitions,
                )
            }
        };
        let known = call.header(header::IF_NONE_MATCH);
        let media = aggregated::media_type(format);
        let mut response = match (known == document.etag, format) {
            (true, _) => body::response(304, &media, ""),
            (false, Format::Protobuf) => body::response(200, &media, aggregated::protobuf(&document.json)?),
            (false, _) => body::response(200, &media, document.json.clone()),
        };
        body::set_header(&mut response, header::ETAG, &document.etag);
        body::set_header(&mut response, header::VARY, "Accept");
        body::set_header(&mut response, header::CACHE_CONTROL, "public");
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn remote(group: &str, version: &str, group_priority: i64, version_priority: i64) -> RemoteVersion {
        let document = json!({"version": version});
        RemoteVersion {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority,
            version_priority,
            document,
        }
    }

    #[test]
    fn built_in_groups_are_in_the_tables_order() {
        let none = Definitions::default();
        let names = |all: &[ServedGroup]| all.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
        let plain = plain_groups(&none, Vec::new());
        assert_eq!(names(&plain)[..3], ["apiregistration.k8s.io", "", "apps"]);
        assert_eq!(names(&plain), names(&aggregated_groups(&none, Vec::new())));
        for group in &plain {
            let known = table::groups().iter().find(|known| known.name == group.name).unwrap();
            assert_eq!(group.versions[0].name, known.preferred_version, "{}", group.name);
        }
    }

    #[test]
    fn other_servers_take_their_place() {
        let remotes = || {
            vec![
                remote("metrics.k8s.io", "v1beta1", 100, 100),
                remote("metrics.k8s.io", "v1", 100, 100),
                remote("first.io", "v1alpha1", 19_000, 1),
                remote("first.io", "v1", 200, 1),
                remote("a.io", "v2", 100, 9),
                remote("apps", "v1", 17_900, 15),
            ]
        };
        let none = Definitions::default();
        let all = plain_groups(&none, remotes());
        let names: Vec<&str> = all.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names[..4], ["apiregistration.k8s.io", "first.io", "", "apps"]);
        assert_eq!(names[names.len() - 2..], ["metrics.k8s.io", "a.io"], "by the names of APIServices");
        let all = aggregated_groups(&none, remotes());
        let names: Vec<&str> = all.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names[names.len() - 2..], ["a.io", "metrics.k8s.io"]);
        let versions = |name: &str| -> Vec<&str> {
            let group = all.iter().find(|group| group.name == name).unwrap();
            group.versions.iter().map(|version| version.name.as_str()).collect()
        };
        assert_eq!(versions("metrics.k8s.io"), ["v1", "v1beta1"]);
        let apps = all.iter().find(|group| group.name == "apps").unwrap();
        assert!(apps.versions.len() == 1 && apps.versions[0].remote.is_some());
    }
}

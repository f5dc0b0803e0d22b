//! What the server serves: groups, versions, resources, and the OpenAPI documents of them.

mod aggregated;
mod descriptions;
mod documents;
mod openapi;
mod openapi_v2;
mod plain;

use api_types::Resource;
use api_types::status::Status;
use api_types::table::{self, Group};
use http::{Response, header};

pub(crate) use documents::Documents;

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::catalog::Definitions;
use crate::negotiate::{self, Format};

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

/// Groups with at least one served version, without the core.
fn groups() -> impl Iterator<Item = &'static Group> {
    table::groups().iter().filter(|group| group.versions.iter().any(|version| version.served_by_default))
}

/// Versions of a group that are served, the preferred one first.
fn versions(group: &Group) -> impl Iterator<Item = &'static str> {
    group.versions.iter().filter(|version| version.served_by_default).map(|version| version.version)
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

/// Groups with their served versions, the preferred first: built-in groups in upstream's order, then those of
/// definitions by name. A definition may add a version to a built-in group.
fn all_groups(definitions: &Definitions) -> Vec<(String, Vec<String>)> {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let mut all: Vec<(String, Vec<String>)> = groups()
        .map(|group| {
            let mut list: Vec<&str> = versions(group).collect();
            if let Some(at) = list.iter().position(|version| *version == group.preferred_version) {
                let preferred = list.remove(at);
                list.insert(0, preferred);
            }
            (group.name.to_owned(), owned(&list))
        })
        .collect();
    for (name, versions) in definitions.groups() {
        match all.iter_mut().find(|(group, _)| group == name) {
            Some((_, known)) => {
                let more: Vec<&str> =
                    versions.into_iter().filter(|v| !known.iter().any(|k| k == v)).collect();
                known.extend(owned(&more));
            }
            None => all.push((name.to_owned(), owned(&versions))),
        }
    }
    all
}

impl Api {
    /// Answers `/api`, `/apis` and what lies below them down to a version; none for other paths.
    pub(crate) fn discovery(&self, call: &Call) -> Result<Option<Response<Body>>, Status> {
        let parts: Vec<&str> = call.info.path.split('/').filter(|part| !part.is_empty()).collect();
        let aggregated = negotiate::aggregated_discovery(call.header(header::ACCEPT));
        let definitions = self.catalog.all(&self.storage.view())?;
        match (parts.as_slice(), aggregated) {
            (["api"], Some(format)) => self.aggregated(call, format, true, &definitions).map(Some),
            (["apis"], Some(format)) => self.aggregated(call, format, false, &definitions).map(Some),
            (parts, _) => Self::plain(call, parts, &definitions),
        }
    }

    fn plain(
        call: &Call,
        parts: &[&str],
        definitions: &Definitions,
    ) -> Result<Option<Response<Body>>, Status> {
        match parts {
            ["api"] => plain::versions(call).map(Some),
            ["apis"] => plain::groups(call, definitions).map(Some),
            ["apis", group] => plain::group(call, definitions, group),
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
        definitions: &Definitions,
    ) -> Result<Response<Body>, Status> {
        let document = self.documents.aggregated(core, definitions);
        let known = call.header(header::IF_NONE_MATCH);
        let media = aggregated::media_type(format);
        let mut response = match (known == document.etag, format) {
            (true, _) => body::response(304, &media, ""),
            (false, Format::Protobuf) => body::response(200, &media, aggregated::protobuf(&document.json)?),
            (false, _) => body::response(200, &media, document.json.clone()),
        };
        body::set_header(&mut response, header::ETAG, &document.etag);
        body::set_header(&mut response, header::VARY, "Accept");
        Ok(response)
    }
}

//! What the server serves: groups, versions, resources, and the OpenAPI documents of them.

mod aggregated;
mod openapi;
mod openapi_v2;
mod plain;

use api_types::Resource;
use api_types::status::Status;
use api_types::table::{self, Group};
use http::{Response, header};

pub(crate) use openapi::Documents;

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::negotiate;

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

impl Api {
    /// Answers `/api`, `/apis` and what lies below them down to a version; none for other paths.
    pub(crate) fn discovery(&self, call: &Call) -> Option<Result<Response<Body>, Status>> {
        let parts: Vec<&str> = call.info.path.split('/').filter(|part| !part.is_empty()).collect();
        let aggregated = negotiate::wants_aggregated_discovery(call.header(header::ACCEPT));
        Some(match parts.as_slice() {
            ["api"] if aggregated => Ok(self.aggregated(call, true)),
            ["apis"] if aggregated => Ok(self.aggregated(call, false)),
            ["api"] => plain::versions(call),
            ["apis"] => plain::groups(call),
            ["apis", group] => plain::group(call, group)?,
            ["api", version] => plain::resources(call, "", version)?,
            ["apis", group, version] => plain::resources(call, group, version)?,
            _ => return None,
        })
    }

    fn aggregated(&self, call: &Call, core: bool) -> Response<Body> {
        let document = self.documents.aggregated(core);
        let known = call.header(header::IF_NONE_MATCH);
        let mut response = match known == document.etag {
            true => body::response(304, aggregated::MEDIA, ""),
            false => body::response(200, aggregated::MEDIA, document.json.clone()),
        };
        body::set_header(&mut response, header::ETAG, &document.etag);
        body::set_header(&mut response, header::VARY, "Accept");
        response
    }
}

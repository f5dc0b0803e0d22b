//! OpenAPI v3 by group and version, made when first asked for; OpenAPI v2 as one document, made each time: few ask.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api_types::status::Status;
use api_types::{Value, openapi};
use bytes::Bytes;
use http::{Response, header};
use parking_lot::Mutex;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{aggregated, groups, is_served, openapi_v2, versions};
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::negotiate::{self, JSON};

/// A document that does not change while the server runs.
pub(crate) struct Document {
    pub json: Bytes,
    pub etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let json = value.to_string();
        let etag = format!("\"{}\"", hash(json.as_bytes()));
        Self { json: json.into(), etag }
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A document follows from the release and its path: the index needs no document to name its hash.
fn path_hash(path: &str) -> String {
    hash(format!("{} {} {path}", openapi::RELEASE, env!("CARGO_PKG_VERSION")).as_bytes())
}

/// The documents that were asked for so far: at most one a group and version.
#[derive(Default)]
pub(crate) struct Documents {
    core: OnceLock<Document>,
    groups: OnceLock<Document>,
    v3: Mutex<HashMap<String, Bytes>>,
}

impl Documents {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn aggregated(&self, core: bool) -> &Document {
        let cell = if core { &self.core } else { &self.groups };
        cell.get_or_init(|| Document::new(&aggregated::document(core)))
    }

    fn v3(&self, path: &str) -> Option<Bytes> {
        if let Some(found) = self.v3.lock().get(path) {
            return Some(found.clone());
        }
        let (group, version) = all().find(|(group, version)| openapi::path_of(group, version) == path)?;
        let document = openapi::document(group, version, &is_served)?;
        let json = Bytes::from(document.to_string());
        self.v3.lock().insert(path.to_owned(), json.clone());
        Some(json)
    }
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    groups().flat_map(|group| versions(group).map(|version| (group.name, version)))
}

fn index() -> Value {
    let mut paths = Map::new();
    for (group, version) in all() {
        let path = openapi::path_of(group, version);
        let url = format!("/openapi/v3/{path}?hash={}", path_hash(&path));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

impl Api {
    /// Answers `/openapi/…`; none for other paths.
    pub(crate) fn openapi(&self, call: &Call) -> Option<Result<Response<Body>, Status>> {
        let path = call.info.path.trim_matches('/').strip_prefix("openapi/")?;
        if path == "v2" {
            return Some(v2(call));
        }
        if path == "v3" {
            return Some(json_only(call).map(|()| body::response(200, JSON, index().to_string())));
        }
        let path = path.strip_prefix("v3/")?;
        let json = self.documents.v3(path)?;
        if let Err(status) = json_only(call) {
            return Some(Err(status));
        }
        let mut response = body::response(200, JSON, json);
        let hash = path_hash(path);
        body::set_header(&mut response, header::ETAG, &format!("\"{hash}\""));
        if call.query.get("hash") == hash {
            body::set_header(&mut response, header::CACHE_CONTROL, "public, immutable");
        }
        Some(Ok(response))
    }
}

fn v2(call: &Call) -> Result<Response<Body>, Status> {
    let mut accepted = call.header(header::ACCEPT).split(',').map(negotiate::media_type);
    if accepted.any(|media| media == openapi_v2::ASKED || media == openapi_v2::PROTOBUF) {
        let document = openapi_v2::protobuf(&openapi_v2::document(all()));
        return Ok(body::response(200, openapi_v2::PROTOBUF, document));
    }
    json_only(call)?;
    Ok(body::response(200, JSON, openapi_v2::document(all()).to_string()))
}

/// The documents are offered as JSON only; clients that ask for protobuf name JSON behind it or fall back.
fn json_only(call: &Call) -> Result<(), Status> {
    let accept = call.header(header::ACCEPT);
    let json = accept.is_empty()
        || accept.split(',').any(|clause| {
            let media = negotiate::media_type(clause);
            media == JSON || media == "*/*" || media == "application/*"
        });
    if json { Ok(()) } else { Err(Status::not_acceptable(&[JSON])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_names_documents_that_exist() {
        let index = index();
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
        let documents = Documents::default();
        assert!(documents.v3("apis/apps/v1").is_some());
        assert!(documents.v3("apis/apps/v9").is_none());
    }
}

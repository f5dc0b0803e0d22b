//! OpenAPI v3 by group and version, made when first asked for; OpenAPI v2 as one document, made each time: few ask.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api_types::status::Status;
use api_types::{Resource, Value, openapi};
use bytes::Bytes;
use http::{Response, header};
use parking_lot::Mutex;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{aggregated, custom, openapi_v2};
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::catalog::Definitions;
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

/// A document follows from the release, its path and the definitions it shows (`of`): the index needs no document to
/// name its hash.
fn path_hash(path: &str, of: &str) -> String {
    hash(format!("{} {} {path} {of}", openapi::RELEASE, env!("CARGO_PKG_VERSION")).as_bytes())
}

/// The documents that were asked for so far: at most one a group and version.
#[derive(Default)]
pub(crate) struct Documents {
    core: OnceLock<Arc<Document>>,
    /// With the definitions that it shows.
    groups: Mutex<Option<(String, Arc<Document>)>>,
    /// With their hashes.
    v3: Mutex<HashMap<String, (String, Bytes)>>,
}

impl Documents {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn aggregated(&self, core: bool, definitions: &Definitions) -> Arc<Document> {
        if core {
            let new = || Arc::new(Document::new(&aggregated::document(true, &Definitions::default())));
            return self.core.get_or_init(new).clone();
        }
        let of = definitions.fingerprint();
        let mut kept = self.groups.lock();
        match &*kept {
            Some((known, document)) if *known == of => document.clone(),
            _ => {
                let document = Arc::new(Document::new(&aggregated::document(false, definitions)));
                *kept = Some((of, document.clone()));
                document
            }
        }
    }

    /// The document of a path, with its hash.
    fn v3(&self, path: &str, definitions: &Definitions) -> Option<(String, Bytes)> {
        let all = all(definitions);
        let (group, version) =
            all.iter().find(|(group, version)| openapi::path_of(group, version) == path)?;
        let hash = path_hash(path, &shown(definitions, group, version));
        if let Some((known, json)) = self.v3.lock().get(path)
            && *known == hash
        {
            return Some((hash, json.clone()));
        }
        let resources: Vec<&Resource> = super::all_resources(definitions, group, version).collect();
        let schemas = custom::schemas(definitions, group, version, false);
        let mut document = openapi::document_of(group, version, &resources, &schemas);
        custom::describe_metadata(&mut document["components"]["schemas"]);
        let json = Bytes::from(document.to_string());
        self.v3.lock().insert(path.to_owned(), (hash.clone(), json.clone()));
        Some((hash, json))
    }
}

/// Everything that is served, by group and version.
fn all(definitions: &Definitions) -> Vec<(String, String)> {
    let groups = super::all_groups(definitions).into_iter();
    groups.flat_map(|(group, versions)| versions.into_iter().map(move |v| (group.clone(), v))).collect()
}

/// What tells the definitions of a group and version from others.
fn shown(definitions: &Definitions, group: &str, version: &str) -> String {
    let kinds = definitions.kinds(group, version);
    kinds.map(|kind| format!("{}@{};", kind.resource.resource, kind.revision)).collect()
}

fn index(definitions: &Definitions) -> Value {
    let mut paths = Map::new();
    for (group, version) in all(definitions) {
        let path = openapi::path_of(&group, &version);
        let hash = path_hash(&path, &shown(definitions, &group, &version));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

impl Api {
    /// Answers `/openapi/…`; none for other paths.
    pub(crate) fn openapi(&self, call: &Call) -> Result<Option<Response<Body>>, Status> {
        let Some(path) = call.info.path.trim_matches('/').strip_prefix("openapi/") else { return Ok(None) };
        let definitions = self.catalog.all(&self.storage.view())?;
        if path == "v2" {
            return v2(call, &definitions).map(Some);
        }
        if path == "v3" {
            json_only(call)?;
            return Ok(Some(body::response(200, JSON, index(&definitions).to_string())));
        }
        let Some(path) = path.strip_prefix("v3/") else { return Ok(None) };
        let Some((hash, json)) = self.documents.v3(path, &definitions) else { return Ok(None) };
        json_only(call)?;
        let mut response = body::response(200, JSON, json);
        body::set_header(&mut response, header::ETAG, &format!("\"{hash}\""));
        if call.query.get("hash") == hash {
            body::set_header(&mut response, header::CACHE_CONTROL, "public, immutable");
        }
        Ok(Some(response))
    }
}

/// The document follows from the release and the definitions: who has it already is told so before it is made.
fn v2(call: &Call, definitions: &Definitions) -> Result<Response<Body>, Status> {
    let etag = format!("\"{}\"", path_hash("v2", &definitions.fingerprint()));
    let mut response = match call.header(header::IF_NONE_MATCH) == etag {
        true => body::response(304, JSON, ""),
        false => v2_document(call, definitions)?,
    };
    body::set_header(&mut response, header::ETAG, &etag);
    Ok(response)
}

fn v2_document(call: &Call, definitions: &Definitions) -> Result<Response<Body>, Status> {
    let document = || openapi_v2::document(definitions, &all(definitions));
    let mut accepted = call.header(header::ACCEPT).split(',').map(negotiate::media_type);
    if accepted.any(|media| media == openapi_v2::ASKED || media == openapi_v2::PROTOBUF) {
        return Ok(body::response(200, openapi_v2::PROTOBUF, openapi_v2::protobuf(&document())));
    }
    json_only(call)?;
    Ok(body::response(200, JSON, document().to_string()))
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
        let none = Definitions::default();
        let index = index(&none);
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
        let documents = Documents::default();
        assert!(documents.v3("apis/apps/v1", &none).is_some());
        assert!(documents.v3("apis/apps/v9", &none).is_none());
    }
}

//! The documents of discovery and OpenAPI, made when they are first asked for and kept, packed, while what they show
//! stays the same: the release and the definitions.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use api_types::{Resource, Value, openapi};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::descriptions::{self, Descriptions};
use super::{ServedGroup, aggregated, openapi_v2};
use crate::catalog::Definitions;

/// Bytes of packed documents of OpenAPI v3 that are kept; who was asked for longest ago goes first.
const KEPT_BYTES: usize = 32 << 20;

/// A document of aggregated discovery.
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

/// How a document of OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// A document as gzip: about an eighth of its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub gzip: Bytes,
    /// Bytes of the document itself.
    size: usize,
}

impl Packed {
    pub fn new(document: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::with_capacity(document.len() / 6), Compression::default());
        let written = encoder.write_all(document).and_then(|()| encoder.finish());
        Self { gzip: written.expect("invariant: memory takes every write").into(), size: document.len() }
    }

    pub fn unpack(&self) -> Vec<u8> {
        let mut document = Vec::with_capacity(self.size);
        GzDecoder::new(&*self.gzip)
            .read_to_end(&mut document)
            .expect("invariant: what was packed here can be unpacked");
        document
    }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A document follows from the program, its path and the definitions that it shows (`of`): nobody needs it to name its
/// hash.
fn path_hash(path: &str, of: &str) -> String {
    let program = format!("{} {} {}", openapi::RELEASE, openapi::SOURCE, descriptions::hash());
    hash(format!("{program} {path} {of}").as_bytes())
}

/// See the module.
#[derive(Default)]
pub(crate) struct Documents {
    core: OnceLock<Arc<Document>>,
    /// With the definitions that it shows.
    groups: Mutex<Option<(String, Arc<Document>)>>,
    v3: Mutex<Kept>,
    /// Held while a document of v3 is made, which takes some ten megabytes: one at a time.
    making: Mutex<()>,
    /// The last one that was asked for of each form. Each is made while its lock is held: nobody makes it twice.
    v2_json: Mutex<Option<(String, Packed)>>,
    v2_protobuf: Mutex<Option<(String, Packed)>>,
}

impl Documents {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Aggregated discovery of `/api`.
    pub fn core(&self) -> Arc<Document> {
        self.core.get_or_init(|| Arc::new(Document::new(&aggregated::core()))).clone()
    }

    /// Aggregated discovery of `/apis`; `of` tells what it shows from what it showed before.
    pub fn groups(
        &self,
        of: String,
        all: impl FnOnce() -> Vec<ServedGroup>,
        definitions: &Definitions,
    ) -> Arc<Document> {
        let mut kept = self.groups.lock();
        match &*kept {
            Some((known, document)) if *known == of => document.clone(),
            _ => {
                let document = Arc::new(Document::new(&aggregated::groups(&all(), definitions)));
                *kept = Some((of, document.clone()));
                document
            }
        }
    }

    /// The document of OpenAPI v2; `hash` is [`v2_hash`] of these definitions and what other servers add.
    pub(super) fn v2(&self, form: Form, hash: &str, definitions: &Definitions, others: &[Packed]) -> Packed {
        let kept = match form {
            Form::Json => &self.v2_json,
            Form::Protobuf => &self.v2_protobuf,
        };
        let mut kept = kept.lock();
        match &*kept {
            Some((known, packed)) if known == hash => packed.clone(),
            _ => {
                let packed = Packed::new(&match form {
                    Form::Json if others.is_empty() => openapi_v2::json(definitions),
                    Form::Protobuf if others.is_empty() => openapi_v2::protobuf(definitions),
                    Form::Json => openapi_v2::merged(definitions, others).to_string().into_bytes(),
                    Form::Protobuf => openapi::proto::v2(&openapi_v2::merged(definitions, others)),
                });
                *kept = Some((hash.to_owned(), packed.clone()));
                packed
            }
        }
    }

    /// The document of a path; `hash` is [`v3_hash`] of it.
    pub(super) fn v3(&self, path: &str, form: Form, hash: &str, definitions: &Definitions) -> Option<Packed> {
        if let Some(packed) = self.v3.lock().get(path, form, hash) {
            return Some(packed);
        }
        let _making = self.making.lock();
        if let Some(packed) = self.v3.lock().get(path, form, hash) {
            return Some(packed);
        }
        let document = v3_document(path, definitions)?;
        let packed = Packed::new(&match form {
            Form::Json => document.to_string().into_bytes(),
            Form::Protobuf => openapi::proto::v3(&document),
        });
        self.v3.lock().put(path, form, hash, packed.clone());
        Some(packed)
    }
}

/// Documents of OpenAPI v3 by path and form.
#[derive(Default)]
struct Kept {
    documents: HashMap<(String, Form), KeptDocument>,
    bytes: usize,
    /// Counts what was asked for.
    clock: u64,
}

struct KeptDocument {
    hash: String,
    packed: Packed,
    used: u64,
}

impl Kept {
    fn get(&mut self, path: &str, form: Form, hash: &str) -> Option<Packed> {
        self.clock += 1;
        let found = self.documents.get_mut(&(path.to_owned(), form)).filter(|found| found.hash == hash)?;
        found.used = self.clock;
        Some(found.packed.clone())
    }

    fn put(&mut self, path: &str, form: Form, hash: &str, packed: Packed) {
        self.clock += 1;
        self.bytes += packed.gzip.len();
        let document = KeptDocument { hash: hash.to_owned(), packed, used: self.clock };
        if let Some(old) = self.documents.insert((path.to_owned(), form), document) {
            self.bytes -= old.packed.gzip.len();
        }
        while self.bytes > KEPT_BYTES {
            let oldest = self.documents.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| self.documents.remove(&key)) else { return };
            self.bytes -= gone.packed.gzip.len();
        }
    }
}

/// Everything that is served, by group and version.
pub(super) fn all(definitions: &Definitions) -> Vec<(String, String)> {
    let groups = super::plain_groups(definitions, Vec::new()).into_iter();
    groups
        .flat_map(|group| group.versions.into_iter().map(move |version| (group.name.clone(), version.name)))
        .collect()
}

/// The hash of the document of OpenAPI v2; `others`: of what other servers add.
pub(super) fn v2_hash(definitions: &Definitions, others: &str) -> String {
    path_hash("v2", &format!("{}{others}", definitions.published()))
}

/// The hash of the document of a path; none when there is none.
pub(super) fn v3_hash(path: &str, definitions: &Definitions) -> Option<String> {
    if other_paths().contains_key(path) {
        return Some(path_hash(path, ""));
    }
    let (group, version) = group_version(path)?;
    if !super::has_version(group, version) && definitions.kinds(group, version).next().is_none() {
        return None;
    }
    Some(path_hash(path, &definitions.published_of(group, version)))
}

/// `apis/apps/v1`, `api/v1`.
fn group_version(path: &str) -> Option<(&str, &str)> {
    if let Some(version) = path.strip_prefix("api/") {
        return Some(("", version));
    }
    path.strip_prefix("apis/")?.split_once('/').filter(|(group, _)| !group.is_empty())
}

/// Paths of what is served besides resources.
pub(super) fn other_paths() -> &'static HashMap<String, Map<String, Value>> {
    static PATHS: OnceLock<HashMap<String, Map<String, Value>>> = OnceLock::new();
    PATHS.get_or_init(|| openapi::other_paths(super::groups().map(|group| group.name)).into_iter().collect())
}

fn v3_document(path: &str, definitions: &Definitions) -> Option<Value> {
    let mut document = undescribed(path, definitions)?;
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        Descriptions::load().describe(schemas);
    }
    Some(document)
}

fn undescribed(path: &str, definitions: &Definitions) -> Option<Value> {
    if let Some(paths) = other_paths().get(path) {
        return Some(openapi::document_with(paths.clone(), &Map::new()));
    }
    let (group, version) = group_version(path)?;
    let resources: Vec<&Resource> = super::all_resources(definitions, group, version).collect();
    let custom =
        definitions.kinds(group, version).flat_map(|kind| kind.publish(|schema| schema.published(false)));
    Some(openapi::document_of(group, version, &resources, &custom.collect()))
}

/// The index of OpenAPI v3. `others`: paths whose documents other servers have, and where.
pub(super) fn index(definitions: &Definitions, others: Vec<(String, String)>) -> Value {
    let versions = all(definitions).into_iter().map(|(group, version)| openapi::path_of(&group, &version));
    let paths = versions.chain(other_paths().keys().cloned());
    let entry = |path: String| {
        let url = url(&path, &v3_hash(&path, definitions)?);
        Some((path, json!({"serverRelativeURL": url})))
    };
    let others = others.into_iter().map(|(path, url)| (path, json!({"serverRelativeURL": url})));
    json!({"paths": paths.filter_map(entry).chain(others).collect::<Map<_, _>>()})
}

/// Where the document of a path is with this hash.
pub(super) fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_names_documents_that_exist() {
        let none = Definitions::default();
        let index = index(&none, Vec::new());
        let documents = Documents::default();
        for (path, entry) in index["paths"].as_object().unwrap() {
            let hash = v3_hash(path, &none).unwrap();
            assert_eq!(entry["serverRelativeURL"], format!("/openapi/v3/{path}?hash={hash}"));
        }
        for path in ["apis/apps/v1", "api", "apis/apps", "version"] {
            assert!(index["paths"][path].is_object(), "{path}");
            let packed = documents.v3(path, Form::Json, "h", &none).unwrap();
            let document: Value = serde_json::from_slice(&packed.unpack()).unwrap();
            assert!(document["paths"].as_object().is_some_and(|paths| !paths.is_empty()), "{path}");
        }
        for path in ["apis/apps/v9", "apis//v1", "apis/example.com/v1", "x"] {
            assert_eq!(v3_hash(path, &none), None, "{path}");
        }
    }

    #[test]
    fn kept_documents_are_bounded() {
        let mut kept = Kept::default();
        let packed = Packed { gzip: vec![0; KEPT_BYTES / 4].into(), size: 0 };
        for at in 0..4 {
            kept.put(&at.to_string(), Form::Json, "h", packed.clone());
        }
        assert!(kept.get("0", Form::Json, "h").is_some());
        kept.put("4", Form::Json, "h", packed.clone());
        assert_eq!(kept.get("1", Form::Json, "h"), None, "it was used longest ago");
        assert!(kept.get("0", Form::Json, "h").is_some());
        assert_eq!(kept.get("0", Form::Json, "other"), None);
        kept.put("0", Form::Json, "other", packed);
        assert_eq!((kept.bytes, kept.documents.len()), (KEPT_BYTES, 4));
    }
}

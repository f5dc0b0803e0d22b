//! A CustomResourceDefinition, read: its served versions as kinds.

use std::sync::Arc;

use api_rules::CustomRules;
use api_types::status::Status;
use api_types::{Resource, Text, Value, codec, definition, meta};
use base64::Engine as _;
use mvcc::KeyValue;
use sha2::{Digest, Sha256};

use super::CustomKind;
use super::kind::Published;
use crate::conversion::Converter;
use crate::convert;
use crate::counters::KindCounts;

/// Bytes of the hash that stands for a kind's storage version.
const HASH_BYTES: usize = 8;

/// An established definition.
pub(crate) struct Definition {
    /// The revision that this was read at.
    pub revision: i64,
    pub group: String,
    /// Served versions, the preferred first.
    pub kinds: Vec<Arc<CustomKind>>,
}

impl Definition {
    /// Reads a stored definition; none when it is not established.
    pub fn read(kv: &KeyValue) -> Result<Option<Self>, Status> {
        let value = codec::from_stored(&kv.value, kv.mod_revision).map_err(convert::unreadable)?;
        if !definition::has_condition(&value, "Established") {
            return Ok(None);
        }
        let group = value["spec"]["group"].as_str().unwrap_or_default().to_owned();
        let served = definition::served(&value);
        let hash = Text::from(published_hash(&value));
        let converter = Converter::of(&value).map(Arc::new);
        let kinds = served
            .into_iter()
            .map(|version| Arc::new(kind(&value, version, converter.clone(), kv.mod_revision, &hash)));
        Ok(Some(Self { revision: kv.mod_revision, group, kinds: kinds.collect() }))
    }

    pub fn served(&self, version: &str) -> Option<&Arc<CustomKind>> {
        self.kinds.iter().find(|kind| kind.resource.version == version)
    }
}

/// Of everything that OpenAPI shows of a definition: its conditions are none of it.
fn published_hash(definition: &Value) -> String {
    let text = format!("{} {}", definition["spec"], definition["status"]["acceptedNames"]);
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text.as_bytes()))
}

fn kind(
    definition: &Value,
    version: &Value,
    converter: Option<Arc<Converter>>,
    revision: i64,
    hash: &Text,
) -> CustomKind {
    let mut resource = definition::resource(definition, version);
    resource.storage_version_hash = storage_hash(&resource).into();
    CustomKind {
        rules: CustomRules::new(definition, version),
        warning: deprecation(&resource, version),
        terminating: meta::is_being_deleted(definition)
            || definition::has_condition(definition, "Terminating"),
        converter,
        published: Published::new(definition, version, hash.clone()),
        resource,
        revision,
        generation: meta::generation(definition),
        counts: KindCounts::default(),
    }
}

/// The warning that every request to a deprecated version gets.
fn deprecation(resource: &Resource, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    own.or_else(|| Some(format!("{} {} is deprecated", resource.api_version(), resource.kind)))
}

fn storage_hash(resource: &Resource) -> String {
    let text = format!("{}/{}/{}", resource.group, resource.storage_version, resource.kind);
    base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text.as_bytes())[..HASH_BYTES])
}

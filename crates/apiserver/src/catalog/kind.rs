//! One served kind in one version: a row of the table with its rules, or a version of a definition with its own.

use std::ops::Deref;
use std::sync::Arc;

use api_rules::patch::apply::Type;
use api_rules::strategy::{self, DefaultDeletion};
use api_rules::{CustomRules, Deprecation, rules};
use api_types::field::FieldError;
use api_types::openapi::CustomSchema;
use api_types::status::Status;
use api_types::{Resource, Text, Value, codec, meta};
use mvcc::KeyValue;

use crate::conversion::Converter;
use crate::convert;
use crate::counters::KindCounts;

/// A kind of the API.
#[derive(Clone)]
pub(crate) enum Kind {
    BuiltIn(&'static Resource),
    Custom(Arc<CustomKind>),
}

/// A served version of a definition.
pub(crate) struct CustomKind {
    pub resource: Resource,
    pub rules: CustomRules,
    /// What is published of it.
    pub published: Published,
    /// Told with every answer.
    pub warning: Option<String>,
    /// The definition is being deleted: nothing new is made.
    pub terminating: bool,
    /// Converts between the versions; without it they differ in their name only.
    pub converter: Option<Arc<Converter>>,
    /// Revision of the definition.
    pub revision: i64,
    /// Its generation: it rises when the specification changes.
    pub generation: i64,
    /// What is counted of it.
    pub counts: KindCounts,
}

/// What OpenAPI shows of a definition's version.
pub(crate) struct Published {
    /// `openAPIV3Schema` as JSON, which takes a tenth of the memory of a tree; `null` when there is none.
    schema: Box<str>,
    selectable_fields: Value,
    preserves_unknown: bool,
    /// A hash of everything that the documents show.
    pub hash: Text,
}

impl Published {
    pub fn new(definition: &Value, version: &Value, hash: Text) -> Self {
        Self {
            schema: version["schema"]["openAPIV3Schema"].to_string().into(),
            selectable_fields: version["selectableFields"].clone(),
            preserves_unknown: definition["spec"]["preserveUnknownFields"] == true,
            hash,
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.resource)
    }
}

impl Deref for Kind {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        match self {
            Self::BuiltIn(resource) => resource,
            Self::Custom(kind) => &kind.resource,
        }
    }
}

impl From<&'static Resource> for Kind {
    fn from(resource: &'static Resource) -> Self {
        Self::BuiltIn(resource)
    }
}

impl From<&Kind> for Kind {
    fn from(kind: &Kind) -> Self {
        kind.clone()
    }
}

impl Kind {
    pub fn custom(&self) -> Option<&Arc<CustomKind>> {
        match self {
            Self::BuiltIn(_) => None,
            Self::Custom(kind) => Some(kind),
        }
    }

    /// Whether a webhook converts between its versions.
    pub fn is_converted(&self) -> bool {
        self.custom().is_some_and(|kind| kind.converter.is_some())
    }

    /// Revision of the definition; 0 for built-in kinds.
    pub fn definition_revision(&self) -> i64 {
        self.custom().map_or(0, |kind| kind.revision)
    }

    /// A stored object as a tree in this version, `resourceVersion` filled in. A custom object is brought to its
    /// schema as it is now: it may have been stored under an older one.
    pub fn decode(&self, kv: &KeyValue) -> Result<Value, Status> {
        let Self::Custom(kind) = self else { return convert::decode(self, kv) };
        let mut value = codec::from_stored(&kv.value, kv.mod_revision).map_err(convert::unreadable)?;
        kind.to_version(&mut value)?;
        kind.rules.settle(&mut value);
        Ok(value)
    }

    /// The stored form of an object.
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, Status> {
        let Self::Custom(kind) = self else { return convert::encode(self, value) };
        if codec::is_too_deep(value) {
            return Err(Status::bad_request(codec::CodecError::TooDeep.to_string()));
        }
        let mut stored = value.clone();
        let api_version = api_types::table::api_version(&kind.resource.group, &kind.resource.storage_version);
        meta::set_kind(&mut stored, &api_version, &kind.resource.kind);
        Ok(codec::json_to_stored(&stored))
    }

    /// An object of this kind, whatever its version, in this version.
    pub fn to_version(&self, mut object: Value) -> Result<Value, Status> {
        match self {
            Self::BuiltIn(resource) => Ok(convert::to_version(object, &resource.group, &resource.version)),
            Self::Custom(kind) => {
                kind.to_version(&mut object)?;
                Ok(object)
            }
        }
    }

    /// Fills defaults.
    pub fn default(&self, object: &mut Value) {
        match self {
            Self::BuiltIn(resource) => (rules(resource).default)(object),
            Self::Custom(kind) => {
                kind.rules.settle(object);
            }
        }
    }

    /// Resets what a client may not set on a new object.
    pub fn prepare_create(&self, object: &mut Value) {
        match self {
            Self::BuiltIn(resource) => (rules(resource).prepare_create)(object),
            Self::Custom(kind) => kind.rules.prepare_create(object),
        }
    }

    /// Keeps what an update may not change.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        match self {
            Self::BuiltIn(resource) => (rules(resource).prepare_update)(new, old),
            Self::Custom(kind) => kind.rules.prepare_update(new, old),
        }
    }

    /// Keeps everything but the status.
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        match self {
            Self::BuiltIn(resource) => (rules(resource).prepare_status_update)(new, old),
            Self::Custom(kind) => kind.rules.prepare_status_update(new, old),
        }
    }

    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        match self {
            Self::BuiltIn(resource) => (rules(resource).validate)(object),
            Self::Custom(kind) => kind.rules.validate(object),
        }
    }

    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        match self {
            Self::BuiltIn(resource) => (rules(resource).validate_update)(new, old),
            Self::Custom(kind) => kind.rules.validate_update(new, old),
        }
    }

    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        match self {
            Self::BuiltIn(resource) => (rules(resource).validate_status_update)(new, old),
            Self::Custom(kind) => kind.rules.validate_update(new, old),
        }
    }

    /// That this version is deprecated.
    pub fn deprecation(&self) -> Option<Deprecation> {
        match self {
            Self::BuiltIn(resource) => api_rules::deprecation(resource),
            Self::Custom(kind) => kind.warning.clone().map(|warning| Deprecation { warning, removed: "" }),
        }
    }

    /// Texts of `Warning` headers.
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match self {
            Self::BuiltIn(resource) => (rules(resource).warnings)(new, old),
            Self::Custom(_) => Vec::new(),
        }
    }

    pub fn allows_create_on_update(&self) -> bool {
        matches!(self, Self::BuiltIn(resource) if rules(resource).allow_create_on_update)
    }

    pub fn allows_unconditional_update(&self) -> bool {
        matches!(self, Self::BuiltIn(resource) if rules(resource).allow_unconditional_update)
    }

    /// What happens to dependents when a deletion names no policy.
    pub fn default_deletion(&self) -> DefaultDeletion {
        match self {
            Self::BuiltIn(resource) => rules(resource).default_deletion,
            Self::Custom(_) => DefaultDeletion::Background,
        }
    }

    /// Seconds that an object has to end; 0 for kinds that end at once.
    pub fn grace(&self, object: &Value, asked: Option<i64>) -> i64 {
        match self {
            Self::BuiltIn(resource) => {
                rules(resource).graceful_delete.map_or(0, |rule| rule(object, asked).max(0))
            }
            Self::Custom(_) => 0,
        }
    }

    /// How the parts of an object are merged and owned.
    pub fn merge_type(&self) -> Type<'_> {
        match self {
            Self::BuiltIn(resource) => Type::Message(resource.built_in_message()),
            Self::Custom(kind) => kind.rules.merge_type(),
        }
    }

    /// Dotted paths that an endpoint resets whoever sends them.
    pub fn reset_fields(&self, subresource: &str) -> &[&'static str] {
        match self {
            Self::BuiltIn(resource) => {
                strategy::strategy(&resource.group, &resource.kind).reset_fields(subresource)
            }
            Self::Custom(kind) => kind.rules.reset_fields(subresource),
        }
    }

    /// The tree as it is after a round trip through the kind's types.
    pub fn normalize(&self, value: Value) -> Result<Value, Status> {
        match self {
            Self::BuiltIn(resource) => codec::normalize(resource.built_in_message(), &value)
                .map_err(|error| Status::bad_request(error.to_string())),
            Self::Custom(_) => Ok(value),
        }
    }
}

impl CustomKind {
    /// What OpenAPI makes of what is published of this kind.
    pub fn publish<T>(&self, make: impl FnOnce(&CustomSchema<'_>) -> T) -> T {
        let schema = serde_json::from_str(&self.published.schema);
        make(&CustomSchema {
            resource: &self.resource,
            schema: &schema.unwrap_or_default(),
            selectable: &self.published.selectable_fields,
            preserves_unknown: self.published.preserves_unknown,
        })
    }

    /// Brings an object to this version where no webhook is needed for it: nothing but its name changes.
    fn to_version(&self, value: &mut Value) -> Result<(), Status> {
        let (own, kind) = (self.resource.api_version(), &self.resource.kind);
        if self.converter.is_some() && meta::api_version(value) != own {
            let from = meta::api_version(value);
            let text =
                format!("conversion webhook for {from}, Kind={kind} failed: it cannot be called from here");
            return Err(Status::internal(text));
        }
        meta::set_kind(value, &own, kind);
        Ok(())
    }
}

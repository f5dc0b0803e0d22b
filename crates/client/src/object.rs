//! An object as it came and as it is kept: in few bytes, and as a tree once somebody reads it as one.
//!
//! A tree takes ten times the memory of what it says, and making it is most of what following a change costs. Most of
//! what is asked of most objects is a field or two ([`Object::peek`]).

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use api_types::codec::peek::{self, Peek, Places};
use api_types::{Resource, codec, meta};
use bytes::Bytes;
use serde_json::Value;

use crate::error::ClientError;

/// An object in few bytes.
#[derive(Clone)]
pub(crate) enum Packed {
    /// Of [`codec::pack`].
    Own(Arc<[u8]>),
    /// As the server stores it at a revision, in the server's memory if it is in this process.
    Stored(Bytes, i64),
}

impl Packed {
    pub fn of(tree: &Value) -> Self {
        Self::Own(codec::pack(tree).into())
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Stored(bytes, _) => bytes,
        }
    }

    /// The object.
    ///
    /// # Errors
    /// `Decode` for bytes that are no object.
    pub fn tree(&self) -> Result<Value, ClientError> {
        let tree = match self {
            Self::Own(bytes) => codec::unpack(bytes),
            Self::Stored(bytes, revision) => codec::from_stored_bare(bytes, *revision),
        };
        tree.map_err(undecodable)
    }
}

/// An object as it came.
pub(crate) enum Came {
    Tree(Value),
    Packed(Packed),
}

impl Came {
    /// An object as JSON has it: one of a list does not say its kind, metadata alone says another.
    pub fn from_json(mut object: Value, resource: &Resource) -> Self {
        meta::set_kind(&mut object, &resource.api_version(), &resource.kind);
        meta::metadata_mut(&mut object).remove("managedFields");
        Self::Tree(object)
    }

    /// The object.
    ///
    /// # Errors
    /// `Decode` for bytes that are no object.
    pub fn tree(self) -> Result<Value, ClientError> {
        match self {
            Self::Tree(tree) => Ok(tree),
            Self::Packed(packed) => packed.tree(),
        }
    }

    /// The object, not read any further than to know that it can be.
    ///
    /// # Errors
    /// As [`Self::tree`].
    pub fn object(self) -> Result<Object, ClientError> {
        match self {
            Self::Tree(tree) => Ok(tree.into()),
            Self::Packed(packed) => Object::packed(packed),
        }
    }
}

/// An object that an informer shows. It reads as a tree, which is made when it is first read so; [`Self::peek`] reads
/// parts of it without one.
pub struct Object {
    /// What is known to be good.
    packed: Option<Packed>,
    /// In what is packed; none if that is JSON.
    places: OnceLock<Option<Places>>,
    tree: OnceLock<Arc<Value>>,
}

impl Object {
    fn packed(packed: Packed) -> Result<Self, ClientError> {
        if peek::check(packed.bytes()).map_err(undecodable)? {
            return Ok(Self::known(packed));
        }
        let object = Self::from(packed.tree()?);
        // JSON in an envelope is packed otherwise here.
        Ok(Self { packed: Some(packed).filter(|packed| !codec::is_proto(packed.bytes())), ..object })
    }

    /// What [`Self::pack`] gave.
    pub(crate) fn known(packed: Packed) -> Self {
        Self { packed: Some(packed), places: OnceLock::new(), tree: OnceLock::new() }
    }

    /// The object as a tree.
    pub fn tree(&self) -> &Arc<Value> {
        let read = || self.packed.as_ref().map_or(Ok(Value::Null), Packed::tree);
        self.tree.get_or_init(|| Arc::new(read().expect("invariant: what is packed is good")))
    }

    #[cfg(test)]
    pub(crate) fn is_tree(&self) -> bool {
        self.tree.get().is_some()
    }

    /// Reads parts of the object. What `resourceVersion` is this does not always know.
    pub fn peek(&self) -> Peek<'_> {
        let bytes = self.packed.as_ref().map(Packed::bytes);
        let places = |bytes| peek::open(bytes).expect("invariant: what is packed is good").places(bytes);
        match bytes.and_then(|bytes| Some((self.places.get_or_init(|| places(bytes)).as_ref()?, bytes))) {
            Some((places, bytes)) => places.open(bytes),
            None => peek::of_tree(self.tree()),
        }
    }

    /// Its `resourceVersion`.
    pub(crate) fn version(&self) -> String {
        match &self.packed {
            Some(Packed::Stored(_, revision)) => revision.to_string(),
            _ => self.peek().scalar(&["metadata", "resourceVersion"]).unwrap_or_default().into_owned(),
        }
    }

    /// The object in few bytes.
    pub(crate) fn pack(&self) -> Packed {
        self.packed.clone().unwrap_or_else(|| Packed::of(self.tree()))
    }

    /// Whether two objects say the same in a field of their own, such as `spec`.
    pub fn is_same_in(&self, other: &Self, field: &str) -> bool {
        self.peek().has_same_bytes(&other.peek(), field) || self[field] == other[field]
    }
}

impl From<Value> for Object {
    fn from(tree: Value) -> Self {
        Self { packed: None, places: OnceLock::new(), tree: OnceLock::from(Arc::new(tree)) }
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.tree()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tree().fmt(f)
    }
}

fn undecodable(error: codec::CodecError) -> ClientError {
    ClientError::Decode(error.to_string())
}

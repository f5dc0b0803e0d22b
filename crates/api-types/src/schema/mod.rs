//! What is known about every message: its fields in the order of the Go struct (= the order of JSON), protobuf
//! numbers, which fields are required, how lists and maps merge.
//!
//! ```
//! let pod = api_types::schema::lookup("", "v1", "Pod").unwrap();
//! let spec = pod.field("spec").unwrap().message().unwrap();
//! let containers = spec.field("containers").unwrap();
//! assert_eq!(containers.patch_merge_key, "name");
//! assert_eq!(containers.list_map_keys, ["name"]);
//! ```

mod check;

pub use check::{DocumentReport, SchemaReport, check, check_document, prune_unknown};

use crate::generated::MESSAGES;
use std::collections::HashMap;
use std::sync::OnceLock;

/// A message of the tables. Two ids are equal when they are the same message.
pub type MessageId = &'static MessageInfo;

/// A Kubernetes API type: an object, or a struct inside one.
pub struct MessageInfo {
    /// OpenAPI definition name: `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// (group, version, kind) of an object that can stand alone.
    pub kinds: &'static [(&'static str, &'static str, &'static str)],
    /// Set when JSON and protobuf do not follow the fields.
    pub special: Option<Special>,
    /// The Go struct embeds TypeMeta: JSON has `kind` and `apiVersion`, protobuf has not.
    pub typed: bool,
    /// Atomic: server-side apply owns the struct as a whole.
    pub map_type: MapType,
    /// In the order of the Go struct. Empty for most [`Special`] messages.
    pub fields: &'static [FieldInfo],
    /// Field indexes by number, [`NO_FIELD`] for numbers of none.
    pub(crate) by_number: [u8; MAX_FIELDS],
    /// The fields, a bit an index, of which JSON may have something that protobuf has nothing of.
    pub(crate) always: u64,
    /// The fields, a bit an index, that a message has any number of: lists and maps.
    pub(crate) many: u64,
    /// The fields, a bit a number, of which protobuf may have something that JSON has nothing of.
    pub(crate) written: u64,
}

/// More than any message has, and above every number; the generator checks it.
pub(crate) const MAX_FIELDS: usize = 64;
/// In [`MessageInfo::by_number`].
pub(crate) const NO_FIELD: u8 = u8::MAX;

/// Messages whose JSON form is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `resource.Quantity`: a canonical string.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// RFC 3339 in seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    /// A Go duration as text (`1h30m0s`).
    Duration,
    /// Any JSON, kept as its bytes (RawExtension, FieldsV1, apiextensions JSON).
    Raw,
    /// A message around a list of strings, an array in JSON (Verbs, ExtraValue).
    Strings,
    /// apiextensions `JSONSchemaPropsOrArray`.
    PropsOrArray,
    /// apiextensions `JSONSchemaPropsOrBool`.
    PropsOrBool,
    /// apiextensions `JSONSchemaPropsOrStringArray`.
    PropsOrStrings,
}

/// The type of a field (of an element, for lists; of a value, for maps: their keys are strings).
#[derive(Clone, Copy)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    Message(MessageId),
}

/// How often a field's type occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Single,
    List,
    /// A map with string keys.
    Map,
}

/// `x-kubernetes-list-type`. Lists without one are atomic to server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    None,
    Atomic,
    Set,
    /// Keyed by `list_map_keys`.
    Map,
}

/// `x-kubernetes-map-type` of a map or struct. One without is granular to server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    None,
    Atomic,
    Granular,
}

/// One field of a message.
pub struct FieldInfo {
    /// JSON name; empty when the field has none (inline structs, special messages).
    pub name: &'static str,
    /// The name as JSON text has it.
    pub(crate) key: Key,
    /// Protobuf number.
    pub number: u32,
    pub ty: Type,
    pub shape: Shape,
    /// Go type without the pointer: `[]v1.Container`.
    pub go_type: &'static str,
    /// A Go pointer: absent and zero differ.
    pub pointer: bool,
    /// Go's `omitempty`: zero values are left out (structs never are).
    pub omit_empty: bool,
    /// Go's `omitzero`: zero structs are left out too.
    pub omit_zero: bool,
    /// An embedded struct: its fields stand in the parent.
    pub inline: bool,
    pub required: bool,
    /// List items carry `kind` and `apiVersion` (volumeClaimTemplates).
    pub typed_items: bool,
    pub list_type: ListType,
    pub list_map_keys: &'static [&'static str],
    /// Of the field; stands above the one of its message.
    pub map_type: MapType,
    /// `merge`, `replace`, `retainKeys`, `merge,retainKeys` or empty.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    /// Default of the OpenAPI document as JSON text; empty for none or the type's zero value.
    pub default: &'static str,
    /// Allowed values of a string; empty for any.
    pub values: &'static [&'static str],
}

/// `"name":`, as long as all keys are, so that writing one is copying a block of a known length.
pub(crate) struct Key {
    block: [u8; Self::BLOCK],
    /// 0 for a name that no block has room for.
    len: u8,
}

impl Key {
    const BLOCK: usize = 32;

    const fn new(name: &str) -> Self {
        let (name, mut block) = (name.as_bytes(), [b'"'; Self::BLOCK]);
        if name.len() + 3 > Self::BLOCK {
            return Self { block, len: 0 };
        }
        let (_, rest) = block.split_at_mut(1);
        rest.split_at_mut(name.len()).0.copy_from_slice(name);
        block[name.len() + 2] = b':';
        Self { block, len: name.len() as u8 + 3 }
    }

    /// Appends the key; false when it is one of the few that are longer than a block.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + usize::from(self.len);
        out.extend_from_slice(&self.block);
        out.truncate(end);
        self.len > 0
    }
}

impl PartialEq for MessageInfo {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for MessageInfo {}

impl std::hash::Hash for MessageInfo {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl std::fmt::Debug for MessageInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl MessageInfo {
    /// The field with this JSON name, embedded structs included.
    pub fn field(&self, name: &str) -> Option<&'static FieldInfo> {
        if name.is_empty() {
            return None;
        }
        self.own_field(name).or_else(|| self.embedded().find_map(|m| m.field(name)))
    }

    /// Whether JSON may have this field: like [`Self::field`], plus `kind` and `apiVersion` of typed messages.
    pub fn knows(&self, name: &str) -> bool {
        self.field(name).is_some() || (self.typed && (name == "kind" || name == "apiVersion"))
    }

    /// Fields in the order of JSON, embedded structs flattened.
    pub fn json_fields(&self) -> Vec<&'static FieldInfo> {
        let nested = |f: &'static FieldInfo| match (f.inline, f.message()) {
            (true, Some(message)) => message.json_fields(),
            _ => vec![f],
        };
        self.fields.iter().flat_map(nested).filter(|f| !f.name.is_empty()).collect()
    }

    /// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
    pub fn go_type(&self) -> &'static str {
        let dot = self.name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        &self.name[dot..]
    }

    /// The message's own field with this JSON name.
    pub(crate) fn own_field(&self, name: &str) -> Option<&'static FieldInfo> {
        self.fields.iter().find(|field| field.name == name)
    }

    fn embedded(&self) -> impl Iterator<Item = MessageId> {
        self.fields.iter().filter(|f| f.inline).filter_map(FieldInfo::message)
    }
}

impl FieldInfo {
    /// Whether JSON may have something of the field though protobuf has not: zero values that are not left out, `null`,
    /// structs.
    const fn may_stand_alone(&self) -> bool {
        let single = matches!(self.shape, Shape::Single);
        let by_value = single && matches!(self.ty, Type::Message(_)) && !self.pointer && !self.omit_zero;
        !self.omit_empty || self.inline || by_value
    }

    /// Whether protobuf may have something of the field though JSON has not: zero values that are no pointers.
    const fn is_written_alone(&self) -> bool {
        let is_single = matches!(self.shape, Shape::Single);
        self.inline || is_single && !self.pointer && !matches!(self.ty, Type::Bytes)
    }

    /// Whether server-side apply owns the map or struct of this field as a whole.
    pub fn is_atomic(&self) -> bool {
        match (self.map_type, self.message()) {
            (MapType::None, Some(message)) if self.shape == Shape::Single => {
                message.map_type == MapType::Atomic
            }
            (map_type, _) => map_type == MapType::Atomic,
        }
    }

    /// The message of the field (of its elements or values).
    pub fn message(&self) -> Option<MessageId> {
        match self.ty {
            Type::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// The message behind an id.
pub fn message(id: MessageId) -> &'static MessageInfo {
    id
}

/// All messages, sorted by name.
pub fn messages() -> &'static [MessageId] {
    &MESSAGES
}

/// The message with this OpenAPI definition name.
pub fn by_name(name: &str) -> Option<MessageId> {
    MESSAGES.binary_search_by(|m| m.name.cmp(name)).ok().map(|i| MESSAGES[i])
}

/// Messages by (group, version, kind).
type Kinds = HashMap<(&'static str, &'static str, &'static str), MessageId>;

/// The message of a kind (objects, lists, options; `meta.k8s.io` kinds too).
///
/// Options and watch events exist in every group and version; they are those of `meta/v1`.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<MessageId> {
    static KINDS: OnceLock<Kinds> = OnceLock::new();
    let kinds =
        KINDS.get_or_init(|| MESSAGES.iter().flat_map(|m| m.kinds.iter().map(|k| (*k, *m))).collect());
    kinds.get(&(group, version, kind)).copied().or_else(|| match kind {
        "CreateOptions" | "UpdateOptions" | "PatchOptions" | "DeleteOptions" | "GetOptions"
        | "ListOptions" | "WatchEvent" => by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")),
        _ => None,
    })
}

/// [`lookup`] with `apps/v1` or `v1`.
pub fn lookup_api_version(api_version: &str, kind: &str) -> Option<MessageId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    lookup(group, version, kind)
}

/// Constructors for the generated tables.
pub(crate) mod build {
    pub(crate) use super::{FieldInfo, ListType, MapType, MessageInfo, Shape, Special, Type};
    use super::{Key, MAX_FIELDS, NO_FIELD};

    pub(crate) const fn message(name: &'static str) -> MessageInfo {
        MessageInfo {
            name,
            kinds: &[],
            special: None,
            typed: false,
            map_type: MapType::None,
            fields: &[],
            by_number: [NO_FIELD; MAX_FIELDS],
            always: 0,
            many: 0,
            written: 0,
        }
    }

    pub(crate) const fn field(name: &'static str, number: u32, ty: Type, go_type: &'static str) -> FieldInfo {
        FieldInfo {
            name,
            key: Key::new(name),
            number,
            ty,
            shape: Shape::Single,
            go_type,
            pointer: false,
            omit_empty: false,
            omit_zero: false,
            inline: false,
            required: false,
            typed_items: false,
            list_type: ListType::None,
            list_map_keys: &[],
            map_type: MapType::None,
            patch_strategy: "",
            patch_merge_key: "",
            default: "",
            values: &[],
        }
    }

    type Names = &'static [&'static str];

    const fn map_type_of(text: &str) -> MapType {
        if text.as_bytes()[0] == b'a' { MapType::Atomic } else { MapType::Granular }
    }

    impl MessageInfo {
        pub(crate) const fn kinds(
            mut self,
            kinds: &'static [(&'static str, &'static str, &'static str)],
        ) -> Self {
            self.kinds = kinds;
            self
        }

        pub(crate) const fn special(mut self, special: Special) -> Self {
            self.special = Some(special);
            self
        }

        pub(crate) const fn typed(mut self) -> Self {
            self.typed = true;
            self
        }

        pub(crate) const fn map_type(mut self, map_type: &'static str) -> Self {
            self.map_type = map_type_of(map_type);
            self
        }

        pub(crate) const fn fields(mut self, fields: &'static [FieldInfo]) -> Self {
            self.fields = fields;
            let mut index = 0;
            while index < fields.len() {
                self.by_number[fields[index].number as usize] = index as u8;
                if fields[index].may_stand_alone() {
                    self.always |= 1 << index;
                }
                if !matches!(fields[index].shape, Shape::Single) {
                    self.many |= 1 << index;
                }
                if fields[index].is_written_alone() {
                    self.written |= 1 << fields[index].number;
                }
                index += 1;
            }
            self
        }
    }

    impl FieldInfo {
        pub(crate) const fn repeated(mut self) -> Self {
            self.shape = Shape::List;
            self
        }

        pub(crate) const fn map(mut self) -> Self {
            self.shape = Shape::Map;
            self
        }

        pub(crate) const fn pointer(mut self) -> Self {
            self.pointer = true;
            self
        }

        pub(crate) const fn omit_empty(mut self) -> Self {
            self.omit_empty = true;
            self
        }

        pub(crate) const fn omit_zero(mut self) -> Self {
            self.omit_zero = true;
            self
        }

        pub(crate) const fn inline(mut self) -> Self {
            self.inline = true;
            self
        }

        pub(crate) const fn required(mut self) -> Self {
            self.required = true;
            self
        }

        pub(crate) const fn typed_items(mut self) -> Self {
            self.typed_items = true;
            self
        }

        pub(crate) const fn list(mut self, list_type: &'static str, keys: Names) -> Self {
            self.list_type = match list_type.as_bytes()[0] {
                b'a' => ListType::Atomic,
                b's' => ListType::Set,
                _ => ListType::Map,
            };
            self.list_map_keys = keys;
            self
        }

        pub(crate) const fn map_type(mut self, map_type: &'static str) -> Self {
            self.map_type = map_type_of(map_type);
            self
        }

        pub(crate) const fn patch(mut self, strategy: &'static str, key: &'static str) -> Self {
            self.patch_strategy = strategy;
            self.patch_merge_key = key;
            self
        }

        pub(crate) const fn default(mut self, default: &'static str) -> Self {
            self.default = default;
            self
        }

        pub(crate) const fn values(mut self, values: Names) -> Self {
            self.values = values;
            self
        }
    }
}

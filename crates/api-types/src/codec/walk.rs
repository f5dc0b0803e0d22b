//! Protobuf to a [`Sink`], in the order and with the omissions of Go's JSON encoder.
//!
//! Protobuf comes by field number, JSON goes by struct order. One pass over a message notes where each field
//! starts (canonical bytes have ascending numbers); then the fields are emitted in struct order. Nothing is
//! allocated but for maps that are not sorted.

use super::envelope::{MAGIC, unwrap_unknown};
use super::sink::Sink;
use super::wire::{Reader, Wire, WireError};
use super::{CodecError, MAX_DEPTH};
use crate::schema::{FieldInfo, MAX_FIELDS, MessageId, NO_FIELD, Shape, Special, Type, lookup_api_version};
use crate::time;

/// `kind` and `apiVersion` of a typed object.
#[derive(Clone, Copy)]
pub(crate) struct TypeMeta<'a> {
    pub(crate) kind: &'a str,
    pub(crate) api_version: &'a str,
}

/// Where to fill in a resourceVersion.
#[derive(Clone, Copy)]
pub(crate) enum Fill<'a> {
    Nowhere,
    /// In the `metadata` of the object at hand.
    InMetadata(&'a str),
    /// In the message at hand.
    Here(&'a str),
}

/// Emits one message as an object.
pub(crate) fn object<S: Sink>(
    sink: &mut S,
    message: MessageId,
    bytes: &[u8],
    types: Option<TypeMeta<'_>>,
    fill: Fill<'_>,
) -> Result<(), CodecError> {
    if sink.depth() > MAX_DEPTH {
        return Err(CodecError::TooDeep);
    }
    sink.begin_object();
    if let Some(types) = types {
        if !types.kind.is_empty() {
            sink.key("kind");
            sink.string(types.kind.as_bytes());
        }
        if !types.api_version.is_empty() {
            sink.key("apiVersion");
            sink.string(types.api_version.as_bytes());
        }
    }
    fields(sink, message, bytes, fill)?;
    sink.end_object();
    Ok(())
}

fn fields<S: Sink>(sink: &mut S, message: MessageId, bytes: &[u8], fill: Fill<'_>) -> Result<(), CodecError> {
    let places = Places::of(message, bytes)?;
    let mut wanted = places.present | message.always;
    let mut version_at = MAX_FIELDS;
    if let Fill::Here(_) = fill
        && let Some(index) = message.fields.iter().position(|field| field.name == "resourceVersion")
    {
        version_at = index;
        wanted |= 1 << index;
    }
    while wanted != 0 {
        let index = wanted.trailing_zeros() as usize;
        wanted &= wanted - 1;
        let field = &message.fields[index];
        match (fill, field.shape) {
            (Fill::Here(version), _) if index == version_at => {
                sink.name(field);
                sink.string(version.as_bytes());
            }
            (_, Shape::List) => list(sink, field, places.values(index, field.number))?,
            (_, Shape::Map) => map(sink, field, places.values(index, field.number))?,
            (_, Shape::Single) => single(sink, field, places.value(index)?, fill)?,
        }
    }
    Ok(())
}

/// Where a message has each field. Sets of fields have a bit an index.
struct Places<'a> {
    bytes: &'a [u8],
    /// Of a list or map where its first element starts, of others the last occurrence, which counts. Meaningless for those
    /// that are absent.
    starts: [u32; MAX_FIELDS],
    present: u64,
    ascending: bool,
}

impl<'a> Places<'a> {
    #[inline(always)]
    fn of(message: MessageId, bytes: &'a [u8]) -> Result<Self, WireError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(WireError::Malformed("a message is too large"));
        }
        let mut places = Self { bytes, starts: [0; MAX_FIELDS], present: 0, ascending: true };
        let (mut reader, mut last) = (Reader::new(bytes), 0);
        while !reader.is_at_end() {
            let at = reader.at as u32;
            let number = reader.skip()?;
            places.ascending &= number >= last;
            last = number;
            let Some(&index) = message.by_number.get(number as usize).filter(|index| **index != NO_FIELD)
            else {
                continue;
            };
            let bit = 1 << index;
            if places.present & message.many & bit == 0 {
                places.starts[usize::from(index)] = at;
            }
            places.present |= bit;
        }
        Ok(places)
    }

    #[inline(always)]
    fn values(&self, index: usize, number: u32) -> Values<'a> {
        let present = self.present & 1 << index != 0;
        let at = if present { self.starts[index] as usize } else { self.bytes.len() };
        Values { reader: Reader::starting_at(self.bytes, at), number, ascending: self.ascending }
    }

    /// What a field that is neither a list nor a map has.
    #[inline(always)]
    fn value(&self, index: usize) -> Result<Option<Wire<'a>>, WireError> {
        if self.present & 1 << index == 0 {
            return Ok(None);
        }
        let found = Reader::starting_at(self.bytes, self.starts[index] as usize).field()?;
        Ok(found.map(|(_, wire)| wire))
    }
}

/// The occurrences of one field.
#[derive(Clone, Copy)]
struct Values<'a> {
    reader: Reader<'a>,
    number: u32,
    ascending: bool,
}

impl<'a> Values<'a> {
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Wire<'a>>, WireError> {
        while let Some((number, wire)) = self.reader.field()? {
            if number == self.number {
                return Ok(Some(wire));
            }
            if self.ascending {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

/// Emits `null` for an absent field that is never left out.
fn absent<S: Sink>(sink: &mut S, field: &FieldInfo) {
    if !field.omit_empty {
        sink.name(field);
        sink.null();
    }
}

fn list<S: Sink>(sink: &mut S, field: &FieldInfo, mut values: Values<'_>) -> Result<(), CodecError> {
    let Some(first) = values.next()? else {
        absent(sink, field);
        return Ok(());
    };
    sink.name(field);
    sink.begin_array();
    let mut next = Some(first);
    while let Some(wire) = next {
        element(sink, field, wire)?;
        next = values.next()?;
    }
    sink.end_array();
    Ok(())
}

fn element<S: Sink>(sink: &mut S, field: &FieldInfo, wire: Wire<'_>) -> Result<(), CodecError> {
    match (field.ty, wire) {
        (Type::Bool | Type::Int32 | Type::Int64, Wire::Bytes(packed)) => {
            let mut reader = Reader::new(packed);
            while reader.at < packed.len() {
                scalar(sink, field.ty, Wire::Varint(reader.varint()?))?;
            }
            Ok(())
        }
        (Type::Message(message), wire) if field.typed_items => {
            let types = TypeMeta { kind: message.go_name(), api_version: "v1" };
            object(sink, message, wire.bytes()?, Some(types), Fill::Nowhere)
        }
        (ty, wire) => scalar(sink, ty, wire),
    }
}

/// Entries sorted by key; upstream stores them so, other writers may not.
fn map<S: Sink>(sink: &mut S, field: &FieldInfo, values: Values<'_>) -> Result<(), CodecError> {
    let (mut others, mut last, mut sorted) = (values, None, true);
    while let Some(wire) = others.next()? {
        let entry = Entry::of(wire)?;
        sorted &= last.is_none_or(|last| last < entry.key);
        last = Some(entry.key);
    }
    if last.is_none() {
        absent(sink, field);
        return Ok(());
    }
    sink.name(field);
    sink.begin_object();
    if sorted {
        let mut values = values;
        while let Some(wire) = values.next()? {
            Entry::of(wire)?.emit(sink, field)?;
        }
    } else {
        for entry in last_of_each_key(values)? {
            entry.emit(sink, field)?;
        }
    }
    sink.end_object();
    Ok(())
}

/// An entry of a map.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    value: Option<Wire<'a>>,
}

impl<'a> Entry<'a> {
    fn of(wire: Wire<'a>) -> Result<Self, CodecError> {
        let (mut key, mut value) = (&b""[..], None);
        let mut reader = Reader::new(wire.bytes()?);
        while let Some((number, wire)) = reader.field()? {
            match number {
                1 => key = wire.bytes()?,
                2 => value = Some(wire),
                _ => {}
            }
        }
        let key = std::str::from_utf8(key).map_err(|_| CodecError::Wire("a map key is not UTF-8"))?;
        Ok(Self { key, value })
    }

    fn emit<S: Sink>(&self, sink: &mut S, field: &FieldInfo) -> Result<(), CodecError> {
        sink.key(self.key);
        scalar(sink, field.ty, self.value.unwrap_or_else(|| zero(field.ty)))
    }
}

/// The last entry of each key, by key.
fn last_of_each_key(mut values: Values<'_>) -> Result<Vec<Entry<'_>>, CodecError> {
    let mut entries = Vec::new();
    while let Some(wire) = values.next()? {
        entries.push(Entry::of(wire)?);
    }
    entries.reverse();
    entries.sort_by_key(|entry| entry.key);
    entries.dedup_by_key(|entry| entry.key);
    Ok(entries)
}

fn zero(ty: Type) -> Wire<'static> {
    match ty {
        Type::Bool | Type::Int32 | Type::Int64 => Wire::Varint(0),
        Type::Double => Wire::Fixed64(0),
        Type::String | Type::Bytes | Type::Message(_) => Wire::Bytes(&[]),
    }
}

fn single<S: Sink>(
    sink: &mut S,
    field: &FieldInfo,
    value: Option<Wire<'_>>,
    fill: Fill<'_>,
) -> Result<(), CodecError> {
    if let Type::Message(message) = field.ty {
        return single_message(sink, field, message, value, fill);
    }
    let Some(wire) =
        value.or_else(|| (!field.pointer && !matches!(field.ty, Type::Bytes)).then(|| zero(field.ty)))
    else {
        absent(sink, field);
        return Ok(());
    };
    if is_left_out(field, wire) {
        return Ok(());
    }
    sink.name(field);
    scalar(sink, field.ty, wire)
}

/// Whether a scalar that protobuf holds is not shown.
pub(super) fn is_left_out(field: &FieldInfo, wire: Wire<'_>) -> bool {
    field.omit_empty && !field.pointer && is_zero(wire)
}

fn is_zero(wire: Wire<'_>) -> bool {
    match wire {
        Wire::Varint(value) | Wire::Fixed64(value) => value == 0,
        Wire::Bytes(bytes) => bytes.is_empty(),
        Wire::Fixed32(value) => value == 0,
    }
}

fn single_message<S: Sink>(
    sink: &mut S,
    field: &FieldInfo,
    message: MessageId,
    value: Option<Wire<'_>>,
    fill: Fill<'_>,
) -> Result<(), CodecError> {
    let bytes = value.map(Wire::bytes).transpose()?;
    if field.inline {
        return fields(sink, message, bytes.unwrap_or_default(), Fill::Nowhere);
    }
    let list_like = message.special == Some(Special::Strings);
    let bytes = match bytes {
        Some(bytes) if list_like && bytes.is_empty() => {
            absent(sink, field);
            return Ok(());
        }
        Some(bytes) => bytes,
        None if field.pointer || list_like => {
            absent(sink, field);
            return Ok(());
        }
        None => &[],
    };
    if field.omit_zero && bytes.is_empty() {
        return Ok(());
    }
    sink.name(field);
    let fill = match fill {
        Fill::InMetadata(version) if field.name == "metadata" => Fill::Here(version),
        _ => Fill::Nowhere,
    };
    value_of(sink, message, bytes, fill)
}

fn scalar<S: Sink>(sink: &mut S, ty: Type, wire: Wire<'_>) -> Result<(), CodecError> {
    match ty {
        Type::Bool => sink.bool(wire.varint()? != 0),
        Type::Int32 => sink.int(i64::from(wire.varint()? as i32)),
        Type::Int64 => sink.int(wire.varint()? as i64),
        Type::Double => sink.float(wire.double()?),
        Type::String => sink.string(wire.bytes()?),
        Type::Bytes => sink.base64(wire.bytes()?),
        Type::Message(message) => value_of(sink, message, wire.bytes()?, Fill::Nowhere)?,
    }
    Ok(())
}

/// A message in its JSON form, which for [`Special`] ones is not an object of its fields.
pub(crate) fn value_of<S: Sink>(
    sink: &mut S,
    message: MessageId,
    bytes: &[u8],
    fill: Fill<'_>,
) -> Result<(), CodecError> {
    let Some(special) = message.special else { return object(sink, message, bytes, None, fill) };
    match special {
        Special::Quantity => {
            let text = super::wire::first_bytes(bytes, 1)?.filter(|t| !t.is_empty()).unwrap_or(b"0");
            sink.string(text);
        }
        Special::IntOrString => int_or_string(sink, bytes)?,
        Special::Time | Special::MicroTime => moment(sink, bytes, special)?,
        Special::Duration => sink.string(time::format_duration(first_varint(bytes, 1)? as i64).as_bytes()),
        Special::Raw => raw(sink, bytes)?,
        Special::Strings => strings(sink, bytes, 1)?,
        Special::PropsOrArray => {
            let [schema, list] = props_fields(message);
            if super::wire::first_bytes(bytes, list.number)?.is_some() {
                let values = Values { reader: Reader::new(bytes), number: list.number, ascending: false };
                bare_list(sink, list, values)?;
            } else {
                optional_props(sink, schema, bytes)?;
            }
        }
        Special::PropsOrBool => {
            let [_, schema] = props_fields(message);
            match super::wire::first_bytes(bytes, schema.number)? {
                Some(_) => optional_props(sink, schema, bytes)?,
                None => sink.bool(first_varint(bytes, 1)? != 0),
            }
        }
        Special::PropsOrStrings => {
            let [schema, list] = props_fields(message);
            if super::wire::first_bytes(bytes, list.number)?.is_some() {
                strings(sink, bytes, list.number)?;
            } else {
                optional_props(sink, schema, bytes)?;
            }
        }
    }
    Ok(())
}

/// The two fields of a `JSONSchemaPropsOr…` message.
pub(crate) fn props_fields(message: MessageId) -> [&'static FieldInfo; 2] {
    match message.fields {
        [first, second] => [first, second],
        _ => unreachable!("invariant: JSONSchemaPropsOr… messages have two fields"),
    }
}

fn optional_props<S: Sink>(sink: &mut S, field: &FieldInfo, bytes: &[u8]) -> Result<(), CodecError> {
    match (super::wire::first_bytes(bytes, field.number)?, field.ty) {
        (Some(schema), Type::Message(message)) => object(sink, message, schema, None, Fill::Nowhere),
        _ => {
            sink.null();
            Ok(())
        }
    }
}

fn bare_list<S: Sink>(sink: &mut S, field: &FieldInfo, mut values: Values<'_>) -> Result<(), CodecError> {
    sink.begin_array();
    while let Some(wire) = values.next()? {
        element(sink, field, wire)?;
    }
    sink.end_array();
    Ok(())
}

fn strings<S: Sink>(sink: &mut S, bytes: &[u8], number: u32) -> Result<(), CodecError> {
    sink.begin_array();
    let mut reader = Reader::new(bytes);
    while let Some((found, wire)) = reader.field()? {
        if found == number {
            sink.string(wire.bytes()?);
        }
    }
    sink.end_array();
    Ok(())
}

pub(crate) fn first_varint(bytes: &[u8], number: u32) -> Result<u64, WireError> {
    let mut reader = Reader::new(bytes);
    while let Some((found, wire)) = reader.field()? {
        if found == number {
            return wire.varint();
        }
    }
    Ok(0)
}

fn int_or_string<S: Sink>(sink: &mut S, bytes: &[u8]) -> Result<(), CodecError> {
    if first_varint(bytes, 1)? == 0 {
        sink.int(i64::from(first_varint(bytes, 2)? as i32));
    } else {
        let text = super::wire::first_bytes(bytes, 3)?.unwrap_or_default();
        sink.string(text);
    }
    Ok(())
}

/// The zero time is an empty message, and null in JSON.
fn moment<S: Sink>(sink: &mut S, bytes: &[u8], special: Special) -> Result<(), CodecError> {
    if bytes.is_empty() {
        sink.null();
        return Ok(());
    }
    let seconds = first_varint(bytes, 1)? as i64;
    if special == Special::Time {
        match time::ascii(seconds) {
            Some(text) => sink.string(&text),
            None => sink.string(time::from_seconds(seconds).as_bytes()),
        }
    } else {
        let nanos = u32::try_from(first_varint(bytes, 2)? as i32).unwrap_or_default();
        sink.string(time::micro(seconds, nanos).as_bytes());
    }
    Ok(())
}

/// Raw JSON; an object that came as protobuf (inside a watch event or a review) is decoded.
fn raw<S: Sink>(sink: &mut S, bytes: &[u8]) -> Result<(), CodecError> {
    let json = super::wire::first_bytes(bytes, 1)?.unwrap_or_default();
    if json.is_empty() {
        sink.null();
        return Ok(());
    }
    if !json.starts_with(&MAGIC) {
        return sink.raw(json);
    }
    let unknown = unwrap_unknown(json)?;
    let message = lookup_api_version(unknown.api_version, unknown.kind).ok_or_else(|| unknown.not_known())?;
    let types = TypeMeta { kind: unknown.kind, api_version: unknown.api_version };
    object(sink, message, unknown.raw, Some(types), Fill::Nowhere)
}

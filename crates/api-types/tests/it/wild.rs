//! Protobuf as upstream does not write it, and texts as nobody should, become the same JSON as anything else.

use std::collections::{BTreeMap, VecDeque};

use api_types::schema::{FieldInfo, MessageId, Shape, Type};
use api_types::{codec, schema, table};
use proptest::prelude::*;
use serde_json::Value;

use crate::properties::{Random, object};

/// A field of a message: its tag, and what stands behind it, without a length.
#[derive(Clone)]
struct Field {
    tag: u64,
    payload: Vec<u8>,
}

impl Field {
    fn number(&self) -> u32 {
        (self.tag >> 3) as u32
    }

    fn has_length(&self) -> bool {
        self.tag & 7 == 2
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.tag);
        if self.has_length() {
            put_varint(out, self.payload.len() as u64);
        }
        out.extend_from_slice(&self.payload);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(raw: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = raw.split_first().unwrap();
        *raw = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut raw: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !raw.is_empty() {
        let tag = varint(&mut raw);
        let len = match tag & 7 {
            0 => raw.iter().position(|byte| *byte < 0x80).unwrap() + 1,
            1 => 8,
            2 => varint(&mut raw) as usize,
            _ => 4,
        };
        let (payload, rest) = raw.split_at(len);
        fields.push(Field { tag, payload: payload.to_vec() });
        raw = rest;
    }
    fields
}

/// What comes before a field without having any effect: another value of it, or a field that nobody knows.
fn without_effect(known: &FieldInfo, field: &Field, random: &mut Random) -> Option<Field> {
    match (random.below(4), field.tag & 7) {
        (0, 0) if known.shape == Shape::Single => Some(Field { tag: field.tag, payload: vec![7] }),
        (0, 2) if known.shape == Shape::Single => {
            Some(Field { tag: field.tag, payload: b"\x0a\x01x".into() })
        }
        (1, _) => Some(Field { tag: 4000 << 3 | 2, payload: b"unknown".to_vec() }),
        (2, _) => Some(Field { tag: 4001 << 3, payload: vec![0xff, 1] }),
        _ => None,
    }
}

/// The same message with its fields in any order, with fields that are not known and values that others replace.
fn scramble(message: MessageId, raw: &[u8], random: &mut Random) -> Vec<u8> {
    let mut all = Vec::new();
    for mut field in fields(raw) {
        let known = message.fields.iter().find(|known| known.number == field.number()).unwrap();
        if let (Type::Message(inner), true) = (known.ty, known.shape != Shape::Map)
            && inner.special.is_none()
        {
            field.payload = scramble(inner, &field.payload, random);
        }
        all.extend(without_effect(known, &field, random));
        all.push(field);
    }
    let mut order: Vec<u32> = all.iter().map(Field::number).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let mut queues: BTreeMap<u32, VecDeque<Field>> = BTreeMap::new();
    for field in all {
        queues.entry(field.number()).or_default().push_back(field);
    }
    let mut out = Vec::new();
    for number in order {
        queues.get_mut(&number).and_then(VecDeque::pop_front).unwrap().write(&mut out);
    }
    out
}

fn json(message: MessageId, raw: &[u8]) -> String {
    let mut out = Vec::new();
    codec::proto_to_json(message, raw, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// A string as Go writes it: as serde_json does, and HTML escaped.
fn html_escaped(json: &str) -> String {
    let escapes = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028")];
    let escaped = escapes.iter().fold(json.to_owned(), |text, (from, to)| text.replace(*from, to));
    escaped.replace('\u{2029}', "\\u2029")
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn stored_kind(index: usize) -> MessageId {
    let stored: Vec<_> = table::resources().iter().filter(|r| r.is_stored()).collect();
    stored[index % stored.len()].built_in_message()
}

/// Pieces that texts are made of: plain ones of several lengths, what is escaped, what is no UTF-8.
const PIECES: [&[u8]; 16] = [
    b"a",
    b"plain",
    b"eight by",
    b"sixteen and more",
    b"\"",
    b"\\",
    b"<",
    b">&",
    b"\n\r\t",
    b"\x08\x0c\x00\x1f",
    b"\x7f",
    "é€\u{2028}\u{2029}".as_bytes(),
    "\u{2027}\u{1f600}".as_bytes(),
    b"\xe2",
    b"\xe2\x80",
    b"\xff\xc0\x80",
];

fn text(pieces: &[usize]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| PIECES[piece % PIECES.len()]).copied().collect()
}

#[test]
fn entries_of_maps_are_sorted_and_the_last_of_a_key_counts() {
    let message = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap();
    let mut raw = Vec::new();
    for entry in [b"\x0a\x01b\x12\x011", b"\x0a\x01a\x12\x012", b"\x12\x013\x0a\x01b"] {
        Field { tag: 1 << 3 | 2, payload: entry.to_vec() }.write(&mut raw);
    }
    assert_eq!(json(message, &raw), r#"{"matchLabels":{"a":"2","b":"3"}}"#);
    let no_text = b"\x0a\x03\x0a\x01\xff";
    assert!(codec::proto_to_json(message, no_text, &mut Vec::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order of fields, fields that are not known and values that others replace make no difference.
    #[test]
    fn the_order_of_fields_makes_no_difference(index in 0_usize..1000, seed: u64) {
        let (message, mut random) = (stored_kind(index), Random::new(seed));
        let mut raw = Vec::new();
        codec::to_proto(message, &object(message, &mut random, 0), &mut raw).unwrap();
        let scrambled = scramble(message, &raw, &mut random);
        prop_assert_eq!(json(message, &scrambled), json(message, &raw));
        let (tree, other) = (codec::from_proto(message, &raw).unwrap(), codec::from_proto(message, &scrambled).unwrap());
        prop_assert_eq!(&other, &tree);
        let read: Value = serde_json::from_str(&json(message, &raw)).unwrap();
        prop_assert_eq!(without_nulls(read), without_nulls(tree));
    }

    /// Texts are escaped as Go does, whatever bytes they are of.
    #[test]
    fn texts_of_any_bytes_are_escaped(pieces in prop::collection::vec(0_usize..16, 0..12)) {
        let text = text(&pieces);
        let message = schema::by_name("io.k8s.api.core.v1.LocalObjectReference").unwrap();
        let mut raw = Vec::new();
        Field { tag: 1 << 3 | 2, payload: text.clone() }.write(&mut raw);
        let expected = serde_json::to_string(&String::from_utf8_lossy(&text)).unwrap();
        let whole = if text.is_empty() { "{}".to_owned() } else { format!("{{\"name\":{}}}", html_escaped(&expected)) };
        prop_assert_eq!(json(message, &raw), whole);
    }

    /// JSON inside of objects loses its white space, and nothing else.
    #[test]
    fn raw_json_is_compacted(index in 0_usize..1000, seed: u64, pieces in prop::collection::vec(0_usize..13, 0..12)) {
        let message = stored_kind(index);
        let mut value = object(message, &mut Random::new(seed), 3);
        value["text"] = String::from_utf8_lossy(&text(&pieces)).into();
        let message = schema::by_name("io.k8s.apimachinery.pkg.runtime.RawExtension").unwrap();
        for given in [serde_json::to_vec_pretty(&value).unwrap(), serde_json::to_vec(&value).unwrap()] {
            let mut raw = Vec::new();
            Field { tag: 1 << 3 | 2, payload: given }.write(&mut raw);
            prop_assert_eq!(json(message, &raw), html_escaped(&value.to_string()));
        }
    }
}

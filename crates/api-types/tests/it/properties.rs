//! Properties of the codec over random objects of random kinds, made from the schema itself.

use api_types::schema::{FieldInfo, MessageId, Shape, Special, Type};
use api_types::{codec, schema, table};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A small generator, so that one number from proptest makes a whole object.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const TEXTS: [&str; 6] =
    ["", "a", "<é>&\u{2028}", "line\n\"quoted\"\\", "\u{1}\u{7f}", "long-long-long-long-name"];
/// Deeper messages are left out, so that recursive ones end.
const MAX_DEPTH: usize = 6;

pub fn object(message: MessageId, random: &mut Random, depth: usize) -> Value {
    let mut map = Map::new();
    for field in message.json_fields() {
        if random.below(3) == 0 || depth > MAX_DEPTH {
            continue;
        }
        map.insert(field.name.into(), value(field, random, depth));
    }
    Value::Object(map)
}

fn value(field: &'static FieldInfo, random: &mut Random, depth: usize) -> Value {
    match field.shape {
        _ if random.below(12) == 0 => Value::Null,
        Shape::Single => scalar(field.ty, random, depth),
        Shape::List => (0..random.below(3)).map(|_| scalar(field.ty, random, depth)).collect(),
        Shape::Map => {
            let entry = |r: &mut Random| (r.pick(&TEXTS).to_owned(), scalar(field.ty, r, depth));
            Value::Object((0..random.below(3)).map(|_| entry(random)).collect())
        }
    }
}

fn scalar(ty: Type, random: &mut Random, depth: usize) -> Value {
    match ty {
        Type::Bool => (random.below(2) == 0).into(),
        Type::Int32 => [0, 1, -1, i32::MAX, i32::MIN][random.below(5) as usize].into(),
        Type::Int64 => [0, 1, -1, i64::MAX, i64::MIN][random.below(5) as usize].into(),
        Type::Double => [0.0, 1.5, -2.25, 1e-7, 1e22][random.below(5) as usize].into(),
        Type::String => random.pick(&TEXTS).into(),
        // Not empty: empty bytes are stored, but left out of JSON.
        Type::Bytes => random.pick(&["AA==", "aGVsbG8="]).into(),
        Type::Message(message) => match message.special {
            None => object(message, random, depth + 1),
            Some(special) => special_value(special, message, random, depth),
        },
    }
}

fn special_value(special: Special, message: MessageId, random: &mut Random, depth: usize) -> Value {
    let quantities = ["0", "1", "500m", "1.5Gi", "0.5", "1e3", "-3", "1000000"];
    let schema =
        message.fields.first().and_then(|f| f.message()).or_else(|| message.fields.get(1)?.message());
    let schema = |r: &mut Random| object(schema.unwrap(), r, depth + 3);
    match special {
        Special::Quantity => random.pick(&quantities).into(),
        Special::IntOrString => {
            [json!(0), json!(-7), json!("http"), json!("25%")][random.below(4) as usize].clone()
        }
        Special::Time => random.pick(&["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z"]).into(),
        Special::MicroTime => {
            random.pick(&["2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05.123456Z"]).into()
        }
        Special::Duration => random.pick(&["0s", "1m30s", "1.5s", "-2ms"]).into(),
        Special::Raw => {
            [json!({"a": [1, null, "<"]}), json!(5), json!("x")][random.below(3) as usize].clone()
        }
        Special::Strings => (0..random.below(3)).map(|_| Value::from(random.pick(&TEXTS))).collect(),
        Special::PropsOrBool if random.below(2) == 0 => (random.below(2) == 0).into(),
        Special::PropsOrStrings if random.below(2) == 0 => json!(["a", "b"]),
        Special::PropsOrArray if random.below(2) == 0 => vec![schema(random)].into(),
        Special::PropsOrBool | Special::PropsOrStrings | Special::PropsOrArray => schema(random),
    }
}

fn stored_kind(index: usize) -> &'static table::Resource {
    let stored: Vec<_> = table::resources().iter().filter(|r| r.is_stored()).collect();
    stored[index % stored.len()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Tree → stored → JSON → tree → stored changes nothing, and JSON and tree readings agree.
    #[test]
    fn the_stored_form_is_stable(index in 0_usize..1000, seed: u64) {
        let resource = stored_kind(index);
        let (api_version, kind) = (resource.api_version(), resource.kind.as_str());
        let message = resource.built_in_message();
        let given = object(message, &mut Random(seed), 0);
        let report = schema::check(message, &given);
        prop_assert!(report.is_clean(), "{report:?}");
        let stored = codec::to_stored(message, &api_version, kind, &given).unwrap();
        let tree = codec::from_stored(&stored, 9).unwrap();
        prop_assert_eq!(&codec::to_stored(message, &api_version, kind, &tree).unwrap(), &stored);
        let mut text = Vec::new();
        codec::stored_to_json(&stored, &mut text, 9).unwrap();
        let read = codec::decode_json(&text).unwrap();
        prop_assert!(read.duplicates.is_empty());
        prop_assert!(schema::check(message, &read.value).is_clean());
        prop_assert_eq!(codec::to_stored(message, &api_version, kind, &read.value).unwrap(), stored);
        prop_assert_eq!(codec::normalize(message, &tree).unwrap(), tree);
    }

    /// Peeking reads what decoding reads.
    #[test]
    fn peeking_agrees_with_decoding(index in 0_usize..1000, seed: u64) {
        let resource = stored_kind(index);
        let given = object(resource.built_in_message(), &mut Random(seed), 0);
        let stored = codec::to_stored(resource.built_in_message(), &resource.api_version(), &resource.kind, &given).unwrap();
        let tree = codec::from_stored(&stored, 0).unwrap();
        let json = codec::json_to_stored(&tree);
        let opened = [&stored, &json].map(|stored| codec::peek::open(stored).unwrap());
        for peek in opened.into_iter().chain([codec::peek::of_tree(&tree)]) {
            for (name, value) in tree.as_object().into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion")) {
                prop_assert_eq!(&*peek.part(&[name]), value);
                let inner = value.as_object().into_iter().flatten();
                for (inner, value) in inner.filter(|(inner, _)| inner.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
                    prop_assert_eq!(&*peek.part(&[name, inner]), value, "{} {}.{}", resource.kind, name, inner);
                }
            }
            prop_assert_eq!(&*peek.name(), api_types::meta::name(&tree));
            prop_assert_eq!(&*peek.uid(), api_types::meta::uid(&tree));
            prop_assert_eq!(peek.owner_references(), api_types::meta::owner_references(&tree));
            let labels: Map<String, Value> =
                peek.labels().into_iter().map(|(k, v)| (k.into_owned(), v.into_owned().into())).collect();
            prop_assert_eq!(Some(labels), api_types::meta::labels(&tree).cloned().or_else(|| Some(Map::new())));
        }
    }

    /// Broken bytes are refused or read, never a panic.
    #[test]
    fn damaged_bytes_do_no_harm(index in 0_usize..1000, seed: u64, at: prop::sample::Index, byte: u8) {
        let resource = stored_kind(index);
        let given = object(resource.built_in_message(), &mut Random(seed), 2);
        let mut stored = codec::to_stored(resource.built_in_message(), &resource.api_version(), &resource.kind, &given).unwrap();
        let at = at.index(stored.len());
        prop_assert_eq!(codec::peek::check(&stored), Ok(true));
        stored[at] = byte;
        let _ = codec::from_stored(&stored, 1);
        if codec::peek::check(&stored) == Ok(true) {
            prop_assert!(codec::from_stored_bare(&stored, 1).is_ok());
            prop_assert!(codec::peek::open(&stored).is_ok());
        }
        let _ = codec::stored_to_json(&stored, &mut Vec::new(), 1);
        let _ = codec::stored_to_proto(&stored, &mut Vec::new(), 1);
        let _ = codec::peek::open(&stored).map(|p| (p.labels(), p.finalizers(), p.scalar(&["spec", "nodeName"])));
    }

    /// The sum does not depend on the order, and a canonical text is its own canonical form.
    #[test]
    fn quantities_hold_together(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000, suffix in "(n|u|m||k|M|Ki|Mi|e2)") {
        use api_types::quantity::Quantity;
        let a = Quantity::parse(&format!("{a}{suffix}")).unwrap();
        let b = Quantity::parse(&format!("{b}{suffix}")).unwrap();
        prop_assert_eq!(a + b, b + a);
        prop_assert_eq!(a + b - b, a);
        let canonical = a.to_string();
        prop_assert_eq!(Quantity::parse(&canonical).unwrap(), a);
        prop_assert_eq!(Quantity::parse(&canonical).unwrap().to_string(), canonical);
    }
}

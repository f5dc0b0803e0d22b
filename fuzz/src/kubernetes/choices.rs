//! Objects of any kind out of bytes: each byte is a choice, so that a small change of the bytes is one of the object.

use api_types::schema::{FieldInfo, MessageId, Shape, Special, Type};
use api_types::{Resource, Value, table};
use serde_json::{Map, json};

/// Messages are not nested deeper, so that recursive ones end.
const MAX_DEPTH: usize = 9;
/// Fields of a message, items of a list, entries of a map, at most.
const MAX_FIELDS: usize = 12;
const MAX_ITEMS: usize = 4;

/// Words that rules look for, and some that they do not.
const TEXTS: [&str; 64] = [
    "",
    "a",
    "b",
    "A",
    "a.b",
    "a/b",
    "a.example/b",
    "kubernetes.io/a",
    "1",
    "-1",
    "0",
    "100%",
    "101%",
    "65536",
    "10.0.0.1",
    "fd00::1",
    "10.0.0.0/8",
    "fd00::/64",
    "*",
    "*.a.example",
    "TCP",
    "UDP",
    "Always",
    "Never",
    "OnFailure",
    "IfNotPresent",
    "RollingUpdate",
    "Recreate",
    "OnDelete",
    "ClusterIP",
    "NodePort",
    "ExternalName",
    "None",
    "IPv4",
    "Exists",
    "In",
    "NotIn",
    "DoesNotExist",
    "Gt",
    "Equal",
    "NoSchedule",
    "@daily",
    "*/5 * * * *",
    "TZ=UTC 0 0 * * *",
    "é",
    "\u{0}",
    "\u{2028}",
    "=",
    "in (a)",
    "self > 1",
    "object.a == 'b'",
    "{.a[0].b}",
    ".metadata.name",
    "2026-01-02T03:04:05Z",
    "1Gi",
    "1.5",
    "v1",
    "Pod",
    "apps/v1",
    "Deployment",
    "string",
    "object",
    "array",
    "https://a.example/b",
];
const QUANTITIES: [&str; 12] = [
    "0",
    "1",
    "500m",
    "1.5Gi",
    "-3",
    "1e3",
    "9223372036854775807",
    "-9223372036854775808",
    "1E",
    "0.0000000001",
    "1n",
    "12e-9",
];
const INTS: [i64; 12] =
    [0, 1, -1, 2, 80, 100, 65_535, 65_536, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

/// Bytes that choose. When there are no more, every choice is the first.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// All of them.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// One of so many, which is more than none.
    pub fn next(&mut self, below: usize) -> usize {
        let mut chosen = 0;
        let mut range = 1;
        while range < below {
            let Some((byte, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            chosen = chosen << 8 | usize::from(*byte);
            range <<= 8;
        }
        chosen % below
    }

    /// What was not used.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next(from.len())]
    }

    /// A word, or whatever text the bytes are.
    fn text(&mut self) -> String {
        if self.next(8) != 7 {
            return self.of(&TEXTS).to_owned();
        }
        let length = self.next(256).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}

/// A kind that can be stored.
pub fn resource(choices: &mut Choices<'_>) -> &'static Resource {
    let stored: Vec<_> = table::resources().iter().filter(|resource| resource.is_stored()).collect();
    stored[choices.next(stored.len())]
}

/// An object of a kind, with a name.
pub fn of_resource(resource: &Resource, choices: &mut Choices<'_>) -> Value {
    let mut object = message(resource.built_in_message(), choices, 0);
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({"name": "a", "namespace": "b"});
    }
    object
}

fn message(message: MessageId, choices: &mut Choices<'_>, depth: usize) -> Value {
    let (fields, mut map) = (message.json_fields(), Map::new());
    if fields.is_empty() || depth > MAX_DEPTH {
        return Value::Object(map);
    }
    for _ in 0..choices.next(MAX_FIELDS) {
        let field = fields[choices.next(fields.len())];
        map.insert(field.name.into(), value(field, choices, depth));
    }
    Value::Object(map)
}

fn value(field: &'static FieldInfo, choices: &mut Choices<'_>, depth: usize) -> Value {
    match field.shape {
        Shape::Single => scalar(field.ty, choices, depth),
        Shape::List => (0..choices.next(MAX_ITEMS)).map(|_| scalar(field.ty, choices, depth)).collect(),
        Shape::Map => {
            let entry = |choices: &mut Choices<'_>| (choices.text(), scalar(field.ty, choices, depth));
            Value::Object((0..choices.next(MAX_ITEMS)).map(|_| entry(choices)).collect())
        }
    }
}

fn scalar(ty: Type, choices: &mut Choices<'_>, depth: usize) -> Value {
    match ty {
        Type::Bool => (choices.next(2) == 0).into(),
        Type::Int32 => i32::try_from(choices.of(&INTS)).unwrap_or(7).into(),
        Type::Int64 => choices.of(&INTS).into(),
        Type::Double => choices.of(&[0.0, 1.5, -2.25, 1e-7, 1e22]).into(),
        Type::String => choices.text().into(),
        Type::Bytes => choices.of(&["", "AA==", "aGVsbG8="]).into(),
        Type::Message(inner) => match inner.special {
            None => message(inner, choices, depth + 1),
            Some(special) => special_value(special, inner, choices, depth),
        },
    }
}

fn special_value(special: Special, inner: MessageId, choices: &mut Choices<'_>, depth: usize) -> Value {
    let schema = inner.fields.first().and_then(|field| field.message());
    let schema = schema.or_else(|| inner.fields.get(1)?.message());
    let schema =
        |choices: &mut Choices<'_>| schema.map_or(Value::Null, |inner| message(inner, choices, depth + 3));
    match special {
        Special::Quantity => choices.of(&QUANTITIES).into(),
        Special::IntOrString => match choices.next(2) {
            0 => i32::try_from(choices.of(&INTS)).unwrap_or(7).into(),
            _ => choices.text().into(),
        },
        Special::Time => {
            choices.of(&["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z"]).into()
        }
        Special::MicroTime => {
            choices.of(&["2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05.123456Z"]).into()
        }
        Special::Duration => choices.of(&["0s", "1m30s", "1.5s", "-2ms", "2562047h47m16.854775807s"]).into(),
        Special::Raw => match choices.next(4) {
            0 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
            1 => json!([1, null, "<"]),
            2 => json!(5),
            _ => choices.text().into(),
        },
        Special::Strings => (0..choices.next(MAX_ITEMS)).map(|_| Value::from(choices.text())).collect(),
        Special::PropsOrBool if choices.next(2) == 0 => (choices.next(2) == 0).into(),
        Special::PropsOrStrings if choices.next(2) == 0 => json!(["a", "b"]),
        Special::PropsOrArray if choices.next(2) == 0 => vec![schema(choices)].into(),
        Special::PropsOrBool | Special::PropsOrStrings | Special::PropsOrArray => schema(choices),
    }
}

//! JSON and YAML text to trees. Fields given twice are reported (strict decoding), the last one wins.

use super::MAX_DEPTH;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Upstream reports at most this many faults of one body.
pub const MAX_STRICT_ERRORS: usize = 100;

/// A decoded document.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Paths of fields that stood there twice, in document order, at most [`MAX_STRICT_ERRORS`].
    pub duplicates: Vec<String>,
}

/// A text that is not JSON or YAML; the message is close to Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Decodes JSON text.
///
/// # Errors
/// Text that is not JSON, with Go's wording.
pub fn decode_json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut tracker = Tracker::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut tracker).deserialize(&mut deserializer);
    let value = value.and_then(|v| deserializer.end().map(|()| v)).map_err(|e| json_error(bytes, &e))?;
    Ok(Decoded { value, duplicates: tracker.duplicates })
}

/// Decodes the first document of YAML text (a superset of JSON; YAML 1.1 booleans and octal numbers, as upstream).
///
/// # Errors
/// Text that is not YAML.
pub fn decode_yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut tracker = Tracker::default();
    let value = serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, |deserializer| {
        Seed(&mut tracker).deserialize(deserializer)
    });
    let value = value.map_err(|e| DecodeError(format!("error converting YAML to JSON: yaml: {e}")))?;
    Ok(Decoded { value, duplicates: tracker.duplicates })
}

/// Go's wording of a JSON syntax error.
fn json_error(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    if error.is_eof() {
        return DecodeError("unexpected end of JSON input".into());
    }
    let text = error.to_string();
    if text.starts_with("exceeded max depth") || text.starts_with("recursion limit exceeded") {
        return DecodeError("exceeded max depth".into());
    }
    let place = [
        ("expected value", "looking for beginning of value"),
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing comma", "looking for beginning of value"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
        ("expected ident", "in literal"),
    ]
    .iter()
    .find(|(found, _)| text.starts_with(found));
    match (place, byte_at(bytes, error.line(), error.column())) {
        (Some((_, place)), Some(byte)) => {
            DecodeError(format!("invalid character {} {place}", quote_char(byte)))
        }
        _ => DecodeError(text),
    }
}

fn byte_at(bytes: &[u8], line: usize, column: usize) -> Option<u8> {
    let line = bytes.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    line.get(column.checked_sub(1)?).copied()
}

fn quote_char(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\t' => r"'\t'".into(),
        b'\r' => r"'\r'".into(),
        byte if byte < 0x20 => format!(r"'\x{byte:02x}'"),
        byte => format!("'{}'", char::from(byte)),
    }
}

/// Paths noted of one faulty document at most.
const MAX_PATHS: usize = 100_000;

/// The paths of all fields of a JSON text in order, repeats included; empty when it is not JSON. Only faulty documents
/// are walked so, to report their faults in order.
pub(crate) fn paths_in_order(json: &[u8]) -> Vec<String> {
    let mut tracker = Tracker { all: Some(Vec::new()), ..Tracker::default() };
    let walked = Seed(&mut tracker).deserialize(&mut serde_json::Deserializer::from_slice(json));
    if walked.is_ok() { tracker.all.unwrap_or_default() } else { Vec::new() }
}

/// Where the decoder stands, and what it met twice.
#[derive(Default)]
struct Tracker {
    path: Vec<Step>,
    duplicates: Vec<String>,
    /// Every path met, when asked for.
    all: Option<Vec<String>>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Tracker {
    fn meet(&mut self, key: &str, again: bool) {
        if again && self.duplicates.len() < MAX_STRICT_ERRORS {
            self.duplicates.push(self.path_to(key));
        }
        if self.all.as_ref().is_some_and(|all| all.len() < MAX_PATHS) {
            let path = self.path_to(key);
            self.all.get_or_insert_default().push(path);
        }
    }

    fn path_to(&self, key: &str) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.push_str(&format!(".{key}")),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
    }
}

struct Seed<'t>(&'t mut Tracker);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.path.len() > MAX_DEPTH {
            return Err(serde::de::Error::custom("exceeded max depth"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.path.push(Step::Index(list.len()));
            let item = items.next_element_seed(Seed(&mut *self.0))?;
            self.0.path.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            self.0.meet(&key, map.contains_key(&key));
            self.0.path.push(Step::Key(key));
            let value = entries.next_value_seed(Seed(&mut *self.0))?;
            if let Some(Step::Key(key)) = self.0.path.pop() {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// YAML keys may be numbers or booleans; they become text.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, key: &str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_string<E>(self, key: String) -> Result<String, E> {
        Ok(key)
    }

    fn visit_bool<E>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_f64<E>(self, key: f64) -> Result<String, E> {
        Ok(key.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named_with_their_path_and_the_last_wins() {
        let decoded = decode_json(br#"{"a":[{"b":1,"b":2}],"c":1,"c":2}"#).unwrap();
        assert_eq!(decoded.duplicates, ["a[0].b", "c"]);
        assert_eq!(decoded.value, json!({"a": [{"b": 2}], "c": 2}));
    }

    #[test]
    fn syntax_errors_have_gos_words() {
        for (text, expected) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            (r#"{"a":1]"#, "invalid character ']' after object key:value pair"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1} y"#, "invalid character 'y' after top-level value"),
        ] {
            assert_eq!(decode_json(text.as_bytes()).unwrap_err().0, expected, "{text}");
        }
    }

    #[test]
    fn deep_documents_are_refused() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(decode_json(nested(100).as_bytes()).is_ok());
        assert_eq!(decode_json(nested(100_000).as_bytes()).unwrap_err().0, "exceeded max depth");
        assert!(decode_yaml(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn yaml_reads_as_json() {
        let text = b"a: 1\nb: [x, 'y', true, null]\nc:\n  d: 1.5\n  80: tcp\ne: \"1\"\nmode: 0644\n";
        let expected =
            json!({"a": 1, "b": ["x", "y", true, null], "c": {"d": 1.5, "80": "tcp"}, "e": "1", "mode": 420});
        assert_eq!(decode_yaml(text).unwrap(), Decoded { value: expected, duplicates: vec![] });
        assert_eq!(decode_yaml(b"a: 1\na: 2\n").unwrap().duplicates, ["a"]);
        assert!(decode_yaml(b"a: [").is_err());
    }
}

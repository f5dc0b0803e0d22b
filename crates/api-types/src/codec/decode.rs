//! JSON and YAML text to trees. Fields given twice are reported (strict decoding), the last one wins.

use super::MAX_DEPTH;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Upstream reports at most this many faults of one body.
pub const MAX_STRICT_ERRORS: usize = 100;

/// Bytes that the paths of the faults of one body may have together: keys are as long as their body, and each of a
/// hundred paths may lead through the same one.
pub(crate) const MAX_STRICT_BYTES: usize = 256 << 10;

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

/// Where a path stands in a text: paths are compared by their digests, since a body of megabytes may have a hundred
/// thousand fields below a key of megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    /// FNV-1a.
    const BASIS: Self = Self(0xcbf2_9ce4_8422_2325);

    pub fn of(path: &str) -> Self {
        Self::BASIS.with(path.as_bytes())
    }

    fn with(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }
}

/// The paths of all fields of a JSON text in order, repeats included; empty when it is not JSON. Only faulty documents
/// are walked so, to report their faults in order.
pub(crate) fn paths_in_order(json: &[u8]) -> Vec<Digest> {
    let mut tracker = Tracker { all: Some(Vec::new()), ..Tracker::default() };
    let walked = Seed(&mut tracker).deserialize(&mut serde_json::Deserializer::from_slice(json));
    if walked.is_ok() { tracker.all.unwrap_or_default() } else { Vec::new() }
}

/// Where the decoder stands, and what it met twice.
#[derive(Default)]
struct Tracker {
    path: Vec<Step>,
    duplicates: Vec<String>,
    /// Bytes of their paths.
    noted: usize,
    /// Every path met, when asked for.
    all: Option<Vec<Digest>>,
    /// Those of the path's beginnings.
    digests: Vec<Digest>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Tracker {
    fn meet(&mut self, key: &str, again: bool) {
        if again && self.duplicates.len() < MAX_STRICT_ERRORS && self.noted < MAX_STRICT_BYTES {
            let path = self.path_to(key);
            self.noted += path.len();
            self.duplicates.push(path);
        }
        let here = self.digest_to(key);
        if let Some(all) = self.all.as_mut().filter(|all| all.len() < MAX_PATHS) {
            all.push(here);
        }
    }

    /// The digest of what [`Self::path_to`] says, in the time that the key takes.
    fn digest_to(&self, key: &str) -> Digest {
        if self.all.is_none() {
            return Digest::BASIS;
        }
        match self.digests.last() {
            None => Digest::of(key),
            Some(before) => before.with(b".").with(key.as_bytes()),
        }
    }

    fn enter(&mut self, step: Step) {
        if self.all.is_some() {
            let digest = match &step {
                Step::Key(key) => self.digest_to(key),
                Step::Index(index) => {
                    let before = self.digests.last().copied().unwrap_or(Digest::BASIS);
                    before.with(format!("[{index}]").as_bytes())
                }
            };
            self.digests.push(digest);
        }
        self.path.push(step);
    }

    fn leave(&mut self) -> Option<Step> {
        self.digests.pop();
        self.path.pop()
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
            self.0.enter(Step::Index(list.len()));
            let item = items.next_element_seed(Seed(&mut *self.0))?;
            self.0.leave();
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
            self.0.enter(Step::Key(key));
            let value = entries.next_value_seed(Seed(&mut *self.0))?;
            if let Some(Step::Key(key)) = self.0.leave() {
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
    fn faults_below_a_long_key_take_no_more_than_a_few_of_it() {
        let fields = |times: usize| format!("{{{}}}", vec![r#""b":1"#; times].join(","));
        let long = "k".repeat(1 << 20);
        let decoded = decode_json(format!(r#"{{"{long}":{}}}"#, fields(200)).as_bytes()).unwrap();
        assert_eq!(decoded.duplicates.len(), 1);
        let short = decode_json(format!(r#"{{"k":{}}}"#, fields(200)).as_bytes()).unwrap();
        assert_eq!(short.duplicates.len(), MAX_STRICT_ERRORS);
        let found = paths_in_order(br#"{"a":[{"b":1,"c":{"d":2}}],"e":3}"#);
        let paths = ["a", "a[0].b", "a[0].c", "a[0].c.d", "e"];
        assert_eq!(found, paths.map(Digest::of));
    }

    #[test]
    fn an_alias_that_multiplies_itself_is_refused() {
        let levels = (1..10).map(|level| {
            let names = vec![format!("*a{}", level - 1); 10].join(",");
            format!("a{level}: &a{level} [{names}]\n")
        });
        let bomb = format!("a0: &a0 [lol,lol,lol,lol,lol]\n{}", levels.collect::<String>());
        let error = decode_yaml(bomb.as_bytes()).unwrap_err().0;
        assert!(error.starts_with("error converting YAML to JSON: yaml: "), "{error}");
        let usual = "base: &base {x: 1}\na: *base\nb: *base\n";
        assert_eq!(decode_yaml(usual.as_bytes()).unwrap().value["b"], json!({"x": 1}));
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

//! Where a decoded message goes: JSON text as Go writes it, or a tree.

use super::{CodecError, scan};
use crate::schema::FieldInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};
use std::io::Write;

/// Receives a document in order.
pub(crate) trait Sink {
    fn begin_object(&mut self);
    /// How many objects and arrays are open.
    fn depth(&self) -> usize;
    fn key(&mut self, key: &str);
    /// The key of a field.
    fn name(&mut self, field: &FieldInfo);
    fn end_object(&mut self);
    fn begin_array(&mut self);
    fn end_array(&mut self);
    /// A text; of bytes that are not UTF-8 U+FFFD stands for what is not.
    fn string(&mut self, text: &[u8]);
    fn int(&mut self, value: i64);
    fn float(&mut self, value: f64);
    fn bool(&mut self, value: bool);
    fn null(&mut self);
    /// Any JSON, from its bytes.
    fn raw(&mut self, json: &[u8]) -> Result<(), CodecError>;
    fn base64(&mut self, bytes: &[u8]);
}

/// Compact JSON with Go's escapes. A comma stands behind every value until its object or array ends.
pub(crate) struct JsonSink<'a> {
    out: &'a mut Vec<u8>,
    depth: usize,
}

impl<'a> JsonSink<'a> {
    /// Appends the one value that `write` writes.
    pub(crate) fn append<E>(
        out: &'a mut Vec<u8>,
        write: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut sink = Self { out, depth: 0 };
        write(&mut sink)?;
        sink.out.pop();
        Ok(())
    }

    fn open(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.depth += 1;
    }

    fn close(&mut self, bracket: u8) {
        match self.out.last_mut() {
            Some(comma) if *comma == b',' => *comma = bracket,
            _ => self.out.push(bracket),
        }
        self.out.push(b',');
        self.depth -= 1;
    }
}

impl Sink for JsonSink<'_> {
    fn begin_object(&mut self) {
        self.open(b'{');
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn key(&mut self, key: &str) {
        write_text(self.out, key.as_bytes(), b"\":");
    }

    fn name(&mut self, field: &FieldInfo) {
        if !field.key.append_to(self.out) {
            self.key(field.name);
        }
    }

    fn end_object(&mut self) {
        self.close(b'}');
    }

    fn begin_array(&mut self) {
        self.open(b'[');
    }

    fn end_array(&mut self) {
        self.close(b']');
    }

    fn string(&mut self, text: &[u8]) {
        write_text(self.out, text, b"\",");
    }

    fn int(&mut self, value: i64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b',');
    }

    fn float(&mut self, value: f64) {
        write_float(self.out, value);
        self.out.push(b',');
    }

    fn bool(&mut self, value: bool) {
        self.out.extend_from_slice(if value { b"true," } else { b"false," });
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null,");
    }

    fn raw(&mut self, json: &[u8]) -> Result<(), CodecError> {
        write_compact(self.out, json);
        self.out.push(b',');
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let at = self.out.len();
        self.out.resize(at + bytes.len().div_ceil(3) * 4, 0);
        STANDARD.encode_slice(bytes, &mut self.out[at..]).expect("room for the whole text");
        self.out.extend_from_slice(b"\",");
    }
}

/// Writes a string and what ends it. Escapes as Go's encoder does with HTML escaping on, which is how upstream's server
/// writes.
#[inline]
fn write_text(out: &mut Vec<u8>, text: &[u8], end: &[u8; 2]) {
    out.push(b'"');
    if !scan::append_plain(out, text) {
        write_escaped(out, String::from_utf8_lossy(text).as_bytes());
    }
    out.extend_from_slice(end);
}

#[inline(never)]
fn write_escaped(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let (plain, rest) = bytes.split_at(scan::run(bytes, scan::to_escape));
        out.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else { return };
        bytes = rest;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            special => bytes = write_special(out, special, rest),
        }
    }
}

/// Writes a byte that stands for itself only in some places, given what follows: what is left of that.
fn write_special<'a>(out: &mut Vec<u8>, byte: u8, rest: &'a [u8]) -> &'a [u8] {
    match (byte, rest) {
        // U+2028 and U+2029, which JavaScript took for line ends.
        (0xe2, [0x80, end @ (0xa8 | 0xa9), rest @ ..]) => {
            write_unicode(out, 0x2000 | u32::from(end & 0x3f));
            return rest;
        }
        (0xe2, _) => out.push(byte),
        _ => write_unicode(out, u32::from(byte)),
    }
    rest
}

fn write_unicode(out: &mut Vec<u8>, code: u32) {
    write!(out, "\\u{code:04x}").expect("writing to memory");
}

/// Go's shortest form: exponents below 1e-6 and from 1e21.
fn write_float(out: &mut Vec<u8>, value: f64) {
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        write!(out, "{value}").expect("writing to memory");
        return;
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    write!(out, "{mantissa}e{sign}{digits}").expect("writing to memory");
}

/// Copies JSON without the white space between tokens, with HTML characters escaped as Go's compaction does.
fn write_compact(out: &mut Vec<u8>, json: &[u8]) {
    if scan::is_clean(json, scan::not_compact) {
        return out.extend_from_slice(json);
    }
    let (mut json, mut in_string) = (json, false);
    loop {
        let run =
            if in_string { scan::run(json, scan::in_string) } else { scan::run(json, scan::between_strings) };
        let (plain, rest) = json.split_at(run);
        out.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else { return };
        json = rest;
        match (byte, rest) {
            (b'"', _) => {
                in_string = !in_string;
                out.push(byte);
            }
            (b'\\', [next @ (b'"' | b'\\'), rest @ ..]) => {
                out.extend_from_slice(&[byte, *next]);
                json = rest;
            }
            (b'\\', _) => out.push(byte),
            (b' ' | b'\n' | b'\r' | b'\t', _) => {}
            (b'<' | b'>' | b'&' | 0xe2, _) => json = write_special(out, byte, rest),
            _ => out.push(byte),
        }
    }
}

/// A number of a tree. A whole number reads as an integer, as it does from the JSON text.
pub(super) fn number(value: f64) -> Value {
    let whole = value.fract() == 0.0 && value.abs() < 1e15;
    let number = if whole { Some(Number::from(value as i64)) } else { Number::from_f64(value) };
    number.map_or(Value::Null, Value::Number)
}

/// Builds a tree. Null members of objects are left out: absent and null mean the same to the API.
#[derive(Default)]
pub(crate) struct TreeSink {
    open: Vec<Open>,
    done: Option<Value>,
    /// Whether `fieldsV1` of the object's own metadata is left as its text.
    fields_as_text: bool,
}

enum Open {
    Object(Map<String, Value>, String),
    Array(Vec<Value>),
}

impl TreeSink {
    /// Leaves `fieldsV1` of the object's own metadata as its text.
    pub(crate) fn with_fields_as_text() -> Self {
        Self { fields_as_text: true, ..Self::default() }
    }

    pub(crate) fn finish(self) -> Value {
        self.done.unwrap_or_default()
    }

    /// Whether what comes next is the `fieldsV1` of an entry of the object's own managed fields.
    fn is_at_fields(&self) -> bool {
        let is_at = |open: &Open, name: &str| matches!(open, Open::Object(_, key) if key == name);
        match self.open.as_slice() {
            [object, metadata, Open::Array(_), entry] => {
                is_at(object, "metadata") && is_at(metadata, "managedFields") && is_at(entry, "fieldsV1")
            }
            _ => false,
        }
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut() {
            Some(Open::Object(map, key)) => {
                let key = std::mem::take(key);
                if !value.is_null() {
                    map.insert(key, value);
                }
            }
            Some(Open::Array(list)) => list.push(value),
            None => self.done = Some(value),
        }
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Open::Object(map, _)) => self.put(Value::Object(map)),
            Some(Open::Array(list)) => self.put(Value::Array(list)),
            None => {}
        }
    }
}

impl Sink for TreeSink {
    fn begin_object(&mut self) {
        self.open.push(Open::Object(Map::new(), String::new()));
    }

    fn depth(&self) -> usize {
        self.open.len()
    }

    fn key(&mut self, name: &str) {
        if let Some(Open::Object(_, key)) = self.open.last_mut() {
            name.clone_into(key);
        }
    }

    fn name(&mut self, field: &FieldInfo) {
        self.key(field.name);
    }

    fn end_object(&mut self) {
        self.close();
    }

    fn begin_array(&mut self) {
        self.open.push(Open::Array(Vec::new()));
    }

    fn end_array(&mut self) {
        self.close();
    }

    fn string(&mut self, text: &[u8]) {
        self.put(String::from_utf8_lossy(text).into());
    }

    fn int(&mut self, value: i64) {
        self.put(value.into());
    }

    fn float(&mut self, value: f64) {
        self.put(number(value));
    }

    fn bool(&mut self, value: bool) {
        self.put(value.into());
    }

    fn null(&mut self) {
        self.put(Value::Null);
    }

    fn raw(&mut self, json: &[u8]) -> Result<(), CodecError> {
        let text = std::str::from_utf8(json).ok().filter(|text| text.starts_with('{'));
        if let (true, Some(text)) = (self.fields_as_text && self.is_at_fields(), text) {
            self.put(text.into());
            return Ok(());
        }
        let value = serde_json::from_slice(json).map_err(|e| CodecError::Raw(e.to_string()))?;
        self.put(value);
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.put(STANDARD.encode(bytes).into());
    }
}

/// Keeps nothing: whether a message can be read is all that is asked.
#[derive(Default)]
pub(crate) struct NoSink {
    depth: usize,
}

impl Sink for NoSink {
    fn begin_object(&mut self) {
        self.depth += 1;
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn key(&mut self, _: &str) {}

    fn name(&mut self, _: &FieldInfo) {}

    fn end_object(&mut self) {
        self.depth -= 1;
    }

    fn begin_array(&mut self) {
        self.depth += 1;
    }

    fn end_array(&mut self) {
        self.depth -= 1;
    }

    fn string(&mut self, _: &[u8]) {}

    fn int(&mut self, _: i64) {}

    fn float(&mut self, _: f64) {}

    fn bool(&mut self, _: bool) {}

    fn null(&mut self) {}

    fn raw(&mut self, json: &[u8]) -> Result<(), CodecError> {
        TreeSink::default().raw(json)
    }

    fn base64(&mut self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        write_text(&mut out, text.as_bytes(), b"\",");
        assert_eq!(out.pop(), Some(b','));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(string("a\"b\\c\n\u{1}\u{8}<>&é"), r#""a\"b\\c\n\u0001\b\u003c\u003e\u0026é""#);
        assert_eq!(string("\u{2028}€"), "\"\\u2028€\"");
        assert_eq!(string("\u{7f}"), "\"\u{7f}\"");
    }

    #[test]
    fn an_escape_is_found_wherever_it_stands() {
        for (text, escaped) in
            [("\"", "\\\""), ("\u{2028}", "\\u2028"), ("&", "\\u0026"), ("\t", "\\t"), ("€", "€")]
        {
            for before in 0..40 {
                for after in [0, 1, 15, 16, 40] {
                    let around =
                        |middle: &str| format!("{}{middle}{}", "é".repeat(before), "x".repeat(after));
                    assert_eq!(string(&around(text)), format!("\"{}\"", around(escaped)));
                }
            }
        }
    }

    #[test]
    fn floats_are_written_as_go_does() {
        for (value, text) in [
            (0.5, "0.5"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
            (1.5e-10, "1.5e-10"),
            (100.0, "100"),
            (-0.25, "-0.25"),
        ] {
            let mut out = Vec::new();
            write_float(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn raw_json_is_compacted() {
        let mut out = Vec::new();
        write_compact(&mut out, br#"{ "a" : [1, "x \" < y"] }"#);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":[1,"x \" \u003c y"]}"#);
    }
}

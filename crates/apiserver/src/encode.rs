//! Answers as bytes: stored bytes go out without a tree in between wherever the client takes them as they are.

use api_rules::columns::Column;
use api_rules::rules;
use api_types::schema::{self, MessageId};
use api_types::status::Status;
use api_types::{Text, Value, codec};
use bytes::Bytes;
use mvcc::KeyValue;
use serde_json::json;

use crate::body::{self, Body};
use crate::catalog::Kind;
use crate::convert;
use crate::negotiate::{Format, Media, PARTIAL, PARTIAL_LIST, Shape};

/// What a table's rows carry of their objects (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "None" => Ok(Self::Nothing),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// Everything that decides how objects of a request are written.
#[derive(Clone)]
pub(crate) struct Writer {
    pub resource: Kind,
    pub media: Media,
    pub include: Include,
    /// Milliseconds since the epoch: ages in tables count from here.
    pub now: i64,
}

/// Stored bytes of a list above which it is written piece by piece.
const WHOLE_LIST_BYTES: usize = 1 << 20;
/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

/// Version and kind of an object's metadata alone.
const META: &str = "meta.k8s.io/v1";

fn partial_message() -> MessageId {
    schema::lookup("meta.k8s.io", "v1", PARTIAL)
        .or_else(|| schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata"))
        .expect("invariant: the tables hold PartialObjectMetadata")
}

fn failed(error: codec::CodecError) -> Status {
    convert::unreadable(error)
}

/// A tree of a known message in a format.
pub(crate) fn value(message: MessageId, media: Media, value: &Value) -> Result<Bytes, Status> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let mut out = Vec::new();
    match media.format {
        Format::Protobuf => {
            out = codec::to_envelope(message, text("apiVersion"), text("kind"), value).map_err(failed)?;
        }
        Format::Json => {
            codec::encode_json(message, value, &mut out).map_err(failed)?;
            finish_json(&mut out, media.pretty);
        }
        Format::Yaml => {
            codec::encode_json(message, value, &mut out).map_err(failed)?;
            out = yaml(&out)?;
        }
    }
    Ok(out.into())
}

fn finish_json(out: &mut Vec<u8>, pretty: bool) {
    if pretty {
        *out = indent(out);
    }
    out.push(b'\n');
}

fn yaml(json: &[u8]) -> Result<Vec<u8>, Status> {
    let value: Value = serde_json::from_slice(json).map_err(Status::internal)?;
    Ok(codec::encode_yaml(&value).into_bytes())
}

/// JSON with line ends and two spaces a level, as Go's encoder indents.
pub(crate) fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (at, &byte) in json.iter().enumerate() {
        if text {
            out.push(byte);
            (escaped, text) = (byte == b'\\' && !escaped, escaped || byte != b'"');
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(json.get(at + 1), Some(b'}' | b']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(json.get(at.wrapping_sub(1)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'"' => {
                text = true;
                out.push(byte);
            }
            _ => out.push(byte),
        }
    }
    out
}

/// What decides how objects are written, whoever they are written for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    pub format: Format,
    pub shape: Shape,
    pub group: Text,
    pub version: Text,
    /// Revision of the kind's definition.
    pub definition: i64,
}

impl Writer {
    /// None for what each caller is told in words of its own: tables, which hold ages.
    pub fn form(&self) -> Option<Form> {
        let (media, resource) = (&self.media, &self.resource);
        (media.shape != Shape::Table).then(|| Form {
            format: media.format,
            shape: media.shape,
            group: resource.group.clone(),
            version: resource.version.clone(),
            definition: resource.definition_revision(),
        })
    }

    /// `Content-Type` of the answer.
    pub fn content_type(&self) -> &'static str {
        self.media.format.media_type()
    }

    /// Whether what was asked for can be had of a list, or of one object.
    ///
    /// # Errors
    /// 406 for metadata of the other one.
    pub fn check_shape(&self, is_list: bool) -> Result<(), Status> {
        if self.media.shape != Shape::Metadata || self.media.of_list == is_list {
            return Ok(());
        }
        let (asked, is) = if is_list { (PARTIAL, "is a list") } else { (PARTIAL_LIST, "is not a list") };
        let name = self.gos_name(is_list);
        Err(Status::unfit(format!("you requested {asked}, but the requested object {is} ({name})")))
    }

    /// What upstream calls the type of an object, or of a list: package and kind.
    fn gos_name(&self, is_list: bool) -> String {
        if self.resource.custom().is_some() {
            return format!("*unstructured.Unstructured{}", if is_list { "List" } else { "" });
        }
        let package = match self.resource.group.split('.').next().unwrap_or_default() {
            "" | "events" => "core",
            "internal" => "apiserverinternal",
            first => first,
        };
        let kind: &str = if is_list { &self.resource.list_kind } else { &self.resource.kind };
        format!("*{package}.{kind}")
    }

    /// One object.
    pub fn object(&self, kv: &KeyValue) -> Result<Bytes, Status> {
        self.check_shape(false)?;
        let mut out = Vec::with_capacity(kv.value.len() * 2);
        match (self.media.shape, self.media.format) {
            (Shape::Object, Format::Protobuf) => {
                if let Some(stored) = self.native(kv) {
                    stored.to_proto(&mut out, kv.mod_revision).map_err(failed)?;
                    return Ok(out.into());
                }
                return value(self.resource.built_in_message(), self.media, &self.resource.decode(kv)?);
            }
            (Shape::Metadata, Format::Protobuf) => {
                self.partial_proto(kv, &mut out)?;
                return Ok(codec::wrap_unknown(META, PARTIAL, &out).into());
            }
            (Shape::Object, _) => self.object_json(kv, true, &mut out)?,
            (Shape::Metadata, _) => self.partial_json(kv, &mut out)?,
            (Shape::Table, _) => {
                self.table_head(&json!({}), true, &mut out);
                self.row(kv, &mut out)?;
                out.extend_from_slice(b"]}");
            }
        }
        self.finish(out)
    }

    fn finish(&self, mut out: Vec<u8>) -> Result<Bytes, Status> {
        if self.media.format == Format::Yaml {
            return Ok(yaml(&out)?.into());
        }
        finish_json(&mut out, self.media.pretty);
        Ok(out.into())
    }

    fn object_json(&self, kv: &KeyValue, typed: bool, out: &mut Vec<u8>) -> Result<(), Status> {
        if self.resource.custom().is_some() {
            // Of custom kinds also the items of lists say what they are.
            return serde_json::to_writer(out, &self.resource.decode(kv)?).map_err(Status::internal);
        }
        if let Some(stored) = self.native(kv) {
            return stored.to_json(out, kv.mod_revision, typed).map_err(failed);
        }
        let mut value = self.resource.decode(kv)?;
        if let (false, Some(object)) = (typed, value.as_object_mut()) {
            object.remove("kind");
            object.remove("apiVersion");
        }
        codec::encode_json(self.resource.built_in_message(), &value, out).map_err(failed)
    }

    /// The stored object, if it goes out as it is.
    pub fn native<'a>(&self, kv: &'a KeyValue) -> Option<codec::Unknown<'a>> {
        if self.resource.custom().is_some() { None } else { convert::native(&self.resource, &kv.value) }
    }

    fn partial_proto(&self, kv: &KeyValue, out: &mut Vec<u8>) -> Result<(), Status> {
        if let Some(stored) = self.native(kv) {
            return stored.metadata_to_proto(out, kv.mod_revision).map_err(failed);
        }
        let partial = convert::partial(&mut self.resource.decode(kv)?);
        codec::to_proto(partial_message(), &partial, out).map_err(failed)
    }

    fn partial_json(&self, kv: &KeyValue, out: &mut Vec<u8>) -> Result<(), Status> {
        if let Some(stored) = self.native(kv) {
            let (message, raw) = (partial_message(), stored.raw);
            let written = codec::object_to_json(message, META, PARTIAL, raw, kv.mod_revision, out);
            return written.map_err(failed);
        }
        let partial = convert::partial(&mut self.resource.decode(kv)?);
        codec::encode_json(partial_message(), &partial, out).map_err(failed)
    }

    /// A table up to its rows. `headed`: with the columns (a watch sends them once).
    fn table_head(&self, metadata: &Value, headed: bool, out: &mut Vec<u8>) {
        let columns = match headed {
            true => match self.resource.custom() {
                Some(kind) => kind.rules.columns().to_string(),
                None => json_columns(rules(&self.resource).columns),
            },
            false => "null".to_owned(),
        };
        let head = format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
        );
        out.extend_from_slice(head.as_bytes());
    }

    fn row(&self, kv: &KeyValue, out: &mut Vec<u8>) -> Result<(), Status> {
        let mut object = self.resource.decode(kv)?;
        let (cells, conditions) = match self.resource.custom() {
            Some(kind) => (kind.rules.cells(&object, self.now), Vec::new()),
            None => {
                let rules = rules(&self.resource);
                ((rules.cells)(&object, self.now), (rules.row_conditions)(&object))
            }
        };
        out.extend_from_slice(format!(r#"{{"cells":{}"#, Value::Array(cells)).as_bytes());
        if !conditions.is_empty() {
            out.extend_from_slice(format!(r#","conditions":{}"#, Value::Array(conditions)).as_bytes());
        }
        out.extend_from_slice(br#","object":"#);
        match self.include {
            Include::Nothing => out.extend_from_slice(b"null"),
            Include::Object => self.object_json(kv, true, out)?,
            Include::Metadata => {
                let partial = convert::partial(&mut object);
                codec::encode_json(partial_message(), &partial, out).map_err(failed)?;
            }
        }
        out.push(b'}');
        Ok(())
    }

    fn item(&self, kv: &KeyValue, out: &mut Vec<u8>) -> Result<(), Status> {
        match self.media.shape {
            Shape::Object if self.media.format == Format::Protobuf => self.protobuf_item(kv, out),
            Shape::Object => self.object_json(kv, false, out),
            Shape::Metadata => self.partial_json(kv, out),
            Shape::Table => self.row(kv, out),
        }
    }

    /// Bytes that a list holds until it is sent, of so many that are stored, about: its objects, and the whole text where
    /// that is made at once.
    pub fn held_bytes(&self, stored: usize) -> usize {
        match (self.media.format, self.media.shape) {
            _ if self.media.pretty => stored.saturating_mul(4),
            (Format::Yaml, _) => stored.saturating_mul(3),
            (Format::Protobuf, Shape::Metadata) => stored.saturating_mul(2),
            _ => stored,
        }
    }

    /// A list's beginning, up to its items.
    fn list_head(&self, metadata: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        let (kind, api_version) = match self.media.shape {
            Shape::Object => (String::from(&self.resource.list_kind), self.resource.api_version()),
            Shape::Metadata => (PARTIAL_LIST.to_owned(), META.to_owned()),
            Shape::Table => {
                self.table_head(metadata, true, &mut out);
                return out;
            }
        };
        let head = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{},"items":["#,
            list_metadata(metadata)
        );
        out.extend_from_slice(head.as_bytes());
        out
    }

    /// A list; `metadata` is its `ListMeta`.
    pub fn list(self, metadata: &Value, items: Vec<KeyValue>) -> Result<Body, Status> {
        self.check_shape(true)?;
        let bytes: usize = items.iter().map(|kv| kv.value.len()).sum();
        if self.media.format == Format::Protobuf {
            return self.protobuf_list(metadata, items, bytes);
        }
        let mut out = self.list_head(metadata);
        if bytes <= WHOLE_LIST_BYTES || self.media.pretty || self.media.format == Format::Yaml {
            for (index, kv) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                self.item(kv, &mut out)?;
            }
            out.extend_from_slice(b"]}");
            return Ok(body::full(self.finish(out)?));
        }
        Ok(self.pieces(items, out, b"]}\n"))
    }

    fn pieces(self, items: Vec<KeyValue>, head: Vec<u8>, end: &'static [u8]) -> Body {
        let pieces = Pieces { writer: self, items, next: 0, out: head, end, ended: false };
        body::stream(futures::stream::iter(pieces))
    }

    /// A list; `bytes` are stored for its items.
    fn protobuf_list(self, metadata: &Value, items: Vec<KeyValue>, bytes: usize) -> Result<Body, Status> {
        let list = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
            .expect("invariant: the tables hold ListMeta");
        let (mut head, mut raw) = (Vec::new(), Vec::new());
        codec::to_proto(list, metadata, &mut head).map_err(failed)?;
        put_field(1, &head, &mut raw);
        let (api_version, kind) = match self.media.shape {
            Shape::Metadata => (META.to_owned(), PARTIAL_LIST),
            _ => (self.resource.api_version(), &*self.resource.list_kind),
        };
        if self.media.shape == Shape::Object
            && bytes > WHOLE_LIST_BYTES
            && let Some(length) = self.native_len(&items)?
        {
            let mut out = Vec::with_capacity(PIECE_BYTES);
            codec::begin_envelope(&mut out, &api_version, kind, raw.len() + length);
            out.extend_from_slice(&raw);
            return Ok(self.pieces(items, out, &codec::END_OF_ENVELOPE));
        }
        raw.reserve(bytes + 16 * items.len());
        for kv in &items {
            self.protobuf_item(kv, &mut raw)?;
        }
        Ok(body::full(codec::wrap_unknown(&api_version, kind, &raw)))
    }

    /// Bytes of items in a protobuf list, if all go out as they are.
    fn native_len(&self, items: &[KeyValue]) -> Result<Option<usize>, Status> {
        let mut length = 0;
        for kv in items {
            let Some(stored) = self.native(kv) else { return Ok(None) };
            length += stored.proto_item_len(kv.mod_revision).map_err(failed)?;
        }
        Ok(Some(length))
    }

    fn protobuf_item(&self, kv: &KeyValue, out: &mut Vec<u8>) -> Result<(), Status> {
        let mut item = Vec::new();
        match (self.media.shape, self.native(kv)) {
            (Shape::Metadata, _) => self.partial_proto(kv, &mut item)?,
            (_, Some(stored)) => return stored.to_proto_item(out, kv.mod_revision).map_err(failed),
            (_, None) => {
                let object = self.resource.decode(kv)?;
                codec::to_proto(self.resource.built_in_message(), &object, &mut item).map_err(failed)?;
            }
        }
        put_field(2, &item, out);
        Ok(())
    }

    /// One object as an event of a watch carries it; `headed`: a table with its columns.
    pub fn watched(&self, kv: &KeyValue, headed: bool) -> Result<Bytes, Status> {
        if self.media.shape != Shape::Table {
            let plain = Self { media: Media { pretty: false, ..self.media }, ..self.clone() };
            return plain.object(kv);
        }
        let mut out = Vec::new();
        self.table_head(&json!({"resourceVersion": kv.mod_revision.to_string()}), headed, &mut out);
        self.row(kv, &mut out)?;
        out.extend_from_slice(b"]}");
        Ok(out.into())
    }

    /// The object of a bookmark: nothing but a revision.
    pub fn bookmark(&self, revision: i64, initial_events_end: bool) -> Result<Bytes, Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (message, kind, api_version) = match self.media.shape {
            Shape::Object => {
                (self.resource.message, self.resource.kind.as_str(), self.resource.api_version())
            }
            Shape::Metadata => (Some(partial_message()), PARTIAL, META.to_owned()),
            Shape::Table => {
                let mut out = Vec::new();
                self.table_head(&json!({"resourceVersion": revision.to_string()}), false, &mut out);
                let object = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata});
                out.extend_from_slice(format!(r#"{{"cells":[],"object":{object}}}]}}"#).as_bytes());
                return Ok(out.into());
            }
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        match message {
            Some(message) => value(message, Media { pretty: false, ..self.media }, &object),
            None => Ok(format!("{object}\n").into()),
        }
    }
}

/// A list's pieces, each encoded when the socket takes it.
struct Pieces {
    writer: Writer,
    items: Vec<KeyValue>,
    next: usize,
    out: Vec<u8>,
    /// What stands behind the items.
    end: &'static [u8],
    ended: bool,
}

impl Iterator for Pieces {
    type Item = Result<Bytes, body::BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut out = std::mem::take(&mut self.out);
        // The last item goes over the edge.
        out.reserve(PIECE_BYTES + PIECE_BYTES / 16);
        while out.len() < PIECE_BYTES && self.next < self.items.len() {
            if self.next > 0 && self.writer.media.format == Format::Json {
                out.push(b',');
            }
            let kv = std::mem::take(&mut self.items[self.next]);
            self.next += 1;
            if let Err(status) = self.writer.item(&kv, &mut out) {
                self.ended = true;
                return Some(Err(Box::new(status)));
            }
        }
        if self.next == self.items.len() {
            self.ended = true;
            out.extend_from_slice(self.end);
        }
        Some(Ok(out.into()))
    }
}

fn json_columns(columns: &[Column]) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let column = |c: &Column| {
        format!(
            r#"{{"name":{},"type":{},"format":{},"description":{},"priority":{}}}"#,
            text(c.name),
            text(c.type_),
            text(c.format),
            text(c.description),
            c.priority
        )
    };
    format!("[{}]", columns.iter().map(column).collect::<Vec<_>>().join(","))
}

/// `ListMeta` in Go's order.
fn list_metadata(metadata: &Value) -> String {
    let fields = ["resourceVersion", "continue", "remainingItemCount"];
    let present = fields.iter().filter_map(|field| Some(format!("\"{field}\":{}", metadata.get(field)?)));
    format!("{{{}}}", present.collect::<Vec<_>>().join(","))
}

/// Appends a length-delimited protobuf field.
pub(crate) fn put_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;

    fn stored(name: &str) -> KeyValue {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}, "data": {"k": "v"}});
        let value = convert::encode(table::find("", "v1", "configmaps").unwrap(), &config).unwrap();
        KeyValue { value: value.into(), mod_revision: 5, ..KeyValue::default() }
    }

    fn writer(media: Media) -> Writer {
        let resource = Kind::from(table::find("", "v1", "configmaps").unwrap());
        Writer { resource, media, include: Include::Metadata, now: 0 }
    }

    #[test]
    fn json_is_gos() {
        let text = writer(Media::JSON).object(&stored("a")).unwrap();
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"resourceVersion\":\"5\"},\"data\":{\"k\":\"v\"}}\n"
        );
    }

    #[test]
    fn a_table_has_columns_and_partial_objects() {
        let table = writer(Media { shape: Shape::Table, ..Media::JSON }).object(&stored("a")).unwrap();
        let table: Value = serde_json::from_slice(&table).unwrap();
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["rows"][0]["cells"][0], "a");
    }

    fn written(media: Media, items: &[KeyValue]) -> Bytes {
        let body = writer(media).list(&json!({"resourceVersion": "9"}), items.to_vec()).unwrap();
        let whole = futures::executor::block_on(http_body_util::BodyExt::collect(body)).unwrap();
        whole.to_bytes()
    }

    #[test]
    fn lists_read_back_whole_and_in_pieces() {
        let large: String = "v".repeat(WHOLE_LIST_BYTES / 2);
        let mut items = vec![stored("a"), stored("b")];
        for large in [String::new(), large] {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "c", "namespace": "n"}, "data": {"k": large}});
            let value = convert::encode(table::find("", "v1", "configmaps").unwrap(), &value).unwrap();
            items.extend((0..3).map(|_| KeyValue {
                value: value.clone().into(),
                mod_revision: 7,
                ..KeyValue::default()
            }));
            for shape in [Shape::Object, Shape::Metadata] {
                let media = Media { shape, of_list: true, ..Media::JSON };
                let json = written(media, &items);
                let json: Value = serde_json::from_slice(&json).unwrap();
                let proto = written(Media { format: Format::Protobuf, ..media }, &items);
                let kind = if shape == Shape::Object { "ConfigMapList" } else { "PartialObjectMetadataList" };
                assert_eq!(json["kind"], kind);
                assert_eq!(json["metadata"]["resourceVersion"], "9");
                assert_eq!(json["items"].as_array().unwrap().len(), items.len());
                assert_eq!(json["items"][1]["metadata"]["name"], "b");
                assert_eq!(json["items"][4]["metadata"]["resourceVersion"], "7");
                assert_eq!(json["items"][4].get("data").is_some(), shape == Shape::Object);
                assert_eq!(without_types(codec::from_envelope(&proto).unwrap()), without_types(json));
            }
        }
    }

    /// Items of protobuf do not say what they are.
    fn without_types(mut list: Value) -> Value {
        for item in list["items"].as_array_mut().unwrap() {
            let item = item.as_object_mut().unwrap();
            item.remove("kind");
            item.remove("apiVersion");
        }
        list
    }

    #[test]
    fn indentation_leaves_texts_alone() {
        let text = indent(br#"{"a":{"b":[1,2],"c":"x,{\"y\":1}"},"d":{},"e":[]}"#);
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            "{\n  \"a\": {\n    \"b\": [\n      1,\n      2\n    ],\n    \"c\": \"x,{\\\"y\\\":1}\"\n  },\n  \"d\": {},\n  \"e\": []\n}"
        );
    }
}

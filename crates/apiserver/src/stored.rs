//! Objects as they are stored, for callers in this process: each value goes as a piece of its own and is not copied, so
//! that what they keep is in the memory of the store.

use std::collections::VecDeque;

use api_types::codec::{Head, STORED_MEDIA_TYPE, What};
use api_types::status::Status;
use bytes::Bytes;
use http::header;
use mvcc::KeyValue;
use serde_json::Value;

use crate::audit::Level;
use crate::body::{self, Body};
use crate::call::Call;
use crate::encode::Writer;
use crate::negotiate::{self, Format, Shape};

/// Whether a caller takes objects so, which nobody outside is given, nor who is written of word by word.
pub(crate) fn is_wanted(call: &Call, writer: &Writer) -> bool {
    let first = call.header(header::ACCEPT).split(',').next().unwrap_or_default();
    call.wire.door.is_none()
        && (writer.media.format, writer.media.shape) == (Format::Protobuf, Shape::Object)
        && negotiate::media_type(first) == STORED_MEDIA_TYPE
        && call.audit_level() < Level::RequestResponse
}

/// Appends an object.
///
/// # Errors
/// When it is to be written in another version, and cannot be.
pub(crate) fn put(
    writer: &Writer,
    what: What,
    kv: &KeyValue,
    out: &mut VecDeque<Bytes>,
) -> Result<(), Status> {
    let bytes = if writer.native(kv).is_some() { kv.value.clone() } else { writer.watched(kv, false)? };
    put_bytes(what, kv.mod_revision, bytes, out);
    Ok(())
}

/// Appends a frame.
pub(crate) fn put_bytes(what: What, revision: i64, bytes: Bytes, out: &mut VecDeque<Bytes>) {
    out.push_back(head(what, revision, bytes.len()));
    if !bytes.is_empty() {
        out.push_back(bytes);
    }
}

/// What stands before so many bytes.
pub(crate) fn head(what: What, revision: i64, length: usize) -> Bytes {
    let length = u32::try_from(length).expect("invariant: objects are far smaller than 4 GiB");
    Bytes::copy_from_slice(&Head { what, revision, length }.to_bytes())
}

/// A list.
///
/// # Errors
/// As [`put`].
pub(crate) fn list(writer: &Writer, metadata: &Value, items: &[KeyValue]) -> Result<Body, Status> {
    let mut out = VecDeque::with_capacity(2 * items.len() + 2);
    put_bytes(What::List, 0, metadata.to_string().into(), &mut out);
    items.iter().try_for_each(|kv| put(writer, What::Added, kv, &mut out))?;
    Ok(body::stream(futures::stream::iter(out.into_iter().map(Ok))))
}

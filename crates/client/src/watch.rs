//! A watch's answer: a frame of protobuf an event, a JSON document a line, or objects as the server stores them.

use api_types::codec::{Head, What};
use api_types::{Resource, ResourceRef, codec};
use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::client::{Body, PROTOBUF, failure};
use crate::error::ClientError;
use crate::object::{Came, Packed};
use crate::stored::{self, undecodable};

/// Bytes of one event, at most: an object with its envelope.
const MAX_EVENT: usize = 64 << 20;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The object is new, to this watcher.
    Added(Value),
    /// It has changed.
    Modified(Value),
    /// It is gone, to this watcher; as it was last.
    Deleted(Value),
    /// Everything up to this version was delivered.
    Bookmark {
        /// The version.
        resource_version: String,
        /// Whether the objects that were there at the start have all been delivered.
        initial_events_end: bool,
    },
}

/// Events as they come.
pub struct WatchStream {
    body: Body,
    buffer: BytesMut,
    /// In place of the buffer.
    stored: stored::Frames,
    framing: Framing,
    resource: ResourceRef,
}

/// How events are told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    /// A JSON document a line.
    Lines,
    /// Four bytes of length, and a WatchEvent in protobuf.
    Frames,
    /// A [`Head`], and an object as it is stored.
    Stored,
}

/// Bytes of a frame's length.
const LENGTH: usize = 4;

impl WatchStream {
    pub(crate) fn new(response: Response<Body>, resource: ResourceRef) -> Self {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let framing = match content_type {
            _ if stored::is_stored(&response) => Framing::Stored,
            Some(text) if text.starts_with(PROTOBUF) => Framing::Frames,
            _ => Framing::Lines,
        };
        let (body, buffer) = (response.into_body(), BytesMut::new());
        Self { body, buffer, stored: stored::Frames::default(), framing, resource }
    }

    /// The next event; `None` when the server ends the watch.
    ///
    /// # Errors
    /// `Api` for an error that the watch reports, `Transport` when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        let Some((kind, came)) = self.next_as_it_came().await? else { return Ok(None) };
        Ok(Some(kind.event(came.tree()?)))
    }

    pub(crate) async fn next_as_it_came(&mut self) -> Result<Option<(EventKind, Came)>, ClientError> {
        loop {
            if let Some(event) = self.take_event() {
                return event.map(Some);
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(ClientError::Decode("an event is too large".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.took(data);
                    }
                }
                Some(Err(error)) => return Err(ClientError::Transport(error.to_string())),
                None if self.is_over() => return Ok(None),
                None => return Err(ClientError::Transport("the watch ended within an event".to_owned())),
            }
        }
    }

    fn took(&mut self, data: Bytes) {
        match self.framing {
            Framing::Stored => self.stored.push(data),
            Framing::Lines | Framing::Frames => self.buffer.extend_from_slice(&data),
        }
    }

    /// Whether nothing is left but line ends.
    fn is_over(&self) -> bool {
        match self.framing {
            Framing::Lines => self.buffer.iter().all(u8::is_ascii_whitespace),
            Framing::Frames => self.buffer.is_empty(),
            Framing::Stored => self.stored.is_empty(),
        }
    }

    fn take_event(&mut self) -> Option<Result<(EventKind, Came), ClientError>> {
        match self.framing {
            Framing::Lines => loop {
                let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
                let line = self.buffer.split_to(end + 1);
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return Some(parse_line(&line, &self.resource));
                }
            },
            Framing::Frames => {
                let length = u32::from_be_bytes(*self.buffer.first_chunk::<LENGTH>()?) as usize;
                if self.buffer.len() - LENGTH < length {
                    return None;
                }
                let frame = self.buffer.split_to(LENGTH + length);
                Some(parse_frame(&frame[LENGTH..], &self.resource))
            }
            Framing::Stored => match self.stored.take() {
                Ok(frame) => frame.map(|(head, bytes)| parse_stored(head, bytes)),
                Err(error) => Some(Err(error)),
            },
        }
    }
}

fn parse_line(line: &[u8], resource: &Resource) -> Result<(EventKind, Came), ClientError> {
    let mut event: Value = serde_json::from_slice(line).map_err(undecodable)?;
    let object = event["object"].take();
    match EventKind::of(event["type"].as_str().unwrap_or_default())? {
        Some(kind) => Ok((kind, Came::from_json(object, resource))),
        None => Err(reported(&object)),
    }
}

fn parse_frame(frame: &[u8], resource: &Resource) -> Result<(EventKind, Came), ClientError> {
    let (kind, body) = codec::watch_event_from_proto(frame).map_err(undecodable)?;
    let Some(kind) = EventKind::of(kind)? else {
        return Err(reported(&codec::from_envelope(body).map_err(undecodable)?));
    };
    let bare = codec::to_bare(body, &resource.api_version(), &resource.kind).map_err(undecodable)?;
    Ok((kind, Came::Packed(Packed::Own(bare.into()))))
}

fn parse_stored(head: Head, bytes: Bytes) -> Result<(EventKind, Came), ClientError> {
    let kind = match head.what {
        What::Added => EventKind::Put { new: true },
        What::Modified => EventKind::Put { new: false },
        What::Deleted => EventKind::Deleted,
        What::Bookmark => {
            let object = serde_json::json!({ "metadata": { "resourceVersion": head.revision.to_string() } });
            return Ok((EventKind::Bookmark, Came::Tree(object)));
        }
        What::Failure => return Err(reported(&codec::from_envelope(&bytes).map_err(undecodable)?)),
        What::List => return Err(undecodable("a list in a watch")),
    };
    Ok((kind, stored::object(head, bytes)))
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum EventKind {
    /// `true`: it is new, to this watcher.
    Put {
        new: bool,
    },
    Deleted,
    Bookmark,
}

impl EventKind {
    /// `None` is an error that the watch reports.
    fn of(text: &str) -> Result<Option<Self>, ClientError> {
        Ok(Some(match text {
            "ADDED" => Self::Put { new: true },
            "MODIFIED" => Self::Put { new: false },
            "DELETED" => Self::Deleted,
            "BOOKMARK" => Self::Bookmark,
            "ERROR" => return Ok(None),
            other => return Err(undecodable(format!("a watch event of type {other:?}"))),
        }))
    }

    fn event(self, object: Value) -> WatchEvent {
        match self {
            Self::Put { new: true } => WatchEvent::Added(object),
            Self::Put { new: false } => WatchEvent::Modified(object),
            Self::Deleted => WatchEvent::Deleted(object),
            Self::Bookmark => WatchEvent::Bookmark {
                resource_version: api_types::meta::resource_version(&object).to_owned(),
                initial_events_end: api_types::meta::annotation(&object, "k8s.io/initial-events-end")
                    == Some("true"),
            },
        }
    }
}

fn reported(status: &Value) -> ClientError {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
    failure(code, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use api_types::table;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use serde_json::json;

    use super::*;

    fn stream(content_type: &str, pieces: Vec<Vec<u8>>) -> WatchStream {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let response = Response::builder().header(CONTENT_TYPE, content_type).body(body).expect("an answer");
        WatchStream::new(response, table::find("", "v1", "configmaps").expect("config maps").into())
    }

    fn frame(kind: &str, object: &Value) -> Vec<u8> {
        let (api_version, of) = (api_types::meta::api_version(object), api_types::meta::kind(object));
        let message = api_types::schema::lookup_api_version(api_version, of).expect("a kind");
        let body = codec::to_envelope(message, api_version, of, object).expect("an object");
        let mut event = Vec::new();
        codec::watch_event_to_proto(kind, &body, &mut event);
        let length = u32::try_from(event.len()).expect("a short event").to_be_bytes();
        [&length[..], &event].concat()
    }

    fn stored(kind: &str, object: &Value) -> Vec<u8> {
        let (api_version, of) = (api_types::meta::api_version(object), api_types::meta::kind(object));
        let message = api_types::schema::lookup_api_version(api_version, of).expect("a kind");
        let revision = api_types::meta::resource_version(object).parse().unwrap_or(0);
        let (what, bytes) = match kind {
            "ADDED" => (What::Added, codec::to_stored(message, api_version, of, object)),
            "MODIFIED" => (What::Modified, codec::to_stored(message, api_version, of, object)),
            "BOOKMARK" => (What::Bookmark, Ok(Vec::new())),
            _ => (What::Failure, codec::to_envelope(message, api_version, of, object)),
        };
        let bytes = bytes.expect("an object");
        let head = Head { what, revision, length: bytes.len() as u32 };
        [&head.to_bytes()[..], &bytes].concat()
    }

    fn map(version: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": version}})
    }

    #[tokio::test]
    async fn frames_and_lines_tell_the_same_however_they_are_cut() {
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"});
        let events = [("ADDED", map("3")), ("MODIFIED", map("4")), ("BOOKMARK", map("9")), ("ERROR", status)];
        let line = |(kind, object): &(&str, Value)| {
            format!("{}\n\n", json!({"type": kind, "object": object})).into_bytes()
        };
        let lines = events.iter().map(line).collect::<Vec<_>>().concat();
        let frames = events.iter().map(|(kind, object)| frame(kind, object)).collect::<Vec<_>>().concat();
        let stored = events.iter().map(|(kind, object)| stored(kind, object)).collect::<Vec<_>>().concat();
        let forms = [("application/json", lines), (PROTOBUF, frames), (codec::STORED_MEDIA_TYPE, stored)];
        for (content_type, bytes) in forms {
            for size in [1, 7, bytes.len()] {
                let mut stream = stream(content_type, bytes.chunks(size).map(<[u8]>::to_vec).collect());
                let mut next = async || stream.next().await;
                assert_eq!(next().await.expect("an event"), Some(WatchEvent::Added(map("3"))));
                assert_eq!(next().await.expect("an event"), Some(WatchEvent::Modified(map("4"))));
                let bookmark =
                    WatchEvent::Bookmark { resource_version: "9".to_owned(), initial_events_end: false };
                assert_eq!(next().await.expect("an event"), Some(bookmark));
                assert!(next().await.is_err_and(|error| error.is_expired()));
                assert_eq!(next().await.expect("the end"), None);
            }
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_cut_within_an_event_says_so() {
        let whole = frame("ADDED", &map("3"));
        for length in 1..whole.len() {
            let mut stream = stream(PROTOBUF, vec![whole[..length].to_vec()]);
            assert!(matches!(stream.next().await, Err(ClientError::Transport(_))), "{length} bytes");
        }
        let mut stream = stream(PROTOBUF, vec![b"\0\0\0\x02\x0a\x09".to_vec()]);
        assert!(matches!(stream.next().await, Err(ClientError::Decode(_))));
    }
}

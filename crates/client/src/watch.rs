//! A watch's answer: one JSON document a line.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::client::{Body, failure};
use crate::error::ClientError;

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
}

impl WatchStream {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event; `None` when the server ends the watch.
    ///
    /// # Errors
    /// `Api` for an error that the watch reports, `Transport` when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse(&line).map(Some);
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(ClientError::Decode("an event is too large".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ClientError::Transport(error.to_string())),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(ClientError::Transport("the watch ended within an event".to_owned())),
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
        Some(self.buffer.split_to(end + 1).freeze())
    }
}

fn parse(line: &[u8]) -> Result<WatchEvent, ClientError> {
    let mut event: Value =
        serde_json::from_slice(line).map_err(|error| ClientError::Decode(error.to_string()))?;
    let object = event["object"].take();
    match event["type"].as_str().unwrap_or_default() {
        "ADDED" => Ok(WatchEvent::Added(object)),
        "MODIFIED" => Ok(WatchEvent::Modified(object)),
        "DELETED" => Ok(WatchEvent::Deleted(object)),
        "BOOKMARK" => {
            let annotation = api_types::meta::annotation(&object, "k8s.io/initial-events-end");
            Ok(WatchEvent::Bookmark {
                resource_version: api_types::meta::resource_version(&object).to_owned(),
                initial_events_end: annotation == Some("true"),
            })
        }
        "ERROR" => {
            let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            Err(failure(code, object.to_string().as_bytes()))
        }
        other => Err(ClientError::Decode(format!("a watch event of type {other:?}"))),
    }
}

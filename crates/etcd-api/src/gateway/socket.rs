//! The gateway in WebSockets, as grpc-websocket-proxy has it in etcd: what a message says is a message of the call, and
//! each line of the answer is a message of its own.
//!
//! A call that takes one message has it with the first; etcd's gateway waits for the client to end what it cannot end.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use env::{Shutdown, TaskGroup};
use futures::{Stream, StreamExt as _, stream};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use transport::websocket::{self, Decoder, Event, GOING_AWAY, NORMAL, PROTOCOL_ERROR};

use crate::http;

/// Bytes that are read at a time.
const CHUNK: usize = 4 << 10;
/// Answers to pings, at most, that wait for a client which does not read.
const WAITING: usize = 4;
/// The version of WebSockets that there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// What a subprotocol begins with that is a token, and what stands before a token as such.
const TOKEN_PROTOCOL: &str = "Bearer";
/// Where a browser may have a token.
const TOKEN_COOKIE: &str = "token=";

/// Answers requests, in a WebSocket if they ask for one.
#[derive(Clone)]
pub(super) struct Sockets {
    pub tasks: TaskGroup,
    pub shutdown: Shutdown,
}

impl Sockets {
    /// `answer` gets a request as if it had come without a WebSocket. It reads its first message alone, unless it takes
    /// many.
    pub async fn serve<A>(
        &self,
        mut request: Request,
        takes_many: bool,
        answer: impl FnOnce(Request) -> A + Send + 'static,
    ) -> Response
    where
        A: Future<Output = Response> + Send + 'static,
    {
        if !is_asked(request.headers()) {
            return answer(request).await;
        }
        let accepted = match accept(&request) {
            Ok(accepted) => accepted,
            Err(status) => {
                let reason = status.canonical_reason().unwrap_or_default();
                let version = [(header::SEC_WEBSOCKET_VERSION, VERSION)];
                return (version, http::plain(status, format!("{reason}\n"))).into_response();
            }
        };
        // Over HTTP/2 there is none.
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return http::plain(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n".to_owned());
        };
        let (call, body) = mpsc::channel(1);
        let answering = answer(inner(request, body));
        let stop = self.shutdown.clone();
        self.tasks.spawn_detached("websocket", async move {
            // A client that has gone meanwhile has asked nothing.
            if let Ok(upgraded) = upgrade.await {
                converse(TokioIo::new(upgraded), (call, takes_many), answering, stop).await;
            }
        });
        accepted
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn lists(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

fn is_asked(headers: &HeaderMap) -> bool {
    lists(headers, header::CONNECTION, "upgrade") && lists(headers, header::UPGRADE, "websocket")
}

/// That the connection becomes a WebSocket.
///
/// # Errors
/// Why it does not.
fn accept(request: &Request) -> Result<Response, StatusCode> {
    if request.method() != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let key = text(request.headers(), header::SEC_WEBSOCKET_KEY);
    let is_key = STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    if !is_key || !lists(request.headers(), header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accepted = HeaderValue::try_from(websocket::accept(key)).map_err(|_| StatusCode::BAD_REQUEST)?;
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    if text(request.headers(), header::SEC_WEBSOCKET_PROTOCOL).starts_with(TOKEN_PROTOCOL) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(TOKEN_PROTOCOL));
    }
    Ok(response)
}

/// The token that is shown in a cookie, or else as a subprotocol.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';'));
    let cookie = cookies.find_map(|cookie| cookie.trim().strip_prefix(TOKEN_COOKIE));
    let protocol = || text(headers, header::SEC_WEBSOCKET_PROTOCOL).split_once("Bearer,");
    let token = cookie.or_else(|| protocol().map(|(_, token)| token.trim()))?;
    HeaderValue::try_from(format!("{TOKEN_PROTOCOL} {token}")).ok()
}

/// The request that is meant.
fn inner(request: Request, body: mpsc::Receiver<Bytes>) -> Request {
    let (mut parts, _) = request.into_parts();
    let token = token(&parts.headers);
    parts.method = Method::POST;
    parts.headers.clear();
    if let Some(token) = token {
        parts.headers.insert(header::AUTHORIZATION, token);
    }
    let body = stream::unfold(body, |mut body| async {
        let bytes = body.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), body))
    });
    Request::from_parts(parts, Body::from_stream(body))
}

/// What a client is told beside its answer.
enum Aside {
    Pong(Bytes),
    Close(u16),
}

/// Until the call has ended, the client goes, or the server does.
async fn converse(
    connection: impl AsyncRead + AsyncWrite,
    (call, takes_many): (mpsc::Sender<Bytes>, bool),
    answering: impl Future<Output = Response>,
    stop: Shutdown,
) {
    let (reader, writer) = tokio::io::split(connection);
    let (asides, aside) = mpsc::channel(WAITING);
    let stopping = asides.clone();
    // What was not said to its end asks nothing, also when the client goes.
    let mut call = Some(call);
    let asking = async {
        tokio::select! {
            () = ask(reader, (&mut call, takes_many), &asides) => {}
            () = stop.wait() => drop(stopping.send(Aside::Close(GOING_AWAY)).await),
        }
        drop((asides, stopping));
        std::future::pending().await
    };
    let lines = stream::once(answering).flat_map(|response| response.into_body().into_data_stream());
    tokio::select! {
        () = asking => {}
        // Nobody is there any more who could be told why it failed.
        told = tell(writer, lines, aside) => drop(told),
    }
}

/// Hands on what the client says.
async fn ask(
    mut reader: impl AsyncRead + Unpin,
    (call, takes_many): (&mut Option<mpsc::Sender<Bytes>>, bool),
    asides: &mpsc::Sender<Aside>,
) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    loop {
        match decoder.next(&mut input) {
            Ok(Some(Event::Data { bytes, last, .. })) => {
                // A call that listens no more does not mind.
                if let Some(call) = call {
                    drop(call.send(bytes).await);
                }
                if last && takes_many {
                    if let Some(call) = call {
                        drop(call.send(Bytes::from_static(b"\n")).await);
                    }
                } else if last {
                    *call = None;
                }
            }
            Ok(Some(Event::Ping(bytes))) => drop(asides.try_send(Aside::Pong(bytes))),
            Ok(Some(Event::Pong)) => {}
            Ok(Some(Event::Close)) => return drop(asides.send(Aside::Close(NORMAL)).await),
            Err(_) => return drop(asides.send(Aside::Close(PROTOCOL_ERROR)).await),
            Ok(None) => {
                input.reserve(CHUNK);
                if !matches!(reader.read_buf(&mut input).await, Ok(1..)) {
                    return;
                }
            }
        }
    }
}

/// Tells the client each line, and in the end that it is over.
async fn tell<E>(
    mut writer: impl AsyncWrite + Unpin,
    lines: impl Stream<Item = Result<Bytes, E>>,
    mut asides: mpsc::Receiver<Aside>,
) -> std::io::Result<()> {
    let (mut lines, mut out) = (std::pin::pin!(lines), BytesMut::new());
    let reason = loop {
        tokio::select! {
            line = lines.next() => {
                let Some(Ok(line)) = line else { break NORMAL };
                let text = line.trim_ascii_end();
                websocket::text(text.len(), &mut out);
                writer.write_all(&out).await?;
                writer.write_all(text).await?;
            }
            aside = asides.recv() => match aside {
                Some(Aside::Pong(bytes)) => {
                    websocket::pong(&bytes, &mut out);
                    writer.write_all(&out).await?;
                }
                Some(Aside::Close(reason)) => break reason,
                None => return writer.shutdown().await,
            },
        }
        out.clear();
        writer.flush().await?;
    };
    websocket::close(reason, &mut out);
    writer.write_all(&out).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_cookies_or_protocols() {
        for (name, value, expected) in [
            ("sec-websocket-protocol", "Bearer, abc", Some("Bearer abc")),
            ("sec-websocket-protocol", "Bearer,abc", Some("Bearer abc")),
            ("sec-websocket-protocol", "v1, Bearer, abc", Some("Bearer abc")),
            ("sec-websocket-protocol", "Bearer", None),
            ("sec-websocket-protocol", "v1", None),
            ("cookie", "a=b; token=abc; c=d", Some("Bearer abc")),
            ("cookie", "mytoken=abc", None),
            ("authorization", "abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let token = token(&headers);
            assert_eq!(token.as_ref().and_then(|token| token.to_str().ok()), expected, "{name}: {value}");
        }
    }
}

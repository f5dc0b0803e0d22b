//! The JSON gateway in WebSockets.

use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::gateway::post_as;
use crate::{DEADLINE, Server, connect, eventually, start, start_with};

type Socket = WebSocketStream<TcpStream>;

/// A WebSocket at a path, asked for with more headers, and the subprotocol that was chosen.
async fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> (Socket, Option<String>) {
    let mut request = format!("ws://{address}{path}").into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let stream = TcpStream::connect(address).await.expect("connect");
    let opened = tokio_tungstenite::client_async(request, stream).await;
    let (socket, response) = opened.expect("a WebSocket");
    let protocol = response.headers().get("sec-websocket-protocol");
    let protocol = protocol.map(|protocol| protocol.to_str().expect("text").to_owned());
    (socket, protocol)
}

async fn say(socket: &mut Socket, value: &Value) {
    socket.send(Message::text(value.to_string())).await.expect("sent");
}

async fn hear(socket: &mut Socket) -> Message {
    let heard = tokio::time::timeout(DEADLINE, socket.next()).await.expect("in time");
    heard.expect("open").expect("a message")
}

async fn read(socket: &mut Socket) -> Value {
    let message = hear(socket).await;
    let text = message.to_text().expect("text");
    assert!(message.is_text() && !text.ends_with('\n'), "{message:?}");
    serde_json::from_str(text).expect("JSON")
}

/// That the server says goodbye, and goes.
async fn over(socket: &mut Socket, code: CloseCode) {
    match hear(socket).await {
        Message::Close(Some(frame)) => assert_eq!(frame.code, code),
        other => panic!("{other:?}"),
    }
    assert!(tokio::time::timeout(DEADLINE, socket.next()).await.expect("in time").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_takes_messages_and_each_answer_is_one() {
    let server = start().await;
    let mut client = connect(&server).await;
    for path in ["/v3/watch", "/v3beta/watch"] {
        let (mut socket, _) = open(server.address, path, &[]).await;
        say(&mut socket, &json!({ "create_request": { "key": "aw==" } })).await;
        assert_eq!(read(&mut socket).await["result"]["created"], true);
        say(&mut socket, &json!({ "create_request": { "key": "bA==" } })).await;
        assert_eq!(read(&mut socket).await["result"]["watch_id"], "1");
        client.put("k", "v", None).await.expect("put");
        let event = read(&mut socket).await;
        assert_eq!(event["result"]["events"][0]["kv"]["value"], "dg==", "{event}");
        socket.send(Message::Ping("there?".into())).await.expect("sent");
        assert_eq!(hear(&mut socket).await, Message::Pong("there?".into()));
        socket.close(None).await.expect("closed");
        assert!(matches!(hear(&mut socket).await, Message::Close(_)));
    }
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_can_be_made_in_a_websocket() {
    let server = start().await;
    let mut client = connect(&server).await;
    client.put("k", "v", None).await.expect("put");
    let (mut leases, _) = open(server.address, "/v3/lease/keepalive", &[]).await;
    for id in ["7", "8"] {
        // Bytes are text too.
        leases.send(Message::binary(json!({ "ID": id }).to_string())).await.expect("sent");
        assert_eq!(read(&mut leases).await["result"]["ID"], *id);
    }
    let (mut range, _) = open(server.address, "/v3/kv/range", &[]).await;
    say(&mut range, &json!({ "key": "aw==" })).await;
    assert_eq!(read(&mut range).await["kvs"][0]["value"], "dg==");
    over(&mut range, CloseCode::Normal).await;
    let (mut snapshot, _) = open(server.address, "/v3/maintenance/snapshot", &[]).await;
    say(&mut snapshot, &json!({})).await;
    let part = read(&mut snapshot).await;
    assert!(part["result"]["blob"].is_string(), "{part}");
    let (mut refused, _) = open(server.address, "/v3/kv/put", &[]).await;
    say(&mut refused, &json!({ "value": "dg==" })).await;
    let text = "etcdserver: key is not provided";
    assert_eq!(read(&mut refused).await, json!({ "code": 3, "message": text }));
    over(&mut refused, CloseCode::Normal).await;
    let (mut nowhere, _) = open(server.address, "/v3/nothing", &[]).await;
    assert_eq!(read(&mut nowhere).await, json!({ "code": 5, "message": "Not Found" }));
    over(&mut nowhere, CloseCode::Normal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_as_subprotocols_or_cookies() {
    let server = start().await;
    let mut client = connect(&server).await;
    client.user_add("root", "root's", None).await.expect("user");
    client.user_grant_role("root", "root").await.expect("role");
    client.auth_enable().await.expect("enable");
    let login = json!({ "name": "root", "password": "root's" });
    let (_, login) = post_as(&server, "", "/v3/auth/authenticate", &login).await;
    let token = login["token"].as_str().expect("a token");
    let (bearer, cookie) = (format!("Bearer, {token}"), format!("a=b; token={token}"));
    for (header, value, protocol) in
        [("sec-websocket-protocol", &bearer, Some("Bearer".to_owned())), ("cookie", &cookie, None)]
    {
        let (mut socket, chosen) = raw_open(server.address, &[(header, value)]).await;
        assert_eq!(chosen, protocol);
        say(&mut socket, &json!({ "create_request": { "key": "aw==" } })).await;
        let created = read(&mut socket).await;
        assert!(created["result"].get("canceled").is_none(), "{header}: {created}");
    }
    let (mut socket, _) = open(server.address, "/v3/watch", &[("cookie", "token=nonsense")]).await;
    say(&mut socket, &json!({ "create_request": { "key": "aw==" } })).await;
    assert_eq!(read(&mut socket).await["result"]["canceled"], true);
}

/// A watch's WebSocket. The client library would refuse a subprotocol that it has not offered by that very name.
async fn raw_open(address: SocketAddr, headers: &[(&str, &String)]) -> (Socket, Option<String>) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let head = ask(&mut stream, "GET", "/v3/watch", "dGhlIHNhbXBsZSBub25jZQ==", headers).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    let protocol = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let protocol = protocol.map(str::to_owned);
    (WebSocketStream::from_raw_socket(stream, role, None).await, protocol)
}

/// Asks for a WebSocket; the head of the answer.
async fn ask(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    key: &str,
    headers: &[(&str, &String)],
) -> String {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let upgrade = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n";
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{upgrade}sec-websocket-key: {key}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_no_websocket_gets_none() {
    let server = start().await;
    connect(&server).await;
    let good = "dGhlIHNhbXBsZSBub25jZQ==";
    for (method, path, key, status) in [
        ("PUT", "/v3/watch", good, 405),
        ("GET", "/v3/watch", "c2hvcnQ=", 400),
        ("GET", "/v3/watch", "?", 400),
        ("GET", "/version", good, 200),
    ] {
        let mut stream = TcpStream::connect(server.address).await.expect("connect");
        let head = ask(&mut stream, method, path, key, &[]).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {head}");
        assert_eq!(head.contains("sec-websocket-version: 13\r\n"), status >= 400, "{head}");
    }
    // Nonsense behind the handshake ends the WebSocket.
    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    ask(&mut stream, "GET", "/v3/watch", good, &[]).await;
    stream.write_all(&[0xff; 16]).await.expect("written");
    let mut end = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut end)).await.expect("in time").expect("read");
    assert_eq!(end, [0x88, 2, 0x03, 0xea], "a protocol error");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_a_websocket_is_counted_and_limited() {
    let server: Server = start_with(|api| api.client_memory_bytes = 8 << 20).await;
    let mut client = connect(&server).await;
    for path in ["/v3/kv/put", "/v3/watch"] {
        let mut stream = TcpStream::connect(server.address).await.expect("connect");
        ask(&mut stream, "GET", path, "dGhlIHNhbXBsZSBub25jZQ==", &[]).await;
        // A message of a hundred megabytes, masked with nothing.
        let head = [&[0x81, 0xff][..], &100_000_000_u64.to_be_bytes(), &[0; 4], b"{\"key\":\""].concat();
        stream.write_all(&head).await.expect("written");
        for _ in 0..100 {
            if stream.write_all(&[b'A'; 64 << 10]).await.is_err() {
                break;
            }
        }
        let held = (server.client_memory)();
        assert!(held <= 4 << 20, "{path}: {held} bytes are held");
    }
    client.put("k", "v", None).await.expect("others are served");
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_end_with_the_server() {
    let server = start().await;
    connect(&server).await;
    let (mut silent, _) = open(server.address, "/v3/kv/range", &[]).await;
    server.shutdown.trigger();
    over(&mut silent, CloseCode::Away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_asks_nothing() {
    let server = start().await;
    let mut client = connect(&server).await;
    let before = client.lease_grant(60, None).await.expect("grant");
    let (mut silent, _) = open(server.address, "/v3/lease/grant", &[]).await;
    silent.close(None).await.expect("closed");
    over(&mut silent, CloseCode::Normal).await;
    let leases = client.leases().await.expect("leases");
    assert_eq!(leases.leases().iter().map(|lease| lease.id()).collect::<Vec<_>>(), [before.id()]);
}

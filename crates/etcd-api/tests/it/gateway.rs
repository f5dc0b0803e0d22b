//! The API as JSON over HTTP, and what it says of itself.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_stream::StreamExt as _;

use crate::{DEADLINE, Server, connect, eventually, page, start, start_with};

async fn send(server: &Server, method: &str, path: &str, body: &str) -> TcpStream {
    send_from([127, 0, 0, 1], server, method, path, body).await
}

async fn send_from(local: [u8; 4], server: &Server, method: &str, path: &str, body: &str) -> TcpStream {
    send_as(local, server, "", method, path, body).await
}

async fn send_as(
    local: [u8; 4],
    server: &Server,
    headers: &str,
    method: &str,
    path: &str,
    body: &str,
) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((local, 0))).expect("an address of the machine");
    let mut socket = socket.connect(server.address).await.expect("connect");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("write");
    socket
}

/// The status and the body of an answer that ends.
async fn call(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    whole(send(server, method, path, body).await).await
}

/// The answer to who has a token.
pub async fn post_as(server: &Server, token: &str, path: &str, body: &Value) -> (u16, Value) {
    let header = if token.is_empty() { String::new() } else { format!("authorization: {token}\r\n") };
    whole(send_as([127, 0, 0, 1], server, &header, "POST", path, &body.to_string()).await).await
}

/// The status and the body of an answer that ends.
pub async fn whole(mut socket: impl AsyncRead + Unpin) -> (u16, Value) {
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    call(server, "POST", path, &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_json_with_text_in_base64_and_long_numbers_as_text() {
    let server = start().await;
    connect(&server).await;
    let (status, put) = post(&server, "/v3/kv/put", &json!({ "key": "a2V5", "value": "dmFsdWU=" })).await;
    assert_eq!((status, &put["header"]["revision"]), (200, &json!("2")));
    let (_, found) = post(&server, "/v3/kv/range", &json!({ "key": "a2V5" })).await;
    assert_eq!(found["count"], "1");
    assert_eq!(found["kvs"][0]["value"], "dmFsdWU=");
    assert_eq!(found["kvs"][0]["mod_revision"], "2");
    assert!(found.get("more").is_none(), "what is empty is left out: {found}");
    // Enumerations by name or number, oneofs, numbers as numbers, unknown fields.
    let txn = json!({
        "compare": [{ "target": "CREATE", "result": 0, "key": "a2V5", "createRevision": 2, "unknown": 1 }],
        "success": [{ "requestDeleteRange": { "key": "a2V5" } }],
    });
    let (_, done) = post(&server, "/v3/kv/txn", &txn).await;
    assert_eq!(
        (&done["succeeded"], &done["responses"][0]["response_delete_range"]["deleted"]),
        (&json!(true), &json!("1"))
    );
    let (status, members) = call(&server, "POST", "/v3/cluster/member/list", "").await;
    assert_eq!((status, members["members"].as_array().map(Vec::len)), (200, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_text() {
    let server = start().await;
    connect(&server).await;
    let empty = post(&server, "/v3/kv/put", &json!({ "value": "dg==" })).await;
    assert_eq!(empty, (400, json!({ "code": 3, "message": "etcdserver: key is not provided" })));
    let (status, gone) = post(&server, "/v3/lease/revoke", &json!({ "ID": "7" })).await;
    assert_eq!((status, &gone["code"]), (404, &json!(5)));
    assert_eq!(call(&server, "POST", "/v3/kv/put", "{").await.0, 400);
    assert_eq!(call(&server, "GET", "/v3/kv/range", "").await.0, 501);
    assert_eq!(call(&server, "POST", "/v3/kv/nothing", "{}").await.0, 404);
    let (status, off) =
        post(&server, "/v3/auth/authenticate", &json!({ "name": "a", "password": "b" })).await;
    assert_eq!((status, &off["message"]), (400, &json!("etcdserver: authentication is not enabled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_line_for_each_answer() {
    let server = start().await;
    let mut client = connect(&server).await;
    let body = json!({ "create_request": { "key": "aw==" } }).to_string();
    let mut lines = BufReader::new(send(&server, "POST", "/v3/watch", &body).await).lines();
    let mut next = async || loop {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").expect("read");
        if let Ok(value) = serde_json::from_str::<Value>(&line.expect("open"))
            && value.is_object()
        {
            return value;
        }
    };
    assert_eq!(next().await["result"]["created"], true);
    client.put("k", "v", None).await.expect("put");
    let event = next().await;
    assert_eq!(event["result"]["events"][0]["kv"]["value"], "dg==", "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_are_described() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let server = start().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).expect("address");
    let channel = channel.connect_timeout(Duration::from_secs(5)).connect().await.expect("connect");
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("answer");
    let answer = answers.into_inner().next().await.expect("one").expect("answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"etcdserverpb.KV") && names.contains(&"v3lockpb.Lock"), "{names:?}");
}

/// The status of an answer that may go on.
async fn status(socket: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    tokio::time::timeout(DEADLINE, socket.read_exact(&mut head)).await.expect("in time").expect("an answer");
    std::str::from_utf8(&head[9..]).ok().and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_take_is_their_clients_and_not_the_gateways() {
    let server = start_with(|api| api.client_memory_bytes = 256 << 10).await;
    connect(&server).await;
    let watch = json!({ "create_request": { "key": "aw==" } }).to_string();
    let mut open = Vec::new();
    loop {
        let mut socket = send_from([127, 0, 0, 2], &server, "POST", "/v3/watch", &watch).await;
        if status(&mut socket).await != 200 {
            break;
        }
        open.push(socket);
        assert!(open.len() < 1000, "it may not hold everything");
    }
    assert!(open.len() > 10, "{}", open.len());
    let put = json!({ "key": "aw==", "value": "dg==" });
    assert_eq!(post(&server, "/v3/kv/put", &put).await.0, 200, "another client is served");
    drop(open);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_requests_as_json_are_made_if_there_is_memory_for_them() {
    let server = start_with(|api| api.client_memory_bytes = 8 << 20).await;
    let mut client = connect(&server).await;
    for key in 0..8 {
        client.put(format!("k{key}"), vec![b'v'; 256 << 10], None).await.expect("put");
    }
    let range = |limit: u32| json!({ "key": "aw==", "range_end": "bA==", "limit": limit });
    let (status, refused) = post(&server, "/v3/kv/range", &range(0)).await;
    let text = refused["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(status, 429, "{text}");
    assert!(text.starts_with("etcdserver: too many requests: this takes "), "{text}");
    let (status, found) = post(&server, "/v3/kv/range", &range(2)).await;
    assert_eq!((status, found["kvs"].as_array().map(Vec::len)), (200, Some(2)));
    // A body that never ends, of one value or of many.
    for path in ["/v3/kv/put", "/v3/watch"] {
        let mut socket = TcpStream::connect(server.address).await.expect("connect");
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 100000000\r\n\r\n{{\"key\":\"");
        socket.write_all(head.as_bytes()).await.expect("write");
        for _ in 0..100 {
            if socket.write_all(&[b'A'; 64 << 10]).await.is_err() {
                break;
            }
        }
        let held = (server.client_memory)();
        assert!(held <= 4 << 20, "{path}: {held} bytes are held");
    }
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

/// The answer to a request with more headers.
pub async fn post_with(server: &Server, headers: &str, path: &str, body: &Value) -> (u16, Value) {
    whole(send_as([127, 0, 0, 1], server, headers, "POST", path, &body.to_string()).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_read_as_go_reads_them() {
    let server = start().await;
    connect(&server).await;
    for path in ["/v3beta/kv/range", "/v3/kv/%72ange", "/%763beta/kv/range"] {
        let (status, found) = post(&server, path, &json!({ "key": "aw==" })).await;
        assert_eq!((status, &found["header"]["revision"]), (200, &json!("1")), "{path}");
    }
    for (method, path) in [("POST", "/v3beta/nothing"), ("GET", "/v3/"), ("POST", "/v3/kv/range/")] {
        let unknown = json!({ "code": 5, "message": "Not Found" });
        assert_eq!(call(&server, method, path, "{}").await, (404, unknown), "{method} {path}");
    }
    assert_eq!(call(&server, "POST", "/v3alpha/kv/range", "{}").await, (404, Value::Null));
    let moved = page(server.address, "//version?a=1").await;
    assert!(moved.starts_with("HTTP/1.1 307 "), "{moved}");
    assert!(moved.contains("\r\nlocation: /version?a=1\r\n"), "{moved}");
    assert!(moved.ends_with("\r\n\r\n<a href=\"/version?a=1\">Temporary Redirect</a>.\n\n"), "{moved}");
    assert!(page(server.address, "/v3").await.contains("\r\nlocation: /v3/\r\n"));
    let mut answer = String::new();
    let mut socket = send(&server, "POST", "/v3//kv/./x/../range", "{}").await;
    socket.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 307 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("\r\nlocation: /v3/kv/range\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_that_they_can_only_be_read_and_are_plain_text() {
    let server = start().await;
    connect(&server).await;
    for path in ["/version", "/health", "/readyz", "/debug/vars"] {
        for method in ["HEAD", "POST"] {
            let mut answer = String::new();
            let mut socket = send(&server, method, path, "").await;
            socket.read_to_string(&mut answer).await.expect("read");
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
            assert!(answer.contains("\r\nallow: GET\r\n"), "{method} {path}: {answer}");
            assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{method} {path}: {answer}");
        }
    }
    let nothing = page(server.address, "/nothing").await;
    assert!(nothing.starts_with("HTTP/1.1 404 ") && nothing.ends_with("\r\n\r\n404 page not found\n"));
    assert!(nothing.contains("\r\nx-content-type-options: nosniff\r\n"), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_no_longer_than_its_client_says() {
    let server = start().await;
    connect(&server).await;
    let key = json!({ "key": "aw==" });
    let late = json!({ "code": 4, "message": "context deadline exceeded" });
    for time in ["1n", "-1S"] {
        let answer = post_with(&server, &format!("grpc-timeout: {time}\r\n"), "/v3/kv/range", &key).await;
        assert_eq!(answer, (504, late.clone()), "{time}");
    }
    for time in ["1H", "0n"] {
        let answer = post_with(&server, &format!("grpc-timeout: {time}\r\n"), "/v3/kv/range", &key).await;
        assert_eq!(answer.0, 200, "{time}");
    }
    for path in ["/v3/kv/range", "/v3/watch"] {
        let answer = post_with(&server, "grpc-timeout: abc\r\n", path, &key).await;
        let text = "invalid grpc-timeout: abc";
        assert_eq!(answer, (400, json!({ "code": 3, "message": text })), "{path}");
    }
    // A stream that has begun ends with a line about it, one that has not with an error.
    let watch = json!({ "create_request": { "key": "aw==" } }).to_string();
    let header = "grpc-timeout: 500m\r\n";
    let mut socket = send_as([127, 0, 0, 1], &server, header, "POST", "/v3/watch", &watch).await;
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer)).await.expect("in time").expect("read");
    assert!(answer.contains(r#""created":true"#), "{answer}");
    assert!(answer.contains(r#"{"error":{"code":4,"message":"context deadline exceeded"}}"#), "{answer}");
    let observe = post_with(&server, "grpc-timeout: 50m\r\n", "/v3/election/observe", &json!({})).await;
    assert_eq!(observe, (504, json!({ "error": late })));
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_locks_and_elections_has_no_code() {
    let server = start().await;
    connect(&server).await;
    let leaderless = json!({ "name": "ZQ==" });
    let gone = json!({ "name": "bA==", "lease": "77" });
    let no_key = "etcdserver: key is not provided";
    for (path, body, text) in [
        ("lock/unlock", json!({}), no_key),
        ("lock/lock", gone.clone(), "etcdserver: requested lease not found"),
        ("election/campaign", gone, "etcdserver: requested lease not found"),
        ("election/leader", leaderless, "election: no leader"),
        ("election/proclaim", json!({}), "\"leader\" field must be provided"),
        ("election/proclaim", json!({ "leader": {} }), no_key),
        ("election/resign", json!({ "leader": {} }), no_key),
    ] {
        let answer = post(&server, &format!("/v3/{path}"), &body).await;
        assert_eq!(answer, (500, json!({ "code": 2, "message": text })), "{path}: {body}");
    }
}

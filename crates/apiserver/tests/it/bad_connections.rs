//! Connections that are slow, silent or speak in two tongues, and paths and headers that may be read in two ways.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::{CONFIG_MAPS, Cluster, DEADLINE, Keyed, Running, ask, config_map, eventually};
use crate::raw::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, frame};

/// What a server says to `said` until it ends the connection.
async fn says(cluster: &Running, keyed: Option<&Keyed>, protocols: &[&str], said: &[u8]) -> Vec<u8> {
    let mut stream = cluster.tls(keyed, protocols).await.expect("connected");
    stream.write_all(said).await.expect("sent");
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await;
    // Who ends a connection without a farewell of TLS has ended it as well.
    assert!(ended.is_ok(), "the connection stayed open: {}", String::from_utf8_lossy(&heard));
    heard
}

#[tokio::test]
async fn who_says_nothing_does_not_stay() {
    let cluster = Cluster::start_with(|config| config.idle_timeout = Duration::from_millis(200)).await;
    // A watch on which nothing is said stays.
    let asked = ask("GET", &format!("{CONFIG_MAPS}?watch=1"));
    let mut watch = cluster.open(asked, Some(&cluster.admin)).await.expect("watch").into_body();
    let all: [&[&str]; 3] = [&[], &["http/1.1"], &["h2"]];
    let said: [&[u8]; 4] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"GET /version HTTP/1.1\r\nhost: h\r\nx-long: ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    for protocols in all {
        for said in said {
            says(&cluster, None, protocols, said).await;
        }
    }
    cluster.create(CONFIG_MAPS, &config_map("seen")).await;
    let frame = tokio::time::timeout(DEADLINE, watch.frame()).await.expect("in time");
    let frame = frame.expect("open").expect("a frame").into_data().expect("data");
    assert!(String::from_utf8_lossy(&frame).contains("\"seen\""));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let mut stream = cluster.tls(Some(&cluster.admin), &[]).await.expect("connected");
    let head = format!(
        "POST {CONFIG_MAPS}?timeout=1s HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut heard = String::new();
    let mut chunk = [0; 4096];
    while !heard.contains("\"code\":504") {
        let read =
            tokio::time::timeout(DEADLINE, stream.read(&mut chunk)).await.expect("in time").expect("open");
        assert!(read > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    assert!(heard.starts_with("HTTP/1.1 504 "), "{heard}");
    assert!(heard.contains("Timeout: request did not complete within the allotted timeout"), "{heard}");
    let bad = cluster.root(ask("GET", &format!("{CONFIG_MAPS}?timeout=soon"))).await.expect(400);
    assert_eq!(
        bad["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let cluster = Cluster::start_with(|config| config.idle_timeout = Duration::from_millis(200)).await;
    let mut silent = Vec::new();
    for number in 0..500 {
        let mut stream = tokio::net::TcpStream::connect(cluster.address).await.expect("connected");
        // A record of a handshake that is longer than what comes of it.
        stream.write_all(&[0x16, 3, 1, 1, 0][..number % 6]).await.expect("sent");
        silent.push(stream);
    }
    cluster.root(ask("GET", CONFIG_MAPS)).await.expect(200);
    for mut stream in silent {
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection stayed open");
    }
}

/// HTTP/2 by hand over TLS, as somebody who is known.
async fn raw(cluster: &Running) -> Raw<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>> {
    Raw::hello(cluster.tls(Some(&cluster.admin), &["h2"]).await.expect("connected")).await
}

/// Headers of a request, without compression (RFC 7541).
fn asks(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // By their numbers in the static table: `:method`, `:scheme: https`, `:path`, `:authority`.
    let head = [&[0x02][..], &text(method), &[0x87, 0x04], &text(path), &[0x01], &text("localhost")].concat();
    let more = more.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat());
    head.into_iter().chain(more).collect()
}

#[tokio::test]
async fn floods_over_http2_keep_nobody_from_being_served() {
    let cluster = Cluster::start().await;
    let mut streams = (0..).map(|number| 2 * number + 1);
    // Requests that are taken back at once (CVE-2023-44487).
    let mut reset = raw(&cluster).await;
    for _ in 0..100 {
        let burst = streams.by_ref().take(100).flat_map(|stream| {
            let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, &asks("GET", CONFIG_MAPS, &[]));
            [asked, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        });
        if !reset.try_send(&burst.collect::<Vec<u8>>()).await {
            break;
        }
    }
    cluster.root(ask("GET", CONFIG_MAPS)).await.expect(200);
    // Headers without end (CVE-2023-45288).
    let mut endless = raw(&cluster).await;
    endless.send(&frame(HEADERS, 0, 1, &asks("GET", CONFIG_MAPS, &[]))).await;
    for _ in 0..2000 {
        endless.send(&frame(CONTINUATION, 0, 1, &[0x00, 0x01, b'a', 0x01, b'b'].repeat(20))).await;
    }
    endless.farewell().await;
    cluster.root(ask("GET", CONFIG_MAPS)).await.expect(200);
    // A header of 3,000 bytes that is named a thousand times.
    let mut bomb = raw(&cluster).await;
    let name = [&[0x40, 1, b'a', 0x7f, 0xb9, 0x16][..], &[b'v'; 3000]].concat();
    let headers = [asks("GET", CONFIG_MAPS, &[]), name, vec![0xbe; 1000]].concat();
    bomb.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers)).await;
    if bomb.ended(1).await {
        bomb.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &asks("GET", "/version", &[]))).await;
        assert!(bomb.ended(3).await, "the connection goes on");
    }
    // Frames that want an answer which nobody reads.
    let mut unread = raw(&cluster).await;
    let flood = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(1000);
    let flooding = async { while unread.try_send(&flood).await {} };
    let _flooded = tokio::time::timeout(Duration::from_secs(2), flooding).await;
    cluster.root(ask("GET", CONFIG_MAPS)).await.expect(200);
}

#[tokio::test]
async fn a_body_that_does_not_come_over_http2_ends_its_request_alone() {
    let cluster = Cluster::start().await;
    let mut slow = raw(&cluster).await;
    let path = format!("{CONFIG_MAPS}?timeout=1s");
    let headers = asks("POST", &path, &[("content-type", "application/json"), ("content-length", "100")]);
    slow.send(&frame(HEADERS, END_HEADERS, 1, &headers)).await;
    slow.send(&frame(DATA, 0, 1, b"{")).await;
    let answer = slow.next_of(DATA).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(text.contains("\"code\":504"), "{text}");
    slow.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &asks("GET", "/version", &[]))).await;
    assert!(slow.ended(3).await, "the connection goes on");
}

#[tokio::test]
async fn who_is_not_known_gets_one_answer_over_http2() {
    let cluster = Cluster::start().await;
    for (keyed, stays) in [(None, false), (Some(&cluster.admin), true)] {
        let stream = cluster.tls(keyed, &["h2"]).await.expect("connected");
        let hello = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = hello.await.expect("hello");
        cluster.tasks.spawn_detached("client", async move { drop(connection.await) });
        let get = || {
            http::Request::get("https://localhost/version")
                .body(Empty::<bytes::Bytes>::new())
                .expect("request")
        };
        for _ in 0..3 {
            match sender.send_request(get()).await {
                Ok(response) => assert_eq!(response.status(), 200),
                Err(_) if !stays => break,
                Err(error) => panic!("{error}"),
            }
        }
        match stays {
            true => assert!(!sender.is_closed()),
            false => eventually("the connection's end", || async { sender.is_closed().then_some(()) }).await,
        }
    }
}

#[tokio::test]
async fn a_request_is_one_request() {
    let cluster = Cluster::start().await;
    let code = |text: &str| text.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    // Head and body; the codes that may be answered. Each would be two requests, or another one, to who reads it otherwise.
    let cases: [(&str, &[u16]); 14] = [
        ("POST /api HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde", &[400]),
        ("POST /api HTTP/1.1\r\nhost: h\r\ncontent-length: 4, 5\r\n\r\nabcde", &[400]),
        ("POST /api HTTP/1.1\r\nhost: h\r\ncontent-length: +4\r\n\r\nabcd", &[400]),
        ("POST /api HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", &[400]),
        ("POST /api HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        (
            "POST /api HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            &[400, 501],
        ),
        ("POST /api HTTP/1.1\r\nhost : h\r\n\r\n", &[400]),
        ("POST /api HTTP/1.1\r\nhost: h\r\n folded: x\r\n\r\n", &[400]),
        ("GET /api\tx HTTP/1.1\r\nhost: h\r\n\r\n", &[400]),
        ("GET /api HTTP/9.9\r\nhost: h\r\n\r\n", &[400, 505]),
        ("GET api HTTP/1.1\r\nhost: h\r\n\r\n", &[400]),
        ("GET /api HTTP/1.1\r\nhost: h\r\nx\0y: z\r\n\r\n", &[400]),
        ("GET /api HTTP/1.1\r\n\r\n", &[400]),
        ("GET /api HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", &[400]),
    ];
    for (said, codes) in cases {
        let said = format!("{said}GET /version HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let heard = says(&cluster, Some(&cluster.admin), &[], said.as_bytes()).await;
        let heard = String::from_utf8_lossy(&heard);
        assert!(code(&heard).is_some_and(|code| codes.contains(&code)), "{said:?}: {heard}");
        assert!(!heard.contains("gitVersion"), "{said:?}: what came behind was read: {heard}");
    }
    // A length beside chunks: the chunks count, and what came behind them is the next request.
    let chunks = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n1\r\n[\r\n0\r\n\r\nGET /version HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    );
    let heard = says(&cluster, Some(&cluster.admin), &[], chunks.as_bytes()).await;
    let heard = String::from_utf8_lossy(&heard);
    assert_eq!(code(&heard), Some(400), "{heard}");
    assert!(heard.matches("HTTP/1.1 ").count() <= 2, "{heard}");
    // Whose host it is makes no difference.
    let absolute = "GET http://169.254.169.254/version HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let heard = says(&cluster, Some(&cluster.admin), &[], absolute.as_bytes()).await;
    assert!(String::from_utf8_lossy(&heard).contains("gitVersion"));
    let connect =
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: h\r\n\r\nGET /version HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut stream = cluster.tls(Some(&cluster.admin), &[]).await.expect("connected");
    stream.write_all(connect.as_bytes()).await.expect("sent");
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).await.expect("an answer");
    assert!(matches!(&heard[9..], b"400" | b"404" | b"405"), "{}", String::from_utf8_lossy(&heard));
}

#[tokio::test]
async fn what_is_decided_on_is_what_is_served() {
    let cluster = Cluster::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}]);
    cluster.create(&format!("{rbac}/roles"), &json!({"metadata": {"name": "r"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create(&format!("{rbac}/rolebindings"), &binding).await;
    for name in ["a", "b"] {
        cluster.create(CONFIG_MAPS, &config_map(name)).await;
        cluster
            .create(
                "/api/v1/namespaces/default/secrets",
                &json!({"metadata": {"name": name}, "stringData": {"k": "hidden"}}),
            )
            .await;
    }
    let jane = cluster.authority.issue("jane", None);
    for (path, code) in [
        (format!("{CONFIG_MAPS}/a"), 200),
        (format!("{CONFIG_MAPS}/%61"), 200),
        (format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Da"), 200),
        (format!("{CONFIG_MAPS}/b"), 403),
        (format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Db"), 403),
        (format!("{CONFIG_MAPS}?fieldSelector=metadata.name!%3Da"), 403),
        (format!("{CONFIG_MAPS}/a/../b"), 403),
        (format!("{CONFIG_MAPS}/a%2F..%2Fb"), 403),
        (format!("{CONFIG_MAPS}/a%2f..%2f..%2fsecrets%2fb"), 403),
        (format!("{CONFIG_MAPS}/a%252F..%252Fb"), 403),
        (format!("{CONFIG_MAPS}//a"), 403),
        (format!("{CONFIG_MAPS}/a%00"), 403),
        (format!("{CONFIG_MAPS}/a;b"), 403),
        (format!("{CONFIG_MAPS}/a%3Fwatch=1"), 403),
        ("/api/v1/namespaces/default/configmaps%2Fb".to_owned(), 403),
        ("/api/v1/namespaces/default%2Fsecrets/configmaps/a".to_owned(), 403),
        ("/api/v1/namespaces/default/../default/secrets/a".to_owned(), 403),
        ("/api/v1/namespaces/%2e%2e/configmaps/a".to_owned(), 403),
        ("/api/v1//namespaces/default/configmaps/a".to_owned(), 403),
        ("/api/v1/watch/namespaces/default/configmaps/b".to_owned(), 403),
        ("/%61pi/v1/namespaces/default/secrets/a".to_owned(), 403),
        ("/healthz/../api/v1/secrets".to_owned(), 403),
        ("/livez%2F..%2Fmetrics".to_owned(), 403),
    ] {
        let answer = cluster.send_as(ask("GET", &path), &jane).await.expect("answer");
        assert_eq!(answer.code, code, "{path}: {}", answer.text());
        assert!(!answer.text().contains("aGlkZGVu"), "{path}");
    }
    // Nor is anything found that is not there for who may see all.
    for path in [
        format!("{CONFIG_MAPS}/a%2F..%2Fb"),
        format!("{CONFIG_MAPS}/a/../b"),
        "/api//v1/configmaps".to_owned(),
        "/api/v1/namespaces/default/configmaps/a%2Fproxy%2Fx".to_owned(),
    ] {
        assert_eq!(cluster.root(ask("GET", &path)).await.code, 404, "{path}");
    }
}

#[tokio::test]
async fn of_two_content_types_the_first_counts() {
    let cluster = Cluster::start().await;
    let yaml = "metadata: {name: a}\n";
    let first =
        ask("POST", CONFIG_MAPS).body("application/yaml", yaml).header("content-type", "application/json");
    cluster.send_as(first, &cluster.admin).await.expect("answer").expect(201);
    let other =
        ask("POST", CONFIG_MAPS).body("application/json", yaml).header("content-type", "application/yaml");
    assert_eq!(cluster.send_as(other, &cluster.admin).await.expect("answer").code, 400);
    for odd in ["application/json, application/yaml", "text/html", "application/json/yaml", "*/*"] {
        let answer =
            cluster.send_as(ask("POST", CONFIG_MAPS).body(odd, "{}"), &cluster.admin).await.expect("answer");
        assert_eq!(answer.code, 415, "{odd}: {}", answer.text());
    }
}

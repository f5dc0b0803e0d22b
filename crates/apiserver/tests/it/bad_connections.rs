//! Connections that are slow, silent or speak in two tongues, and paths and headers that may be read in two ways.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::{CONFIG_MAPS, Cluster, DEADLINE, Keyed, Running, ask, config_map, eventually};

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

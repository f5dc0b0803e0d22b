//! `exec`, `attach`, `portforward` and `proxy`, with an agent that echoes.

use std::sync::LazyLock;

use env::{Shutdown, TaskGroup};
use http::header;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::agents::{self, Asked, Said, said};
use crate::cluster::{Answer, Ask, Keyed, Running, ask};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Conversations, which end with their connections.
pub static TALKS: LazyLock<TaskGroup> = LazyLock::new(|| TaskGroup::new("talks", Shutdown::new()));

/// Answers a request for an upgrade with 101 and gives the connection to `talk`.
fn switch<F>(
    mut request: Asked,
    talk: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) -> Said
where
    F: Future<Output = ()> + Send + 'static,
{
    let wanted = request.headers().get(header::UPGRADE).cloned();
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wanted.is_some()) else {
        return said(400, "no upgrade");
    };
    TALKS.spawn_detached("talk", async move {
        if let Ok(connection) = upgrade.await {
            talk(TokioIo::new(connection)).await;
        }
    });
    let mut response = said(101, "");
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    if let Some(wanted) = wanted {
        response.headers_mut().insert(header::UPGRADE, wanted);
    }
    response
}

/// Connects whoever asks for an upgrade to a port of this machine.
pub fn connect(request: Asked, port: u16) -> Said {
    switch(request, move |connection| async move {
        let there = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        let idle = std::time::Duration::from_secs(60);
        env::relay(connection, there, idle, &env::Env::real().clock).await;
    })
}

/// Says what it was asked, then whatever it hears, until it hears the end.
async fn echo(request: Asked) -> Said {
    let path = request.uri().to_string();
    if path.contains("/refused") {
        return said(404, "pod does not exist");
    }
    if path.contains("/lukewarm") {
        return said(200, "no");
    }
    let heard: Vec<String> = request
        .headers()
        .iter()
        .filter(|(name, _)| **name != header::HOST && **name != header::CONTENT_LENGTH)
        .map(|(name, value)| format!("{name}={}", value.to_str().expect("text")))
        .collect();
    let text = format!("{} {path} {}\n", request.method(), heard.join(" "));
    let mut response = switch(request, |mut connection| async move {
        connection.write_all(text.as_bytes()).await.expect("written");
        let (mut from, mut to) = tokio::io::split(connection);
        drop(tokio::io::copy(&mut from, &mut to).await);
        drop(to.shutdown().await);
    });
    let chosen = header::HeaderValue::from_static("v4.channel.k8s.io");
    response.headers_mut().insert("x-stream-protocol-version", chosen);
    response
}

async fn cluster() -> Running {
    let cluster = agents::start(echo).await;
    let container = |name: &str| json!({"name": name, "image": "i"});
    let own = json!({"nodeName": "n1", "containers": [container("c")]});
    agents::with_pod(&cluster, "p", own).await;
    for name in ["refused", "lukewarm"] {
        agents::with_pod(&cluster, name, json!({"nodeName": "n1", "containers": [container("c")]})).await;
    }
    agents::with_pod(&cluster, "nowhere", json!({"containers": [container("c")]})).await;
    cluster
}

fn spdy(method: &str, path: &str) -> Ask {
    let ask = ask(method, path).header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    ask.header("x-stream-protocol-version", "v4.channel.k8s.io").header("authorization", "Bearer secret")
}

fn websocket(path: &str) -> Ask {
    ask("GET", path)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
}

/// Asks for a stream, says something on it, ends it; what was heard.
pub async fn talk(cluster: &Running, ask: Ask, keyed: &Keyed, word: &str) -> (http::HeaderMap, String) {
    let response = cluster.open(ask, Some(keyed)).await.expect("answer");
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    if code != 101 {
        let text = response.into_body().collect().await.expect("body").to_bytes();
        panic!("{code} {}", String::from_utf8_lossy(&text));
    }
    let connection = TokioIo::new(hyper::upgrade::on(response).await.expect("a connection"));
    let (mut from, mut to) = tokio::io::split(connection);
    let said = async {
        to.write_all(word.as_bytes()).await.expect("written");
        to.shutdown().await.expect("ended");
    };
    let mut heard = Vec::new();
    let listened = async {
        // The other side may end without a word of TLS.
        drop(from.read_to_end(&mut heard).await);
    };
    tokio::join!(said, listened);
    (headers, String::from_utf8(heard).expect("text"))
}

async fn refused(cluster: &Running, ask: Ask, keyed: &Keyed) -> Answer {
    cluster.send_as(ask, keyed).await.expect("answer")
}

/// A user who may do these verbs with what hangs below pods.
async fn user(cluster: &Running, name: &str, verbs: &[&str]) -> Keyed {
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "verbs": verbs});
    cluster.create(&format!("{roles}/roles"), &json!({"metadata": {"name": name}, "rules": [rule]})).await;
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
    cluster.create(&format!("{roles}/rolebindings"), &binding).await;
    cluster.authority.issue(name, None)
}

#[tokio::test]
async fn streams_go_to_the_agent_and_back() {
    let cluster = cluster().await;
    let admin = &cluster.admin;
    let path = format!("{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false&container=c");
    let (headers, heard) = talk(&cluster, spdy("POST", &path), admin, "hello").await;
    assert!(headers["upgrade"] == "SPDY/3.1" && headers["connection"] == "Upgrade", "{headers:?}");
    assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io");
    assert_eq!(
        heard,
        "POST /exec/default/p/c?command=sh&command=-c&input=1&output=1 connection=Upgrade upgrade=SPDY/3.1 x-stream-protocol-version=v4.channel.k8s.io\nhello"
    );
    let (_, heard) = talk(&cluster, websocket(&format!("{PODS}/p/attach?stdout=1")), admin, "x").await;
    assert!(heard.starts_with("GET /attach/default/p/c?output=1 "), "{heard}");
    assert!(heard.contains("sec-websocket-protocol=v5.channel.k8s.io\nx"), "{heard}");
    let (_, heard) = talk(&cluster, websocket(&format!("{PODS}/p/portforward?ports=80")), admin, "x").await;
    assert!(heard.starts_with("GET /portForward/default/p?port=80 "), "{heard}");
    let long = "long ".repeat(200_000);
    let (_, heard) = talk(&cluster, spdy("POST", &format!("{PODS}/p/portforward")), admin, &long).await;
    assert!(heard.ends_with(&long), "{} bytes", heard.len());
}

#[tokio::test]
async fn streams_that_cannot_be_are_refused() {
    let cluster = cluster().await;
    let admin = &cluster.admin;
    let message =
        |answer: Answer, code: u16| answer.expect(code)["message"].as_str().expect("text").to_owned();
    let no_upgrade = refused(&cluster, ask("POST", &format!("{PODS}/p/exec?command=x")), admin).await;
    assert_eq!(message(no_upgrade, 400), "Upgrade request required");
    let nowhere = refused(&cluster, spdy("POST", &format!("{PODS}/nowhere/exec?command=x")), admin).await;
    assert_eq!(message(nowhere, 400), "pod nowhere does not have a host assigned");
    let other = format!("{PODS}/p/exec?command=x&container=d");
    let other = refused(&cluster, spdy("POST", &other), admin).await;
    assert_eq!(message(other, 400), "container d is not valid for pod p");
    assert_eq!(refused(&cluster, spdy("POST", &format!("{PODS}/none/exec")), admin).await.code, 404);
    let theirs = refused(&cluster, spdy("POST", &format!("{PODS}/refused/exec?command=x")), admin).await;
    assert_eq!((theirs.code, theirs.text().as_str()), (404, "pod does not exist"));
    let lukewarm = refused(&cluster, spdy("POST", &format!("{PODS}/lukewarm/exec?command=x")), admin).await;
    assert!(message(lukewarm, 500).ends_with("invalid upgrade response: status code 200"));
    let delete = refused(&cluster, spdy("DELETE", &format!("{PODS}/p/exec")), admin).await;
    assert_eq!(delete.code, 405);
}

#[tokio::test]
async fn a_websocket_needs_the_right_to_create() {
    let cluster = cluster().await;
    let (looks, runs) =
        (user(&cluster, "looks", &["get"]).await, user(&cluster, "runs", &["get", "create"]).await);
    for name in ["exec", "attach", "portforward"] {
        let path = format!("{PODS}/p/{name}?stdout=1");
        let answer = refused(&cluster, websocket(&path), &looks).await;
        let message = answer.expect(403)["message"].as_str().expect("text").to_owned();
        let why = format!("User \"looks\" cannot create resource \"pods/{name}\"");
        assert!(message.contains(&why), "{message}");
        talk(&cluster, websocket(&path), &runs, "x").await;
        assert_eq!(refused(&cluster, spdy("POST", &path), &looks).await.code, 403);
    }
}

/// An agent runs commands for whoever may speak to it: to look at a node does not suffice.
#[tokio::test]
async fn a_websocket_through_a_node_needs_the_right_to_create() {
    let cluster = cluster().await;
    let user = async |name: &str, verbs: &[&str]| {
        let roles = "/apis/rbac.authorization.k8s.io/v1";
        let rule = json!({"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": verbs});
        cluster
            .create(&format!("{roles}/clusterroles"), &json!({"metadata": {"name": name}, "rules": [rule]}))
            .await;
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
        cluster.create(&format!("{roles}/clusterrolebindings"), &binding).await;
        cluster.authority.issue(name, None)
    };
    let (looks, runs) = (user("looks", &["get"]).await, user("runs", &["get", "create"]).await);
    let path = "/api/v1/nodes/n1/proxy/exec/default/p/c?command=id&output=1";
    let answer = refused(&cluster, websocket(path), &looks).await;
    let message = answer.expect(403)["message"].as_str().expect("text").to_owned();
    assert!(message.contains("User \"looks\" cannot create resource \"nodes/proxy\""), "{message}");
    // Who may goes as far as the address, which is this machine's here.
    let plain = ask("GET", "/api/v1/nodes/n1/proxy/pods");
    for (asked, user) in [(websocket(path), &runs), (plain, &looks)] {
        let answer = refused(&cluster, asked, user).await.expect(400);
        assert_eq!(answer["message"], "address not allowed");
    }
}

/// What pods answer: what they were asked, and a redirect.
async fn backend(cluster: &Running) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    cluster.tasks.spawn_detached("backend", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Asked| async move {
                Ok::<_, std::convert::Infallible>(page(request).await)
            });
            TALKS.spawn_detached("connection", async move {
                let server = hyper::server::conn::http1::Builder::new();
                drop(server.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
            });
        }
    });
    port
}

async fn page(request: Asked) -> Said {
    if request.headers().contains_key(header::UPGRADE) {
        return echo(request).await;
    }
    if request.uri().path() == "/switches" {
        let mut response = said(101, "");
        response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("evil"));
        return response;
    }
    if request.uri().path() == "/page" {
        let mut response = said(200, "<a href=\"/rewriteme\">test</a>");
        let kind = header::HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return response;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let text = format!(
        "{} {} host={} auth={} user={} for={} uri={} body={}",
        head.method,
        head.uri,
        header("host"),
        header("authorization"),
        header("impersonate-user"),
        header("x-forwarded-for"),
        header("x-forwarded-uri"),
        String::from_utf8_lossy(&body)
    );
    let mut response = said(if head.uri.path() == "/moved" { 302 } else { 200 }, text);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header::HeaderValue::from_static("/login?next=1"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    headers.insert("x-own", header::HeaderValue::from_static("kept"));
    response
}

/// A cluster whose agent connects to one backend for every port of every pod but 81, and whose own pages are as those.
async fn proxied() -> Running {
    let cluster = crate::cluster::Cluster::start().await;
    let port = backend(&cluster).await;
    let agent = agents::agent(&cluster, move |request| async move {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            path if path.starts_with("/dial/default/web/81") => {
                said(502, "dial tcp 10.1.2.3:81: connect: connection refused")
            }
            path if path.starts_with("/dial/default/web/") => connect(request, port),
            _ => page(request).await,
        }
    })
    .await;
    agents::with_node(&cluster, agent).await;
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": ports}]});
    agents::with_pod_at(&cluster, "web", spec.clone(), "10.1.2.3").await;
    agents::with_pod_at(&cluster, "local", spec, "127.0.0.1").await;
    cluster
}

#[tokio::test]
async fn pods_are_proxied() {
    let cluster = proxied().await;
    let web = format!("{PODS}/web/proxy");
    let asked = ask("PUT", &format!("{web}/a%20b//?x=%2F")).body("text/plain", "words");
    let answer = cluster.send_as(asked, &cluster.admin).await.expect("answer");
    assert_eq!(
        (answer.code, answer.text()),
        (
            200,
            format!(
                "PUT /a%20b//?x=%2F host=localhost auth=- user=- for=127.0.0.1 uri={web}/a%20b// body=words"
            )
        )
    );
    assert_eq!(answer.headers["x-own"], "kept");
    assert_eq!(answer.headers["location"], format!("{web}/login?next=1"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    for (method, code) in [("GET", 302), ("POST", 302), ("DELETE", 302), ("OPTIONS", 302), ("PATCH", 302)] {
        let answer =
            cluster.send_as(ask(method, &format!("{web}/moved")), &cluster.admin).await.expect("answer");
        assert_eq!(answer.code, code, "{method}: {}", answer.text());
        assert!(answer.text().starts_with(&format!("{method} /moved ")), "{}", answer.text());
    }
    let page = cluster.send_as(ask("GET", &format!("{web}/page")), &cluster.admin).await.expect("answer");
    assert_eq!(page.text(), format!("<a href=\"{web}/rewriteme\">test</a>"));
    let head = cluster.send_as(ask("HEAD", &format!("{web}/x")), &cluster.admin).await.expect("answer");
    assert_eq!((head.code, head.bytes.len()), (200, 0));
    assert_eq!(head.headers["x-own"], "kept");
    let root = cluster.send_as(ask("GET", &format!("{web}?a=1")), &cluster.admin).await.expect("answer");
    assert_eq!(root.code, 301);
    assert_eq!(root.headers["location"], format!("{web}/?a=1"));
    let named = cluster.send_as(ask("GET", &format!("{PODS}/http:web:8080/proxy/y")), &cluster.admin).await;
    assert!(named.expect("answer").text().starts_with("GET /y "));
    let asked = websocket(&format!("{web}/socket"));
    let (headers, heard) = talk(&cluster, asked, &cluster.admin, "hello").await;
    assert_eq!(headers["upgrade"], "websocket");
    assert!(heard.starts_with("GET /socket ") && heard.ends_with("\nhello"), "{heard}");
}

#[tokio::test]
async fn proxies_do_not_go_where_they_must_not() {
    let cluster = proxied().await;
    let message =
        |answer: Answer, code: u16| answer.expect(code)["message"].as_str().expect("text").to_owned();
    let get = |path: String| ask("GET", &path);
    let admin = &cluster.admin;
    let local = cluster.send_as(get(format!("{PODS}/local/proxy/")), admin).await.expect("answer");
    assert_eq!(message(local, 400), "address not allowed");
    let node =
        cluster.send_as(get("/api/v1/nodes/n1/proxy/metrics".to_owned()), admin).await.expect("answer");
    assert_eq!(message(node, 400), "address not allowed");
    let ftp = cluster.send_as(get(format!("{PODS}/ftp:web:21/proxy/")), admin).await.expect("answer");
    assert_eq!(message(ftp, 400), "invalid pod request \"ftp:web:21\"");
    let down = cluster.send_as(get(format!("{PODS}/web:81/proxy/")), admin).await.expect("answer");
    let why = "error trying to reach service: dial tcp 10.1.2.3:81: connect: connection refused";
    assert_eq!(message(down, 503), why);
    assert_eq!(cluster.send_as(get(format!("{PODS}/none/proxy/")), admin).await.expect("answer").code, 404);
    // Nor does a connection that nobody asked for become the client's (CVE-2018-1002105).
    let switched = cluster.send_as(get(format!("{PODS}/web/proxy/switches")), admin).await.expect("answer");
    let why =
        "error trying to reach service: backend tried to switch protocol \"evil\" when \"\" was requested";
    assert_eq!(message(switched, 503), why);
    // Addresses in other words: no name of a node or a pod is one, and a node is where its status says.
    for name in
        ["127.0.0.1", "::1", "%5B::1%5D", "169.254.169.254", "localhost", "0x7f.1", "web%2F..%2Flocal"]
    {
        for path in [format!("{PODS}/{name}/proxy/x"), format!("/api/v1/nodes/{name}/proxy/x")] {
            let code = cluster.send_as(get(path.clone()), admin).await.expect("answer").code;
            assert!(matches!(code, 400 | 404), "{path}: {code}");
        }
    }
    let addresses = [
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "169.254.169.254",
        "::1",
        "fe80::1",
        "0.0.0.0",
        "localhost",
    ];
    for address in addresses {
        let status =
            json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}}).to_string();
        let patch = ask("PATCH", "/api/v1/nodes/n1/status").body("application/merge-patch+json", status);
        cluster.root(patch).await.expect(200);
        for path in ["/api/v1/nodes/n1/proxy/metrics", "/api/v1/nodes/n1:80/proxy/metrics"] {
            let answer = cluster.send_as(get(path.to_owned()), admin).await.expect("answer");
            let text = answer.json()["message"].as_str().expect("text").to_owned();
            assert!(
                matches!(answer.code, 400 | 503) && text.contains("address not allowed"),
                "{address} {path}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn services_are_their_ready_pods() {
    let cluster = proxied().await;
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "other", "port": 90}]);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": ports, "clusterIP": "None"}});
    cluster.create(services, &service).await;
    let endpoint = |pod: &str, address: &str, ready: bool| {
        json!({"addresses": [address], "conditions": {"ready": ready},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}})
    };
    let slice = |name: &str, endpoints: Value| {
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let bad = json!([
        endpoint("web", "10.1.2.4", true),
        endpoint("none", "10.1.2.3", true),
        endpoint("web", "10.1.2.3", false)
    ]);
    cluster.create(slices, &slice("bad", bad)).await;
    let get = |path: String| cluster.send_as(ask("GET", &path), &cluster.admin);
    for name in ["s:http", "s:80", "s"] {
        let none = get(format!("{services}/{name}/proxy/")).await.expect("answer").expect(503);
        assert_eq!(none["message"], "no endpoints available for service \"s\"", "{name}");
    }
    let number = get(format!("{services}/s:81/proxy/")).await.expect("answer").expect(503);
    assert_eq!(number["message"], "no service port 81 found for service \"s\"");
    cluster.create(slices, &slice("good", json!([endpoint("web", "10.1.2.3", true)]))).await;
    for name in ["s:http", "s:80", "http:s:http"] {
        let answer = get(format!("{services}/{name}/proxy/z")).await.expect("answer");
        assert!(answer.text().starts_with("GET /z "), "{name}: {}", answer.text());
    }
}

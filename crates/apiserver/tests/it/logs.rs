//! Logs come from the node's agent.

use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::agents::{self, said};
use crate::cluster::{Ask, Running, ask};

#[tokio::test]
async fn the_agent_is_asked_and_its_words_passed_on() {
    let cluster = agents::start(|request| async move {
        let path = request.uri().to_string();
        said(if path.contains("/refused") { 400 } else { 200 }, path)
    })
    .await;
    let pods = "/api/v1/namespaces/default/pods";
    let containers = json!([{"name": "c", "image": "i"}, {"name": "refused", "image": "i"}]);
    agents::with_pod(&cluster, "p", json!({"nodeName": "n1", "containers": containers})).await;
    let log = format!("{pods}/p/log?container=c&tailLines=5&follow=true&pretty=1");
    let answer = cluster.root(ask("GET", &log)).await;
    assert_eq!(
        (answer.code, answer.text().as_str()),
        (200, "/containerLogs/default/p/c?tailLines=5&follow=true")
    );
    assert_eq!(answer.headers["content-type"], "text/plain");
    let refused = cluster.root(ask("GET", &format!("{pods}/p/log?container=refused"))).await.expect(400);
    assert_eq!(refused["message"], "/containerLogs/default/p/refused");
    let which = cluster.root(ask("GET", &format!("{pods}/p/log"))).await.expect(400);
    assert_eq!(which["message"], "a container name must be specified for pod p, choose one of: [c refused]");
}

/// What a WebSocket says until it ends, and the protocol that it speaks.
pub async fn heard(cluster: &Running, asked: Ask, protocols: &str) -> (u16, String, Vec<u8>) {
    let asked = asked
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let asked = match protocols {
        "" => asked,
        _ => asked.header("sec-websocket-protocol", protocols),
    };
    let answer = cluster.open(asked, Some(&cluster.admin)).await.expect("answer");
    let code = answer.status().as_u16();
    if code != 101 {
        return (code, String::new(), Vec::new());
    }
    let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "as in RFC 6455");
    let protocol = answer.headers().get("sec-websocket-protocol");
    let protocol = protocol.map(|name| name.to_str().expect("text").to_owned()).unwrap_or_default();
    let mut connection = TokioIo::new(hyper::upgrade::on(answer).await.expect("a connection"));
    let mut bytes = Vec::new();
    // It may end without a word of TLS.
    drop(connection.read_to_end(&mut bytes).await);
    (code, protocol, bytes)
}

#[tokio::test]
async fn a_websocket_gets_the_log_in_messages() {
    let cluster = agents::start(|_| async { said(200, "line\n") }).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    agents::with_pod(&cluster, "p", spec).await;
    let heard = async |protocols: &str| {
        heard(&cluster, ask("GET", "/api/v1/namespaces/default/pods/p/log?container=c"), protocols).await
    };
    let end = [0x88, 2, 3, 0xe8];
    let binary = [&[0x82, 0, 0x82, 5], &b"line\n"[..], &end].concat();
    assert_eq!(heard("x, binary.k8s.io").await, (101, "binary.k8s.io".to_owned(), binary));
    let text = [&[0x81, 0, 0x81, 8], &b"bGluZQo="[..], &end].concat();
    assert_eq!(heard("base64.binary.k8s.io").await, (101, "base64.binary.k8s.io".to_owned(), text));
    assert_eq!(heard("v5.channel.k8s.io").await.0, 403);
}

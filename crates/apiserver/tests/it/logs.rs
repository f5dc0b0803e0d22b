//! Logs come from the node's agent.

use serde_json::json;

use crate::agents::{self, said};
use crate::cluster::ask;

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

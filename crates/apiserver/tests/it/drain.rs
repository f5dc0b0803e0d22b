//! The end of a server: what is under way may finish.

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::{CONFIG_MAPS, Cluster, DEADLINE, ask, config_map, eventually};

#[tokio::test]
async fn open_requests_finish_and_watches_end() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let watch = ask("GET", &format!("{CONFIG_MAPS}?watch=1&resourceVersion=0"));
    let mut watch = cluster.open(watch, Some(&cluster.admin)).await.expect("a watch").into_body();
    watch.frame().await.expect("what there was").expect("a piece");

    // Its body is asked for, so that the request is being carried out.
    let mut open = cluster.tls(Some(&cluster.admin), &[]).await.expect("a connection");
    let head = format!(
        "GET {CONFIG_MAPS}/a?resourceVersion=0 HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
    );
    open.write_all(head.as_bytes()).await.expect("written");
    let mut heard = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    open.read_exact(&mut heard).await.expect("leave to go on");

    cluster.stop();
    let shutdown = || async { cluster.root(ask("GET", "/readyz/shutdown")).await.code };
    eventually("a server that is not ready", || async { (shutdown().await == 500).then_some(()) }).await;
    assert_eq!(cluster.root(ask("GET", "/livez")).await.code, 200);
    let rest = tokio::time::timeout(DEADLINE, watch.collect()).await.expect("the watch ends");
    assert!(rest.expect("well").to_bytes().is_empty());
    eventually("a closed door", || async { cluster.tls(None, &[]).await.is_err().then_some(()) }).await;

    open.write_all(b"{}").await.expect("written");
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, open.read_to_string(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"name\":\"a\""), "{answer}");
}

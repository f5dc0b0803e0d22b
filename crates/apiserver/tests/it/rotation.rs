//! Certificates and authorities that change while the server runs.

use std::path::Path;
use std::time::Duration;

use apiserver::ServerTlsFiles;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use crate::cluster::{Authority, Cluster, Keyed, Running, ask, eventually};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A connection that stays open.
struct Open(SendRequest<Full<Bytes>>);

impl Open {
    async fn of(cluster: &Running, keyed: &Keyed) -> Self {
        let stream = cluster.tls(Some(keyed), &["h2"]).await.expect("a connection");
        let hello = handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = hello.await.expect("HTTP/2");
        cluster.tasks.spawn_detached("open", async move { drop(connection.await) });
        Self(sender)
    }

    /// How a request on it is answered.
    async fn code(&self) -> u16 {
        let request =
            Request::post(format!("https://localhost{WHO}")).header("content-type", "application/json");
        let body = Full::from(json!({}).to_string());
        let sent = self.0.clone().send_request(request.body(body).expect("a request"));
        sent.await.expect("an answer").status().as_u16()
    }
}

async fn code(cluster: &Running, keyed: &Keyed) -> u16 {
    cluster.send_as(ask("POST", WHO).json(&json!({})), keyed).await.expect("an answer").code
}

/// What the server shows to new connections.
async fn shown(cluster: &Running) -> Vec<u8> {
    let stream = cluster.tls(None, &[]).await.expect("a connection");
    stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

fn write(file: &Path, parts: &[&str]) {
    // As whole, so that nobody reads a half.
    let new = file.with_extension("new");
    std::fs::write(&new, parts.concat()).expect("written");
    std::fs::rename(&new, file).expect("renamed");
}

#[tokio::test]
async fn certificate_and_authorities_are_read_again() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str| folder.path().join(name);
    let (certificate, key, client_ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let cluster = Cluster::start_with(|config| {
        for (file, text) in [
            (&certificate, &config.tls.certificate),
            (&key, &config.tls.key),
            (&client_ca, &config.tls.client_ca),
        ] {
            std::fs::write(file, text).expect("written");
        }
        config.tls_files = Some(ServerTlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
        });
        config.reload_interval = Duration::from_millis(10);
    })
    .await;
    let next = Authority::named("next");
    let (old, new) = (cluster.authority.issue("jane", None), next.issue("jane", None));
    let open = Open::of(&cluster, &old).await;
    assert_eq!((open.code().await, code(&cluster, &new).await), (201, 401));

    // Both are believed, on the connection that was there too.
    write(&client_ca, &[&cluster.authority.certificate, &next.certificate]);
    eventually("another authority", || async { (code(&cluster, &new).await == 201).then_some(()) }).await;
    assert_eq!((open.code().await, code(&cluster, &old).await), (201, 201));

    // A certificate without its key changes nothing; with it, it is shown to new connections.
    let first = shown(&cluster).await;
    let serving = cluster.authority.issue("kube-apiserver", None);
    write(&certificate, &[&serving.certificate]);
    assert_eq!(shown(&cluster).await, first);
    write(&key, &[&serving.key]);
    eventually("another certificate", || async { (shown(&cluster).await != first).then_some(()) }).await;
    assert_eq!(open.code().await, 201, "an open connection goes on");

    // What is believed no more is not believed on open connections either.
    write(&client_ca, &[&next.certificate]);
    eventually("the end of an authority", || async { (open.code().await == 401).then_some(()) }).await;
    assert_eq!((code(&cluster, &old).await, code(&cluster, &new).await), (401, 201));
}

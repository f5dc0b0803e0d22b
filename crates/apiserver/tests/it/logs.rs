//! Logs come from the node's agent.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::cluster::{Cluster, Running, ask};

/// An agent that answers with the path it was asked, and refuses one container.
async fn agent(cluster: &Running) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    let serving = cluster.authority.issue("system:node:n1", Some("system:nodes"));
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(cluster.authority.certificate.as_bytes()).expect("ca");
    roots.add(ca).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("verifier");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(serving.certificate.as_bytes()).expect("certificate")],
            PrivateKeyDer::from_pem_slice(serving.key.as_bytes()).expect("key"),
        )
        .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    cluster.tasks.spawn_detached("agent", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let answer = service_fn(|request: Request<Incoming>| async move {
                let path = request.uri().to_string();
                let code = if path.contains("/refused") { 400 } else { 200 };
                let mut response = Response::new(Full::new(Bytes::from(path)));
                *response.status_mut() = http::StatusCode::from_u16(code).expect("code");
                Ok::<_, Infallible>(response)
            });
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await,
            );
        }
    });
    port
}

#[tokio::test]
async fn the_agent_is_asked_and_its_words_passed_on() {
    let cluster = Cluster::start().await;
    let port = agent(&cluster).await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", &node).await;
    cluster
        .create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let containers = json!([{"name": "c", "image": "i"}, {"name": "refused", "image": "i"}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": containers}});
    cluster.create(pods, &pod).await;
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

//! A node's agent of the tests, with the certificate of one.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cluster::{Cluster, Running, ask};

pub type Asked = Request<Incoming>;
pub type Said = Response<Full<Bytes>>;

fn tls(cluster: &Running) -> tokio_rustls::TlsAcceptor {
    let serving = cluster.authority.issue("system:node:n1", Some("system:nodes"));
    serving.acceptor_of(cluster.authority.clients().build().expect("verifier"))
}

/// Serves what `answer` says; the port.
pub async fn agent<F, A>(cluster: &Running, answer: F) -> u16
where
    F: Fn(Asked) -> A + Clone + Send + 'static,
    A: Future<Output = Said> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    let (acceptor, tasks) = (tls(cluster), cluster.tasks.clone());
    cluster.tasks.spawn_detached("agent", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tasks.spawn_detached("agent-connection", async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                drop(server.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
            });
        }
    });
    port
}

pub fn said(code: u16, text: impl Into<Bytes>) -> Said {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = StatusCode::from_u16(code).expect("code");
    response
}

/// A cluster with a node whose agent listens on `port`.
pub async fn with_node(cluster: &Running, port: u16) {
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", &node).await;
    cluster
        .create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
}

/// A pod of the node `n1` with these containers.
pub async fn with_pod(cluster: &Running, name: &str, spec: Value) {
    let pod = json!({"metadata": {"name": name}, "spec": spec});
    cluster.create("/api/v1/namespaces/default/pods", &pod).await;
}

/// A cluster with an agent.
pub async fn start<F, A>(answer: F) -> Running
where
    F: Fn(Asked) -> A + Clone + Send + 'static,
    A: Future<Output = Said> + Send + 'static,
{
    let cluster = Cluster::start().await;
    let port = agent(&cluster, answer).await;
    with_node(&cluster, port).await;
    cluster
}

/// A pod of the node `n1` that has an address.
pub async fn with_pod_at(cluster: &Running, name: &str, spec: Value, address: &str) {
    with_pod(cluster, name, spec).await;
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    let patch = ask("PATCH", &format!("/api/v1/namespaces/default/pods/{name}/status"));
    cluster.root(patch.body("application/merge-patch+json", status.to_string())).await.expect(200);
}

/// An address that leads nowhere (RFC 5737).
pub const NOWHERE: &str = "192.0.2.1";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A Service whose port leads to one pod, which its node's agent alone can reach: it is a port of this machine.
pub async fn with_service_of_pod(cluster: &Running, name: &'static str, port: u16, listens: u16) {
    let agent = agent(cluster, move |request| async move {
        match request.uri().path() == format!("/dial/default/{name}/8443") {
            true => crate::streams::connect(request, listens),
            false => said(404, "no such pod"),
        }
    });
    with_node(cluster, agent.await).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    with_pod_at(cluster, name, spec, NOWHERE).await;
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": port}]}});
    cluster.create("/api/v1/namespaces/default/services", &service).await;
    let pod = json!({"kind": "Pod", "namespace": "default", "name": name});
    let slice = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8443}], "endpoints": [{"addresses": [NOWHERE], "targetRef": pod}]});
    cluster.create(SLICES, &slice).await;
}

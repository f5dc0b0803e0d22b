//! A server over HTTPS that answers reviews: of tokens, and of what users may do. It is there before the cluster that
//! asks it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use env::{Shutdown, TaskGroup};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::cluster::Authority;

/// What is answered.
pub enum Said {
    Json(Value),
    Text(String),
    /// An error.
    Code(u16),
    /// Nothing, ever.
    Nothing,
}

type Answer = dyn Fn(&str, &Value) -> Said + Send + Sync;
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

pub struct Reviewer {
    pub address: SocketAddr,
    pub authority: Authority,
    asked: Asked,
    tasks: TaskGroup,
    folder: TempDir,
}

async fn serve(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    asked: Asked,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    asked.lock().push((path.clone(), review.clone()));
    let (code, text) = match answer(&path, &review) {
        Said::Json(value) => (200, value.to_string()),
        Said::Text(text) => (200, text),
        Said::Code(code) => (code, "no".to_owned()),
        Said::Nothing => std::future::pending().await,
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = http::StatusCode::from_u16(code).expect("code");
    Ok(response)
}

impl Reviewer {
    /// Answers by the path and what is asked.
    pub async fn start(answer: impl Fn(&str, &Value) -> Said + Send + Sync + 'static) -> Self {
        let authority = Authority::named("reviewer-ca");
        let keyed = authority.issue("reviewer", None);
        let acceptor = keyed.acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let (answer, asked): (Arc<Answer>, Asked) = (Arc::new(answer), Asked::default());
        let tasks = TaskGroup::new("reviewer", Shutdown::new());
        let (inner, all) = (tasks.clone(), asked.clone());
        tasks.spawn_detached("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), all.clone());
                inner.spawn_detached("connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| serve(request, answer.clone(), asked.clone()));
                    let served = hyper::server::conn::http1::Builder::new();
                    drop(served.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, authority, asked, tasks, folder: tempfile::tempdir().expect("folder") }
    }

    /// A kubeconfig that names a path of this server.
    pub fn kubeconfig(&self, path: &str) -> PathBuf {
        self.kubeconfig_by(path, &self.authority)
    }

    /// One that believes another authority.
    pub fn kubeconfig_by(&self, path: &str, authority: &Authority) -> PathBuf {
        let bundle = base64::engine::general_purpose::STANDARD.encode(&authority.certificate);
        let server = format!("https://{}{path}", self.address);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": bundle}}],
        });
        let file = self.folder.path().join(format!("kubeconfig{}", path.replace('/', "-")));
        std::fs::write(&file, config.to_string()).expect("kubeconfig");
        file
    }

    /// What was asked at a path, in its order.
    pub fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock();
        asked.iter().filter(|(own, _)| own == path).map(|(_, review)| review.clone()).collect()
    }
}

impl Drop for Reviewer {
    fn drop(&mut self) {
        self.tasks.shutdown().trigger();
    }
}

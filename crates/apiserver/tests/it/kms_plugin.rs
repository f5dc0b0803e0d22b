//! A small key management plugin: gRPC on a unix socket, on a thread of its own, that can be ended, hang and lie.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use protos::kms::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use protos::kms::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What comes back with every request to open.
const ANNOTATION: &str = "check.plugin.example";
/// What the "sealed" bytes differ by.
const MASK: u8 = 0x5a;

/// How a plugin behaves.
#[derive(Clone)]
pub struct Manner {
    pub version: String,
    pub healthz: String,
    pub key_id: String,
    /// What is said of the key that seals; the key's name if none.
    pub sealed_by: Option<String>,
    /// What is given instead of what was sealed.
    pub opened: Option<Vec<u8>>,
    /// No call is answered.
    pub hangs: bool,
    /// Calls so far.
    pub encrypted: usize,
    pub decrypted: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            version: "v2".into(),
            healthz: "ok".into(),
            key_id: "key-1".into(),
            sealed_by: None,
            opened: None,
            hangs: false,
            encrypted: 0,
            decrypted: 0,
        }
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Manner>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Manner> {
        self.0.lock().unwrap_or_else(|error| panic!("{error}"))
    }

    /// How it behaves now; never, while it hangs.
    async fn manner(&self, count: impl FnOnce(&mut Manner)) -> Manner {
        let manner = {
            let mut manner = self.lock();
            count(&mut manner);
            manner.clone()
        };
        if manner.hangs {
            std::future::pending::<()>().await;
        }
        manner
    }
}

/// A running plugin. It ends when it is dropped, with its connections.
pub struct Plugin {
    path: PathBuf,
    shared: Shared,
    running: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Plugin {
    pub fn start(path: &Path) -> Self {
        let mut plugin = Self { path: path.to_owned(), shared: Shared::default(), running: None };
        plugin.again();
        plugin
    }

    /// Ends it; the socket goes too.
    pub fn end(&mut self) {
        if let Some((end, thread)) = self.running.take() {
            drop(end);
            thread.join().unwrap_or_else(|_| panic!("the plugin panicked"));
            drop(std::fs::remove_file(&self.path));
        }
    }

    /// Starts it again, with what it is like.
    pub fn again(&mut self) {
        let (end, ended) = oneshot::channel::<()>();
        let (path, shared) = (self.path.clone(), self.shared.clone());
        let (listens, listening) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap_or_else(|error| panic!("{error}")).block_on(async {
                let listener = tokio::net::UnixListener::bind(&path);
                let listener = listener.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let _ = listens.send(());
                let service = KeyManagementServiceServer::new(shared);
                let serving = tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    served = serving => panic!("{served:?}"),
                    _ = ended => {}
                }
            });
        });
        listening.recv().unwrap_or_else(|error| panic!("{error}"));
        self.running = Some((end, thread));
    }

    /// What it is like, to be changed.
    pub fn manner(&self) -> MutexGuard<'_, Manner> {
        self.shared.lock()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.end();
    }
}

#[tonic::async_trait]
impl KeyManagementService for Shared {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let Manner { version, healthz, key_id, .. } = self.manner(|_| ()).await;
        Ok(Response::new(StatusResponse { version, healthz, key_id }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let manner = self.manner(|manner| manner.encrypted += 1).await;
        let plain = request.into_inner().plaintext;
        let sealed = plain.iter().map(|byte| byte ^ MASK);
        let key_id = manner.sealed_by.unwrap_or(manner.key_id);
        let annotations = [(ANNOTATION.to_owned(), Bytes::from(key_id.clone()))].into();
        Ok(Response::new(EncryptResponse { ciphertext: sealed.collect(), key_id, annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let manner = self.manner(|manner| manner.decrypted += 1).await;
        let request = request.into_inner();
        if request.annotations.get(ANNOTATION).is_none_or(|value| value != request.key_id.as_bytes()) {
            return Err(Status::invalid_argument("this was not sealed here"));
        }
        let opened = request.ciphertext.iter().map(|byte| byte ^ MASK).collect();
        Ok(Response::new(DecryptResponse { plaintext: manner.opened.map_or(opened, Bytes::from) }))
    }
}

//! Calls of a key management plugin: gRPC over a unix socket. Driver.

use std::error::Error as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use env::Clock;
use hyper_util::rt::TokioIo;
use protos::kms::key_management_service_client::KeyManagementServiceClient;
use protos::kms::{
    DecryptRequest, EncryptRequest, EncryptResponse, EncryptedObject, StatusRequest, StatusResponse,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// Between two looks whether somebody listens at the socket.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

type Client = KeyManagementServiceClient<Channel>;

/// A plugin behind a socket. A call waits for somebody to listen there, as long as a call may take.
#[derive(Clone)]
pub(super) struct Plugin {
    /// The provider's name.
    name: Arc<str>,
    client: Client,
    timeout: Duration,
    clock: Clock,
}

impl Plugin {
    /// The connection is made with the first call, and again when it broke; it lives on the runtime of the caller.
    pub fn new(name: &str, socket: PathBuf, timeout: Duration, clock: Clock) -> Self {
        let own_clock = clock.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (socket, clock) = (socket.clone(), clock.clone());
            async move { Ok::<_, std::io::Error>(TokioIo::new(connect(&socket, &clock).await)) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { name: name.into(), client: Client::new(channel), timeout, clock: own_clock }
    }

    /// How the plugin is.
    ///
    /// # Errors
    /// The plugin's, or that of the way to it.
    pub async fn status(&self) -> Result<StatusResponse, String> {
        self.call(
            "Status",
            StatusRequest {},
            |mut client, request| async move { client.status(request).await },
        )
        .await
    }

    /// Seals a seed.
    ///
    /// # Errors
    /// See [`Plugin::status`].
    pub async fn encrypt(&self, uid: &str, plain: Vec<u8>) -> Result<EncryptResponse, String> {
        let request = EncryptRequest { plaintext: plain.into(), uid: uid.to_owned() };
        self.call("Encrypt", request, |mut client, request| async move { client.encrypt(request).await })
            .await
    }

    /// Opens the source of a value's key.
    ///
    /// # Errors
    /// See [`Plugin::status`].
    pub async fn decrypt(&self, uid: &str, object: EncryptedObject) -> Result<bytes::Bytes, String> {
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source,
            uid: uid.to_owned(),
            key_id: object.key_id,
            annotations: object.annotations,
        };
        let answer =
            self.call("Decrypt", request, |mut client, request| async move { client.decrypt(request).await });
        Ok(answer.await?.plaintext)
    }

    /// A call under its deadline. One that was lost with its connection is made once more: a plugin that was started
    /// again took the connection with it.
    async fn call<Q: Clone, A, F>(
        &self,
        method: &'static str,
        message: Q,
        call: impl Fn(Client, Request<Q>) -> F,
    ) -> Result<A, String>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let made = |message| call(self.client.clone(), Request::new(message));
        let tries = async {
            match made(message.clone()).await {
                Err(status) if is_lost(&status) => made(message).await,
                done => done,
            }
        };
        let since = self.clock.monotonic();
        let done = tokio::time::timeout(self.timeout, tries).await;
        let took = self.clock.monotonic().saturating_duration_since(since);
        match done {
            Ok(Ok(answer)) => {
                self.count(method, "OK".to_owned(), took);
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => {
                let code = match status.code() {
                    // In Go's spelling.
                    Code::Cancelled => "Canceled".to_owned(),
                    code => format!("{code:?}"),
                };
                self.count(method, code, took);
                Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            }
            Err(_) => {
                self.count(method, "DeadlineExceeded".to_owned(), took);
                Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned())
            }
        }
    }

    /// Counts a call (upstream: `storage/value/encrypt/envelope/metrics`).
    fn count(&self, method: &'static str, code: String, took: Duration) {
        metrics::histogram!(
            "apiserver_envelope_encryption_kms_operations_latency_seconds",
            "provider_name" => self.name.to_string(),
            "method_name" => format!("/v2.KeyManagementService/{method}"),
            "grpc_status_code" => code
        )
        .record(took.as_secs_f64());
    }
}

/// Whether the plugin has not said this, but the connection.
fn is_lost(status: &Status) -> bool {
    status.source().is_some()
}

/// Waits for somebody to listen. A path that begins with `@` is a name without a file.
async fn connect(socket: &Path, clock: &Clock) -> UnixStream {
    let name = socket.to_str().and_then(|text| text.strip_prefix('@'));
    let place = name.map_or_else(|| socket.to_owned(), |name| PathBuf::from(format!("\0{name}")));
    loop {
        match UnixStream::connect(&place).await {
            Ok(stream) => return stream,
            Err(error) => tracing::debug!(socket = %socket.display(), %error, "no key management plugin"),
        }
        clock.sleep(CONNECT_PAUSE).await;
    }
}

//! Requests over a tower service.

use std::sync::Arc;

use api_types::codec::STORED_MEDIA_TYPE;
use api_types::status::Status;
use api_types::{Resource, ResourceRef, codec};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::api::Api;
use crate::error::ClientError;

/// What goes wrong below the API.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body, going either way.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
/// Whatever answers requests.
pub type Service = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Bytes of an answer that is read whole, at most.
const MAX_ANSWER: usize = 512 << 20;
/// Protobuf for the kinds that have it.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const JSON: &str = "application/json";
/// The header that carries the fence.
const FENCE_HEADER: &str = "trierarch-fence";

/// What a write of a leader's component is conditional on: that the Lease is still held as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// Who holds it.
    pub holder: String,
    /// How often it had changed hands when the holder took it.
    pub transitions: i64,
}

impl Fence {
    fn header(&self) -> Option<HeaderValue> {
        let Self { namespace, lease, holder, transitions } = self;
        HeaderValue::try_from(format!("{namespace}/{lease}; {holder}/{transitions}")).ok()
    }
}

/// A caller of the API. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    service: Service,
    user_agent: HeaderValue,
    fence: Option<HeaderValue>,
}

impl Client {
    /// A caller of `service`, which knows by itself who calls.
    pub fn new(service: Service, user_agent: &str) -> Self {
        let user_agent = HeaderValue::try_from(user_agent).unwrap_or(HeaderValue::from_static("trierarch"));
        Self { service, user_agent, fence: None }
    }

    /// The same caller, whose writes fail once `fence` does not hold any more.
    #[must_use]
    pub fn with_fence(&self, fence: &Fence) -> Self {
        Self { fence: fence.header(), ..self.clone() }
    }

    /// Objects of a kind, in all namespaces.
    pub fn all(&self, resource: impl Into<ResourceRef>) -> Api {
        Api::new(self.clone(), resource.into(), None)
    }

    /// Objects of a kind in a namespace; the namespace is ignored for kinds without one.
    pub fn namespaced(&self, resource: impl Into<ResourceRef>, namespace: &str) -> Api {
        let resource = resource.into();
        let namespace = (resource.namespaced && !namespace.is_empty()).then(|| Arc::from(namespace));
        Api::new(self.clone(), resource, namespace)
    }

    /// Sends any request; the answer may be a failure.
    ///
    /// # Errors
    /// `Transport`.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(fence) = &self.fence
            && request.method() != Method::GET
        {
            request.headers_mut().insert(FENCE_HEADER, fence.clone());
        }
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        call(self.service.clone(), request).await.map_err(|error| ClientError::Transport(error.to_string()))
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Value, ClientError> {
        let response = self.send(json_request(method, path, body)?).await?;
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Decode(error.to_string()))
    }

    /// Reads an answer whole, if it is a success.
    ///
    /// # Errors
    /// `Api` for a failure, `Transport` when the connection breaks.
    pub async fn read(&self, response: Response<Body>) -> Result<Bytes, ClientError> {
        let code = response.status();
        let whole = read_whole(response.into_body(), MAX_ANSWER).await;
        let bytes = whole.map_err(|error| ClientError::Transport(error.to_string()))?;
        if code.is_success() { Ok(bytes) } else { Err(failure(code.as_u16(), &bytes)) }
    }
}

/// Boxed, so that callers' futures do not carry the service's types.
fn call(service: Service, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, BoxError>> {
    Box::pin(service.oneshot(request))
}

/// Reads a body whole, if it has no more than `max` bytes.
pub(crate) fn read_whole(body: Body, max: usize) -> BoxFuture<'static, Result<Bytes, BoxError>> {
    let whole = http_body_util::Limited::new(body, max).collect();
    Box::pin(futures::FutureExt::map(whole, |whole| whole.map(|whole| whole.to_bytes())))
}

/// Asks for objects of a kind, as they are stored if they are in this process, in protobuf if it has one; `shape` is the kind of the answer where that is metadata alone.
pub(crate) fn objects_request(
    resource: &Resource,
    path: &str,
    shape: Option<&'static str>,
) -> Result<Request<Bytes>, ClientError> {
    let mut request = json_request(Method::GET, path, None)?;
    let mut accept = if resource.message.is_some() { PROTOBUF } else { JSON }.to_owned();
    match shape {
        Some(shape) => accept.push_str(&format!(";as={shape};g=meta.k8s.io;v=v1")),
        None if resource.message.is_some() => accept.insert_str(0, &format!("{STORED_MEDIA_TYPE},")),
        None => {}
    }
    let accept = HeaderValue::try_from(accept).expect("invariant: made of plain words");
    request.headers_mut().insert(ACCEPT, accept);
    Ok(request)
}

/// A request as this crate sends them.
pub(crate) fn json_request(
    method: Method,
    path: &str,
    body: Option<(&'static str, &Value)>,
) -> Result<Request<Bytes>, ClientError> {
    let builder = Request::builder().method(method).uri(path).header(ACCEPT, JSON);
    let request = match body {
        Some((content_type, value)) => {
            builder.header(CONTENT_TYPE, content_type).body(value.to_string().into())
        }
        None => builder.body(Bytes::new()),
    };
    request.map_err(|error| ClientError::Decode(format!("{path} is no path: {error}")))
}

/// The API's Status, or one made up from an answer that has none.
pub(crate) fn failure(code: u16, body: &[u8]) -> ClientError {
    let value = match codec::is_proto(body) {
        true => codec::from_envelope(body).ok(),
        false => serde_json::from_slice(body).ok(),
    };
    let status = value.as_ref().and_then(Status::from_value);
    let status = status.unwrap_or_else(|| Status::failure(code, "", String::from_utf8_lossy(body).trim()));
    ClientError::Api(Box::new(status))
}

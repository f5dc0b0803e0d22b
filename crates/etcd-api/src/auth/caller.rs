//! From a request to who asks.

use mvcc::{AuthError, Caller};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use transport::Peer;

use crate::context::Context;
use crate::error::auth_status;

/// Where clients put their token; the second is the gateway's.
const TOKEN_KEYS: [&str; 2] = ["token", "authorization"];
/// Requests that came through a gateway: the certificate is the gateway's own.
const GATEWAY_KEY: &str = "grpcgateway-accept";

/// What a client showed with a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    token: Option<String>,
    common_name: Option<String>,
}

impl Credentials {
    pub fn of<T>(context: &Context, request: &Request<T>) -> Self {
        let token = token(request.metadata());
        let wants_name = token.is_none() && context.tokens.certificates;
        let gateway = request.metadata().contains_key(GATEWAY_KEY);
        let name = || common_name(request.extensions().get::<Peer>()?);
        let common_name = (wants_name && !gateway).then(name).flatten();
        Self { token, common_name }
    }
}

fn token(metadata: &MetadataMap) -> Option<String> {
    let value = TOKEN_KEYS.iter().find_map(|key| metadata.get(*key))?.to_str().unwrap_or_default();
    Some(value.strip_prefix("Bearer ").unwrap_or(value).to_owned())
}

/// The name in the certificate that the client's connection was verified with.
pub(crate) fn common_name(peer: &Peer) -> Option<String> {
    let certificates = peer.certificates.as_ref()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(certificates.first()?).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

impl Context {
    /// Who asks; nobody while authentication is off.
    pub async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        if !self.store.view().auth().is_enabled() {
            return Ok(Caller::default());
        }
        self.identify(&Credentials::of(self, request)).await.map_err(auth_status)
    }

    /// Who showed these; nobody if nothing was shown.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Caller, AuthError> {
        let view = self.store.view();
        if !view.auth().is_enabled() {
            return Ok(Caller::default());
        }
        if let Some(token) = &credentials.token {
            return self.tokens.caller(&self.store, token, self.env.clock.now()).await;
        }
        let user = credentials.common_name.clone();
        Ok(user.map_or_else(Caller::default, |user| Caller { user, revision: view.auth().revision() }))
    }

    /// Refuses who may not do everything.
    pub async fn check_admin<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request).await?;
        self.store.view().auth().check_admin(&caller).map_err(auth_status)?;
        Ok(caller)
    }

    /// Refuses who is nobody.
    pub async fn check_known<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request).await?;
        self.store.view().auth().check_known(&caller).map_err(auth_status)?;
        Ok(caller)
    }
}

//! A connection to a member, of ours or of etcd, with a user's token.

use std::path::PathBuf;
use std::time::Duration;

use protos::etcd::etcdserverpb::auth_client::AuthClient;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use protos::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use protos::etcd::etcdserverpb::watch_client::WatchClient;
use protos::etcd::etcdserverpb::{self as pb};
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::error::BackupError;

/// How long a member may take to answer the first call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How a store is reached.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Members' client addresses; the first that answers is used.
    pub endpoints: Vec<String>,
    /// Who may have signed the members' certificates, as a PEM file. With it or a certificate TLS is spoken.
    pub cacert: Option<PathBuf>,
    /// This client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// `name:password`, or the name alone.
    pub user: Option<String>,
    /// The password, where `user` is the name alone.
    pub password: Option<String>,
}

/// A member that answers.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    token: Option<AsciiMetadataValue>,
    /// Which endpoint it is.
    pub endpoint: String,
}

/// Puts the token into every request.
#[derive(Clone)]
pub struct WithToken(Option<AsciiMetadataValue>);

impl Interceptor for WithToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, WithToken>;

impl ConnectOptions {
    /// Connects to the first member that answers.
    ///
    /// # Errors
    /// When none does, a file cannot be read or the user is refused.
    pub async fn connect(&self) -> Result<Connection, BackupError> {
        let mut last = BackupError::Connect { endpoint: String::new(), why: "no endpoint is given".into() };
        for endpoint in &self.endpoints {
            match self.connect_to(endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, endpoint: &str) -> Result<Connection, BackupError> {
        let failed = |error: tonic::transport::Error| {
            let mut why = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                why = inner.to_string();
                cause = inner.source();
            }
            BackupError::Connect { endpoint: endpoint.to_owned(), why }
        };
        let secure = endpoint.starts_with("https://") || self.cacert.is_some() || self.cert.is_some();
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        let url = format!("{}://{host}", if secure { "https" } else { "http" });
        let mut target = Endpoint::from_shared(url)
            .map_err(failed)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        if secure {
            target = target.tls_config(self.tls()?).map_err(failed)?;
        }
        let channel = target.connect().await.map_err(failed)?;
        let token = self.authenticate(&channel).await?;
        Ok(Connection { channel, token, endpoint: endpoint.to_owned() })
    }

    fn tls(&self) -> Result<ClientTlsConfig, BackupError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(BackupError::file(path));
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.cacert {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }

    async fn authenticate(&self, channel: &Channel) -> Result<Option<AsciiMetadataValue>, BackupError> {
        let Some(user) = &self.user else { return Ok(None) };
        let (name, password) = match (user.split_once(':'), &self.password) {
            (_, Some(password)) => (user.clone(), password.clone()),
            (Some((name, password)), None) => (name.to_owned(), password.to_owned()),
            (None, None) => (user.clone(), String::new()),
        };
        let request = pb::AuthenticateRequest { name, password };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await?;
        let token = AsciiMetadataValue::try_from(answer.into_inner().token);
        token.map(Some).map_err(|_| tonic::Status::internal("the token cannot be sent").into())
    }
}

impl Connection {
    /// Keys.
    pub fn kv(&self) -> KvClient<Service> {
        KvClient::with_interceptor(self.channel.clone(), WithToken(self.token.clone()))
    }

    /// Users and roles.
    pub fn auth(&self) -> AuthClient<Service> {
        AuthClient::with_interceptor(self.channel.clone(), WithToken(self.token.clone()))
    }

    /// Leases.
    pub fn lease(&self) -> LeaseClient<Service> {
        LeaseClient::with_interceptor(self.channel.clone(), WithToken(self.token.clone()))
    }

    /// Watches; a response may have any size.
    pub fn watch(&self) -> WatchClient<Service> {
        WatchClient::with_interceptor(self.channel.clone(), WithToken(self.token.clone()))
            .max_decoding_message_size(usize::MAX)
    }

    /// Status, snapshots.
    pub fn maintenance(&self) -> MaintenanceClient<Service> {
        MaintenanceClient::with_interceptor(self.channel.clone(), WithToken(self.token.clone()))
            .max_decoding_message_size(usize::MAX)
    }
}

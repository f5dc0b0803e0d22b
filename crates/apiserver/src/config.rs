//! What a server is built from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::admission::AdmissionConfig;
use crate::audit::AuditConfig;
use crate::authn::{OidcConfig, RequestHeaderConfig, TokenWebhookConfig};
use crate::authz::AuthorizationConfig;

/// Certificates of the API's address, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate chain of the server.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Authorities whose client certificates are believed.
    pub client_ca: Vec<u8>,
}

/// Where [`ServerTls`] lies.
#[derive(Clone, Debug)]
pub struct ServerTlsFiles {
    /// Certificate chain of the server.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities whose client certificates are believed.
    pub client_ca: PathBuf,
}

/// Keys of service account tokens, and who issues them.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// The key that signs, as PEM: RSA, or ECDSA of curve P-256 or P-384; its own signatures are believed too (upstream's
    /// `--service-account-signing-key-file`).
    pub signing_key: Vec<u8>,
    /// Keys and certificates whose signatures are believed, as PEM; private keys stand for their public halves (upstream's
    /// `--service-account-key-file`).
    pub public_keys: Vec<Vec<u8>>,
    /// Who issues tokens: the first is in new ones, tokens of all are taken (upstream's `--service-account-issuer`).
    pub issuers: Vec<String>,
    /// Where others find the keys; without it at this server (upstream's `--service-account-jwks-uri`).
    pub jwks_uri: Option<String>,
    /// How long a token may last; who asks for more gets that (upstream's `--service-account-max-token-expiration`).
    pub max_expiration: Option<Duration>,
    /// Whether the tokens of pods outlive what they say by a year, with a warning, for clients that do not read them again
    /// (upstream's `--service-account-extend-token-expiration`).
    pub extend_expiration: bool,
}

impl ServiceAccountKeys {
    /// One issuer, and otherwise upstream's defaults.
    pub fn new(signing_key: Vec<u8>, public_keys: Vec<Vec<u8>>, issuer: impl Into<String>) -> Self {
        let issuers = vec![issuer.into()];
        Self {
            signing_key,
            public_keys,
            issuers,
            jwks_uri: None,
            max_expiration: None,
            extend_expiration: true,
        }
    }
}

/// How node agents are called (logs), as PEM.
#[derive(Clone)]
pub struct KubeletClient {
    /// Client certificate chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Authorities of the agents' certificates.
    pub ca: Vec<u8>,
}

/// Whom aggregated API servers see as the proxy: files with PEM, which are read again when they change (upstream's
/// `--proxy-client-cert-file` and `--proxy-client-key-file`).
#[derive(Clone, Debug)]
pub struct ProxyClient {
    /// Client certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How often aggregated API servers are asked what they serve, and the files of the proxy's certificate are looked at.
#[derive(Clone, Copy, Debug)]
pub struct AggregationConfig {
    /// Between two times, and after a failure at the latest.
    pub refresh: Duration,
    /// After a first failure.
    pub retry: Duration,
}

impl Default for AggregationConfig {
    /// Upstream's (`discoveryRefreshInterval`).
    fn default() -> Self {
        Self { refresh: Duration::from_secs(60), retry: Duration::from_millis(500) }
    }
}

/// Text of all metrics in Prometheus' format.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// A server to be.
#[derive(Clone)]
pub struct ApiServerConfig {
    /// This replica's name, unique in the cluster.
    pub name: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How many connections there may be at a time; of a larger room a part is taken.
    pub room: transport::Room,
    /// The address that Service `kubernetes` sends clients to.
    pub advertise_address: IpAddr,
    /// Certificates.
    pub tls: ServerTls,
    /// Files that they are read from again when these change; without them they stay.
    pub tls_files: Option<ServerTlsFiles>,
    /// Token keys.
    pub service_account: ServiceAccountKeys,
    /// Addresses of Services; the first is Service `kubernetes`'.
    pub service_cidr: IpNet,
    /// Ports of Services on nodes.
    pub node_ports: RangeInclusive<u16>,
    /// How long Events live (upstream's `--event-ttl`).
    pub event_ttl: Duration,
    /// How long a request may take that is not meant to last; it may ask for less (upstream's `--request-timeout`).
    pub request_timeout: Duration,
    /// How long a watch lasts at least when the client does not say; up to twice so long (upstream's
    /// `--min-request-timeout`).
    pub min_request_timeout: Duration,
    /// Requests that are served at a time, a seat each; large lists take several (upstream's `--max-requests-inflight`
    /// and `--max-mutating-requests-inflight` together).
    pub max_requests: u32,
    /// Certificates for calls to node agents; without them there are no logs.
    pub kubelet_client: Option<KubeletClient>,
    /// The certificate for aggregated API servers; without it they see none, and believe nothing.
    pub proxy_client: Option<ProxyClient>,
    /// How aggregated API servers are followed.
    pub aggregation: AggregationConfig,
    /// Whether requests without credentials are those of `system:anonymous` (upstream's `--anonymous-auth`); when it is
    /// not said, they are, unless the authentication configuration says otherwise.
    pub anonymous_auth: Option<bool>,
    /// Whether Secrets of type `bootstrap.kubernetes.io/token` are credentials (upstream's
    /// `--enable-bootstrap-token-auth`).
    pub bootstrap_token_auth: bool,
    /// A file of kind `AuthenticationConfiguration`: other issuers of tokens, and on which paths nobody in particular is
    /// let in (upstream's `--authentication-config`). It is read again when it changes.
    pub authentication_config: Option<PathBuf>,
    /// One other issuer of tokens by flags, in place of the authentication configuration (upstream's `--oidc-*`).
    pub oidc: Option<OidcConfig>,
    /// Tokens with their users, a line each (upstream's `--token-auth-file`).
    pub token_file: Option<PathBuf>,
    /// Audiences of tokens that are meant for this server (upstream's `--api-audiences`); without any the issuers of service account tokens.
    pub api_audiences: Vec<String>,
    /// A server that knows tokens.
    pub token_webhook: TokenWebhookConfig,
    /// How long the second try waits to ask a server that knows tokens or decides; later ones wait longer.
    pub review_retry: Duration,
    /// Proxies that say whose requests they pass on.
    pub request_header: RequestHeaderConfig,
    /// Who decides what users may do.
    pub authorization: AuthorizationConfig,
    /// Which plugins decide about writes.
    pub admission: AdmissionConfig,
    /// Between two looks at files that are read again when they change.
    pub reload_interval: Duration,
    /// A file of kind `EncryptionConfiguration`: which kinds are stored encrypted, and with which keys (upstream's
    /// `--encryption-provider-config`).
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether that file is read again when it changes (upstream's `--encryption-provider-config-automatic-reload`).
    pub encryption_reload: bool,
    /// Seconds that pods tolerate a node that is not ready, unless they say otherwise.
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that pods tolerate a node that is not reachable, unless they say otherwise.
    pub default_unreachable_toleration_seconds: i64,
    /// How long the store's history is kept, at least (upstream's `--etcd-compaction-interval`); zero keeps it all.
    pub compaction_interval: Duration,
    /// Bytes that lists hold together while they are sent to clients, about.
    pub list_memory: usize,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// What `/metrics` answers.
    pub metrics: Option<MetricsText>,
    /// What is written of requests, and whereto.
    pub audit: AuditConfig,
    /// Flags with their values, as `/flagz` shows them: nothing that is secret.
    pub flags: BTreeMap<String, String>,
}

impl ApiServerConfig {
    /// A replica with upstream's defaults.
    pub fn new(
        name: impl Into<String>,
        listen: SocketAddr,
        tls: ServerTls,
        service_account: ServiceAccountKeys,
    ) -> Self {
        Self {
            name: name.into(),
            listen,
            room: transport::Room::unlimited(),
            advertise_address: listen.ip(),
            tls,
            tls_files: None,
            service_account,
            service_cidr: IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 12),
            node_ports: 30000..=32767,
            event_ttl: Duration::from_hours(1),
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            max_requests: 600,
            kubelet_client: None,
            proxy_client: None,
            aggregation: AggregationConfig::default(),
            anonymous_auth: None,
            bootstrap_token_auth: false,
            authentication_config: None,
            oidc: None,
            token_file: None,
            api_audiences: Vec::new(),
            token_webhook: TokenWebhookConfig::default(),
            review_retry: Duration::from_millis(500),
            request_header: RequestHeaderConfig::default(),
            authorization: AuthorizationConfig::default(),
            admission: AdmissionConfig::default(),
            reload_interval: Duration::from_secs(10),
            encryption_provider_config: None,
            encryption_reload: false,
            default_not_ready_toleration_seconds: 300,
            default_unreachable_toleration_seconds: 300,
            compaction_interval: Duration::from_secs(300),
            list_memory: 1 << 30,
            idle_timeout: Duration::from_secs(90),
            metrics: None,
            audit: AuditConfig::default(),
            flags: BTreeMap::new(),
        }
    }
}

/// Why a server cannot be built. Each is one line for the command line.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address cannot be listened on.
    #[error("cannot listen for the API on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot use the certificates of the API: {0}")]
    Tls(String),
    /// The service account keys cannot be used.
    #[error("cannot use the service account keys: {0}")]
    ServiceAccountKeys(String),
    /// What flags say of authentication cannot be used.
    #[error("{0}")]
    Authentication(String),
    /// Who decides cannot be asked: flags, configuration or kubeconfigs.
    #[error("{0}")]
    Authorization(String),
    /// The plugins of admission cannot be made: flags or configuration.
    #[error("{0}")]
    Admission(String),
    /// The authentication configuration cannot be used.
    #[error("cannot use the authentication configuration: {0}")]
    AuthenticationConfig(String),
    /// The audit log cannot be begun: flags, policy, file or kubeconfig.
    #[error("{0}")]
    Audit(String),
    /// The encryption configuration cannot be used.
    #[error("cannot use the encryption configuration: {0}")]
    EncryptionConfig(String),
    /// The certificate for aggregated API servers cannot be used.
    #[error("cannot use the certificate for aggregated API servers: {0}")]
    ProxyClient(String),
    /// The range of Service addresses is too small.
    #[error("the service address range {0} has no room: at least 8 addresses are needed")]
    ServiceCidr(IpNet),
}

/// Why a running server ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task failed.
    #[error(transparent)]
    Task(#[from] env::TaskFailure),
}

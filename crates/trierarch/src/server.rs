//! A master: the store, its etcd API, the Kubernetes API and the controllers in one process.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_types::meta;
use apiserver::{
    ApiServer, ApiServerConfig, KubeletClient, ProxyClient, RequestHeaderConfig, ServerTls, ServerTlsFiles,
};
use clap::Args;
use controllers::{ApiProbe, ControllersConfig, Ipv4Range, TokenSigner};
use env::{Env, Shutdown, TaskGroup};
use store::{Store, Timing};
use transport::{Room, SocketOptions, Tls, TlsOptions};

use crate::credentials::FRONT_PROXY;
use crate::{
    admission, audit, authentication, authorization, descriptors, leaders, logging, member, observe,
    service_accounts, serving, signals,
};

/// How long a master may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// `trierarch server`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// This master's name in --initial-cluster
    #[arg(long)]
    pub name: String,
    /// Where the store keeps its data
    #[arg(long)]
    pub data_dir: PathBuf,
    /// MiB of objects that are kept in memory; others are read from disk
    #[arg(long, default_value_t = 1024)]
    pub cache_mib: u64,
    /// Where certificates and keys are; without it only the store is served, in plain text
    #[arg(long)]
    pub pki_dir: Option<PathBuf>,
    /// All masters: name=url,name=url
    #[arg(long)]
    pub initial_cluster: String,
    /// Tells clusters with the same URLs apart
    #[arg(long, default_value = "trierarch")]
    pub initial_cluster_token: String,
    /// Where to listen for the other masters; https with --pki-dir
    #[arg(long)]
    pub listen_peer_url: String,
    /// Where to serve etcd clients: with https, those who have a certificate of etcd/ca.crt of --pki-dir; in plain text
    /// whoever gets there, who may change every object
    #[arg(long)]
    pub listen_client_url: String,
    /// Where to serve the Kubernetes API, with --pki-dir
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub bind: String,
    /// The address that the Service kubernetes sends clients to; without it the one of --bind, or of the interface
    /// that has the default route
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// The addresses of all pods; each node gets a /24 of it
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// A file of kind EncryptionConfiguration: which kinds are stored encrypted, and with which keys
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read the encryption configuration again when it changes
    #[arg(long)]
    pub encryption_provider_config_automatic_reload: bool,
    /// The certificate that aggregated API servers see, PEM; front-proxy-client.crt of --pki-dir without
    #[arg(long, requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Seconds that pods tolerate a node that is not ready, unless they say otherwise
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that pods tolerate a node that is not reachable, unless they say otherwise
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// How long a node may be silent before it counts as not reachable, such as 50s or 1m
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    #[command(flatten)]
    pub log: logging::LogOptions,
    #[command(flatten)]
    pub serving: serving::ServingOptions,
    #[command(flatten)]
    pub authentication: authentication::AuthenticationOptions,
    #[command(flatten)]
    pub service_accounts: service_accounts::ServiceAccountOptions,
    #[command(flatten)]
    pub authorization: authorization::AuthorizationOptions,
    #[command(flatten)]
    pub admission: admission::AdmissionOptions,
    #[command(flatten)]
    pub audit: audit::AuditOptions,
}

fn token_signer(api: &ApiServer) -> TokenSigner {
    let sign = api.secret_token_signer();
    TokenSigner(Arc::new(move |account, secret| {
        let (namespace, name) = (meta::namespace(account), meta::name(account));
        sign([namespace, name, meta::uid(account), meta::name(secret)])
    }))
}

/// Reads a duration as Go prints it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nanos = api_types::time::parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| format!("{text:?} is no duration such as 50s or 1m30s"))
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, options: Options) -> Result<()> {
    logging::start(&options.log);
    let tasks = TaskGroup::new("server", Shutdown::new());
    let tables = [
        store::METRICS,
        etcd_api::METRICS,
        apiserver::METRICS,
        client::METRICS,
        controllers::METRICS,
        scheduler::METRICS,
    ];
    let render = observe::install(&tables)?;
    signals::watch(&tasks)?;
    let room = descriptors::for_clients(1);
    let member = store_config(&options, room.clone())?.build(&env, render.clone()).await?;
    let api = match &options.pki_dir {
        Some(dir) => Some(build_api(&env, (&options, room), dir, member.store.clone(), render).await?),
        None => None,
    };
    let store = member.store.clone();
    let member_tasks = TaskGroup::new("member", Shutdown::new());
    member.start(&member_tasks);
    if let (Some(api), Some(dir)) = (api, &options.pki_dir) {
        let root_ca = String::from_utf8(read(&dir.join("ca.crt"))?).context("ca.crt is not PEM")?;
        let cluster_cidr = Ipv4Range::parse(&options.cluster_cidr).map_err(anyhow::Error::msg)?;
        let config = ControllersConfig {
            replica: options.name,
            root_ca,
            cluster_cidr,
            token_signer: Some(token_signer(&api)),
            api_probe: Some(ApiProbe {
                ask: Arc::new(api.api_service_probe()),
                interval: controllers::PROBE_INTERVAL,
            }),
            node_monitor_grace: options.node_monitor_grace_period,
        };
        leaders::start(&env, &tasks, &store, &api, config);
        tasks.spawn("apiserver", api.run(tasks.shutdown().clone()));
    }
    // The store goes last: what stops before it still has something to write.
    let lost = member_tasks.shutdown().clone();
    let stop = tasks.shutdown().clone();
    tasks.spawn_detached("member", async move {
        tokio::select! {
            () = lost.wait() => stop.trigger(),
            () = stop.wait() => {}
        }
    });
    let shutdown = tasks.shutdown().clone();
    shutdown.wait().await;
    let stopped = tasks.join(STOP_DEADLINE).await;
    member_tasks.shutdown().trigger();
    member_tasks.join(STOP_DEADLINE).await?;
    Ok(stopped?)
}

/// An address at which others reach what listens on `bound` (upstream's rule for `--advertise-address`).
fn advertised(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    // Nothing is sent: connecting a datagram socket only chooses the route, and with it the address. The target is one
    // of the documentation's (RFC 5737), which no host has.
    let route = || {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr().map(|address| address.ip())
    };
    route().unwrap_or(bound)
}

fn store_config(options: &Options, room: Room) -> Result<member::Config> {
    Ok(member::Config {
        peer_tls: options.pki_dir.as_deref().map(|dir| peer_tls(dir, &options.name)).transpose()?,
        name: options.name.clone(),
        data_dir: options.data_dir.clone(),
        initial_cluster: member::parse_initial_cluster(&options.initial_cluster)?,
        cluster_token: options.initial_cluster_token.clone(),
        join: false,
        strict_reconfig_check: true,
        wal_dir: None,
        trust_folder: false,
        force_new_cluster: false,
        durable: true,
        listen_peers: vec![member::listen_address(&options.listen_peer_url)?],
        listen_clients: vec![member::listen_address(&options.listen_client_url)?],
        listen_http: Vec::new(),
        listen_metrics: Vec::new(),
        room,
        sockets: SocketOptions::default(),
        advertise_client_urls: vec![options.listen_client_url.clone()],
        local_address: None,
        client_tls: client_tls(options)?,
        access: etcd_api::Access::default(),
        gateway: true,
        keep_alive: None,
        keep_alive_min: Duration::from_secs(5),
        timing: Timing::default(),
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        max_request_bytes: apiserver::MAX_BODY_BYTES,
        cache_bytes: options.cache_mib << 20,
        max_txn_ops: mvcc::MAX_TXN_OPS,
        quota_bytes: None,
        client_memory_bytes: crate::memory::for_clients(),
        max_leases: etcd_api::MAX_LEASES,
        max_learners: etcd_api::MAX_LEARNERS,
        max_concurrent_streams: u32::MAX,
        auth: etcd_api::AuthOptions::default(),
        lanes: 1,
        watch_progress_notify_interval: Duration::from_secs(600),
        warn_unary: Duration::from_millis(300),
        warn_apply: Duration::from_millis(100),
        compaction: (1000, Duration::from_millis(10)),
        checks: store::Checks::default(),
        extensive_metrics: false,
    })
}

async fn build_api(
    env: &Env,
    (options, room): (&Options, Room),
    dir: &Path,
    store: Store,
    metrics: apiserver::MetricsText,
) -> Result<ApiServer> {
    let files = ServerTlsFiles {
        certificate: dir.join(format!("apiserver-{}.crt", options.name)),
        key: dir.join(format!("apiserver-{}.key", options.name)),
        client_ca: dir.join("ca.crt"),
    };
    let tls = ServerTls {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        client_ca: read(&files.client_ca)?,
    };
    let keys = options.service_accounts.keys(dir)?;
    let kubelet = KubeletClient {
        certificate: read(&dir.join("apiserver-kubelet-client.crt"))?,
        key: read(&dir.join("apiserver-kubelet-client.key"))?,
        ca: read(&dir.join("ca.crt"))?,
    };
    let listen = member::address_of(&options.bind)?;
    let mut config = ApiServerConfig {
        room,
        tls_files: Some(files),
        advertise_address: options.advertise_address.unwrap_or_else(|| advertised(listen.ip())),
        kubelet_client: Some(kubelet),
        proxy_client: proxy_client(options, dir),
        encryption_provider_config: options.encryption_provider_config.clone(),
        encryption_reload: options.encryption_provider_config_automatic_reload,
        default_not_ready_toleration_seconds: options.default_not_ready_toleration_seconds,
        default_unreachable_toleration_seconds: options.default_unreachable_toleration_seconds,
        metrics: Some(metrics),
        flags: crate::flags_of("server", std::env::args_os()),
        authorization: options.authorization.config(),
        admission: options.admission.config(),
        audit: options.audit.config(),
        ..ApiServerConfig::new(options.name.clone(), listen, tls, keys)
    };
    options.serving.put_into(&mut config)?;
    options.authentication.put_into(&mut config);
    if config.request_header.client_ca_file.is_none() {
        config.request_header = front_proxies(dir).unwrap_or(config.request_header);
    }
    Ok(config.build(store, env.clone()).await?)
}

/// The certificate for aggregated API servers; folders of older releases have none.
fn proxy_client(options: &Options, dir: &Path) -> Option<ProxyClient> {
    let own = |extension: &str| dir.join(format!("{FRONT_PROXY}.{extension}"));
    let (certificate, key) = match (&options.proxy_client_cert_file, &options.proxy_client_key_file) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ if !own("crt").exists() => return None,
        _ => (own("crt"), own("key")),
    };
    Some(ProxyClient { certificate, key })
}

/// The proxies that are believed if no flag says which: this one and its like, as aggregated API servers are told too.
fn front_proxies(dir: &Path) -> Option<RequestHeaderConfig> {
    let authority = dir.join("front-proxy-ca.crt");
    let one = |text: &str| vec![text.to_owned()];
    authority.exists().then(|| RequestHeaderConfig {
        client_ca_file: Some(authority),
        allowed_names: one(FRONT_PROXY),
        username_headers: one("X-Remote-User"),
        uid_headers: one("X-Remote-Uid"),
        group_headers: one("X-Remote-Group"),
        extra_headers_prefix: one("X-Remote-Extra-"),
    })
}

/// The bytes of a file; the error names it.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The certificates towards etcd's clients, who need one too; none where they are served in plain text.
fn client_tls(options: &Options) -> Result<Option<Tls>> {
    let (url, address) = (&options.listen_client_url, member::listen_address(&options.listen_client_url)?);
    if !address.is_secure() {
        let is_loopback = address.host().parse::<IpAddr>().is_ok_and(|host| host.is_loopback());
        if !is_loopback && !address.is_unix() {
            tracing::warn!(
                url,
                "etcd clients are served in plain text: whoever gets there may change every object"
            );
        }
        return Ok(None);
    }
    let dir = options.pki_dir.as_deref().context("a --listen-client-url with https needs --pki-dir")?;
    let own = |extension: &str| dir.join(format!("etcd/server-{}.{extension}", options.name));
    if !own("crt").exists() {
        bail!("cannot find {}; `trierarch pki` adds what is missing", own("crt").display());
    }
    let tls = TlsOptions {
        certificate: Some(own("crt")),
        key: Some(own("key")),
        trusted_ca: Some(dir.join("etcd/ca.crt")),
        client_cert_auth: true,
        ..TlsOptions::default()
    };
    Ok(Some(Tls::new(tls)?))
}

/// The certificates between members, with the files' paths: they are read again when they change.
fn peer_tls(dir: &Path, name: &str) -> Result<Tls> {
    let options = TlsOptions {
        certificate: Some(dir.join(format!("etcd/peer-{name}.crt"))),
        key: Some(dir.join(format!("etcd/peer-{name}.key"))),
        trusted_ca: Some(dir.join("etcd/ca.crt")),
        ..TlsOptions::default()
    };
    Ok(Tls::new(options)?)
}

//! A server over a store of one member in memory, with keys of its own, and a client of it over TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServerConfig, ApiService, KubeletClient, ServerTls, ServiceAccountKeys, UserInfo};
use base64::Engine as _;
use bytes::Bytes;
use env::{Env, Shutdown, TaskGroup};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use serde_json::Value;
use store::{MemoryStorage, Store, StoreConfig};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

pub const DEADLINE: Duration = Duration::from_secs(20);

/// A certificate and its key, PEM.
pub struct Keyed {
    pub certificate: String,
    pub key: String,
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("certificate")
}

impl Keyed {
    /// A TLS server with this certificate, which asks its clients for none.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor_of(WebPkiClientVerifier::no_client_auth())
    }

    /// The same, which checks the certificates of its clients.
    pub fn acceptor_of(&self, clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![der(&self.certificate)], key)
            .expect("a server");
        TlsAcceptor::from(Arc::new(config))
    }
}

pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A check of clients whose certificates this authority issued.
    pub fn clients(&self) -> ClientCertVerifierBuilder {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&self.certificate)).expect("root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
    }

    pub fn new() -> Self {
        Self::named("test-ca")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("ca").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, name: &str, group: Option<&str>) -> Keyed {
        self.issue_named(name, group, "localhost", |_| ())
    }

    /// One that ended long ago.
    pub fn issue_expired(&self, name: &str) -> Keyed {
        self.issue_named(name, None, "localhost", |params| {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1)
        })
    }

    /// A client's with a UID.
    pub fn issue_with_uid(&self, name: &str, uid: &str) -> Keyed {
        let kind = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        self.issue_named(name, None, "localhost", |params| params.distinguished_name.push(kind, uid))
    }

    /// A server's, for one DNS name.
    pub fn issue_for(&self, server: &str) -> Keyed {
        self.issue_named(server, None, server, |_| ())
    }

    /// A certificate that is not as usual.
    pub fn issue_with(
        &self,
        name: &str,
        group: Option<&str>,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Keyed {
        self.issue_named(name, group, "localhost", adjust)
    }

    fn issue_named(
        &self,
        name: &str,
        group: Option<&str>,
        server: &str,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Keyed {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName(server.try_into().expect("name")),
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Keyed { certificate, key: key.serialize_pem() }
    }
}

pub struct Cluster;

/// Signs the token of a service account that lies in a Secret.
type Signer = dyn Fn([&str; 4]) -> Option<String> + Send + Sync;

/// A running member of a cluster.
pub struct Running {
    pub address: SocketAddr,
    pub authority: Arc<Authority>,
    pub admin: Keyed,
    pub store: Store,
    shutdown: Shutdown,
    root: ApiService,
    pub tasks: TaskGroup,
    signer: Box<Signer>,
    controller: ApiService,
    probe: Arc<controllers::Probe>,
    /// The keys of service accounts' tokens.
    pub keys: ServiceAccountKeys,
    folder: TempDir,
}

fn service_account_keys() -> ServiceAccountKeys {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("key");
    let der = base64::engine::general_purpose::STANDARD.encode(key.subject_public_key_info());
    let public = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
    let signing = key.serialize_pem().into_bytes();
    ServiceAccountKeys::new(signing, vec![public.into_bytes()], "https://kubernetes.default.svc")
}

impl Cluster {
    /// A cluster of one.
    pub async fn start() -> Running {
        Self::start_many(1).await.remove(0)
    }

    /// A cluster of one whose configuration is adjusted.
    pub async fn start_with(adjust: impl FnOnce(&mut ApiServerConfig)) -> Running {
        let (authority, keys) = (Arc::new(Authority::new()), service_account_keys());
        let member = start_member(0, &[env::ports::free_address()], authority, keys, adjust).await;
        member.ready().await;
        member
    }

    /// Why a member cannot be built whose configuration is adjusted.
    pub async fn fault(adjust: impl FnOnce(&mut ApiServerConfig)) -> String {
        let (authority, keys) = (Arc::new(Authority::new()), service_account_keys());
        let built = try_member(0, &[env::ports::free_address()], authority, keys, adjust).await;
        built.err().unwrap_or_default()
    }

    /// A cluster of several, which share their keys.
    pub async fn start_many(size: usize) -> Vec<Running> {
        let peers: Vec<SocketAddr> = (0..size).map(|_| env::ports::free_address()).collect();
        let (authority, keys) = (Arc::new(Authority::new()), service_account_keys());
        let mut members = Vec::new();
        for index in 0..size {
            members.push(start_member(index, &peers, authority.clone(), keys.clone(), |_| ()).await);
        }
        for member in &members {
            member.ready().await;
        }
        members
    }
}

async fn start_member(
    index: usize,
    peers: &[SocketAddr],
    authority: Arc<Authority>,
    keys: ServiceAccountKeys,
    adjust: impl FnOnce(&mut ApiServerConfig),
) -> Running {
    try_member(index, peers, authority, keys, adjust).await.unwrap_or_else(|error| panic!("server: {error}"))
}

async fn try_member(
    index: usize,
    peers: &[SocketAddr],
    authority: Arc<Authority>,
    keys: ServiceAccountKeys,
    adjust: impl FnOnce(&mut ApiServerConfig),
) -> Result<Running, String> {
    let folder = tempfile::tempdir().expect("folder");
    let (env, shutdown) = (Env::real(), Shutdown::new());
    let tasks = TaskGroup::new("test", Shutdown::new());
    let name = format!("m{index}");
    let initial =
        peers.iter().enumerate().map(|(index, peer)| (format!("m{index}"), format!("http://{peer}")));
    let config =
        StoreConfig { initial_cluster: initial.collect(), ..StoreConfig::new(name.clone(), peers[index]) };
    let storage = Arc::new(MemoryStorage::new(folder.path().join("store")));
    let (store, server) = config.build(env.clone(), storage).await.expect("store");
    let stop = shutdown.clone();
    tasks.spawn_detached("store", async move { drop(server.run(stop).await) });
    let serving = authority.issue("kube-apiserver", None);
    let tls = ServerTls {
        certificate: serving.certificate.into_bytes(),
        key: serving.key.into_bytes(),
        client_ca: authority.certificate.clone().into_bytes(),
    };
    let listen = "127.0.0.1:0".parse().expect("address");
    let kubelet = authority.issue("kube-apiserver-kubelet-client", Some("system:masters"));
    let mut config = ApiServerConfig {
        kubelet_client: Some(KubeletClient {
            certificate: kubelet.certificate.into_bytes(),
            key: kubelet.key.into_bytes(),
            ca: authority.certificate.clone().into_bytes(),
        }),
        ..ApiServerConfig::new(name, listen, tls, keys.clone())
    };
    adjust(&mut config);
    let service = config.build(store.clone(), env).await.map_err(|error| error.to_string())?;
    let address = service.address().expect("address");
    let root = service.service(UserInfo::new("kubernetes-admin", &["system:masters"]));
    let controller = service.service(UserInfo::new("system:kube-controller-manager", &[]));
    let probe = Arc::new(service.api_service_probe());
    let signer = Box::new(service.secret_token_signer());
    let stop = shutdown.clone();
    tasks.spawn_detached("server", async move { drop(service.run(stop).await) });
    let admin = authority.issue("kubernetes-admin", Some("system:masters"));
    Ok(Running {
        address,
        authority,
        admin,
        store,
        signer,
        controller,
        probe,
        keys,
        shutdown,
        root,
        tasks,
        folder,
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// An object of a kind that has nothing to it but data.
pub fn config_map(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

/// Where the config maps of namespace default are.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&self.bytes));
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body, when the code is as expected.
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
}

/// A request in the making.
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

pub fn ask(method: &str, path: &str) -> Ask {
    Ask {
        method: method.parse().expect("method"),
        path: path.into(),
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

impl Ask {
    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.push(("content-type", content_type.into()));
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn request<B>(self, body: impl FnOnce(Bytes) -> B) -> Request<B> {
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", "localhost");
        for (name, value) in self.headers {
            // As bytes: names are written in any letters.
            request = request.header(name, value.as_bytes());
        }
        request.body(body(self.body)).expect("request")
    }
}

impl Running {
    /// Stops the member.
    pub fn stop(&self) {
        self.shutdown.trigger();
    }

    /// Starts the controllers, which ask aggregated servers in short intervals.
    pub fn control(&self) {
        let env = Env::real();
        let service = self.controller.clone().map_err(|never| match never {});
        let client = client::Client::new(client::Service::new(service), "kube-controller-manager");
        let config = controllers::ControllersConfig {
            replica: "m0".into(),
            root_ca: self.authority.certificate.clone(),
            cluster_cidr: controllers::Ipv4Range::parse("10.244.0.0/16").expect("range"),
            token_signer: Some(controllers::TokenSigner(Arc::new(|_, _| None))),
            api_probe: Some(controllers::ApiProbe {
                ask: self.probe.clone(),
                interval: Duration::from_millis(100),
            }),
            node_monitor_grace: Duration::from_secs(50),
        };
        let (tell, leading) = tokio::sync::watch::channel(None);
        let (preferred, prefers) = tokio::sync::watch::channel(true);
        let election = client::ElectionConfig::new("kube-controller-manager", "m0");
        let elector = client::LeaderElector::new(election, env.clone(), &client, prefers);
        let stop = self.shutdown.clone();
        self.tasks.spawn_detached("election", async move {
            let _preferred = preferred;
            let lead = |fence: client::Fence, stop: Shutdown| {
                tell.send_replace(Some(fence));
                async move { stop.wait().await }
            };
            elector.run(stop, lead).await;
        });
        let controllers = controllers::Controllers::new(env, client, config);
        let stop = self.shutdown.clone();
        self.tasks.spawn_detached("controllers", async move { drop(controllers.run(stop, leading).await) });
    }

    async fn ready(&self) {
        eventually("readyz", || async {
            Some(self.root(ask("GET", "/readyz")).await).filter(|answer| answer.code == 200)
        })
        .await;
    }

    /// Asks as the administrator, in process.
    pub async fn root(&self, ask: Ask) -> Answer {
        let response = self.begin(ask).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("body").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    /// Asks as the administrator, in process; the answer is not read.
    pub async fn begin(&self, ask: Ask) -> Response<apiserver::Body> {
        let mut service = self.root.clone();
        let answer = tower::Service::call(&mut service, ask.request(apiserver::full)).await;
        answer.unwrap_or_else(|never| match never {})
    }

    /// Creates an object as the administrator.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        self.root(ask("POST", path).json(object)).await.expect(201)
    }

    /// The token of a service account (its namespace, name and UID) for a Secret (its name).
    pub fn sign_secret_token(&self, of: [&str; 4]) -> String {
        (self.signer)(of).expect("a token")
    }

    /// Asks over TLS without a certificate.
    pub async fn send(&self, ask: Ask) -> Result<Answer, Box<dyn std::error::Error>> {
        whole(self.open(ask, None).await?).await
    }

    /// Asks over TLS with a certificate.
    pub async fn send_as(&self, ask: Ask, keyed: &Keyed) -> Result<Answer, Box<dyn std::error::Error>> {
        whole(self.open(ask, Some(keyed)).await?).await
    }

    /// A connection over TLS, on which nothing is said yet. `protocols`: what the client can speak.
    pub async fn tls(
        &self,
        keyed: Option<&Keyed>,
        protocols: &[&str],
    ) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Box<dyn std::error::Error>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match keyed {
            None => config.with_no_client_auth(),
            Some(keyed) => config.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(keyed.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(keyed.key.as_bytes())?,
            )?,
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
    }

    pub async fn open(
        &self,
        ask: Ask,
        keyed: Option<&Keyed>,
    ) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
        let stream = self.tls(keyed, &[]).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn_detached("client", async move { drop(connection.with_upgrades().await) });
        Ok(sender.send_request(ask.request(Full::new)).await?)
    }

    /// Writes a kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: 'https://{}', certificate-authority-data: {}}}}}]\nusers: [{{name: u, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n",
            self.address,
            encode(&self.authority.certificate),
            encode(&self.admin.certificate),
            encode(&self.admin.key),
        );
        let path = self.folder.path().join("kubeconfig");
        std::fs::write(&path, text).expect("kubeconfig");
        path
    }
}

async fn whole(response: Response<Incoming>) -> Result<Answer, Box<dyn std::error::Error>> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, bytes })
}

pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let clock = Env::real().clock;
    let poll = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, poll).await {
        Ok(found) => found,
        Err(_) => panic!("{what} did not come about"),
    }
}

//! An API server over a store of one member in memory, and agents of it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api_types::table;
use apiserver::{ApiServerConfig, ApiService, ServerTls, ServiceAccountKeys, UserInfo};
use base64::Engine as _;
use client::{Api, Client};
use env::{Env, Shutdown, TaskGroup};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use node_agent::{AgentConfig, LogRotation};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use store::{MemoryStorage, StoreConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

/// What this process records.
static RECORDER: LazyLock<PrometheusHandle> =
    LazyLock::new(|| PrometheusBuilder::new().install_recorder().expect("the first recorder"));

pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub client: Client,
    root: ApiService,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    shutdown: Shutdown,
    pub tasks: TaskGroup,
    _folder: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn keys() -> ServiceAccountKeys {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("key");
    let der = base64::engine::general_purpose::STANDARD.encode(key.subject_public_key_info());
    let public = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
    let signing = key.serialize_pem().into_bytes();
    ServiceAccountKeys::new(signing, vec![public.into_bytes()], "https://kubernetes.default.svc")
}

fn issue(issuer: &Issuer<'static, KeyPair>, name: &str) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).expect("signed").pem();
    (certificate.into_bytes(), key.serialize_pem().into_bytes())
}

impl Cluster {
    pub async fn start() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let ca = params.self_signed(&key).expect("ca").pem();
        let issuer = Issuer::new(params, key);
        let folder = tempfile::tempdir().expect("folder");
        let (env, shutdown) = (Env::real(), Shutdown::new());
        let tasks = TaskGroup::new("test", Shutdown::new());
        let peer = env::ports::free_address();
        let storage = Arc::new(MemoryStorage::new(folder.path().join("store")));
        let config = StoreConfig::new("m0".to_owned(), peer);
        let config =
            StoreConfig { initial_cluster: vec![("m0".to_owned(), format!("http://{peer}"))], ..config };
        let (store, server) = config.build(env.clone(), storage).await.expect("store");
        let stop = shutdown.clone();
        tasks.spawn_detached("store", async move { drop(server.run(stop).await) });
        let serving = issue(&issuer, "kube-apiserver");
        let client_ca = ca.clone().into_bytes();
        let tls = ServerTls { certificate: serving.0, key: serving.1, client_ca: client_ca.clone() };
        let own = issue(&issuer, "kube-apiserver-kubelet-client");
        let kubelet = apiserver::KubeletClient { certificate: own.0, key: own.1, ca: client_ca };
        let listen = "127.0.0.1:0".parse().expect("address");
        let config = ApiServerConfig {
            kubelet_client: Some(kubelet),
            ..ApiServerConfig::new("m0".to_owned(), listen, tls, keys())
        };
        let service = config.build(store, env).await.expect("server");
        let root = service.service(UserInfo::new("kubernetes-admin", &["system:masters"]));
        let stop = shutdown.clone();
        tasks.spawn_detached("server", async move { drop(service.run(stop).await) });
        let cluster =
            Self { client: as_client(root.clone()), root, ca, issuer, shutdown, tasks, _folder: folder };
        cluster.ready().await;
        cluster
    }

    async fn ready(&self) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "test"}});
        let api = self.client.all(table::find("", "v1", "namespaces").expect("kind"));
        eventually("a namespace", || async { api.create(&namespace).await.ok() }).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.api("serviceaccounts").create(&account).await.expect("account");
        let nodes = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}});
        drop(api.create(&nodes).await);
    }

    /// Objects of a core kind in namespace test.
    pub fn api(&self, resource: &str) -> Api {
        self.client.namespaced(table::find("", "v1", resource).expect("kind"), "test")
    }

    /// A field of an object, by JSON pointer.
    pub async fn field(&self, resource: &str, name: &str, pointer: &str) -> Option<Value> {
        self.api(resource).get(name).await.ok()?.pointer(pointer).cloned()
    }

    pub async fn wait(&self, pod: &str, pointer: &str, value: &Value) {
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let seen = self.api("pods").get(pod).await;
            if seen.as_ref().is_ok_and(|object| object.pointer(pointer) == Some(value)) {
                return;
            }
            if tokio::time::Instant::now() >= end {
                let events = self.api("events").list(&Default::default()).await.map(|list| list.items);
                let texts: Vec<_> =
                    events.iter().flatten().map(|event| event["message"].to_string()).collect();
                let seen = seen.map(|object| object["status"].to_string());
                panic!("{pod} {pointer} is not {value}: {seen:?} {texts:#?}");
            }
            Env::real().clock.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for an event about `object` with this reason.
    pub async fn event(&self, object: &str, reason: &str) -> Value {
        eventually(reason, || async {
            let list = self.api("events").list(&Default::default()).await.ok()?;
            let fits =
                |event: &&Value| event["involvedObject"]["name"] == object && event["reason"] == reason;
            list.items.iter().find(fits).cloned()
        })
        .await
    }

    /// An agent of node `name`, running until `stop`.
    pub fn agent(&self, name: &str, root: &Path, endpoint: &str, cgroup: &str, stop: &Shutdown) {
        self.agent_with(name, root, endpoint, cgroup, stop, |_| {});
    }

    /// An agent whose settings are changed by `change`.
    pub fn agent_with(
        &self,
        name: &str,
        root: &Path,
        endpoint: &str,
        cgroup: &str,
        stop: &Shutdown,
        change: impl FnOnce(&mut AgentConfig),
    ) {
        let node = issue(&self.issuer, &format!("system:node:{name}"));
        let mut config = AgentConfig {
            node_name: name.to_owned(),
            root_dir: root.to_path_buf(),
            node_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            port: env::ports::free_address().port(),
            runtime_endpoint: endpoint.to_owned(),
            cni_conf_dir: Some(root.join("../cni")),
            cgroup_root: cgroup.to_owned(),
            ca: self.ca.clone().into_bytes(),
            certificate: node.0,
            key: node.1,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            lease_duration_seconds: 40,
            metrics: Arc::new(|| RECORDER.render()),
            simulated_images: vec!["test.local/app:1".to_owned()],
            network: false,
            eviction_hard: "memory.available<1Mi".parse().expect("thresholds"),
            log_rotation: LogRotation::default(),
        };
        change(&mut config);
        LazyLock::force(&RECORDER);
        let agent = config.build(Env::real(), self.client.clone()).expect("agent");
        let stop = stop.clone();
        self.tasks.spawn_detached("agent", async move { drop(agent.run(stop).await) });
    }

    /// Waits until the node is Ready, with a pod network.
    pub async fn node_ready(&self, name: &str) -> Value {
        let nodes = self.client.all(table::find("", "v1", "nodes").expect("kind"));
        let network =
            client::Patch::Merge(json!({"spec": {"podCIDR": "10.77.0.0/24", "podCIDRs": ["10.77.0.0/24"]}}));
        eventually("the pod network", || async { nodes.patch(name, "", &network).await.ok() }).await;
        eventually("the node", || async {
            let node = nodes.get(name).await.ok()?;
            let mut conditions = node["status"]["conditions"].as_array()?.iter();
            conditions.any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(node.clone())
        })
        .await
    }

    /// What the agent of a node answers to the API server, head included.
    pub async fn ask_node(&self, node: &Value, path: &str) -> String {
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().expect("a port");
        let own = issue(&self.issuer, "kube-apiserver-kubelet-client");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&own.0).expect("PEM")],
                PrivateKeyDer::from_pem_slice(&own.1).expect("PEM"),
            )
            .expect("an identity");
        let socket =
            tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("a port"))).await;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, socket.expect("a connection")).await.expect("TLS");
        let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        // The other side may end without saying so.
        drop(stream.read_to_string(&mut text).await);
        text
    }

    /// The API server's answer to a request for a log.
    pub async fn ask_for_log(&self, pod: &str, query: &str) -> http::Response<client::Body> {
        let path = format!("/api/v1/namespaces/test/pods/{pod}/log?{query}");
        let request = http::Request::get(path).body(bytes::Bytes::new()).expect("request");
        self.client.send(request).await.expect("answer")
    }

    /// A log as the API server gives it.
    pub async fn log(&self, pod: &str, query: &str) -> String {
        let response = self.ask_for_log(pod, query).await;
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("body").to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(status.is_success(), "{status} {text}");
        let _ = &self.root;
        text
    }
}

fn as_client(service: ApiService) -> Client {
    let service = service.map_err(|never| match never {});
    Client::new(tower::util::BoxCloneSyncService::new(service), "test")
}

pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{what} did not come");
        Env::real().clock.sleep(Duration::from_millis(50)).await;
    }
}

/// A pod bound to `node`.
pub fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    pod["spec"]["nodeName"] = json!(node);
    pod
}

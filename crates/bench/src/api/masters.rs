//! Masters as processes of their own: ours, or a kube-apiserver with an etcd each.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use env::Env;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::objects::JSON;
use crate::load::Servers;
use crate::member::{Members, Program, free_ports, last_line};
use crate::proc;
use crate::wire::{Connection, Request};

const START_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// The client: a member of `system:masters`, whom both sides let through without asking anybody.
const CLIENT: &str = "apiserver-kubelet-client";

/// What is measured: a program, and the etcd that it needs; none for ours.
#[derive(Clone, Debug)]
pub struct Control {
    /// `trierarch` or `kube-apiserver`.
    pub program: Program,
    /// Behind a `kube-apiserver`.
    pub etcd: Option<Program>,
}

/// Keys and certificates, in kubeadm's layout, for both.
pub struct Pki {
    folder: TempDir,
    connector: TlsConnector,
}

impl Pki {
    /// Has `trierarch pki` make them for so many masters.
    pub fn make(binary: &Path, masters: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-pki-").tempdir()?;
        let mut command = Command::new(binary);
        command.arg("pki").arg("--dir").arg(folder.path());
        for number in 0..masters {
            command.arg(format!("--master=m{number}=127.0.0.1"));
        }
        let output = command.output().with_context(|| format!("cannot run {}", binary.display()))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let connector = connector(folder.path())?;
        Ok(Self { folder, connector })
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// TLS 1.3 with the cipher suite that Go's clients ask for first, so that both sides encrypt alike.
fn connector(pki: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(pki.join("ca.crt"))? {
        roots.add(authority?)?;
    }
    let chain = CertificateDer::pem_file_iter(pki.join(format!("{CLIENT}.crt")))?;
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("{CLIENT}.key")))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// How a client reaches a master.
#[derive(Clone)]
pub struct Door {
    connector: TlsConnector,
    port: u16,
}

impl Door {
    /// Connects.
    pub async fn open(&self) -> Result<Connection> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").context("an address is a server's name")?;
        let socket = self.connector.connect(name, socket).await?;
        Connection::over(Box::new(socket), format!("127.0.0.1:{}", self.port)).await
    }
}

/// Sends a request alone on its connection; the whole answer, whatever it says.
pub async fn ask(door: &mut Connection, request: Request<'_>) -> Result<BytesMut> {
    let stream = door.request(request);
    let mut body = BytesMut::new();
    door.answer(stream, |piece| body.extend_from_slice(piece)).await?;
    Ok(body)
}

/// A GET as JSON.
pub fn get(path: &str) -> Request<'_> {
    Request { method: "GET", path, accept: JSON, body: None }
}

/// The masters of one cluster; they end when it is dropped.
pub struct Masters {
    env: Env,
    program: Program,
    pki: PathBuf,
    connector: TlsConnector,
    /// Of each master: API, etcd's clients, other masters; the last two only ours have.
    ports: Vec<[u16; 3]>,
    flags: Vec<Vec<String>>,
    processes: Vec<Child>,
    store: Option<Members>,
    folder: TempDir,
}

impl Masters {
    /// Starts `size` masters with their data below `place` and waits until each is ready.
    pub async fn start(env: &Env, control: &Control, pki: &Pki, size: usize, place: &Path) -> Result<Self> {
        let store = match &control.etcd {
            Some(etcd) => Some(Members::start(env, etcd, size, place).await?),
            None => None,
        };
        let ports: Vec<[u16; 3]> =
            free_ports(3 * size)?.chunks_exact(3).map(|of| [of[0], of[1], of[2]]).collect();
        let mut masters = Self {
            env: env.clone(),
            program: control.program.clone(),
            pki: pki.folder.path().to_owned(),
            connector: pki.connector.clone(),
            ports,
            flags: Vec::new(),
            processes: Vec::new(),
            store,
            folder: tempfile::Builder::new().prefix("bench-").tempdir_in(place)?,
        };
        masters.flags = (0..size).map(|number| masters.flags_of(number, pki)).collect();
        for number in 0..size {
            let process = masters.spawn(number)?;
            masters.processes.push(process);
        }
        masters.ready().await?;
        Ok(masters)
    }

    fn flags_of(&self, number: usize, pki: &Pki) -> Vec<String> {
        match &self.store {
            Some(store) => self.upstream(number, pki, store.port(number)),
            None => self.ours(number),
        }
    }

    fn ours(&self, number: usize) -> Vec<String> {
        let [api, client, peer] = self.ports[number];
        let all = self.ports.iter().enumerate();
        let all: Vec<_> = all.map(|(of, ports)| format!("m{of}=https://127.0.0.1:{}", ports[2])).collect();
        vec![
            "server".to_owned(),
            format!("--name=m{number}"),
            format!("--data-dir={}", self.folder.path().join(format!("m{number}")).display()),
            format!("--pki-dir={}", self.pki.display()),
            format!("--initial-cluster={}", all.join(",")),
            format!("--listen-peer-url=https://127.0.0.1:{peer}"),
            format!("--listen-client-url=http://127.0.0.1:{client}"),
            format!("--bind=127.0.0.1:{api}"),
            "--advertise-address=127.0.0.1".to_owned(),
        ]
    }

    /// kubeadm's, but for limits that the load would meet, and without the Service that leads to it.
    fn upstream(&self, number: usize, pki: &Pki, etcd: u16) -> Vec<String> {
        vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            format!("--secure-port={}", self.ports[number][0]),
            "--bind-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
            format!("--cert-dir={}", self.folder.path().display()),
            format!("--tls-cert-file={}", pki.file(&format!("apiserver-m{number}.crt"))),
            format!("--tls-private-key-file={}", pki.file(&format!("apiserver-m{number}.key"))),
            format!("--client-ca-file={}", pki.file("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", pki.file("sa.pub")),
            format!("--service-account-signing-key-file={}", pki.file("sa.key")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--max-requests-inflight=3000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
        ]
    }

    fn spawn(&self, number: usize) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log(number))?;
        Command::new(&self.program.path)
            .args(&self.flags[number])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.program))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}.log"))
    }

    /// How many.
    pub fn size(&self) -> usize {
        self.ports.len()
    }

    /// The way to a master; numbers go round.
    pub fn door(&self, number: usize) -> Door {
        Door { connector: self.connector.clone(), port: self.ports[number % self.size()][0] }
    }

    /// Waits until each master says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        for number in 0..self.size() {
            let deadline = self.env.clock.monotonic() + START_DEADLINE;
            while !self.is_ready(number).await {
                if self.env.clock.monotonic() > deadline {
                    bail!("master {number} is not ready: {}", last_line(&self.log(number)));
                }
                self.env.clock.sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn is_ready(&self, number: usize) -> bool {
        let Ok(mut door) = self.door(number).open().await else { return false };
        ask(&mut door, get("/readyz")).await.is_ok_and(|body| body == b"ok"[..])
    }

    /// Kills a master at once, the store behind it too, and starts both again without waiting for either.
    pub fn crash(&mut self, number: usize) -> Result<()> {
        self.processes[number].kill()?;
        self.processes[number].wait()?;
        if let Some(store) = &mut self.store {
            store.kill(number)?;
            store.restart(number)?;
        }
        self.processes[number] = self.spawn(number)?;
        Ok(())
    }

    /// The processes of a master.
    fn pids(&self, number: usize) -> impl Iterator<Item = u32> {
        let store = self.store.as_ref().map(|store| store.pid(number));
        std::iter::once(self.processes[number].id()).chain(store)
    }

    /// Resident memory of the largest master in MB, API server and store together: now, and the most so far.
    pub fn memory(&self) -> (f64, f64) {
        let of = |number| {
            let each = self.pids(number).map(proc::memory_kib);
            each.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
        };
        let most = (0..self.size()).map(of).fold((0, 0), |most, of| (most.0.max(of.0), most.1.max(of.1)));
        (most.0 as f64 * 1024.0 / 1e6, most.1 as f64 * 1024.0 / 1e6)
    }

    /// Forgets the peak of memory: from here on it is counted anew.
    pub fn forget_peak(&self) {
        for pid in (0..self.size()).flat_map(|number| self.pids(number)) {
            // Where the kernel refuses, the peak stays what it was.
            drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
        }
    }
}

impl Servers for Masters {
    async fn connect(&self, number: usize) -> Result<Connection> {
        self.door(number).open().await
    }

    fn cpu(&self) -> Duration {
        (0..self.size()).flat_map(|number| self.pids(number)).map(proc::cpu).sum()
    }
}

impl Drop for Masters {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

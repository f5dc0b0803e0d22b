//! Masters and nodes as processes of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use api_types::meta;
use bytes::Bytes;
use client::Client;
use env::Env;
use etcd_client::Client as EtcdClient;
use http::Request;
use serde_json::Value;
use tempfile::TempDir;

use crate::access::{Access, kind};
use crate::network::{Cut, MasterPlace, Network, NodePlace};
use crate::poll::until;
use crate::process::Process;

/// How long anything may take while a cluster starts.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Flags of every master. The times after which a silent node is given up are short, so that a run is.
const MASTER_FLAGS: [&str; 3] = [
    "--node-monitor-grace-period=4s",
    "--default-not-ready-toleration-seconds=2",
    "--default-unreachable-toleration-seconds=2",
];
/// Flags of every node: it says four times in these seconds that it lives.
const NODE_FLAGS: [&str; 2] = ["--runtime-endpoint=simulated", "--node-lease-duration-seconds=4"];

/// A cluster; it and its folder go when it is dropped.
pub struct Cluster<'n> {
    network: &'n Network,
    masters: Vec<Master>,
    nodes: Vec<Process>,
    access: Access,
    folder: TempDir,
    env: Env,
}

struct Master {
    place: MasterPlace,
    process: Process,
    cut: bool,
}

impl<'n> Cluster<'n> {
    /// Starts masters and nodes and waits until all of them are ready.
    ///
    /// # Errors
    /// Something does not come up; with the last words of every process.
    pub async fn start(
        env: &Env,
        binary: &Path,
        network: &'n Network,
        (masters, nodes): (usize, usize),
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (master_places, node_places) = network.places(masters, nodes)?;
        let layout = Layout { binary, dir: folder.path(), masters: &master_places, nodes: &node_places };
        layout.write_credentials()?;
        let mut cluster = Self {
            access: Access::read(env, &layout.pki())?,
            masters: (0..masters).map(|index| layout.master(index)).collect(),
            nodes: (0..nodes).map(|index| layout.node(index)).collect(),
            network,
            folder,
            env: env.clone(),
        };
        cluster.begin().await.map_err(|error| anyhow!("{error:#}\n{}", cluster.last_words()))?;
        Ok(cluster)
    }

    async fn begin(&mut self) -> Result<()> {
        self.masters.iter_mut().try_for_each(|master| master.process.start())?;
        for index in 0..self.size() {
            let client = self.client(&[index])?;
            until(&self.env, START_PATIENCE, async || is_ready(&client).await).await?;
        }
        self.nodes.iter_mut().try_for_each(Process::start)?;
        for index in 0..self.nodes.len() {
            let client = self.client(&(0..self.size()).collect::<Vec<_>>())?;
            node_becomes(&self.env, &client, index, true, START_PATIENCE).await?;
        }
        Ok(())
    }

    /// How many masters there are.
    pub fn size(&self) -> usize {
        self.masters.len()
    }

    /// Where a master serves etcd clients.
    pub fn endpoint(&self, index: usize) -> String {
        let place = &self.masters[index].place;
        format!("http://{}:{}", place.address, place.client_port)
    }

    /// A caller of the API through these masters.
    ///
    /// # Errors
    /// See [`Access::client`].
    pub fn client(&self, masters: &[usize]) -> Result<Client> {
        let url = |&index: &usize| server(&self.masters[index].place);
        self.access.client(masters.iter().map(url).collect())
    }

    /// A process to be struck or started.
    pub fn master(&mut self, index: usize) -> &mut Process {
        &mut self.masters[index].process
    }

    /// A process to be struck or started.
    pub fn node(&mut self, index: usize) -> &mut Process {
        &mut self.nodes[index]
    }

    /// Cuts a master off from all others.
    ///
    /// # Errors
    /// See [`Network::cut`].
    pub fn cut(&mut self, index: usize) -> Result<()> {
        let others: Vec<usize> = (0..self.size()).filter(|&other| other != index).collect();
        self.network.cut(index, &others, Cut::Both)?;
        self.masters[index].cut = true;
        Ok(())
    }

    /// Ends that.
    ///
    /// # Errors
    /// See [`Network::heal`].
    pub fn heal(&mut self, index: usize) -> Result<()> {
        self.masters[index].cut = false;
        self.network.heal(index)
    }

    /// The master that leads, once one does.
    ///
    /// # Errors
    /// None does for a minute.
    pub async fn leader(&self) -> Result<usize> {
        until(&self.env, START_PATIENCE, async || {
            for index in (0..self.size()).filter(|&index| self.masters[index].process.is_started()) {
                if self.leads(index).await.unwrap_or(false) {
                    return Ok(index);
                }
            }
            bail!("no master leads")
        })
        .await
    }

    async fn leads(&self, index: usize) -> Result<bool> {
        let mut client = EtcdClient::connect([self.endpoint(index)], None).await?;
        let status = client.status().await?;
        Ok(status.header().map(|header| header.member_id()) == Some(status.leader()))
    }

    /// The end of each process's log.
    pub fn last_words(&self) -> String {
        let processes = self.masters.iter().map(|master| &master.process);
        let processes = processes.chain(&self.nodes);
        processes.map(Process::last_words).collect::<Vec<_>>().join("\n")
    }

    /// Keeps the folder with logs and data when the cluster goes; says where it is.
    pub fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for index in 0..self.size() {
            if self.masters[index].cut {
                // The namespace is used by the next cluster.
                drop(self.network.heal(index));
            }
        }
    }
}

/// The name of a master.
pub fn master_name(index: usize) -> String {
    format!("m{index}")
}

/// The name of a node.
pub fn node_name(index: usize) -> String {
    format!("n{index}")
}

fn server(place: &MasterPlace) -> String {
    format!("https://{}:{}", place.address, place.api_port)
}

async fn is_ready(client: &Client) -> Result<()> {
    let answer = client.send(Request::get("/readyz").body(Bytes::new())?).await?;
    if !answer.status().is_success() {
        bail!("a master is not ready: {}", answer.status());
    }
    Ok(())
}

/// Returns when a node is ready, and pods may be placed on it; or when that is not so.
///
/// # Errors
/// It does not become so within `patience`.
pub async fn node_becomes(
    env: &Env,
    client: &Client,
    index: usize,
    ready: bool,
    patience: Duration,
) -> Result<()> {
    let (nodes, name) = (client.all(kind("", "nodes")), node_name(index));
    until(env, patience, async || match is_node_ready(&nodes.get(&name).await?) == ready {
        true => Ok(()),
        false => Err(anyhow!("node {name} is {}ready", if ready { "not " } else { "" })),
    })
    .await
}

fn is_node_ready(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let held = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        && !taints.any(|taint| held.iter().any(|key| taint["key"] == *key))
        && !meta::is_being_deleted(node)
}

/// The command lines of a cluster.
struct Layout<'a> {
    binary: &'a Path,
    dir: &'a Path,
    masters: &'a [MasterPlace],
    nodes: &'a [NodePlace],
}

impl Layout<'_> {
    fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    fn write_credentials(&self) -> Result<()> {
        let mut command = Command::new(self.binary);
        command.arg("pki").arg("--dir").arg(self.pki());
        for (index, place) in self.masters.iter().enumerate() {
            command.arg(format!("--master={}={}", master_name(index), server(place)));
        }
        for (index, place) in self.nodes.iter().enumerate() {
            command.arg(format!("--node={}={}", node_name(index), place.address));
        }
        let output = command.output().with_context(|| format!("cannot run {}", self.binary.display()))?;
        if !output.status.success() {
            bail!("no certificates: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn master(&self, index: usize) -> Master {
        let (place, name) = (&self.masters[index], master_name(index));
        let peer = |(index, place): (usize, &MasterPlace)| {
            format!("{}=https://{}:{}", master_name(index), place.address, place.peer_port)
        };
        let peers: Vec<String> = self.masters.iter().enumerate().map(peer).collect();
        let mut argv = vec![self.binary.display().to_string(), "server".to_owned()];
        argv.extend([
            format!("--name={name}"),
            format!("--data-dir={}", self.dir.join(&name).display()),
            format!("--pki-dir={}", self.pki().display()),
            format!("--initial-cluster={}", peers.join(",")),
            format!("--listen-peer-url=https://{}:{}", place.address, place.peer_port),
            format!("--listen-client-url=http://{}:{}", place.address, place.client_port),
            format!("--bind={}:{}", place.address, place.api_port),
        ]);
        argv.extend(MASTER_FLAGS.map(str::to_owned));
        let log = self.dir.join(format!("{name}.log"));
        let process = Process::new(name, argv, place.namespace.clone(), log);
        Master { place: place.clone(), process, cut: false }
    }

    fn node(&self, index: usize) -> Process {
        let (place, name) = (&self.nodes[index], node_name(index));
        let servers: Vec<String> = self.masters.iter().map(server).collect();
        let pki = self.pki();
        let mut argv = vec![self.binary.display().to_string(), "agent".to_owned()];
        argv.extend([
            format!("--node-name={name}"),
            format!("--masters={}", servers.join(",")),
            format!("--root-dir={}", self.dir.join(&name).display()),
            format!("--ca-file={}", pki.join("ca.crt").display()),
            format!("--cert-file={}", pki.join(format!("node-{name}.crt")).display()),
            format!("--key-file={}", pki.join(format!("node-{name}.key")).display()),
            format!("--node-ip={}", place.address),
            format!("--port={}", place.port),
        ]);
        argv.extend(NODE_FLAGS.map(str::to_owned));
        let log = self.dir.join(format!("{name}.log"));
        Process::new(name, argv, None, log)
    }
}

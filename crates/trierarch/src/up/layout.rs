//! What a local cluster consists of: names, ports, addresses and folders, and the command line of each process.
//! Pure: nothing here touches the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::addresses;
use crate::credentials::{self, Credentials};

/// Pods of all nodes live here; each node gets a /24 of it.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// The masters' ports of the store: 2379 and 2380, then 10,000 more for each further master (etcd's own examples
/// for three members on one machine use 2379, 22379 and 32379).
const STORE_PORT: u16 = 2379;
const STORE_PORT_STEP: u16 = 10_000;
const API_PORT: u16 = 6443;
const KUBELET_PORT: u16 = 10_250;
/// A developer's disk may be nine tenths full: nodes of this machine look at what is left, not at its part.
const EVICTION_HARD: &str =
    "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%,pid.available<10%";
/// Node addresses start here within the fabric's /24; masters and the gateway are below.
const FIRST_NODE_HOST: u8 = 11;
/// Most masters and nodes on one machine: what the ports and the /24 leave room for.
pub const MAX_MASTERS: u8 = 5;
/// See [`MAX_MASTERS`].
pub const MAX_NODES: u8 = 100;

/// What `trierarch up` lets one choose.
#[derive(Args, Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct UpOptions {
    /// Where everything of the cluster is kept
    #[arg(long, default_value = ".trierarch")]
    pub dir: PathBuf,
    /// Masters: 1, 3 or 5
    #[arg(long, default_value_t = 3)]
    pub masters: u8,
    /// Nodes
    #[arg(long, default_value_t = 2)]
    pub nodes: u8,
    /// Run pods on the simulated runtime even as root
    #[arg(long)]
    pub simulated: bool,
    /// Added to every port on 127.0.0.1, so that a second cluster fits on the machine
    #[arg(long, default_value_t = 0)]
    pub port_offset: u16,
    /// First three numbers of the /24 that masters and nodes share
    #[arg(long, default_value = "10.89.0")]
    pub fabric: String,
    /// A flag for every `trierarch server`, e.g. --server-flag=--node-monitor-grace-period=10s
    #[arg(long = "server-flag", allow_hyphen_values = true)]
    pub server_flags: Vec<String>,
    /// A flag for every `trierarch agent`
    #[arg(long = "agent-flag", allow_hyphen_values = true)]
    pub agent_flags: Vec<String>,
}

impl Default for UpOptions {
    /// What the command line gives without flags.
    fn default() -> Self {
        Self::augment_args(clap::Command::new("up"))
            .try_get_matches_from(["up"])
            .and_then(|matches| Self::from_arg_matches(&matches))
            .expect("invariant: every flag has a default")
    }
}

/// A cluster on this machine, laid out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Layout {
    /// What was asked for; `options.dir` is absolute.
    pub options: UpOptions,
    /// Eight hexadecimal digits that tell this cluster's names in the kernel from another's.
    pub id: String,
    /// Whether pods run in real containers.
    pub real: bool,
}

/// One master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// `m1`, `m2`, …
    pub name: String,
    /// The API on 127.0.0.1.
    pub api_port: u16,
    /// etcd clients on 127.0.0.1.
    pub client_port: u16,
    /// The other masters on 127.0.0.1.
    pub peer_port: u16,
    /// Its address on the fabric, where nodes and pods reach it.
    pub address: Ipv4Addr,
}

impl Master {
    /// Its API, for people.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `n1`, `n2`, …
    pub name: String,
    /// Its address on the fabric (127.0.0.1 when simulated).
    pub address: Ipv4Addr,
    /// Where its kubelet endpoint listens.
    pub kubelet_port: u16,
}

/// A process of the cluster, as it would be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The name of its log and pid files.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
}

impl Layout {
    /// Lays the cluster out. `dir` is absolute.
    ///
    /// # Errors
    /// Says which number is out of range.
    pub fn new(options: UpOptions, dir: PathBuf, real: bool) -> Result<Self, String> {
        if ![1, 3, 5].contains(&options.masters) {
            return Err(format!("--masters is 1, 3 or 5, not {}", options.masters));
        }
        if options.nodes > MAX_NODES {
            return Err(format!("--nodes is at most {MAX_NODES}, not {}", options.nodes));
        }
        let highest = u32::from(STORE_PORT) + 1 + u32::from(MAX_MASTERS) * u32::from(STORE_PORT_STEP);
        if highest + u32::from(options.port_offset) > u32::from(u16::MAX) {
            return Err(format!("--port-offset is at most {}", u32::from(u16::MAX) - highest));
        }
        if format!("{}.1", options.fabric).parse::<Ipv4Addr>().is_err() {
            return Err(format!("--fabric is three numbers such as 10.89.0, not {}", options.fabric));
        }
        let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { options: UpOptions { dir, ..options }, id, real })
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Where certificates and keys are.
    pub fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// Where `kubectl` finds the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// A master's data.
    pub fn master_dir(&self, master: &Master) -> PathBuf {
        self.dir().join("masters").join(&master.name)
    }

    /// A node's files. Those of real containers stay out of the clone: socket paths have 108 bytes at most.
    pub fn node_dir(&self, node: &Node) -> PathBuf {
        if self.real {
            self.machine_dir().join(&node.name)
        } else {
            self.dir().join("nodes").join(&node.name)
        }
    }

    /// The folder that holds all real nodes of this cluster.
    pub fn machine_dir(&self) -> PathBuf {
        Path::new("/var/lib/trierarch").join(&self.id)
    }

    /// The network namespace of a node.
    pub fn namespace(&self, node: &Node) -> String {
        format!("tri-{}-{}", self.id, node.name)
    }

    /// The network namespace that holds the bridge between the nodes.
    pub fn fabric_namespace(&self) -> String {
        format!("tri-{}-fabric", self.id)
    }

    /// The cgroup below which everything of this cluster's pods is.
    pub fn cgroup(&self) -> String {
        format!("trierarch-{}", self.id)
    }

    /// An address on the fabric.
    pub fn fabric_address(&self, host: u8) -> Ipv4Addr {
        if !self.real {
            return Ipv4Addr::LOCALHOST;
        }
        format!("{}.{host}", self.options.fabric).parse().expect("checked by Layout::new")
    }

    /// The masters.
    pub fn masters(&self) -> Vec<Master> {
        let offset = self.options.port_offset;
        let master = |index: u8| {
            let step = if index == 0 { 0 } else { (u16::from(index) + 1) * STORE_PORT_STEP };
            Master {
                name: format!("m{}", index + 1),
                api_port: API_PORT + u16::from(index) + offset,
                client_port: STORE_PORT + step + offset,
                peer_port: STORE_PORT + 1 + step + offset,
                address: self.fabric_address(index + 1),
            }
        };
        (0..self.options.masters).map(master).collect()
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |index: u8| Node {
            name: format!("n{}", index + 1),
            address: self.fabric_address(FIRST_NODE_HOST + index),
            kubelet_port: if self.real {
                KUBELET_PORT
            } else {
                KUBELET_PORT + u16::from(index) + self.options.port_offset
            },
        };
        (0..self.options.nodes).map(node).collect()
    }

    /// The store's endpoints for `etcdctl`.
    pub fn store_endpoints(&self) -> String {
        let endpoints: Vec<_> =
            self.masters().iter().map(|master| format!("127.0.0.1:{}", master.client_port)).collect();
        endpoints.join(",")
    }

    /// Where nodes reach the masters.
    pub fn api_servers(&self) -> String {
        let url = |master: &Master| format!("https://{}:{}", master.address, master.api_port);
        self.masters().iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// What gets keys and certificates.
    pub fn credentials(&self) -> Credentials {
        let master = |master: Master| credentials::Master {
            hosts: vec![master.address.to_string()],
            server: master.server(),
            name: master.name,
        };
        let node = |node: Node| credentials::Node { hosts: vec![node.address.to_string()], name: node.name };
        Credentials {
            dir: self.pki(),
            kubeconfig: self.kubeconfig(),
            service: addresses::first(&addresses::default()).expect("invariant: the default has addresses"),
            masters: self.masters().into_iter().map(master).collect(),
            nodes: self.nodes().into_iter().map(node).collect(),
        }
    }

    /// The command line of a master.
    pub fn server_command(&self, program: &Path, master: &Master) -> Command {
        let peer = |master: &Master| format!("{}=https://127.0.0.1:{}", master.name, master.peer_port);
        let initial_cluster = self.masters().iter().map(peer).collect::<Vec<_>>().join(",");
        // Nodes reach the masters over the fabric, people over loopback.
        let host = if self.real { "0.0.0.0" } else { "127.0.0.1" };
        let mut argv = vec![program.display().to_string(), "server".to_owned()];
        argv.extend([
            format!("--name={}", master.name),
            format!("--data-dir={}", self.master_dir(master).display()),
            format!("--pki-dir={}", self.pki().display()),
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-cluster-token=trierarch-{}", self.id),
            format!("--listen-peer-url=https://127.0.0.1:{}", master.peer_port),
            format!("--listen-client-url=http://127.0.0.1:{}", master.client_port),
            format!("--bind={host}:{}", master.api_port),
            format!("--advertise-address={}", master.address),
            format!("--cluster-cidr={CLUSTER_CIDR}"),
        ]);
        argv.extend(self.options.server_flags.iter().cloned());
        Command { name: master.name.clone(), argv }
    }

    /// The command line of a node's agent.
    pub fn agent_command(&self, program: &Path, node: &Node) -> Command {
        let dir = self.node_dir(node);
        let mut argv = vec![program.display().to_string(), "agent".to_owned()];
        argv.extend([
            format!("--node-name={}", node.name),
            format!("--masters={}", self.api_servers()),
            format!("--root-dir={}", dir.join("agent").display()),
            format!("--ca-file={}", self.pki().join("ca.crt").display()),
            format!("--cert-file={}", self.pki().join(format!("node-{}.crt", node.name)).display()),
            format!("--key-file={}", self.pki().join(format!("node-{}.key", node.name)).display()),
            format!("--node-ip={}", node.address),
            format!("--port={}", node.kubelet_port),
        ]);
        if self.real {
            argv.push(format!("--runtime-endpoint=unix://{}", dir.join("containerd.sock").display()));
            argv.push(format!("--cni-conf-dir={}", dir.join("cni").display()));
            argv.push(format!("--cgroup-root=/{}/{}", self.cgroup(), node.name));
            argv.push(format!("--eviction-hard={EVICTION_HARD}"));
        } else {
            argv.push("--runtime-endpoint=simulated".to_owned());
            argv.push(format!("--simulated-images={}", super::images::DEMO_IMAGE));
        }
        argv.extend(self.options.agent_flags.iter().cloned());
        Command { name: format!("agent-{}", node.name), argv }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> UpOptions {
        UpOptions {
            dir: PathBuf::from(".trierarch"),
            masters: 3,
            nodes: 2,
            simulated: false,
            port_offset: 0,
            fabric: "10.89.0".to_owned(),
            server_flags: Vec::new(),
            agent_flags: Vec::new(),
        }
    }

    fn layout(options: UpOptions, real: bool) -> Layout {
        Layout::new(options, PathBuf::from("/clone/.trierarch"), real).expect("laid out")
    }

    #[test]
    fn three_masters_have_the_ports_of_the_readme() {
        let layout = layout(options(), true);
        let ports: Vec<_> =
            layout.masters().iter().map(|m| (m.api_port, m.client_port, m.peer_port)).collect();
        assert_eq!(ports, [(6443, 2379, 2380), (6444, 22379, 22380), (6445, 32379, 32380)]);
        assert_eq!(
            layout.api_servers(),
            "https://10.89.0.1:6443,https://10.89.0.2:6444,https://10.89.0.3:6445"
        );
        assert_eq!(layout.nodes()[1].address, Ipv4Addr::new(10, 89, 0, 12));
    }

    #[test]
    fn a_simulated_cluster_stays_on_loopback() {
        let layout = layout(options(), false);
        assert_eq!(
            layout.api_servers(),
            "https://127.0.0.1:6443,https://127.0.0.1:6444,https://127.0.0.1:6445"
        );
        let ports: Vec<_> = layout.nodes().iter().map(|n| n.kubelet_port).collect();
        assert_eq!(ports, [10250, 10251]);
    }

    #[test]
    fn limits_are_told_from_both_sides() {
        let lay = |change: fn(&mut UpOptions)| {
            let mut options = options();
            change(&mut options);
            Layout::new(options, PathBuf::from("/x"), true).map(|_| ())
        };
        assert_eq!(lay(|o| o.masters = 5), Ok(()));
        assert_eq!(lay(|o| o.masters = 4), Err("--masters is 1, 3 or 5, not 4".to_owned()));
        assert_eq!(lay(|o| o.nodes = 100), Ok(()));
        assert!(lay(|o| o.nodes = 101).is_err());
        assert_eq!(lay(|o| o.port_offset = 13_155), Ok(()));
        assert!(lay(|o| o.port_offset = 13_156).is_err());
        assert!(lay(|o| o.fabric = "10.89".to_owned()).is_err());
    }

    #[test]
    fn two_folders_have_different_names_in_the_kernel() {
        let one = Layout::new(options(), PathBuf::from("/a/.trierarch"), true).expect("laid out");
        let two = Layout::new(options(), PathBuf::from("/b/.trierarch"), true).expect("laid out");
        assert_ne!(one.id, two.id);
        // Interface names have 15 bytes at most, and the longest here is "tri-" and the id with one more letter.
        assert!(one.id.len() == 8);
    }
}

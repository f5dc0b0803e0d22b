//! What a local cluster consists of: names, ports and folders, and the command line of each process. Pure: nothing
//! here touches the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::kubeconfig::Endpoint;
use crate::pki::{Leaf, MASTERS_GROUP, Usage};

/// The first address of the default service range: the Service `kubernetes.default`.
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The masters' ports of the store: 2379 and 2380, then 10,000 more for each further master (etcd's own examples
/// for three members on one machine use 2379, 22379 and 32379).
const STORE_PORT: u16 = 2379;
const STORE_PORT_STEP: u16 = 10_000;
const API_PORT: u16 = 6443;
/// Most masters: what the ports leave room for.
const MAX_MASTERS: u8 = 5;

/// `trierarch up`.
#[derive(Args, Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct UpOptions {
    /// Where everything of the cluster is kept
    #[arg(long, default_value = ".trierarch")]
    pub dir: PathBuf,
    /// Masters: 1, 3 or 5
    #[arg(long, default_value_t = 3)]
    pub masters: u8,
    /// Added to every port, so that a second cluster fits on the machine
    #[arg(long, default_value_t = 0)]
    pub port_offset: u16,
    /// A flag for every `trierarch server`, e.g. --server-flag=--log-format=json
    #[arg(long = "server-flag", allow_hyphen_values = true)]
    pub server_flags: Vec<String>,
}

/// A cluster on this machine, laid out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Layout {
    /// What was asked for; `options.dir` is absolute.
    options: UpOptions,
    /// Eight hexadecimal digits that tell this cluster from another.
    id: String,
}

/// One master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// `m1`, `m2`, …
    pub name: String,
    /// The API.
    pub api_port: u16,
    /// etcd clients.
    pub client_port: u16,
    /// The other masters.
    pub peer_port: u16,
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
    pub fn new(options: UpOptions, dir: PathBuf) -> Result<Self, String> {
        if ![1, 3, 5].contains(&options.masters) {
            return Err(format!("--masters is 1, 3 or 5, not {}", options.masters));
        }
        let highest = u32::from(STORE_PORT) + 1 + u32::from(MAX_MASTERS) * u32::from(STORE_PORT_STEP);
        if highest + u32::from(options.port_offset) > u32::from(u16::MAX) {
            return Err(format!("--port-offset is at most {}", u32::from(u16::MAX) - highest));
        }
        let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { options: UpOptions { dir, ..options }, id })
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
            }
        };
        (0..self.options.masters).map(master).collect()
    }

    /// The contexts of the kubeconfig, one a master.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |master: &Master| Endpoint {
            context: format!("trierarch-{}", master.name),
            server: format!("https://127.0.0.1:{}", master.api_port),
        };
        self.masters().iter().map(endpoint).collect()
    }

    /// The store's endpoints for `etcdctl`.
    pub fn store_endpoints(&self) -> String {
        let endpoints: Vec<_> =
            self.masters().iter().map(|master| format!("127.0.0.1:{}", master.client_port)).collect();
        endpoints.join(",")
    }

    /// The server certificate of a master.
    pub fn master_leaf(&self, master: &Master) -> Leaf {
        let mut hosts: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .into_iter()
            .chain(["kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1"])
            .map(str::to_owned)
            .collect();
        hosts.push(KUBERNETES_SERVICE.to_string());
        hosts.push(master.name.clone());
        Leaf { common_name: "kube-apiserver".to_owned(), organization: None, hosts, usage: Usage::Server }
    }

    /// The certificate with which a master speaks to the other masters.
    pub fn peer_leaf(&self, master: &Master) -> Leaf {
        let hosts = vec![master.name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        Leaf { common_name: master.name.clone(), organization: None, hosts, usage: Usage::Both }
    }

    /// The administrator's certificate.
    pub fn admin_leaf() -> Leaf {
        client_leaf("kubernetes-admin")
    }

    /// The certificate with which masters ask nodes for logs.
    pub fn kubelet_client_leaf() -> Leaf {
        client_leaf("kube-apiserver-kubelet-client")
    }

    /// The command line of a master.
    pub fn server_command(&self, program: &Path, master: &Master) -> Command {
        let peer = |master: &Master| format!("{}=https://127.0.0.1:{}", master.name, master.peer_port);
        let initial_cluster = self.masters().iter().map(peer).collect::<Vec<_>>().join(",");
        let data = self.dir().join("masters").join(&master.name);
        let mut argv = vec![program.display().to_string(), "server".to_owned()];
        argv.extend([
            format!("--name={}", master.name),
            format!("--data-dir={}", data.display()),
            format!("--pki-dir={}", self.pki().display()),
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-cluster-token=trierarch-{}", self.id),
            format!("--listen-peer-url=https://127.0.0.1:{}", master.peer_port),
            format!("--listen-client-url=http://127.0.0.1:{}", master.client_port),
            format!("--bind=127.0.0.1:{}", master.api_port),
        ]);
        argv.extend(self.options.server_flags.iter().cloned());
        Command { name: master.name.clone(), argv }
    }
}

fn client_leaf(name: &str) -> Leaf {
    Leaf {
        common_name: name.to_owned(),
        organization: Some(MASTERS_GROUP.to_owned()),
        hosts: Vec::new(),
        usage: Usage::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> UpOptions {
        UpOptions { dir: PathBuf::from(".trierarch"), masters: 3, port_offset: 0, server_flags: Vec::new() }
    }

    #[test]
    fn three_masters_have_the_ports_of_the_readme() {
        let layout = Layout::new(options(), PathBuf::from("/clone/.trierarch")).expect("laid out");
        let ports: Vec<_> =
            layout.masters().iter().map(|m| (m.api_port, m.client_port, m.peer_port)).collect();
        assert_eq!(ports, [(6443, 2379, 2380), (6444, 22379, 22380), (6445, 32379, 32380)]);
    }

    #[test]
    fn limits_are_told_from_both_sides() {
        let lay = |change: fn(&mut UpOptions)| {
            let mut options = options();
            change(&mut options);
            Layout::new(options, PathBuf::from("/x")).map(|_| ())
        };
        assert_eq!(lay(|o| o.masters = 5), Ok(()));
        assert_eq!(lay(|o| o.masters = 4), Err("--masters is 1, 3 or 5, not 4".to_owned()));
        assert_eq!(lay(|o| o.port_offset = 13_155), Ok(()));
        assert!(lay(|o| o.port_offset = 13_156).is_err());
    }
}

//! Everything secret of a cluster, written into one folder: `trierarch pki` does it for machines of their own, `up`
//! for a cluster on one machine.
//!
//! What is there stays: a second run adds what is missing and changes nothing, so that masters and nodes can be added
//! later and an authority brought from elsewhere is used.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ipnet::IpNet;

use crate::addresses;
use crate::kubeconfig::{self, Endpoint};
use crate::pki::{self, Authority, Leaf, MASTERS_GROUP, Usage};

/// Whom aggregated API servers know as the proxy that may speak for others, and the base of its files' names.
pub const FRONT_PROXY: &str = "front-proxy-client";
/// The user of the kubeconfig.
const ADMIN: &str = "kubernetes-admin";

/// `trierarch pki`.
#[derive(Args, Clone, Debug)]
pub struct PkiOptions {
    /// Where keys and certificates go; what is there stays
    #[arg(long)]
    dir: PathBuf,
    /// A master: name=host,host; an https:// URL in place of the first host says where clients reach it
    #[arg(long = "master", value_name = "NAME=HOSTS", required = true)]
    masters: Vec<String>,
    /// A node: name=host,host
    #[arg(long = "node", value_name = "NAME=HOSTS")]
    nodes: Vec<String>,
    /// The masters' port in the kubeconfig, where no URL says it
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// The masters' addresses of Services: their certificates name the first one
    #[arg(long, value_name = "CIDR", default_value = addresses::DEFAULT, value_parser = addresses::read)]
    service_cluster_ip_range: IpNet,
    /// Where the administrator's kubeconfig goes; <DIR>/kubeconfig without
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Writes what is asked for.
///
/// # Errors
/// Options that cannot be read, files that cannot be written, an authority that cannot sign.
pub fn run(options: PkiOptions) -> Result<()> {
    Credentials::parse(options).map_err(anyhow::Error::msg)?.write()
}

/// What gets keys and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Where they go.
    pub dir: PathBuf,
    /// Where the administrator's kubeconfig goes.
    pub kubeconfig: PathBuf,
    /// The address of Service `kubernetes`.
    pub service: IpAddr,
    /// The masters.
    pub masters: Vec<Master>,
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// A master, as its certificates and the kubeconfig know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: String,
    /// Host names and addresses under which clients and other masters reach it.
    pub hosts: Vec<String>,
    /// `https://host:port` of its API, for the kubeconfig.
    pub server: String,
}

/// A node, as its certificate knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Host names and addresses under which masters reach it.
    pub hosts: Vec<String>,
}

impl Credentials {
    fn parse(options: PkiOptions) -> Result<Self, String> {
        let master = |text: &String| master(text, options.api_port);
        Ok(Self {
            service: addresses::first(&options.service_cluster_ip_range)
                .ok_or("--service-cluster-ip-range has no address")?,
            masters: options.masters.iter().map(master).collect::<Result<_, _>>()?,
            nodes: options.nodes.iter().map(|text| node(text)).collect::<Result<_, _>>()?,
            kubeconfig: options.kubeconfig.unwrap_or_else(|| options.dir.join("kubeconfig")),
            dir: options.dir,
        })
    }

    /// Writes what is missing.
    ///
    /// # Errors
    /// Files that cannot be read or written, an authority that cannot sign, a host that is none.
    pub fn write(&self) -> Result<()> {
        let dir = &self.dir;
        let authority = Authority::ensure(&dir.join("ca"), "kubernetes")?;
        let peers = Authority::ensure(&dir.join("etcd/ca"), "etcd-ca")?;
        // An authority of its own: whoever it signs for may speak for everybody.
        let proxies = Authority::ensure(&dir.join("front-proxy-ca"), "front-proxy-ca")?;
        proxies.ensure_issued(&dir.join(FRONT_PROXY), &front_proxy_leaf())?;
        pki::ensure_service_account_key(dir)?;
        peers.ensure_issued(&dir.join("etcd/client"), &store_client_leaf())?;
        authority.ensure_issued(&dir.join("apiserver-kubelet-client"), &kubelet_client_leaf())?;
        for master in &self.masters {
            let name = &master.name;
            authority
                .ensure_issued(&dir.join(format!("apiserver-{name}")), &master.api_leaf(self.service))?;
            peers.ensure_issued(&dir.join(format!("etcd/peer-{name}")), &master.peer_leaf())?;
            peers.ensure_issued(&dir.join(format!("etcd/server-{name}")), &master.store_leaf())?;
        }
        for node in &self.nodes {
            authority.ensure_issued(&dir.join(format!("node-{}", node.name)), &node.leaf())?;
        }
        if self.kubeconfig.exists() {
            return Ok(());
        }
        let admin = authority.issue_rsa(&client_leaf(ADMIN))?;
        kubeconfig::write(&self.kubeconfig, ADMIN, &self.endpoints(), authority.certificate(), &admin)
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |master: &Master| Endpoint {
            context: format!("trierarch-{}", master.name),
            server: master.server.clone(),
        };
        self.masters.iter().map(endpoint).collect()
    }
}

impl Master {
    /// The server certificate of its API.
    fn api_leaf(&self, kubernetes: IpAddr) -> Leaf {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut hosts: Vec<String> = service.map(str::to_owned).to_vec();
        hosts.push("kubernetes.default.svc.cluster.local".to_owned());
        hosts.push(kubernetes.to_string());
        hosts.extend(self.own_hosts());
        Leaf { common_name: "kube-apiserver".to_owned(), organization: None, hosts, usage: Usage::Server }
    }

    /// The certificate with which it speaks to the other masters.
    fn peer_leaf(&self) -> Leaf {
        let hosts = self.own_hosts();
        Leaf { common_name: self.name.clone(), organization: None, hosts, usage: Usage::Both }
    }

    /// The certificate with which it serves etcd's clients.
    fn store_leaf(&self) -> Leaf {
        Leaf { usage: Usage::Server, ..self.peer_leaf() }
    }

    fn own_hosts(&self) -> Vec<String> {
        let mut hosts = vec![self.name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let more = self.hosts.iter().filter(|host| !hosts.contains(host)).cloned().collect::<Vec<_>>();
        hosts.extend(more);
        hosts
    }
}

impl Node {
    /// A client of the API, and the server of its kubelet endpoint.
    fn leaf(&self) -> Leaf {
        let mut hosts = vec![self.name.clone()];
        hosts.extend(self.hosts.iter().filter(|host| **host != self.name).cloned());
        Leaf {
            common_name: format!("system:node:{}", self.name),
            organization: Some("system:nodes".to_owned()),
            hosts,
            usage: Usage::Both,
        }
    }
}

/// The certificate with which masters ask nodes for logs.
fn kubelet_client_leaf() -> Leaf {
    client_leaf("kube-apiserver-kubelet-client")
}

/// Whom the store serves where its clients need a certificate.
fn store_client_leaf() -> Leaf {
    Leaf { organization: None, ..client_leaf("etcd-client") }
}

/// The certificate with which masters speak to aggregated API servers in the name of others. It is in no group: it says
/// nothing of who asks.
fn front_proxy_leaf() -> Leaf {
    Leaf { organization: None, ..client_leaf(FRONT_PROXY) }
}

/// A client that is above authorization.
fn client_leaf(name: &str) -> Leaf {
    Leaf {
        common_name: name.to_owned(),
        organization: Some(MASTERS_GROUP.to_owned()),
        hosts: Vec::new(),
        usage: Usage::Client,
    }
}

/// Reads `name=host,host`.
fn named(text: &str) -> Result<(&str, Vec<&str>), String> {
    let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    // The name becomes part of file names.
    if name.is_empty() || name.contains('/') || hosts.is_empty() {
        return Err(format!("{text:?} is not name=host,host"));
    }
    Ok((name, hosts))
}

fn node(text: &str) -> Result<Node, String> {
    let (name, hosts) = named(text)?;
    Ok(Node { name: name.to_owned(), hosts: hosts.into_iter().map(str::to_owned).collect() })
}

fn master(text: &str, api_port: u16) -> Result<Master, String> {
    let (name, mut hosts) = named(text)?;
    let server = match hosts[0].strip_prefix("https://") {
        Some(authority) => {
            let authority = authority.trim_end_matches('/');
            hosts[0] = host_of(authority).ok_or_else(|| format!("{:?} has no port", hosts[0]))?;
            format!("https://{authority}")
        }
        None if hosts[0].contains(':') => format!("https://[{}]:{api_port}", hosts[0]),
        None => format!("https://{}:{api_port}", hosts[0]),
    };
    Ok(Master { name: name.to_owned(), hosts: hosts.into_iter().map(str::to_owned).collect(), server })
}

/// The host of `host:port` or `[address]:port`.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    Some(host.trim_matches(['[', ']']))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn options(dir: &Path, masters: &[&str], nodes: &[&str]) -> PkiOptions {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        PkiOptions {
            dir: dir.to_owned(),
            masters: owned(masters),
            nodes: owned(nodes),
            api_port: 6443,
            service_cluster_ip_range: addresses::default(),
            kubeconfig: None,
        }
    }

    fn files(dir: &Path, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                found.extend(files(&entry.path(), &format!("{name}/")));
            } else {
                found.insert(name, fs::read(entry.path()).expect("a file"));
            }
        }
        found
    }

    #[test]
    fn a_second_run_adds_what_is_missing_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        run(options(dir.path(), &["m1=10.0.0.1"], &[])).expect("written");
        let before = files(dir.path(), "");
        let expected = [
            "apiserver-kubelet-client.crt",
            "apiserver-kubelet-client.key",
            "apiserver-m1.crt",
            "apiserver-m1.key",
            "ca.crt",
            "ca.key",
            "etcd/ca.crt",
            "etcd/ca.key",
            "etcd/client.crt",
            "etcd/client.key",
            "etcd/peer-m1.crt",
            "etcd/peer-m1.key",
            "etcd/server-m1.crt",
            "etcd/server-m1.key",
            "front-proxy-ca.crt",
            "front-proxy-ca.key",
            "front-proxy-client.crt",
            "front-proxy-client.key",
            "kubeconfig",
            "sa.key",
            "sa.pub",
        ];
        assert_eq!(before.keys().collect::<Vec<_>>(), expected);
        run(options(dir.path(), &["m1=10.0.0.1", "m2=10.0.0.2"], &["n1=10.0.0.11"])).expect("written");
        let after = files(dir.path(), "");
        assert!(before.iter().all(|(name, bytes)| after[name] == *bytes));
        let added: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        let expected = [
            "apiserver-m2.crt",
            "apiserver-m2.key",
            "etcd/peer-m2.crt",
            "etcd/peer-m2.key",
            "etcd/server-m2.crt",
            "etcd/server-m2.key",
            "node-n1.crt",
            "node-n1.key",
        ];
        assert_eq!(added, expected);
    }

    #[test]
    fn an_authority_without_its_certificate_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("ca.key"), "precious").expect("written");
        let error = run(options(dir.path(), &["m1=10.0.0.1"], &[])).expect_err("refused");
        assert!(error.to_string().contains("ca.crt"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("ca.key")).expect("there"), "precious");
    }

    #[test]
    fn each_master_is_a_context_of_the_kubeconfig() {
        let dir = tempfile::tempdir().expect("a folder");
        let masters = ["m1=10.0.0.1,127.0.0.1", "m2=https://api.example:7443,10.0.0.2", "m3=fd00::3"];
        run(options(dir.path(), &masters, &[])).expect("written");
        let text = fs::read(dir.path().join("kubeconfig")).expect("written");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let servers: Vec<_> = config["clusters"]
            .as_array()
            .expect("clusters")
            .iter()
            .map(|cluster| cluster["cluster"]["server"].as_str().expect("a server"))
            .collect();
        assert_eq!(servers, ["https://10.0.0.1:6443", "https://api.example:7443", "https://[fd00::3]:6443"]);
        assert_eq!(config["current-context"], "trierarch-m1");
    }

    #[test]
    fn certificates_name_each_host_once() {
        let leaf = master("m1=https://10.0.0.1:7443,127.0.0.1,m1", 6443).expect("a master").peer_leaf();
        assert_eq!(leaf.hosts, ["m1", "localhost", "127.0.0.1", "10.0.0.1"]);
    }

    #[test]
    fn what_is_no_master_is_refused() {
        for wrong in ["m1", "m1=", "=10.0.0.1", "../m1=10.0.0.1", "m1=https://10.0.0.1", "m1=https://h:x"] {
            assert!(master(wrong, 6443).is_err(), "{wrong:?}");
        }
    }
}

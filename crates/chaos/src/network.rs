//! Where masters, nodes and clients meet.
//!
//! As root, the runner, its clients and the nodes are in a network namespace with a bridge, and each master in one of
//! its own beside it, so that a master can be cut off from the others while clients still reach it. The namespaces have
//! no names: they go with the last process that uses them, whatever becomes of the runner.

use std::fmt;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Masters that there is a namespace for.
const MAX_MASTERS: u8 = 5;
/// Nodes that there is an address for.
const MAX_NODES: u8 = 9;
/// Host numbers on the bridge: masters from 1, nodes from here, the runner's own last.
const FIRST_NODE: u8 = 11;
const RUNNER: u8 = 254;
/// The firewall table in a master's namespace.
const TABLE: &str = "chaos";

/// The network of a runner.
pub enum Network {
    /// Everything is on 127.0.0.1.
    Loopback {
        /// Why it is.
        why: String,
    },
    /// Each master has a namespace of its own.
    Fabric {
        /// The masters' namespaces.
        spaces: Vec<File>,
    },
}

/// Where a master is.
#[derive(Clone, Debug)]
pub struct MasterPlace {
    /// Its address.
    pub address: Ipv4Addr,
    /// The port of the Kubernetes API.
    pub api_port: u16,
    /// The port for etcd clients.
    pub client_port: u16,
    /// The port for the other masters.
    pub peer_port: u16,
    /// The file of its namespace.
    pub namespace: Option<PathBuf>,
}

/// Where a node is: always beside the clients.
#[derive(Clone, Copy, Debug)]
pub struct NodePlace {
    /// Its address.
    pub address: Ipv4Addr,
    /// The port of its kubelet endpoint.
    pub port: u16,
}

/// What does not pass between a master and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Anything.
    Both,
    /// What goes to the master.
    In,
    /// What comes from the master.
    Out,
    /// One packet of ten, either way.
    Lossy,
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback { why } => write!(out, "loopback, because {why}"),
            Self::Fabric { .. } => write!(out, "each master in a network namespace of its own"),
        }
    }
}

impl Network {
    /// Everything on 127.0.0.1.
    pub fn loopback() -> Self {
        Self::Loopback { why: "this is not root".to_owned() }
    }

    /// Moves the calling thread, and all threads and processes that it starts from now on, into a namespace with a
    /// bridge and mounts of its own, and makes namespaces for masters beside it. Loopback where the machine does not allow it.
    pub fn fabric() -> Self {
        match build_fabric() {
            Ok(spaces) => Self::Fabric { spaces },
            Err(error) => Self::Loopback { why: format!("there are no namespaces: {error:#}") },
        }
    }

    /// Places for a cluster.
    ///
    /// # Errors
    /// Too many masters, or no free ports.
    pub fn places(&self, masters: usize, nodes: usize) -> Result<(Vec<MasterPlace>, Vec<NodePlace>)> {
        match self {
            Self::Loopback { .. } => {
                let ports: Vec<u16> = (0..3 * masters + nodes).map(|_| env::ports::free()).collect();
                let (for_masters, for_nodes) = ports.split_at(3 * masters);
                let masters = for_masters.chunks(3).map(|ports| MasterPlace {
                    address: Ipv4Addr::LOCALHOST,
                    api_port: ports[0],
                    client_port: ports[1],
                    peer_port: ports[2],
                    namespace: None,
                });
                let node = |&port: &u16| NodePlace { address: Ipv4Addr::LOCALHOST, port };
                Ok((masters.collect(), for_nodes.iter().map(node).collect()))
            }
            Self::Fabric { spaces } => {
                if masters > spaces.len() || nodes > usize::from(MAX_NODES) {
                    bail!("there is room for {MAX_MASTERS} masters and {MAX_NODES} nodes");
                }
                let node = |index| NodePlace { address: address(FIRST_NODE + index), port: 10_250 };
                let nodes = (0..u8::try_from(nodes)?).map(node).collect();
                Ok(((0..masters).map(|index| self.fabric_place(index)).collect(), nodes))
            }
        }
    }

    fn fabric_place(&self, index: usize) -> MasterPlace {
        MasterPlace {
            address: master_address(index),
            api_port: 6443,
            client_port: 2379,
            peer_port: 2380,
            namespace: self.space(index).ok().map(space_path),
        }
    }

    fn space(&self, index: usize) -> Result<&File> {
        match self {
            Self::Fabric { spaces } => spaces.get(index).context("invariant: places() was asked before"),
            Self::Loopback { why } => Err(anyhow!("masters have no network namespaces of their own: {why}")),
        }
    }

    /// Whether masters can be cut off.
    ///
    /// # Errors
    /// Says in one line why they cannot.
    pub fn can_cut(&self) -> Result<()> {
        self.space(0).map(drop).context("cutting masters off needs root")
    }

    /// Drops what passes between a master and the others, one way or both, or some of it; its clients still reach it.
    ///
    /// # Errors
    /// Without namespaces; or what the firewall says.
    pub fn cut(&self, index: usize, others: &[usize], cut: Cut) -> Result<()> {
        let others: Vec<String> = others.iter().map(|&other| master_address(other).to_string()).collect();
        let others = others.join(", ");
        let some = if cut == Cut::Lossy { "numgen random mod 10 < 1" } else { "" };
        let chain = |way, hook, side, wanted: bool| match wanted {
            true => format!(
                "chain {way} {{\n type filter hook {hook} priority 0\n ip {side} {{ {others} }} {some} drop\n }}\n"
            ),
            false => String::new(),
        };
        let into = chain("in", "input", "saddr", cut != Cut::Out);
        let out = chain("out", "output", "daddr", cut != Cut::In);
        let rules = format!("table inet {TABLE} {{\n{into}{out}}}");
        run(&["nsenter", &self.enter(index)?, "nft", &rules])
    }

    /// Ends what [`Self::cut`] began.
    ///
    /// # Errors
    /// Without namespaces; or what the firewall says.
    pub fn heal(&self, index: usize) -> Result<()> {
        run(&["nsenter", &self.enter(index)?, "nft", "delete", "table", "inet", TABLE])
    }

    fn enter(&self, index: usize) -> Result<String> {
        Ok(format!("--net={}", space_path(self.space(index)?).display()))
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, host)
}

fn master_address(index: usize) -> Ipv4Addr {
    address(u8::try_from(index + 1).expect("invariant: there are at most MAX_MASTERS"))
}

/// A namespace as a path that other processes of root can open while this one lives.
fn space_path(space: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), space.as_raw_fd()))
}

fn build_fabric() -> Result<Vec<File>> {
    // What is mounted from now on goes with the last process that sees it.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["ip", "link", "add", "br0", "type", "bridge"])?;
    run(&["ip", "link", "set", "br0", "up"])?;
    for host in (FIRST_NODE..FIRST_NODE + MAX_NODES).chain([RUNNER]) {
        run(&["ip", "address", "add", &format!("{}/24", address(host)), "dev", "br0"])?;
    }
    (0..MAX_MASTERS).map(|index| master_space(usize::from(index))).collect()
}

/// A namespace for a master, with a leg on the bridge.
fn master_space(index: usize) -> Result<File> {
    let space = new_space()?;
    let (leg, path) = (format!("m{index}"), space_path(&space).display().to_string());
    run(&["ip", "link", "add", &leg, "type", "veth", "peer", "name", "eth0", "netns", &path])?;
    run(&["ip", "link", "set", &leg, "master", "br0", "up"])?;
    let inside = |words: &[&str]| run(&[&["nsenter", &format!("--net={path}"), "ip"], words].concat());
    inside(&["link", "set", "lo", "up"])?;
    inside(&["address", "add", &format!("{}/24", master_address(index)), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    Ok(space)
}

/// A namespace belongs to the thread that makes it, so a thread is made for it; the open file keeps the namespace.
fn new_space() -> Result<File> {
    let make = || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    };
    std::thread::spawn(make).join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))?
}

/// Runs a tool of the system.
fn run(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("a command has a program")?;
    let path = format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .with_context(|| format!("cannot run `{}`", words.join(" ")))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_cut_without_namespaces_and_one_line_says_why() {
        let network = Network::loopback();
        let error = format!("{:#}", network.can_cut().expect_err("not possible"));
        assert!(error.contains("needs root") && !error.contains('\n'), "{error}");
        assert!(network.cut(0, &[1, 2], Cut::Both).is_err());
    }

    #[test]
    fn places_on_loopback_have_ports_of_their_own() {
        let (masters, nodes) = Network::loopback().places(3, 2).expect("places");
        let mut ports: Vec<u16> =
            masters.iter().flat_map(|place| [place.api_port, place.client_port, place.peer_port]).collect();
        ports.extend(nodes.iter().map(|place| place.port));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 11);
    }
}

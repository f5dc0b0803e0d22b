//! The parts of a real cluster that live in the kernel: the fabric between nodes, and each node's namespaces and
//! containerd.
//!
//! A node is a network namespace, a mount namespace kept in a file (so that a restarted containerd enters the same
//! one and finds its pods' mounts), a UTS namespace and one containerd. The fabric is a namespace with a bridge; the
//! host has one leg in it, on which the masters listen.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::images;
use super::layout::{Command, Layout, Node};
use super::shell::{SEARCH_PATH, exists, run, run_words, succeeds};

/// What a node needs, by the program that shows it is there and the Debian package that has it.
const PREREQUISITES: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("sysctl", "procps"),
];
const CNI_PLUGINS: &str = "/usr/lib/cni/bridge";

/// Debian packages that are missing on this machine.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<_> =
        PREREQUISITES.iter().filter(|(program, _)| !exists(program)).map(|&(_, package)| package).collect();
    if !Path::new(CNI_PLUGINS).exists() {
        missing.push("containernetworking-plugins");
    }
    missing
}

/// Installs packages with apt-get.
pub fn install(packages: &[&str]) -> Result<()> {
    let mut words = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"];
    words.extend(packages);
    if run_words(&words).is_err() {
        run("apt-get update -qq")?;
        run_words(&words)?;
    }
    Ok(())
}

/// Makes the fabric unless it is there: the bridge's namespace and the host's leg with the masters' addresses.
pub fn ensure_fabric(layout: &Layout) -> Result<()> {
    let (space, host) = (layout.fabric_namespace(), host_leg(layout));
    if succeeds(&format!("ip link show {host}")) && succeeds(&format!("ip netns exec {space} true")) {
        return Ok(());
    }
    remove_fabric(layout);
    run(&format!("ip netns add {space}"))?;
    in_space(&space, "ip link set lo up")?;
    in_space(&space, "ip link add br0 type bridge")?;
    in_space(&space, "ip link set br0 up")?;
    run(&format!("ip link add {host} type veth peer name host netns {space}"))?;
    in_space(&space, "ip link set host master br0 up")?;
    for master in layout.masters() {
        run(&format!("ip address add {}/24 dev {host}", master.address))?;
    }
    run(&format!("ip link set {host} up"))?;
    allow_outside(layout)
}

/// Lets nodes reach the world through the host: image pulls need it.
fn allow_outside(layout: &Layout) -> Result<()> {
    let (table, subnet, host) =
        (host_table(layout), format!("{}.0/24", layout.options.fabric), host_leg(layout));
    let rules = format!(
        "table ip {table} {{\n chain post {{\n type nat hook postrouting priority srcnat;\n \
         ip saddr {subnet} oifname != \"{host}\" masquerade\n }}\n}}\n"
    );
    let file = layout.machine_dir().join("host.nft");
    fs::create_dir_all(layout.machine_dir())?;
    fs::write(&file, rules)?;
    run(&format!("nft -f {}", file.display()))?;
    run("sysctl -q -w net.ipv4.ip_forward=1").map(drop)
}

/// Removes the fabric; what is not there is no error.
pub fn remove_fabric(layout: &Layout) {
    for line in [
        format!("ip link delete {}", host_leg(layout)),
        format!("ip netns delete {}", layout.fabric_namespace()),
        format!("nft delete table ip {}", host_table(layout)),
    ] {
        succeeds(&line);
    }
}

fn host_leg(layout: &Layout) -> String {
    format!("tri-{}", layout.id)
}

fn host_table(layout: &Layout) -> String {
    format!("trierarch-{}", layout.id)
}

/// `ip netns exec` would remount `/sys` and hide the cgroups; entering by file does not.
fn in_space(space: &str, line: &str) -> Result<String> {
    run(&format!("nsenter --net=/run/netns/{space} {line}"))
}

/// Makes a node's namespaces and files unless they are there.
pub fn ensure_node(layout: &Layout, node: &Node) -> Result<()> {
    ensure_network(layout, node).with_context(|| format!("cannot make the network of {}", node.name))?;
    ensure_mounts(layout, node).with_context(|| format!("cannot make the mounts of {}", node.name))
}

fn ensure_network(layout: &Layout, node: &Node) -> Result<()> {
    let (space, fabric) = (layout.namespace(node), layout.fabric_namespace());
    if succeeds(&format!("nsenter --net=/run/netns/{space} ip link show eth0")) {
        return Ok(());
    }
    succeeds(&format!("ip netns delete {space}"));
    run(&format!("ip netns add {space}"))?;
    let leg = &node.name;
    in_space(&fabric, &format!("ip link add {leg} type veth peer name eth0 netns {space}"))?;
    in_space(&fabric, &format!("ip link set {leg} master br0 up"))?;
    in_space(&space, "ip link set lo up")?;
    in_space(&space, &format!("ip address add {}/24 dev eth0", node.address))?;
    in_space(&space, "ip link set eth0 up")?;
    in_space(&space, &format!("ip route add default via {}", layout.fabric_address(1)))?;
    in_space(&space, "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").map(drop)
}

fn ensure_mounts(layout: &Layout, node: &Node) -> Result<()> {
    let dir = layout.node_dir(node);
    for folder in ["root", "state", "cni", "certs.d", "mnt", "cnicache", "run", "etc", "agent"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    fs::write(dir.join("config.toml"), containerd_config(&dir))?;
    let file = dir.join("mnt/ns");
    if succeeds(&format!("nsenter --mount={} true", file.display())) {
        return Ok(());
    }
    fs::create_dir_all("/run/containerd")?;
    fs::create_dir_all("/var/lib/cni")?;
    fs::write(dir.join("etc/hosts"), hosts(layout, node))?;
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    fs::write(dir.join("etc/resolv.conf"), resolvers)?;
    let (folder, at) = (dir.join("mnt"), dir.display());
    run(&format!("mount --bind {0} {0}", folder.display()))?;
    run(&format!("mount --make-private {}", folder.display()))?;
    fs::write(&file, "")?;
    let inside = format!(
        "set -e; mount --make-rshared /; mount --bind {at}/cnicache /var/lib/cni; \
         mount --bind {at}/run /run/containerd; mount --bind {at}/etc/hosts /etc/hosts; \
         mount --bind {at}/etc/resolv.conf /etc/resolv.conf"
    );
    let mount = format!("--mount={}", file.display());
    run_words(&["unshare", &mount, "--propagation", "private", "--", "sh", "-c", &inside]).map(drop)
}

fn hosts(layout: &Layout, node: &Node) -> String {
    let mut text = format!("127.0.0.1 localhost\n127.0.1.1 {}\n", node.name);
    for other in layout.nodes() {
        text.push_str(&format!("{} {}\n", other.address, other.name));
    }
    text
}

/// Runs `inner` in a node's namespaces under the node's host name, with a clean environment (containerd's shims keep
/// the environment they are started with).
fn enter(layout: &Layout, node: &Node, name: String, inner: &str) -> Command {
    let argv = [
        "nsenter".to_owned(),
        format!("--mount={}", layout.node_dir(node).join("mnt/ns").display()),
        format!("--net=/run/netns/{}", layout.namespace(node)),
        "--".to_owned(),
        "unshare".to_owned(),
        "--uts".to_owned(),
        "env".to_owned(),
        "-i".to_owned(),
        format!("PATH={SEARCH_PATH}"),
        "sh".to_owned(),
        "-c".to_owned(),
        format!("hostname {} && exec {inner}", node.name),
    ];
    Command { name, argv: argv.to_vec() }
}

/// The command that runs a node's containerd.
pub fn containerd_command(layout: &Layout, node: &Node) -> Command {
    let config = layout.node_dir(node).join("config.toml");
    enter(layout, node, format!("containerd-{}", node.name), &format!("containerd -c {}", config.display()))
}

/// A node's agent, moved into the node's namespaces.
pub fn agent_command(layout: &Layout, node: &Node, program: &Path) -> Command {
    let command = layout.agent_command(program, node);
    let quoted: Vec<_> =
        command.argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    enter(layout, node, command.name, &quoted.join(" "))
}

/// Imports the sandbox image and the walk-through image unless the node has them.
pub fn ensure_images(layout: &Layout, node: &Node) -> Result<()> {
    let socket = layout.node_dir(node).join("containerd.sock");
    let ctr = format!("ctr --address {} --namespace k8s.io images", socket.display());
    let present = run(&format!("{ctr} list --quiet"))?;
    type Write = fn(&Path) -> Result<()>;
    let wanted: [(&str, Write); 2] =
        [(images::PAUSE_IMAGE, images::write_pause), (images::DEMO_IMAGE, images::write_demo)];
    for (name, write) in wanted {
        if present.lines().any(|line| line == name) {
            continue;
        }
        let archive = layout.node_dir(node).join("image.tar");
        write(&archive)?;
        run(&format!("{ctr} import --snapshotter overlayfs {}", archive.display()))?;
        fs::remove_file(&archive)?;
    }
    Ok(())
}

fn containerd_config(dir: &Path) -> String {
    let (dir, pause) = (dir.display(), images::PAUSE_IMAGE);
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
oom_score = 0
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = "{dir}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{dir}/runc"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{dir}/certs.d"
"#
    )
}

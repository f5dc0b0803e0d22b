//! The store alone, as etcd's users start it.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{Process, outcome, program};
use crate::shared::eventually;

/// Members of one cluster; they end when it is dropped.
struct Members {
    processes: Vec<Child>,
    clients: Vec<u16>,
    _folder: TempDir,
}

impl Members {
    /// Starts members whose clients and peers use these schemes, with further flags.
    fn start(size: usize, client: &str, peer: &str, flags: &[&str]) -> Self {
        Self::start_with(size, client, peer, flags, &[])
    }

    /// The same, each listening for its failpoints on one of these ports.
    fn start_with(size: usize, client: &str, peer: &str, flags: &[&str], failpoints: &[u16]) -> Self {
        let ports: Vec<u16> = (0..2 * size).map(|_| env::ports::free()).collect();
        let (clients, peers) = ports.split_at(size);
        let folder = tempfile::tempdir().expect("folder");
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("m{n}={peer}://127.0.0.1:{port}")).collect();
        let start = |(n, (client_port, peer_port)): (usize, (&u16, &u16))| {
            let client = format!("{client}://127.0.0.1:{client_port}");
            let peer = format!("{peer}://127.0.0.1:{peer_port}");
            let data = folder.path().join(format!("m{n}"));
            let mut command = program();
            command.args(["etcd", "--name", &format!("m{n}"), "--data-dir"]).arg(data);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &initial.join(",")]).args(flags);
            if let Some(port) = failpoints.get(n) {
                command.env("GOFAIL_HTTP", format!("127.0.0.1:{port}"));
            }
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start")
        };
        let processes = clients.iter().zip(peers).enumerate().map(start).collect();
        Self { processes, clients: clients.to_vec(), _folder: folder }
    }

    fn etcdctl(&self, scheme: &str, arguments: &[&str]) -> (bool, String) {
        let endpoints: Vec<String> =
            self.clients.iter().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        outcome(command.args(arguments))
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

#[test]
fn members_and_clients_may_use_certificates_that_nobody_signed() {
    let members = Members::start(3, "https", "https", &["--peer-auto-tls", "--auto-tls"]);
    let secure = ["--insecure-transport=false", "--insecure-skip-tls-verify"];
    let ask = |arguments: &[&str]| members.etcdctl("https", &[&secure[..], arguments].concat());
    eventually("all members serve", || ask(&["endpoint", "health"]).0.then_some(()));
    assert!(ask(&["put", "k", "v"]).0);
    assert_eq!(ask(&["get", "k", "--print-value-only"]).1.trim(), "v");
    let (good, _) = members.etcdctl("http", &["--command-timeout=1s", "get", "k"]);
    assert!(!good, "plain text is refused");
}

#[test]
fn history_goes_by_itself() {
    let members = Members::start(1, "http", "http", &["--auto-compaction-retention=1s"]);
    let ask = |arguments: &[&str]| members.etcdctl("http", arguments);
    eventually("it serves", || ask(&["endpoint", "health"]).0.then_some(()));
    assert!(ask(&["put", "k", "old"]).0);
    assert!(ask(&["put", "k", "new"]).0);
    eventually("the first revision is compacted", || {
        let (_, text) = ask(&["get", "k", "--rev=2"]);
        text.contains("mvcc: required revision has been compacted").then_some(())
    });
    assert_eq!(ask(&["get", "k", "--print-value-only"]).1.trim(), "new");
}

#[test]
fn https_without_a_certificate_is_refused() {
    let mut command = program();
    let url = "https://127.0.0.1:0";
    command.args(["etcd", "--listen-client-urls", url, "--advertise-client-urls", url, "--data-dir"]);
    command.arg(tempfile::tempdir().expect("folder").path().join("data"));
    command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
    let (good, text) = outcome(&mut command);
    assert!(
        !good && text.contains("must be provided for client url https://127.0.0.1:0 with HTTPS"),
        "{text}"
    );
}

#[test]
fn flags_that_are_unknown_are_refused() {
    let code = |flag: &str| {
        let output = program().args(["etcd", flag]).output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (unknown, text) = code("--no-such-flag");
    assert!(unknown == Some(2) && text.contains("flag provided but not defined: -no-such-flag"), "{text}");
}

/// The body of an answer in plain HTTP.
fn get(port: u16, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then_some(text)
}

fn make_pki(folder: &TempDir) -> std::path::PathBuf {
    let pki = folder.path().join("pki");
    let args = ["pki", "--dir", pki.to_str().expect("a path"), "--master", "m0=127.0.0.1"];
    let (good, text) = outcome(program().args(args));
    assert!(good, "{text}");
    pki
}

#[test]
fn the_proxy_serves_both_versions_of_http_over_tls() {
    let members = Members::start(1, "http", "http", &[]);
    let (port, folder) = (env::ports::free(), tempfile::tempdir().expect("folder"));
    let listen = format!("127.0.0.1:{port}");
    let mut command = program();
    command.args(["etcd", "grpc-proxy", "start", "--auto-tls", "--listen-addr", &listen, "--data-dir"]);
    command.arg(folder.path()).args(["--endpoints", &format!("127.0.0.1:{}", members.clients[0])]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let _proxy = Process(command.spawn().expect("start"));
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://{listen}/proxy/health");
        eventually("the proxy says how the members are", || {
            let (good, text) = outcome(Command::new("curl").args(["-ksS", "--fail", version, &url]));
            (good && text.contains(r#""health":"true""#)).then_some(())
        });
    }
}

#[test]
fn the_proxy_shows_members_no_certificate_with_a_common_name() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str| make_pki(&folder).join("etcd").join(name).display().to_string();
    let mut command = program();
    command.args(["etcd", "grpc-proxy", "start", "--listen-addr", "127.0.0.1:0"]);
    command.args(["--cert", &file("peer-m0.crt"), "--key", &file("peer-m0.key")]);
    let (good, text) = outcome(&mut command);
    assert!(!good && text.contains("cert has non empty Common Name ("), "{text}");
}

/// Has a member's log wait from its next entry on.
fn hold_up_log(failpoints: u16) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", failpoints)).expect("failpoints");
    let action = r#"sleep("60s")"#;
    let head = format!("PUT /raftBeforeSave HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", action.len());
    std::io::Write::write_all(&mut stream, (head + action).as_bytes()).expect("told");
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 204");
}

#[test]
fn a_member_alone_whose_log_cannot_be_written_is_not_ready_and_lives() {
    let point = env::ports::free();
    let members = Members::start_with(1, "http", "http", &[], &[point]);
    let port = members.clients[0];
    eventually("it is ready", || get(port, "/readyz"));
    hold_up_log(point);
    let (good, text) = members.etcdctl("http", &["--command-timeout=1s", "put", "k", "v"]);
    assert!(!good, "{text}");
    assert_eq!(get(port, "/readyz"), None);
    assert!(get(port, "/livez").is_some());
}

/// The leader's process is well and beats, and its log can write nothing.
#[test]
fn a_leader_whose_log_cannot_be_written_is_succeeded() {
    let points = [env::ports::free(), env::ports::free(), env::ports::free()];
    let members = Members::start_with(3, "http", "http", &[], &points);
    let leads =
        |port: &u16| get(*port, "/metrics").is_some_and(|text| text.contains("\netcd_server_is_leader 1"));
    let leader = || members.clients.iter().position(leads);
    let first = eventually("a leader", leader);
    hold_up_log(points[first]);
    let other = format!("http://127.0.0.1:{}", members.clients[(first + 1) % 3]);
    eventually("a write is acknowledged all the same", || {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &other,
            "--command-timeout=3s",
            "put",
            "k",
            "v",
        ]);
        outcome(&mut command).0.then_some(())
    });
}

#[test]
fn the_flags_of_kubeadm_start_a_member() {
    let folder = tempfile::tempdir().expect("folder");
    let pki = make_pki(&folder);
    let file = |name: &str| pki.join("etcd").join(name).display().to_string();
    let (client, peer, metrics) = (env::ports::free(), env::ports::free(), env::ports::free());
    let (client_url, peer_url) = (format!("https://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer}"));
    let mut flags = vec![
        "--name=m0".to_owned(),
        format!("--data-dir={}", folder.path().join("data").display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=m0={peer_url}"),
        format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
        "--client-cert-auth=true".to_owned(),
        "--peer-client-cert-auth=true".to_owned(),
        "--snapshot-count=10000".to_owned(),
        "--feature-gates=InitialCorruptCheck=true".to_owned(),
        "--watch-progress-notify-interval=5s".to_owned(),
    ];
    for prefix in ["", "peer-"] {
        flags.push(format!("--{prefix}cert-file={}", file("peer-m0.crt")));
        flags.push(format!("--{prefix}key-file={}", file("peer-m0.key")));
        flags.push(format!("--{prefix}trusted-ca-file={}", file("ca.crt")));
    }
    let mut command = program();
    let command = command.arg("etcd").args(flags).stdout(Stdio::null()).stderr(Stdio::null());
    let _member = Process(command.spawn().expect("start"));
    for path in ["/livez", "/readyz", "/metrics"] {
        eventually("the metrics URL answers", || get(metrics, path));
    }
    assert_eq!(get(metrics, "/v3/kv/range"), None, "only health and metrics are there");
    let certificates = [
        format!("--cacert={}", file("ca.crt")),
        format!("--cert={}", file("peer-m0.crt")),
        format!("--key={}", file("peer-m0.key")),
    ];
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &client_url]).args(certificates);
    let (good, text) = outcome(etcdctl.args(["put", "k", "v"]));
    assert!(good, "{text}");
    assert_eq!(get(client, "/version"), None, "plain text is refused");
}

#[test]
fn members_find_each_other_through_another_cluster() {
    let service = Members::start(1, "http", "http", &[]);
    let ask = |arguments: &[&str]| service.etcdctl("http", arguments);
    eventually("the service serves", || ask(&["endpoint", "health"]).0.then_some(()));
    let endpoints = format!("--discovery-endpoints=http://127.0.0.1:{}", service.clients[0]);
    let folder = tempfile::tempdir().expect("folder");
    let member = |number: usize| {
        let (client, peer) = (env::ports::free(), env::ports::free());
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = program();
        command.args([
            "etcd",
            "--name",
            &format!("m{number}"),
            "--discovery-token=t",
            &endpoints,
            "--data-dir",
        ]);
        command.arg(folder.path().join(format!("m{number}")));
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        (command, client)
    };
    let (good, text) = outcome(&mut member(9).0);
    assert!(!good && text.contains("discovery: size key not found"), "{text}");
    assert!(ask(&["put", "/_etcd/registry/t/_config/size", "2"]).0);
    let start = |number: usize| {
        let (mut command, client) = member(number);
        (Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start")), client)
    };
    let members = [start(0), start(1)];
    for (_, client) in &members {
        eventually("both serve", || get(*client, "/health"));
    }
    let (good, text) = outcome(&mut member(2).0);
    assert!(!good && text.contains("discovery: cluster is full"), "{text}");
}

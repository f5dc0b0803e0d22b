//! The store alone, as etcd's users start it.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{eventually, outcome, program};

/// Members of one cluster; they end when it is dropped.
struct Members {
    processes: Vec<Child>,
    clients: Vec<u16>,
    _folder: TempDir,
}

impl Members {
    /// Starts members whose clients and peers use these schemes, with further flags.
    fn start(size: usize, client: &str, peer: &str, flags: &[&str]) -> Self {
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
    command.args(["etcd", "--listen-client-urls", "https://127.0.0.1:0", "--data-dir"]);
    command.arg(tempfile::tempdir().expect("folder").path().join("data"));
    command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
    let (good, text) = outcome(&mut command);
    assert!(!good && text.contains("KeyFile and CertFile are not presented"), "{text}");
}

#[test]
fn flags_that_are_unknown_or_not_built_are_refused() {
    let code = |flag: &str| {
        let output = program().args(["etcd", flag]).output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (unknown, text) = code("--no-such-flag");
    assert!(unknown == Some(2) && text.contains("flag provided but not defined: -no-such-flag"), "{text}");
    let (missing, text) = code("--unsafe-no-fsync");
    assert!(missing == Some(1) && text.contains("--unsafe-no-fsync=true is not implemented"), "{text}");
}

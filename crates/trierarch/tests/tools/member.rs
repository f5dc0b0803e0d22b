//! A member of Trierarch or of etcd, and the tools that talk to it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::shared::eventually;

/// What an answer says of the member that gave it.
const HEADER: [&str; 3] = ["ClusterID", "MemberID", "RaftTerm"];

pub fn trierarch() -> Command {
    Command::new(env!("CARGO_BIN_EXE_trierarch"))
}

/// Standard output and error of a command, and whether it succeeded.
pub fn outcome(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    (status.success(), [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat())
}

/// What a command that succeeds prints.
pub fn good(command: &mut Command) -> String {
    let (good, text) = outcome(command);
    assert!(good, "{command:?}: {text}");
    text
}

/// A program that `scripts/bench-deps` keeps in the cache. Without it a test cannot say what it should, and fails.
fn tool(name: &str, wanted: &str) -> PathBuf {
    let cache = std::env::var_os("TRIERARCH_CACHE").map(PathBuf::from).or_else(|| {
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(xdg.or(home)?.join("trierarch"))
    });
    let path = cache.expect("neither TRIERARCH_CACHE nor HOME is set").join("tools").join(name);
    assert!(path.is_file(), "{} is missing: run `scripts/bench-deps {wanted}`", path.display());
    path
}

/// An etcd: Debian's 3.4, 3.5, or the one whose place we take.
pub fn etcd(version: &str) -> PathBuf {
    tool(&format!("etcd-{version}"), version)
}

/// Debian's etcd.
pub fn etcd_34() -> PathBuf {
    etcd("3.4")
}

/// The etcd whose place we take.
pub fn etcd_37() -> PathBuf {
    etcd("3.7.1")
}

/// An `etcdctl`; 3.4's is Debian's.
pub fn etcdctl(version: &str) -> Command {
    let program = match version {
        "3.4" => PathBuf::from("etcdctl"),
        version => tool(&format!("etcdctl-{version}"), "etcdctl"),
    };
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3");
    command
}

/// An `etcdutl`, of 3.5 or 3.7.1.
pub fn etcdutl_of(version: &str) -> Command {
    Command::new(tool(&format!("etcdutl-{version}"), "etcdutl"))
}

/// `etcdutl` of 3.7.
pub fn etcdutl() -> Command {
    etcdutl_of("3.7.1")
}

/// Who a member is, whatever program it runs.
pub struct Site {
    pub folder: TempDir,
    pub client: u16,
    pub peer: u16,
}

impl Site {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self { folder, client: env::ports::free(), peer: env::ports::free() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// The flags by which a data folder is made for this site.
    pub fn restore_flags(&self, data: &str) -> Vec<String> {
        let peer = self.peer_url();
        let data = self.path(data).display().to_string();
        ["--name", "m", "--data-dir", &data, "--initial-cluster", &format!("m={peer}")]
            .into_iter()
            .map(str::to_owned)
            .chain(["--initial-advertise-peer-urls".to_owned(), peer.clone()])
            .collect()
    }

    pub fn start(&self, data: &str) -> Member {
        let mut command = trierarch();
        command.arg("etcd");
        self.run(command, data)
    }

    pub fn start_etcd(&self, program: &Path, data: &str) -> Member {
        self.run(Command::new(program), data)
    }

    fn run(&self, command: Command, data: &str) -> Member {
        let member = self.alone(command, data, &[]);
        member.wait();
        member
    }

    /// The one member of a cluster, of whatever program and with further flags; does not wait.
    pub fn alone(&self, command: Command, data: &str, flags: &[String]) -> Member {
        let cluster = ["--initial-cluster".to_owned(), format!("m={}", self.peer_url())];
        self.spawn(command, data, "m", &[&cluster, flags].concat())
    }

    /// Starts one of several members, whose cluster is said by flags.
    pub fn start_one(&self, data: &str, name: &str, cluster: &[String]) -> Member {
        let mut command = trierarch();
        command.arg("etcd");
        self.spawn(command, data, name, cluster)
    }

    /// What starts one of several members, of whatever program, and does not wait.
    pub fn spawn(&self, mut command: Command, data: &str, name: &str, cluster: &[String]) -> Member {
        let (client, peer) = (self.endpoint(), self.peer_url());
        command.args(["--name", name, "--data-dir"]).arg(self.path(data)).args(cluster);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        let log = std::fs::File::create(self.path(&format!("{data}.log"))).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        // Without a scheme: `etcdctl endpoint hashkv` of 3.4 makes it a part of the authority.
        let endpoint = format!("127.0.0.1:{}", self.client);
        Member { process: command.spawn().expect("start"), endpoint }
    }

    pub fn log(&self, data: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{data}.log"))).expect("a log")
    }
}

/// A member that runs; it is killed when it is dropped.
pub struct Member {
    process: Child,
    pub endpoint: String,
}

impl Member {
    /// Waits until it serves, if only to ask who calls.
    pub fn wait(&self) {
        eventually("the member serves", || {
            let (healthy, text) = outcome(self.etcdctl().args(["endpoint", "health"]));
            (healthy || text.contains("user name is empty")).then_some(())
        });
    }

    pub fn etcdctl(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]);
        command
    }

    /// What `etcdctl` prints.
    pub fn ask(&self, arguments: &str) -> String {
        good(self.etcdctl().args(arguments.split_whitespace())).trim().to_owned()
    }

    /// The revision that it has reached.
    pub fn revision(&self) -> i64 {
        let text = self.ask("get /none -w json");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["header"]["revision"].as_i64().expect("a revision")
    }

    /// All keys as they were at each of these revisions.
    pub fn history(&self, revisions: RangeInclusive<i64>) -> Vec<String> {
        let at = |revision| {
            let fields = self.ask(&format!("get --prefix / --rev {revision} -w fields"));
            let past = |line: &&str| {
                !line.starts_with("\"Revision\"") && !HEADER.iter().any(|name| line.contains(name))
            };
            let lines = fields.lines().filter(past);
            lines.collect::<Vec<_>>().join("\n")
        };
        revisions.map(at).collect()
    }

    /// A page of its HTTP server.
    pub fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.endpoint).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.endpoint);
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits until it ends by itself; whether that was in order.
    pub fn ends(mut self) -> bool {
        eventually("the process ends", || self.process.try_wait().expect("a child")).success()
    }

    /// Stops it as an operator does, and waits.
    pub fn stop(mut self) {
        good(Command::new("kill").arg(self.process.id().to_string()));
        drop(self.process.wait());
    }

    /// All keys with their revisions, leases, users and roles, as text.
    pub fn picture(&self, root: Option<&str>) -> String {
        let user = root.map(|root| format!("--user {root} ")).unwrap_or_default();
        let ask = |what: &str| self.ask(&format!("{user}{what}"));
        let fields = ask("get --prefix / -w fields");
        let keys: Vec<&str> =
            fields.lines().filter(|line| !HEADER.iter().any(|name| line.contains(name))).collect();
        let users = ask("user list");
        let details: Vec<String> =
            users.lines().map(|name| ask(&format!("user get {name}")).replace("\r", "")).collect();
        let roles = ask("role list");
        // etcd and Trierarch show what the role `root` permits in different ways.
        let roles = roles.lines().filter(|name| *name != "root");
        let permissions: Vec<String> = roles.map(|name| ask(&format!("role get {name}"))).collect();
        // In no order.
        let leases = ask("lease list");
        let mut leases: Vec<&str> = leases.lines().collect();
        leases.sort_unstable();
        let parts = [keys.join("\n"), details.join("\n"), permissions.join("\n"), leases.join("\n")];
        parts.join("\n--\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Fills a store with something of everything; a user `root` with the password `pw` exists, authentication is off.
pub fn fill(member: &Member) -> String {
    let granted = member.ask("lease grant 1000");
    let lease = granted.split_whitespace().nth(1).expect("a lease").to_owned();
    for number in 0..20 {
        member.ask(&format!("put /k{number} v{number}"));
    }
    member.ask("put /k3 again");
    member.ask(&format!("put --lease={lease} /leased x"));
    member.ask("del /k2");
    member.ask("compact 8");
    member.ask("put /k2 reborn");
    for words in [
        "user add root:pw",
        "user add reader:pw2",
        "role add root",
        "role add r",
        "role grant-permission r read /k --prefix=true",
        "user grant-role root root",
        "user grant-role reader r",
    ] {
        member.ask(words);
    }
    lease
}

//! A member of Trierarch or of etcd, and the tools that talk to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

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

/// Polls until `check` has an answer.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let clock = env::Env::real().clock;
    let end = clock.monotonic() + DEADLINE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(clock.monotonic() < end, "{what} did not happen in {} s", DEADLINE.as_secs());
        std::thread::sleep(POLL);
    }
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

/// `etcdutl` of 3.7.
pub fn etcdutl() -> Command {
    Command::new(tool("etcdutl-3.7.1", "etcdutl"))
}

/// Debian's etcd.
pub fn etcd_34() -> PathBuf {
    tool("etcd-3.4", "3.4")
}

/// The etcd whose place we take.
pub fn etcd_37() -> PathBuf {
    tool("etcd-3.7.1", "3.7.1")
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
        let cluster = ["--initial-cluster".to_owned(), format!("m={}", self.peer_url())];
        let member = self.spawn(command, data, "m", &cluster);
        member.wait();
        member
    }

    /// Starts one of several members, whose cluster is said by flags.
    pub fn start_one(&self, data: &str, name: &str, cluster: &[String]) -> Member {
        let mut command = trierarch();
        command.arg("etcd");
        self.spawn(command, data, name, cluster)
    }

    fn spawn(&self, mut command: Command, data: &str, name: &str, cluster: &[String]) -> Member {
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
    /// Waits until it serves.
    pub fn wait(&self) {
        eventually("the member serves", || {
            outcome(self.etcdctl().args(["endpoint", "health"])).0.then_some(())
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
        let keys: Vec<&str> = fields
            .lines()
            .filter(|line| !["ClusterID", "MemberID", "RaftTerm"].iter().any(|name| line.contains(name)))
            .collect();
        let users = ask("user list");
        let details: Vec<String> =
            users.lines().map(|name| ask(&format!("user get {name}")).replace("\r", "")).collect();
        let roles = ask("role list");
        // etcd and Trierarch show what the role `root` permits in different ways.
        let roles = roles.lines().filter(|name| *name != "root");
        let permissions: Vec<String> = roles.map(|name| ask(&format!("role get {name}"))).collect();
        let leases = ask("lease list");
        [keys.join("\n"), details.join("\n"), permissions.join("\n"), leases].join("\n--\n")
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

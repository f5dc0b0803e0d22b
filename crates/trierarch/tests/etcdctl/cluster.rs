//! A cluster of the store alone, and an `etcdctl` that talks to it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Members; they end when this is dropped.
pub struct Members {
    processes: Vec<Child>,
    pub endpoints: Vec<String>,
    folder: TempDir,
}

impl Members {
    pub fn start(size: usize) -> Self {
        let urls: Vec<String> =
            (0..2 * size).map(|_| format!("http://127.0.0.1:{}", env::ports::free())).collect();
        let (clients, peers) = urls.split_at(size);
        let initial: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let folder = tempfile::tempdir().expect("folder");
        let start = |(n, (client, peer)): (usize, (&String, &String))| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
            command.args(["etcd", "--name", &format!("m{n}"), "--data-dir"]);
            command.arg(folder.path().join(format!("m{n}")));
            command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.args(["--initial-cluster", &initial.join(",")]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start")
        };
        let processes = clients.iter().zip(peers).enumerate().map(start).collect();
        let members = Self { processes, endpoints: clients.to_vec(), folder };
        let cli = members.cli(Path::new("etcdctl"));
        eventually("all members serve", || cli.run(&["endpoint", "health"]).0.then_some(()));
        // The version of the cluster is decided a moment later.
        eventually("the cluster has a version", || {
            let (_, text) = cli.run(&["endpoint", "status", "-w", "json"]);
            (!text.contains("no leader")).then_some(())
        });
        members
    }

    pub fn cli(&self, program: &Path) -> Cli {
        Cli {
            program: program.to_owned(),
            endpoints: self.endpoints.clone(),
            folder: self.folder.path().to_owned(),
        }
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

/// One `etcdctl`.
pub struct Cli {
    program: PathBuf,
    pub endpoints: Vec<String>,
    pub folder: PathBuf,
}

impl Cli {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // 3.4 knows two APIs, and its successors complain about the choice.
        if self.program.as_os_str() == "etcdctl" {
            command.env("ETCDCTL_API", "3");
        }
        command.args(["--endpoints", &self.endpoints.join(",")]).args(arguments);
        command
    }

    /// The same program, for other endpoints.
    pub fn at(&self, endpoints: &[String]) -> Self {
        Self { program: self.program.clone(), endpoints: endpoints.to_vec(), folder: self.folder.clone() }
    }

    /// Both outputs, and whether it succeeded.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().expect("etcdctl is there");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What a command that succeeds prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("etcdctl is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {errors}", self.program.display());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command that is refused says.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let (good, text) = self.run(arguments);
        assert!(!good, "{arguments:?} was not refused: {text}");
        text
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.ok(&[arguments, &["-w", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// What a command prints that is told something.
    pub fn told(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl is there");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The first lines of a command that does not end by itself; `meanwhile` is done when it has begun.
    pub fn lines(&self, arguments: &[&str], count: usize, meanwhile: impl FnOnce()) -> Vec<String> {
        let mut command = self.command(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("etcdctl is there");
        meanwhile();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().take(count);
        let lines: Vec<String> = lines.map(|line| line.expect("text")).collect();
        drop(child.kill());
        drop(child.wait());
        assert_eq!(lines.len(), count, "{arguments:?} ended early: {lines:?}");
        lines
    }

    /// Whether this is etcdctl 3.4, which knows fewer commands.
    pub fn is_old(&self) -> bool {
        self.ok(&["version"]).contains("etcdctl version: 3.4")
    }
}

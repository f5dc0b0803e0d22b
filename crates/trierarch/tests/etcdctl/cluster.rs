//! A cluster of the store alone, and an `etcdctl` that talks to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::shared::eventually;

/// Members; they end when this is dropped.
pub struct Members {
    processes: Vec<Child>,
    pub endpoints: Vec<String>,
    folder: TempDir,
}

impl Members {
    pub fn start(size: usize) -> Self {
        Self::start_with(size, &[])
    }

    /// With further flags.
    pub fn start_with(size: usize, flags: &[&str]) -> Self {
        Self::start_under(&[], size, flags)
    }

    /// With further flags, run by a program that limits them, with its own flags.
    pub fn start_under(limiter: &[&str], size: usize, flags: &[&str]) -> Self {
        let urls: Vec<String> =
            (0..2 * size).map(|_| format!("http://127.0.0.1:{}", env::ports::free())).collect();
        let (clients, peers) = urls.split_at(size);
        let initial: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let folder = tempfile::tempdir().expect("folder");
        let start = |(n, (client, peer)): (usize, (&String, &String))| {
            let words = [limiter, &[env!("CARGO_BIN_EXE_trierarch"), "etcd"]].concat();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["--name", &format!("m{n}"), "--data-dir"]);
            command.arg(folder.path().join(format!("m{n}")));
            command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.args(["--initial-cluster", &initial.join(",")]).args(flags);
            let log = std::fs::File::create(folder.path().join(format!("m{n}.log"))).expect("log");
            command.stdout(Stdio::null()).stderr(log).spawn().expect("start")
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

    /// Ends a member at once.
    pub fn kill(&mut self, member: usize) {
        self.processes[member].kill().expect("it runs");
        self.processes[member].wait().expect("it ends");
    }

    /// What a member has logged.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("m{member}.log"))).expect("a log")
    }

    /// The number of a member's process.
    pub fn process(&self, member: usize) -> u32 {
        self.processes[member].id()
    }

    /// A page of a member: the code and the body.
    pub fn get(&self, member: usize, path: &str) -> (u16, String) {
        self.ask(member, &format!("GET {path} HTTP/1.1\r\n"), "")
    }

    /// What a member answers to JSON.
    pub fn post(&self, member: usize, path: &str, body: &str) -> (u16, String) {
        self.ask(member, &format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len()), body)
    }

    fn ask(&self, member: usize, head: &str, body: &str) -> (u16, String) {
        let address = self.endpoints[member].trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!("{head}Host: {address}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "a body in one piece");
        (code, body.to_owned())
    }

    /// A program in front of the members, once it has said `word`.
    pub fn front(&self, kind: &str, word: &str) -> Front {
        let listen = format!("127.0.0.1:{}", env::ports::free());
        let log = self.folder.path().join(format!("{kind}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
        command.args(["etcd", kind, "start", "--listen-addr", &listen]);
        command.args(["--endpoints", &self.endpoints.join(",")]);
        let process = command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("log"));
        let front = Front { process: process.spawn().expect("start"), endpoint: format!("http://{listen}") };
        eventually("it is ready", || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains(word)).then_some(())
        });
        front
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

/// A gateway or a proxy; it ends when it is dropped.
pub struct Front {
    process: Child,
    pub endpoint: String,
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
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

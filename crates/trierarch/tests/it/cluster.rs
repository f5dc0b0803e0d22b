//! A cluster that `trierarch up` brought up in a folder of its own, on ports of its own; `down` when it is dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::shared::eventually;

pub const IMAGE: &str = "trierarch.local/busybox:1";
/// Ports that a cluster of three masters and two nodes takes, before its offset is added.
const PORTS: [u16; 11] = [2379, 2380, 22379, 22380, 32379, 32380, 6443, 6444, 6445, 10250, 10251];

pub struct Cluster {
    folder: TempDir,
    pub offset: u16,
}

/// A process that ends when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_trierarch"))
}

/// Standard output and error of a command, and whether it succeeded.
pub fn outcome(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
    (status.success(), text)
}

impl Cluster {
    /// Brings a cluster up with further flags of `up`.
    pub fn up(flags: &[&str]) -> Self {
        let cluster = Self { folder: tempfile::tempdir().expect("folder"), offset: free_offset() };
        let (good, text) = outcome(
            program()
                .arg("up")
                .args(["--dir", &cluster.dir()])
                .args(["--port-offset", &cluster.offset.to_string()])
                .args(flags),
        );
        assert!(good, "{text}");
        cluster
    }

    fn dir(&self) -> String {
        self.folder.path().join("cluster").display().to_string()
    }

    pub fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("cluster").join(path)
    }

    /// `up` once more, without flags; what it prints.
    pub fn up_again(&self) -> String {
        let (good, text) = outcome(program().arg("up").args(["--dir", &self.dir()]));
        assert!(good, "{text}");
        text
    }

    /// `down`; what it prints.
    pub fn down(&self) -> String {
        let (good, text) = outcome(program().arg("down").args(["--dir", &self.dir()]));
        assert!(good, "{text}");
        text
    }

    /// Runs `kubectl`, its arguments split at blanks; whether it succeeded and what it printed.
    pub fn try_kubectl(&self, arguments: &str) -> (bool, String) {
        let mut command = Command::new(tools().join("kubectl"));
        outcome(
            command
                .args(arguments.split(' '))
                .env("KUBECONFIG", self.file("kubeconfig"))
                .env("HOME", self.folder.path()),
        )
    }

    /// Runs `kubectl`, which must succeed; what it printed.
    pub fn kubectl(&self, arguments: &str) -> String {
        let (good, text) = self.try_kubectl(arguments);
        assert!(good, "kubectl {arguments}: {text}");
        text
    }

    /// Waits until `kubectl` prints exactly `wanted`.
    pub fn until(&self, arguments: &str, wanted: &str) {
        let is = || (self.try_kubectl(arguments).1.trim() == wanted).then_some(());
        eventually(&format!("kubectl {arguments}: {wanted:?}"), is);
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let file = self.folder.path().join("manifest.yaml");
        std::fs::write(&file, manifest).expect("write");
        self.kubectl(&format!("apply -f {}", file.display()));
    }

    /// Runs `etcdctl` against all masters.
    pub fn etcdctl(&self, arguments: &str) -> String {
        let endpoints: Vec<String> =
            [2379, 22379, 32379].iter().map(|port| format!("127.0.0.1:{}", port + self.offset)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        let (good, text) = outcome(command.args(arguments.split(' ')));
        assert!(good, "etcdctl {arguments}: {text}");
        text
    }

    /// The pid of a process of the cluster, `m1` or `agent-n1` for instance.
    pub fn pid(&self, name: &str) -> String {
        let record = std::fs::read_to_string(self.file(&format!("run/{name}.json"))).expect("record");
        let digits = record.split("\"pid\":").nth(1).expect("a pid");
        digits.chars().take_while(char::is_ascii_digit).collect()
    }

    /// Sends a signal, `KILL` for instance.
    pub fn signal(&self, name: &str, signal: &str) {
        let (good, text) = outcome(Command::new("kill").args([&format!("-{signal}"), &self.pid(name)]));
        assert!(good, "{text}");
    }

    /// Ends a process with a signal, `TERM` for instance, and says how long it took.
    pub fn end(&self, name: &str, signal: &str) -> Duration {
        let stat = format!("/proc/{}/stat", self.pid(name));
        let clock = env::Env::real().clock;
        let start = clock.monotonic();
        self.signal(name, signal);
        eventually("the end of a process", || {
            // Nobody may have waited for it yet.
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
        clock.monotonic() - start
    }

    /// The master that leads the scheduler, and with it everything else.
    pub fn leader(&self) -> String {
        let holder = "get lease -n kube-system kube-scheduler -o jsonpath={.spec.holderIdentity}";
        self.kubectl(holder).trim().trim_start_matches("trierarch/").to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.file("cluster.json").exists() {
            drop(outcome(program().arg("down").args(["--dir", &self.dir()])));
        }
    }
}

/// The folder in which `scripts/tools` puts kubectl and helm.
pub fn tools() -> PathBuf {
    let under = |name: &str, rest: &str| Some(PathBuf::from(std::env::var_os(name)?).join(rest));
    let cache = under("TRIERARCH_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "trierarch"))
        .or_else(|| under("HOME", ".cache/trierarch"));
    let tools = cache.expect("HOME is set").join("tools");
    assert!(tools.join("kubectl").exists(), "kubectl is missing: run `scripts/tools`");
    tools
}

/// Clusters that fit below the ports that the kernel gives to outgoing connections (32768 and above): the largest port
/// is 32380, and three masters have neighbouring ports.
const PLACES: u16 = 128;
const STEP: u16 = 3;

/// An offset at which every port is free. Tests of one process each begin elsewhere.
fn free_offset() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(PLACES)).expect("small");
    for _ in 0..PLACES {
        let offset = STEP * (1 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % PLACES);
        if PORTS.iter().all(|port| env::ports::claim(port + offset)) {
            return offset;
        }
    }
    panic!("no free ports were found");
}

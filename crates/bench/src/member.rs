//! Servers as processes of their own, on free ports of loopback and in a folder that goes with them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use etcd_client::Client;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::proc;

const START_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Whose server.
#[derive(Clone, Debug)]
pub enum Program {
    /// Ours.
    Trierarch(PathBuf),
    /// The peer.
    Etcd(PathBuf),
}

impl Program {
    /// For tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Trierarch(_) => "trierarch",
            Self::Etcd(_) => "etcd",
        }
    }

    /// Both take etcd's flags.
    fn command(&self) -> Command {
        match self {
            Self::Trierarch(path) => {
                let mut command = Command::new(path);
                command.arg("etcd");
                command
            }
            Self::Etcd(path) => Command::new(path),
        }
    }
}

/// The members of one cluster; they end when it is dropped.
pub struct Members {
    processes: Vec<Child>,
    ports: Vec<u16>,
    folder: TempDir,
}

impl Members {
    /// Starts `size` members and waits until each answers.
    pub async fn start(env: &Env, program: &Program, size: usize) -> Result<Self> {
        let ports = free_ports(2 * size)?;
        let (clients, peers) = ports.split_at(size);
        let mut members =
            Self { processes: Vec::new(), ports: clients.to_vec(), folder: tempfile::tempdir()? };
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("m{n}=http://127.0.0.1:{port}")).collect();
        for (number, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let log = File::create(members.log(number))?;
            let process = program
                .command()
                .arg(format!("--name=m{number}"))
                .arg(format!("--data-dir={}", members.folder.path().join(format!("m{number}")).display()))
                .arg(format!("--listen-client-urls={client}"))
                .arg(format!("--advertise-client-urls={client}"))
                .arg(format!("--listen-peer-urls={peer}"))
                .arg(format!("--initial-advertise-peer-urls={peer}"))
                .arg(format!("--initial-cluster={}", initial.join(",")))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {program:?}"))?;
            members.processes.push(process);
        }
        members.ready(env).await?;
        Ok(members)
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}.log"))
    }

    async fn ready(&self, env: &Env) -> Result<()> {
        let deadline = env.clock.monotonic() + START_DEADLINE;
        for number in 0..self.ports.len() {
            while !self.answers(number).await {
                if env.clock.monotonic() > deadline {
                    bail!("member {number} does not answer: {}", last_line(&self.log(number)));
                }
                env.clock.sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn answers(&self, number: usize) -> bool {
        let Ok(mut client) = Client::connect([self.endpoint(number)], None).await else { return false };
        client.get("k", None).await.is_ok()
    }

    /// Where a member serves clients.
    pub fn endpoint(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[number % self.ports.len()])
    }

    /// The processor time that all members have used.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|process| proc::cpu(process.id())).sum()
    }

    /// The most memory that any member has used, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.processes.iter().map(|process| proc::memory_kib(process.id()).1).max().unwrap_or(0)
    }

    /// How often the first member has made its log durable; `None` where it does not say.
    pub async fn syncs(&self) -> Option<f64> {
        let text = self.metrics().await.ok()?;
        let names = ["trierarch_log_syncs_total ", "etcd_disk_wal_fsync_duration_seconds_count "];
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        names.into_iter().find_map(value)?.trim().parse().ok()
    }

    async fn metrics(&self) -> Result<String> {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", self.ports[0])).await?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        Ok(text)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or_default().to_owned()
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|listener| listener.local_addr().map(|address| address.port()));
    Ok(ports.collect::<Result<_, _>>()?)
}

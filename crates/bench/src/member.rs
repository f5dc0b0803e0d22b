//! Servers as processes of their own, on free ports of loopback and in a folder that goes with them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protos::etcd::etcdserverpb as pb;
use tempfile::TempDir;

use crate::load::Servers;
use crate::proc;
use crate::wire::Connection;

const START_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(2);
/// Above what any row stores: etcd's default would stop the larger ones.
const QUOTA: &str = "--quota-backend-bytes=68719476736";
/// The path of a call that every server has.
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// The path of reads.
pub const RANGE: &str = "/etcdserverpb.KV/Range";

/// Whose server.
#[derive(Clone, Debug)]
pub struct Program {
    /// For tables.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Program {
    /// Ours, as opposed to those it is compared with.
    pub fn is_ours(&self) -> bool {
        self.name == "trierarch"
    }

    /// All take etcd's flags.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if self.is_ours() {
            command.arg("etcd");
        } else {
            command.arg(QUOTA);
        }
        command
    }
}

/// The members of one cluster; they end when it is dropped.
pub struct Members {
    env: Env,
    program: Program,
    processes: Vec<Child>,
    ports: Vec<u16>,
    peers: Vec<u16>,
    folder: TempDir,
}

impl Members {
    /// Starts `size` members with their data below `place` and waits until each answers.
    pub async fn start(env: &Env, program: &Program, size: usize, place: &Path) -> Result<Self> {
        let ports = free_ports(2 * size)?;
        let (clients, peers) = ports.split_at(size);
        let mut members = Self {
            env: env.clone(),
            program: program.clone(),
            processes: Vec::new(),
            ports: clients.to_vec(),
            peers: peers.to_vec(),
            folder: tempfile::Builder::new().prefix("bench-").tempdir_in(place)?,
        };
        for number in 0..size {
            let process = members.spawn(number)?;
            members.processes.push(process);
        }
        members.ready().await?;
        Ok(members)
    }

    fn spawn(&self, number: usize) -> Result<Child> {
        let address = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = (address(self.ports[number]), address(self.peers[number]));
        let initial = self.peers.iter().enumerate().map(|(n, port)| format!("m{n}={}", address(*port)));
        let log = File::options().create(true).append(true).open(self.log(number))?;
        self.program
            .command()
            .arg(format!("--name=m{number}"))
            .arg(format!("--data-dir={}", self.data(number).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", initial.collect::<Vec<_>>().join(",")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.program))
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}.log"))
    }

    /// How many.
    pub fn size(&self) -> usize {
        self.ports.len()
    }

    /// Waits until each member answers a linearizable read.
    pub async fn ready(&self) -> Result<()> {
        for number in 0..self.ports.len() {
            self.answers(number).await?;
        }
        Ok(())
    }

    /// Waits until a member answers a linearizable read.
    pub async fn answers(&self, number: usize) -> Result<()> {
        let deadline = self.env.clock.monotonic() + START_DEADLINE;
        while !self.answers_now(number).await {
            if self.env.clock.monotonic() > deadline {
                bail!("member {number} does not answer: {}", last_line(&self.log(number)));
            }
            self.env.clock.sleep(POLL).await;
        }
        Ok(())
    }

    async fn answers_now(&self, number: usize) -> bool {
        let Ok(mut connection) = Connection::open(self.ports[number]).await else { return false };
        let request = pb::RangeRequest { key: "k".into(), ..pb::RangeRequest::default() };
        connection.call::<pb::RangeResponse>(RANGE, &request).await.is_ok()
    }

    /// A connection to a member; numbers go round.
    pub async fn connect(&self, number: usize) -> Result<Connection> {
        Connection::open(self.port(number)).await
    }

    /// Where a member serves clients; numbers go round.
    pub fn port(&self, number: usize) -> u16 {
        self.ports[number % self.ports.len()]
    }

    /// The number of the member that leads.
    pub async fn leader(&self) -> Result<usize> {
        for number in 0..self.size() {
            let status: pb::StatusResponse =
                self.connect(number).await?.call(STATUS, &pb::StatusRequest::default()).await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(number);
            }
        }
        bail!("nobody leads")
    }

    /// Kills a member at once and waits for its end.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.processes[number].kill()?;
        self.processes[number].wait()?;
        Ok(())
    }

    /// Starts a member that was killed.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.processes[number] = self.spawn(number)?;
        Ok(())
    }

    /// Sends a member a signal.
    pub fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.processes[number].id())?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// The process of a member.
    pub fn pid(&self, number: usize) -> u32 {
        self.processes[number].id()
    }

    /// The processor time that all members have used.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|process| proc::cpu(process.id())).sum()
    }

    /// Resident memory of the largest member in MiB: now, and the most so far.
    pub fn memory(&self) -> (f64, f64) {
        let each = self.processes.iter().map(|process| proc::memory_kib(process.id()));
        let (now, peak) = each.fold((0, 0), |most, each| (most.0.max(each.0), most.1.max(each.1)));
        (now as f64 / 1024.0, peak as f64 / 1024.0)
    }

    /// Forgets the peak of memory: from here on it is counted anew.
    pub fn forget_peak(&self) {
        for process in &self.processes {
            // Where the kernel refuses, the peak stays what it was.
            drop(std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5"));
        }
    }

    /// What the first member has on disk in MiB: without its log, and the log.
    pub fn disk(&self) -> (f64, f64) {
        proc::disk_bytes(&self.data(0), false)
    }
}

impl Servers for Members {
    async fn connect(&self, number: usize) -> Result<Connection> {
        Self::connect(self, number).await
    }

    fn cpu(&self) -> Duration {
        Self::cpu(self)
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

/// The last line of a log, for errors.
pub fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or_default().to_owned()
}

/// Ports of loopback that nobody listens on.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|listener| listener.local_addr().map(|address| address.port()));
    Ok(ports.collect::<Result<_, _>>()?)
}

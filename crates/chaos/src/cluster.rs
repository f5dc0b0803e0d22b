//! Masters as processes of their own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use etcd_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster; it and its folder go when it is dropped.
pub struct Cluster {
    binary: PathBuf,
    folder: TempDir,
    initial_cluster: String,
    masters: Vec<Master>,
    env: Env,
}

struct Master {
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Cluster {
    /// Starts `size` masters and waits until one leads.
    pub async fn start(env: &Env, binary: &Path, size: usize) -> Result<Self> {
        let ports = free_ports(2 * size)?;
        let masters: Vec<Master> = ports
            .chunks(2)
            .map(|pair| Master { client_port: pair[0], peer_port: pair[1], process: None })
            .collect();
        let peers = masters.iter().enumerate();
        let initial_cluster: Vec<String> =
            peers.map(|(index, master)| format!("m{index}=http://127.0.0.1:{}", master.peer_port)).collect();
        let mut cluster = Self {
            binary: binary.to_owned(),
            folder: tempfile::tempdir()?,
            initial_cluster: initial_cluster.join(","),
            masters,
            env: env.clone(),
        };
        for index in 0..size {
            cluster.start_master(index)?;
        }
        cluster.leader().await?;
        Ok(cluster)
    }

    /// How many masters there are.
    pub fn size(&self) -> usize {
        self.masters.len()
    }

    /// Where a master serves clients.
    pub fn endpoint(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.masters[index].client_port)
    }

    /// Starts a master, or starts it again on its folder.
    pub fn start_master(&mut self, index: usize) -> Result<()> {
        let log = self.folder.path().join(format!("m{index}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let master = &mut self.masters[index];
        let mut command = Command::new(&self.binary);
        command
            .arg("server")
            .arg(format!("--name=m{index}"))
            .arg(format!("--data-dir={}", self.folder.path().join(format!("m{index}")).display()))
            .arg(format!("--initial-cluster={}", self.initial_cluster))
            .arg(format!("--listen-peer-url=http://127.0.0.1:{}", master.peer_port))
            .arg(format!("--listen-client-url=http://127.0.0.1:{}", master.client_port))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?;
        master.process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut process) = self.masters[index].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let Some(process) = &self.masters[index].process else { bail!("m{index} does not run") };
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    /// The master that leads, once one does.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = self.env.clock.monotonic() + START_DEADLINE;
        loop {
            for index in 0..self.size() {
                if self.masters[index].process.is_some() && self.leads(index).await.unwrap_or(false) {
                    return Ok(index);
                }
            }
            if self.env.clock.monotonic() > deadline {
                bail!("no master leads:\n{}", self.last_words());
            }
            self.env.clock.sleep(POLL).await;
        }
    }

    async fn leads(&self, index: usize) -> Result<bool> {
        let ask = async {
            let mut client = Client::connect([self.endpoint(index)], None).await?;
            let status = client.status().await?;
            anyhow::Ok(status.header().map(|header| header.member_id()) == Some(status.leader()))
        };
        tokio::time::timeout(ASK_TIMEOUT, ask).await?
    }

    /// The end of each master's log.
    pub fn last_words(&self) -> String {
        let tail = |index: usize| {
            let text =
                fs::read_to_string(self.folder.path().join(format!("m{index}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("m{index}: {}", lines.join("\n    "))
        };
        (0..self.size()).map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.size() {
            // It may be stopped, or gone already.
            let _ = self.kill(index);
        }
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}

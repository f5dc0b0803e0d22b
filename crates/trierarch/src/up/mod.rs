//! `trierarch up` and `trierarch down`: a cluster of masters on this machine.
//!
//! Read `layout.rs` (what a cluster consists of, pure), then `process.rs` and `ready.rs` (when is it up). `up` may be
//! run again at any time: it starts what is not running, with its data, and leaves the rest alone.

mod layout;
mod process;
mod ready;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use env::Env;

use layout::Layout;
pub use layout::UpOptions;
use process::Processes;

use crate::kubeconfig;
use crate::pki::{self, Authority};

/// How long a process may take to stop before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// `trierarch down`.
#[derive(Args, Clone, Debug)]
pub struct DownOptions {
    /// The folder that `up` was given
    #[arg(long, default_value = ".trierarch")]
    pub dir: PathBuf,
}

/// Prints a step with the time since the start.
struct Progress {
    env: Env,
    start: tokio::time::Instant,
}

impl Progress {
    fn new(env: &Env) -> Self {
        Self { env: env.clone(), start: env.clock.monotonic() }
    }

    fn elapsed(&self) -> f64 {
        (self.env.clock.monotonic() - self.start).as_secs_f64()
    }

    fn say(&self, text: &str) {
        tell(&format!("[{:5.1} s] {text}", self.elapsed()));
    }
}

/// Brings the cluster up and returns when every master is ready.
pub async fn up(env: Env, options: UpOptions) -> Result<()> {
    let progress = Progress::new(&env);
    let layout = lay_out(options)?;
    let processes = Processes::new(layout.dir());
    write_credentials(&layout)?;
    save(&layout)?;
    let started = start_masters(&progress, &layout, &processes)?;
    ready::masters(&env, &layout, &processes).await?;
    progress.say("masters are ready");
    print_next(&layout, started, progress.elapsed());
    Ok(())
}

/// Removes the cluster: its processes and its folder.
pub async fn down(env: Env, options: DownOptions) -> Result<()> {
    let progress = Progress::new(&env);
    let dir = absolute(&options.dir)?;
    let Some(layout) = load(&dir)? else {
        tell(&format!("no cluster in {}", dir.display()));
        return Ok(());
    };
    let processes = Processes::new(layout.dir());
    for name in processes.names() {
        processes.stop(&env.clock, &name, STOP_GRACE).await?;
    }
    progress.say("processes are stopped");
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    progress.say(&format!("{} is removed", dir.display()));
    Ok(())
}

fn lay_out(options: UpOptions) -> Result<Layout> {
    let dir = absolute(&options.dir)?;
    let layout = Layout::new(options, dir.clone()).map_err(anyhow::Error::msg)?;
    match load(&dir)? {
        Some(saved) if saved != layout => {
            bail!(
                "{} holds a cluster that was brought up with other options: run `down` first",
                dir.display()
            )
        }
        _ => Ok(layout),
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("cannot use the folder {}", dir.display()))
}

fn description(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

fn load(dir: &Path) -> Result<Option<Layout>> {
    match fs::read(description(dir)) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged", description(dir).display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", description(dir).display())),
    }
}

fn save(layout: &Layout) -> Result<()> {
    Ok(fs::write(description(layout.dir()), serde_json::to_vec_pretty(layout)?)?)
}

/// Keys, certificates and the kubeconfig; what is there stays.
fn write_credentials(layout: &Layout) -> Result<()> {
    let dir = layout.pki();
    let authority = Authority::ensure(&dir.join("ca"), "kubernetes")?;
    let peers = Authority::ensure(&dir.join("etcd/ca"), "etcd-ca")?;
    pki::ensure_service_account_key(&dir)?;
    authority.ensure_issued(&dir.join("apiserver-kubelet-client"), &Layout::kubelet_client_leaf())?;
    for master in layout.masters() {
        authority
            .ensure_issued(&dir.join(format!("apiserver-{}", master.name)), &layout.master_leaf(&master))?;
        peers.ensure_issued(&dir.join(format!("etcd/peer-{}", master.name)), &layout.peer_leaf(&master))?;
    }
    if !layout.kubeconfig().exists() {
        let admin = authority.issue(&Layout::admin_leaf())?;
        let endpoints = layout.endpoints();
        kubeconfig::write(
            &layout.kubeconfig(),
            "kubernetes-admin",
            &endpoints,
            authority.certificate(),
            &admin,
        )?;
    }
    Ok(())
}

fn start_masters(progress: &Progress, layout: &Layout, processes: &Processes) -> Result<usize> {
    let program = std::env::current_exe()?;
    let mut started = Vec::new();
    for master in layout.masters() {
        if processes.ensure(&layout.server_command(&program, &master))? {
            started.push(master.name);
        }
    }
    if !started.is_empty() {
        progress.say(&format!("started masters {}", started.join(" ")));
    }
    Ok(started.len())
}

fn print_next(layout: &Layout, started: usize, seconds: f64) {
    let state = match started {
        0 => "Everything runs already.".to_owned(),
        1 => format!("Ready in {seconds:.1} s; one process was started."),
        count => format!("Ready in {seconds:.1} s; {count} processes were started."),
    };
    let lines = [
        format!("\n{state} Try:\n"),
        format!("  export KUBECONFIG={}", layout.kubeconfig().display()),
        "  kubectl create deployment web --image=web --replicas=3".to_owned(),
        "  kubectl get deployments,replicasets,pods".to_owned(),
        format!("  ETCDCTL_API=3 etcdctl --endpoints {} endpoint status -w table", layout.store_endpoints()),
        format!("\nLogs are in {}. `make down` removes everything.", layout.dir().join("logs").display()),
    ];
    tell(&lines.join("\n"));
}

/// Prints for people; a reader that has gone is no failure.
fn tell(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{text}"));
}

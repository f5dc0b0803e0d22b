//! `trierarch up` and `trierarch down`: a whole cluster on this machine.
//!
//! Read `layout.rs` (what a cluster consists of, pure), then `machine.rs` (namespaces, containerd), `images.rs`,
//! `process.rs`, `ready.rs` (when is it up) and `cleanup.rs`. `up` may be run again at any time: it starts what is
//! not running, with its data, and leaves the rest alone.

mod cleanup;
mod images;
mod layout;
mod machine;
mod process;
mod ready;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use env::Env;

pub use layout::UpOptions;
use layout::{Layout, Node};
use process::Processes;

/// How long a process may take to stop before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long containerd may take to answer after its start.
const CONTAINERD_START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

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

/// Brings the cluster up and returns when everything is Ready.
pub async fn up(env: Env, options: UpOptions) -> Result<()> {
    let progress = Progress::new(&env);
    let layout = lay_out(options)?;
    let processes = Processes::new(layout.dir());
    if layout.real {
        prepare_machine(&progress)?;
    } else {
        progress.say("not root (or --simulated): pods run on the SIMULATED runtime, no container is started");
    }
    layout.credentials().write()?;
    save(&layout)?;
    let mut started = start_machine(&env, &progress, &layout, &processes).await?;
    started += start_masters(&progress, &layout, &processes)?;
    ready::masters(&env, &layout, &processes).await?;
    progress.say("the masters are ready");
    started += start_agents(&layout, &processes)?;
    ready::nodes(&env, &layout, &processes).await?;
    progress.say(&match layout.options.nodes {
        1 => "the node is Ready".to_owned(),
        nodes => format!("{nodes} nodes are Ready"),
    });
    print_next(&layout, started, progress.elapsed());
    Ok(())
}

/// Removes the cluster: processes, namespaces, mounts, tables, files.
pub async fn down(env: Env, options: DownOptions) -> Result<()> {
    let progress = Progress::new(&env);
    let dir = absolute(&options.dir)?;
    let Some(layout) = load(&dir)? else {
        tell(&format!("no cluster in {}", dir.display()));
        return Ok(());
    };
    if layout.real && !nix::unistd::geteuid().is_root() {
        bail!("this cluster has real containers: run `down` as root");
    }
    let processes = Processes::new(layout.dir());
    stop_all(&env, &processes).await?;
    progress.say("processes are stopped");
    if layout.real {
        cleanup::remove_machine(&env.clock, &layout).await?;
        progress.say("containers, mounts, namespaces and tables are removed");
    }
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    progress.say(&format!("{} is removed", dir.display()));
    Ok(())
}

/// Agents first, so that they do not see masters go; then containerds and masters.
async fn stop_all(env: &Env, processes: &Processes) -> Result<()> {
    let mut names = processes.names();
    names.sort_by_key(|name| !name.starts_with("agent-"));
    for name in names {
        processes.stop(&env.clock, &name, STOP_GRACE).await?;
    }
    Ok(())
}

/// A cluster that is there already is brought up as it was, unless other options are asked for.
fn lay_out(options: UpOptions) -> Result<Layout> {
    let real = nix::unistd::geteuid().is_root() && !options.simulated;
    let dir = absolute(&options.dir)?;
    let plain = options == UpOptions { dir: options.dir.clone(), ..UpOptions::default() };
    let layout = Layout::new(options, dir.clone(), real).map_err(anyhow::Error::msg)?;
    match load(&dir)? {
        Some(saved) if plain && (saved.real == real || saved.options.simulated) => Ok(saved),
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

fn prepare_machine(progress: &Progress) -> Result<()> {
    let missing = machine::missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    progress.say(&format!("installing {}", missing.join(" ")));
    machine::install(&missing)
        .with_context(|| format!("cannot install what a node needs: apt-get install {}", missing.join(" ")))
}

/// Fabric, namespaces, containerds and images. Returns how many processes were started.
async fn start_machine(
    env: &Env,
    progress: &Progress,
    layout: &Layout,
    processes: &Processes,
) -> Result<usize> {
    if !layout.real {
        return Ok(0);
    }
    machine::ensure_fabric(layout).context("cannot make the network between the nodes")?;
    let mut started = 0;
    for node in layout.nodes() {
        machine::ensure_node(layout, &node)?;
        started += usize::from(processes.ensure(&machine::containerd_command(layout, &node))?);
    }
    for node in layout.nodes() {
        import_images(env, layout, processes, &node).await?;
    }
    progress.say("containerd runs on each node and has the first images");
    Ok(started)
}

async fn import_images(env: &Env, layout: &Layout, processes: &Processes, node: &Node) -> Result<()> {
    let deadline = env.clock.monotonic() + CONTAINERD_START;
    loop {
        let error = match machine::ensure_images(layout, node) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let name = format!("containerd-{}", node.name);
        if env.clock.monotonic() > deadline || processes.running(&name).is_none() {
            let log = processes.log(&name);
            return Err(error.context(format!(
                "containerd of {} does not answer: see {}",
                node.name,
                log.display()
            )));
        }
        env.clock.sleep(POLL).await;
    }
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

fn start_agents(layout: &Layout, processes: &Processes) -> Result<usize> {
    let program = std::env::current_exe()?;
    let mut started = 0;
    for node in layout.nodes() {
        let command = if layout.real {
            machine::agent_command(layout, &node, &program)
        } else {
            layout.agent_command(&program, &node)
        };
        started += usize::from(processes.ensure(&command)?);
    }
    Ok(started)
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
        "  kubectl get nodes -o wide".to_owned(),
        format!("  kubectl create deployment web --image={} --replicas=3", images::DEMO_IMAGE),
        "  kubectl expose deployment web --port=80".to_owned(),
        "  kubectl get pods -o wide -w".to_owned(),
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

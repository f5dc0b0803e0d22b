//! The API server beside Kubernetes' own: `trierarch server` processes, and kube-apiserver with etcd behind it.
//!
//! Both get the same certificates, the same pods and the same load, over TLS and HTTP/2. What is counted of ours is the
//! whole master, controllers and scheduler included; of the other the API server and its etcd, and nothing else runs.
//! Read `masters.rs` (servers as processes), `objects.rs` (what is stored), then a file a group of rows.

mod crds;
pub mod lines;
mod lists;
mod masters;
mod objects;
mod requests;
mod start;
mod watches;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use env::Env;

use self::lines::API;
use self::masters::{Control, Masters, Pki};
use crate::bench::Bench;
use crate::member::Program;
use crate::report::{Notes, Report, Setting};
use crate::{disk, located, proc, publish};

/// `bench api`.
#[derive(Args)]
pub struct ApiArgs {
    /// The `trierarch` program; it makes the certificates too
    #[arg(long)]
    binary: PathBuf,
    /// A `kube-apiserver` to compare with, as NAME=PATH
    #[arg(long, value_name = "NAME=PATH", requires = "etcd")]
    upstream: Vec<String>,
    /// The `etcd` behind it, as NAME=PATH
    #[arg(long, value_name = "NAME=PATH")]
    etcd: Option<String>,
    /// Leave Trierarch out
    #[arg(long, requires = "upstream")]
    only_upstream: bool,
    /// Runs of each row; medians are shown
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How long each load lasts, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rows to run, by the beginnings of their names; all without
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Masters
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    sizes: Vec<usize>,
    /// Where data lies: disk, memory (/dev/shm)
    #[arg(long, value_delimiter = ',', default_values_t = ["disk".to_owned()])]
    places: Vec<String>,
    /// A folder on the disk that is measured
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Pods that are read and watched; twice as many in the rows of memory
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
    /// Watchers of the rows of many
    #[arg(long, default_value_t = 1000)]
    watchers: u64,
    /// Definitions of custom resources
    #[arg(long, default_value_t = 1000)]
    crds: u64,
    /// Objects that are there when a master starts
    #[arg(long, default_value_t = 100_000)]
    objects: u64,
    /// Everything once and in small: whether it runs at all
    #[arg(long)]
    short: bool,
    /// A page whose table is written anew; not after a short run
    #[arg(long)]
    page: Option<PathBuf>,
}

/// What a run is to do.
pub struct Work {
    /// What every benchmark shares.
    pub bench: Bench,
    /// Pods that are read and watched.
    pub pods: u64,
    /// Watchers of the rows of many.
    pub watchers: u64,
    /// Definitions of custom resources.
    pub crds: u64,
    /// Objects that are there when a master starts.
    pub objects: u64,
    /// How long servers are left alone before their memory is read.
    pub settle: Duration,
    /// How long watchers that begin from nothing may take together.
    pub patience: Duration,
}

impl Work {
    fn new(env: &Env, args: &mut ApiArgs) -> Self {
        let mut settle = Duration::from_secs(10);
        if args.short {
            (args.runs, args.seconds) = (1, 1.0);
            (args.pods, args.watchers, args.crds, args.objects) = (500, 100, 20, 1000);
            args.places = vec!["memory".to_owned()];
            settle = Duration::from_secs(1);
        }
        let bench = Bench {
            env: env.clone(),
            length: Duration::from_secs_f64(args.seconds),
            keys: 0,
            gib: 0,
            rows: args.rows.clone(),
        };
        let (pods, watchers, crds, objects) = (args.pods, args.watchers, args.crds, args.objects);
        Self { bench, pods, watchers, crds, objects, settle, patience: watches::PATIENCE }
    }
}

/// Rows that share servers.
#[derive(Clone, Copy, Debug)]
enum Group {
    /// On servers that hold nothing yet.
    Empty,
    /// Over many pods.
    Pods,
    /// What many more pods cost.
    Memory,
    /// Custom resources.
    Crds,
    /// A start with many objects.
    Start,
}

impl Group {
    const ALL: [Self; 5] = [Self::Empty, Self::Pods, Self::Memory, Self::Crds, Self::Start];

    fn rows(self) -> &'static [&'static str] {
        match self {
            Self::Empty => &["idle", "create-50"],
            Self::Pods => &[
                "get-50",
                "list-json",
                "list-proto",
                "page-json",
                "page-proto",
                "patch-50",
                "delivery",
                "watch-json",
                "watch-proto",
            ],
            Self::Memory => &["memory", "fresh"],
            Self::Crds => &["crds"],
            Self::Start => &["start"],
        }
    }

    fn fits(self, size: usize) -> bool {
        match self {
            Self::Empty | Self::Pods | Self::Memory => true,
            Self::Crds | Self::Start => size == 1,
        }
    }

    async fn run(self, work: &Work, masters: &mut Masters, notes: &mut Notes<'_>) -> Result<()> {
        match self {
            Self::Empty => requests::empty(work, masters, notes).await,
            Self::Pods => pods(work, masters, notes).await,
            Self::Memory => memory(work, masters, notes).await,
            Self::Crds => crds::run(work, masters, notes).await,
            Self::Start => start::run(work, masters, notes).await,
        }
    }
}

/// The rows over many pods: those that change nothing first.
async fn pods(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    objects::namespaces(work, masters).await?;
    requests::fill(work, masters, objects::POD, 0..work.pods).await?;
    requests::get(work, masters, notes).await?;
    lists::run(work, masters, notes).await?;
    requests::patch(work, masters, notes).await?;
    watches::run(work, masters, notes).await
}

/// What twice as many pods cost, and those who read them all at once.
async fn memory(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    objects::namespaces(work, masters).await?;
    requests::fill(work, masters, objects::POD, 0..2 * work.pods).await?;
    work.bench.env.clock.sleep(work.settle).await;
    if work.bench.wants("memory") {
        notes.note("memory pods", masters.memory().0);
    }
    if work.bench.wants("fresh") && masters.size() == 1 {
        watches::fresh(work, masters, notes).await?;
    }
    Ok(())
}

/// Runs what is asked for.
pub async fn run(env: &Env, mut args: ApiArgs) -> Result<()> {
    let work = Work::new(env, &mut args);
    let controls = controls(&args)?;
    let programs: Vec<Program> = controls.iter().map(|control| control.program.clone()).collect();
    let most = args.sizes.iter().copied().max().unwrap_or(1);
    let (pki, disk) = (Pki::make(&args.binary, most)?, disk(args.disk.as_deref())?);
    let mut report = Report::new(&API);
    for round in 0..args.runs {
        for &size in &args.sizes {
            for place in &args.places {
                let (place, folder) = located(place, &disk);
                eprintln!("run {} of {}: {size} master(s), {place}", round + 1, args.runs);
                let setting = Setting { size, place };
                measure(&work, &controls, &pki, &setting, folder, &mut report).await?;
            }
        }
    }
    let preface = format!(
        "{}. Medians of {} runs, loads of {} s; {} pods, {} in the rows of memory and of watchers from nothing. {}",
        proc::machine(),
        args.runs,
        args.seconds,
        args.pods,
        2 * args.pods,
        match &args.etcd {
            Some(named) => format!("Upstream's etcd is {}.", split(named)?.0),
            None => "Upstream's programs were not at hand.".to_owned(),
        }
    );
    publish(&report, &programs, &preface, args.page.as_deref().filter(|_| !args.short))
}

fn split(named: &str) -> Result<(&str, &str)> {
    named.split_once('=').with_context(|| format!("{named} is not NAME=PATH"))
}

fn controls(args: &ApiArgs) -> Result<Vec<Control>> {
    let etcd = args.etcd.as_deref().map(split).transpose()?;
    let etcd = etcd.map(|(name, path)| Program { name: name.to_owned(), path: path.into() });
    let mut controls = Vec::new();
    for named in &args.upstream {
        let (name, path) = split(named)?;
        let program = Program { name: name.to_owned(), path: path.into() };
        controls.push(Control { program, etcd: etcd.clone() });
    }
    if !args.only_upstream {
        let program = Program { name: "trierarch".to_owned(), path: args.binary.clone() };
        controls.push(Control { program, etcd: None });
    }
    ensure!(!controls.is_empty(), "nothing to measure");
    Ok(controls)
}

/// Every group of rows on every program in turn.
async fn measure(
    work: &Work,
    controls: &[Control],
    pki: &Pki,
    setting: &Setting,
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let groups = Group::ALL.into_iter().filter(|group| group.fits(setting.size));
    for group in groups.filter(|group| work.bench.wants_any(group.rows())) {
        for control in controls {
            let (bench, program) = (&work.bench, &control.program);
            let begun = bench.now();
            let mut masters = Masters::start(&bench.env, control, pki, setting.size, folder).await?;
            let ran = group.run(work, &mut masters, &mut report.notes(setting, program)).await;
            ran.with_context(|| format!("{}: {group:?}", program.name))?;
            eprintln!("  {group:?} on {}: {:.1} s", program.name, (bench.now() - begun).as_secs_f64());
        }
    }
    Ok(())
}

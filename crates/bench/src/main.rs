//! Measures the program that is shipped against etcd and against Kubernetes' own API server, in one run on one machine.
//!
//! Runs of all programs alternate, and medians and ratios are printed: on small machines absolute figures say little.
//! The load generator shares the cores with the servers, so it does as little as it can, its own processor time is
//! shown, and the servers' processor time for each request.
//!
//! Read `member.rs` (servers as processes), `wire.rs` (HTTP/2 by hand), `load.rs` (closed loops of requests), `rows/`
//! (what is measured of the store), `report.rs` (the table); for the API server `api/mod.rs`.

mod api;
mod bench;
mod cluster;
mod load;
mod member;
mod probe;
mod proc;
mod report;
mod rows;
mod values;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use env::Env;

use crate::bench::Bench;
use crate::member::{Members, Program};
use crate::report::{Report, Setting};
use crate::rows::Group;
use crate::rows::lines::ETCD;

/// Benchmarks against etcd and Kubernetes.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The store against etcd
    Etcd(EtcdArgs),
    /// The API server against Kubernetes' own
    Api(api::ApiArgs),
    /// A whole cluster without load: the time until it is Ready, and what its masters use
    Idle {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// Clusters that are brought up, one after the other
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
}

#[derive(Args)]
struct EtcdArgs {
    /// The `trierarch` program; none measures the others alone
    #[arg(long)]
    binary: Option<PathBuf>,
    /// An `etcd` program to compare with, as NAME=PATH; may be given several times
    #[arg(long, value_name = "NAME=PATH")]
    etcd: Vec<String>,
    /// Runs of each row; medians are shown
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long each load lasts, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rows to run, by the beginnings of their names; all but the long ones without
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Members of a cluster
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    sizes: Vec<usize>,
    /// Where data lies: disk, memory (/dev/shm)
    #[arg(long, value_delimiter = ',', default_values_t = ["disk".to_owned(), "memory".to_owned()])]
    places: Vec<String>,
    /// A folder on the disk that is measured
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Keys of the rows of many keys
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// GiB of the row `large`
    #[arg(long, default_value_t = 20)]
    gib: u64,
    /// Everything once, in small and in memory: whether it runs at all
    #[arg(long)]
    short: bool,
    /// A page whose table is written anew; not after a short run
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let env = Env::real();
    match command {
        Command::Etcd(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(etcd(&env, args))
        }
        Command::Api(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(api::run(&env, args))
        }
        Command::Idle { binary, runs } => {
            println!("machine: {}\n", proc::machine());
            cluster::idle(&env, &binary, runs)
        }
    }
}

async fn etcd(env: &Env, mut args: EtcdArgs) -> Result<()> {
    if args.short {
        (args.runs, args.seconds, args.keys) = (1, 0.4, 20_000);
        args.places = vec!["memory".to_owned()];
    }
    let programs = programs(&args)?;
    let bench = Bench {
        env: env.clone(),
        length: Duration::from_secs_f64(args.seconds),
        keys: args.keys,
        gib: args.gib,
        rows: args.rows.clone(),
    };
    let disk = disk(args.disk.as_deref())?;
    let mut report = Report::new(&ETCD);
    for round in 0..args.runs {
        for &size in &args.sizes {
            for place in &args.places {
                let (place, folder) = located(place, &disk);
                eprintln!("run {} of {}: {size} member(s), {place}", round + 1, args.runs);
                measure(&bench, &programs, &Setting { size, place }, folder, &mut report).await?;
            }
        }
    }
    let preface = format!(
        "{}. Medians of {} runs, loads of {} s, {} keys in the rows of many.",
        proc::machine(),
        args.runs,
        args.seconds,
        args.keys
    );
    publish(&report, &programs, &preface, args.page.as_deref().filter(|_| !args.short))
}

/// The folder on the disk that is measured: the program's own unless another one is named.
fn disk(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned()),
    }
}

/// What a place is called in tables, and where it is.
fn located<'a>(place: &str, disk: &'a Path) -> (&'static str, &'a Path) {
    match place {
        "memory" => ("memory", Path::new("/dev/shm")),
        _ => ("disk", disk),
    }
}

/// Prints the table, and writes it into a page.
fn publish(report: &Report, programs: &[Program], preface: &str, page: Option<&Path>) -> Result<()> {
    println!("{}", report.show(programs));
    if let Some(page) = page {
        let text = report.write(&std::fs::read_to_string(page)?, programs, preface)?;
        std::fs::write(page, text)?;
    }
    Ok(())
}

fn programs(args: &EtcdArgs) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for named in &args.etcd {
        let (name, path) = named.split_once('=').with_context(|| format!("{named} is not NAME=PATH"))?;
        programs.push(Program { name: name.to_owned(), path: path.into() });
    }
    programs.extend(args.binary.clone().map(|path| Program { name: "trierarch".to_owned(), path }));
    ensure!(!programs.is_empty(), "nothing to measure");
    Ok(programs)
}

/// Every group of rows on every program in turn.
async fn measure(
    bench: &Bench,
    programs: &[Program],
    setting: &Setting,
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let groups = Group::ALL.into_iter().filter(|group| group.fits(setting.size));
    for group in groups.filter(|group| bench.wants_any(group.rows())) {
        for program in programs {
            let begun = bench.now();
            let mut members = Members::start(&bench.env, program, setting.size, folder).await?;
            let ran = group.run(bench, &mut members, &mut report.notes(setting, program)).await;
            ran.with_context(|| format!("{}: {group:?}", program.name))?;
            eprintln!("  {group:?} on {}: {:.1} s", program.name, (bench.now() - begun).as_secs_f64());
        }
    }
    Ok(())
}

//! The chaos runner's command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use chaos::Network;
use chaos::etcd::{Load, Outage};
use clap::{Parser, Subcommand};
use env::Env;

/// Fault scenarios against real processes.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play scenarios: files, or folders of them
    Run {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// Runs of each scenario, instead of what its file says
        #[arg(long)]
        runs: Option<u32>,
        /// Scenario files, or folders of them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Play scenarios of members without Kubernetes, and judge what their clients saw
    Etcd {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// What clients ask follows from this number; the next run takes the next
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs of each scenario, instead of what its file says
        #[arg(long)]
        runs: Option<u32>,
        /// Scenario files, or folders of them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Measure for how long nothing can be written when something happens to the leader of three members
    Outages {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// Runs of each
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// Milliseconds that one may take; a longer one ends the series, and the members' logs are kept
        #[arg(long, default_value_t = 20_000)]
        limit: u64,
        /// What happens (killed, stopped, frozen, cut-off, deaf, mute, slow-disk); everything if nothing is named
        outages: Vec<String>,
    },
    /// Keep three members under full load, and count elections and stalls; fails if there was an election
    Soak {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// For how long
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Clients that put, without a pause
        #[arg(long, default_value_t = 32)]
        writers: usize,
        /// Clients that read, without a pause
        #[arg(long, default_value_t = 16)]
        readers: usize,
        /// Watches of all keys
        #[arg(long, default_value_t = 6)]
        watchers: usize,
        /// Leases that are renewed without a pause
        #[arg(long, default_value_t = 4)]
        keepers: usize,
    },
}

/// What is to be played.
enum Scenarios {
    Kubernetes(Vec<chaos::Scenario>),
    Members(Vec<chaos::etcd::Scenario>, u64),
    Outages(Vec<Outage>, usize, Duration),
    Soak(Load, Duration),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    let (binary, scenarios) = read(command)?;
    // Before the runtime: its threads are where the thread is that starts them.
    let network = if nix::unistd::geteuid().is_root() { Network::fabric() } else { Network::loopback() };
    println!("machine: {}", chaos::machine());
    println!("network: {network}\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            good = all(&binary, &network, &scenarios) => Ok(good),
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

fn read(command: Command) -> Result<(PathBuf, Scenarios)> {
    match command {
        Command::Run { binary, runs, paths } => {
            let mut scenarios = chaos::scenarios(&paths)?;
            scenarios.iter_mut().for_each(|scenario| scenario.runs = runs.unwrap_or(scenario.runs));
            Ok((binary, Scenarios::Kubernetes(scenarios)))
        }
        Command::Etcd { binary, seed, runs, paths } => {
            let mut scenarios = chaos::etcd::load(&paths)?;
            scenarios.iter_mut().for_each(|scenario| scenario.runs = runs.unwrap_or(scenario.runs));
            Ok((binary, Scenarios::Members(scenarios, seed)))
        }
        Command::Outages { binary, runs, limit, outages } => {
            let named = outages.iter().map(|name| Outage::named(name)).collect::<Result<Vec<_>>>()?;
            let outages = if named.is_empty() { Outage::ALL.to_vec() } else { named };
            Ok((binary, Scenarios::Outages(outages, runs.max(1), Duration::from_millis(limit))))
        }
        Command::Soak { binary, minutes, writers, readers, watchers, keepers } => {
            let load = Load { writers, readers, watchers, keepers };
            Ok((binary, Scenarios::Soak(load, Duration::from_secs(60 * minutes))))
        }
    }
}

/// One scenario after the other. What keeps one from being played is told and counts as a failure; the others are
/// played all the same.
async fn all(binary: &Path, network: &Network, scenarios: &Scenarios) -> bool {
    let (env, mut good) = (Env::real(), true);
    let mut told = |name: &str, about: &str, result: Result<bool>| {
        good &= result.unwrap_or_else(|error| {
            println!("## {name}: {about}\nFAILED: {error:#}\n");
            false
        });
    };
    match scenarios {
        &Scenarios::Outages(ref outages, runs, limit) => {
            println!("| leader | n | median ms | min ms | max ms |\n|---|---:|---:|---:|---:|");
            for &outage in outages {
                let measured = chaos::etcd::measure(&env, binary, network, outage, (runs, limit)).await;
                let measured = measured.map(|took| {
                    let millis = |at: usize| took[at].as_millis();
                    let (median, most) = (millis(runs / 2), millis(runs - 1));
                    println!("| {outage:?} | {runs} | {median} | {} | {most} |", millis(0));
                    true
                });
                told(&format!("{outage:?}"), "how long nothing can be written", measured);
            }
        }
        &Scenarios::Soak(load, time) => {
            let soaked = chaos::etcd::soak(&env, binary, network, load, time).await;
            told("soak", "full load without a fault", soaked);
        }
        Scenarios::Kubernetes(scenarios) => {
            for one in scenarios {
                told(&one.name, &one.about, chaos::play(&env, binary, network, one).await);
            }
        }
        Scenarios::Members(scenarios, seed) => {
            for one in scenarios {
                let played = chaos::etcd::play(&env, binary, network, one, *seed).await;
                told(&one.name, &one.about, played);
            }
        }
    }
    good
}

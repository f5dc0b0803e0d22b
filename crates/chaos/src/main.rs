//! The chaos runner's command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use chaos::Network;
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
    let Command::Run { binary, runs, paths } = command;
    let scenarios = chaos::scenarios(&paths)?;
    // Before the runtime: its threads are where the thread is that starts them.
    let network = if nix::unistd::geteuid().is_root() { Network::fabric() } else { Network::loopback() };
    println!("machine: {}", chaos::machine());
    println!("network: {network}\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut good = true;
    for mut scenario in scenarios {
        scenario.runs = runs.unwrap_or(scenario.runs);
        good &= runtime.block_on(one(&binary, &network, &scenario))?;
    }
    Ok(good)
}

/// One scenario. What keeps it from being played is told and counts as a failure; the others are played all the same.
async fn one(binary: &Path, network: &Network, scenario: &chaos::Scenario) -> Result<bool> {
    let env = Env::real();
    tokio::select! {
        result = chaos::play(&env, binary, network, scenario) => Ok(result.unwrap_or_else(|error| {
            println!("## {}: {}\nFAILED: {error:#}\n", scenario.name, scenario.about);
            false
        })),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

//! Plays fault scenarios against real processes and checks what must hold whatever happens.
//!
//! A scenario is a file of `chaos/scenarios/`: how many masters, which load, which fault, and the times that the report
//! compares with. Invariants decide whether a run passes; times are only reported.
//!
//! Read `scenario.rs`, `cluster.rs` (processes), `load.rs` (writers and watchers), `check.rs` (invariants), `report.rs`.

mod check;
mod cluster;
mod load;
mod play;
mod report;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut good = true;
    println!("machine: {}\n", report::machine());
    for mut scenario in scenario::load(&paths)? {
        scenario.runs = runs.unwrap_or(scenario.runs);
        good &= runtime.block_on(play::play(&Env::real(), &binary, &scenario))?;
    }
    Ok(good)
}

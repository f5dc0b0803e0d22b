//! Measures the program that is shipped against etcd, in one run on one machine.
//!
//! Runs of the two alternate, and medians and ratios are printed: on small machines absolute figures say little. The
//! load generator shares the cores with the servers, so the servers' processor time per request is shown as well.
//!
//! Read `member.rs` (servers as processes), `load.rs` (closed loops of requests), `table.rs`.

mod cluster;
mod load;
mod member;
mod proc;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use env::Env;

use crate::load::Work;
use crate::member::{Members, Program};
use crate::table::Row;

/// Benchmarks against etcd.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The store: puts and gets, one member and three
    Store {
        /// The `trierarch` program
        #[arg(long)]
        binary: PathBuf,
        /// The `etcd` program to compare with
        #[arg(long)]
        etcd: Option<PathBuf>,
        /// Runs of each load; medians are printed
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// How long each run lasts, in seconds
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let env = Env::real();
    println!("machine: {}\n", proc::machine());
    match command {
        Command::Store { binary, etcd, runs, seconds } => {
            let mut programs = vec![Program::Trierarch(binary)];
            programs.extend(etcd.map(Program::Etcd));
            for size in [1, 3] {
                runtime.block_on(store(&env, &programs, size, runs, Duration::from_secs(seconds)))?;
            }
            Ok(())
        }
        Command::Idle { binary, runs } => cluster::idle(&env, &binary, runs),
    }
}

/// Every load, on every program in turn, `runs` times.
async fn store(env: &Env, programs: &[Program], size: usize, runs: usize, length: Duration) -> Result<()> {
    println!("## {size} member{}, values of 256 bytes\n", if size == 1 { "" } else { "s" });
    let mut rows: Vec<Row> = Work::ALL
        .iter()
        .flat_map(|work| programs.iter().map(move |program| Row::new(*work, program.name())))
        .collect();
    for _ in 0..runs {
        for program in programs {
            let members = Members::start(env, program, size).await?;
            for work in Work::ALL {
                let run = load::run(env, &members, work, length).await?;
                let row = rows.iter_mut().find(|row| row.work == work && row.program == program.name());
                row.expect("invariant: a row for every work and program").runs.push(run);
            }
        }
    }
    println!("{}", table::show(&rows));
    Ok(())
}

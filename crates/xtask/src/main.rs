//! Development tasks: `cargo xtask <task>`.
//!
//! * `codegen [--check]`: the tables of `crates/xtask/data/` become `crates/api-types/src/generated/`.
//! * `deps-check`: local dependencies between crates follow the table in `docs/ARCHITECTURE.md`.
//!
//! Reading order: [`tables`] (reading), [`codegen`] (writing), [`deps`].

mod codegen;
mod deps;
mod messages;
mod resources;
mod tables;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "xtask", about = "Development tasks of the workspace")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes the generated sources from the tables.
    Codegen {
        /// Only compare; fails when a generated file is not current.
        #[arg(long)]
        check: bool,
    },
    /// Compares the local dependencies of every crate with the allowed ones.
    DepsCheck,
}

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    match Args::parse().task {
        Task::Codegen { check } => codegen::run(&root, check),
        Task::DepsCheck => deps::run(&root),
    }
}

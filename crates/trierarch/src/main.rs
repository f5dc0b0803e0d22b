//! The one binary: masters, node agents, a drop-in etcd, and a whole cluster on one machine for trying it out.
//!
//! Holds no logic: it reads flags, builds the parts and wires them. Read `server.rs` for what a master is made of.

mod addresses;
#[cfg(feature = "kubernetes")]
mod admission;
#[cfg(feature = "kubernetes")]
mod agent;
#[cfg(feature = "kubernetes")]
mod audit;
#[cfg(feature = "kubernetes")]
mod authentication;
#[cfg(feature = "kubernetes")]
mod authorization;
mod credentials;
mod descriptors;
mod etcd;
mod kubeconfig;
#[cfg(feature = "kubernetes")]
mod leaders;
mod logging;
mod member;
mod memory;
mod observe;
mod pki;
mod restart;
mod rotate;
#[cfg(feature = "kubernetes")]
mod server;
#[cfg(feature = "kubernetes")]
mod service_accounts;
#[cfg(feature = "kubernetes")]
mod serving;
mod signals;
mod tools;
#[cfg(feature = "kubernetes")]
mod up;
#[cfg(any(test, feature = "failpoints"))]
mod wal_mirror;
mod zap;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use env::{Env, Lane};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How the allocator is set up: memory that is not used any more goes back to the system within so many milliseconds, by
/// a thread of the allocator's, also where a thread that freed it never asks for any again.
// SAFETY: the name is the allocator's own, which reads it once as text that ends with a zero.
#[allow(unsafe_code)]
#[unsafe(export_name = "malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 43] = b"background_thread:true,dirty_decay_ms:3000\0";

/// How long what closes the state's files may take when everything else has ended.
const LANES_DEADLINE: Duration = Duration::from_secs(5);

/// A Kubernetes-compatible control plane for high-availability clusters.
#[derive(Parser)]
#[command(name = "trierarch", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a master
    #[cfg(feature = "kubernetes")]
    Server(Box<server::Options>),
    /// Run a node: pods, service proxy, status
    #[cfg(feature = "kubernetes")]
    Agent(Box<agent::AgentOptions>),
    /// Write the keys and certificates of a cluster
    Pki(credentials::PkiOptions),
    /// Save, look at and restore snapshots
    #[command(subcommand)]
    Snapshot(tools::SnapshotCommand),
    /// Make a data folder of what etcd holds: a snapshot, a stopped etcd's folder, a running etcd
    Import(Box<tools::ImportOptions>),
    /// Make an etcd snapshot of what a running or stopped member holds
    Export(Box<tools::ExportOptions>),
    /// Take and look after backups
    #[command(subcommand)]
    Backup(tools::BackupCommand),
    /// Restore a backup as it was at a revision or a time
    Restore(Box<tools::RestoreOptions>),
    /// Bring up a whole cluster on this machine
    #[cfg(feature = "kubernetes")]
    Up(up::UpOptions),
    /// Remove the cluster that `up` made
    #[cfg(feature = "kubernetes")]
    Down(up::DownOptions),
    /// Run only the store, with etcd's own flags
    #[command(disable_help_flag = true)]
    Etcd {
        /// etcd's flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
}

impl Command {
    /// Whether many connections may be served.
    fn serves(&self) -> bool {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Server(_) | Self::Agent(_) => true,
            Self::Etcd { .. } => true,
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let called_etcd =
        arguments.first().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == "etcd");
    let command =
        if called_etcd { Command::Etcd { flags: arguments[1..].to_vec() } } else { Cli::parse().command };
    let code = run(command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    });
    // Those that are late end with the process.
    let _in_time = Lane::all_ended(LANES_DEADLINE);
    // Whoever ran has told why it ended.
    if restart::is_asked() {
        eprintln!("starting again");
        eprintln!("error: cannot start again: {}", restart::now());
    }
    code
}

fn run(command: Command) -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("two TLS providers"))?;
    let env = Env::real();
    if command.serves() {
        descriptors::raise();
    }
    match command {
        #[cfg(feature = "kubernetes")]
        Command::Server(options) => many_threads()?.block_on(server::run(env, *options))?,
        #[cfg(feature = "kubernetes")]
        Command::Agent(options) => many_threads()?.block_on(agent::run(env, *options))?,
        Command::Pki(options) => credentials::run(options)?,
        Command::Snapshot(command) => many_threads()?.block_on(tools::snapshot(command))?,
        Command::Import(options) => many_threads()?.block_on(tools::import(env, *options))?,
        Command::Export(options) => many_threads()?.block_on(tools::export(env, *options))?,
        Command::Backup(command) => many_threads()?.block_on(tools::backup(env, command))?,
        Command::Restore(options) => many_threads()?.block_on(tools::restore(env, *options))?,
        #[cfg(feature = "kubernetes")]
        Command::Up(options) => many_threads()?.block_on(up::up(env, options))?,
        #[cfg(feature = "kubernetes")]
        Command::Down(options) => many_threads()?.block_on(up::down(env, options))?,
        Command::Etcd { flags } => return many_threads()?.block_on(etcd::run(env, flags)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The flags of a subcommand with their values, those that were not given with their defaults.
#[cfg(feature = "kubernetes")]
fn flags_of(
    name: &str,
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> std::collections::BTreeMap<String, String> {
    use clap::CommandFactory as _;
    let command = Cli::command();
    let Ok(matches) = command.clone().try_get_matches_from(arguments) else { return Default::default() };
    let (Some(known), Some(given)) = (command.find_subcommand(name), matches.subcommand_matches(name)) else {
        return Default::default();
    };
    let value = |id: &str| {
        let values = given.try_get_raw(id).ok().flatten().into_iter().flatten();
        values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
    };
    let named = known.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument.get_id())));
    named.map(|(long, id)| (long.to_owned(), value(id.as_str()))).collect()
}

fn many_threads() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn flags_are_shown_with_their_values() {
        let line = "trierarch server --name a --data-dir /d --initial-cluster a=http://x:1 \
            --listen-peer-url http://x:1 --listen-client-url http://x:2";
        let shown = super::flags_of("server", line.split_whitespace().map(Into::into));
        assert_eq!(shown["name"], "a");
        assert_eq!(shown["cluster-cidr"], "10.244.0.0/16", "a default");
        assert_eq!(shown["advertise-address"], "", "not given");
        assert_eq!(shown["encryption-provider-config-automatic-reload"], "false");
    }
}

//! The store alone, with etcd's flags and manners: `trierarch etcd`, or the binary under the name `etcd`.
//!
//! Read `flags.rs` (what is read), `settings.rs` (what is refused, and what a member is made of), `security.rs` (TLS),
//! `bootstrap.rs` (the first members), `notify.rs` (systemd).

mod bootstrap;
mod echo;
mod flags;
mod gateway;
mod notify;
mod proxy;
mod security;
mod settings;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use env::{Env, Metric, Shutdown, TaskGroup};
use etcd_api::{ETCD_VERSION, Retention, auto_compact};
use store::Store;

use self::flags::{Effect, FLAGS, FlagError, Flags, GATES};
use crate::{logging, memory, observe, signals, tools};

const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long clients wait for the cluster's version, at most.
const VERSION_PATIENCE: Duration = Duration::from_secs(1);
const VERSION_POLL: Duration = Duration::from_millis(5);
/// What only the drop-in has to show.
const METRICS: &[Metric] =
    &[Metric::gauge("etcd_server_feature_enabled", "Whether a feature gate is open.").labelled()];
/// Go's exit code for a command line that cannot be read.
const USAGE: u8 = 2;

/// Runs until SIGTERM or SIGINT; the exit code is etcd's.
pub async fn run(env: Env, words: Vec<String>) -> Result<ExitCode> {
    if words.first().is_some_and(|word| word == "gateway") {
        return gateway::run(env, &words[1..]).await;
    }
    if words.first().is_some_and(|word| word == "grpc-proxy") {
        return proxy::run(env, &words[1..]).await;
    }
    let (flags, unknown) = match read_flags(&words) {
        Ok(read) => read,
        Err(FlagError::Help) => {
            print!("{}", usage());
            return Ok(ExitCode::SUCCESS);
        }
        Err(
            error @ (FlagError::File(_)
            | FlagError::NotAFlag(_)
            | FlagError::Environment { .. }
            | FlagError::Shadowed(_)),
        ) => {
            logging::start_zap("info", "json", &["default".to_owned()], None)?;
            return Ok(refused(&error));
        }
        Err(error) => {
            eprintln!("{error}\n{}", usage());
            return Ok(ExitCode::from(USAGE));
        }
    };
    if flags.on("version") {
        println!("etcd Version: {ETCD_VERSION}\nTrierarch: {}", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    let rotation = flags.on("enable-log-rotation").then(|| flags.get("log-rotation-config-json"));
    let outputs = flags.list("log-outputs");
    logging::start_zap(flags.get("log-level"), flags.get("log-format"), &outputs, rotation)?;
    for variable in unknown {
        tracing::warn!(variable, "unrecognized environment variable");
    }
    tracing::info!(args = ?words, "Running: ");
    settings::warn(&flags);
    if let Err(error) = settings::check(&flags) {
        return Ok(refused(&error));
    }
    match serve(env, &flags).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed to start or run");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn refused(error: &dyn std::fmt::Display) -> ExitCode {
    tracing::warn!(error = error.to_string(), "failed to verify flags");
    ExitCode::FAILURE
}

/// A configuration file stands for everything else, as in etcd: nothing else is looked at then.
fn read_flags(words: &[String]) -> Result<(Flags, Vec<String>), FlagError> {
    let mut flags = Flags::parse(words)?;
    if flags.on("version") {
        return Ok((flags, Vec::new()));
    }
    let file = flags.some("config-file").map(str::to_owned);
    let file = file.or_else(|| std::env::var("ETCD_CONFIG_FILE").ok()).filter(|file| !file.is_empty());
    let Some(file) = file else {
        let unknown = flags.add_environment(std::env::vars())?;
        return Ok((flags, unknown));
    };
    let text =
        std::fs::read_to_string(&file).map_err(|error| FlagError::File(format!("open {file}: {error}")))?;
    Ok((Flags::from_yaml(&text)?, Vec::new()))
}

fn usage() -> String {
    let mut text = String::from(
        "Usage:\n\n  etcd [flags]\n    Start an etcd server.\n\n  etcd --version\n    Show the version of etcd.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let remark = match flag.effect {
            Effect::Works => "",
            Effect::Moot => " (no effect here)",
            Effect::Old => continue,
        };
        text.push_str(&format!("  --{} '{}'{remark}\n", flag.name, flag.default));
    }
    text
}

async fn serve(env: Env, flags: &Flags) -> Result<()> {
    let points =
        [env::failpoints::POINTS, store::FAILPOINTS, etcd_api::FAILPOINTS, tools::FAILPOINTS].concat();
    env::failpoints::start(&points).context("failpoints")?;
    let tasks = TaskGroup::new("etcd", Shutdown::new());
    signals::watch(&tasks)?;
    if flags.on("memory-mlock") {
        memory::lock().context("--memory-mlock")?;
    }
    let retention = retention(flags)?;
    let metrics = observe::install(&[store::METRICS, etcd_api::METRICS, METRICS])?;
    show_gates(flags);
    let stop = tasks.shutdown().clone();
    let cluster = tokio::select! {
        cluster = bootstrap::initial_cluster(&env, flags) => cluster?,
        () = stop.wait() => return Ok(tasks.join(STOP_DEADLINE).await?),
    };
    echo::starting(flags, &cluster);
    let member = settings::member(flags, cluster)?.build(&env, metrics).await?;
    let store = member.store.clone();
    if let Some(retention) = retention {
        let compact = auto_compact(env.clone(), store.clone(), retention, tasks.shutdown().clone());
        tasks.spawn_detached("auto-compaction", compact);
    }
    member.start(&tasks);
    let (ready, told) = (serves(env, store, tasks.shutdown().clone()), flags.clone());
    tasks.spawn_detached("ready", async move {
        if ready.await {
            echo::serving(&told);
            notify::ready();
        }
    });
    Ok(tasks.join(STOP_DEADLINE).await?)
}

/// Shows which feature gates are open.
fn show_gates(flags: &Flags) {
    for (name, default) in GATES {
        let stage = if *default || *name == "AllBeta" { "BETA" } else { "ALPHA" };
        let shown = metrics::gauge!("etcd_server_feature_enabled", "name" => *name, "stage" => stage);
        shown.set(f64::from(u8::from(flags.gate(name))));
    }
}

/// Waits until clients are served: the member has caught up, and the version that the cluster speaks is decided, unless a
/// member that has never come keeps that open.
async fn serves(env: Env, store: Store, stop: Shutdown) -> bool {
    let served = async {
        store.caught_up().await;
        let end = env.clock.monotonic() + VERSION_PATIENCE;
        while store.view().cluster_version().is_none() && env.clock.monotonic() < end {
            env.clock.sleep(VERSION_POLL).await;
        }
    };
    tokio::select! {
        () = served => true,
        () = stop.wait() => false,
    }
}

fn retention(flags: &Flags) -> Result<Option<Retention>> {
    let (mode, kept) = (flags.get("auto-compaction-mode"), flags.get("auto-compaction-retention"));
    Retention::parse(mode, kept).map_err(anyhow::Error::msg)
}

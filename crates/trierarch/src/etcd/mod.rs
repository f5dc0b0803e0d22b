//! The store alone, with etcd's flags and manners: `trierarch etcd`, or the binary under the name `etcd`.

mod echo;
mod flags;
mod gateway;
mod proxy;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Shutdown, TaskGroup};
use etcd_api::{AuthOptions, ETCD_VERSION, Retention, ServingTls, auto_compact};
use store::{PeerTls, Store, Timing};

use self::flags::{Effect, FLAGS, FlagError, Flags};
use crate::pki::{self, KeyedCertificate, Leaf, Usage};
use crate::{logging, member, observe, signals};

const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Threads that serve clients, at most: the consensus needs processors too.
const MAX_LANES: usize = 8;
/// How long clients wait for the cluster's version, at most.
const VERSION_PATIENCE: Duration = Duration::from_secs(1);
const VERSION_POLL: Duration = Duration::from_millis(5);
/// Bytes of values that are kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
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
        Err(error @ FlagError::File(_)) => bail!("{error}"),
        Err(error) => {
            eprintln!("{error}\n{}", usage());
            return Ok(ExitCode::from(USAGE));
        }
    };
    if flags.on("version") {
        println!("etcd Version: {ETCD_VERSION}\nTrierarch: {}", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = flags.missing().first() {
        bail!("--{name}={} is not implemented", flags.get(name));
    }
    let rotation = flags.on("enable-log-rotation").then(|| flags.get("log-rotation-config-json"));
    let outputs = flags.list("log-outputs");
    logging::start_zap(flags.get("log-level"), flags.get("log-format"), &outputs, rotation)?;
    for variable in unknown {
        tracing::warn!(variable, "unrecognized environment variable");
    }
    echo::starting(&flags);
    serve(env, &flags).await?;
    Ok(ExitCode::SUCCESS)
}

/// A configuration file stands for everything else, as in etcd.
fn read_flags(words: &[String]) -> Result<(Flags, Vec<String>), FlagError> {
    let mut flags = Flags::parse(words)?;
    let unknown = flags.add_environment(std::env::vars())?;
    let Some(file) = flags.some("config-file") else { return Ok((flags, unknown)) };
    let text = std::fs::read_to_string(file).map_err(|error| FlagError::File(error.to_string()))?;
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
            Effect::Missing => " (not implemented)",
        };
        text.push_str(&format!("  --{} '{}'{remark}\n", flag.name, flag.default));
    }
    text
}

async fn serve(env: Env, flags: &Flags) -> Result<()> {
    env::failpoints::start(&[store::FAILPOINTS, etcd_api::FAILPOINTS].concat()).context("failpoints")?;
    let tasks = TaskGroup::new("etcd", Shutdown::new());
    signals::watch(&tasks)?;
    let retention = retention(flags)?;
    let metrics = observe::install(&[store::METRICS, etcd_api::METRICS])?;
    let member = config(flags)?.build(&env, metrics).await?;
    let store = member.store.clone();
    if let Some(retention) = retention {
        let compact = auto_compact(env.clone(), store.clone(), retention, tasks.shutdown().clone());
        tasks.spawn_detached("auto-compaction", compact);
    }
    member.start(&tasks);
    let (ready, told) = (serves(env.clone(), store), flags.clone());
    tasks.spawn_detached("ready", async move {
        if ready.await {
            echo::serving(&told);
        }
    });
    Ok(tasks.join(STOP_DEADLINE).await?)
}

/// Waits until clients can be served: a leader answers, and the version that the cluster speaks is decided, unless a
/// member that has never come keeps that open.
async fn serves(env: Env, store: Store) -> bool {
    if store.read_barrier().await.is_err() {
        return false;
    }
    let end = env.clock.monotonic() + VERSION_PATIENCE;
    while store.view().cluster_version().is_none() && env.clock.monotonic() < end {
        env.clock.sleep(VERSION_POLL).await;
    }
    true
}

fn retention(flags: &Flags) -> Result<Option<Retention>> {
    let (mode, kept) = (flags.get("auto-compaction-mode"), flags.get("auto-compaction-retention"));
    Retention::parse(mode, kept).map_err(anyhow::Error::msg)
}

fn config(flags: &Flags) -> Result<member::Config> {
    if flags.get("logger") != "zap" {
        bail!("unknown logger option {:?}", flags.get("logger"));
    }
    let join = match flags.get("initial-cluster-state") {
        "new" => false,
        "existing" => true,
        other => bail!("invalid value {other:?} for flag -initial-cluster-state: must be new or existing"),
    };
    let name = flags.get("name");
    let peer_urls = flags.list("initial-advertise-peer-urls");
    let alone = peer_urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
    let listen_peer = flags.list("listen-peer-urls");
    let [listen_peer_url] = listen_peer.as_slice() else {
        bail!("--listen-peer-urls takes one URL here, not {}", listen_peer.len());
    };
    let size = |flag: &str| {
        let number = flags.number(flag).with_context(|| format!("--{flag} is a number"))?;
        usize::try_from(number).with_context(|| format!("--{flag} is too large"))
    };
    Ok(member::Config {
        initial_cluster: member::parse_initial_cluster(flags.some("initial-cluster").unwrap_or(&alone))?,
        data_dir: flags.some("data-dir").map_or_else(|| PathBuf::from(format!("{name}.etcd")), PathBuf::from),
        peer_tls: peer_tls(flags)?,
        client_tls: client_tls(flags)?,
        timing: timing(flags)?,
        join,
        strict_reconfig_check: flags.on("strict-reconfig-check"),
        name: name.to_owned(),
        cluster_token: flags.get("initial-cluster-token").to_owned(),
        listen_peer_url: listen_peer_url.clone(),
        listen_client_urls: flags.list("listen-client-urls"),
        advertise_client_urls: flags.list("advertise-client-urls"),
        snapshot_count: size("snapshot-count")? as u64,
        snapshot_catchup_entries: size("snapshot-catchup-entries")? as u64,
        max_request_bytes: size("max-request-bytes")?,
        cache_bytes: CACHE_BYTES,
        max_txn_ops: size("max-txn-ops")?,
        max_concurrent_streams: u32::try_from(size("max-concurrent-streams")?).unwrap_or(u32::MAX),
        // 0 is no limit here, a negative number as in etcd.
        quota_bytes: flags.number("quota-backend-bytes").filter(|quota| *quota > 0),
        lanes: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_LANES)),
        auth: AuthOptions::parse(
            flags.get("auth-token"),
            Duration::from_secs(flags.number("auth-token-ttl").unwrap_or(300)),
            flags.number("bcrypt-cost").unwrap_or_default(),
            flags.on("client-cert-auth"),
        )?,
        watch_progress_notify_interval: flags.duration("watch-progress-notify-interval"),
        warn_unary: flags.duration("warning-unary-request-duration"),
        warn_apply: flags.duration("warning-apply-duration"),
        compaction: (size("compaction-batch-limit")?, flags.duration("compaction-sleep-interval")),
        extensive_metrics: flags.get("metrics") == "extensive",
    })
}

/// Without flags the times of this store; with them etcd's, which elects after one to two election timeouts.
fn timing(flags: &Flags) -> Result<Timing> {
    let (heartbeat, election) = (flags.number("heartbeat-interval"), flags.number("election-timeout"));
    if heartbeat.is_none() && election.is_none() {
        return Ok(Timing::default());
    }
    let (heartbeat, election) = (heartbeat.unwrap_or(100), election.unwrap_or(1000));
    if heartbeat == 0 || election == 0 {
        bail!(
            "--heartbeat-interval and --election-timeout must be greater than 0 (set to {heartbeat}ms and {election}ms)"
        );
    }
    if 5 * heartbeat > election {
        bail!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        );
    }
    if election > 50_000 {
        bail!("--election-timeout[{election}ms] is too long, and should be set less than 50000ms");
    }
    let election = Duration::from_millis(election);
    let heartbeat = Duration::from_millis(heartbeat);
    Ok(Timing { heartbeat, election_min: election, election_max: election * 2 })
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(Path::new(path)).with_context(|| format!("cannot read {path}"))
}

fn peer_tls(flags: &Flags) -> Result<Option<PeerTls>> {
    let files = ["peer-trusted-ca-file", "peer-cert-file", "peer-key-file"].map(|name| flags.some(name));
    match files {
        [None, None, None] if flags.on("peer-auto-tls") => {
            let KeyedCertificate { certificate, key } = auto_tls(flags, "listen-peer-urls")?;
            Ok(Some(PeerTls { ca: None, certificate: certificate.into(), key: key.into() }))
        }
        [None, None, None] => Ok(None),
        [Some(ca), Some(certificate), Some(key)] => {
            Ok(Some(PeerTls { ca: Some(read(ca)?), certificate: read(certificate)?, key: read(key)? }))
        }
        _ => bail!("--peer-cert-file, --peer-key-file and --peer-trusted-ca-file are needed together"),
    }
}

/// A certificate that nobody signed, for the hosts that are listened on. It is made anew at each start.
fn auto_tls(flags: &Flags, listen: &str) -> Result<KeyedCertificate> {
    let host = |url: String| {
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).to_owned();
        authority.rsplit_once(':').map_or(authority.clone(), |(host, _)| host.to_owned())
    };
    let hosts = flags.list(listen).into_iter().map(host).collect();
    pki::self_signed(&Leaf {
        common_name: "etcd".to_owned(),
        organization: Some("etcd".to_owned()),
        hosts,
        usage: Usage::Both,
    })
}

fn client_tls(flags: &Flags) -> Result<Option<ServingTls>> {
    let (certificate, key) = match (flags.some("cert-file"), flags.some("key-file")) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if flags.on("auto-tls") => {
            let KeyedCertificate { certificate, key } = auto_tls(flags, "listen-client-urls")?;
            let tls = ServingTls { certificate: certificate.into(), key: key.into(), client_ca: None };
            return Ok(Some(tls));
        }
        (None, None) => return Ok(None),
        _ => bail!("--cert-file and --key-file must both be present"),
    };
    let ca = flags.some("trusted-ca-file");
    if flags.on("client-cert-auth") && ca.is_none() {
        bail!("--client-cert-auth needs --trusted-ca-file");
    }
    let client_ca = ca.map(read).transpose()?;
    Ok(Some(ServingTls { certificate: read(certificate)?, key: read(key)?, client_ca }))
}

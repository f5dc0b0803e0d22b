//! From flags to a member: what etcd refuses is refused here in its words.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use etcd_api::{Access, AuthOptions};
use store::{Checks, Timing};
use transport::{Address, SocketOptions, TlsVersions, cipher_suites};

use super::flags::{DEPRECATED, Flags};
use super::security;
use crate::{descriptors, member, memory, tools};

/// Threads that serve clients, at most: the consensus needs processors too.
const MAX_LANES: usize = 8;
/// Bytes of values that are kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// etcd's name of a member that was given none.
pub const DEFAULT_NAME: &str = "default";
/// etcd's `--compaction-batch-limit`.
const DEFAULT_BATCH: usize = 1000;
/// Samples of a million requests that may be asked for.
const MAX_SAMPLING_RATE: i64 = 1_000_000;
/// etcd's longest election timeout.
const MAX_ELECTION_MILLIS: u64 = 50_000;

/// Where the member keeps its data.
pub fn data_dir(flags: &Flags) -> PathBuf {
    let default = || PathBuf::from(format!("{}.etcd", flags.get("name")));
    flags.some("data-dir").map_or_else(default, PathBuf::from)
}

fn wal_dir(flags: &Flags) -> Option<PathBuf> {
    flags.some("wal-dir").map(PathBuf::from)
}

/// Whether the data folder has a member already, of ours or of etcd.
pub fn is_initialized(flags: &Flags) -> bool {
    let log = wal_dir(flags).unwrap_or_else(|| data_dir(flags).join("wal"));
    let logs = [log, data_dir(flags).join("member/wal"), tools::log_to_be(&data_dir(flags))];
    logs.iter().any(|log| std::fs::read_dir(log).is_ok_and(|mut files| files.next().is_some()))
}

/// Refuses what cannot work, before anything is opened.
pub fn check(flags: &Flags) -> Result<()> {
    if flags.get("discovery-fallback") == "proxy" {
        bail!("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"");
    }
    for name in ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"] {
        flags.addresses(name).iter().try_for_each(Address::check_bind)?;
    }
    let hosts = |name: &str| flags.addresses(name).iter().try_for_each(Address::check_host);
    hosts("initial-advertise-peer-urls").map_err(|error| {
        let urls = flags.get("initial-advertise-peer-urls");
        anyhow::anyhow!("--initial-advertise-peer-urls {urls:?} must be \"host:port\" ({error})")
    })?;
    hosts("advertise-client-urls").map_err(|error| {
        let urls = flags.get("advertise-client-urls");
        anyhow::anyhow!(
            "--advertise-client-urls {urls:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({error})"
        )
    })?;
    check_bootstrap(flags)?;
    timing(flags)?;
    if flags.is_set("listen-client-urls") && !flags.is_set("advertise-client-urls") {
        bail!("--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    let (persisted, kept) = (flags.gate("LeaseCheckpointPersist"), flags.gate("LeaseCheckpoint"));
    if persisted && !kept {
        bail!("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint");
    }
    if flags.signed("max-learners") < 0 {
        bail!("membership: too many learner members in cluster");
    }
    check_tracing(flags)?;
    if flags.duration("compact-hash-check-time").is_zero() {
        bail!("--compact-hash-check-time must be >0 (set to {})", flags.get("compact-hash-check-time"));
    }
    let versions = TlsVersions::parse(flags.get("tls-min-version"), flags.get("tls-max-version"))?;
    let suites = flags.list("cipher-suites");
    if versions.without_12 && !suites.is_empty() {
        bail!("cipher suites cannot be configured when only TLS1.3 is enabled");
    }
    cipher_suites(&suites)?;
    Ok(())
}

/// What cannot be meant is refused, although nothing is traced.
fn check_tracing(flags: &Flags) -> Result<()> {
    let rate = flags.signed("distributed-tracing-sampling-rate");
    let cause = match rate {
        _ if !flags.on("enable-distributed-tracing") => return Ok(()),
        ..0 => "tracing sampling rate must be positive",
        0..=MAX_SAMPLING_RATE => return Ok(()),
        _ => "tracing sampling rate must be less than 1000000",
    };
    bail!("distributed tracing configurition is not valid: ({cause})")
}

fn check_bootstrap(flags: &Flags) -> Result<()> {
    let endpoints = flags.some("discovery-endpoints");
    let ways = [flags.some("initial-cluster"), flags.some("discovery-srv"), endpoints];
    if ways.into_iter().flatten().count() > 1 {
        bail!(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\""
        );
    }
    if flags.some("discovery-token").is_some() != endpoints.is_some() {
        bail!("both --discovery-token and --discovery-endpoints must be set");
    }
    if endpoints.is_some_and(|list| list.split(',').any(|endpoint| endpoint.trim().is_empty())) {
        bail!("--discovery-endpoints must not contain empty endpoints");
    }
    Ok(())
}

/// Says what etcd says of settings that are accepted and unwise, or without effect.
pub fn warn(flags: &Flags) {
    for (name, warning) in DEPRECATED {
        if flags.is_set(name) {
            tracing::warn!("{warning}");
        }
    }
    if flags.get("name") == DEFAULT_NAME {
        tracing::warn!(
            name = DEFAULT_NAME,
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into \
             issue when multiple members have the same default name"
        );
    }
    if flags.some("data-dir").is_none() {
        tracing::warn!(data_dir = %data_dir(flags).display(), "'data-dir' was empty; using default");
    }
    if flags.on("unsafe-no-fsync") {
        tracing::warn!("--unsafe-no-fsync: what is acknowledged is lost when the machine loses its power");
    }
    if flags.on("enable-distributed-tracing") {
        tracing::warn!("--enable-distributed-tracing: no spans are exported, this is not implemented");
    }
    if flags.some("listen-client-http-urls").is_none() {
        tracing::warn!(
            "Running http and grpc server on single port. This is not recommended for production."
        );
    }
}

/// A member as the flags want it.
pub fn member(flags: &Flags, initial_cluster: Vec<(String, String)>) -> Result<member::Config> {
    if flags.get("logger") != "zap" {
        bail!("unknown logger option {:?}", flags.get("logger"));
    }
    let size = |flag: &str| {
        let number = flags.number(flag).with_context(|| format!("--{flag} is a number"))?;
        usize::try_from(number).with_context(|| format!("--{flag} is too large"))
    };
    let token = flags.some("discovery-token").unwrap_or_else(|| flags.get("initial-cluster-token"));
    Ok(member::Config {
        initial_cluster,
        data_dir: data_dir(flags),
        peer_tls: security::peers(flags)?,
        client_tls: security::clients(flags)?,
        timing: timing(flags)?,
        join: flags.get("initial-cluster-state") == "existing",
        wal_dir: wal_dir(flags),
        trust_folder: true,
        force_new_cluster: flags.on("force-new-cluster"),
        durable: !flags.on("unsafe-no-fsync"),
        strict_reconfig_check: flags.on("strict-reconfig-check"),
        name: flags.get("name").to_owned(),
        cluster_token: token.to_owned(),
        listen_peers: flags.addresses("listen-peer-urls"),
        listen_clients: flags.addresses("listen-client-urls"),
        listen_http: flags.addresses("listen-client-http-urls"),
        listen_metrics: flags.addresses("listen-metrics-urls"),
        room: descriptors::for_clients(1),
        sockets: SocketOptions { reuse_port: flags.on("socket-reuse-port") },
        local_address: local_address(flags),
        access: Access {
            origins: flags.list("cors").into_iter().collect(),
            hosts: flags.list("host-whitelist").into_iter().collect(),
        },
        gateway: flags.on("enable-grpc-gateway"),
        keep_alive: keep_alive(flags),
        keep_alive_min: keep_alive_min(flags),
        advertise_client_urls: flags.list("advertise-client-urls"),
        snapshot_count: size("snapshot-count")? as u64,
        snapshot_catchup_entries: size("snapshot-catchup-entries")? as u64,
        max_request_bytes: size("max-request-bytes")?,
        cache_bytes: CACHE_BYTES,
        max_txn_ops: size("max-txn-ops")?,
        max_concurrent_streams: u32::try_from(size("max-concurrent-streams")?).unwrap_or(u32::MAX),
        // 0 is no limit here, a negative number as in etcd.
        client_memory_bytes: match size("client-memory-bytes")? {
            0 => memory::for_clients(),
            bytes => bytes as u64,
        },
        max_leases: size("max-leases")?,
        max_learners: size("max-learners")?,
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
        compaction: (
            batch(flags.signed("compaction-batch-limit")),
            flags.duration("compaction-sleep-interval"),
        ),
        extensive_metrics: flags.get("metrics") == "extensive",
        checks: checks(flags),
    })
}

/// Past versions that are deleted at a time: 0 is etcd's default, less is all of them.
fn batch(limit: i64) -> usize {
    match limit {
        0 => DEFAULT_BATCH,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    }
}

/// Which of etcd's comparisons of members are made.
fn checks(flags: &Flags) -> Checks {
    Checks {
        initial: flags.gate("InitialCorruptCheck"),
        periodic: Some(flags.duration("corrupt-check-time")).filter(|interval| !interval.is_zero()),
        compactions: flags.gate("CompactHashCheck").then(|| flags.duration("compact-hash-check-time")),
    }
}

/// Go's pause between two pings of a client where none is wanted.
pub const PING_PAUSE: Duration = Duration::from_secs(300);

/// How often clients may ask whether the member is there.
fn keep_alive_min(flags: &Flags) -> Duration {
    let every = flags.duration("grpc-keepalive-min-time");
    if every.is_zero() { PING_PAUSE } else { every }
}

/// How often silent connections of clients are asked whether they live.
fn keep_alive(flags: &Flags) -> Option<(Duration, Duration)> {
    let (interval, timeout) =
        (flags.duration("grpc-keepalive-interval"), flags.duration("grpc-keepalive-timeout"));
    (!interval.is_zero() && !timeout.is_zero()).then_some((interval, timeout))
}

/// The address that other members are called from, if it is to be one that this member is known by.
fn local_address(flags: &Flags) -> Option<IpAddr> {
    if !flags.gate("SetMemberLocalAddr") {
        return None;
    }
    let urls = flags.addresses("initial-advertise-peer-urls");
    let addresses = urls.iter().filter_map(|url| url.host().parse::<IpAddr>().ok());
    let mut suitable = addresses.filter(|address| !address.is_loopback() && !address.is_unspecified());
    let found = suitable.next();
    match found {
        Some(address) => tracing::info!(LocalAddr = %address, "setting member local address"),
        None => {
            tracing::warn!("unable to set a member local address due to lack of suitable local addresses")
        }
    }
    found
}

/// Without flags the times of this store; with them etcd's, which elects after one to two election timeouts.
fn timing(flags: &Flags) -> Result<Timing> {
    let (heartbeat, election) = (flags.number("heartbeat-interval"), flags.number("election-timeout"));
    if heartbeat.is_none() && election.is_none() {
        return Ok(Timing::default());
    }
    let (heartbeat, election) = (heartbeat.unwrap_or(100), election.unwrap_or(1000));
    for (name, value) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
        if value == 0 {
            bail!("--{name} must be >0 (set to {value}ms)");
        }
    }
    if 5 * heartbeat > election {
        bail!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        );
    }
    if election > MAX_ELECTION_MILLIS {
        bail!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MILLIS}ms"
        );
    }
    let election = Duration::from_millis(election);
    let heartbeat = Duration::from_millis(heartbeat);
    Ok(Timing { heartbeat, election_min: election, election_max: election * 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> String {
        let words = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        check(&Flags::parse(&words).expect("flags")).expect_err("refused").to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_in_the_words_of_etcd() {
        assert_eq!(
            refused(&["--listen-client-urls=http://h:1", "--advertise-client-urls=http://h:1"]),
            "expected IP in URL for binding (http://h:1)"
        );
        assert_eq!(
            refused(&["--listen-client-urls=http://127.0.0.1:1"]),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
        assert!(
            refused(&["--discovery-srv=d", "--initial-cluster=a=http://h:1"])
                .starts_with("multiple discovery")
        );
        assert_eq!(
            refused(&["--discovery-token=t"]),
            "both --discovery-token and --discovery-endpoints must be set"
        );
        assert_eq!(refused(&["--election-timeout=0"]), "--election-timeout must be >0 (set to 0ms)");
        assert_eq!(refused(&["--cipher-suites=TLS_X"]), "unexpected TLS cipher suite \"TLS_X\"");
        assert_eq!(
            refused(&["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"]),
            "cipher suites cannot be configured when only TLS1.3 is enabled"
        );
        assert_eq!(refused(&["--max-learners=-1"]), "membership: too many learner members in cluster");
        let traced = |rate: &str| {
            refused(&["--enable-distributed-tracing", &format!("--distributed-tracing-sampling-rate={rate}")])
        };
        assert!(traced("-1").ends_with("(tracing sampling rate must be positive)"));
        assert!(traced("1000001").ends_with("(tracing sampling rate must be less than 1000000)"));
        assert!(refused(&["--feature-gates=LeaseCheckpointPersist=true"]).contains("requires enabling"));
        assert_eq!(
            refused(&["--compact-hash-check-time=-1s"]),
            "--compact-hash-check-time must be >0 (set to -1s)"
        );
    }

    #[test]
    fn compactions_may_be_in_one_step() {
        assert_eq!((batch(-1), batch(0), batch(5)), (usize::MAX, DEFAULT_BATCH, 5));
    }

    #[test]
    fn comparisons_are_made_when_they_are_asked_for() {
        let read = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            checks(&Flags::parse(&words).expect("flags"))
        };
        assert_eq!(read(&["--compact-hash-check-time=5s"]), Checks::default());
        let all = read(&[
            "--corrupt-check-time=3s",
            "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true",
        ]);
        let (periodic, compactions) = (Some(Duration::from_secs(3)), Some(Duration::from_secs(60)));
        assert_eq!(all, Checks { initial: true, periodic, compactions });
        let alpha = read(&["--feature-gates=AllAlpha=true,InitialCorruptCheck=false"]);
        assert_eq!(alpha, Checks { compactions, ..Checks::default() });
    }
}

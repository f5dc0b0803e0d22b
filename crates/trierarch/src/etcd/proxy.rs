//! `etcd grpc-proxy start`: its flags.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Shutdown, TaskGroup};
use etcd_api::ProxyConfig;
use transport::{Tls, TlsOptions, TlsVersions, cipher_suites, common_name};

use super::security;
use super::words::Words;
use crate::{logging, member, observe, signals};

const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The flags, with their defaults. Those about keep-alives and sizes change nothing here.
const FLAGS: &[(&str, &str)] = &[
    ("listen-addr", "127.0.0.1:23790"),
    ("endpoints", "127.0.0.1:2379"),
    ("endpoints-auto-sync-interval", "0s"),
    ("cert", ""),
    ("key", ""),
    ("cacert", ""),
    ("cert-file", ""),
    ("key-file", ""),
    ("trusted-ca-file", ""),
    ("auto-tls", "false"),
    ("max-concurrent-streams", "4294967295"),
    ("debug", "false"),
    ("advertise-client-url", "127.0.0.1:23790"),
    ("data-dir", "default.proxy"),
    ("dial-keepalive-time", "0s"),
    ("dial-keepalive-timeout", "20s"),
    ("permit-without-stream", "false"),
    ("max-send-bytes", "1572864"),
    ("max-recv-bytes", "2147483647"),
    ("grpc-keepalive-min-time", "5s"),
    ("grpc-keepalive-interval", "2h0m0s"),
    ("grpc-keepalive-timeout", "20s"),
    ("self-signed-cert-validity", "1"),
    ("tls-min-version", "TLS1.2"),
    ("tls-max-version", ""),
    ("experimental-serializable-ordering", "false"),
    ("experimental-enable-grpc-logging", "false"),
    ("insecure-discovery", "false"),
    ("discovery-srv", ""),
    ("discovery-srv-name", ""),
    ("metrics-addr", ""),
    ("namespace", ""),
    ("resolver-prefix", ""),
    ("resolver-ttl", "0"),
    ("experimental-leasing-prefix", ""),
    ("insecure-skip-tls-verify", "false"),
    ("listen-cipher-suites", ""),
    ("client-crl-file", ""),
    ("enable-pprof", "false"),
];

/// Flags that are refused unless they have their defaults.
const MISSING: &[&str] = &[
    "discovery-srv",
    "metrics-addr",
    "namespace",
    "resolver-prefix",
    "experimental-leasing-prefix",
    "insecure-skip-tls-verify",
    "enable-pprof",
];

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, words: &[String]) -> Result<ExitCode> {
    let words = Words::parse(words, FLAGS)?;
    if words.positional != ["start"] {
        bail!("usage: etcd grpc-proxy start --endpoints=<endpoints> --listen-addr=<address>");
    }
    let changed =
        |name: &&&str| FLAGS.iter().any(|(known, default)| known == *name && words.get(name) != *default);
    if let Some(name) = MISSING.iter().find(changed) {
        bail!("--{name}={} is not implemented", words.get(name));
    }
    let level = if words.get("debug") == "true" { "debug" } else { "info" };
    logging::start_zap(level, "json", &["default".to_owned()], None)?;
    check_nameless(&words)?;
    let config = config(&words)?;
    let tasks = TaskGroup::new("grpc-proxy", Shutdown::new());
    signals::watch(&tasks)?;
    tasks.spawn("proxy", config.run(env, tasks.shutdown().clone()));
    tasks.join(STOP_DEADLINE).await?;
    Ok(ExitCode::SUCCESS)
}

fn config(words: &Words) -> Result<ProxyConfig> {
    let read = |name: &str| match words.get(name) {
        "" => Ok(None),
        path => std::fs::read(path).map(Some).with_context(|| format!("cannot read {path}")),
    };
    let pair = |certificate, key| match (read(certificate)?, read(key)?) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => bail!("--{certificate} and --{key} must both be present"),
    };
    let interval = api_types::time::parse_duration(words.get("endpoints-auto-sync-interval"));
    let interval = interval.context("--endpoints-auto-sync-interval is a duration")?;
    let endpoints = words.get("endpoints").split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(ProxyConfig {
        listen: member::address_of(words.get("listen-addr"))?,
        tls: tls(words)?,
        endpoints: endpoints.map(str::to_owned).collect(),
        member_ca: read("cacert")?,
        member_identity: pair("cert", "key")?,
        sync_interval: Duration::from_nanos(u64::try_from(interval).unwrap_or(0)),
        max_concurrent_streams: words.get("max-concurrent-streams").parse().unwrap_or(u32::MAX),
        metrics: observe::install(&[])?,
    })
}

/// TLS towards clients; none unless a file is named or one is to be made.
fn tls(words: &Words) -> Result<Option<Tls>> {
    let file = |name: &str| Some(words.get(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let suites = words.get("listen-cipher-suites").split(',').filter(|name| !name.is_empty());
    let suites: Vec<String> = suites.map(str::to_owned).collect();
    let versions = TlsVersions::parse(words.get("tls-min-version"), words.get("tls-max-version"))?;
    if versions.without_12 && !suites.is_empty() {
        bail!("cipher suites cannot be configured when only TLS1.3 is enabled");
    }
    let mut options = TlsOptions {
        certificate: file("cert-file"),
        key: file("key-file"),
        trusted_ca: file("trusted-ca-file"),
        revocation_list: file("client-crl-file"),
        cipher_suites: cipher_suites(&suites)?,
        versions,
        ..TlsOptions::default()
    };
    let none = options.certificate.is_none() && options.key.is_none() && options.trusted_ca.is_none();
    if none && words.get("auto-tls") != "true" {
        return Ok(None);
    }
    if none {
        let listen = words.get("listen-addr");
        let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).to_owned();
        let years = words.get("self-signed-cert-validity").parse().unwrap_or(1);
        let folder = Path::new(words.get("data-dir")).join("fixtures/proxy");
        security::sign_own(&folder, vec![host], years, &mut options)?;
    }
    Ok(Some(Tls::new(options)?))
}

/// The certificate that is shown to members may have no common name: with client-certificate authentication every client
/// of the proxy would be that user.
fn check_nameless(words: &Words) -> Result<()> {
    let certificate = words.get("cert");
    if certificate.is_empty() {
        return Ok(());
    }
    let name = common_name(Path::new(certificate))?;
    if !name.is_empty() {
        bail!("cert has non empty Common Name ({name}): {certificate}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for name in MISSING {
            assert!(FLAGS.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}

//! `etcd grpc-proxy start`: its flags.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Shutdown, TaskGroup};
use etcd_api::ProxyConfig;
use transport::{Tls, TlsOptions, TlsVersions, cipher_suites, common_name};

use super::words::{Subcommand, Words};
use super::{security, settings};
use crate::{descriptors, logging, member, observe, signals};

const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Where Linux says what the machine is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The flags, with their defaults. Those about the connections to members change nothing here.
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

const PROXY: Subcommand =
    Subcommand { name: "grpc-proxy", about: "passes calls on to the members of a cluster", flags: FLAGS };

/// Flags that are refused unless they have their defaults.
const MISSING: &[&str] = &["discovery-srv", "experimental-leasing-prefix", "enable-pprof"];

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, words: &[String]) -> Result<ExitCode> {
    let words = match PROXY.read(words) {
        Ok(words) => words,
        Err(code) => return Ok(code),
    };
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
    let listed = |name: &str| words.get(name).split(',').map(str::trim).filter(|part| !part.is_empty());
    let (interval, timeout) =
        (duration(words, "grpc-keepalive-interval")?, duration(words, "grpc-keepalive-timeout")?);
    let every = duration(words, "grpc-keepalive-min-time")?;
    Ok(ProxyConfig {
        listen: member::address_of(words.get("listen-addr"))?,
        listen_metrics: some(words, "metrics-addr").map(str::parse).transpose()?,
        room: descriptors::for_clients(1),
        tls: tls(words)?,
        endpoints: listed("endpoints").map(str::to_owned).collect(),
        member_tls: member_tls(words)?,
        sync_interval: duration(words, "endpoints-auto-sync-interval")?,
        max_concurrent_streams: words.get("max-concurrent-streams").parse().unwrap_or(u32::MAX),
        keep_alive: (!interval.is_zero() && !timeout.is_zero()).then_some((interval, timeout)),
        keep_alive_min: if every.is_zero() { settings::PING_PAUSE } else { every },
        namespace: words.get("namespace").to_owned(),
        max_send_bytes: number(words, "max-send-bytes")?,
        advertise: some(words, "advertise-client-url").map(str::to_owned),
        register: register(words)?,
        host_name: std::fs::read_to_string(HOST_NAME).unwrap_or_default().trim().to_owned(),
        metrics: observe::install(&[])?,
    })
}

fn some<'a>(words: &'a Words, name: &str) -> Option<&'a str> {
    Some(words.get(name)).filter(|value| !value.is_empty())
}

fn duration(words: &Words, name: &str) -> Result<Duration> {
    let nanos = api_types::time::parse_duration(words.get(name));
    let nanos = nanos.with_context(|| format!("--{name} is a duration"))?;
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

fn number<T: std::str::FromStr>(words: &Words, name: &str) -> Result<T> {
    let number = words.get(name).parse().ok();
    number.with_context(|| format!("invalid argument {:?} for \"--{name}\" flag", words.get(name)))
}

/// Where this proxy is to be found by others. The words are etcd's.
fn register(words: &Words) -> Result<Option<(String, i64)>> {
    let (prefix, ttl) = (some(words, "resolver-prefix"), number::<i64>(words, "resolver-ttl")?);
    let Some(prefix) = prefix else {
        if ttl > 0 {
            bail!("invalid resolver-prefix \"\"");
        }
        return Ok(None);
    };
    if ttl < 1 {
        bail!("invalid resolver-ttl {ttl}");
    }
    if some(words, "advertise-client-url").is_none() {
        bail!("invalid advertise-client-url \"\"");
    }
    Ok(Some((prefix.to_owned(), ttl)))
}

/// TLS towards members; none unless a file is named, an endpoint wants it, or anybody is to be believed.
fn member_tls(words: &Words) -> Result<Option<Tls>> {
    let file = |name: &str| some(words, name).map(PathBuf::from);
    let options = TlsOptions {
        client_certificate: file("cert"),
        client_key: file("key"),
        trusted_ca: file("cacert"),
        believe_anyone: words.get("insecure-skip-tls-verify") == "true",
        ..TlsOptions::default()
    };
    if options.believe_anyone {
        tracing::warn!(
            "--insecure-skip-tls-verify was given, this grpc proxy process skips authentication of etcd server TLS \
             certificates. This option should be enabled only for testing purposes."
        );
    }
    let named = [&options.client_certificate, &options.client_key, &options.trusted_ca];
    let wanted = named.iter().any(|file| file.is_some())
        || options.believe_anyone
        || words.get("endpoints").split(',').any(|endpoint| endpoint.trim().starts_with("https:"));
    Ok(wanted.then(|| Tls::new(options)).transpose()?)
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

    #[test]
    fn a_proxy_that_is_to_be_found_says_where_and_for_how_long() {
        let read = |flags: &[&str]| {
            let words = flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
            register(&Words::parse(&words, FLAGS)?).map_err(|error| anyhow::anyhow!("{error}"))
        };
        assert_eq!(read(&[]).expect("none"), None);
        let both = read(&["--resolver-prefix=p", "--resolver-ttl=60"]).expect("both");
        assert_eq!(both, Some(("p".to_owned(), 60)));
        for (flags, why) in [
            (&["--resolver-prefix=p"][..], "invalid resolver-ttl 0"),
            (&["--resolver-ttl=60"], "invalid resolver-prefix \"\""),
            (
                &["--resolver-prefix=p", "--resolver-ttl=60", "--advertise-client-url="],
                "invalid advertise-client-url \"\"",
            ),
        ] {
            assert_eq!(read(flags).expect_err(why).to_string(), why);
        }
    }
}

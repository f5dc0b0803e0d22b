//! What etcd says at its start and in service; people and tools look for these words.

use serde_json::{Map, Value};

use super::flags::{Effect, FLAGS, Flag, Flags, Kind};
use super::settings;
use etcd_api::ETCD_VERSION;

/// Tells what the member is started with.
pub fn starting(flags: &Flags, initial_cluster: &[(String, String)]) {
    let mut said = Map::new();
    for flag in FLAGS.iter().filter(|flag| !hidden(flag)) {
        said.insert(flag.name.to_owned(), value(flags, flag.name, flag.kind));
    }
    let cluster: Vec<String> = initial_cluster.iter().map(|(name, url)| format!("{name}={url}")).collect();
    said.insert("initial-cluster".to_owned(), cluster.join(",").into());
    said.insert("v2-deprecation".to_owned(), "write-only".into());
    said.insert("initial-corrupt-check".to_owned(), flags.gate("InitialCorruptCheck").into());
    said.insert("corrupt-check-time-interval".to_owned(), flags.get("corrupt-check-time").into());
    said.insert("compact-check-time-interval".to_owned(), flags.get("compact-hash-check-time").into());
    said.insert("member-initialized".to_owned(), settings::is_initialized(flags).into());
    let said = Value::Object(said).to_string();
    tracing::info!(
        "etcd-version" = ETCD_VERSION,
        "git-sha" = concat!("trierarch-", env!("CARGO_PKG_VERSION")),
        "go-os" = std::env::consts::OS,
        "go-arch" = std::env::consts::ARCH,
        spread = said,
        "starting an etcd server"
    );
    if let Some(threshold) = flags.number("bootstrap-defrag-threshold-megabytes").filter(|size| *size > 0) {
        // There is nothing that could be won.
        tracing::info!(
            "experimental-bootstrap-defrag-threshold-megabytes" = threshold,
            "Skipping defragmentation"
        );
    }
}

fn hidden(flag: &Flag) -> bool {
    flag.effect == Effect::Old || matches!(flag.name, "version" | "config-file")
}

fn value(flags: &Flags, name: &str, kind: Kind) -> Value {
    let text = flags.get(name);
    match kind {
        Kind::Bool => flags.on(name).into(),
        Kind::Unsigned | Kind::Signed => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        Kind::Urls => flags.list(name).into(),
        // The discovery's password is nobody's business.
        Kind::Text if name == "discovery-password" => "".into(),
        Kind::Text | Kind::Duration | Kind::Choice(_) | Kind::Gates | Kind::Ignored => text.into(),
    }
}

/// Tells that clients are served.
pub fn serving(flags: &Flags) {
    tracing::info!("ready to serve client requests");
    let shared = flags.some("listen-client-http-urls").is_none();
    for (name, traffic) in [
        ("listen-client-urls", if shared { "grpc+http" } else { "grpc" }),
        ("listen-client-http-urls", "http"),
    ] {
        for address in flags.addresses(name) {
            if address.is_secure() {
                tracing::info!(traffic, address = address.place, "serving client traffic securely");
            } else {
                tracing::info!(
                    traffic,
                    address = address.place,
                    "serving client traffic insecurely; this is strongly discouraged!"
                );
            }
        }
    }
}

//! What etcd says at its start and in service; people and tools look for these words.

use serde_json::{Map, Value};

use super::flags::{FLAGS, Flags, Kind};
use etcd_api::ETCD_VERSION;

/// Tells what the member is started with.
pub fn starting(flags: &Flags) {
    let mut said = Map::new();
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.name, "version" | "config-file")) {
        said.insert(flag.name.to_owned(), value(flags, flag.name, flag.kind));
    }
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

fn value(flags: &Flags, name: &str, kind: Kind) -> Value {
    let text = flags.get(name);
    match kind {
        Kind::Bool => flags.on(name).into(),
        Kind::Unsigned | Kind::Signed => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        Kind::Urls => flags.list(name).into(),
        // The discovery's password is nobody's business.
        Kind::Text if name == "discovery-password" => "".into(),
        Kind::Text | Kind::Duration => text.into(),
    }
}

/// Tells that clients are served.
pub fn serving(flags: &Flags) {
    tracing::info!("ready to serve client requests");
    for url in flags.list("listen-client-urls") {
        let (scheme, address) = url.split_once("://").unwrap_or(("http", &url));
        if matches!(scheme, "https" | "unixs") {
            tracing::info!(traffic = "grpc+http", address, "serving client traffic securely");
        } else {
            tracing::info!(
                traffic = "grpc+http",
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
}

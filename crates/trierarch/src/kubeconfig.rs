//! Writes a kubeconfig that lists every master as a context of its own.

use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::pki::{self, KeyedCertificate};

/// One master in a kubeconfig.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The context's name.
    pub context: String,
    /// `https://host:port`.
    pub server: String,
}

#[derive(Serialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize)]
struct Config {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    clusters: Vec<Named<ClusterEntry>>,
    contexts: Vec<Named<ContextEntry>>,
    #[serde(rename = "current-context")]
    current_context: String,
    users: Vec<Named<UserEntry>>,
}

#[derive(Serialize)]
struct ClusterEntry {
    cluster: Cluster,
}

#[derive(Serialize)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    authority: String,
}

#[derive(Serialize)]
struct ContextEntry {
    context: Context,
}

#[derive(Serialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Serialize)]
struct UserEntry {
    user: User,
}

#[derive(Serialize)]
struct User {
    #[serde(rename = "client-certificate-data")]
    certificate: String,
    #[serde(rename = "client-key-data")]
    key: String,
}

/// Writes `path`; the first endpoint's context is the current one. JSON is YAML, so that is what is written.
pub fn write(
    path: &Path,
    user: &str,
    endpoints: &[Endpoint],
    authority: &str,
    identity: &KeyedCertificate,
) -> Result<()> {
    let config = Config {
        api_version: "v1",
        kind: "Config",
        clusters: endpoints.iter().map(|endpoint| cluster(endpoint, authority)).collect(),
        contexts: endpoints.iter().map(|endpoint| context(endpoint, user)).collect(),
        current_context: endpoints.first().map(|endpoint| endpoint.context.clone()).unwrap_or_default(),
        users: vec![Named {
            name: user.to_owned(),
            value: UserEntry {
                user: User {
                    certificate: BASE64.encode(&identity.certificate),
                    key: BASE64.encode(&identity.key),
                },
            },
        }],
    };
    pki::write_private(path, &(serde_json::to_string_pretty(&config)? + "\n"))
}

fn cluster(endpoint: &Endpoint, authority: &str) -> Named<ClusterEntry> {
    let cluster = Cluster { server: endpoint.server.clone(), authority: BASE64.encode(authority) };
    Named { name: endpoint.context.clone(), value: ClusterEntry { cluster } }
}

fn context(endpoint: &Endpoint, user: &str) -> Named<ContextEntry> {
    let context = Context { cluster: endpoint.context.clone(), user: user.to_owned() };
    Named { name: endpoint.context.clone(), value: ContextEntry { context } }
}

//! `/livez`, `/readyz`, `/healthz`, `/version`, `/metrics`, `/metrics/slis`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_types::status::Status;
use http::Response;
use parking_lot::Mutex;
use serde_json::json;

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::encode::indent;
use crate::encryption;

/// The type of a text of metrics.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long the store may take to answer a health check.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the server knows of its own state.
#[derive(Default)]
pub(crate) struct Health {
    /// Whether the objects that every cluster has are there.
    pub bootstrapped: AtomicBool,
    /// How the checks ended so far, by endpoint and name.
    results: Mutex<BTreeMap<(&'static str, &'static str), Results>>,
}

/// How a check ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    /// The last time.
    pub is_good: bool,
    pub good: u64,
    pub bad: u64,
}

impl Health {
    /// Checks of an endpoint were made.
    fn note(&self, endpoint: &str, checks: &[Check]) {
        let Some(endpoint) = ENDPOINTS.into_iter().find(|own| *own == endpoint) else { return };
        let mut results = self.results.lock();
        for check in checks {
            let known = results.entry((endpoint, check.name)).or_default();
            known.is_good = check.failure.is_none();
            *(if known.is_good { &mut known.good } else { &mut known.bad }) += 1;
        }
    }

    /// How the checks ended so far, by endpoint and name.
    pub fn results(&self) -> BTreeMap<(&'static str, &'static str), Results> {
        self.results.lock().clone()
    }
}

/// What can be asked.
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// A named check and how it went.
struct Check {
    name: &'static str,
    failure: Option<&'static str>,
}

fn check(name: &'static str, good: bool, failure: &'static str) -> Check {
    Check { name, failure: (!good).then_some(failure) }
}

/// `0.1` of `0.1.0`.
fn short_version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"))
}

/// The version of Kubernetes whose behaviour this is.
pub(crate) const EMULATED: &str = "1.37";

/// The release of Kubernetes whose API this is.
pub(crate) fn kubernetes_version() -> &'static str {
    api_types::RELEASE.trim_start_matches('v')
}

/// This server's version among those of Kubernetes.
pub(crate) fn git_version() -> String {
    format!("{}+trierarch{}", api_types::RELEASE, short_version())
}

/// What it runs on.
pub(crate) fn platform() -> String {
    format!("linux/{}", architecture())
}

/// The processor's name as Go spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether a path asks how the server is, in all or in one of the checks.
pub(crate) fn is_check(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|endpoint| {
        path.strip_prefix(endpoint).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Upstream's names for what this server does once when it starts: the objects that every cluster has are there.
const BOOTSTRAPPED: [&str; 8] = [
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
];

impl Api {
    async fn checks(&self, endpoint: &str) -> Vec<Check> {
        let mut checks = vec![check("ping", true, "")];
        if endpoint != "livez" {
            self.store_checks(endpoint, &mut checks).await;
        }
        // A server that cannot make them yet is alive.
        let bootstrapped = endpoint == "livez" || self.health.bootstrapped.load(Ordering::Acquire);
        checks.extend(BOOTSTRAPPED.map(|name| check(name, bootstrapped, "not finished")));
        if endpoint == "readyz" {
            checks.push(check("shutdown", !self.shutdown.is_triggered(), "process is shutting down"));
        }
        checks
    }

    /// Whether the store answers, and this replica has seen what it holds, which is one question here; and whether what
    /// it holds can be decrypted.
    async fn store_checks(&self, endpoint: &str, checks: &mut Vec<Check>) {
        let answered = tokio::time::timeout(STORE_TIMEOUT, self.storage.store.read_barrier()).await;
        let is_level = matches!(answered, Ok(Ok(())));
        checks.push(check("etcd", is_level, "the store has no quorum"));
        if endpoint == "readyz" {
            checks.push(check("etcd-readiness", is_level, "the store has no quorum"));
            checks.push(check("informer-sync", is_level, "this replica is behind"));
        }
        if self.storage.sealing.is_checked() {
            let checked = self.storage.sealing.check().await;
            if let Err(error) = &checked {
                tracing::info!(error, "the check {} failed", encryption::HEALTH_CHECK);
            }
            checks.push(check(encryption::HEALTH_CHECK, checked.is_ok(), "a KMS plugin is not well"));
        }
    }

    /// Answers `/livez`, `/readyz`, `/healthz`, with each check by its name below them.
    pub(crate) async fn health(&self, call: &Call) -> Result<Response<Body>, Status> {
        let path = call.info.path.trim_start_matches('/');
        if path.ends_with('/') {
            return Ok(body::plain(404, "404 page not found\n"));
        }
        let (endpoint, one) = path.split_once('/').unwrap_or((path, ""));
        let excluded: Vec<&str> = call.query.all("exclude").collect();
        let mut checks = self.checks(endpoint).await;
        if one.is_empty() {
            self.health.note(endpoint, &checks);
        } else {
            checks.retain(|check| check.name == one);
            if checks.is_empty() {
                return Ok(body::plain(404, "404 page not found\n"));
            }
        }
        let mut text = String::new();
        let mut failed = false;
        for check in &checks {
            let line = match check.failure {
                _ if excluded.contains(&check.name) => format!("[+]{} excluded: ok\n", check.name),
                None => format!("[+]{} ok\n", check.name),
                Some(_) => {
                    failed = true;
                    format!("[-]{} failed: reason withheld\n", check.name)
                }
            };
            text.push_str(&line);
        }
        if failed {
            text.push_str(&format!("{endpoint} check failed\n"));
            return Ok(body::plain(500, text));
        }
        if !call.query.has("verbose") {
            return Ok(body::plain(200, "ok"));
        }
        text.push_str(&format!("{endpoint} check passed\n"));
        Ok(body::plain(200, text))
    }

    pub(crate) fn version(&self) -> Response<Body> {
        let version = json!({
            "major": "1",
            "minor": "37",
            "gitVersion": git_version(),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": platform(),
            "emulationMajor": "1",
            "emulationMinor": "37",
            "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "36",
        });
        body::response(200, crate::negotiate::JSON, indent(version.to_string().as_bytes()))
    }

    pub(crate) fn metrics_text(&self) -> Response<Body> {
        let mut text = self.metrics.as_ref().map(|render| render()).unwrap_or_default();
        self.readings(&mut text);
        body::response(200, METRICS_TYPE, text)
    }

    /// How the health checks ended (`/metrics/slis`).
    pub(crate) fn health_metrics(&self) -> Response<Body> {
        body::response(200, METRICS_TYPE, crate::counters::of_health(&self.health.results()))
    }
}

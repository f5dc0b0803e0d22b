//! /health, /livez and /readyz as etcd answers them (`etcdhttp/health.go`).

use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use metrics::{counter, gauge};
use mvcc::AlarmKind;

use crate::context::Context;
use crate::http::{method_not_allowed, plain};

/// Between looks whether a write to the engine has ended.
const ENGINE_POLL: Duration = Duration::from_millis(10);

/// What can be looked at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    /// Why it fails.
    async fn run(self, context: &Context) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let corrupt = context.store.view().alarms().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::SerializableRead => read(context, true).await,
            Self::LinearizableRead => read(context, false).await,
            Self::NonLearner if context.store.status().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Self::NonLearner => Ok(()),
        }
    }
}

/// Whether a read would be answered. One of what there is needs no leader, but a process whose engine hangs in the
/// middle of a write is not well: it will never show anything newer. Nor is one for others whose log waits for its disk: a
/// member alone could read without it, and acknowledges nothing. Nor is one that the others cannot reach, although it
/// reaches them.
async fn read(context: &Context, serializable: bool) -> Result<(), String> {
    let clock = &context.env.clock;
    let deadline = clock.monotonic() + context.store.timing().request_timeout();
    let hangs = || context.store.is_writing() || !serializable && context.store.is_log_waiting();
    while hangs() {
        if clock.monotonic() > deadline {
            return Err("etcdserver: request timed out".to_owned());
        }
        clock.sleep(ENGINE_POLL).await;
    }
    if serializable {
        return Ok(());
    }
    let failed = |error: store::StoreError| format!("etcdserver: {error}");
    context.store.read_barrier().await.map_err(failed)?;
    context.store.meet_quorum().await.map_err(failed)
}

/// The endpoints.
pub(crate) fn router(context: &Context) -> Router {
    let mut router = Router::new().route("/health", any(health).with_state(context.clone()));
    for (kind, checks) in [("livez", LIVEZ), ("readyz", READYZ)] {
        let all = Group { context: context.clone(), kind, checks, single: false };
        for check in checks {
            let group = Group { checks: std::slice::from_ref(check), single: true, ..all.clone() };
            router = router.route(&format!("/{kind}/{}", check.name()), any(group_answer).with_state(group));
        }
        router = router.route(&format!("/{kind}"), any(group_answer).with_state(all));
    }
    router
}

/// The values of a name in a query.
fn values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
}

async fn health(State(context): State<Context>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return method_not_allowed().await;
    }
    let excluded = values(query.as_deref(), "exclude");
    let serializable = values(query.as_deref(), "serializable").first().is_some_and(|value| value == "true");
    match unwell(&context, &excluded, serializable).await {
        None => {
            counter!("etcd_server_health_success").increment(1);
            (StatusCode::OK, r#"{"health":"true","reason":""}"#).into_response()
        }
        Some(reason) => {
            counter!("etcd_server_health_failures").increment(1);
            let reason = serde_json::Value::String(reason);
            let text = format!("{{\"health\":\"false\",\"reason\":{reason}}}");
            tracing::warn!(output = text, "status-code" = 503, "/health error");
            plain(StatusCode::SERVICE_UNAVAILABLE, text + "\n")
        }
    }
}

/// Why the member is not well: an alarm, no leader, or a read that fails, in this order.
async fn unwell(context: &Context, excluded: &[String], serializable: bool) -> Option<String> {
    let alarm =
        context.store.view().alarms().find(|alarm| !excluded.iter().any(|name| name == alarm.kind.name()));
    if let Some(alarm) = alarm {
        return Some(format!("ALARM {}", alarm.kind.name()));
    }
    if !serializable && context.store.status().leader == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    let failed = read(context, serializable).await.err()?;
    Some(format!("RANGE ERROR:{failed}"))
}

/// Checks that are answered together.
#[derive(Clone)]
struct Group {
    context: Context,
    kind: &'static str,
    checks: &'static [Check],
    single: bool,
}

async fn group_answer(State(group): State<Group>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return method_not_allowed().await;
    }
    let excluded = if group.single { Vec::new() } else { values(query.as_deref(), "exclude") };
    let unknown = excluded.iter().filter(|name| !group.checks.iter().any(|check| check.name() == **name));
    let unknown: Vec<String> =
        unknown.filter(|name| !name.is_empty()).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() {
        tracing::warn!("missing-health-checks" = unknown.join(","), "some health checks cannot be excluded");
    }
    let (mut text, mut failed) = (String::new(), false);
    for check in group.checks.iter().filter(|check| !excluded.iter().any(|name| name == check.name())) {
        let outcome = check.run(&group.context).await;
        note(group.kind, check.name(), outcome.is_ok());
        match outcome {
            Ok(()) => text.push_str(&format!("[+]{} ok\n", check.name())),
            Err(why) => {
                failed = true;
                text.push_str(&format!("[-]{} failed: {why}\n", check.name()));
            }
        }
    }
    if failed {
        let path = format!("/{}", group.kind);
        tracing::error!(path, reason = text, "status-code" = 503, "Health check error");
        return plain(StatusCode::SERVICE_UNAVAILABLE, text + "\n");
    }
    let verbose = !values(query.as_deref(), "verbose").is_empty();
    plain(StatusCode::OK, if verbose { text + "ok\n" } else { "ok\n".to_owned() })
}

fn note(kind: &'static str, name: &'static str, success: bool) {
    gauge!("etcd_server_healthcheck", "type" => kind, "name" => name).set(if success { 1.0 } else { 0.0 });
    let status = if success { "success" } else { "error" };
    counter!("etcd_server_healthchecks_total", "type" => kind, "name" => name, "status" => status)
        .increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let query = Some("exclude=a&verbose&exclude=b&serializable=true");
        assert_eq!(values(query, "exclude"), ["a", "b"]);
        assert_eq!(values(query, "verbose"), [""]);
        assert!(values(None, "verbose").is_empty());
    }
}

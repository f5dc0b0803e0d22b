//! The pod's columns: readiness, the one-word status and restarts.

use super::{Cell, Column, NAME, condition, duration, is_true, plain, text, wide};
use crate::look::Look;
use serde_json::Value;

pub(super) static POD: &[Column] = &[
    NAME,
    text("Ready", Cell::Of(|pod, _| summary(pod).ready.into())),
    text("Status", Cell::Of(|pod, _| summary(pod).status.into())),
    text("Restarts", Cell::Of(|pod, now| restarts(&summary(pod), now).into())),
    super::AGE,
    wide(
        "IP",
        Cell::Of(|pod, _| {
            pod.items("status.podIPs")
                .first()
                .map_or_else(|| "<none>".into(), |ip| plain(ip.at("ip"), "<none>"))
                .into()
        }),
    ),
    wide("Node", Cell::Text("spec.nodeName", "<none>")),
    wide("Nominated Node", Cell::Text("status.nominatedNodeName", "<none>")),
    wide("Readiness Gates", Cell::Of(|pod, _| readiness_gates(pod).into())),
];

struct Summary {
    ready: String,
    status: String,
    restarts: i64,
    /// Milliseconds of the last restart, 0 when unknown.
    last_restart: i64,
}

/// What the walk over init containers and containers gathers.
struct Tally {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: i64,
    sidecar_restarts: i64,
    last_sidecar_restart: i64,
}

fn summary(pod: &Value) -> Summary {
    let sidecars: Vec<&str> = pod
        .items("spec.initContainers")
        .iter()
        .filter(|c| c.text("restartPolicy") == "Always")
        .map(|c| c.text("name"))
        .collect();
    let mut tally = Tally {
        reason: base_reason(pod),
        ready: 0,
        restarts: 0,
        last_restart: 0,
        sidecar_restarts: 0,
        last_sidecar_restart: 0,
    };
    let initializing = init_containers(pod, &sidecars, &mut tally);
    if !initializing || is_true(pod, "Initialized") {
        containers(pod, &mut tally);
    }
    let total = pod.items("spec.containers").len() + sidecars.len();
    Summary {
        ready: format!("{}/{total}", tally.ready),
        status: deleted_reason(pod).unwrap_or(tally.reason),
        restarts: tally.restarts,
        last_restart: tally.last_restart,
    }
}

fn base_reason(pod: &Value) -> String {
    let gated = pod
        .items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated");
    let reason = pod.text("status.reason");
    if gated {
        "SchedulingGated".into()
    } else if reason.is_empty() {
        pod.text("status.phase").into()
    } else {
        reason.into()
    }
}

fn deleted_reason(pod: &Value) -> Option<String> {
    if !pod.has("metadata.deletionTimestamp") {
        return None;
    }
    if pod.text("status.reason") == "NodeLost" {
        Some("Unknown".into())
    } else if !matches!(pod.text("status.phase"), "Succeeded" | "Failed") {
        Some("Terminating".into())
    } else {
        None
    }
}

fn finished_at(status: &Value) -> i64 {
    duration::millis(status.text("lastState.terminated.finishedAt")).unwrap_or(0)
}

/// Phase A: returns whether an init container still holds the pod back.
fn init_containers(pod: &Value, sidecars: &[&str], tally: &mut Tally) -> bool {
    for (index, status) in pod.items("status.initContainerStatuses").iter().enumerate() {
        let sidecar = sidecars.contains(&status.text("name"));
        tally.restarts += status.int("restartCount");
        tally.last_restart = tally.last_restart.max(finished_at(status));
        if sidecar {
            tally.sidecar_restarts += status.int("restartCount");
            tally.last_sidecar_restart = tally.last_sidecar_restart.max(finished_at(status));
        }
        let terminated = status.at("state.terminated");
        if terminated.is_object() && terminated.int("exitCode") == 0 {
            continue;
        }
        if sidecar && status.flag("started") {
            if status.flag("ready") {
                tally.ready += 1;
            }
            continue;
        }
        tally.reason = init_reason(pod, status, index);
        return true;
    }
    false
}

fn init_reason(pod: &Value, status: &Value, index: usize) -> String {
    let terminated = status.at("state.terminated");
    let waiting = status.text("state.waiting.reason");
    if terminated.is_object() {
        format!("Init:{}", ended(terminated))
    } else if !waiting.is_empty() && waiting != "PodInitializing" {
        format!("Init:{waiting}")
    } else {
        format!("Init:{index}/{}", pod.items("spec.initContainers").len())
    }
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn ended(terminated: &Value) -> String {
    if !terminated.text("reason").is_empty() {
        terminated.text("reason").to_owned()
    } else if terminated.int("signal") != 0 {
        format!("Signal:{}", terminated.int("signal"))
    } else {
        format!("ExitCode:{}", terminated.int("exitCode"))
    }
}

/// Phase B: from the last container to the first, so that the first one's reason wins.
fn containers(pod: &Value, tally: &mut Tally) {
    tally.restarts = tally.sidecar_restarts;
    tally.last_restart = tally.last_sidecar_restart;
    let mut running = false;
    let mut error: Option<String> = None;
    for status in pod.items("status.containerStatuses").iter().rev() {
        tally.restarts += status.int("restartCount");
        tally.last_restart = tally.last_restart.max(finished_at(status));
        let waiting = status.text("state.waiting.reason");
        let terminated = status.at("state.terminated");
        if !waiting.is_empty() {
            tally.reason = waiting.to_owned();
        } else if terminated.is_object() {
            tally.reason = ended(terminated);
            if terminated.int("exitCode") != 0 {
                error = Some(tally.reason.clone());
            }
        } else if status.flag("ready") && status.has("state.running") {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" {
        if running && is_true(pod, "Ready") {
            tally.reason = "Running".into();
        } else if let Some(error) = error {
            tally.reason = error;
        } else if running {
            tally.reason = "NotReady".into();
        }
    }
}

fn restarts(summary: &Summary, now: i64) -> String {
    if summary.restarts != 0 && summary.last_restart != 0 {
        format!("{} ({} ago)", summary.restarts, duration::human(now - summary.last_restart))
    } else {
        summary.restarts.to_string()
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.items("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let passed = gates
        .iter()
        .filter(|gate| {
            condition(pod, "status.conditions", gate.text("conditionType"))
                .is_some_and(|c| c.text("status") == "True")
        })
        .count();
    format!("{passed}/{}", gates.len())
}

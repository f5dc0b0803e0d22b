//! Registers the node, renews its Lease, keeps its status true. Driver.

use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, time};
use client::{ClientError, Patch};
use env::Shutdown;
use serde_json::{Value, json};

use super::machine;
use super::pressure::{self, Pressure, Seen, Thresholds};
use super::status::{self, NodeFacts};
use crate::context::{Context, core, kind};

/// The Lease is renewed so many times while it lasts (as upstream).
const LEASE_RENEWALS: u32 = 4;
/// The status is looked at this often …
const STATUS_CHECK: Duration = Duration::from_secs(10);
/// … this often while the node is not ready …
const STATUS_CHECK_UNREADY: Duration = Duration::from_millis(500);
/// … and written this often though unchanged.
const STATUS_REPORT: Duration = Duration::from_secs(300);
/// Before a failed request is tried again.
const RETRY: Duration = Duration::from_secs(1);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers the node until it is there; returns it.
pub(crate) async fn register(context: &Context, shutdown: &Shutdown) -> Option<Arc<Value>> {
    while !shutdown.is_triggered() {
        match try_register(context).await {
            Ok(node) => {
                let node = Arc::new(node);
                *context.node.write() = Some(node.clone());
                return Some(node);
            }
            Err(error) => tracing::warn!(node = %context.node_name, %error, "the node is not registered yet"),
        }
        tokio::select! {
            () = context.env.clock.sleep(RETRY) => {}
            () = shutdown.wait() => {}
        }
    }
    None
}

async fn try_register(context: &Context) -> Result<Value, ClientError> {
    let api = context.client.all(core("nodes"));
    let name = &context.node_name;
    match api.create(&status::node(name)).await {
        Err(error) if error.is_already_exists() => {}
        other => return other,
    }
    let node = api.get(name).await?;
    let wanted = status::labels(name);
    let missing = wanted
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, value)| meta::label(&node, key) != value.as_str());
    if !missing {
        return Ok(node);
    }
    api.patch(name, "", &Patch::Strategic(json!({"metadata": {"labels": wanted}}))).await
}

/// Renews the Lease until shutdown.
pub(crate) async fn renew_lease(context: Arc<Context>, shutdown: Shutdown) {
    let mut known: Option<Value> = None;
    while !shutdown.is_triggered() {
        let pause = match renew(&context, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                context.lease_duration / LEASE_RENEWALS
            }
            Err(error) => {
                tracing::warn!(node = %context.node_name, %error, "the node's Lease was not renewed");
                RETRY
            }
        };
        tokio::select! {
            () = context.env.clock.sleep(pause) => {}
            () = shutdown.wait() => {}
        }
    }
}

async fn renew(context: &Context, known: Option<Value>) -> Result<Value, ClientError> {
    let api = context.client.namespaced(kind("coordination.k8s.io", "v1", "leases"), LEASE_NAMESPACE);
    let name = &context.node_name;
    let renewed = time::micro_from_millis(context.env.clock.now().millis());
    let lease = match known {
        Some(lease) => Some(lease),
        None => match api.get(name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": context.lease_duration.as_secs(), "renewTime": renewed});
    if let Some(mut lease) = lease {
        lease["spec"] = spec;
        return api.update(&lease).await;
    }
    let uid = context.node.read().as_ref().map(|node| meta::uid(node).to_owned()).unwrap_or_default();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
    api.create(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": owner},
        "spec": spec,
    }))
    .await
}

/// What the status needs to know beside the context.
pub(crate) struct Settings {
    /// Of the node's own server.
    pub port: u16,
    pub thresholds: Thresholds,
}

/// Measures what is left of the machine. Simulated pods use nothing of it, so that says nothing about such a node.
fn pressure(context: &Context, thresholds: &Thresholds, seen: &mut Seen) -> Pressure {
    if context.runtime.is_simulated() {
        return Pressure::default();
    }
    pressure::decide(&machine::signals(&context.root), thresholds, seen, context.env.clock.now())
}

/// Keeps the status true until shutdown; registers again if somebody deleted the node.
pub(crate) async fn keep_status(context: Arc<Context>, settings: Settings, shutdown: Shutdown) {
    let mut written_at = None;
    let mut seen = Seen::default();
    while !shutdown.is_triggered() {
        let now = context.env.clock.monotonic();
        let due = written_at.is_none_or(|at| now - at >= STATUS_REPORT);
        let pause = match check(&context, &settings, &mut seen, due).await {
            Ok((written, ready)) => {
                if written {
                    written_at = Some(now);
                }
                if ready { STATUS_CHECK } else { STATUS_CHECK_UNREADY }
            }
            Err(error) if error.is_not_found() => {
                register(&context, &shutdown).await;
                RETRY
            }
            Err(error) => {
                tracing::warn!(node = %context.node_name, %error, "the node's status was not written");
                RETRY
            }
        };
        tokio::select! {
            () = context.env.clock.sleep(pause) => {}
            () = shutdown.wait() => {}
        }
    }
}

/// Writes the status if it changed or is due. Returns whether it was written and whether the node is ready.
async fn check(
    context: &Context,
    settings: &Settings,
    seen: &mut Seen,
    due: bool,
) -> Result<(bool, bool), ClientError> {
    let runtime = context.runtime.status().await.map_err(|error| error.to_string());
    let images = context.runtime.list_images().await.unwrap_or_default();
    let node = context.node.read().clone().unwrap_or_default();
    let machine = machine::machine();
    let facts = NodeFacts {
        name: &context.node_name,
        addresses: &context.host_ips,
        port: settings.port,
        capacity: context.capacity,
        machine: &machine,
        runtime_name: &context.runtime_name,
        runtime,
        images,
        pressure: pressure(context, &settings.thresholds, seen),
        now: context.env.clock.now(),
    };
    let old = node.get("status").cloned().unwrap_or_default();
    let new = status::status(&facts, &old);
    let mut conditions = new["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    if !due && status::same(&old, &new) {
        return Ok((false, ready));
    }
    let mut patch = new;
    if let Some(addresses) = patch["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    let api = context.client.all(core("nodes"));
    let node = api.patch(&context.node_name, "status", &Patch::Strategic(json!({"status": patch}))).await?;
    *context.node.write() = Some(Arc::new(node));
    Ok((true, ready))
}

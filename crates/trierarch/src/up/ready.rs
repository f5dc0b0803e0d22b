//! When a local cluster is up: every master answers `/readyz` over TLS, and every node says that it is Ready.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::{Client, MastersConfig};
use env::{Env, Shutdown, TaskGroup};
use http::Request;

use super::layout::{Layout, Master};
use super::process::Processes;

/// How long the masters may take; the first start writes the bootstrap objects.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const STOP: Duration = Duration::from_secs(1);

/// Returns when every master is ready.
pub async fn masters(env: &Env, layout: &Layout, processes: &Processes) -> Result<()> {
    let tasks = TaskGroup::new("up", Shutdown::new());
    let deadline = env.clock.monotonic() + DEADLINE;
    for master in layout.masters() {
        let client = connect(env, &tasks, layout, &master)?;
        while !is_ready(&client).await {
            let log = processes.log(&master.name);
            if processes.running(&master.name).is_none() {
                bail!("master {} has ended: {}", master.name, last_line(&log));
            }
            if env.clock.monotonic() > deadline {
                bail!(
                    "master {} is not ready after {} s: see {}",
                    master.name,
                    DEADLINE.as_secs(),
                    log.display()
                );
            }
            env.clock.sleep(POLL).await;
        }
    }
    tasks.shutdown().trigger();
    Ok(tasks.join(STOP).await?)
}

/// Returns when every node is Ready.
pub async fn nodes(env: &Env, layout: &Layout, processes: &Processes) -> Result<()> {
    let tasks = TaskGroup::new("up", Shutdown::new());
    let client = admin(env, &tasks, layout)?;
    let kind = api_types::table::find("", "v1", "nodes").context("nodes are a kind")?;
    let deadline = env.clock.monotonic() + DEADLINE;
    for node in layout.nodes() {
        let name = format!("agent-{}", node.name);
        while !client.all(kind).get(&node.name).await.is_ok_and(|found| is_node_ready(&found)) {
            let log = processes.log(&name);
            if processes.running(&name).is_none() {
                bail!("the agent of {} has ended: {}", node.name, last_line(&log));
            }
            if env.clock.monotonic() > deadline {
                bail!(
                    "node {} is not Ready after {} s: see {}",
                    node.name,
                    DEADLINE.as_secs(),
                    log.display()
                );
            }
            env.clock.sleep(POLL).await;
        }
    }
    tasks.shutdown().trigger();
    Ok(tasks.join(STOP).await?)
}

/// A node that says that it is Ready and on which pods may be placed.
fn is_node_ready(node: &serde_json::Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let held = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        && !taints.any(|taint| held.iter().any(|key| taint["key"] == *key))
}

/// A caller with the masters' own client certificate, which is an administrator's.
fn admin(env: &Env, tasks: &TaskGroup, layout: &Layout) -> Result<Client> {
    let read =
        |file: &str| std::fs::read(layout.pki().join(file)).with_context(|| format!("cannot read {file}"));
    let identity = (read("apiserver-kubelet-client.crt")?, read("apiserver-kubelet-client.key")?);
    let servers = layout.masters().iter().map(Master::server).collect();
    let config = MastersConfig { servers, ca: read("ca.crt")?, identity: Some(identity) };
    Ok(Client::new(config.build(env.clone(), tasks.clone())?, "trierarch-up"))
}

fn connect(env: &Env, tasks: &TaskGroup, layout: &Layout, master: &Master) -> Result<Client> {
    let ca = std::fs::read(layout.pki().join("ca.crt")).context("cannot read the certificate authority")?;
    let servers = vec![master.server()];
    let service = MastersConfig { servers, ca, identity: None }.build(env.clone(), tasks.clone())?;
    Ok(Client::new(service, "trierarch-up"))
}

async fn is_ready(client: &Client) -> bool {
    let request = Request::get("/readyz").body(bytes::Bytes::new());
    let Ok(request) = request else { return false };
    client.send(request).await.is_ok_and(|response| response.status().is_success())
}

fn last_line(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.lines().last() {
        Some(line) => format!("{line} (see {})", log.display()),
        None => format!("see {}", log.display()),
    }
}

//! When a local cluster is up: every master answers `/readyz` over TLS.

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

fn connect(env: &Env, tasks: &TaskGroup, layout: &Layout, master: &Master) -> Result<Client> {
    let ca = std::fs::read(layout.pki().join("ca.crt")).context("cannot read the certificate authority")?;
    let servers = vec![format!("https://127.0.0.1:{}", master.api_port)];
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

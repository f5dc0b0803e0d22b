//! SIGTERM and SIGINT ask for a clean stop.

use anyhow::Result;
use env::{Shutdown, TaskGroup};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Triggers the group's shutdown when the process is asked to stop.
pub fn watch(tasks: &TaskGroup) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown: Shutdown = tasks.shutdown().clone();
    tasks.spawn_detached("signals", async move {
        tokio::select! {
            _ = terminate.recv() => info!("asked to stop by SIGTERM"),
            _ = interrupt.recv() => info!("asked to stop by SIGINT"),
            () = shutdown.wait() => {}
        }
        shutdown.trigger();
    });
    Ok(())
}

//! What the state needs beside the writes: what was compacted is deleted, in small steps with pauses between them, and
//! the index is saved, so that opening the state is quick.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use env::Shutdown;
use parking_lot::Mutex;

use crate::consensus::Raft;
use crate::failpoints::hit;
use crate::state::{Core, Shared, Sweep};

/// How long what was compacted stays for those who still read a view from before.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether they have ended.
const READ_POLL: Duration = Duration::from_millis(20);

/// Works until the store stops; an error of the engine ends the store.
pub(crate) async fn run(
    core: Arc<Mutex<Core>>,
    shared: Arc<Shared>,
    raft: Raft,
    stopped: Shutdown,
) -> io::Result<()> {
    // What the process before left undone.
    shared.upkeep.notify_one();
    loop {
        tokio::select! {
            () = shared.upkeep.notified() => {}
            () = stopped.wait() => return Ok(()),
        }
        let (has_garbage, is_due, kept) = {
            let mut core = core.lock();
            (core.mvcc().has_garbage(), core.mvcc().is_index_due(), core.begin_snapshot())
        };
        if let Some(kept) = kept {
            shorten_log(&raft, kept).await;
        }
        if is_due {
            save_index(&core).await;
        }
        if has_garbage {
            sweep(&core, &shared, &stopped).await?;
        }
    }
}

/// Has a snapshot made, and the log before `kept` forgotten as soon as a snapshot has it. An error of the consensus is
/// told by itself.
async fn shorten_log(raft: &Raft, kept: u64) {
    drop(raft.trigger().snapshot().await);
    // What no snapshot has yet stays: this is about the snapshot before.
    if let Some(last) = kept.checked_sub(1) {
        drop(raft.trigger().purge_log(last).await);
    }
}

/// Saves the index. Without it the next start takes longer, that is all.
pub(crate) async fn save_index(core: &Arc<Mutex<Core>>) {
    let saving = core.lock().mvcc().begin_saving();
    let saved = blocking(move || saving.save().map_err(io::Error::other)).await;
    match saved {
        Ok(saved) => core.lock().mvcc().end_saving(saved),
        Err(error) => tracing::warn!(%error, "the index was not saved; the next start reads the whole state"),
    }
}

/// Waits until the engine has everything. What it cannot take is applied again at the next start.
pub(crate) async fn settle(shared: &Shared) {
    let engine = shared.engine.lock().clone();
    if let Err(error) = blocking(move || engine.drain().map_err(io::Error::other)).await {
        tracing::warn!(%error, "the state was not written to its end; the log will be played again");
    }
}

async fn sweep(core: &Arc<Mutex<Core>>, shared: &Arc<Shared>, stopped: &Shutdown) -> io::Result<()> {
    let clock = &shared.env.clock;
    let deadline = clock.monotonic() + READ_PATIENCE;
    while core.lock().mvcc().is_read_before_compaction() && clock.monotonic() < deadline {
        tokio::select! {
            () = clock.sleep(READ_POLL) => {}
            () = stopped.wait() => return Ok(()),
        }
    }
    if core.lock().mvcc().is_index_overtaken() {
        save_index(core).await;
    }
    let pace = core.lock().pace();
    let start = clock.monotonic();
    loop {
        let (next, revision) = {
            let mut core = core.lock();
            (core.sweep(), core.mvcc().view().compact_revision())
        };
        let Some(sweep) = next else {
            shared.counters.sweep_took.record(millis(clock.monotonic() - start));
            shared.swept.send_replace(revision);
            return Ok(());
        };
        let (core, shared) = (core.clone(), shared.clone());
        blocking(move || step(&core, &shared, sweep, pace.batch)).await?;
        // Writes that wait go first.
        tokio::select! {
            () = clock.sleep(pace.pause) => {}
            () = stopped.wait() => return Ok(()),
        }
    }
}

fn step(core: &Mutex<Core>, shared: &Shared, sweep: Sweep, versions: usize) -> io::Result<()> {
    let replaced = sweep.replaced;
    let swept = sweep.step.walk(versions).map_err(io::Error::other)?;
    let count = swept.len();
    hit("compactBeforeCommitBatch");
    let mut core = core.lock();
    let start = shared.env.clock.monotonic();
    hit("compactAfterAcquiredBatchTxLock");
    if !core.is(replaced) {
        return Ok(());
    }
    core.absorb(swept)?;
    hit("compactAfterCommitBatch");
    shared.counters.swept.increment(count as u64);
    shared.counters.swept_last.set(shared.env.clock.now().millis() as f64 / 1000.0);
    shared.counters.sweep_held.record(millis(shared.env.clock.monotonic() - start));
    if !core.mvcc().has_garbage() {
        hit("compactBeforeSetFinishedCompact");
        let revision = core.mvcc().view().compact_revision();
        tracing::info!("compact-revision" = revision, "finished scheduled compaction");
        hit("compactAfterSetFinishedCompact");
    }
    Ok(())
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

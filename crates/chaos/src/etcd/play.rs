//! One scenario of members from start to report.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;

use super::fault;
use super::members::{Members, PATIENCE};
use super::scenario::{Fault, Scenario};
use super::traffic::Traffic;
use crate::history::{self, History};
use crate::network::Network;
use crate::poll::until;

/// Operations that a run must have recorded for its verdict to mean something.
const ENOUGH: usize = 100;

/// Plays a scenario and prints its report; whether all promises held. Every run asks what its seed says; the faults are
/// the same, but not the moments at which they strike.
///
/// # Errors
/// What keeps it from being played.
pub async fn play(
    env: &Env,
    binary: &Path,
    network: &Network,
    scenario: &Scenario,
    seed: u64,
) -> Result<bool> {
    if scenario.disk_mb > 0 || scenario.faults.iter().any(Fault::cuts) {
        network.can_cut()?;
    }
    println!("## {}: {}", scenario.name, scenario.about);
    let mut good = true;
    for run in 0..u64::from(scenario.runs) {
        let wrong = run_once(env, binary, network, scenario, seed + run).await?;
        wrong.iter().for_each(|text| println!("VIOLATED (seed {}): {text}", seed + run));
        good &= wrong.is_empty();
    }
    println!("promises: {}\n", if good { "all held" } else { "NOT held" });
    Ok(good)
}

async fn run_once(
    env: &Env,
    binary: &Path,
    network: &Network,
    scenario: &Scenario,
    seed: u64,
) -> Result<Vec<String>> {
    let mut members =
        Members::start_on(env, binary, network, (scenario.members, scenario.disk_mb), &scenario.flags)
            .await?;
    let (history, mut wrong) = match run_on(env, &mut members, scenario, seed).await {
        Ok(recorded) => recorded,
        Err(error) => return Err(members.with_words(&error)),
    };
    wrong.extend(members.same_hashes().await);
    let begun = env.clock.monotonic();
    wrong.extend(history::check(&history));
    let took = env.clock.monotonic() - begun;
    let lost = history.operations.iter().filter(|operation| operation.answer.is_none()).count();
    println!(
        "seed {seed}: {} operations, {lost} without an answer, {} watchers; {} leases, {} holds of a lock, {} attempts at \
         a right; judged in {} ms",
        history.operations.len(),
        history.streams.len(),
        history.sessions.len(),
        history.holds.len(),
        history.attempts.len(),
        took.as_millis()
    );
    if !wrong.is_empty() {
        let folder = members.keep_folder();
        write(&folder.join("history.jsonl"), &history)?;
        println!("history, logs and data are kept in {}", folder.display());
    }
    Ok(wrong)
}

async fn run_on(
    env: &Env,
    members: &mut Members<'_>,
    scenario: &Scenario,
    seed: u64,
) -> Result<(History, Vec<String>)> {
    let _busy = Busy::start(scenario.busy);
    let begun = members.leadership().await?;
    if scenario.users > 0 {
        members.demand_passwords().await?;
    }
    let traffic = Traffic::start(env, members.endpoints(), members.token(), scenario, seed).await?;
    let between = Duration::from_millis(scenario.between_ms);
    for round in 0..scenario.rounds {
        env.clock.sleep(between).await;
        if let [first, ..] = members.ended().as_slice() {
            bail!("before round {round}, {first}");
        }
        let fault = &scenario.faults[round % scenario.faults.len()];
        let played = fault::play(env, members, fault, Duration::from_millis(scenario.lasts_ms)).await;
        played.with_context(|| format!("round {round}, {fault:?}"))?;
    }
    env.clock.sleep(between).await;
    for index in 0..members.size() {
        members.serves(index).await?;
    }
    // A slow machine takes longer.
    until(env, PATIENCE, async || match traffic.count() {
        count if count < ENOUGH => bail!("only {count} operations were done"),
        _ => Ok(()),
    })
    .await?;
    let (history, mut wrong) = traffic.finish(env).await?;
    let ended = members.leadership().await?;
    if scenario.steady && begun != ended {
        wrong.push(format!("leader and term were {begun:?} and are {ended:?}, though nothing was wrong"));
    }
    Ok((history, wrong))
}

/// Threads that keep processors busy until this is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..count).map(spin).collect();
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Writes a history, a line for each operation, each watcher, and whatever else was recorded.
fn write(file: &Path, history: &History) -> Result<()> {
    let mut lines = Vec::new();
    for operation in &history.operations {
        lines.push(serde_json::to_string(operation)?);
    }
    for stream in &history.streams {
        lines.push(serde_json::to_string(stream)?);
    }
    for session in &history.sessions {
        lines.push(serde_json::to_string(session)?);
    }
    for hold in &history.holds {
        lines.push(serde_json::to_string(hold)?);
    }
    for attempt in &history.attempts {
        lines.push(serde_json::to_string(attempt)?);
    }
    fs::write(file, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", file.display()))
}

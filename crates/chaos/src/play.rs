//! One scenario from start to report.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use env::{Env, Shutdown, TaskGroup};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::check;
use crate::cluster::Cluster;
use crate::load::{self, Record, Seen, Write};
use crate::report::{self, Outcome};
use crate::scenario::{Fault, Kind, Scenario, Target};

/// How long watchers may take to see the last write.
const DRAIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Plays a scenario and prints its report; whether all invariants held.
pub async fn play(env: &Env, binary: &Path, scenario: &Scenario) -> Result<bool> {
    let mut outcomes = Vec::new();
    for _ in 0..scenario.runs {
        outcomes.push(run(env, binary, scenario).await?);
    }
    Ok(report::print(scenario, &outcomes))
}

struct Clients {
    writers: Vec<Record<Write>>,
    watchers: Vec<Record<Seen>>,
    writing: TaskGroup,
    watching: TaskGroup,
}

impl Clients {
    fn start(env: &Env, cluster: &Cluster, interval: Duration) -> Self {
        let writing = TaskGroup::new("writers", Shutdown::new());
        let watching = TaskGroup::new("watchers", Shutdown::new());
        let endpoints: Vec<String> = (0..cluster.size()).map(|index| cluster.endpoint(index)).collect();
        let (mut writers, mut watchers) = (Vec::new(), Vec::new());
        for (number, endpoint) in endpoints.iter().enumerate() {
            let (writes, seen) = (Record::<Write>::default(), Record::<Seen>::default());
            let stopped = writing.shutdown().clone();
            let write =
                load::write(env.clone(), number, endpoints.clone(), interval, writes.clone(), stopped);
            writing.spawn_detached(format!("writer-{number}"), write);
            let watch = load::watch(env.clone(), endpoint.clone(), seen.clone(), watching.shutdown().clone());
            watching.spawn_detached(format!("watcher-{number}"), watch);
            writers.push(writes);
            watchers.push(seen);
        }
        Self { writers, watchers, writing, watching }
    }

    fn writes(&self) -> Vec<Write> {
        self.writers.iter().flat_map(|record| record.lock().clone()).collect()
    }

    fn seen(&self) -> Vec<Vec<Seen>> {
        self.watchers.iter().map(|record| record.lock().clone()).collect()
    }

    /// Waits until every watcher has seen the last acknowledged write.
    async fn drain(&self, env: &Env) -> Option<String> {
        let writes = self.writes();
        let last =
            writes.iter().filter_map(|write| write.acknowledged).map(|(_, revision)| revision).max()?;
        let deadline = env.clock.monotonic() + DRAIN;
        loop {
            let behind =
                |record: &Record<Seen>| record.lock().last().is_none_or(|event| event.revision < last);
            let late: Vec<usize> = (0..self.watchers.len()).filter(|&n| behind(&self.watchers[n])).collect();
            if late.is_empty() {
                return None;
            }
            if env.clock.monotonic() > deadline {
                return Some(format!("watchers {late:?} never saw revision {last}"));
            }
            env.clock.sleep(POLL).await;
        }
    }
}

async fn run(env: &Env, binary: &Path, scenario: &Scenario) -> Result<Outcome> {
    let mut cluster = Cluster::start(env, binary, scenario.masters).await?;
    let clients = Clients::start(env, &cluster, Duration::from_millis(scenario.load.interval_ms));
    env.clock.sleep(Duration::from_millis(scenario.load.before_ms)).await;
    let struck = targets(&cluster, scenario.fault.target).await?;
    let (at, done) = strike(env, &mut cluster, scenario.fault, &struck).await?;
    env.clock.sleep(Duration::from_millis(scenario.load.after_ms)).await;
    clients.writing.shutdown().trigger();
    clients.writing.clone().join(DRAIN).await?;
    let late = clients.drain(env).await;
    let (writes, seen) = (clients.writes(), clients.seen());
    if writes.is_empty() {
        bail!("nothing was written:\n{}", cluster.last_words());
    }
    clients.watching.shutdown().trigger();
    clients.watching.join(DRAIN).await?;
    let mut wrong = check::all(&writes, &seen);
    wrong.extend(late);
    Ok(Outcome {
        writes_resumed: writes_resumed(&writes, at, done),
        watchers_resumed: watchers_resumed(&writes, &seen, (at, done), &struck),
        acknowledged: writes.iter().filter(|write| write.acknowledged.is_some()).count(),
        unknown: writes.iter().filter(|write| write.acknowledged.is_none()).count(),
        wrong,
    })
}

async fn targets(cluster: &Cluster, target: Target) -> Result<Vec<usize>> {
    let leader = cluster.leader().await?;
    Ok(match target {
        Target::Leader => vec![leader],
        Target::Follower => vec![(leader + 1) % cluster.size()],
        Target::All => (0..cluster.size()).collect(),
    })
}

/// Strikes, waits and mends; when it began to strike, and when all were struck.
async fn strike(
    env: &Env,
    cluster: &mut Cluster,
    fault: Fault,
    struck: &[usize],
) -> Result<(Instant, Instant)> {
    let at = env.clock.monotonic();
    for &index in struck {
        match fault.kind {
            Kind::Kill => cluster.kill(index)?,
            Kind::Pause => cluster.signal(index, Signal::SIGSTOP)?,
        }
    }
    let done = env.clock.monotonic();
    env.clock.sleep(Duration::from_millis(fault.for_ms)).await;
    for &index in struck {
        match fault.kind {
            Kind::Kill => cluster.start_master(index)?,
            Kind::Pause => cluster.signal(index, Signal::SIGCONT)?,
        }
    }
    Ok((at, done))
}

/// Counts writes that were begun when all were struck: those before may have been answered by the dying.
fn writes_resumed(writes: &[Write], fault: Instant, done: Instant) -> Option<Duration> {
    let after = writes.iter().filter(|write| write.begun > done);
    let first = after.filter_map(|write| write.acknowledged).map(|(at, _)| at).min()?;
    Some(first - fault)
}

/// Watchers of struck masters count too when all were struck.
fn watchers_resumed(
    writes: &[Write],
    seen: &[Vec<Seen>],
    (fault, done): (Instant, Instant),
    struck: &[usize],
) -> Option<Duration> {
    let made_after = writes.iter().filter(|write| write.begun > done);
    let first = made_after.filter_map(|write| write.acknowledged).map(|(_, revision)| revision).min()?;
    let all = struck.len() == seen.len();
    let watching = seen.iter().enumerate().filter(|(number, _)| all || !struck.contains(number));
    let times =
        watching.map(|(_, seen)| seen.iter().find(|event| event.revision >= first).map(|event| event.at));
    let last = times.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    Some(last.saturating_duration_since(fault))
}

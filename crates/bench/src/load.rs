//! Closed loops: each client sends its next request when the last is answered.

use std::time::Duration;

use anyhow::{Context as _, Result};
use env::{Clock, Env, Shutdown, TaskGroup};
use etcd_client::Client;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::member::Members;

/// Keys that are written and read.
const KEYS: u64 = 10_000;
const VALUE: [u8; 256] = [b'v'; 256];
const STOP: Duration = Duration::from_secs(30);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Put, one client.
    Put1,
    /// Put, 100 clients over 10 connections.
    Put100,
    /// Linearizable get, one client.
    Get1,
    /// Linearizable get, 100 clients over 10 connections.
    Get100,
}

impl Work {
    /// In the order of the table.
    pub const ALL: [Self; 4] = [Self::Put1, Self::Put100, Self::Get1, Self::Get100];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put1 => "put, 1 client",
            Self::Put100 => "put, 100 clients",
            Self::Get1 => "get, 1 client",
            Self::Get100 => "get, 100 clients",
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Put1 | Self::Get1 => 1,
            Self::Put100 | Self::Get100 => 10,
        }
    }

    fn clients(self) -> usize {
        self.connections() * self.connections()
    }

    fn writes(self) -> bool {
        matches!(self, Self::Put1 | Self::Put100)
    }
}

/// What one run showed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Requests answered a second.
    pub rate: f64,
    /// Half of the requests took at most this long.
    pub p50: Duration,
    /// Of a hundred requests 99 took at most this long.
    pub p99: Duration,
    /// Processor time of all members for a request.
    pub cpu: Duration,
    /// How often the first member synced its log for a request, where it says so and the load writes.
    pub syncs: Option<f64>,
    /// The most memory that a member used so far, in KiB.
    pub peak_kib: u64,
}

/// Runs a load for `length`.
pub async fn run(env: &Env, members: &Members, work: Work, length: Duration) -> Result<Run> {
    let mut connections = Vec::new();
    for number in 0..work.connections() {
        connections.push(Client::connect([members.endpoint(number)], None).await?);
    }
    let tasks = TaskGroup::new("load", Shutdown::new());
    let (tell, mut told) = mpsc::channel(work.clients());
    let (cpu, syncs) = (members.cpu(), members.syncs().await);
    let started = env.clock.monotonic();
    for number in 0..work.clients() {
        let client = connections[number % connections.len()].clone();
        let (clock, tell) = (env.clock.clone(), tell.clone());
        tasks.spawn_detached(format!("client-{number}"), async move {
            let times = client_loop(&clock, client, work, number, started + length).await;
            drop(tell.send(times).await);
        });
    }
    drop(tell);
    let mut times: Vec<Duration> = Vec::new();
    while let Some(client) = told.recv().await {
        times.extend(client.context("a request failed")?);
    }
    let took = env.clock.monotonic() - started;
    tasks.shutdown().trigger();
    tasks.join(STOP).await?;
    let after = members.syncs().await;
    times.sort_unstable();
    let count = times.len().max(1);
    let requests = count as f64;
    let synced = syncs.zip(after).map(|(before, after)| (after - before) / requests);
    Ok(Run {
        rate: requests / took.as_secs_f64(),
        p50: times.get(count / 2).copied().unwrap_or_default(),
        p99: times.get(count * 99 / 100).copied().unwrap_or_default(),
        cpu: (members.cpu().saturating_sub(cpu)).div_f64(requests),
        syncs: synced.filter(|_| work.writes()),
        peak_kib: members.peak_kib(),
    })
}

/// One client until `end`; how long each of its requests took.
async fn client_loop(
    clock: &Clock,
    mut client: Client,
    work: Work,
    number: usize,
    end: Instant,
) -> Result<Vec<Duration>, etcd_client::Error> {
    let mut times = Vec::new();
    let mut place = number as u64 * 7_919;
    loop {
        let begun = clock.monotonic();
        if begun >= end {
            return Ok(times);
        }
        // Steps of a prime reach every key.
        place = (place + 104_729) % KEYS;
        let key = format!("bench/{place:08}");
        if work.writes() {
            client.put(key, VALUE, None).await?;
        } else {
            client.get(key, None).await?;
        }
        times.push(clock.monotonic() - begun);
    }
}

//! Closed loops: each client sends its next request when the last is answered.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use env::Clock;
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::member::Members;
use crate::proc;
use crate::wire::{Connection, Messages, Piece};

/// Connections that a hundred clients share.
pub const CONNECTIONS: usize = 10;

/// One client.
pub trait Client {
    /// Begins its next call.
    fn call(&mut self, connection: &mut Connection) -> u32;

    /// Sees the answer.
    fn answered(&mut self, _answer: Bytes) -> Result<()> {
        Ok(())
    }
}

/// What a load showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests, or events, a second.
    pub rate: f64,
    /// Milliseconds that half of them took at most.
    pub p50: f64,
    /// Milliseconds that 99 of a hundred took at most.
    pub p99: f64,
    /// Processor time of all members for one, in microseconds.
    pub cpu: f64,
    /// Of one core the generator used so much.
    pub generator: f64,
}

/// Processor times before a load.
pub struct Meter {
    started: Instant,
    servers: Duration,
    own: Duration,
}

impl Meter {
    /// Begins to measure.
    pub fn start(bench: &Bench, members: &Members) -> Self {
        Self { servers: members.cpu(), own: proc::cpu(std::process::id()), started: bench.now() }
    }

    /// What there was since, with `count` requests that took `times` (a sample of them, in any order).
    pub fn stop(self, bench: &Bench, members: &Members, count: u64, mut times: Vec<Duration>) -> Outcome {
        let took = (bench.now() - self.started).as_secs_f64();
        let own = proc::cpu(std::process::id()).saturating_sub(self.own);
        let servers = members.cpu().saturating_sub(self.servers);
        Outcome {
            rate: count as f64 / took,
            p50: percentile(&mut times, 50),
            p99: percentile(&mut times, 99),
            cpu: servers.as_secs_f64() * 1e6 / count.max(1) as f64,
            generator: own.as_secs_f64() / took,
        }
    }
}

/// A percentile in milliseconds; 0 of nothing.
pub fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3
}

/// Runs clients, spread over `connections` connections to the members in turn, until `bench.length` is over.
pub async fn closed<C: Client>(
    bench: &Bench,
    members: &Members,
    connections: usize,
    clients: Vec<C>,
) -> Result<(Outcome, Vec<C>)> {
    let mut doors = Vec::new();
    for number in 0..connections {
        doors.push((members.connect(number).await?, Vec::new()));
    }
    for (number, client) in clients.into_iter().enumerate() {
        doors[number % connections].1.push(client);
    }
    let meter = Meter::start(bench, members);
    let end = bench.now() + bench.length;
    let running = doors.into_iter().map(|(door, clients)| drive(&bench.env.clock, door, clients, end));
    let done = try_join_all(running).await?;
    let (mut times, mut clients) = (Vec::new(), Vec::new());
    for (of, gone) in done {
        times.extend(of);
        clients.extend(gone);
    }
    Ok((meter.stop(bench, members, times.len() as u64, times), clients))
}

struct Open {
    client: usize,
    begun: Instant,
    messages: Messages,
}

/// Runs the clients of one connection until `end`, and until what they began then is answered.
async fn drive<C: Client>(
    clock: &Clock,
    mut door: Connection,
    mut clients: Vec<C>,
    end: Instant,
) -> Result<(Vec<Duration>, Vec<C>)> {
    let (mut open, mut done, mut times) = (HashMap::new(), Vec::new(), Vec::new());
    let begun = clock.monotonic();
    for (number, client) in clients.iter_mut().enumerate() {
        open.insert(client.call(&mut door), Open { client: number, begun, messages: Messages::default() });
    }
    door.flush().await?;
    while !open.is_empty() {
        door.receive(|stream, piece| match piece {
            Piece::Data(data) => {
                if let Some(call) = open.get_mut(&stream) {
                    call.messages.push(data);
                }
            }
            Piece::End => done.push(stream),
        })
        .await?;
        let now = clock.monotonic();
        for stream in done.drain(..) {
            let Some(mut call) = open.remove(&stream) else { continue };
            clients[call.client].answered(call.messages.next().context("a request failed")?)?;
            times.push(now - call.begun);
            if now < end {
                let next = clients[call.client].call(&mut door);
                open.insert(next, Open { begun: now, ..call });
            }
        }
        door.flush().await?;
    }
    Ok((times, clients))
}

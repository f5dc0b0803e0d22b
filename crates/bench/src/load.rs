//! Closed loops: each client sends its next request when the last is answered.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use env::Clock;
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::proc;
use crate::wire::{Connection, Messages, Piece};

/// Connections that a hundred clients share.
pub const CONNECTIONS: usize = 10;

/// What a load is put on.
pub trait Servers {
    /// A connection to one of them; numbers go round.
    async fn connect(&self, number: usize) -> Result<Connection>;

    /// The processor time that all of them have used.
    fn cpu(&self) -> Duration;
}

/// One client.
pub trait Client {
    /// Begins its next call.
    fn call(&mut self, connection: &mut Connection) -> u32;

    /// Whether it has done all it was to do before the time is over.
    fn is_done(&self) -> bool {
        false
    }

    /// The answer among the bytes that came, an error if the call failed: gRPC's first message unless told otherwise.
    fn read(&self, body: BytesMut) -> Result<Bytes> {
        Messages::from(body).next().context("a request failed")
    }

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
    pub fn start(bench: &Bench, servers: &impl Servers) -> Self {
        Self { servers: servers.cpu(), own: proc::cpu(std::process::id()), started: bench.now() }
    }

    /// What there was since, with `count` requests that took `times` (a sample of them, in any order).
    pub fn stop(
        self,
        bench: &Bench,
        servers: &impl Servers,
        count: u64,
        mut times: Vec<Duration>,
    ) -> Outcome {
        let took = (bench.now() - self.started).as_secs_f64();
        let own = proc::cpu(std::process::id()).saturating_sub(self.own);
        let cpu = servers.cpu().saturating_sub(self.servers);
        Outcome {
            rate: count as f64 / took,
            p50: percentile(&mut times, 50),
            p99: percentile(&mut times, 99),
            cpu: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
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

/// Runs clients, spread over `connections` connections to the servers in turn, until `bench.length` is over.
pub async fn closed<C: Client>(
    bench: &Bench,
    servers: &impl Servers,
    connections: usize,
    clients: Vec<C>,
) -> Result<(Outcome, Vec<C>)> {
    closed_for(bench, servers, connections, clients, bench.length).await
}

/// The same for another time than `bench.length`.
pub async fn closed_for<C: Client>(
    bench: &Bench,
    servers: &impl Servers,
    connections: usize,
    clients: Vec<C>,
    length: Duration,
) -> Result<(Outcome, Vec<C>)> {
    let mut doors = Vec::new();
    for number in 0..connections {
        doors.push((servers.connect(number).await?, Vec::new()));
    }
    for (number, client) in clients.into_iter().enumerate() {
        doors[number % connections].1.push(client);
    }
    let meter = Meter::start(bench, servers);
    let end = bench.now() + length;
    let running = doors.into_iter().map(|(door, clients)| drive(&bench.env.clock, door, clients, end));
    let done = try_join_all(running).await?;
    let (mut times, mut clients) = (Vec::new(), Vec::new());
    for (of, gone) in done {
        times.extend(of);
        clients.extend(gone);
    }
    Ok((meter.stop(bench, servers, times.len() as u64, times), clients))
}

struct Open {
    client: usize,
    begun: Instant,
    body: BytesMut,
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
    for (number, client) in clients.iter_mut().enumerate().filter(|(_, client)| !client.is_done()) {
        open.insert(client.call(&mut door), Open { client: number, begun, body: BytesMut::new() });
    }
    door.flush().await?;
    while !open.is_empty() {
        door.receive(|stream, piece| match piece {
            Piece::Begun => {}
            Piece::Data(data) => {
                if let Some(call) = open.get_mut(&stream) {
                    call.body.extend_from_slice(data);
                }
            }
            Piece::End => done.push(stream),
        })
        .await?;
        let now = clock.monotonic();
        for stream in done.drain(..) {
            let Some(mut call) = open.remove(&stream) else { continue };
            let client = &mut clients[call.client];
            client.answered(client.read(call.body.split())?)?;
            times.push(now - call.begun);
            if now < end && !client.is_done() {
                open.insert(client.call(&mut door), Open { begun: now, ..call });
            }
        }
        door.flush().await?;
    }
    Ok((times, clients))
}

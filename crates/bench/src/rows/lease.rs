//! Leases: grants, keep-alives on a hundred streams, and the end of one with many keys.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use protos::etcd::etcdserverpb as pb;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::load::{CONNECTIONS, Client, Meter, Outcome, closed};
use crate::member::Members;
use crate::probe::Probe;
use crate::report::Notes;
use crate::rows::kv::{TXN, op, put};
use crate::values::{Dice, value};
use crate::wire::{Connection, Messages, Piece};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const CLIENTS: usize = 100;
/// Long enough that none ends meanwhile, in seconds.
const TTL: i64 = 3600;
/// Keys of the lease that is revoked.
const KEYS: u64 = 10_000;
const CHUNK: u64 = 100;
/// How long a probe writes before and after what it is to see.
const QUIET: Duration = Duration::from_millis(300);

/// Runs the rows.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    if bench.wants("lease-grant") {
        let clients = (0..CLIENTS).map(|_| Granter).collect();
        notes.outcome("lease-grant", &closed(bench, members, CONNECTIONS, clients).await?.0);
    }
    if bench.wants("keep-alive") {
        notes.outcome("keep-alive", &keep_alive(bench, members).await?);
    }
    if bench.wants("lease-revoke") {
        let mut worst = revoke(bench, members).await?;
        for _ in 0..2 {
            worst = worst.min(revoke(bench, members).await?);
        }
        notes.note("lease-revoke worst", worst);
    }
    Ok(())
}

struct Granter;

impl Client for Granter {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let stream = connection.begin(GRANT);
        connection.send(stream, &pb::LeaseGrantRequest { ttl: TTL, id: 0 }, true);
        stream
    }
}

async fn grant(door: &mut Connection) -> Result<i64> {
    let granted: pb::LeaseGrantResponse =
        door.call(GRANT, &pb::LeaseGrantRequest { ttl: TTL, id: 0 }).await?;
    Ok(granted.id)
}

/// A hundred clients, each with a lease and a stream of its own, ten on a connection.
async fn keep_alive(bench: &Bench, members: &Members) -> Result<Outcome> {
    let mut doors = Vec::new();
    for number in 0..CONNECTIONS {
        let mut door = members.connect(number).await?;
        let mut leases = Vec::new();
        for _ in 0..CLIENTS / CONNECTIONS {
            leases.push(grant(&mut door).await?);
        }
        doors.push((door, leases));
    }
    let meter = Meter::start(bench, members);
    let end = bench.now() + bench.length;
    let times = try_join_all(doors.into_iter().map(|(door, leases)| renew(bench, door, leases, end))).await?;
    let times: Vec<Duration> = times.into_iter().flatten().collect();
    Ok(meter.stop(bench, members, times.len() as u64, times))
}

struct Stream {
    number: u32,
    lease: i64,
    begun: Instant,
    messages: Messages,
}

async fn renew(bench: &Bench, mut door: Connection, leases: Vec<i64>, end: Instant) -> Result<Vec<Duration>> {
    let mut streams: Vec<Stream> = Vec::new();
    for lease in leases {
        let number = door.begin(KEEP_ALIVE);
        door.send(number, &pb::LeaseKeepAliveRequest { id: lease }, false);
        streams.push(Stream { number, lease, begun: bench.now(), messages: Messages::default() });
    }
    door.flush().await?;
    let (mut times, mut open) = (Vec::new(), streams.len());
    while open > 0 {
        let mut ended = None;
        door.receive(|of, piece| match piece {
            Piece::Data(data) => {
                if let Some(stream) = streams.iter_mut().find(|stream| stream.number == of) {
                    stream.messages.push(data);
                }
            }
            Piece::Begun => {}
            Piece::End => ended = Some(of),
        })
        .await?;
        ended.is_none().then_some(()).context("a stream of keep-alives ended")?;
        let now = bench.now();
        for stream in &mut streams {
            if stream.messages.next().is_none() {
                continue;
            }
            times.push(now - stream.begun);
            if now < end {
                stream.begun = now;
                door.send(stream.number, &pb::LeaseKeepAliveRequest { id: stream.lease }, false);
            } else {
                open -= 1;
            }
        }
        door.flush().await?;
    }
    Ok(times)
}

/// How long another's write waits at most while a lease with many keys is revoked, in milliseconds.
async fn revoke(bench: &Bench, members: &Members) -> Result<f64> {
    let (mut door, mut dice) = (members.connect(0).await?, Dice::new(1));
    let lease = grant(&mut door).await?;
    for first in (0..KEYS).step_by(CHUNK as usize) {
        let puts = (first..first + CHUNK).map(|number| pb::PutRequest {
            lease,
            ..put(format!("leased/{number:08}"), value(&mut dice, number, 256))
        });
        let txn = pb::TxnRequest { success: puts.map(op).collect(), ..pb::TxnRequest::default() };
        let _: pb::TxnResponse = door.call(TXN, &txn).await?;
    }
    let probe = Probe::start(&bench.env, members.port(0));
    bench.env.clock.sleep(QUIET).await;
    let _: pb::LeaseRevokeResponse = door.call(REVOKE, &pb::LeaseRevokeRequest { id: lease }).await?;
    bench.env.clock.sleep(QUIET).await;
    Ok(probe.finish()?.worst)
}

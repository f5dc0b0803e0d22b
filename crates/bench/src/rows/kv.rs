//! Single requests: puts, Kubernetes' guarded transactions, gets, and one range.

use anyhow::{Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use protos::etcd::etcdserverpb as pb;

use crate::bench::Bench;
use crate::load::{CONNECTIONS, Client, Meter, closed};
use crate::member::{Members, RANGE};
use crate::report::Notes;
use crate::values::{Dice, value};
use crate::wire::Connection;

/// The path of writes.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// The path of transactions.
pub const TXN: &str = "/etcdserverpb.KV/Txn";

/// Keys that are written and read.
const KEYS: u64 = 10_000;
/// Bytes of their values.
const VALUE: usize = 256;
/// Of the range's.
const LARGE_VALUE: usize = 1024;
/// Puts in one transaction when keys are made.
const CHUNK: u64 = 100;
const CLIENTS: u64 = 100;
/// How often the range is read.
const RANGES: usize = 40;

/// Runs the rows.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    fill(members, "bench/", KEYS, VALUE).await?;
    for (row, connections, clients) in [("put-1", 1, 1), ("put-100", CONNECTIONS, CLIENTS)] {
        if bench.wants(row) {
            let clients = (0..clients).map(|seed| Putter(Dice::new(seed + 1))).collect();
            notes.outcome(row, &closed(bench, members, connections, clients).await?.0);
        }
    }
    if bench.wants("txn-100") {
        let clients = (0..CLIENTS).map(Guarded::new).collect();
        let (outcome, clients) = closed(bench, members, CONNECTIONS, clients).await?;
        ensure!(clients.iter().any(|client| client.won > client.lost), "guarded writes mostly fail");
        notes.outcome("txn-100", &outcome);
    }
    for (row, connections, clients, serializable) in [
        ("get-1", 1, 1, false),
        ("get-100", CONNECTIONS, CLIENTS, false),
        ("sget-100", CONNECTIONS, CLIENTS, true),
    ] {
        if bench.wants(row) {
            let clients =
                (0..clients).map(|seed| Getter { dice: Dice::new(seed + 1), serializable }).collect();
            notes.outcome(row, &closed(bench, members, connections, clients).await?.0);
        }
    }
    if bench.wants("range-10k") {
        let (took, cpu) = range(bench, members).await?;
        notes.note("range-10k p50", took);
        notes.note("range-10k cpu", cpu);
    }
    Ok(())
}

/// Makes keys `prefix00000000…`.
pub async fn fill(members: &Members, prefix: &str, keys: u64, size: usize) -> Result<()> {
    let (mut door, mut dice) = (members.connect(0).await?, Dice::new(1));
    for first in (0..keys).step_by(CHUNK as usize) {
        let puts = (first..keys.min(first + CHUNK))
            .map(|number| put(format!("{prefix}{number:08}"), value(&mut dice, number, size)));
        let txn = pb::TxnRequest { success: puts.map(op).collect(), ..pb::TxnRequest::default() };
        let _: pb::TxnResponse = door.call(TXN, &txn).await?;
    }
    Ok(())
}

/// A put.
pub fn put(key: String, value: Vec<u8>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..pb::PutRequest::default() }
}

/// A put as a step of a transaction.
pub fn op(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

/// All keys with a prefix.
pub fn below(prefix: &str) -> pb::RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let key = prefix.to_owned().into();
    pb::RangeRequest { key, range_end: end.into(), ..pb::RangeRequest::default() }
}

struct Putter(Dice);

impl Client for Putter {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let key = format!("bench/{:08}", self.0.below(KEYS));
        let put = put(key, value(&mut self.0, 0, VALUE));
        let stream = connection.begin(PUT);
        connection.send(stream, &put, true);
        stream
    }
}

struct Getter {
    dice: Dice,
    serializable: bool,
}

impl Client for Getter {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let key = format!("bench/{:08}", self.dice.below(KEYS)).into();
        let range = pb::RangeRequest { key, serializable: self.serializable, ..pb::RangeRequest::default() };
        let stream = connection.begin(RANGE);
        connection.send(stream, &range, true);
        stream
    }

    fn answered(&mut self, answer: Bytes) -> Result<()> {
        ensure!(answer.len() > VALUE, "a key is not found");
        Ok(())
    }
}

/// Writes keys of its own as an API server does: only if nobody wrote them since.
struct Guarded {
    number: u64,
    dice: Dice,
    /// The revisions at which its keys were last written.
    known: Vec<i64>,
    at: usize,
    won: u64,
    lost: u64,
}

impl Guarded {
    fn new(number: u64) -> Self {
        let known = vec![0; (KEYS / CLIENTS) as usize];
        Self { number, dice: Dice::new(number + 1), known, at: 0, won: 0, lost: 0 }
    }
}

impl Client for Guarded {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        self.at = self.dice.below(self.known.len() as u64) as usize;
        let key = Bytes::from(format!("txn/{:04}/{:04}", self.number, self.at));
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(self.known[self.at])),
            ..pb::Compare::default()
        };
        let value = value(&mut self.dice, 0, VALUE).into();
        let put = pb::PutRequest { key: key.clone(), value, ..pb::PutRequest::default() };
        let get = pb::RangeRequest { key, ..pb::RangeRequest::default() };
        let get = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(get)) };
        let txn = pb::TxnRequest { compare: vec![compare], success: vec![op(put)], failure: vec![get] };
        let stream = connection.begin(TXN);
        connection.send(stream, &txn, true);
        stream
    }

    fn answered(&mut self, answer: Bytes) -> Result<()> {
        let answer = pb::TxnResponse::decode(answer)?;
        if answer.succeeded {
            self.won += 1;
            self.known[self.at] = answer.header.unwrap_or_default().revision;
            return Ok(());
        }
        self.lost += 1;
        if let Some(pb::response_op::Response::ResponseRange(range)) =
            answer.responses.into_iter().next().and_then(|response| response.response)
        {
            self.known[self.at] = range.kvs.first().map_or(0, |kv| kv.mod_revision);
        }
        Ok(())
    }
}

/// The median time of a range of all large values, and the members' processor time for one, in milliseconds.
async fn range(bench: &Bench, members: &Members) -> Result<(f64, f64)> {
    fill(members, "kib/", KEYS, LARGE_VALUE).await?;
    let mut door = members.connect(0).await?;
    let mut times = Vec::new();
    let meter = Meter::start(bench, members);
    for _ in 0..RANGES {
        let begun = bench.now();
        let bytes = door.bulk(RANGE, &below("kib/")).await?;
        times.push(bench.now() - begun);
        ensure!(bytes > KEYS * LARGE_VALUE as u64, "the range is not whole: {bytes} bytes");
    }
    let outcome = meter.stop(bench, members, RANGES as u64, times);
    Ok((outcome.p50, outcome.cpu / 1e3))
}

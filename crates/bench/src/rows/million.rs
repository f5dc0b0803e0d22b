//! Many keys: what they cost, and what is asked of them.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use protos::etcd::etcdserverpb as pb;

use crate::bench::Bench;
use crate::load::percentile;
use crate::member::{Members, RANGE};
use crate::probe::Probe;
use crate::report::Notes;
use crate::rows::kv::{TXN, below, op, put};
use crate::values::{Dice, value};
use crate::wire::{Connection, Path};

const PREFIX: &str = "/registry/leases/";
const RANGE_STREAM: Path = "/etcdserverpb.KV/RangeStream";
const COMPACT: Path = "/etcdserverpb.KV/Compact";
const SNAPSHOT: Path = "/etcdserverpb.Maintenance/Snapshot";
const DEFRAGMENT: Path = "/etcdserverpb.Maintenance/Defragment";
const VALUE: usize = 256;
/// Puts in one transaction.
const CHUNK: u64 = 100;
const CLIENTS: u64 = 8;
const PAGE: i64 = 500;
/// How long a question is asked again and again, at most.
const ASKING: Duration = Duration::from_secs(3);
const QUESTIONS: usize = 50;
/// How long a probe goes on after a compaction was answered: some is done later.
const AFTER: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(300);

/// Runs the rows.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    fill_and_weigh(bench, members, notes).await?;
    let all = below(PREFIX);
    if bench.wants("page") {
        let page = pb::RangeRequest { limit: PAGE, ..all.clone() };
        notes.note("page p50", ask(bench, members, &page).await?);
    }
    if bench.wants("count") {
        let count = pb::RangeRequest { count_only: true, ..all.clone() };
        notes.note("count p50", ask(bench, members, &count).await?);
    }
    if bench.wants("full-range") {
        full(bench, members, RANGE, ("full-range unary", "full-range unary-memory"), notes).await?;
        // Before 3.7 etcd has no such call.
        drop(
            full(bench, members, RANGE_STREAM, ("full-range stream", "full-range stream-memory"), notes)
                .await,
        );
    }
    if bench.wants("snapshot") {
        let (took, worst) = beside(bench, members, SNAPSHOT, &pb::SnapshotRequest::default(), QUIET).await?;
        notes.note("snapshot time", took.as_secs_f64());
        notes.note("snapshot worst", worst);
    }
    if bench.wants("restart") {
        restart(bench, members, notes).await?;
    }
    if bench.wants("compaction") {
        compact(bench, members, notes).await?;
    }
    Ok(())
}

async fn fill_and_weigh(bench: &Bench, members: &Members, notes: &mut Notes<'_>) -> Result<()> {
    let begun = bench.now();
    let cpu = members.cpu();
    fill(bench, members, 1).await?;
    let took = (bench.now() - begun).as_secs_f64();
    if bench.wants("fill") {
        notes.note("fill rate", bench.keys as f64 / took);
        notes.note("fill cpu", (members.cpu() - cpu).as_secs_f64() * 1e6 / bench.keys as f64);
        let (now, peak) = members.memory();
        notes.note("fill memory", now);
        notes.note("fill peak", peak);
        let (state, log) = members.disk();
        notes.note("fill disk", state);
        notes.note("fill log", log);
    }
    Ok(())
}

/// Writes every key once.
async fn fill(bench: &Bench, members: &Members, round: u64) -> Result<()> {
    let share = bench.keys.div_ceil(CLIENTS);
    try_join_all((0..CLIENTS).map(async |client| {
        let mut door = members.connect(0).await?;
        let mut dice = Dice::new(100 * round + client);
        let end = bench.keys.min((client + 1) * share);
        for first in (client * share..end).step_by(CHUNK as usize) {
            let puts = (first..end.min(first + CHUNK))
                .map(|number| put(format!("{PREFIX}{number:010}"), value(&mut dice, number, VALUE)));
            let txn = pb::TxnRequest { success: puts.map(op).collect(), ..pb::TxnRequest::default() };
            let _: pb::TxnResponse = door.call(TXN, &txn).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok(())
}

/// The median time of a range, in milliseconds.
async fn ask(bench: &Bench, members: &Members, request: &pb::RangeRequest) -> Result<f64> {
    let mut door = members.connect(0).await?;
    let (mut times, end) = (Vec::new(), bench.now() + ASKING);
    while times.len() < QUESTIONS && bench.now() < end {
        let begun = bench.now();
        door.bulk(RANGE, request).await?;
        times.push(bench.now() - begun);
    }
    Ok(percentile(&mut times, 50))
}

/// Reads everything: how long it takes, and how much memory beyond what there was before.
async fn full(
    bench: &Bench,
    members: &Members,
    path: Path,
    (time, memory): (&'static str, &'static str),
    notes: &mut Notes<'_>,
) -> Result<()> {
    members.forget_peak();
    let before = members.memory().0;
    let begun = bench.now();
    let bytes = members.connect(0).await?.bulk(path, &below(PREFIX)).await?;
    notes.note(time, (bench.now() - begun).as_secs_f64());
    notes.note(memory, (members.memory().1 - before).max(0.0));
    anyhow::ensure!(bytes > bench.keys * VALUE as u64, "the range is not whole: {bytes} bytes");
    Ok(())
}

/// A call while a probe writes: how long it took, and the probe's longest wait in milliseconds.
async fn beside(
    bench: &Bench,
    members: &Members,
    path: Path,
    request: &impl prost::Message,
    after: Duration,
) -> Result<(Duration, f64)> {
    let mut door = members.connect(0).await?;
    let probe = Probe::start(&bench.env, members.port(0));
    bench.env.clock.sleep(QUIET).await;
    let begun = bench.now();
    door.bulk(path, request).await?;
    let took = bench.now() - begun;
    bench.env.clock.sleep(after).await;
    Ok((took, probe.finish()?.worst))
}

async fn restart(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    members.kill(0)?;
    let begun = bench.now();
    members.restart(0)?;
    members.answers(0).await?;
    notes.note("restart time", (bench.now() - begun).as_secs_f64());
    let (now, peak) = members.memory();
    notes.note("restart memory", now);
    notes.note("restart peak", peak);
    Ok(())
}

async fn compact(bench: &Bench, members: &Members, notes: &mut Notes<'_>) -> Result<()> {
    fill(bench, members, 2).await?;
    let revision = revision(&mut members.connect(0).await?).await?;
    let compaction = pb::CompactionRequest { revision, physical: true };
    let (took, worst) = beside(bench, members, COMPACT, &compaction, AFTER).await?;
    notes.note("compaction time", took.as_secs_f64());
    notes.note("compaction worst", worst);
    let (took, worst) = beside(bench, members, DEFRAGMENT, &pb::DefragmentRequest::default(), QUIET).await?;
    notes.note("defragment time", took.as_secs_f64());
    notes.note("defragment worst", worst);
    let (state, log) = members.disk();
    notes.note("compaction disk", state + log);
    Ok(())
}

async fn revision(door: &mut Connection) -> Result<i64> {
    let request = pb::RangeRequest { key: "k".into(), ..pb::RangeRequest::default() };
    let answer: pb::RangeResponse = door.call(RANGE, &request).await?;
    Ok(answer.header.unwrap_or_default().revision)
}

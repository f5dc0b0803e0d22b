//! A store that is larger than etcd is advised to be: what writes cost there and at a GiB.

use anyhow::Result;
use futures::future::try_join_all;
use protos::etcd::etcdserverpb as pb;

use crate::bench::Bench;
use crate::load::{CONNECTIONS, Client, closed};
use crate::member::Members;
use crate::report::Notes;
use crate::rows::kv::{PUT, put};
use crate::values::{Dice, value};
use crate::wire::Connection;

const VALUE: usize = 16 << 10;
/// Bytes of the values that the rate is measured with.
const SMALL: usize = 256;
const FILLERS: u64 = 4;
const CLIENTS: u64 = 100;
const PER_GIB: u64 = (1 << 30) / VALUE as u64;

/// Runs the row.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    if !bench.wants("large") {
        return Ok(());
    }
    fill(members, 0..PER_GIB).await?;
    let small = rate(bench, members).await?;
    notes.note("large rate-1", small);
    let begun = bench.now();
    fill(members, PER_GIB..bench.gib * PER_GIB).await?;
    notes.note("large fill", (bench.gib - 1) as f64 * 1024.0 / (bench.now() - begun).as_secs_f64());
    let large = rate(bench, members).await?;
    notes.note("large rate-all", large);
    notes.note("large kept", 100.0 * large / small);
    let (now, peak) = members.memory();
    notes.note("large memory", now);
    notes.note("large peak", peak);
    let (state, log) = members.disk();
    notes.note("large disk", state + log);
    Ok(())
}

async fn fill(members: &Members, keys: std::ops::Range<u64>) -> Result<()> {
    try_join_all((0..FILLERS).map(async |filler| {
        let (mut door, mut dice) = (members.connect(0).await?, Dice::new(keys.start + filler));
        for number in keys.clone().filter(|number| number % FILLERS == filler) {
            let key = format!("large/{:016x}", Dice::new(number).next());
            let _: pb::PutResponse = door.call(PUT, &put(key, value(&mut dice, number, VALUE))).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok(())
}

struct Putter(Dice);

impl Client for Putter {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let key = format!("small/{:08}", self.0.below(10_000));
        let put = put(key, value(&mut self.0, 0, SMALL));
        let stream = connection.begin(PUT);
        connection.send(stream, &put, true);
        stream
    }
}

async fn rate(bench: &Bench, members: &Members) -> Result<f64> {
    let clients = (0..CLIENTS).map(|seed| Putter(Dice::new(seed + 1))).collect();
    Ok(closed(bench, members, CONNECTIONS, clients).await?.0.rate)
}

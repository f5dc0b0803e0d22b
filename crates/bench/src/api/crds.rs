//! Many definitions of custom resources at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Work;
use super::masters::{Masters, ask, get};
use super::objects::{DEFINITION, DEFINITIONS, expect};
use super::requests::fill;
use crate::load::Servers as _;
use crate::report::Notes;
use crate::wire::Connection;

const POLL: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs the row.
pub async fn run(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    let bench = &work.bench;
    bench.env.clock.sleep(work.settle).await;
    let (memory, cpu, begun) = (masters.memory().0, masters.cpu(), bench.now());
    fill(work, masters, DEFINITION, 0..work.crds).await?;
    let mut door = masters.connect(0).await?;
    while established(&mut door).await? < work.crds {
        ensure!(bench.now() < begun + DEADLINE, "definitions are not established");
        bench.env.clock.sleep(POLL).await;
    }
    notes.note("crds time", (bench.now() - begun).as_secs_f64());
    notes.note("crds cpu", (masters.cpu() - cpu).as_secs_f64() * 1e3 / work.crds as f64);
    bench.env.clock.sleep(work.settle).await;
    notes.note("crds memory", (masters.memory().0 - memory).max(0.0));
    Ok(())
}

/// How many definitions are established.
async fn established(door: &mut Connection) -> Result<u64> {
    let body = expect(ask(door, get(DEFINITIONS)).await?, "CustomResourceDefinitionList")?;
    let list: Value = serde_json::from_slice(&body)?;
    let items = list["items"].as_array().into_iter().flatten();
    let is_established = |item: &&Value| {
        let mut conditions = item["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    };
    Ok(items.filter(is_established).count() as u64)
}

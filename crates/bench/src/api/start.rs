//! A start with many objects, after the end that gives no time to prepare for it.

use anyhow::Result;

use super::Work;
use super::masters::Masters;
use super::objects::{self, CONFIG_MAP};
use super::requests::fill;
use crate::report::Notes;

/// Runs the row.
pub async fn run(work: &Work, masters: &mut Masters, notes: &mut Notes<'_>) -> Result<()> {
    objects::namespaces(work, masters).await?;
    fill(work, masters, CONFIG_MAP, 0..work.objects).await?;
    let begun = work.bench.now();
    masters.crash(0)?;
    masters.ready().await?;
    notes.note("start time", (work.bench.now() - begun).as_secs_f64());
    work.bench.env.clock.sleep(work.settle).await;
    notes.note("start memory", masters.memory().0);
    Ok(())
}

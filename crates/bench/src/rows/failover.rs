//! How long nobody can write after the leader is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::stream::{FuturesUnordered, StreamExt as _};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::load::percentile;
use crate::member::Members;
use crate::report::Notes;
use crate::rows::kv::{PUT, put};
use crate::wire::{Connection, Piece};

/// Losses in one run.
const LOSSES: usize = 4;
/// Between two writes at a surviving member.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a cluster has to be whole before its leader is lost.
const SETTLE: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the rows.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    for (row, signal, median, most) in [
        ("kill-leader", Signal::SIGKILL, "kill-leader p50", "kill-leader max"),
        ("freeze-leader", Signal::SIGSTOP, "freeze-leader p50", "freeze-leader max"),
    ] {
        if !bench.wants(row) {
            continue;
        }
        let mut times = Vec::new();
        for _ in 0..LOSSES {
            members.ready().await?;
            bench.env.clock.sleep(SETTLE).await;
            let leader = members.leader().await?;
            times.push(lose(bench, members, leader, signal).await?);
            if signal == Signal::SIGKILL {
                members.kill(leader)?;
                members.restart(leader)?;
            } else {
                members.signal(leader, Signal::SIGCONT)?;
            }
        }
        notes.note(median, percentile(&mut times, 50));
        notes.note(most, percentile(&mut times, 100));
    }
    Ok(())
}

/// How long after the leader's loss a write is acknowledged by one of the others that was sent after the loss.
async fn lose(bench: &Bench, members: &Members, leader: usize, signal: Signal) -> Result<Duration> {
    let mut doors = Vec::new();
    for number in (0..members.size()).filter(|&number| number != leader) {
        doors.push(members.connect(number).await?);
    }
    members.signal(leader, signal)?;
    let lost = bench.now();
    let mut writers: FuturesUnordered<_> = doors.into_iter().map(|door| write(bench, door, lost)).collect();
    let first = writers.next().await.transpose()?;
    ensure!(first.is_some(), "nobody is left");
    Ok(bench.now() - lost)
}

/// Writes at a pace, without waiting for answers, until one comes.
async fn write(bench: &Bench, mut door: Connection, lost: Instant) -> Result<()> {
    let (mut number, mut written, mut messages) = (0, false, 0);
    let mut next = lost;
    while !written {
        ensure!(bench.now() < lost + DEADLINE, "no write for {DEADLINE:?}");
        if bench.now() >= next {
            let stream = door.begin(PUT);
            door.send(stream, &put(format!("failover/{number}"), vec![b'x'; 22]), true);
            door.flush().await?;
            number += 1;
            next += PAUSE;
        }
        let received = door.receive(|_, piece| {
            if let Piece::Data(_) = piece {
                messages += 1;
            }
        });
        match tokio::time::timeout_at(next, received).await {
            Ok(received) => received?,
            Err(_) => continue,
        }
        written = messages > 0;
    }
    Ok(())
}

//! What goes wrong with members: struck, left so for a while, mended.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::members::Members;
use super::scenario::Fault;
use crate::network::Cut;
use crate::poll::until;

/// How long a member may take to reach a failpoint under load; some are passed seldom.
const FAILPOINT_PATIENCE: Duration = Duration::from_secs(20);

/// Strikes, waits, and mends.
///
/// # Errors
/// The system, or a member that should do something, does not let us.
pub async fn play(env: &Env, members: &mut Members<'_>, fault: &Fault, lasts: Duration) -> Result<()> {
    let leader = members.leader().await?;
    let follower = (leader + 1) % members.size();
    match fault {
        Fault::KillLeader => kill(env, members, &[leader], lasts).await,
        Fault::KillFollower => kill(env, members, &[follower], lasts).await,
        Fault::KillAll => {
            let all: Vec<usize> = (0..members.size()).collect();
            kill(env, members, &all, lasts).await
        }
        Fault::PauseLeader => pause(env, members, leader, lasts).await,
        Fault::PauseFollower => pause(env, members, follower, lasts).await,
        Fault::CutLeader => cut(env, members, leader, Cut::Both, lasts).await,
        Fault::CutFollower => cut(env, members, follower, Cut::Both, lasts).await,
        Fault::DeafLeader => cut(env, members, leader, Cut::In, lasts).await,
        Fault::MuteLeader => cut(env, members, leader, Cut::Out, lasts).await,
        Fault::MoveLeader => {
            let moved = until(env, lasts, async || members.move_leader(leader, follower).await);
            moved.await.context("the leader does not hand over")
        }
        Fault::ReplaceFollower => {
            members.replace(follower).await?;
            members.serves(follower).await
        }
        Fault::Failpoint(point, term) => failpoint(env, members, leader, (point, term), lasts).await,
    }
}

async fn kill(env: &Env, members: &mut Members<'_>, who: &[usize], lasts: Duration) -> Result<()> {
    for &index in who {
        members.member(index).kill()?;
    }
    env.clock.sleep(lasts).await;
    who.iter().try_for_each(|&index| members.member(index).start())
}

async fn pause(env: &Env, members: &mut Members<'_>, index: usize, lasts: Duration) -> Result<()> {
    members.member(index).signal(Signal::SIGSTOP)?;
    env.clock.sleep(lasts).await;
    members.member(index).signal(Signal::SIGCONT)
}

async fn cut(env: &Env, members: &mut Members<'_>, index: usize, cut: Cut, lasts: Duration) -> Result<()> {
    members.cut(index, cut)?;
    env.clock.sleep(lasts).await;
    members.heal(index)
}

/// Sets a failpoint at every member until one has ended at it, or for a while when it only delays; then all are as before.
async fn failpoint(
    env: &Env,
    members: &mut Members<'_>,
    leader: usize,
    (point, term): (&str, &str),
    lasts: Duration,
) -> Result<()> {
    // A leader alone has no follower that could reach what only followers do, and the other way round.
    let order = (0..members.size()).map(|step| (leader + step) % members.size());
    for index in order {
        set(&members.failpoints(index), point, Some(term)).await?;
    }
    let all = 0..members.size();
    if !term.contains("panic") {
        env.clock.sleep(lasts).await;
        for index in all {
            set(&members.failpoints(index), point, None).await?;
        }
        return Ok(());
    }
    let mut ended = Vec::new();
    until(env, FAILPOINT_PATIENCE, async || {
        ended.extend((0..members.size()).filter(|&index| members.member(index).has_ended()));
        if ended.is_empty() { bail!("no member reached {point}") } else { Ok(()) }
    })
    .await?;
    for index in all {
        // The others may have ended meanwhile: they are asked once more below.
        drop(set(&members.failpoints(index), point, None).await);
    }
    env.clock.sleep(lasts).await;
    for index in 0..members.size() {
        if members.member(index).has_ended() {
            members.member(index).kill()?;
            members.member(index).start()?;
        }
    }
    Ok(())
}

/// Sets a failpoint, or clears it, as gofail's HTTP protocol has it.
///
/// # Errors
/// Nobody listens, or there is no such point.
async fn set(address: &str, point: &str, term: Option<&str>) -> Result<()> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("no failpoints at {address}: the program must be built with them"))?;
    let (method, body) = term.map_or(("DELETE", ""), |term| ("PUT", term));
    let request = format!(
        "{method} /{point} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status != "204" {
        bail!("failpoint {point} at {address} answers {}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

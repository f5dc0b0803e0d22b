//! A member ends, or is delayed, at a step of its own code: set over gofail's HTTP protocol, and brought about where the
//! load alone would not reach the step.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::members::Members;
use crate::poll::until;

/// How long a member may take to reach a point.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the load is given the time to reach a point before it is brought about once more.
const REACH: Duration = Duration::from_secs(3);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// How long an answer of a member may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member is gone to fall behind what the others keep of their logs, or asleep while others elect a leader.
const LAG: Duration = Duration::from_millis(2500);
/// Seconds that a lease lives which is to outlive the run.
const LONG_TTL: i64 = 3600;
/// How long a leader alone takes writes that will not last.
const ALONE: Duration = Duration::from_millis(400);

/// What brings a member to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// The load.
    Load,
    /// The load, of a member that does not lead.
    FollowerLoad,
    /// A member that does not lead falls behind and gets a snapshot.
    Lag,
    /// Leadership is handed over to it.
    Election,
    /// It led, and finds that others have written something else.
    Conflict,
    /// It is asked to write: clients may all be at the others.
    Asked,
    /// A lease ends.
    Expiry,
    /// A lease is renewed.
    Renewal,
    /// It is asked to defragment.
    Defragment,
    /// A member is added.
    Membership,
}

fn trigger(point: &str) -> Trigger {
    match point {
        "raftBeforeFollowerSend" => Trigger::FollowerLoad,
        "voteBeforeSave" | "voteAfterSave" => Trigger::Election,
        "logBeforeTruncate" | "logAfterTruncate" => Trigger::Conflict,
        "storeBeforePropose" | "storeBeforeReply" => Trigger::Asked,
        "leaseBeforeRevoke" => Trigger::Expiry,
        "beforeCheckpointInLeaseRenew" => Trigger::Renewal,
        "beforeApplyOneConfChange" => Trigger::Membership,
        _ if point.starts_with("defrag") => Trigger::Defragment,
        _ if point.contains("ApplySnap")
            || point.contains("SaveSnap")
            || point.contains("OpenSnapshot")
            || point == "raftAfterWALRelease" =>
        {
            Trigger::Lag
        }
        _ => Trigger::Load,
    }
}

/// Whether a member alone never reaches the point.
pub fn needs_others(point: &str) -> bool {
    let others = [Trigger::FollowerLoad, Trigger::Election, Trigger::Conflict, Trigger::Lag];
    others.contains(&trigger(point)) || point == "raftBeforeLeaderSend"
}

/// Sets a point at one member. If that ends it, it is started again when it has been gone for a while; otherwise the
/// point is cleared after a while.
///
/// # Errors
/// The program was built without failpoints; the member does not reach the point.
pub async fn play(
    env: &Env,
    members: &mut Members<'_>,
    leader: usize,
    (point, term): (&str, &str),
    lasts: Duration,
) -> Result<()> {
    let trigger = trigger(point);
    let follows = [Trigger::FollowerLoad, Trigger::Election, Trigger::Lag].contains(&trigger);
    let target = if follows { (leader + 1) % members.size() } else { leader };
    // One that was just started may not listen for this yet.
    until(env, PATIENCE, async || set(&members.failpoints(target), point, Some(term)).await).await?;
    if !term.contains("panic") {
        env.clock.sleep(lasts).await;
        return set(&members.failpoints(target), point, None).await;
    }
    let deadline = env.clock.monotonic() + PATIENCE;
    while !ends(env, members, (target, leader), trigger, point).await? {
        if env.clock.monotonic() > deadline {
            bail!("member {target} never reached {point}");
        }
    }
    env.clock.sleep(lasts).await;
    members.member(target).kill()?;
    members.member(target).start()?;
    members.serves(target).await?;
    if trigger == Trigger::Membership {
        members.remove_learners(target).await?;
    }
    Ok(())
}

/// Brings it about, and waits a while; whether the member has ended.
async fn ends(
    env: &Env,
    members: &mut Members<'_>,
    (target, leader): (usize, usize),
    trigger: Trigger,
    point: &str,
) -> Result<bool> {
    match trigger {
        Trigger::Load | Trigger::FollowerLoad => {}
        Trigger::Lag => {
            members.member(target).kill()?;
            env.clock.sleep(LAG).await;
            members.member(target).start()?;
            // It listens for this before it opens anything.
            until(env, PATIENCE, async || set(&members.failpoints(target), point, Some("panic")).await)
                .await?;
        }
        // Leadership may have moved in between; then it is tried again.
        Trigger::Conflict => drop(conflict(env, members, target).await),
        asked => {
            let ask = async {
                match asked {
                    Trigger::Election => members.move_leader(leader, target).await,
                    Trigger::Asked => members.grant(target, LONG_TTL).await.map(drop),
                    Trigger::Expiry => members.grant(target, 1).await.map(drop),
                    Trigger::Renewal => members.renew(target).await,
                    Trigger::Defragment => members.defragment(target).await,
                    _ => members.add_learner(target).await,
                }
            };
            // It need not answer: it is to end.
            drop(tokio::time::timeout(ANSWER_TIMEOUT, ask).await);
        }
    }
    let until = env.clock.monotonic() + REACH;
    while env.clock.monotonic() < until {
        if members.member(target).has_ended() {
            return Ok(true);
        }
        env.clock.sleep(POLL).await;
    }
    Ok(false)
}

/// The leader takes writes alone, and sleeps while the others elect another one.
async fn conflict(env: &Env, members: &mut Members<'_>, leader: usize) -> Result<()> {
    let leads = members.leader().await?;
    if leads != leader {
        members.move_leader(leads, leader).await?;
    }
    let others: Vec<usize> = (0..members.size()).filter(|&index| index != leader).collect();
    for &index in &others {
        members.member(index).signal(Signal::SIGSTOP)?;
    }
    env.clock.sleep(ALONE).await;
    members.member(leader).signal(Signal::SIGSTOP)?;
    for &index in &others {
        members.member(index).signal(Signal::SIGCONT)?;
    }
    env.clock.sleep(LAG).await;
    members.member(leader).signal(Signal::SIGCONT)
}

/// Sets a point, or clears it, as gofail's HTTP protocol has it.
///
/// # Errors
/// There are no failpoints; the point cannot be set so.
pub async fn set(address: &str, point: &str, term: Option<&str>) -> Result<()> {
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

//! What goes wrong with members: struck, left so for a while, mended.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;
use nix::sys::signal::Signal;

use super::disk::TamperedDisk;
use super::failpoint;
use super::members::{Members, PATIENCE};
use super::scenario::Fault;
use crate::network::Cut;
use crate::poll::until;

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
        Fault::LossyLeader => cut(env, members, leader, Cut::Lossy, lasts).await,
        Fault::LossyFollower => cut(env, members, follower, Cut::Lossy, lasts).await,
        Fault::MoveLeader => hand_over(env, members, leader, follower).await,
        Fault::ReplaceFollower => {
            members.replace(follower).await?;
            members.serves(follower).await
        }
        Fault::SlowDiskLeader => slow_disk(env, members, &[leader], lasts).await,
        Fault::SlowDiskAll => {
            let all: Vec<usize> = (0..members.size()).collect();
            slow_disk(env, members, &all, lasts).await
        }
        Fault::FailingDiskLeader => failing_disk(env, members, leader, lasts).await,
        Fault::FailingDiskFollower => failing_disk(env, members, follower, lasts).await,
        Fault::FullDiskLeader => full_disk(env, members, &[leader], lasts).await,
        Fault::FullDiskFollower => full_disk(env, members, &[follower], lasts).await,
        Fault::FullDiskAll => {
            let all: Vec<usize> = (0..members.size()).collect();
            full_disk(env, members, &all, lasts).await
        }
        Fault::ClockSteps => clock_steps(env, members, leader, lasts).await,
        Fault::Nothing => {
            env.clock.sleep(lasts).await;
            Ok(())
        }
        Fault::Failpoint(point, term) => failpoint::play(env, members, leader, (point, term), lasts).await,
    }
}

/// The leader hands over. It may refuse while an election is under way, one that has just come back may not be level with
/// it yet, and another one may be quicker than the one that was asked for: it is enough that it leads no more.
async fn hand_over(env: &Env, members: &Members<'_>, leader: usize, to: usize) -> Result<()> {
    until(env, PATIENCE, async || {
        let asked = members.move_leader(leader, to).await;
        if members.leader().await? == leader {
            asked?;
            bail!("it leads again");
        }
        Ok(())
    })
    .await
    .context("the leader does not hand over")
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

/// How much longer a sync takes.
const SLOW: Duration = Duration::from_millis(200);
/// The failpoint that a sync of the log passes.
const SYNC: &str = "logDuringSync";
/// Between two fillings of a disk: members delete files.
const FILL: Duration = Duration::from_millis(50);
/// Milliseconds by which clocks jump.
const STEP: i64 = 3_600_000;

/// Syncs of some members, slow or failing until [`mend`]: by their failpoints, or by strace where the program has none.
async fn tamper(members: &mut Members<'_>, who: &[usize], slow: bool) -> Result<Vec<TamperedDisk>> {
    let term = match slow {
        true => format!("sleep({})", SLOW.as_millis()),
        false => "return(\"the disk fails\")".to_owned(),
    };
    let mut tampered = Vec::new();
    for &index in who {
        if failpoint::set(&members.failpoints(index), SYNC, Some(&term)).await.is_ok() {
            continue;
        }
        let id = members.member(index).id()?;
        tampered.push(if slow { TamperedDisk::slow(id, SLOW)? } else { TamperedDisk::failing(id)? });
    }
    Ok(tampered)
}

async fn mend(members: &Members<'_>, who: &[usize], tampered: Vec<TamperedDisk>) {
    drop(tampered);
    for &index in who {
        // It may have no failpoints, or have ended.
        drop(failpoint::set(&members.failpoints(index), SYNC, None).await);
    }
}

async fn slow_disk(env: &Env, members: &mut Members<'_>, who: &[usize], lasts: Duration) -> Result<()> {
    let tampered = tamper(members, who, true).await?;
    env.clock.sleep(lasts).await;
    let led = match who {
        &[leader] => {
            until(env, PATIENCE, async || match members.leader().await? {
                leads if leads == leader => bail!("the leader keeps leading although its disk is slow"),
                _ => Ok(()),
            })
            .await
        }
        _ => Ok(()),
    };
    mend(members, who, tampered).await;
    led
}

async fn failing_disk(env: &Env, members: &mut Members<'_>, index: usize, lasts: Duration) -> Result<()> {
    let tampered = tamper(members, &[index], false).await?;
    let ended = until(env, PATIENCE, async || match members.member(index).has_ended() {
        true => Ok(()),
        false => bail!("member {index} goes on although its syncs fail"),
    });
    ended.await?;
    mend(members, &[index], tampered).await;
    env.clock.sleep(lasts).await;
    restart(members, index)
}

/// Fills disks, and makes room again. Who could not go on without has said why.
async fn full_disk(env: &Env, members: &mut Members<'_>, who: &[usize], lasts: Duration) -> Result<()> {
    let end = env.clock.monotonic() + lasts;
    while env.clock.monotonic() < end {
        who.iter().try_for_each(|&index| members.disk(index)?.fill())?;
        env.clock.sleep(FILL).await;
    }
    who.iter().try_for_each(|&index| members.disk(index)?.free())?;
    until(env, PATIENCE, async || {
        for &index in who {
            // It may have been about to end.
            if members.member(index).has_ended() {
                says_why(&members.log(index), "No space left on device")?;
                restart(members, index)?;
            }
        }
        for &index in who {
            let serves = members.answers(index).await;
            serves.with_context(|| format!("member {index} does not serve although there is room"))?;
        }
        Ok(())
    })
    .await
}

/// The last line of a member that ended says why, and it did not panic.
fn says_why(log: &str, why: &str) -> Result<()> {
    let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    match last.contains(why) && !log.contains("panicked") {
        true => Ok(()),
        false => bail!("a member ended with {last:?}, which is not one line that says {why:?}"),
    }
}

fn restart(members: &mut Members<'_>, index: usize) -> Result<()> {
    members.member(index).kill()?;
    members.member(index).start()
}

async fn clock_steps(env: &Env, members: &Members<'_>, leader: usize, lasts: Duration) -> Result<()> {
    for index in 0..members.size() {
        let step = if index == leader { STEP } else { -STEP };
        let term = format!("return(\"{step}\")");
        failpoint::set(&members.failpoints(index), "clockStep", Some(&term)).await?;
    }
    env.clock.sleep(lasts).await;
    for index in 0..members.size() {
        failpoint::set(&members.failpoints(index), "clockStep", None).await?;
    }
    Ok(())
}

async fn cut(env: &Env, members: &mut Members<'_>, index: usize, cut: Cut, lasts: Duration) -> Result<()> {
    members.cut(index, cut)?;
    env.clock.sleep(lasts).await;
    members.heal(index)
}

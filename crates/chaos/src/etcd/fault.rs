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
/// How long a member may take to end that cannot write any more.
const END: Duration = Duration::from_secs(10);

async fn slow_disk(env: &Env, members: &mut Members<'_>, who: &[usize], lasts: Duration) -> Result<()> {
    let slowed = who.iter().map(|&index| TamperedDisk::slow(members.member(index).id()?, SLOW));
    let slowed = slowed.collect::<Result<Vec<_>>>()?;
    env.clock.sleep(lasts).await;
    drop(slowed);
    Ok(())
}

async fn failing_disk(env: &Env, members: &mut Members<'_>, index: usize, lasts: Duration) -> Result<()> {
    let failing = TamperedDisk::failing(members.member(index).id()?)?;
    let ended = until(env, END, async || match members.member(index).has_ended() {
        true => Ok(()),
        false => bail!("member {index} goes on although its syncs fail"),
    });
    ended.await?;
    drop(failing);
    env.clock.sleep(lasts).await;
    members.member(index).kill()?;
    members.member(index).start()
}

async fn cut(env: &Env, members: &mut Members<'_>, index: usize, cut: Cut, lasts: Duration) -> Result<()> {
    members.cut(index, cut)?;
    env.clock.sleep(lasts).await;
    members.heal(index)
}

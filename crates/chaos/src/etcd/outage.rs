//! How long nothing can be written when something happens to the leader.
//!
//! One client puts a key again and again, 10 ms apart, and gives an answer 200 ms; without one it goes on at the next
//! member. What counts is the time from the fault to the first answer to a put that was sent after it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use env::{Env, Shutdown, TaskGroup};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::disk::TamperedDisk;
use super::members::Members;
use crate::network::{Cut, Network};
use crate::poll::until;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(200);
/// Between two puts.
const PAUSE: Duration = Duration::from_millis(10);
/// Puts before the fault, and how long it lasts at least after they go on.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_millis(300);
/// How long nothing may be written.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much a disk is slowed down, and for how long it is looked at what that does.
const SLOW: Duration = Duration::from_millis(200);
const SLOW_FOR: Duration = Duration::from_secs(3);

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// SIGKILL.
    Killed,
    /// SIGTERM.
    Stopped,
    /// SIGSTOP.
    Frozen,
    /// Nothing passes between it and the others.
    CutOff,
    /// It hears nothing from the others, which hear it.
    Deaf,
    /// The others hear nothing from it, which hears them.
    Mute,
    /// Syncs of its log take 200 ms: the time until a put takes less again.
    SlowDisk,
}

impl Outage {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Killed, Self::Stopped, Self::Frozen, Self::CutOff, Self::Deaf, Self::Mute, Self::SlowDisk];

    /// By its name on a command line.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
        let found = Self::ALL.into_iter().find(|outage| plain(&format!("{outage:?}")) == plain(name));
        found.with_context(|| format!("{name:?} is no outage"))
    }

    fn needs_network(self) -> bool {
        matches!(self, Self::CutOff | Self::Deaf | Self::Mute)
    }
}

/// Measures an outage so many times; how long nothing was written, in order. A run that takes longer than the limit is the
/// last, and what the members said is kept: where, is part of the error.
///
/// # Errors
/// Members that cannot be started, or do not come back within the limit.
pub async fn measure(
    env: &Env,
    binary: &Path,
    network: &Network,
    outage: Outage,
    (runs, limit): (usize, Duration),
) -> Result<Vec<Duration>> {
    if outage.needs_network() {
        network.can_cut()?;
    }
    let mut members = Members::start(env, binary, network, 3, &[]).await?;
    let mut took = Vec::new();
    for run in 0..runs {
        let once = strike(env, &mut members, outage, run).await.and_then(|once| within(once, limit));
        let once = once.with_context(|| format!("{outage:?}, run {run}"));
        took.push(once.map_err(|error| members.with_words(&error))?);
    }
    took.sort_unstable();
    Ok(took)
}

fn within(once: Duration, limit: Duration) -> Result<Duration> {
    ensure!(once <= limit, "nothing was written for {once:?}, {limit:?} are allowed");
    Ok(once)
}

/// When puts were sent, and when they were answered, if they were.
type Answers = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

async fn strike(env: &Env, members: &mut Members<'_>, outage: Outage, run: usize) -> Result<Duration> {
    for index in 0..members.size() {
        members.serves(index).await?;
    }
    let leader = members.leader().await?;
    let answers = Answers::default();
    let clients = TaskGroup::new("client", Shutdown::new());
    let patience = if outage == Outage::SlowDisk { ANSWER + 2 * SLOW } else { ANSWER };
    let client = Client { env: env.clone(), answers: answers.clone(), patience };
    let put = client.run(members.endpoints(), run, clients.shutdown().clone());
    clients.spawn_detached("puts", put);
    env.clock.sleep(BEFORE).await;
    // A cut takes a moment to be made; nothing that was sent before it counts.
    let slow = begin(members, leader, outage)?;
    let begun = env.clock.monotonic();
    if outage == Outage::SlowDisk {
        env.clock.sleep(SLOW_FOR).await;
    }
    let back = until(env, PATIENCE, async || {
        let answers = answers.lock();
        let after = answers.iter().filter(|(sent, _)| *sent >= begun);
        let back = if outage == Outage::SlowDisk { quick_again(after) } else { answered(after) };
        back.context("nothing is written")
    });
    let back = back.await?;
    env.clock.sleep(AFTER).await;
    drop(slow);
    end(members, leader, outage)?;
    clients.shutdown().trigger();
    clients.join(PATIENCE).await?;
    Ok(back - begun)
}

/// When the first put was answered.
fn answered<'a>(mut puts: impl Iterator<Item = &'a (Instant, Option<Instant>)>) -> Option<Instant> {
    puts.find_map(|(_, answered)| *answered)
}

/// When the first put was answered after which none was slow or went without an answer: a disk that is slow slows some
/// before the leadership moves.
fn quick_again<'a>(puts: impl DoubleEndedIterator<Item = &'a (Instant, Option<Instant>)>) -> Option<Instant> {
    let quick = |&(sent, answered): &(Instant, Option<Instant>)| answered.filter(|at| *at - sent < SLOW / 2);
    puts.rev().map_while(quick).last()
}

fn begin(members: &mut Members<'_>, leader: usize, outage: Outage) -> Result<Option<TamperedDisk>> {
    match outage {
        Outage::Killed => members.member(leader).kill()?,
        Outage::Stopped => members.member(leader).signal(Signal::SIGTERM)?,
        Outage::Frozen => members.member(leader).signal(Signal::SIGSTOP)?,
        Outage::CutOff => members.cut(leader, Cut::Both)?,
        Outage::Deaf => members.cut(leader, Cut::In)?,
        Outage::Mute => members.cut(leader, Cut::Out)?,
        Outage::SlowDisk => return TamperedDisk::slow(members.member(leader).id()?, SLOW).map(Some),
    }
    Ok(None)
}

fn end(members: &mut Members<'_>, leader: usize, outage: Outage) -> Result<()> {
    match outage {
        Outage::Killed => members.member(leader).start(),
        Outage::Stopped => {
            members.member(leader).kill()?;
            members.member(leader).start()
        }
        Outage::Frozen => members.member(leader).signal(Signal::SIGCONT),
        Outage::CutOff | Outage::Deaf | Outage::Mute => members.heal(leader),
        Outage::SlowDisk => Ok(()),
    }
}

struct Client {
    env: Env,
    answers: Answers,
    patience: Duration,
}

impl Client {
    async fn run(self, endpoints: Vec<String>, first: usize, stop: Shutdown) {
        let lazy = |url: &String| Some(Endpoint::from_shared(url.clone()).ok()?.connect_lazy());
        let channels: Vec<Channel> = endpoints.iter().filter_map(lazy).collect();
        let mut at = first;
        while !stop.is_triggered() {
            let mut kv = KvClient::new(channels[at % channels.len()].clone());
            let sent = self.env.clock.monotonic();
            let put = pb::PutRequest { key: "outage".into(), value: "x".into(), ..Default::default() };
            let answered = matches!(tokio::time::timeout(self.patience, kv.put(put)).await, Ok(Ok(_)));
            self.answers.lock().push((sent, answered.then(|| self.env.clock.monotonic())));
            at += usize::from(!answered);
            self.env.clock.sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_that_are_slow_or_not_answered_count_until_the_last_of_them() {
        let begun = Env::real().clock.monotonic();
        let at = |millis| begun + Duration::from_millis(millis);
        let put = |sent, answered: Option<u64>| (at(sent), answered.map(at));
        let puts =
            [put(0, Some(2)), put(10, None), put(610, Some(900)), put(910, Some(912)), put(920, Some(921))];
        assert_eq!(quick_again(puts.iter()), Some(at(912)));
        assert_eq!(quick_again(puts[..3].iter()), None);
        assert_eq!(quick_again(puts[..1].iter()), Some(at(2)));
        assert_eq!(answered(puts[1..].iter()), Some(at(900)));
    }
}

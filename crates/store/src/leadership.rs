//! Who leads, and since when it is known that nobody hears them.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use openraft::{Instant as _, ServerState};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::consensus::{Node, TypeConfig};
use crate::disk;
use crate::handover;
use crate::inner::Inner;
use crate::peers::Lane;
use crate::pulse::{Standing, Verdict};

/// How often the age of the last quorum is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between the elections that the followers of a dead leader begin, so that they do not split the votes.
const RANK_DELAY: Duration = Duration::from_millis(60);
/// Pause before a leader that cannot be reached is looked for again.
const RETRY: Duration = Duration::from_millis(100);
/// The same after some attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often a leader looks at its disk.
const DISK_INTERVAL: Duration = Duration::from_millis(50);
/// Another disk must be so many times quicker to be worth an election.
const QUICKER: u32 = 4;
/// Entries that a member may lack to be handed the leadership.
const MAX_LAG: u64 = 5_000;
/// Pause after an attempt to hand over. When all disks are slow in turn, leadership does not move more often.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(5);

/// Who leads, as this member knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Who leads it, if anyone is known to.
    pub leader: Option<u64>,
    /// Whether this member leads, is in touch with a quorum, and has applied everything from before its term.
    pub is_leader: bool,
}

/// Keeps the leadership current: with every change of the consensus, and when a quorum goes silent.
pub(crate) async fn follow(inner: Arc<Inner>, leadership: watch::Sender<Leadership>) {
    let mut changes = inner.raft.server_metrics();
    let mut metrics = inner.raft.metrics();
    let mut verdict = inner.pulse.verdict();
    let mut led = None;
    let mut last_leader = None;
    let leads = metrics::gauge!("etcd_server_is_leader");
    loop {
        let now = read(&inner);
        if now.is_leader && led != Some(now.term) {
            // Whoever takes over does not know when leases were last renewed.
            let view = inner.shared.view.load_full();
            inner.shared.leases.lock().reset(&view, inner.env.clock.monotonic());
        }
        led = now.is_leader.then_some(now.term).or(led);
        if now.leader.is_some() && now.leader != last_leader {
            last_leader = now.leader;
            inner.shared.counters.leader_changes.increment(1);
        }
        leadership.send_if_modified(|current| {
            let changed = *current != now;
            if changed {
                tracing::info!(
                    term = now.term,
                    leader = now.leader.map(|id| format!("{id:x}")),
                    leads = now.is_leader,
                    "leadership"
                );
                leads.set(f64::from(u8::from(now.is_leader)));
            }
            *current = now;
            changed
        });
        // A leader that has not heard a quorum yet must not miss when it does; otherwise nothing is of interest that
        // changes with every entry.
        let unheard = metrics.borrow_watched().state == ServerState::Leader && !now.is_leader;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            changed = metrics.changed(), if unheard => if changed.is_err() { break },
            changed = verdict.changed() => if changed.is_err() { break },
            () = inner.env.clock.sleep(inner.pause(CHECK_INTERVAL)) => {}
            () = inner.shutdown.wait() => break,
        }
    }
    leadership.send_modify(|current| (current.leader, current.is_leader) = (None, false));
}

/// Who leads, as it is now: nothing of it is from before this process was last stopped or this member cut off.
pub(crate) fn read(inner: &Inner) -> Leadership {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    let heard =
        metrics.last_quorum_acked.as_ref().is_some_and(|acked| acked.elapsed() < inner.timing.election_max);
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(inner.me);
    let followed = leads && (alone || (heard && inner.pulse.now() != Verdict::Deserted));
    // Leases, for instance, are as those before it left them only when it has applied what they wrote.
    let is_leader =
        followed && metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
    let now = inner.env.clock.monotonic();
    let known = |leader: &u64| match *leader == inner.me {
        // A new leader has not heard the others yet: nobody else leads its term.
        true => followed || metrics.last_quorum_acked.is_none(),
        false => inner.pulse.silence_of(*leader, now) <= inner.timing.election_max,
    };
    let term = metrics.current_term;
    if let Some(leader) = metrics.current_leader.filter(known) {
        return Leadership { term, leader: Some(leader), is_leader };
    }
    // The consensus of this member may be busy, and the others know better.
    let agreed = inner.pulse.agreed(&Standing::of(&metrics), now);
    Leadership {
        term: agreed.map_or(term, |(term, _)| term),
        leader: agreed.map(|(_, leader)| leader),
        is_leader,
    }
}

/// Watches the leader's process: an open call that ends, and an address that refuses, mean that it is gone. Then this
/// member stands at once instead of waiting for the silence to last. Elections are safe whenever they are held; a
/// leader that is merely slow or cut off refuses nothing, and is left to the pulse ([`watch_pulse`]).
pub(crate) async fn watch_leader(inner: Arc<Inner>, mut leadership: watch::Receiver<Leadership>) {
    loop {
        let current = *leadership.borrow_and_update();
        let lost = async {
            match current.leader.filter(|&leader| leader != inner.me) {
                Some(leader) => follow_process(&inner, leader).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = lost => {
                let rank = inner.rank_among_followers(current.leader);
                let lost = Lost { leader: current.leader, term: current.term };
                stand(&inner, lost, rank, "the leader's process is gone").await;
            }
            changed = leadership.changed() => if changed.is_err() { break },
            () = inner.shutdown.wait() => break,
        }
    }
}

/// Stands when a quorum is out of touch with the leader.
pub(crate) async fn watch_pulse(inner: Arc<Inner>) {
    let mut verdicts = inner.pulse.verdict();
    loop {
        let verdict = *verdicts.borrow_and_update();
        let stands = async {
            match verdict {
                Verdict::Lost { leader, term, rank } => {
                    let lost = Lost { leader: Some(leader), term };
                    stand(&inner, lost, rank, "a quorum is out of touch with the leader").await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stands => {}
            changed = verdicts.changed() => if changed.is_err() { break },
            () = inner.shutdown.wait() => break,
        }
    }
}

/// Returns when the leader's process is gone.
async fn follow_process(inner: &Inner, leader: u64) {
    let mut pause = RETRY;
    loop {
        if let Ok(mut client) = inner.peer(leader, Lane::Control) {
            let opened = client.alive(protos::peer::AliveRequest { from: inner.me }).await;
            if let Ok(answer) = opened {
                let mut beats = answer.into_inner();
                while let Ok(Some(_)) = beats.message().await {}
                pause = RETRY;
            }
        }
        if let Some(node) = inner.node(leader)
            && refuses(&node).await
        {
            return;
        }
        // Who does not refuse is cut off, or hidden by a proxy: that is the pulse's affair.
        inner.env.clock.sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn refuses(node: &Node) -> bool {
    let Some(address) = node.peer_urls.first().and_then(|url| url.split("://").nth(1)) else { return false };
    let address = address.trim_end_matches('/');
    matches!(TcpStream::connect(address).await, Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A leader that is to be succeeded.
struct Lost {
    leader: Option<u64>,
    term: u64,
}

/// Stands after those who come before this member, unless one of them was elected meanwhile.
async fn stand(inner: &Inner, lost: Lost, rank: u32, why: &str) {
    if inner.check_sound().is_err() {
        return;
    }
    inner.env.clock.sleep(RANK_DELAY * rank).await;
    let (vote, leader) = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.current_leader)
    };
    if leader != lost.leader || vote.leader_id.term != lost.term {
        return;
    }
    tracing::info!(leader = lost.leader.map(|id| format!("{id:x}")), "{why}, standing for election");
    let request = TransferLeaderRequest::<TypeConfig>::new(vote, inner.me, None);
    match inner.raft.handle_transfer_leader(request).await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => tracing::debug!(%refused, "not standing"),
        Err(stopped) => tracing::debug!(%stopped, "not standing"),
    }
    inner.env.clock.sleep(RETRY).await;
}

/// In builds with failpoints: etcd's leader passes the points before it saves and sends with every heartbeat, whether there
/// is something to write and somebody to send to or not, and so does this one.
pub(crate) async fn pass_points(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.env.clock.sleep(inner.timing.heartbeat) => {}
            () = inner.shutdown.wait() => return,
        }
        if !read(&inner).is_leader {
            continue;
        }
        let disk = inner.disk.clone();
        let turn = inner.raft.with_raft_state(move |_| {
            crate::peers::before_leader_send();
            disk.watch(crate::log::before_save);
        });
        tokio::select! {
            turn = turn => if turn.is_err() { return },
            () = inner.shutdown.wait() => return,
        }
    }
}

/// A leader whose disk is slow makes everybody wait: it hands over to a member whose disk is not.
pub(crate) async fn leave_slow_disk(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.env.clock.sleep(inner.pause(DISK_INTERVAL)) => {}
            () = inner.shutdown.wait() => return,
        }
        let latency = inner.disk.least();
        if latency < disk::SLOW || !read(&inner).is_leader {
            continue;
        }
        let Some(to) = quicker(&inner, latency) else { continue };
        tracing::warn!(sync = ?latency, to = format!("{to:x}"), "the disk is slow, handing the leadership over");
        let handed_over = async {
            drop(handover::soon(&inner, to).await);
            inner.env.clock.sleep(HAND_OVER_PAUSE).await;
        };
        tokio::select! {
            () = handed_over => {}
            () = inner.shutdown.wait() => return,
        }
    }
}

/// A voter that is in touch, has most of the log, and a disk that is far quicker than this one's.
fn quicker(inner: &Inner, latency: Duration) -> Option<u64> {
    let now = inner.env.clock.monotonic();
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log_index?;
    let voters = metrics.membership_config.membership().voter_ids().filter(|id| *id != inner.me);
    let matched = |id: &u64| metrics.replication.as_ref()?.get(id)?.as_ref().map(|id| id.index);
    let fit = voters.filter_map(|id| {
        let (theirs, matched) = (inner.pulse.sync_of(id, now)?, matched(&id)?);
        (theirs * QUICKER <= latency && matched + MAX_LAG >= last).then_some((theirs, id))
    });
    fit.min().map(|(_, id)| id)
}

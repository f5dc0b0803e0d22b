//! The pulse: a thread of its own on which members beat to each other, so that a leader that falls silent is noticed
//! within a fraction of an election timeout, however busy the consensus is.
//!
//! Every member opens a connection to every other one's peer URL, beats on it, and takes the answers; so two members are
//! in touch when each reaches the other. A leader that a quorum is out of touch with is lost: those who notice stand for
//! election one after the other, and the leader itself stops leading. A leader whose log has been waiting for its disk for
//! seconds is lost to those whose logs have not: it can acknowledge nothing. Nothing is decided here: an election is safe
//! whenever it is held. `links.rs` judges (pure), `wire.rs` talks.

mod links;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::{Clock, Shutdown, TaskGroup};
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use transport::Dialer;

pub(crate) use self::links::Standing;
pub(crate) use self::links::Verdict;
use self::links::{Links, Rhythm, Word};
pub(crate) use self::wire::{DOOR, Door, serve_door};
use crate::config::Timing;
use crate::consensus::Node;
use crate::disk::Disk;
use crate::inner::Inner;

/// How long connections may take to end.
const STOP: Duration = Duration::from_millis(200);

/// What the pulse knows, for everybody.
pub(crate) struct Pulse {
    rhythm: Rhythm,
    links: Mutex<Links>,
    verdict: watch::Sender<Verdict>,
    /// What the next beats say.
    beat: watch::Sender<Beat>,
    /// Something was heard that may change the verdict.
    stir: Notify,
    disk: Arc<Disk>,
}

/// One beat.
#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    number: u64,
    word: Word,
}

impl Pulse {
    pub fn new(me: u64, timing: &Timing, disk: Arc<Disk>) -> Self {
        let rhythm = Rhythm::of(timing);
        Self {
            rhythm,
            links: Mutex::new(Links::new(me, rhythm)),
            verdict: watch::Sender::default(),
            beat: watch::Sender::default(),
            stir: Notify::new(),
            disk,
        }
    }

    /// What is to be made of who is in touch.
    pub fn now(&self) -> Verdict {
        *self.verdict.borrow()
    }

    /// The verdict as it changes.
    pub fn verdict(&self) -> watch::Receiver<Verdict> {
        self.verdict.subscribe()
    }

    /// How long another member's log took to sync at most of late, if it is in touch.
    pub fn sync_of(&self, id: u64, now: Instant) -> Option<Duration> {
        Some(Duration::from_micros(self.links.lock().word(id, now)?.sync_micros))
    }

    /// The term and the leader on which a quorum agrees, this member's own word included.
    pub fn agreed(&self, standing: &Standing, now: Instant) -> Option<(u64, u64)> {
        self.links.lock().agreed(standing, now)
    }

    /// For how long another member has been out of touch; nothing if that was never judged.
    pub fn silence_of(&self, id: u64, now: Instant) -> Duration {
        self.links.lock().silence_of(id, now)
    }

    /// Returns when this member and a quorum of the voters have heard each other since the call: within two beats where
    /// nothing is wrong.
    pub async fn meet(&self, clock: &Clock, voters: &BTreeSet<u64>) {
        let number = self.beat.borrow().number;
        let mark = self.links.lock().mark(number);
        while !self.links.lock().met_since(&mark, voters) {
            clock.sleep(self.rhythm.beat / 4).await;
        }
    }

    fn heard(&self, from: u64, word: Word, first: bool, now: Instant) {
        self.links.lock().heard(from, word, first, now);
        if word.lost {
            self.stir.notify_one();
        }
    }

    fn answered(&self, from: u64, number: u64, word: Word, first: bool, now: Instant) {
        self.links.lock().answered(from, number, word, first, now);
        if word.lost {
            self.stir.notify_one();
        }
    }
}

/// Beats until the store stops. Runs on a lane of its own.
pub(crate) async fn run(inner: Arc<Inner>, dialer: Dialer) {
    let tasks = TaskGroup::new("pulse", inner.shutdown.child());
    let mut callers = Callers { tasks: tasks.clone(), dialer, called: BTreeMap::new() };
    let mut next = inner.env.clock.monotonic();
    let mut number = 0;
    while !inner.shutdown.is_triggered() {
        tokio::select! {
            () = inner.env.clock.sleep_until(next) => {
                let now = inner.env.clock.monotonic();
                // Beats that are late are not made up for.
                next = (next + inner.pause(inner.pulse.rhythm.beat)).max(now);
                number += 1;
                inner.pulse.links.lock().beat(now);
                callers.follow(&inner);
                judge(&inner, Some(number));
            }
            () = inner.pulse.stir.notified() => judge(&inner, None),
            () = inner.shutdown.wait() => {}
        }
    }
    drop(tasks.join(STOP).await);
}

/// Passes judgement on what was heard, and beats.
fn judge(inner: &Inner, beat: Option<u64>) {
    let now = inner.env.clock.monotonic();
    let (standing, last_index) = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        (Standing::of(&metrics), metrics.last_log_index.unwrap_or(0))
    };
    let stuck = inner.pulse.disk.stuck();
    let (verdict, word) = {
        let links = inner.pulse.links.lock();
        let word = Word {
            term: standing.term,
            leader: standing.leader.unwrap_or(0),
            lost: links.has_lost(&standing, stuck, now),
            last_index,
            sync_micros: micros(inner.pulse.disk.most()),
            stuck_micros: micros(stuck),
        };
        // The others compare themselves with what this member said last.
        let said = Word { stuck_micros: micros(stuck), ..inner.pulse.beat.borrow().word };
        (links.verdict(&standing, &said, now), word)
    };
    inner.pulse.verdict.send_if_modified(|current| {
        let changed = *current != verdict;
        if changed {
            tracing::debug!(?verdict, patience = ?inner.pulse.links.lock().patience(), "pulse");
        }
        *current = verdict;
        changed
    });
    if let Some(number) = beat {
        inner.pulse.beat.send_replace(Beat { number, word });
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Calls every other member, at the URL that it has now.
struct Callers {
    tasks: TaskGroup,
    dialer: Dialer,
    called: BTreeMap<u64, (Node, Shutdown)>,
}

impl Callers {
    fn follow(&mut self, inner: &Arc<Inner>) {
        let membership = inner.shared.membership.load();
        let nodes: BTreeMap<u64, &Node> =
            membership.membership().nodes().map(|(id, node)| (*id, node)).collect();
        self.called.retain(|id, (node, stop)| {
            let stays = nodes.get(id).is_some_and(|now| now.peer_urls == node.peer_urls);
            if !stays {
                stop.trigger();
            }
            stays
        });
        for (id, node) in nodes.into_iter().filter(|(id, _)| *id != inner.me) {
            if self.called.contains_key(&id) {
                continue;
            }
            let stop = self.tasks.shutdown().child();
            let call = wire::call(inner.clone(), id, node.clone(), self.dialer.clone());
            let ends = stop.clone();
            self.tasks.spawn_detached(format!("call-{id:x}"), async move {
                tokio::select! {
                    () = call => {}
                    () = ends.wait() => {}
                }
            });
            self.called.insert(id, (node.clone(), stop));
        }
        let members: BTreeSet<u64> = self.called.keys().copied().collect();
        inner.pulse.links.lock().retain(&members);
    }
}

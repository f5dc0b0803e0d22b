//! Watching: a ring of the newest events, a cursor for each watcher, and the engine's history for those behind.

use std::collections::VecDeque;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mvcc::{Event, KeyRange, MvccError, Revision, View};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::state::{Shared, fill_prev};

/// Events that the ring holds, at most.
const RING_EVENTS: usize = 8192;
/// Bytes of keys and values that the ring holds, at most (previous values are shared with older events).
const RING_BYTES: usize = 16 << 20;
/// Events handed out at a time, but for a revision that has more.
const BATCH_EVENTS: usize = 1024;
/// Bytes of history read at a time for a watcher that is behind the ring.
const HISTORY_BYTES: usize = 1 << 20;

/// All events of one revision.
struct Slot {
    revision: Revision,
    events: Vec<Arc<Event>>,
    bytes: usize,
}

#[derive(Default)]
struct Ring {
    slots: VecDeque<Slot>,
    events: usize,
    bytes: usize,
    /// The ring holds every event after this revision.
    after: Revision,
}

/// Where events are published and watchers wait.
pub(crate) struct Hub {
    ring: RwLock<Ring>,
    head: watch::Sender<Revision>,
}

impl Hub {
    pub fn new(revision: Revision) -> Self {
        let ring = Ring { after: revision, ..Ring::default() };
        Self { ring: RwLock::new(ring), head: watch::Sender::new(revision) }
    }

    /// Shows the events of one or more revisions, in order; afterwards everything up to `head` was shown.
    pub fn publish(&self, events: Vec<Event>, head: Revision) {
        if !events.is_empty() {
            self.ring.write().push(events);
        }
        self.head.send_if_modified(|current| std::mem::replace(current, head) != head);
    }

    /// Begins anew after the whole state was replaced: those behind read the history.
    pub fn restart(&self, head: Revision) {
        *self.ring.write() = Ring { after: head, ..Ring::default() };
        self.head.send_replace(head);
    }

    pub fn head(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.head.receiver_count() > 0
    }
}

impl Ring {
    fn push(&mut self, events: Vec<Event>) {
        for event in events {
            let revision = event.kv.mod_revision;
            let bytes = event.kv.key.len() + event.kv.value.len();
            if self.slots.back().is_none_or(|slot| slot.revision != revision) {
                self.slots.push_back(Slot { revision, events: Vec::new(), bytes: 0 });
            }
            let slot = self.slots.back_mut().expect("invariant: just pushed");
            slot.events.push(Arc::new(event));
            slot.bytes += bytes;
            self.events += 1;
            self.bytes += bytes;
        }
        while (self.events > RING_EVENTS || self.bytes > RING_BYTES) && self.slots.len() > 1 {
            let slot = self.slots.pop_front().expect("invariant: more than one");
            self.events -= slot.events.len();
            self.bytes -= slot.bytes;
            self.after = slot.revision;
        }
    }

    /// Events of `range` from `from` on and the revision up to which they are complete; `None` when the ring does not
    /// reach back so far.
    fn read(&self, range: &KeyRange, from: Revision, head: Revision) -> Option<(Vec<Arc<Event>>, Revision)> {
        if from <= self.after {
            return None;
        }
        let start = self.slots.partition_point(|slot| slot.revision < from);
        let mut found = Vec::new();
        for slot in self.slots.range(start..).take_while(|slot| slot.revision <= head) {
            if found.len() >= BATCH_EVENTS {
                return Some((found, slot.revision - 1));
            }
            found.extend(slot.events.iter().filter(|event| range.contains(&event.kv.key)).cloned());
        }
        Some((found, head))
    }
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision of interest; 0 is the next one. It may lie in the future.
    pub start_revision: Revision,
}

/// Events in the order of their revisions; those of one revision are never split.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// The events; empty when there were none in the range.
    pub events: Vec<Arc<Event>>,
    /// Everything up to this revision was delivered.
    pub revision: Revision,
}

/// Why a watcher ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// What it should deliver next was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The first revision that is still readable.
        compact_revision: Revision,
    },
    /// The history could not be read.
    #[error("{0}")]
    Engine(String),
    /// The store has stopped.
    #[error("server stopped")]
    Stopped,
}

/// One watch. Dropping it ends it.
pub struct Watcher {
    shared: Arc<Shared>,
    range: KeyRange,
    next: Revision,
    /// Set when the watch began before the compaction; one that merely fell behind it is served from the ring.
    compacted: Option<Revision>,
    head: watch::Receiver<Revision>,
    stopped: env::Shutdown,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, request: WatchRequest, stopped: env::Shutdown) -> Self {
        let head = shared.hub.head();
        let next = if request.start_revision > 0 { request.start_revision } else { *head.borrow() + 1 };
        let compact_revision = shared.view.load().compact_revision();
        let compacted = (next < compact_revision).then_some(compact_revision);
        Self { shared, range: request.range, next, compacted, head, stopped }
    }

    /// The next events; waits until there are some.
    ///
    /// # Errors
    /// `Compacted`, `Engine`, `Stopped`: the watch is then over.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let batch = self.poll()?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            self.changed().await?;
        }
    }

    /// Like [`Self::next`], but returns also when the store moved on without an event in the range, so that the
    /// caller can report progress.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_or_progress(&mut self) -> Result<WatchBatch, WatchError> {
        if self.next > *self.head.borrow() {
            self.changed().await?;
        }
        self.poll()
    }

    /// Everything up to this revision was delivered.
    pub fn progress(&self) -> Revision {
        self.next - 1
    }

    /// Whether everything that happened so far was delivered.
    pub fn is_synced(&self) -> bool {
        self.next > *self.head.borrow()
    }

    /// What there is now, without waiting.
    ///
    /// # Errors
    /// `Compacted`, `Engine`.
    pub fn poll(&mut self) -> Result<WatchBatch, WatchError> {
        if let Some(compact_revision) = self.compacted {
            return Err(WatchError::Compacted { compact_revision });
        }
        loop {
            let head = *self.head.borrow_and_update();
            if self.next > head {
                return Ok(WatchBatch { events: Vec::new(), revision: head });
            }
            let ring = self.shared.hub.ring.read().read(&self.range, self.next, head);
            let (events, revision) = match ring {
                Some((events, revision)) => (filled(&self.shared.view, events)?, revision),
                None => history(&self.shared.view, &self.range, self.next)?,
            };
            self.next = revision + 1;
            if !events.is_empty() || self.next > head {
                return Ok(WatchBatch { events, revision });
            }
        }
    }

    async fn changed(&mut self) -> Result<(), WatchError> {
        let past = self.next - 1;
        tokio::select! {
            changed = self.head.wait_for(|&head| head > past) => changed.map(drop).map_err(|_| WatchError::Stopped),
            () = self.stopped.wait() => Err(WatchError::Stopped),
        }
    }
}

/// Events with the values before, also those that were published when nobody watched.
fn filled(view: &ArcSwap<View>, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, WatchError> {
    let fill = |event: Arc<Event>| {
        if event.prev.is_some() || event.prev_at.is_none() {
            return Ok(event);
        }
        let mut event = Arc::unwrap_or_clone(event);
        fill_prev(&view.load(), &mut event).map_err(|error| WatchError::Engine(error.to_string()))?;
        Ok(Arc::new(event))
    };
    events.into_iter().map(fill).collect()
}

fn history(
    view: &ArcSwap<View>,
    range: &KeyRange,
    from: Revision,
) -> Result<(Vec<Arc<Event>>, Revision), WatchError> {
    let view = view.load();
    let mut batch = view.events(range, from, HISTORY_BYTES).map_err(|error| match error {
        MvccError::Compacted { compact_revision } => WatchError::Compacted { compact_revision },
        other => WatchError::Engine(other.to_string()),
    })?;
    let filled = batch.events.iter_mut().try_for_each(|event| fill_prev(&view, event));
    filled.map_err(|error| WatchError::Engine(error.to_string()))?;
    Ok((batch.events.into_iter().map(Arc::new).collect(), batch.next_revision - 1))
}

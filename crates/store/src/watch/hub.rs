//! Where events are published: the ring of the newest ones, and the seats of those who wait for them.
//!
//! Publishing appends to the ring and wakes one task, the dispatcher. It finds for each event the seats that it concerns
//! and wakes those who sit there; nobody else learns of it. So a write costs its publisher the same however many watch.

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use mvcc::{Event, KeyRange, Revision, View};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::WatchError;
use super::index::RangeIndex;
use crate::state::fill_prev;

/// Events that the ring holds, at most.
const RING_EVENTS: usize = 8192;
/// Bytes of keys and values that the ring holds, at most (previous values are shared with older events; what events are
/// encoded to comes on top, once for each form in which somebody watches).
const RING_BYTES: usize = 16 << 20;
/// Forms in which an event is kept beside itself.
const FORMS: usize = 2;

/// An event as all watchers share it, with what it is encoded to: each form is made once, by whoever needs it first.
#[derive(Debug)]
pub struct SharedEvent {
    event: Event,
    forms: [OnceLock<Bytes>; FORMS],
}

impl SharedEvent {
    /// An event that is delivered.
    pub fn new(event: Event) -> Arc<Self> {
        Arc::new(Self { event, forms: Default::default() })
    }

    /// The event in a form, made by `encode` unless it was made before. What a number means is agreed between those who
    /// use it: 0 and 1 are etcd's message without and with the previous key.
    pub fn form(&self, number: usize, encode: impl FnOnce(&Event) -> Bytes) -> &Bytes {
        self.forms[number].get_or_init(|| encode(&self.event))
    }

    /// The event with the value before, also if it was published when nobody watched.
    pub(super) fn filled(self: &Arc<Self>, view: &ArcSwap<View>) -> Result<Arc<Self>, WatchError> {
        if self.event.prev.is_some() || self.event.prev_at.is_none() {
            return Ok(self.clone());
        }
        let mut event = self.event.clone();
        fill_prev(&view.load(), &mut event).map_err(|error| WatchError::Engine(error.to_string()))?;
        Ok(Self::new(event))
    }

    /// Bytes of keys and values.
    pub(super) fn size(&self) -> usize {
        self.event.kv.key.len() + self.event.kv.value.len()
    }
}

impl Deref for SharedEvent {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// All events of one revision.
pub(super) struct Slot {
    pub revision: Revision,
    pub events: Vec<Arc<SharedEvent>>,
    bytes: usize,
}

/// Events that the ring holds no longer.
pub(crate) struct Left(Vec<Arc<Slot>>);

impl Left {
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().flat_map(|slot| &slot.events).map(|event| &event.event)
    }
}

/// What the ring holds of some revisions.
pub(super) struct Found {
    pub slots: Vec<Arc<Slot>>,
    /// They are complete up to this revision.
    pub upto: Revision,
}

#[derive(Default)]
struct Ring {
    slots: VecDeque<Arc<Slot>>,
    events: usize,
    bytes: usize,
    /// The ring holds every event after this revision.
    after: Revision,
}

impl Ring {
    /// Appends events; what had to leave for them.
    fn push(&mut self, events: Vec<Event>) -> Vec<Arc<Slot>> {
        let mut events = events.into_iter().peekable();
        while let Some(first) = events.next() {
            let revision = first.kv.mod_revision;
            let mut slot = Slot { revision, events: vec![SharedEvent::new(first)], bytes: 0 };
            while let Some(event) = events.next_if(|event| event.kv.mod_revision == revision) {
                slot.events.push(SharedEvent::new(event));
            }
            slot.bytes = slot.events.iter().map(|event| event.size()).sum();
            self.events += slot.events.len();
            self.bytes += slot.bytes;
            self.slots.push_back(Arc::new(slot));
        }
        let mut left = Vec::new();
        while (self.events > RING_EVENTS || self.bytes > RING_BYTES) && self.slots.len() > 1 {
            let slot = self.slots.pop_front().expect("invariant: more than one");
            self.events -= slot.events.len();
            self.bytes -= slot.bytes;
            self.after = slot.revision;
            left.push(slot);
        }
        left
    }

    fn read(&self, from: Revision, upto: Revision, max_bytes: usize) -> Option<Found> {
        if from <= self.after {
            return None;
        }
        let start = self.slots.partition_point(|slot| slot.revision < from);
        let (mut slots, mut bytes) = (Vec::new(), 0);
        for slot in self.slots.range(start..).take_while(|slot| slot.revision <= upto) {
            if bytes > max_bytes {
                return Some(Found { slots, upto: slot.revision - 1 });
            }
            bytes += slot.bytes;
            slots.push(slot.clone());
        }
        Some(Found { slots, upto })
    }
}

/// Where one who watches waits, for as many ranges as he likes.
#[derive(Default)]
pub(super) struct Seat {
    /// The first revision since he last looked that concerns him; 0 is none.
    first: AtomicI64,
    woken: Notify,
}

impl Seat {
    fn call(&self, revision: Revision) {
        if self.first.compare_exchange(0, revision, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.woken.notify_one();
        }
    }

    /// The first revision since the last question that concerns who sits here.
    pub fn take(&self) -> Option<Revision> {
        Some(self.first.swap(0, Ordering::AcqRel)).filter(|&revision| revision > 0)
    }

    /// The same, to be taken later.
    pub fn peek(&self) -> Option<Revision> {
        Some(self.first.load(Ordering::Acquire)).filter(|&revision| revision > 0)
    }

    /// Returns when there is something to take; maybe for nothing.
    pub async fn called(&self) {
        self.woken.notified().await;
    }
}

/// A seat in the index: the same one is one owner, however many ranges it is found by.
struct Owner(Arc<Seat>);

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Owner {}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Where events are published and watchers wait.
pub(crate) struct Hub {
    ring: RwLock<Ring>,
    head: watch::Sender<Revision>,
    seats: Mutex<RangeIndex<Owner>>,
    /// Whoever is concerned by an event up to here was called.
    dispatched: AtomicI64,
    /// Seats of all sets of watches that there are.
    sets: Mutex<HashSet<Owner>>,
    /// How many they are.
    watched: AtomicUsize,
    /// Nobody is called any more.
    closed: AtomicBool,
}

impl Hub {
    pub fn new(revision: Revision) -> Self {
        let ring = Ring { after: revision, ..Ring::default() };
        Self {
            ring: RwLock::new(ring),
            head: watch::Sender::new(revision),
            seats: Mutex::default(),
            dispatched: AtomicI64::new(revision),
            sets: Mutex::default(),
            watched: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// One more who watches, until he departs.
    pub(super) fn arrive(&self, seat: &Arc<Seat>) {
        self.watched.fetch_add(1, Ordering::AcqRel);
        self.sets.lock().insert(Owner(seat.clone()));
    }

    pub(super) fn depart(&self, seat: &Arc<Seat>) {
        self.sets.lock().remove(&Owner(seat.clone()));
        self.watched.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire) > 0
    }

    /// Whether it is over: whoever waits was woken for that.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Wakes all who wait; whoever comes later must not wait.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sets.lock().iter().for_each(|seat| seat.0.woken.notify_one());
    }

    /// Shows the events of one or more revisions, in order; afterwards everything up to `head` was shown. Those that are
    /// not held any more then.
    pub fn publish(&self, events: Vec<Event>, head: Revision) -> Left {
        let left = if events.is_empty() { Vec::new() } else { self.ring.write().push(events) };
        self.head.send_if_modified(|current| std::mem::replace(current, head) != head);
        Left(left)
    }

    /// Begins anew after the whole state was replaced: those behind read the history.
    pub fn restart(&self, head: Revision) {
        *self.ring.write() = Ring { after: head, ..Ring::default() };
        self.head.send_replace(head);
    }

    /// Everything up to this revision was shown.
    pub fn head(&self) -> Revision {
        *self.head.borrow()
    }

    /// Whoever is concerned by an event up to this revision was called.
    pub fn dispatched(&self) -> Revision {
        self.dispatched.load(Ordering::Acquire)
    }

    /// What happened from a revision up to another; after so many bytes of events it ends early. `None` when the ring
    /// does not reach back so far.
    pub(super) fn read(&self, from: Revision, upto: Revision, max_bytes: usize) -> Option<Found> {
        self.ring.read().read(from, upto, max_bytes)
    }

    /// From now on who sits there is called for events of a range, which comes back in the bytes that all share who wait
    /// for it.
    pub(super) fn enter(&self, range: KeyRange, seat: &Arc<Seat>) -> KeyRange {
        self.seats.lock().insert(range, Owner(seat.clone()))
    }

    pub(super) fn leave<'a>(&self, ranges: impl Iterator<Item = &'a KeyRange>, seat: &Arc<Seat>) {
        let (mut seats, owner) = (self.seats.lock(), Owner(seat.clone()));
        ranges.for_each(|range| seats.remove(range, &owner));
    }

    /// Calls those who wait, until `over`; then all are woken.
    pub async fn dispatch(&self, over: impl Future<Output = ()>) {
        tokio::select! {
            () = self.call_all() => {}
            () = over => {}
        }
        self.close();
    }

    /// Calls those whom something concerns, as long as there is a publisher.
    async fn call_all(&self) {
        let mut head = self.head.subscribe();
        loop {
            let upto = *head.borrow_and_update();
            self.call(self.dispatched() + 1, upto);
            self.dispatched.fetch_max(upto, Ordering::AcqRel);
            if head.changed().await.is_err() {
                return;
            }
        }
    }

    fn call(&self, from: Revision, upto: Revision) {
        if from > upto {
            return;
        }
        match self.read(from, upto, usize::MAX) {
            Some(found) => {
                let seats = self.seats.lock();
                for slot in found.slots {
                    for event in &slot.events {
                        seats.find(&event.kv.key, |seat| seat.0.call(slot.revision));
                    }
                }
            }
            // Some of it has left the ring already: everyone has to look.
            None => self.seats.lock().all(|seat| seat.0.call(from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use mvcc::{EventKind, KeyValue};

    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_woken_when_it_is_over() {
        let (hub, seats) = (Hub::new(1), [Arc::<Seat>::default(), Arc::default()]);
        seats.iter().for_each(|seat| hub.arrive(seat));
        hub.depart(&seats[1]);
        assert!(hub.is_watched() && !hub.is_closed());
        let (over, is_over) = tokio::sync::oneshot::channel::<()>();
        let dispatch = hub.dispatch(async { drop(is_over.await) });
        let waiting = async {
            assert!(futures::poll!(std::pin::pin!(seats[0].called())).is_pending());
            drop(over);
            seats[0].called().await;
        };
        tokio::join!(dispatch, waiting);
        assert!(hub.is_closed());
        assert_eq!(seats[0].take(), None, "nothing concerns who is woken for that");
        assert!(
            futures::poll!(std::pin::pin!(seats[1].called())).is_pending(),
            "who has departed is not woken"
        );
    }

    fn event(revision: Revision) -> Event {
        let kv = KeyValue { key: "key".into(), mod_revision: revision, ..KeyValue::default() };
        Event { kind: EventKind::Put, kv, prev: None, prev_at: Some((revision - 1, 0)) }
    }

    #[test]
    fn what_the_ring_holds_no_longer_is_told() {
        let (hub, most) = (Hub::new(1), RING_EVENTS as Revision);
        let left = |from, upto| {
            let left = hub.publish((from..=upto).map(event).collect(), upto);
            left.events().map(|event| event.kv.mod_revision).collect::<Vec<_>>()
        };
        assert_eq!(left(2, most + 1), Vec::<Revision>::new(), "there was room");
        assert_eq!(left(most + 2, most + 4), [2, 3, 4]);
    }
}

//! The watches of one client, served together.
//!
//! Watches of the same range are a group. Groups that are level share one cursor: what happened is read once, matched
//! against the ranges once, and handed out a group at a time. A watch that begins in the past, or a client that fell
//! behind the ring, is a cohort with a cursor of its own: it reads the ring or the history until it has caught up, then
//! it joins its group. So a client that is slow costs its cursors, and nobody waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mvcc::{KeyRange, MvccError, Revision};

use super::hub::{Seat, SharedEvent};
use super::index::RangeIndex;
use super::{WatchError, WatchRequest};
use crate::state::{Shared, fill_prev};

/// Bytes of events that are handed out at a time, but for a revision that has more.
const BATCH_BYTES: usize = 128 << 10;
/// Bytes of history read at a time for watches that are behind the ring.
const HISTORY_BYTES: usize = 1 << 20;

/// A watch that is handed events.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// As it was added.
    pub id: i64,
    /// Events before this revision are not for it.
    from: Revision,
}

impl Member {
    /// Those of some events, in their order, that are for this watch.
    pub fn wanted<'a>(&self, events: &'a [Arc<SharedEvent>]) -> &'a [Arc<SharedEvent>] {
        &events[events.partition_point(|event| event.kv.mod_revision < self.from)..]
    }
}

/// Events of a range for all who watch it, in the order of their revisions; those of one revision are never split.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Who is to have them.
    pub members: &'a [Member],
    /// The events.
    pub events: &'a [Arc<SharedEvent>],
    /// Everything up to this revision was delivered with it.
    pub revision: Revision,
}

/// Watches that ended.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub ids: Vec<i64>,
    /// Why.
    pub error: WatchError,
}

struct Group {
    range: KeyRange,
    members: Vec<Member>,
    /// Watches of it that have not caught up yet.
    behind: usize,
    /// What is to be handed out.
    events: Vec<Arc<SharedEvent>>,
}

/// Watches with a cursor of their own.
struct Cohort {
    group: usize,
    next: Revision,
    /// With their serial numbers: some may have been removed, and an id may be another watch's by now.
    members: Vec<(i64, u64)>,
    /// Set when they began before the compaction; one that merely fell behind it is served from the ring.
    compacted: Option<Revision>,
}

struct Place {
    group: usize,
    /// In the group; none while it is in a cohort.
    at: Option<usize>,
    serial: u64,
}

/// Watches by ids that their owner chooses. Dropping it ends them.
pub struct WatchSet {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    watches: HashMap<i64, Place>,
    groups: Vec<Option<Group>>,
    free: Vec<usize>,
    by_range: HashMap<KeyRange, usize>,
    index: RangeIndex<usize>,
    behind: VecDeque<Cohort>,
    serials: u64,
    /// Groups have had everything before this revision.
    next: Revision,
    /// Groups have had everything that they were not called for since.
    level: bool,
}

impl WatchSet {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let seat = Arc::default();
        shared.hub.arrive(&seat);
        let next = shared.hub.head() + 1;
        Self {
            shared,
            seat,
            watches: HashMap::new(),
            groups: Vec::new(),
            free: Vec::new(),
            by_range: HashMap::new(),
            index: RangeIndex::default(),
            behind: VecDeque::new(),
            serials: 0,
            next,
            level: true,
        }
    }

    /// Adds a watch, in the place of one with the same id; the first revision that it will be told of.
    pub fn add(&mut self, id: i64, request: WatchRequest) -> Revision {
        self.remove(id);
        // First the range, then the head: whatever comes behind the head calls this seat.
        let group = self.group(request.range);
        let head = self.shared.hub.head();
        let next = if request.start_revision > 0 { request.start_revision } else { head + 1 };
        self.serials += 1;
        self.watches.insert(id, Place { group, at: None, serial: self.serials });
        if next > head {
            self.join(group, &[(id, self.serials)], next);
        } else {
            self.follow(group, next, id);
        }
        next
    }

    fn group(&mut self, range: KeyRange) -> usize {
        if let Some(&group) = self.by_range.get(&range) {
            return group;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        let range = self.shared.hub.enter(range, &self.seat);
        self.by_range.insert(range.clone(), place);
        self.index.insert(range.clone(), place);
        self.groups[place] = Some(Group { range, members: Vec::new(), behind: 0, events: Vec::new() });
        place
    }

    /// Puts a watch into a cohort; those that begin alike are served together.
    fn follow(&mut self, group: usize, next: Revision, id: i64) {
        let compact_revision = self.shared.view.load().compact_revision();
        let compacted = (next < compact_revision).then_some(compact_revision);
        self.group_mut(group).behind += 1;
        let member = (id, self.serials);
        match self.behind.back_mut() {
            Some(last) if (last.group, last.next, last.compacted) == (group, next, compacted) => {
                last.members.push(member);
            }
            _ => self.behind.push_back(Cohort { group, next, members: vec![member], compacted }),
        }
    }

    fn group_mut(&mut self, group: usize) -> &mut Group {
        self.groups[group].as_mut().expect("invariant: a group lives while a watch is of it")
    }

    /// Ends a watch; whether there was one.
    pub fn remove(&mut self, id: i64) -> bool {
        let Some(Place { group: number, at, .. }) = self.watches.remove(&id) else { return false };
        let group = self.group_mut(number);
        match at {
            Some(at) => {
                group.members.swap_remove(at);
                if let Some(moved) = group.members.get(at).map(|moved| moved.id)
                    && let Some(place) = self.watches.get_mut(&moved)
                {
                    place.at = Some(at);
                }
            }
            None => group.behind -= 1,
        }
        self.leave(number);
        true
    }

    /// Forgets a group that has no watches.
    fn leave(&mut self, number: usize) {
        let group = self.group_mut(number);
        if !group.members.is_empty() || group.behind > 0 {
            return;
        }
        if let Some(group) = self.groups[number].take() {
            self.by_range.remove(&group.range);
            self.index.remove(&group.range, &number);
            self.shared.hub.leave(std::iter::once(&group.range), &self.seat);
            self.free.push(number);
        }
    }

    fn join(&mut self, group: usize, members: &[(i64, u64)], from: Revision) {
        for (id, _) in members {
            let group = self.group_mut(group);
            group.members.push(Member { id: *id, from });
            let at = group.members.len() - 1;
            if let Some(place) = self.watches.get_mut(id) {
                place.at = Some(at);
            }
        }
    }

    /// Everything up to this revision was delivered to those who are level.
    fn delivered_level(&self) -> Revision {
        if !self.level {
            return self.next - 1;
        }
        // In this order: who is called for an event is called before it counts as dispatched.
        let dispatched = self.shared.hub.dispatched();
        let calm = self.seat.peek().map_or(dispatched, |revision| revision - 1);
        calm.max(self.next - 1)
    }

    /// Everything up to this revision was delivered to all.
    pub fn progress(&self) -> Revision {
        let behind = self.behind.iter().map(|cohort| cohort.next - 1).min();
        behind.map_or(self.delivered_level(), |behind| behind.min(self.delivered_level()))
    }

    /// Everything up to this revision was delivered to one.
    pub fn delivered(&self, id: i64) -> Revision {
        if self.behind.is_empty() {
            return self.delivered_level();
        }
        let alone = self.watches.get(&id).is_some_and(|place| place.at.is_none());
        let holds = |cohort: &&Cohort| alone && cohort.members.iter().any(|member| member.0 == id);
        self.behind.iter().find(holds).map_or(self.delivered_level(), |cohort| cohort.next - 1)
    }

    /// Looks anew at [`Self::poll`], called or not: then [`Self::progress`] is up to what was shown when it was asked.
    pub fn refresh(&mut self) {
        self.next = self.delivered_level() + 1;
        self.level = false;
    }

    /// Everything up to this revision was shown to watchers of this member.
    pub fn head(&self) -> Revision {
        self.shared.hub.head()
    }

    /// Hands out some of what there is, without waiting; whether there may be more.
    ///
    /// # Errors
    /// Some watches have ended; the others go on.
    pub fn poll(&mut self, mut deliver: impl FnMut(Delivery<'_>)) -> Result<bool, Ended> {
        if let Some(revision) = self.seat.take() {
            if self.level {
                self.next = self.next.max(revision);
            }
            self.level = false;
        }
        if self.shared.fence.wrong().is_some() {
            // What is in the ring may be wrong; whoever waits is told that it is over.
            return Ok(false);
        }
        if !self.level {
            self.read_level(&mut deliver);
        }
        if let Some(cohort) = self.behind.pop_front() {
            self.read_behind(cohort, &mut deliver)?;
        }
        Ok(self.has_more())
    }

    fn has_more(&self) -> bool {
        !self.level || !self.behind.is_empty()
    }

    fn read_level(&mut self, deliver: &mut impl FnMut(Delivery<'_>)) {
        let head = self.shared.hub.head();
        let Some(found) = self.shared.hub.read(self.next, head, BATCH_BYTES) else {
            return self.fall_behind(head);
        };
        let mut touched = Vec::new();
        for event in found.slots.iter().flat_map(|slot| &slot.events) {
            let Ok(event) = event.filled(&self.shared.view) else {
                // Each group is told for itself.
                touched.iter().for_each(|&number| self.group_mut(number).events.clear());
                return self.fall_behind(head);
            };
            self.index.find(&event.kv.key, |&number| {
                if let Some(group) = &mut self.groups[number] {
                    if group.events.is_empty() {
                        touched.push(number);
                    }
                    group.events.push(event.clone());
                }
            });
        }
        for number in touched {
            let group = self.group_mut(number);
            let events = std::mem::take(&mut group.events);
            if !group.members.is_empty() {
                deliver(Delivery { members: &group.members, events: &events, revision: found.upto });
            }
        }
        self.next = self.next.max(found.upto + 1);
        self.level = found.upto >= head;
    }

    /// The ring does not reach back any more: every group catches up for itself.
    fn fall_behind(&mut self, head: Revision) {
        let next = self.next;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group.as_mut().filter(|group| !group.members.is_empty()) else { continue };
            // Those that begin later wait on.
            let (later, members): (Vec<_>, Vec<_>) =
                std::mem::take(&mut group.members).into_iter().partition(|member| member.from > head);
            for (at, member) in later.iter().enumerate() {
                if let Some(place) = self.watches.get_mut(&member.id) {
                    place.at = Some(at);
                }
            }
            group.members = later;
            group.behind += members.len();
            let mut cohorts: HashMap<Revision, Vec<(i64, u64)>> = HashMap::new();
            for member in members {
                if let Some(place) = self.watches.get_mut(&member.id) {
                    place.at = None;
                    cohorts.entry(member.from.max(next)).or_default().push((member.id, place.serial));
                }
            }
            self.behind.extend(cohorts.into_iter().map(|(next, members)| Cohort {
                group: number,
                next,
                members,
                compacted: None,
            }));
        }
        self.next = head + 1;
        self.level = true;
    }

    fn read_behind(
        &mut self,
        mut cohort: Cohort,
        deliver: &mut impl FnMut(Delivery<'_>),
    ) -> Result<(), Ended> {
        let watches = &self.watches;
        let lives = |(id, serial): &(i64, u64)| watches.get(id).is_some_and(|place| place.serial == *serial);
        cohort.members.retain(lives);
        if cohort.members.is_empty() {
            return Ok(());
        }
        let read = match cohort.compacted {
            Some(compact_revision) => Err(WatchError::Compacted { compact_revision }),
            None => self.events(cohort.group, cohort.next),
        };
        let (events, upto) = read.map_err(|error| {
            let ids: Vec<i64> = cohort.members.iter().map(|member| member.0).collect();
            for &id in &ids {
                self.remove(id);
            }
            Ended { ids, error }
        })?;
        if !events.is_empty() {
            let members: Vec<_> =
                cohort.members.iter().map(|member| Member { id: member.0, from: cohort.next }).collect();
            deliver(Delivery { members: &members, events: &events, revision: upto });
        }
        cohort.next = cohort.next.max(upto + 1);
        // Then whatever comes behind is still to be read by the groups, or calls.
        if cohort.next >= self.next {
            self.group_mut(cohort.group).behind -= cohort.members.len();
            self.join(cohort.group, &cohort.members, cohort.next);
        } else {
            self.behind.push_back(cohort);
        }
        Ok(())
    }

    /// Events of a group from a revision on, and the revision up to which they are complete.
    fn events(&self, group: usize, from: Revision) -> Result<(Vec<Arc<SharedEvent>>, Revision), WatchError> {
        let Some(Group { range, .. }) = &self.groups[group] else { return Ok((Vec::new(), from - 1)) };
        let head = self.shared.hub.head();
        if let Some(found) = self.shared.hub.read(from, head, BATCH_BYTES) {
            let events = found.slots.iter().flat_map(|slot| &slot.events);
            let wanted = events.filter(|event| range.contains(&event.kv.key));
            let filled = wanted.map(|event| event.filled(&self.shared.view));
            return Ok((filled.collect::<Result<_, _>>()?, found.upto));
        }
        let view = self.shared.view.load();
        let mut batch = view.events(range, from, HISTORY_BYTES).map_err(|error| match error {
            MvccError::Compacted { compact_revision } => WatchError::Compacted { compact_revision },
            other => WatchError::Engine(other.to_string()),
        })?;
        let filled = batch.events.iter_mut().try_for_each(|event| fill_prev(&view, event));
        filled.map_err(|error| WatchError::Engine(error.to_string()))?;
        Ok((batch.events.into_iter().map(SharedEvent::new).collect(), batch.next_revision - 1))
    }

    /// Returns when there may be something for [`Self::poll`].
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn changed(&self) -> Result<(), WatchError> {
        let is_fenced = || self.shared.fence.wrong().is_some();
        if !is_fenced() && self.has_more() {
            return Ok(());
        }
        let is_over = || self.shared.hub.is_closed() || is_fenced();
        if !is_over() {
            self.seat.called().await;
        }
        if is_over() { Err(WatchError::Stopped) } else { Ok(()) }
    }
}

impl Drop for WatchSet {
    fn drop(&mut self) {
        self.shared.hub.leave(self.by_range.keys(), &self.seat);
        self.shared.hub.depart(&self.seat);
    }
}

//! Who may run, and who next: seats of priority levels, and fair queues for those who wait. Pure: time comes in.
//!
//! A request takes seats of its level. While there are none it waits in one of a few queues that its flow is dealt
//! (shuffle sharding: two flows rarely share all of theirs), the emptiest. Queues are served by *fair queuing for server
//! requests*: each has a place in virtual time, which runs at the rate at which the level serves its busy queues; a
//! request that is served moves its queue on by what it is thought to cost, and by what it cost when it is done. The
//! queue whose next request would be finished first is served next.
//!
//! A level lends the seats that it does not need itself (up to its lendable part), and takes them back by not lending
//! again: nobody is interrupted. So while seats are lent there may be more requests than seats for a moment.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Seconds that a request is thought to take until it is done (upstream's `estimatedServiceDuration`).
const GUESS: f64 = 0.003;

/// Tells a request from all others.
pub(super) type Ticket = u64;

/// The queues of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub queues: usize,
    /// Queues that a flow is dealt.
    pub hand: usize,
    /// Requests that wait in one queue, at most.
    pub length: usize,
}

/// What a level has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Its own seats.
    pub nominal: u32,
    /// Those of its own that others may use while it does not.
    pub lendable: u32,
    /// Its own and borrowed seats, at most.
    pub most: u32,
    /// None: nobody waits.
    pub queuing: Option<Queuing>,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Runs(Ticket),
    Waits(Ticket),
    Refused,
}

#[derive(Clone, Debug)]
struct Waiting {
    ticket: Ticket,
    seats: u32,
    /// Virtual time of arrival.
    arrived: f64,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_seats: u32,
    running: u32,
    /// Where in virtual time its next request begins.
    next: f64,
}

impl Queue {
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.running > 0
    }

    /// A queue cannot have been served before its oldest request was there.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next = self.next.max(oldest.arrived);
        }
    }
}

#[derive(Clone, Debug)]
struct Level {
    share: Share,
    queues: Vec<Queue>,
    in_use: u32,
    waiting: u32,
    waiting_seats: u32,
    busy: u32,
    /// Virtual time, in seats times seconds a queue.
    progress: f64,
    since: Duration,
    turn: usize,
    /// No longer configured; goes when the last request is done.
    leaving: bool,
}

#[derive(Clone, Debug)]
struct Running {
    level: Arc<str>,
    queue: usize,
    seats: u32,
    since: Duration,
}

/// The seats of all levels.
#[derive(Default)]
pub(super) struct Seats {
    levels: BTreeMap<Arc<str>, Level>,
    running: HashMap<Ticket, Running>,
    /// Level and queue of those who wait.
    places: HashMap<Ticket, (Arc<str>, usize)>,
    last: Ticket,
    /// Who may run since someone arrived, besides that one.
    others: Vec<Ticket>,
}

impl Level {
    fn new(share: Share, now: Duration) -> Self {
        let mut level = Self {
            share: Share { queuing: None, ..share },
            queues: vec![Queue::default()],
            in_use: 0,
            waiting: 0,
            waiting_seats: 0,
            busy: 0,
            progress: 0.0,
            since: now,
            turn: 0,
            leaving: false,
        };
        level.resize(share.queuing);
        level
    }

    /// Moves everyone into another number of queues.
    fn resize(&mut self, queuing: Option<Queuing>) {
        self.share.queuing = queuing;
        let count = queuing.map_or(1, |queuing| queuing.queues).max(1);
        if count == self.queues.len() {
            return;
        }
        let mut queues = vec![Queue { next: self.progress, ..Queue::default() }; count];
        for (index, old) in std::mem::take(&mut self.queues).into_iter().enumerate() {
            let queue = &mut queues[index % count];
            queue.running += old.running;
            queue.waiting_seats += old.waiting_seats;
            queue.waiting.extend(old.waiting);
        }
        self.queues = queues;
        self.busy =
            u32::try_from(self.queues.iter().filter(|queue| queue.is_busy()).count()).unwrap_or(u32::MAX);
    }

    fn demand(&self) -> u32 {
        self.in_use.saturating_add(self.waiting_seats)
    }

    /// Brings virtual time up to now: what happened meanwhile happened under the state as it is.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.since = self.since.max(now);
        if self.busy > 0 {
            let served = f64::from(self.demand().min(self.share.nominal.max(self.in_use)));
            self.progress += passed * served / f64::from(self.busy);
        }
    }

    /// The emptiest of the queues that a flow is dealt.
    fn choose(&mut self, flow: u64) -> usize {
        let Some(queuing) = self.share.queuing else { return 0 };
        let hand = deal(flow, self.queues.len(), queuing.hand);
        self.turn = self.turn.wrapping_add(1);
        let from = self.turn % hand.len().max(1);
        let order = (0..hand.len()).map(|index| hand[(from + index) % hand.len()]);
        order.min_by_key(|queue| self.queues[*queue].waiting_seats).unwrap_or(0)
    }

    fn enter(&mut self, queue: usize) {
        let (progress, queue) = (self.progress, &mut self.queues[queue]);
        if !queue.is_busy() {
            queue.next = progress;
            self.busy += 1;
        }
    }

    fn start(&mut self, queue: usize, seats: u32) {
        self.in_use += seats;
        let queue = &mut self.queues[queue];
        queue.running += 1;
        queue.next += GUESS * f64::from(seats);
        queue.bound();
    }

    /// The queue whose oldest request would be finished first.
    fn first(&self) -> Option<(usize, u32)> {
        let each = self.queues.iter().enumerate();
        let waiting = each.filter_map(|(index, queue)| {
            let oldest = queue.waiting.front()?;
            Some((index, oldest.seats, queue.next + GUESS * f64::from(oldest.seats)))
        });
        waiting.min_by(|one, other| one.2.total_cmp(&other.2)).map(|(index, seats, _)| (index, seats))
    }

    fn take(&mut self, queue: usize, position: usize) -> Option<Waiting> {
        let waiting = self.queues[queue].waiting.remove(position)?;
        self.queues[queue].waiting_seats -= waiting.seats;
        self.waiting -= 1;
        self.waiting_seats -= waiting.seats;
        Some(waiting)
    }

    fn settle(&mut self, queue: usize) {
        self.queues[queue].bound();
        if !self.queues[queue].is_busy() {
            self.busy -= 1;
        }
    }
}

/// A hand of different queues for a flow: always the same, and for two flows rarely the same.
fn deal(flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut rest = flow;
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    let mut drawn: Vec<usize> = Vec::with_capacity(hand);
    for index in 0..hand.min(queues) {
        let left = (queues - index) as u64;
        drawn.push(usize::try_from(rest % left).unwrap_or(0));
        rest /= left;
        let mut card = drawn[index];
        for before in drawn[..index].iter().rev() {
            card += usize::from(card >= *before);
        }
        dealt.push(card);
    }
    dealt
}

impl Seats {
    /// Takes new shares over; who may run by them.
    pub fn configure(&mut self, shares: &BTreeMap<Arc<str>, Share>, now: Duration) -> Vec<Ticket> {
        for (name, share) in shares {
            let level = self.levels.entry(name.clone()).or_insert_with(|| Level::new(share.clone(), now));
            level.advance(now);
            level.leaving = false;
            level.resize(share.queuing);
            level.share = share.clone();
            let count = level.queues.len();
            self.running.values_mut().filter(|running| running.level == *name).for_each(|running| {
                running.queue %= count;
            });
            for (index, queue) in level.queues.iter().enumerate() {
                for waiting in &queue.waiting {
                    self.places.insert(waiting.ticket, (name.clone(), index));
                }
            }
        }
        for (name, level) in &mut self.levels {
            level.leaving |= !shares.contains_key(name);
        }
        self.levels.retain(|_, level| !level.leaving || level.demand() > 0);
        self.dispatch(now)
    }

    /// A request comes. `flow`: the same for all requests of a flow.
    pub fn arrive(&mut self, name: &Arc<str>, flow: u64, seats: u32, now: Duration) -> Arrival {
        let free = self.has_room(name, seats);
        let Some(level) = self.levels.get_mut(name) else { return Arrival::Refused };
        level.advance(now);
        let queue = level.choose(flow);
        let runs = free && level.waiting == 0;
        let full = match level.share.queuing {
            None => true,
            Some(queuing) => level.queues[queue].waiting.len() >= queuing.length,
        };
        if !runs && full {
            return Arrival::Refused;
        }
        self.last += 1;
        level.enter(queue);
        if runs {
            level.start(queue, seats);
            self.running.insert(self.last, Running { level: name.clone(), queue, seats, since: now });
            return Arrival::Runs(self.last);
        }
        let arrived = level.progress;
        level.queues[queue].waiting.push_back(Waiting { ticket: self.last, seats, arrived });
        level.queues[queue].waiting_seats += seats;
        level.waiting += 1;
        level.waiting_seats += seats;
        self.places.insert(self.last, (name.clone(), queue));
        let ticket = self.last;
        let mut started = self.dispatch(now);
        let count = started.len();
        started.retain(|other| *other != ticket);
        let runs = started.len() < count;
        self.others.extend(started);
        if runs { Arrival::Runs(ticket) } else { Arrival::Waits(ticket) }
    }

    /// Who may run since someone arrived, besides that one.
    pub fn take_others(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.others)
    }

    /// A request is done, or waits no longer; who may run by that.
    pub fn leave(&mut self, ticket: Ticket, now: Duration) -> Vec<Ticket> {
        if let Some(done) = self.running.remove(&ticket) {
            if let Some(level) = self.levels.get_mut(&done.level) {
                level.advance(now);
                level.in_use -= done.seats;
                let index = done.queue;
                let took = now.saturating_sub(done.since).as_secs_f64();
                let queue = &mut level.queues[index];
                queue.running -= 1;
                queue.next += (took - GUESS) * f64::from(done.seats);
                level.settle(index);
            }
        } else if let Some((name, queue)) = self.places.remove(&ticket)
            && let Some(level) = self.levels.get_mut(&name)
        {
            level.advance(now);
            let position = level.queues[queue].waiting.iter().position(|waiting| waiting.ticket == ticket);
            if position.and_then(|position| level.take(queue, position)).is_some() {
                level.settle(queue);
            }
        }
        self.levels.retain(|_, level| !level.leaving || level.demand() > 0);
        self.dispatch(now)
    }

    /// Whether a level may use so many more seats: of its own, or lent by others.
    fn has_room(&self, name: &str, seats: u32) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        let after = level.in_use.saturating_add(seats);
        // A request that takes more than there are runs alone.
        if after <= level.share.nominal || level.in_use == 0 {
            return true;
        }
        if after > level.share.most {
            return false;
        }
        let lent: u32 =
            self.levels.values().map(|level| level.in_use.saturating_sub(level.share.nominal)).sum();
        let others = self.levels.iter().filter(|(other, _)| ***other != *name).map(|(_, level)| level);
        let spare: u32 = others
            .map(|level| {
                let kept = level.share.nominal.saturating_sub(level.share.lendable);
                level.share.nominal.saturating_sub(kept.max(level.demand()))
            })
            .sum();
        let borrows = after - level.share.nominal.max(level.in_use);
        lent.saturating_add(borrows) <= spare
    }

    /// Starts whoever may run: levels that use the least of their own first.
    fn dispatch(&mut self, now: Duration) -> Vec<Ticket> {
        let mut started = Vec::new();
        loop {
            let ready =
                self.levels.iter().filter(|(_, level)| level.waiting > 0).filter_map(|(name, level)| {
                    let (queue, seats) = level.first()?;
                    let used = f64::from(level.in_use) / f64::from(level.share.nominal.max(1));
                    self.has_room(name, seats).then(|| (name.clone(), queue, used))
                });
            let next = ready.min_by(|one, other| one.2.total_cmp(&other.2));
            let Some((name, queue, _)) = next else { return started };
            let Some(level) = self.levels.get_mut(&name) else { return started };
            level.advance(now);
            let Some(waiting) = level.take(queue, 0) else { return started };
            level.start(queue, waiting.seats);
            self.places.remove(&waiting.ticket);
            let running = Running { level: name, queue, seats: waiting.seats, since: now };
            self.running.insert(waiting.ticket, running);
            started.push(waiting.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand: 2, length: 3 };

    fn share(nominal: u32, lendable: u32, queuing: Option<Queuing>) -> Share {
        Share { nominal, lendable, most: 1000, queuing }
    }

    fn seats(shares: &[(&str, Share)]) -> Seats {
        let mut seats = Seats::default();
        let shares = shares.iter().map(|(name, share)| ((*name).into(), share.clone())).collect();
        assert!(seats.configure(&shares, Duration::ZERO).is_empty());
        seats
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Tickets of those who run at once.
    fn fill(seats: &mut Seats, level: &str, flow: u64, count: usize) -> Vec<Ticket> {
        let arrivals = (0..count).map(|_| seats.arrive(&level.into(), flow, 1, at(0)));
        let runs = arrivals.map(|arrival| match arrival {
            Arrival::Runs(ticket) => ticket,
            other => panic!("{other:?}"),
        });
        runs.collect()
    }

    #[test]
    fn a_level_without_queues_refuses_at_once() {
        let mut seats = seats(&[("a", share(2, 0, None))]);
        let running = fill(&mut seats, "a", 1, 2);
        assert_eq!(seats.arrive(&"a".into(), 1, 1, at(0)), Arrival::Refused);
        assert!(seats.leave(running[0], at(5)).is_empty());
        assert!(matches!(seats.arrive(&"a".into(), 1, 1, at(5)), Arrival::Runs(_)));
    }

    #[test]
    fn who_waits_runs_in_order_and_a_full_hand_refuses() {
        let mut seats = seats(&[("a", share(1, 0, Some(QUEUING)))]);
        let first = fill(&mut seats, "a", 7, 1)[0];
        let mut waiting = Vec::new();
        for _ in 0..QUEUING.hand * QUEUING.length {
            match seats.arrive(&"a".into(), 7, 1, at(1)) {
                Arrival::Waits(ticket) => waiting.push(ticket),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seats.arrive(&"a".into(), 7, 1, at(1)), Arrival::Refused);
        let (mut running, mut order) = (first, Vec::new());
        while let [next] = seats.leave(running, at(10))[..] {
            order.push(next);
            running = next;
        }
        order.sort_unstable();
        assert_eq!(order, waiting, "everyone ran once");
        assert!(seats.running.is_empty() && seats.places.is_empty());
    }

    #[test]
    fn a_small_flow_does_not_wait_for_a_large_one() {
        let wide = Queuing { queues: 64, hand: 4, length: 50 };
        let mut seats = seats(&[("a", share(1, 0, Some(wide)))]);
        let first = fill(&mut seats, "a", 1, 1)[0];
        for _ in 0..100 {
            assert!(matches!(seats.arrive(&"a".into(), 1, 1, at(0)), Arrival::Waits(_)));
        }
        let Arrival::Waits(small) = seats.arrive(&"a".into(), 987_654_321, 1, at(1)) else {
            panic!("no room")
        };
        let (mut running, mut before) = (first, 0);
        for step in 1.. {
            let [next] = seats.leave(running, at(1 + 10 * step))[..] else { panic!("nobody") };
            running = next;
            if next == small {
                break;
            }
            before += 1;
        }
        assert!(before <= 8, "{before} of the large flow came before");
    }

    #[test]
    fn slow_requests_cost_their_flow_its_turns() {
        let two = Queuing { queues: 2, hand: 1, length: 100 };
        let mut seats = seats(&[("a", share(1, 0, Some(two)))]);
        let (slow, quick) = (0, 1);
        assert_ne!(deal(slow, 2, 1), deal(quick, 2, 1));
        let mut of = HashMap::new();
        let mut running = fill(&mut seats, "a", slow, 1)[0];
        of.insert(running, slow);
        for _ in 0..50 {
            for flow in [slow, quick] {
                let Arrival::Waits(ticket) = seats.arrive(&"a".into(), flow, 1, at(0)) else {
                    panic!("no room")
                };
                of.insert(ticket, flow);
            }
        }
        let (mut now, mut turns) = (0, [0, 0]);
        while now < 1000 {
            let flow = of[&running];
            now += if flow == slow { 90 } else { 10 };
            turns[usize::try_from(flow).unwrap()] += 1;
            let [next] = seats.leave(running, at(now))[..] else { break };
            running = next;
        }
        assert!(turns[1] >= 5 * turns[0], "slow and quick ran {turns:?} times in the same time each");
    }

    #[test]
    fn seats_that_are_not_needed_are_lent_and_taken_back() {
        let mut seats = seats(&[("a", share(2, 0, Some(QUEUING))), ("b", share(4, 3, Some(QUEUING)))]);
        let borrowed = fill(&mut seats, "a", 1, 5);
        assert!(matches!(seats.arrive(&"a".into(), 1, 1, at(0)), Arrival::Waits(_)), "one seat is kept");
        // The lender has all of its own all the same.
        fill(&mut seats, "b", 1, 4);
        assert!(seats.leave(borrowed[0], at(1)).is_empty(), "nothing is lent any more");
        assert!(seats.leave(borrowed[1], at(1)).is_empty());
        assert!(seats.leave(borrowed[2], at(1)).is_empty());
        assert_eq!(seats.leave(borrowed[3], at(1)).len(), 1, "its own seats are its own");
    }

    #[test]
    fn wide_requests_take_their_seats_and_an_immense_one_runs_alone() {
        let one = Queuing { queues: 1, hand: 1, length: 9 };
        let mut seats = seats(&[("a", share(4, 0, Some(one)))]);
        let Arrival::Runs(wide) = seats.arrive(&"a".into(), 1, 3, at(0)) else { panic!("no room") };
        let Arrival::Waits(immense) = seats.arrive(&"a".into(), 1, 9, at(0)) else { panic!("room") };
        assert!(matches!(seats.arrive(&"a".into(), 1, 1, at(0)), Arrival::Waits(_)), "nobody overtakes");
        assert_eq!(seats.leave(wide, at(1)), [immense]);
        assert_eq!(seats.leave(immense, at(2)).len(), 1);
    }

    #[test]
    fn who_gives_up_leaves_the_queue() {
        let mut seats = seats(&[("a", share(1, 0, Some(QUEUING)))]);
        let first = fill(&mut seats, "a", 1, 1)[0];
        let Arrival::Waits(second) = seats.arrive(&"a".into(), 1, 1, at(0)) else { panic!("room") };
        assert!(seats.leave(second, at(1)).is_empty());
        assert!(seats.leave(first, at(2)).is_empty());
        assert_eq!(seats.levels["a"].busy, 0);
    }

    #[test]
    fn new_shares_let_more_run_and_keep_those_who_wait() {
        let mut seats = seats(&[("a", share(1, 0, Some(QUEUING)))]);
        let first = fill(&mut seats, "a", 1, 1)[0];
        for _ in 0..4 {
            assert!(matches!(seats.arrive(&"a".into(), 1, 1, at(0)), Arrival::Waits(_)));
        }
        let fewer = Queuing { queues: 2, hand: 1, length: 3 };
        let shares = BTreeMap::from([("a".into(), share(3, 0, Some(fewer)))]);
        assert_eq!(seats.configure(&shares, at(1)).len(), 2);
        assert_eq!(seats.leave(first, at(2)).len(), 1);
        // A level that is gone serves whom it has.
        let running: Vec<Ticket> = seats.running.keys().copied().collect();
        seats.configure(&BTreeMap::new(), at(3));
        assert_eq!(seats.levels.len(), 1);
        let mut left: Vec<Ticket> = running;
        while let Some(ticket) = left.pop() {
            left.extend(seats.leave(ticket, at(4)));
        }
        assert!(seats.levels.is_empty() && seats.places.is_empty());
    }

    #[test]
    fn a_hand_is_of_different_queues() {
        for flow in [0, 1, 12_345, u64::MAX] {
            let mut hand = deal(flow, 10, 6);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|queue| *queue < 10));
        }
        assert_ne!(deal(1, 128, 6), deal(2, 128, 6));
    }
}

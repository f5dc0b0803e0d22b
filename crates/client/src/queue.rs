//! Keys of objects that need work.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use env::{Env, Shutdown};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::counters::QueueCounts;

/// First and longest pause after a failure (upstream's controllers': 5 ms doubling to 1,000 s; a shorter longest
/// pause heals sooner after an outage).
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A queue that holds each key once, hands it to one worker at a time, and gives failures time.
pub struct WorkQueue<K> {
    env: Env,
    state: Arc<Mutex<State<K>>>,
    changed: Arc<Notify>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { env: self.env.clone(), state: self.state.clone(), changed: self.changed.clone() }
    }
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys that came up again while they were worked on, with since when.
    dirty: HashMap<K, Instant>,
    /// Since when each is worked on.
    working: HashMap<K, Instant>,
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    number: u64,
    counts: QueueCounts,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new(env: Env) -> Self {
        Self::counted(env, QueueCounts::none())
    }

    /// An empty queue that is counted under a name.
    pub fn named(env: Env, name: &'static str) -> Self {
        Self::counted(env, QueueCounts::named(name))
    }

    fn counted(env: Env, counts: QueueCounts) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            working: HashMap::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            number: 0,
            counts,
        };
        Self { env, state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    /// Adds a key; one that waits already is not added again, one that is being worked on comes up again afterwards.
    pub fn add(&self, key: K) {
        let now = self.env.clock.monotonic();
        self.state.lock().add(key, now);
        self.changed.notify_one();
    }

    /// Adds a key later. Of several times the earliest counts.
    pub fn add_after(&self, key: K, pause: Duration) {
        let at = self.env.clock.monotonic() + pause;
        self.state.lock().add_at(key, at);
        self.changed.notify_one();
    }

    /// Adds a key after a pause that doubles with every failure.
    pub fn add_failed(&self, key: K) {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            let failures = *failures;
            state.counts.retried();
            failures
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(20)).min(LONGEST_PAUSE);
        self.add_after(key, self.env.rng.jittered(pause, 0.1));
    }

    /// Forgets a key's failures.
    pub fn succeeded(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// The next key; waits until there is one. `None` at shutdown. [`Self::done`] must follow.
    pub async fn next(&self, shutdown: &Shutdown) -> Option<K> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.state.lock();
                let now = self.env.clock.monotonic();
                state.promote(now);
                if let Some(key) = state.take(now) {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                state.later.first_key_value().map(|((at, _), _)| *at)
            };
            let wait = async {
                match due {
                    Some(at) => self.env.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = wait => {}
                () = shutdown.wait() => return None,
            }
        }
    }

    /// A worker has finished with a key.
    pub fn done(&self, key: &K) {
        let now = self.env.clock.monotonic();
        let again = self.state.lock().done(key, now);
        if again {
            self.changed.notify_one();
        }
    }

    /// Keys that could be worked on now.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether no key could be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Shows how long is worked on what is worked on. Few keys are at a time: one a worker.
    fn show_work(&self, now: Instant) {
        self.counts.working(self.working.values().map(|since| now.saturating_duration_since(*since)));
    }

    fn add(&mut self, key: K, now: Instant) {
        self.show_work(now);
        if self.dirty.contains_key(&key) {
            return;
        }
        self.counts.added();
        self.dirty.insert(key.clone(), now);
        if !self.working.contains_key(&key) {
            self.ready.push_back(key);
            self.counts.deep(self.ready.len());
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(&(earlier, _)) if earlier <= at => return,
            Some(&place) => drop(self.later.remove(&place)),
            None => {}
        }
        self.number += 1;
        self.due.insert(key.clone(), (at, self.number));
        self.later.insert((at, self.number), key);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key, now);
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.counts.deep(self.ready.len());
        if let Some(since) = self.dirty.remove(&key) {
            self.counts.taken(now.saturating_duration_since(since));
        }
        self.working.insert(key.clone(), now);
        self.show_work(now);
        Some(key)
    }

    fn done(&mut self, key: &K, now: Instant) -> bool {
        if let Some(since) = self.working.remove(key) {
            self.counts.done(now.saturating_duration_since(since));
        }
        self.show_work(now);
        let again = self.dirty.contains_key(key);
        if again {
            self.ready.push_back(key.clone());
            self.counts.deep(self.ready.len());
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(queue: &WorkQueue<&'static str>) -> &'static str {
        let shutdown = Shutdown::new();
        let next = queue.next(&shutdown);
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("in time").expect("a key")
    }

    #[tokio::test]
    async fn a_key_is_held_once_and_worked_on_by_one() {
        let queue = WorkQueue::new(Env::seeded(1));
        ["a", "b", "a"].into_iter().for_each(|key| queue.add(key));
        assert_eq!((next(&queue).await, next(&queue).await), ("a", "b"));
        queue.add("a");
        assert!(queue.is_empty(), "a is being worked on");
        queue.done(&"a");
        assert_eq!(next(&queue).await, "a");
    }

    #[tokio::test]
    async fn the_earliest_time_counts() {
        let queue = WorkQueue::new(Env::seeded(1));
        queue.add_after("a", Duration::from_secs(3600));
        queue.add_after("a", Duration::from_millis(1));
        queue.add_after("a", Duration::from_secs(3600));
        assert_eq!(next(&queue).await, "a");
        queue.done(&"a");
        assert!(queue.state.lock().later.is_empty());
    }

    #[tokio::test]
    async fn failures_get_longer_pauses_until_success() {
        let queue = WorkQueue::new(Env::seeded(1));
        let pause = |queue: &WorkQueue<&'static str>| {
            queue.add_failed("a");
            let at = queue.state.lock().due["a"].0;
            let pause = at - queue.env.clock.monotonic();
            let mut state = queue.state.lock();
            state.later.clear();
            state.due.clear();
            pause
        };
        let pauses: Vec<_> = (0..3).map(|_| pause(&queue)).collect();
        assert!(pauses[2] > pauses[1] && pauses[1] > pauses[0], "{pauses:?}");
        queue.succeeded(&"a");
        assert!(pause(&queue) < pauses[2]);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_wait() {
        let queue: WorkQueue<&str> = WorkQueue::new(Env::seeded(1));
        let shutdown = Shutdown::new();
        shutdown.trigger();
        assert_eq!(queue.next(&shutdown).await, None);
    }
}

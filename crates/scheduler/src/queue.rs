//! Pods that wait: ready to be tried (*active*), tried too recently (*backoff*), or refused until something changes
//! (*unschedulable*, with the gated ones). Pure: time comes in with each call.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::plugins::{ClusterEvent, Plugin, gated_by};

/// First wait of a pod that failed (kube-scheduler's `podInitialBackoffSeconds`).
pub const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait (kube-scheduler's `podMaxBackoffSeconds`).
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this even if nothing seems to have changed
/// (upstream's `DefaultPodMaxInUnschedulablePodsDuration`).
pub const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// `namespace/name`.
pub type Key = String;

/// A pod that waits, and how often it was tried.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Failed tries so far.
    pub attempts: u32,
    /// When it was first seen; older pods of the same priority go first.
    pub since: Instant,
}

#[derive(Debug)]
enum Place {
    Active(Order),
    Backoff(Instant),
    Unschedulable {
        since: Instant,
        refused_by: Vec<usize>,
    },
    Gated,
    /// Handed out by [`Queue::pop`]; events of this kind arrived meanwhile.
    InFlight(BTreeSet<u8>),
}

/// Active pods by priority (highest first), then age, then name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    priority: i32,
    since: Instant,
    key: Key,
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |order: &Self| (Reverse(order.priority), order.since, order.key.clone());
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The three queues.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Key, (Waiting, Place)>,
    active: BTreeSet<Order>,
    backoff: BTreeMap<(Instant, Key), ()>,
    /// How many there are of those that are in no order.
    unschedulable: usize,
    gated: usize,
}

/// How many pods wait where, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready to be tried.
    pub active: usize,
    /// Tried too recently.
    pub backoff: usize,
    /// Refused until something changes.
    pub unschedulable: usize,
    /// Held by scheduling gates.
    pub gated: usize,
}

impl Queue {
    /// A pod appeared or changed. `changed` is whether something changed that may help it be placed.
    pub fn upsert(&mut self, key: Key, pod: Arc<Pod>, changed: bool, now: Instant) {
        let Some((mut waiting, place)) = self.take(&key) else {
            let waiting = Waiting { pod, attempts: 0, since: now };
            return self.enqueue(key, waiting, now);
        };
        waiting.pod = pod;
        match place {
            Place::InFlight(events) => {
                self.put(key, waiting, Place::InFlight(events));
            }
            Place::Unschedulable { since, refused_by } if !changed => {
                self.put(key, waiting, Place::Unschedulable { since, refused_by });
            }
            Place::Backoff(until) => self.wait_until(key, waiting, until),
            Place::Active(_) | Place::Gated | Place::Unschedulable { .. } => self.enqueue(key, waiting, now),
        }
    }

    /// The pod is gone or bound.
    pub fn remove(&mut self, key: &str) {
        self.take(key);
    }

    /// The next pod to try. It stays known as in flight until [`Queue::fail`], [`Queue::retry`] or [`Queue::remove`].
    pub fn pop(&mut self, now: Instant) -> Option<(Key, Waiting)> {
        self.flush(now);
        let order = self.active.pop_first()?;
        let (waiting, place) = self.pods.get_mut(&order.key).expect("an active pod is known");
        *place = Place::InFlight(BTreeSet::new());
        Some((order.key, waiting.clone()))
    }

    /// No node fits. The pod waits for an event that one of `refused_by` wakes on; if one came while it was being
    /// tried, it only backs off.
    pub fn fail(&mut self, key: &str, refused_by: Vec<usize>, plugins: &[Box<dyn Plugin>], now: Instant) {
        let Some((mut waiting, place)) = self.take(key) else { return };
        waiting.attempts += 1;
        let missed = match place {
            Place::InFlight(events) => events,
            _ => BTreeSet::new(),
        };
        let wakes = missed.iter().any(|&event| wakes(plugins, &refused_by, EVENTS[usize::from(event)]));
        if wakes {
            return self.back_off(key.to_owned(), waiting, now);
        }
        self.put(key.to_owned(), waiting, Place::Unschedulable { since: now, refused_by });
    }

    /// Something went wrong that has nothing to do with the nodes (the API refused the binding): try again later.
    pub fn retry(&mut self, key: &str, now: Instant) {
        let Some((mut waiting, _)) = self.take(key) else { return };
        waiting.attempts += 1;
        self.back_off(key.to_owned(), waiting, now);
    }

    /// Something changed in the cluster: pods that a plugin refused which cares are tried again.
    pub fn wake(&mut self, event: ClusterEvent, plugins: &[Box<dyn Plugin>], now: Instant) {
        let mut woken = Vec::new();
        for (key, (_, place)) in &mut self.pods {
            match place {
                Place::InFlight(events) => drop(events.insert(event_index(event))),
                Place::Unschedulable { refused_by, .. } if wakes(plugins, refused_by, event) => {
                    woken.push(key.clone())
                }
                _ => {}
            }
        }
        for key in woken {
            let (waiting, _) = self.take(&key).expect("just seen");
            self.back_off(key, waiting, now);
        }
    }

    /// When [`Queue::pop`] is worth calling again although nothing happened.
    pub fn next_wake(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((until, _), ())| *until);
        let stale = self.pods.values().filter_map(|(_, place)| match place {
            Place::Unschedulable { since, .. } => Some(*since + MAX_UNSCHEDULABLE),
            _ => None,
        });
        stale.chain(backoff).min()
    }

    /// How many pods wait where.
    pub fn depth(&self) -> Depth {
        Depth {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable,
            gated: self.gated,
        }
    }

    fn put(&mut self, key: Key, waiting: Waiting, place: Place) {
        match &place {
            Place::Unschedulable { .. } => self.unschedulable += 1,
            Place::Gated => self.gated += 1,
            _ => {}
        }
        self.pods.insert(key, (waiting, place));
    }

    fn take(&mut self, key: &str) -> Option<(Waiting, Place)> {
        let (waiting, place) = self.pods.remove(key)?;
        match &place {
            Place::Active(order) => drop(self.active.remove(order)),
            Place::Backoff(until) => drop(self.backoff.remove(&(*until, key.to_owned()))),
            Place::Unschedulable { .. } => self.unschedulable -= 1,
            Place::Gated => self.gated -= 1,
            Place::InFlight(_) => {}
        }
        Some((waiting, place))
    }

    fn enqueue(&mut self, key: Key, waiting: Waiting, now: Instant) {
        if !gated_by(&waiting.pod).is_empty() {
            self.put(key, waiting, Place::Gated);
        } else if waiting.attempts > 0 {
            self.back_off(key, waiting, now);
        } else {
            self.activate(key, waiting);
        }
    }

    fn activate(&mut self, key: Key, waiting: Waiting) {
        let priority = waiting.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        let order = Order { priority, since: waiting.since, key: key.clone() };
        self.active.insert(order.clone());
        self.put(key, waiting, Place::Active(order));
    }

    fn back_off(&mut self, key: Key, waiting: Waiting, now: Instant) {
        let doublings = waiting.attempts.saturating_sub(1).min(16);
        let wait = INITIAL_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        self.wait_until(key, waiting, now + wait);
    }

    fn wait_until(&mut self, key: Key, waiting: Waiting, until: Instant) {
        self.backoff.insert((until, key.clone()), ());
        self.put(key, waiting, Place::Backoff(until));
    }

    /// Moves what has waited long enough to the active queue.
    fn flush(&mut self, now: Instant) {
        while let Some(((until, key), ())) = self.backoff.first_key_value() {
            if *until > now {
                break;
            }
            let key = key.clone();
            let (waiting, _) = self.take(&key).expect("a pod in backoff is known");
            self.activate(key, waiting);
        }
        let stale = |place: &Place| matches!(place, Place::Unschedulable { since, .. } if *since + MAX_UNSCHEDULABLE <= now);
        let stale: Vec<Key> =
            self.pods.iter().filter(|(_, (_, place))| stale(place)).map(|(key, _)| key.clone()).collect();
        for key in stale {
            let (waiting, _) = self.take(&key).expect("just seen");
            self.activate(key, waiting);
        }
    }
}

const EVENTS: [ClusterEvent; 4] =
    [ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::PodRemoved, ClusterEvent::PodChanged];

fn event_index(event: ClusterEvent) -> u8 {
    EVENTS.iter().position(|known| *known == event).map_or(0, |index| u8::try_from(index).unwrap_or_default())
}

/// A pod that no plugin refused (there were no nodes) is woken by every event.
fn wakes(plugins: &[Box<dyn Plugin>], refused_by: &[usize], event: ClusterEvent) -> bool {
    refused_by.is_empty() || refused_by.iter().any(|&index| plugins[index].wakes_on().contains(&event))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::default_plugins;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let object = json!({"metadata": {"name": name}, "spec": {"containers": [], "priority": priority}});
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    fn gated(gates: &[&str]) -> Arc<Pod> {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let object = json!({"spec": {"containers": [], "schedulingGates": gates}});
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    struct World {
        queue: Queue,
        now: Instant,
        plugins: Vec<Box<dyn Plugin>>,
    }

    impl World {
        fn new() -> Self {
            let now = env::Clock::default().monotonic();
            Self { queue: Queue::default(), now, plugins: default_plugins() }
        }

        fn add(&mut self, name: &str, priority: i32) {
            self.queue.upsert(name.to_owned(), pod(name, priority), true, self.now);
        }

        fn pop(&mut self) -> Option<String> {
            self.queue.pop(self.now).map(|(key, _)| key)
        }

        fn fit(&self) -> usize {
            self.plugins.iter().position(|plugin| plugin.name() == "NodeResourcesFit").expect("a plugin")
        }

        fn name_plugin(&self) -> usize {
            self.plugins.iter().position(|plugin| plugin.name() == "NodeName").expect("a plugin")
        }
    }

    #[test]
    fn higher_priority_first_then_older() {
        let mut world = World::new();
        world.add("old", 0);
        world.now += Duration::from_millis(1);
        world.add("new", 0);
        world.add("urgent", 10);
        assert_eq!(
            [world.pop(), world.pop(), world.pop(), world.pop()].map(Option::unwrap_or_default),
            ["urgent", "old", "new", ""]
        );
    }

    #[test]
    fn a_refused_pod_wakes_only_on_what_may_help_and_backs_off() {
        let mut world = World::new();
        world.add("p", 0);
        world.pop().expect("popped");
        let by_name = world.name_plugin();
        world.queue.fail("p", vec![by_name], &world.plugins, world.now);
        world.queue.wake(ClusterEvent::PodRemoved, &world.plugins, world.now);
        assert_eq!(world.queue.depth().unschedulable, 1);
        world.queue.wake(ClusterEvent::NodeAdded, &world.plugins, world.now);
        assert_eq!(world.queue.depth().backoff, 1);
        assert_eq!(world.pop(), None);
        world.now = world.queue.next_wake().expect("a time");
        assert_eq!(world.pop().as_deref(), Some("p"));
    }

    #[test]
    fn an_event_while_in_flight_is_not_missed() {
        let mut world = World::new();
        world.add("p", 0);
        world.pop().expect("popped");
        world.queue.wake(ClusterEvent::PodRemoved, &world.plugins, world.now);
        let fit = world.fit();
        world.queue.fail("p", vec![fit], &world.plugins, world.now);
        assert_eq!(world.queue.depth(), Depth { backoff: 1, ..Depth::default() });
    }

    #[test]
    fn backoff_doubles_to_its_limit() {
        let mut world = World::new();
        world.add("p", 0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            world.pop().expect("ready");
            world.queue.retry("p", world.now);
            let next = world.queue.next_wake().expect("a time");
            waits.push((next - world.now).as_secs());
            world.now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_gone() {
        let mut world = World::new();
        world.queue.upsert("p".to_owned(), gated(&["a"]), true, world.now);
        assert_eq!((world.pop(), world.queue.depth().gated), (None, 1));
        world.queue.upsert("p".to_owned(), gated(&[]), true, world.now);
        assert_eq!(world.pop().as_deref(), Some("p"));
    }

    #[test]
    fn a_refused_pod_is_tried_again_after_five_minutes_and_a_removed_one_never() {
        let mut world = World::new();
        for name in ["p", "q"] {
            world.add(name, 0);
            world.pop().expect("popped");
            let by_name = world.name_plugin();
            world.queue.fail(name, vec![by_name], &world.plugins, world.now);
        }
        world.queue.remove("q");
        world.now += MAX_UNSCHEDULABLE;
        assert_eq!((world.pop().as_deref(), world.pop()), (Some("p"), None));
    }
}

//! etcd's rules for all keys together (pure): revisions, transactions, leases, compaction.
//!
//! Answers carry the revision at which they were given, which leaves few orders to try. A lost answer leaves open
//! whether and when the request took effect; [`Pins`] narrows that down by what watchers saw.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::search::Model;
use super::types::{
    Change, Compare, History, Item, Keys, Kv, Operation, Outcome, Refusal, Request, Response, Step, Stream,
};

/// The store at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The newest revision.
    pub revision: i64,
    /// History before this one is gone.
    pub compacted: i64,
    /// All keys.
    pub keys: OrdMap<String, Arc<Kv>>,
    /// All leases.
    pub leases: OrdSet<i64>,
}

impl State {
    /// An empty store.
    pub fn empty(revision: i64) -> Self {
        Self { revision, compacted: 0, keys: OrdMap::new(), leases: OrdSet::new() }
    }

    /// What a read finds.
    pub fn get(&self, keys: &Keys) -> Vec<Kv> {
        self.keys_in(keys).into_iter().map(|kv| kv.as_ref().clone()).collect()
    }

    fn keys_in(&self, keys: &Keys) -> Vec<Arc<Kv>> {
        if keys.end.is_empty() {
            return self.keys.get(&keys.from).into_iter().cloned().collect();
        }
        self.keys.range(keys.from.clone()..keys.end.clone()).map(|(_, kv)| kv.clone()).collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        self.keys.get(&compare.key).map_or(0, |kv| kv.mod_revision) == compare.mod_revision
    }

    fn put(&mut self, key: &str, value: &str, lease: i64) -> Option<Arc<Kv>> {
        let before = self.keys.get(key).cloned();
        let kv = Kv {
            key: key.to_owned(),
            value: value.to_owned(),
            create_revision: before.as_ref().map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: before.as_ref().map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.keys.insert(key.to_owned(), Arc::new(kv));
        before
    }

    fn change(&self, key: &str, before: Option<Arc<Kv>>) -> Change {
        let owned = |kv: Arc<Kv>| kv.as_ref().clone();
        let now = self.keys.get(key).cloned().map(owned);
        Change { revision: self.revision, key: key.to_owned(), now, before: before.map(owned) }
    }

    fn delete(&mut self, kvs: Vec<Arc<Kv>>, changes: &mut Vec<Change>) -> Vec<Kv> {
        for kv in &kvs {
            self.keys.remove(&kv.key);
            changes.push(self.change(&kv.key, Some(kv.clone())));
        }
        kvs.into_iter().map(|kv| kv.as_ref().clone()).collect()
    }
}

/// What a request leads to.
pub struct Applied {
    /// The state after it.
    pub state: State,
    /// What it answers. Of a range at a revision it is not known here what it finds: nothing is in it.
    pub response: Response,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// Does what a request asks for.
pub fn apply(state: &State, request: &Request) -> Applied {
    let unchanged = |response| Applied { state: state.clone(), response, changes: Vec::new() };
    let refused = |refusal| unchanged(Response::Refused(refusal));
    match request {
        Request::Range { revision, .. } if *revision > state.revision => refused(Refusal::FutureRevision),
        Request::Range { revision, .. } if *revision > 0 && *revision < state.compacted => {
            refused(Refusal::Compacted)
        }
        Request::Range { keys, revision, .. } => {
            let kvs = if *revision == 0 { state.get(keys) } else { Vec::new() };
            unchanged(Response::Range { revision: state.revision, kvs })
        }
        Request::Txn { compares, then, otherwise } => {
            let succeeded = compares.iter().all(|compare| state.holds(compare));
            apply_steps(state, succeeded, if succeeded { then } else { otherwise })
        }
        Request::Grant { lease } if state.leases.contains(lease) => refused(Refusal::LeaseExists),
        Request::Grant { lease } => {
            let mut applied = unchanged(Response::Done);
            applied.state.leases.insert(*lease);
            applied
        }
        Request::Revoke { lease } if !state.leases.contains(lease) => refused(Refusal::NoLease),
        Request::Revoke { lease } => apply_revoke(state, *lease),
        Request::Compact { revision } if *revision <= state.compacted => refused(Refusal::Compacted),
        Request::Compact { revision } if *revision > state.revision => refused(Refusal::FutureRevision),
        Request::Compact { revision } => {
            let mut applied = unchanged(Response::Done);
            applied.state.compacted = *revision;
            applied
        }
        // The keys are left out of the state: no recorded request touches them.
        Request::Others { revision, changes } => {
            let state = State { revision: *revision, ..state.clone() };
            Applied { state, response: Response::Done, changes: changes.clone() }
        }
    }
}

fn apply_steps(state: &State, succeeded: bool, steps: &[Step]) -> Applied {
    let lease_of = |step: &Step| if let Step::Put { lease, .. } = step { *lease } else { 0 };
    if steps.iter().map(lease_of).any(|lease| lease != 0 && !state.leases.contains(&lease)) {
        let response = Response::Refused(Refusal::NoLease);
        return Applied { state: state.clone(), response, changes: Vec::new() };
    }
    let (mut next, mut changes, mut outcomes) = (state.clone(), Vec::new(), Vec::new());
    next.revision += 1;
    for step in steps {
        outcomes.push(match step {
            Step::Put { key, value, lease } => {
                let before = next.put(key, value, *lease);
                changes.push(next.change(key, before.clone()));
                Outcome::Put(before.map(|kv| kv.as_ref().clone()))
            }
            Step::Delete(keys) => Outcome::Deleted(next.delete(next.keys_in(keys), &mut changes)),
            Step::Get(keys) => Outcome::Got(next.get(keys)),
        });
    }
    if changes.is_empty() {
        next.revision = state.revision;
    }
    let response = Response::Txn { revision: next.revision, succeeded, outcomes };
    Applied { state: next, response, changes }
}

fn apply_revoke(state: &State, lease: i64) -> Applied {
    let (mut next, mut changes) = (state.clone(), Vec::new());
    next.leases.remove(&lease);
    next.revision += 1;
    let attached = next.keys.values().filter(|kv| kv.lease == lease).cloned().collect();
    next.delete(attached, &mut changes);
    if changes.is_empty() {
        next.revision = state.revision;
    }
    Applied { state: next, response: Response::Done, changes }
}

/// What watchers tell of requests whose answers were lost.
#[derive(Default)]
pub struct Pins {
    /// At which revision a value was written.
    values: HashMap<String, i64>,
    /// What each revision changed: keys with their new values, or without one.
    told: HashMap<i64, HashSet<(String, Option<String>)>>,
    /// Revisions that a request of known effect made.
    claimed: HashSet<i64>,
    /// Revisions that watchers told of, and that nobody is known to have made.
    open: Vec<i64>,
    /// Whether watchers told of every revision.
    complete: bool,
}

/// When a lost request may have taken effect.
enum May {
    /// By making this revision.
    Make(i64),
    /// At any time, but not by making a revision that another made.
    Anytime,
    /// It did not.
    Never,
}

impl Pins {
    /// Of all watchers together.
    pub fn new(history: &History) -> Self {
        let mut pins = Self::default();
        for item in history.streams.iter().flat_map(|stream| &stream.items) {
            let Item::Changes { changes, .. } = item else { continue };
            for change in changes {
                let told = pins.told.entry(change.revision).or_default();
                told.insert((change.key.clone(), change.now.as_ref().map(|kv| kv.value.clone())));
                if let Some(kv) = &change.now {
                    pins.values.insert(kv.value.clone(), change.revision);
                }
            }
        }
        pins.claimed.extend(history.operations.iter().filter_map(made));
        let last = pins.told.keys().max().copied().unwrap_or(0);
        let all = history.first_revision + 1..=last;
        pins.complete = last > 0 && all.into_iter().all(|revision| pins.told.contains_key(&revision));
        let others = history.streams.iter().filter(|stream| stream.others);
        let others: HashSet<i64> = others.flat_map(revisions).collect();
        let made = |revision: &&i64| !pins.claimed.contains(*revision) && !others.contains(*revision);
        pins.open = pins.told.keys().filter(made).copied().collect();
        pins
    }

    /// Whether a request whose answer was lost may have changed anything of which somebody was told.
    pub fn may_matter(&self, request: &Request) -> bool {
        let Request::Txn { then, otherwise, .. } = request else { return true };
        let may_have_made = |revision: &i64| {
            let told = &self.told[revision];
            [then, otherwise]
                .iter()
                .any(|steps| told.iter().all(|change| steps.iter().any(|step| does(step, change))))
        };
        !self.complete || self.open.iter().any(may_have_made)
    }

    /// Whether a request that did this may have made the revision.
    fn agree(&self, applied: &Applied) -> bool {
        let Some(told) = self.told.get(&applied.state.revision) else { return true };
        let does = |(key, value): &(String, Option<String>)| {
            applied
                .changes
                .iter()
                .any(|change| change.key == *key && change.now.as_ref().map(|kv| &kv.value) == value.as_ref())
        };
        told.iter().all(does)
    }

    fn may(&self, request: &Request) -> May {
        let Request::Txn { then, otherwise, .. } = request else { return May::Anytime };
        let written =
            |step: &Step| if let Step::Put { value, .. } = step { Some(value.clone()) } else { None };
        let values: Vec<String> = then.iter().chain(otherwise).filter_map(written).collect();
        match values.iter().find_map(|value| self.values.get(value)) {
            Some(revision) => May::Make(*revision),
            None if self.complete
                && then.iter().any(|step| written(step).is_some())
                && otherwise.is_empty() =>
            {
                May::Never
            }
            None => May::Anytime,
        }
    }
}

/// Revisions that a watcher was told of.
fn revisions(stream: &Stream) -> impl Iterator<Item = i64> {
    let changes = stream.items.iter().filter_map(|item| match item {
        Item::Changes { changes, .. } => Some(changes),
        _ => None,
    });
    changes.flatten().map(|change| change.revision)
}

/// Whether a step may lead to a change.
fn does(step: &Step, (key, value): &(String, Option<String>)) -> bool {
    match step {
        Step::Put { key: written, value: new, .. } => written == key && value.as_ref() == Some(new),
        Step::Delete(keys) => value.is_none() && keys.contains(key),
        Step::Get(_) => false,
    }
}

/// The revision that a request is known to have made.
pub fn made(operation: &Operation) -> Option<i64> {
    match &operation.answer {
        Some((_, Response::Txn { revision, outcomes, .. })) if outcomes.iter().any(is_change) => {
            Some(*revision)
        }
        _ => None,
    }
}

fn is_change(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Put(_) => true,
        Outcome::Deleted(kvs) => !kvs.is_empty(),
        Outcome::Got(_) => false,
    }
}

/// The model over the operations of a history that promise an order.
pub struct Etcd<'a> {
    /// By their numbers in the search.
    pub operations: Vec<&'a Operation>,
    /// What watchers tell.
    pub pins: Pins,
}

impl Etcd<'_> {
    /// A lost request that takes effect, if it may now; one that changes nothing need not be placed.
    fn lost(&self, state: &State, request: &Request) -> Option<State> {
        let may = self.pins.may(request);
        match may {
            May::Never => return None,
            May::Make(revision) if state.revision + 1 != revision => return None,
            _ => {}
        }
        let applied = apply(state, request);
        if applied.state.revision > state.revision {
            let made_by_another =
                matches!(may, May::Anytime) && self.pins.claimed.contains(&applied.state.revision);
            return (!made_by_another && self.pins.agree(&applied)).then_some(applied.state);
        }
        (applied.state != *state && matches!(may, May::Anytime)).then_some(applied.state)
    }
}

impl Model for Etcd<'_> {
    type State = State;

    fn step(&self, state: &State, operation: usize) -> Option<State> {
        let Operation { request, answer, .. } = self.operations[operation];
        if matches!(request, Request::Others { revision, .. } if *revision != state.revision + 1) {
            return None;
        }
        let Some((_, seen)) = answer else { return self.lost(state, request) };
        if let Response::Txn { revision, .. } | Response::Range { revision, .. } = seen
            && *revision != state.revision
            && *revision != state.revision + 1
        {
            return None;
        }
        let Applied { state: next, response, .. } = apply(state, request);
        // What a range at a revision finds is compared with that revision when the order is known.
        let agrees = match (request, seen, &response) {
            (
                Request::Range { revision, .. },
                Response::Range { revision: seen, .. },
                Response::Range { .. },
            ) if *revision > 0 => *seen == state.revision,
            _ => *seen == response,
        };
        agrees.then_some(next)
    }
}

//! Revisions that were made by clients whose requests are not recorded (pure): locks, leases, users. Watchers of their
//! keys tell what such a revision changed and when it was there at the latest.

use std::collections::{BTreeMap, HashSet};

use super::model::made;
use super::types::{Change, History, Item, Operation, Request, Response};

/// What others did.
pub struct Others {
    /// One for each of their revisions, beside the recorded ones.
    pub operations: Vec<Operation>,
    /// Whether it is known of every revision who made it.
    pub complete: bool,
}

impl Others {
    /// All changes of others, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.operations.iter().flat_map(changes)
    }
}

fn changes(operation: &Operation) -> &[Change] {
    match &operation.request {
        Request::Others { changes, .. } => changes,
        _ => &[],
    }
}

/// Finds them.
pub fn others(history: &History) -> Others {
    let mut found = Others { operations: Vec::new(), complete: true };
    if !history.streams.iter().any(|stream| stream.others) {
        return found;
    }
    let told = told(history);
    let own: HashSet<i64> = history.operations.iter().filter_map(made).collect();
    let times = Times::new(history);
    let last = told.keys().max().copied().unwrap_or(history.first_revision);
    for revision in history.first_revision + 1..=last {
        let call = times.after(revision);
        match told.get(&revision) {
            Some(Some(changes)) => {
                let seen = times.before(revision);
                let call = call.min(seen.unwrap_or(u64::MAX));
                found.operations.push(operation(revision, changes.clone(), call, seen));
            }
            Some(None) => {}
            None if own.contains(&revision) => {}
            // Compacted before anybody was told: a lost request of a recorded client may have made it as well.
            None => {
                found.complete = false;
                found.operations.push(operation(revision, Vec::new(), call, None));
            }
        }
    }
    found
}

fn operation(revision: i64, changes: Vec<Change>, call: u64, seen: Option<u64>) -> Operation {
    let request = Request::Others { revision, changes };
    Operation { client: usize::MAX, call, request, answer: seen.map(|at| (at, Response::Done)) }
}

/// The revisions that watchers told of: with their changes where others made them.
fn told(history: &History) -> BTreeMap<i64, Option<Vec<Change>>> {
    let mut told: BTreeMap<i64, Option<Vec<Change>>> = BTreeMap::new();
    for stream in &history.streams {
        for item in &stream.items {
            let Item::Changes { changes, .. } = item else { continue };
            for changes in changes.chunk_by(|one, next| one.revision == next.revision) {
                let known = told.entry(changes[0].revision).or_default();
                if stream.others && known.is_none() {
                    *known = Some(changes.to_vec());
                }
            }
        }
    }
    told
}

/// Between which moments revisions were made.
struct Times {
    /// Of each revision that an answer showed: the last call of a request that was answered with it or an older one.
    calls: BTreeMap<i64, u64>,
    /// Of each revision that a watcher was told of: when one was first told of it or a newer one.
    seen: BTreeMap<i64, u64>,
}

impl Times {
    fn new(history: &History) -> Self {
        let mut calls = BTreeMap::<i64, u64>::new();
        for operation in history.operations.iter().filter(|operation| !operation.reads_the_past()) {
            if let Some((_, Response::Range { revision, .. } | Response::Txn { revision, .. })) =
                &operation.answer
            {
                let call = calls.entry(*revision).or_default();
                *call = operation.call.max(*call);
            }
        }
        let mut last = 0;
        for call in calls.values_mut() {
            last = last.max(*call);
            *call = last;
        }
        let mut seen = BTreeMap::<i64, u64>::new();
        for (at, revision) in history.streams.iter().flat_map(|stream| &stream.seen) {
            let first = seen.entry(*revision).or_insert(*at);
            *first = (*first).min(*at);
        }
        let mut first = u64::MAX;
        for at in seen.values_mut().rev() {
            first = first.min(*at);
            *at = first;
        }
        Self { calls, seen }
    }

    /// Who asked then was answered with an older revision.
    fn after(&self, revision: i64) -> u64 {
        self.calls.range(..revision).next_back().map_or(0, |(_, call)| *call)
    }

    /// Somebody had been told of it by then.
    fn before(&self, revision: i64) -> Option<u64> {
        self.seen.range(revision..).next().map(|(_, at)| *at)
    }
}

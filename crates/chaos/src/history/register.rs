//! Every key alone, as a register that is written and read (pure).
//!
//! Nothing is asked of revisions here, so that a violation is seen in the few operations that touch one key. A history
//! that is linearizable is so for every key; the converse is `model.rs`'s business.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::search::{Model, Span, Verdict, search};
use super::types::{History, Keys, Kv, Operation, Outcome, Request, Response, Step};

/// What an operation does to one key. Values are their numbers; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    Write(u32),
    Read(u32),
    /// Deletes what is attached to the lease.
    Revoke(i64),
}

struct Registers {
    touches: Vec<Touch>,
    leases: HashMap<u32, i64>,
}

impl Model for Registers {
    type State = u32;

    fn step(&self, &state: &u32, operation: usize) -> Option<u32> {
        match self.touches[operation] {
            Touch::Write(value) => Some(value),
            Touch::Read(value) => (value == state).then_some(state),
            Touch::Revoke(lease) => Some(if self.leases.get(&state) == Some(&lease) { 0 } else { state }),
        }
    }
}

/// Judges each key; what is wrong, if anything.
pub fn check(history: &History, bound: u64) -> Vec<String> {
    let mut projection = Projection::new(&history.operations);
    for (index, operation) in history.operations.iter().enumerate() {
        projection.add(index, operation);
    }
    let leases = projection.leases;
    let mut wrong = Vec::new();
    for (key, touches) in projection.touches {
        let spans: Vec<Span> = touches.iter().map(|(_, span, _)| *span).collect();
        let model = Registers {
            touches: touches.iter().map(|(_, _, touch)| *touch).collect(),
            leases: leases.clone(),
        };
        match search(&model, 0, &spans, bound) {
            Verdict::Order(_) => {}
            Verdict::Refused { placed, stuck } => {
                let of = |touch: usize| &history.operations[touches[touch].0];
                let after = placed.last().map_or("nothing".to_owned(), |&last| of(last).to_string());
                wrong.push(format!(
                    "key {key} is not linearizable: {}; the last before it was {after}",
                    of(stuck)
                ));
            }
            Verdict::Undecided { placed } => {
                wrong.push(undecided(&format!("key {key}"), placed, touches.len(), bound));
            }
        }
    }
    wrong
}

/// What is said when the bound was hit.
pub fn undecided(what: &str, placed: usize, of: usize, bound: u64) -> String {
    format!("{what}: undecided after {bound} steps; at best {placed} of {of} operations could be ordered")
}

type Touches = BTreeMap<String, Vec<(usize, Span, Touch)>>;

struct Projection {
    touches: Touches,
    values: HashMap<String, u32>,
    leases: HashMap<u32, i64>,
}

impl Projection {
    fn new(operations: &[Operation]) -> Self {
        let mut keys = BTreeSet::new();
        let (mut values, mut leases) = (HashMap::new(), HashMap::new());
        for operation in operations {
            let Request::Txn { then, otherwise, .. } = &operation.request else { continue };
            for step in then.iter().chain(otherwise) {
                let Step::Put { key, value, lease } = step else { continue };
                keys.insert(key.clone());
                let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
                let number = *values.entry(value.clone()).or_insert(next);
                leases.insert(number, *lease);
            }
        }
        Self { touches: keys.into_iter().map(|key| (key, Vec::new())).collect(), values, leases }
    }

    fn add(&mut self, index: usize, operation: &Operation) {
        let span = Span { call: operation.call, end: operation.answer.as_ref().map(|(end, _)| *end) };
        match (&operation.request, operation.answer.as_ref().map(|(_, response)| response)) {
            (
                Request::Range { keys, revision: 0, serializable: false },
                Some(Response::Range { kvs, .. }),
            ) => {
                self.read(index, span, keys, kvs, &BTreeSet::new());
            }
            (Request::Txn { then, otherwise, .. }, Some(Response::Txn { succeeded, outcomes, .. })) => {
                self.steps(index, span, if *succeeded { then } else { otherwise }, outcomes);
            }
            (Request::Txn { then, otherwise, .. }, None) => {
                self.steps(index, span, then, &[]);
                self.steps(index, span, otherwise, &[]);
            }
            (Request::Revoke { lease }, None | Some(Response::Done)) => {
                self.touches
                    .values_mut()
                    .for_each(|touches| touches.push((index, span, Touch::Revoke(*lease))));
            }
            _ => {}
        }
    }

    /// The steps of a transaction that was done. Of a key that it also writes, what it reads is not asked.
    fn steps(&mut self, index: usize, span: Span, steps: &[Step], outcomes: &[Outcome]) {
        let mut written = BTreeSet::new();
        for step in steps {
            let (keys, value) = match step {
                Step::Put { key, value, .. } => (Keys::one(key), self.values[value]),
                Step::Delete(keys) => (keys.clone(), 0),
                Step::Get(_) => continue,
            };
            for (key, touches) in self.touches.iter_mut().filter(|(key, _)| keys.contains(key)) {
                touches.push((index, span, Touch::Write(value)));
                written.insert(key.clone());
            }
        }
        for (step, outcome) in steps.iter().zip(outcomes) {
            if let (Step::Get(keys), Outcome::Got(kvs)) = (step, outcome) {
                self.read(index, span, keys, kvs, &written);
            }
        }
    }

    fn read(&mut self, index: usize, span: Span, keys: &Keys, kvs: &[Kv], except: &BTreeSet<String>) {
        for (key, touches) in &mut self.touches {
            if keys.contains(key) && !except.contains(key) {
                let found = kvs.iter().find(|kv| kv.key == *key);
                // A value that nobody wrote has a number that no state has.
                let number = found.map_or(0, |kv| self.values.get(&kv.value).copied().unwrap_or(u32::MAX));
                touches.push((index, span, Touch::Read(number)));
            }
        }
    }
}

//! All revisions in their order, and the reads of the past among them (pure).

use std::collections::BTreeMap;

use super::model::{State, apply};
use super::types::{Change, Operation, Refusal, Request, Response};

/// The history of the store, as the order of its operations tells it.
pub struct Past {
    /// The state at each revision, and when the request that made it was called.
    states: BTreeMap<i64, (State, u64)>,
    /// All changes, in order.
    pub changes: Vec<Change>,
}

impl Past {
    /// Plays operations in an order that was found.
    pub fn replay<'a>(first_revision: i64, order: impl Iterator<Item = &'a Operation>) -> Self {
        let mut state = State::empty(first_revision);
        let mut past =
            Self { states: BTreeMap::from([(first_revision, (state.clone(), 0))]), changes: Vec::new() };
        for operation in order {
            let applied = apply(&state, &operation.request);
            if applied.state.revision > state.revision {
                past.states.insert(applied.state.revision, (applied.state.clone(), operation.call));
            }
            past.changes.extend(applied.changes);
            state = applied.state;
        }
        past
    }

    /// The newest revision.
    pub fn last(&self) -> i64 {
        self.states.keys().next_back().copied().unwrap_or(0)
    }

    /// What is wrong with a read of an old state, whatever order it was asked in.
    pub fn check(&self, operation: &Operation, compacted: i64) -> Option<String> {
        let Request::Range { keys, revision: wanted, serializable } = &operation.request else { return None };
        let (end, response) = operation.answer.as_ref()?;
        let wrong = |why: String| Some(format!("{why}: {operation}"));
        match response {
            Response::Range { revision, kvs } => {
                let Some((_, called)) = self.states.get(revision) else {
                    return wrong(format!("there is no revision {revision}"));
                };
                if called > end {
                    return wrong(format!("revision {revision} was made later"));
                }
                let at = if *wanted > 0 { wanted } else { revision };
                let Some((state, _)) = self.states.get(at) else {
                    return wrong(format!("there is no revision {at}"));
                };
                let there = state.get(keys);
                (there != *kvs)
                    .then(|| format!("revision {at} holds {there:?}, not what was read: {operation}"))
            }
            Response::Refused(Refusal::Compacted) if *serializable && *wanted >= compacted => {
                wrong("nobody compacted that".to_owned())
            }
            _ => None,
        }
    }
}

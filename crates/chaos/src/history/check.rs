//! A whole history's judgement (pure).

use super::model::{Etcd, Pins, State};
use super::others::others;
use super::past::Past;
use super::register::{self, undecided};
use super::search::{Span, Verdict, search};
use super::types::{History, Operation, Request};
use super::{leases, locks, rights, watch};

/// Steps of the model that one search may take: some minutes at worst.
const STEP_BOUND: u64 = 5_000_000;

/// What is wrong with a history: nothing, if a strictly serializable store could have shown it.
pub fn check(history: &History) -> Vec<String> {
    check_within(history, STEP_BOUND)
}

/// [`check`] with another bound.
pub fn check_within(history: &History, bound: u64) -> Vec<String> {
    let mut wrong = register::check(history, bound);
    let others = others(history);
    wrong.extend(leases::check(history));
    wrong.extend(locks::check(history, &others));
    wrong.extend(rights::check(history, bound));
    if !wrong.is_empty() {
        return wrong;
    }
    let pins = Pins::new(history);
    let matters = |one: &&Operation| one.answer.is_some() || pins.may_matter(&one.request);
    let mut operations: Vec<&Operation> =
        history.operations.iter().filter(|one| is_ordered(history, one)).filter(matters).collect();
    operations.extend(&others.operations);
    let end = |operation: &Operation| operation.answer.as_ref().map(|(end, _)| *end);
    let spans: Vec<Span> = operations.iter().map(|one| Span { call: one.call, end: end(one) }).collect();
    let model = Etcd { operations, pins };
    match search(&model, State::empty(history.first_revision), &spans, bound) {
        Verdict::Order(order) => {
            let order = order.iter().map(|&at| model.operations[at]);
            against(&Past::replay(history.first_revision, order), history)
        }
        Verdict::Refused { placed, stuck } => vec![explain(&model.operations, &placed, stuck)],
        Verdict::Undecided { placed } => vec![undecided("all keys", placed, model.operations.len(), bound)],
    }
}

/// Whether an order is promised for it, and it matters: lost reads and leases that nobody used do not.
fn is_ordered(history: &History, operation: &Operation) -> bool {
    if operation.reads_the_past() {
        return false;
    }
    match &operation.request {
        Request::Range { .. } => operation.answer.is_some(),
        Request::Grant { lease } => operation.answer.is_some() || is_used(history, *lease),
        _ => true,
    }
}

fn is_used(history: &History, lease: i64) -> bool {
    let uses = |operation: &Operation| match &operation.request {
        Request::Txn { then, otherwise, .. } => then.iter().chain(otherwise).any(
            |step| matches!(step, super::types::Step::Put { lease: attached, .. } if *attached == lease),
        ),
        Request::Revoke { lease: revoked } => *revoked == lease,
        _ => false,
    };
    history.operations.iter().any(uses)
}

/// Reads of the past and watchers, against the revisions as they were.
fn against(past: &Past, history: &History) -> Vec<String> {
    let compacted = history.operations.iter().filter_map(|operation| match operation.request {
        Request::Compact { revision } => Some(revision),
        _ => None,
    });
    let compacted = compacted.max().unwrap_or(0);
    let reads = history.operations.iter().filter_map(|operation| past.check(operation, compacted));
    let watchers = history.streams.iter().filter_map(|stream| watch::check(past, stream, compacted));
    reads.chain(watchers).collect()
}

/// How many operations of the longest order are shown.
const SHOWN: usize = 5;

fn explain(operations: &[&Operation], placed: &[usize], stuck: usize) -> String {
    let last: Vec<String> =
        placed[placed.len().saturating_sub(SHOWN)..].iter().map(|&at| operations[at].to_string()).collect();
    format!(
        "no order explains this answer: {}; the longest order that was found has {} operations and ends with {}",
        operations[stuck],
        placed.len(),
        if last.is_empty() { "nothing".to_owned() } else { last.join(" | ") }
    )
}

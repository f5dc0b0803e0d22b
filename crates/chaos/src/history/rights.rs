//! Rights (pure): a right that was taken is not made use of any more, and one that was given is not refused, on any
//! member.

use super::register::undecided;
use super::search::{Model, Span, Verdict, search};
use super::types::{Act, Attempt, History};

struct Rights<'a>(Vec<&'a Attempt>);

impl Model for Rights<'_> {
    /// Both conditions.
    type State = [bool; 2];

    fn step(&self, state: &[bool; 2], attempt: usize) -> Option<[bool; 2]> {
        let Attempt { act, answer, .. } = self.0[attempt];
        let done = answer.is_none_or(|(_, done)| done);
        match *act {
            Act::Set { condition, to } if done => {
                let mut next = *state;
                next[condition] = to;
                Some(next)
            }
            Act::Set { condition, to } => (state[condition] == to).then_some(*state),
            Act::Use => (*state == [true, true]).eq(&done).then_some(*state),
        }
    }
}

/// Judges all requests about the right; what is wrong, if anything. It is given at the beginning.
pub fn check(history: &History, bound: u64) -> Option<String> {
    let matters = |attempt: &&Attempt| attempt.answer.is_some() || attempt.act != Act::Use;
    let model = Rights(history.attempts.iter().filter(matters).collect());
    let end = |attempt: &Attempt| attempt.answer.map(|(end, _)| end);
    let spans: Vec<Span> = model.0.iter().map(|one| Span { call: one.call, end: end(one) }).collect();
    match search(&model, [true, true], &spans, bound) {
        Verdict::Order(_) => None,
        Verdict::Refused { placed, stuck } => {
            let last = placed.last().map(|&at| model.0[at]);
            Some(format!("no order explains what was permitted: {:?} after {last:?}", model.0[stuck]))
        }
        Verdict::Undecided { placed } => Some(undecided("rights", placed, model.0.len(), bound)),
    }
}

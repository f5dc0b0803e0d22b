//! The search for an order (pure): Wing and Gong's algorithm with Lowe's memory of what was tried.
//!
//! An order is sought in which every operation takes effect at one moment between its call and its answer, so that the
//! model gives the answers that were seen. Operations are placed one after the other; one may be next when its call came
//! before the answers of all that are not placed. A set of placed operations with the state it led to is tried once.
//! One whose answer was lost may be placed any time after its call, and need not be.

use std::collections::HashSet;
use std::hash::Hash;

/// What operations do.
pub trait Model {
    /// What they do it to. Equal states must behave equally.
    type State: Clone + Eq + Hash;

    /// The state after an operation, if it could have answered in this state what it did answer.
    fn step(&self, state: &Self::State, operation: usize) -> Option<Self::State>;
}

/// From call to answer; `None` when that was lost.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When it was called.
    pub call: u64,
    /// When it was answered.
    pub end: Option<u64>,
}

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The operations in an order that explains all answers; lost ones that did not happen are not in it.
    Order(Vec<usize>),
    /// There is none. The longest that was found, and the operation that could not follow it.
    Refused {
        /// What could be ordered.
        placed: Vec<usize>,
        /// Answered before any operation that might explain it.
        stuck: usize,
    },
    /// The bound was hit before an order was found or all were refused.
    Undecided {
        /// How many could be ordered at best.
        placed: usize,
    },
}

/// Seeks an order, trying at most `bound` steps of the model.
pub fn search<M: Model>(model: &M, initial: M::State, spans: &[Span], bound: u64) -> Verdict {
    let mut search = Search::new(spans, initial);
    let mut steps = 0;
    let mut at = search.list.first();
    while search.unanswered > 0 {
        let entry = search.list.entries[at];
        if !entry.is_call {
            // An answer is reached whose operation is not placed: something before was placed wrongly.
            search.note(entry.operation);
            let Some(next) = search.take_back() else { return search.refused() };
            at = next;
            continue;
        }
        let operation = entry.operation;
        steps += 1;
        if steps > bound {
            return Verdict::Undecided { placed: search.best.len() };
        }
        let placed =
            model.step(&search.state, operation).is_some_and(|state| search.place(at, operation, state));
        at = if placed { search.list.first() } else { search.list.next[at] };
    }
    Verdict::Order(search.order())
}

/// A moment in the list: a call, or an answer.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    is_call: bool,
    /// Where its answer stands, if it is a call that was answered.
    answer: usize,
}

/// A doubly linked list over all moments; entry 0 is its head and its end.
struct List {
    entries: Vec<Entry>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(spans: &[Span]) -> Self {
        // Calls stand before answers of the same moment: such operations count as concurrent.
        let calls = spans.iter().enumerate().map(|(operation, span)| (span.call, 0, operation));
        let ends = spans.iter().enumerate().filter_map(|(operation, span)| Some((span.end?, 1, operation)));
        let mut moments: Vec<(u64, u8, usize)> = calls.chain(ends).collect();
        moments.sort_unstable();
        let mut entries = vec![Entry { operation: usize::MAX, is_call: false, answer: 0 }];
        let mut place_of = vec![0; spans.len()];
        for (_, kind, operation) in moments {
            if kind == 0 {
                place_of[operation] = entries.len();
            } else {
                entries[place_of[operation]].answer = entries.len();
            }
            entries.push(Entry { operation, is_call: kind == 0, answer: 0 });
        }
        let count = entries.len();
        let next = (1..=count).map(|at| at % count).collect();
        let previous = (0..count).map(|at| (at + count - 1) % count).collect();
        Self { entries, next, previous }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn link(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }
}

/// The search as far as it is.
struct Search<S> {
    list: List,
    state: S,
    /// Entries that were placed, each with the state before it.
    placed: Vec<(usize, S)>,
    done: Done,
    tried: HashSet<(Vec<u64>, S)>,
    /// Answered operations that are not placed.
    unanswered: usize,
    best: Vec<usize>,
    stuck: usize,
}

impl<S: Clone + Eq + Hash> Search<S> {
    fn new(spans: &[Span], state: S) -> Self {
        Self {
            list: List::new(spans),
            state,
            placed: Vec::new(),
            done: Done::new(spans),
            tried: HashSet::new(),
            unanswered: spans.iter().filter(|span| span.end.is_some()).count(),
            best: Vec::new(),
            stuck: 0,
        }
    }

    /// Places an operation, unless that was tried in the same state.
    fn place(&mut self, at: usize, operation: usize, state: S) -> bool {
        self.done.set(operation, true);
        if !self.tried.insert((self.done.key(), state.clone())) {
            self.done.set(operation, false);
            return false;
        }
        self.placed.push((at, std::mem::replace(&mut self.state, state)));
        let answer = self.list.entries[at].answer;
        self.list.unlink(at);
        if answer > 0 {
            self.list.unlink(answer);
            self.unanswered -= 1;
        }
        true
    }

    /// Takes back what was placed last; where to go on, or `None` when nothing is left to try.
    fn take_back(&mut self) -> Option<usize> {
        let (at, state) = self.placed.pop()?;
        self.state = state;
        let Entry { operation, answer, .. } = self.list.entries[at];
        if answer > 0 {
            self.list.link(answer);
            self.unanswered += 1;
        }
        self.list.link(at);
        self.done.set(operation, false);
        Some(self.list.next[at])
    }

    /// Remembers the longest order, and what could not follow it.
    fn note(&mut self, stuck: usize) {
        if self.best.is_empty() || self.placed.len() > self.best.len() {
            (self.best, self.stuck) = (self.order(), stuck);
        }
    }

    fn order(&self) -> Vec<usize> {
        self.placed.iter().map(|(at, _)| self.list.entries[*at].operation).collect()
    }

    fn refused(self) -> Verdict {
        Verdict::Refused { placed: self.best, stuck: self.stuck }
    }
}

/// Which operations are placed, as bits: first the answered ones by their calls, then the lost ones, so that a key is
/// short although the history is long.
struct Done {
    rank: Vec<usize>,
    answered: usize,
    words: Vec<u64>,
}

impl Done {
    fn new(spans: &[Span]) -> Self {
        let mut by_call: Vec<usize> = (0..spans.len()).collect();
        by_call.sort_by_key(|&operation| (spans[operation].end.is_none(), spans[operation].call));
        let answered = spans.iter().filter(|span| span.end.is_some()).count().div_ceil(64) * 64;
        let lost_from = spans.iter().filter(|span| span.end.is_some()).count();
        let mut rank = vec![0; spans.len()];
        for (place, operation) in by_call.into_iter().enumerate() {
            rank[operation] = if place < lost_from { place } else { answered + place - lost_from };
        }
        let words = (answered + spans.len() - lost_from).div_ceil(64);
        Self { rank, answered: answered / 64, words: vec![0; words] }
    }

    fn set(&mut self, operation: usize, done: bool) {
        let rank = self.rank[operation];
        let bit = 1 << (rank % 64);
        if done {
            self.words[rank / 64] |= bit;
        } else {
            self.words[rank / 64] &= !bit;
        }
    }

    /// The bits without the full words at the front and the empty ones behind, and how many were full.
    fn key(&self) -> Vec<u64> {
        let (answered, lost) = self.words.split_at(self.answered);
        let full = answered.iter().take_while(|&&word| word == u64::MAX).count();
        let used = answered.iter().rposition(|&word| word != 0).map_or(full, |last| (last + 1).max(full));
        let mut key = vec![full as u64, used as u64];
        key.extend_from_slice(&answered[full..used]);
        key.extend_from_slice(lost);
        key
    }
}

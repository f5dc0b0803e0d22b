//! What a client asks next: random from a seed, with what it has learned (pure).

use std::collections::BTreeMap;

use env::Rng;

use crate::history::{Compare, Keys, Kv, Outcome, Request, Response, Step};

/// Keys in use.
const KEYS: u64 = 10;
/// Everything lies between these.
pub const FROM: &str = "k/";
/// See [`FROM`].
pub const END: &str = "k0";
/// How far back reads of the past go, in revisions.
const BACK: u64 = 40;
/// Revisions that a compaction leaves at least, most of the time.
const KEPT: u64 = 60;
/// Leases that a client has at most.
const LEASES: usize = 3;

/// A client's mind.
pub struct Generator {
    client: usize,
    rng: Rng,
    values: u64,
    leases_made: i64,
    leases: Vec<i64>,
    /// The newest revision that it saw.
    revision: i64,
    /// By which revision it saw each key changed last.
    known: BTreeMap<String, i64>,
}

impl Generator {
    /// A client with a number of its own.
    pub fn new(client: usize, seed: u64) -> Self {
        let rng = Rng::seeded(seed.wrapping_mul(1000).wrapping_add(client as u64));
        let known = BTreeMap::new();
        Self { client, rng, values: 0, leases_made: 0, leases: Vec::new(), revision: 1, known }
    }

    /// A number below another.
    pub fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// The next request.
    pub fn next(&mut self) -> Request {
        match self.below(100) {
            0..24 => self.put(),
            24..34 => self.read(Keys::one(&self.key()), 0, false),
            34..42 => self.read(self.some_keys(), 0, true),
            42..52 => self.read(self.some_keys(), 0, false),
            52..60 => self.read_back(),
            60..75 => self.compare_and_put(),
            75..84 => self.many_steps(),
            84..91 => {
                let keys = self.few_keys();
                transaction(vec![Step::Delete(keys)])
            }
            91..95 => self.grant(),
            95..98 => self.revoke(),
            98 => self.compact(),
            _ => self.read(Keys::range(FROM, END), 0, false),
        }
    }

    /// Takes note of an answer; `None` when it was lost.
    pub fn learn(&mut self, request: &Request, response: Option<&Response>) {
        match (request, response) {
            (Request::Grant { lease }, Some(Response::Done)) => self.leases.push(*lease),
            (_, Some(Response::Range { revision, kvs })) => {
                self.revision = self.revision.max(*revision);
                self.saw(kvs);
            }
            (Request::Txn { then, .. }, Some(Response::Txn { revision, succeeded, outcomes })) => {
                self.revision = self.revision.max(*revision);
                for outcome in outcomes {
                    if let Outcome::Got(kvs) = outcome {
                        self.saw(kvs);
                    }
                }
                let written = then.iter().filter(|_| *succeeded);
                self.known.extend(written.filter_map(|step| match step {
                    Step::Put { key, .. } => Some((key.clone(), *revision)),
                    _ => None,
                }));
            }
            _ => {}
        }
    }

    fn saw(&mut self, kvs: &[Kv]) {
        self.known.extend(kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
    }

    fn key(&self) -> String {
        format!("{FROM}{}", self.below(KEYS))
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("{}-{}", self.client, self.values)
    }

    fn few_keys(&self) -> Keys {
        let first = self.below(KEYS);
        match self.below(3) {
            0 => Keys::range(&format!("{FROM}{first}"), &format!("{FROM}{}", (first + 2).min(KEYS - 1))),
            _ => Keys::one(&format!("{FROM}{first}")),
        }
    }

    fn some_keys(&self) -> Keys {
        match self.below(4) {
            0 => Keys::range(FROM, END),
            1 => Keys::range(&format!("{FROM}3"), &format!("{FROM}7")),
            _ => Keys::one(&self.key()),
        }
    }

    fn read(&self, keys: Keys, revision: i64, serializable: bool) -> Request {
        Request::Range { keys, revision, serializable }
    }

    fn read_back(&self) -> Request {
        let back = i64::try_from(self.below(BACK)).unwrap_or(0);
        self.read(self.some_keys(), (self.revision - back).max(1), self.below(2) == 0)
    }

    fn put_step(&mut self, key: String) -> Step {
        let lease = match self.below(4) {
            0 => self.leases.last().copied().unwrap_or(0),
            _ => 0,
        };
        Step::Put { key, value: self.value(), lease }
    }

    fn put(&mut self) -> Request {
        let key = self.key();
        transaction(vec![self.put_step(key)])
    }

    fn compare_and_put(&mut self) -> Request {
        let key = self.key();
        let mod_revision = self.known.get(&key).copied().unwrap_or(0);
        let then = vec![self.put_step(key.clone())];
        let otherwise = vec![Step::Get(Keys::one(&key))];
        Request::Txn { compares: vec![Compare { key, mod_revision }], then, otherwise }
    }

    /// Two writes of different keys, a delete of a third, and reads before and after.
    fn many_steps(&mut self) -> Request {
        let first = self.below(KEYS);
        let key = |further: u64| format!("{FROM}{}", (first + further) % KEYS);
        let mut steps = vec![Step::Get(Keys::range(FROM, END))];
        steps.push(self.put_step(key(0)));
        steps.push(self.put_step(key(3)));
        if self.below(2) == 0 {
            steps.push(Step::Delete(Keys::one(&key(5))));
        }
        steps.push(Step::Get(Keys::range(FROM, END)));
        transaction(steps)
    }

    fn grant(&mut self) -> Request {
        self.leases_made += 1;
        let client = i64::try_from(self.client).unwrap_or(0) + 1;
        Request::Grant { lease: client * 1_000_000 + self.leases_made }
    }

    fn revoke(&mut self) -> Request {
        if self.leases.len() < LEASES && self.below(2) == 0 || self.leases.is_empty() {
            return self.put();
        }
        Request::Revoke { lease: self.leases.remove(0) }
    }

    fn compact(&mut self) -> Request {
        let kept = if self.below(4) == 0 { 0 } else { KEPT };
        let revision = self.revision - i64::try_from(kept).unwrap_or(0);
        if revision < 2 { self.put() } else { Request::Compact { revision } }
    }
}

/// Steps without a condition.
pub fn transaction(then: Vec<Step>) -> Request {
    Request::Txn { compares: Vec::new(), then, otherwise: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same() {
        let ask = |seed| {
            let mut generator = Generator::new(1, seed);
            (0..50).map(|_| generator.next()).collect::<Vec<_>>()
        };
        assert_eq!(ask(3), ask(3));
        assert_ne!(ask(3), ask(4));
    }
}

//! Transactions with everything in them, and leases, against a model that anybody can check by reading.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mvcc::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, Event, EventKind, KeyRange, KeyValue,
    MemoryEngine, Mvcc, MvccError, Op, OpResponse, PutRequest, RangeRequest, Response, Txn, TxnResponse,
    View,
};
use proptest::prelude::*;

type Kvs = BTreeMap<Bytes, KeyValue>;

/// Keys that transactions put, each at most once in each, and keys that they delete.
const PUT: u8 = 4;
const KEYS: u8 = 8;
const LEASES: i64 = 4;

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Grant(i64),
    Revoke(i64),
    Compact(u8),
    Reopen,
}

/// All that there is to know.
struct Model {
    /// By revision, the first is 1.
    states: Vec<Kvs>,
    leases: BTreeSet<i64>,
    compacted: i64,
}

impl Model {
    fn now(&self) -> &Kvs {
        self.states.last().expect("the first")
    }

    fn grant(&mut self, id: i64) -> Result<(), MvccError> {
        if self.leases.insert(id) { Ok(()) } else { Err(MvccError::LeaseExists) }
    }

    fn revoke(&mut self, id: i64) -> Result<(), MvccError> {
        if !self.leases.remove(&id) {
            return Err(MvccError::LeaseNotFound);
        }
        let mut state = self.now().clone();
        state.retain(|_, kv| kv.lease != id);
        self.commit(state);
        Ok(())
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, MvccError> {
        let mut state = self.now().clone();
        let answer = self.run(txn, &mut state)?;
        self.commit(state);
        Ok(answer)
    }

    /// What changes nothing is no revision.
    fn commit(&mut self, state: Kvs) {
        if state != *self.now() {
            self.states.push(state);
        }
    }

    fn run(&self, txn: &Txn, state: &mut Kvs) -> Result<TxnResponse, MvccError> {
        let succeeded = txn.compare.iter().all(|compare| holds(compare, self.now()));
        let steps = if succeeded { &txn.success } else { &txn.failure };
        let responses = steps.iter().map(|step| self.step(step, state)).collect::<Result<_, _>>()?;
        Ok(TxnResponse { succeeded, responses })
    }

    fn step(&self, op: &Op, state: &mut Kvs) -> Result<OpResponse, MvccError> {
        Ok(match op {
            Op::Range(request) => OpResponse::Range(mvcc::RangeResponse {
                kvs: within(state, &request.range),
                more: false,
                count: within(state, &request.range).len() as i64,
                revision: 0,
            }),
            Op::Put(put) => OpResponse::Put { prev: self.put(put, state)?.filter(|_| put.prev_kv) },
            Op::Delete(delete) => {
                let gone = within(state, &delete.range);
                state.retain(|key, _| !delete.range.contains(key));
                let deleted = gone.len() as i64;
                OpResponse::Delete { deleted, prev_kvs: if delete.prev_kv { gone } else { Vec::new() } }
            }
            Op::Txn(txn) => OpResponse::Txn(self.run(txn, state)?),
        })
    }

    fn put(&self, put: &PutRequest, state: &mut Kvs) -> Result<Option<KeyValue>, MvccError> {
        let before = state.get(&put.key).cloned();
        if (put.ignore_value || put.ignore_lease) && before.is_none() {
            return Err(MvccError::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return Err(MvccError::LeaseNotFound);
        }
        let revision = self.states.len() as i64 + 1;
        let new = KeyValue { key: put.key.clone(), create_revision: revision, ..KeyValue::default() };
        let mut kv = before.clone().unwrap_or(new);
        kv.version += 1;
        kv.mod_revision = revision;
        if !put.ignore_value {
            kv.value = put.value.clone();
        }
        if !put.ignore_lease {
            kv.lease = put.lease;
        }
        state.insert(put.key.clone(), kv);
        Ok(before)
    }

    /// What changed at a revision, in the order of the keys.
    fn changes(&self, revision: i64) -> Vec<(Bytes, EventKind, Option<KeyValue>)> {
        let (before, after) = (&self.states[revision as usize - 2], &self.states[revision as usize - 1]);
        let put = after.values().filter(|kv| kv.mod_revision == revision);
        let put = put.map(|kv| (kv.key.clone(), EventKind::Put, before.get(&kv.key).cloned()));
        let gone = before.values().filter(|kv| !after.contains_key(&kv.key));
        let gone = gone.map(|kv| (kv.key.clone(), EventKind::Delete, Some(kv.clone())));
        let mut all: Vec<_> = put.chain(gone).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

fn within(state: &Kvs, range: &KeyRange) -> Vec<KeyValue> {
    state.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
}

fn holds(compare: &Compare, state: &Kvs) -> bool {
    let mut found = within(state, &compare.range);
    if found.is_empty() {
        if matches!(compare.target, CompareTarget::Value(_)) {
            return false;
        }
        found.push(KeyValue::default());
    }
    found.iter().all(|kv| {
        let ordering = match &compare.target {
            CompareTarget::Version(version) => kv.version.cmp(version),
            CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
            CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
            CompareTarget::Lease(lease) => kv.lease.cmp(lease),
            CompareTarget::Value(value) => kv.value.cmp(value),
        };
        match compare.result {
            CompareResult::Equal => ordering == Ordering::Equal,
            CompareResult::NotEqual => ordering != Ordering::Equal,
            CompareResult::Greater => ordering == Ordering::Greater,
            CompareResult::Less => ordering == Ordering::Less,
        }
    })
}

fn key(number: u8) -> Bytes {
    vec![b'a' + number].into()
}

fn range(from: u8) -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        (from..KEYS).prop_map(|number| KeyRange::Key(key(number))),
        (from..KEYS, 0..5u8)
            .prop_map(|(start, length)| KeyRange::Interval { start: key(start), end: key(start + length) }),
        (from..KEYS).prop_map(|number| KeyRange::From(key(number))),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::NotEqual),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
    ];
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        (0..20i64).prop_map(CompareTarget::Create),
        (0..20i64).prop_map(CompareTarget::Mod),
        (0..=LEASES).prop_map(CompareTarget::Lease),
        (0..3u8).prop_map(|value| CompareTarget::Value(vec![value].into())),
    ];
    (range(0), result, target).prop_map(|(range, result, target)| Compare { range, result, target })
}

/// Puts of one key; the number says what is ignored.
fn put(number: u8) -> impl Strategy<Value = Op> {
    let lease = prop_oneof![3 => Just(0), 2 => 1..=LEASES];
    (0..3u8, lease, any::<bool>(), 0..8u8).prop_map(move |(value, lease, prev_kv, ignore)| {
        let (ignore_value, ignore_lease) = (ignore == 1, ignore == 2);
        Op::Put(PutRequest {
            key: key(number),
            value: if ignore_value { Bytes::new() } else { vec![value].into() },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
    })
}

fn harmless() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => range(0).prop_map(|range| Op::Range(RangeRequest::new(range))),
        2 => (range(PUT), any::<bool>())
            .prop_map(|(range, prev_kv)| Op::Delete(DeleteRequest { range, prev_kv })),
    ]
}

/// A transaction that puts keys of `keys` only, with others within down to `depth`.
fn txn(keys: std::ops::Range<u8>, depth: u32) -> BoxedStrategy<Txn> {
    let (first, rest) = (keys.start, keys.start + 1..keys.end);
    let inner = match depth {
        0 => Just(None).boxed(),
        _ => proptest::option::of(txn(rest, depth - 1).prop_map(Op::Txn)).boxed(),
    };
    let branch = (proptest::collection::vec(harmless(), 0..3), proptest::option::of(put(first)), inner);
    let branch = branch.prop_map(|(mut steps, put, inner)| {
        // Reads stand before writes and behind them.
        let middle = steps.len() / 2;
        steps.splice(middle..middle, put.into_iter().chain(inner));
        steps
    });
    let branch = branch.boxed();
    (proptest::collection::vec(compare(), 0..3), branch.clone(), branch)
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
        .boxed()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => txn(0..PUT, 2).prop_map(Step::Txn),
        4 => (0..KEYS).prop_flat_map(put).prop_map(|op| Step::Txn(Txn::of(op))),
        2 => (1..=LEASES).prop_map(Step::Grant),
        1 => (1..=LEASES).prop_map(Step::Revoke),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// Revisions within answers are not the model's business.
fn bare(answer: &mut TxnResponse) {
    for response in &mut answer.responses {
        match response {
            OpResponse::Range(range) => range.revision = 0,
            OpResponse::Txn(inner) => bare(inner),
            _ => {}
        }
    }
}

fn told(events: &[Event]) -> Vec<(Bytes, EventKind)> {
    let mut told: Vec<_> = events.iter().map(|event| (event.kv.key.clone(), event.kind)).collect();
    told.sort_by(|one, other| one.0.cmp(&other.0));
    told
}

fn run(steps: &[Step]) {
    let engine = MemoryEngine::default();
    let mut machine = Mvcc::open(engine.clone()).expect("open");
    let mut model = Model { states: vec![Kvs::new()], leases: BTreeSet::new(), compacted: 0 };
    for (index, step) in (1..).zip(steps) {
        let before = model.states.len();
        let mut apply = |command: Command| {
            let applied = machine.apply(index, 1, &command).expect("the engine");
            machine.commit(None).expect("commit");
            (applied.response, applied.events)
        };
        let events = match step {
            Step::Txn(txn) => {
                let (answer, events) = apply(Command::Txn(txn.clone()));
                let answer = answer.map(|answer| match answer {
                    Response::Txn(mut answer) => {
                        bare(&mut answer);
                        answer
                    }
                    other => panic!("{other:?}"),
                });
                assert_eq!(answer, model.txn(txn), "{txn:?}");
                events
            }
            Step::Grant(id) => {
                let (answer, events) = apply(Command::LeaseGrant { id: *id, ttl: 60 });
                assert_eq!(answer.map(drop), model.grant(*id));
                events
            }
            Step::Revoke(id) => {
                let (answer, events) = apply(Command::LeaseRevoke { id: *id });
                assert_eq!(answer.map(drop), model.revoke(*id));
                events
            }
            Step::Compact(at) => {
                let revision = model.compacted + 1 + i64::from(*at) % 4;
                let done = apply(Command::Compact { revision }).0.is_ok();
                assert_eq!(done, revision <= model.states.len() as i64);
                model.compacted = if done { revision } else { model.compacted };
                Vec::new()
            }
            Step::Reopen => {
                machine = Mvcc::open(engine.clone()).expect("reopen");
                Vec::new()
            }
        };
        let changes =
            if model.states.len() > before { model.changes(model.states.len() as i64) } else { vec![] };
        let changes: Vec<_> = changes.into_iter().map(|(key, kind, _)| (key, kind)).collect();
        assert_eq!(told(&events), changes, "{step:?}");
    }
    compare_views(&machine.view(), &model);
    compare_views(&Mvcc::open(engine.fork()).expect("reopen").view(), &model);
}

fn compare_views(view: &View, model: &Model) {
    assert_eq!(view.revision(), model.states.len() as i64);
    for (revision, state) in (1..).zip(&model.states).skip(model.compacted.max(1) as usize - 1) {
        let request = RangeRequest { revision, ..RangeRequest::new(KeyRange::all()) };
        let kvs: Vec<_> = state.values().cloned().collect();
        assert_eq!(view.range(&request).expect("range").kvs, kvs, "at {revision}");
    }
    assert_eq!(view.leases().map(|lease| lease.id).collect::<BTreeSet<_>>(), model.leases);
    for id in &model.leases {
        let keys: BTreeSet<_> = view.lease(*id).expect("it is there").keys().cloned().collect();
        let expected = model.now().values().filter(|kv| kv.lease == *id);
        assert_eq!(keys, expected.map(|kv| kv.key.clone()).collect(), "of lease {id}");
    }
    // Whoever watches a range from some revision on is told what the model says, and no more.
    let ranges = [KeyRange::all(), KeyRange::Key(key(1)), KeyRange::Interval { start: key(2), end: key(6) }];
    for range in ranges {
        for from in model.compacted.max(1) + 1..=view.revision() {
            let mut next = from;
            let mut heard = Vec::new();
            while next <= view.revision() {
                let batch = view.events(&range, next, 1).expect("events");
                for mut event in batch.events {
                    view.fill_prev(&mut event).expect("the value before");
                    heard.push((
                        event.kv.mod_revision,
                        event.kv.key,
                        event.kind,
                        event.prev.map(|prev| *prev),
                    ));
                }
                next = batch.next_revision;
            }
            let said = (from..=view.revision()).flat_map(|revision| {
                let changes = model.changes(revision).into_iter();
                let inside = changes.filter(|(key, ..)| range.contains(key));
                inside.map(move |(key, kind, prev)| (revision, key, kind, prev)).collect::<Vec<_>>()
            });
            // Within a revision events come in the order of what was done.
            heard.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
            assert_eq!(heard, said.collect::<Vec<_>>(), "{range:?} from {from}");
        }
    }
}

proptest! {
    #[test]
    fn transactions_and_leases_do_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}

//! The state machine against a model that keeps every revision whole.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use mvcc::{
    Batch, Command, Compare, CompareResult, CompareTarget, DeleteRequest, Engine as _, Event, EventKind,
    KeyRange, KeyValue, MemoryEngine, Mvcc, MvccError, Op, OpResponse, PutRequest, RangeRequest, Response,
    SortOrder, SortTarget, Table, Txn, View,
};
use proptest::prelude::*;

/// The term in which everything is applied.
const TERM: u64 = 1;

struct Machine {
    mvcc: Mvcc<MemoryEngine>,
    engine: MemoryEngine,
    index: u64,
}

impl Machine {
    fn new() -> Self {
        let engine = MemoryEngine::default();
        Self { mvcc: Mvcc::open(engine.clone()).expect("open"), engine, index: 0 }
    }

    fn apply(&mut self, command: Command) -> (Result<Response, MvccError>, Vec<Event>) {
        self.index += 1;
        let applied = self.mvcc.apply(self.index, TERM, &command).expect("the engine");
        self.mvcc.commit(None).expect("commit");
        (applied.response, applied.events)
    }

    /// Deletes what was compacted.
    fn sweep(&mut self) {
        while let Some(step) = self.mvcc.sweep() {
            self.mvcc.absorb(step.walk(7).expect("walk"));
            self.mvcc.commit(None).expect("commit");
        }
    }

    /// As without a saved index.
    fn read_anew(&self) -> View {
        let engine = self.engine.fork();
        engine.set_index(None);
        Mvcc::open(engine).expect("reopen").view()
    }

    fn txn(&mut self, txn: Txn) -> Result<mvcc::TxnResponse, MvccError> {
        self.apply(Command::Txn(txn)).0.map(|response| match response {
            Response::Txn(response) => response,
            other => panic!("{other:?}"),
        })
    }

    fn put(&mut self, key: &str, value: &str) {
        self.txn(Txn::of(put(key, value))).expect("put");
    }

    fn view(&self) -> View {
        self.mvcc.view()
    }

    fn reopened(&self) -> View {
        Mvcc::open(self.engine.fork()).expect("reopen").view()
    }
}

fn put(key: &str, value: &str) -> Op {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Op::Put(PutRequest { key, value, ..PutRequest::default() })
}

fn delete(range: KeyRange) -> Op {
    Op::Delete(DeleteRequest { range, prev_kv: true })
}

fn keys(view: &View, request: &RangeRequest) -> Vec<String> {
    let kvs = view.range(request).expect("range").kvs;
    kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).expect("utf-8")).collect()
}

#[test]
fn a_new_store_is_at_revision_one() {
    let mut machine = Machine::new();
    assert_eq!(machine.view().revision(), 1);
    machine.put("a", "1");
    assert_eq!(machine.view().revision(), 2);
    machine.txn(Txn::of(delete(KeyRange::prefix("nothing")))).expect("delete");
    assert_eq!(machine.view().revision(), 2, "a delete that finds nothing is no revision");
}

#[test]
fn a_transaction_is_one_revision_and_reads_its_own_writes() {
    let mut machine = Machine::new();
    let read = Op::Range(RangeRequest::prefix("k"));
    let answer = machine
        .txn(Txn { success: vec![put("k1", "a"), put("k2", "b"), read], ..Txn::default() })
        .expect("txn");
    let OpResponse::Range(range) = &answer.responses[2] else { panic!("{answer:?}") };
    assert_eq!((range.count, range.revision), (2, 2));
    assert!(range.kvs.iter().all(|kv| kv.mod_revision == 2 && kv.version == 1));
}

#[test]
fn compares_look_at_the_state_before_the_transaction_even_when_nested() {
    let mut machine = Machine::new();
    let absent = |key: &str| vec![Compare::mod_revision(key.to_owned(), 0)];
    let inner = Txn {
        compare: absent("k"),
        success: vec![put("inner", "then")],
        failure: vec![put("inner", "else")],
    };
    let outer = Txn { compare: absent("k"), success: vec![put("k", "1"), Op::Txn(inner)], failure: vec![] };
    machine.txn(outer).expect("txn");
    assert_eq!(machine.view().get(b"inner").expect("read").expect("inner").value, "then");
}

#[test]
fn a_value_compare_on_an_absent_key_is_false_whichever_way() {
    let mut machine = Machine::new();
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater]
    {
        let target = CompareTarget::Value(Bytes::new());
        let compare = vec![Compare { range: KeyRange::Key("no".into()), result, target }];
        assert!(!machine.txn(Txn { compare, ..Txn::default() }).expect("txn").succeeded);
    }
}

#[test]
fn a_failed_check_changes_nothing() {
    let mut machine = Machine::new();
    let leased = Op::Put(PutRequest { key: "b".into(), lease: 9, ..PutRequest::default() });
    let error = machine.txn(Txn { success: vec![put("a", "1"), leased], ..Txn::default() });
    assert_eq!(error, Err(MvccError::LeaseNotFound));
    assert_eq!((machine.view().revision(), machine.view().live_keys()), (1, 0));
}

#[test]
fn limits_count_and_order() {
    let mut machine = Machine::new();
    ["b", "d", "a", "c"].iter().for_each(|key| machine.put(key, key));
    let view = machine.view();
    let all = RangeRequest::new(KeyRange::all());
    let limited = view.range(&RangeRequest { limit: 2, ..all.clone() }).expect("range");
    assert_eq!((limited.kvs.len(), limited.more, limited.count), (2, true, 4));
    let sorted = RangeRequest { limit: 2, sort_order: SortOrder::Descend, ..all.clone() };
    assert_eq!(keys(&view, &sorted), ["d", "c"]);
    let by_age = RangeRequest { sort_target: SortTarget::Create, ..all.clone() };
    assert_eq!(keys(&view, &by_age), ["b", "d", "a", "c"]);
    let newer = RangeRequest { min_mod_revision: 4, ..all.clone() };
    let newer = view.range(&newer).expect("range");
    assert_eq!((newer.kvs.len(), newer.count), (2, 4), "count ignores the filters");
    let counted = view.range(&RangeRequest { count_only: true, ..all }).expect("range");
    assert_eq!((counted.kvs.len(), counted.more, counted.count), (0, false, 4));
}

#[test]
fn the_past_is_readable_until_it_is_compacted() {
    let mut machine = Machine::new();
    machine.put("k", "1");
    machine.put("k", "2");
    machine.txn(Txn::of(delete(KeyRange::Key("k".into())))).expect("delete");
    machine.put("k", "3");
    let at = |machine: &Machine, revision| {
        let answer = machine.view().range(&RangeRequest { revision, ..RangeRequest::key("k") })?;
        Ok(answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).expect("utf-8")))
    };
    let told = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!([at(&machine, 2), at(&machine, 3), at(&machine, 4)], [told("1"), told("2"), Ok(None)]);
    assert_eq!(at(&machine, 6), Err(MvccError::FutureRevision));

    machine.apply(Command::Compact { revision: 3 }).0.expect("compact");
    assert_eq!(at(&machine, 2), Err(MvccError::Compacted { compact_revision: 3 }));
    assert_eq!(at(&machine, 3), told("2"));
    let again = machine.apply(Command::Compact { revision: 3 }).0;
    assert_eq!(again, Err(MvccError::Compacted { compact_revision: 3 }));
    assert_eq!(machine.apply(Command::Compact { revision: 9 }).0, Err(MvccError::FutureRevision));

    machine.apply(Command::Compact { revision: 5 }).0.expect("compact");
    machine.sweep();
    assert_eq!(machine.view().total_bytes(), machine.view().live_bytes(), "nothing of the past is left");
    assert_eq!(at(&machine, 5), told("3"));
}

#[test]
fn a_view_never_changes() {
    let mut machine = Machine::new();
    machine.put("k", "1");
    let view = machine.view();
    machine.put("k", "2");
    assert_eq!(view.get(b"k").expect("read").expect("k").value, "1");
    assert_eq!(view.revision(), 2);
}

#[test]
fn a_lease_takes_its_keys_along_in_one_revision() {
    let mut machine = Machine::new();
    machine.apply(Command::LeaseGrant { id: 7, ttl: 60 }).0.expect("grant");
    assert_eq!(machine.apply(Command::LeaseGrant { id: 7, ttl: 60 }).0, Err(MvccError::LeaseExists));
    let leased =
        |key: &'static str| Op::Put(PutRequest { key: key.into(), lease: 7, ..PutRequest::default() });
    machine
        .txn(Txn { success: vec![leased("b"), leased("a"), put("c", "")], ..Txn::default() })
        .expect("txn");
    machine.put("b", "detached");
    let view = machine.reopened();
    let lease = view.lease(7).expect("lease");
    assert_eq!(lease.keys().collect::<Vec<_>>(), ["a"], "a put without the lease detaches");

    let (answer, events) = machine.apply(Command::LeaseRevoke { id: 7 });
    answer.expect("revoke");
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].kv.key.as_ref()), (EventKind::Delete, b"a".as_ref()));
    assert_eq!(machine.apply(Command::LeaseRevoke { id: 7 }).0, Err(MvccError::LeaseNotFound));
    assert!(machine.reopened().lease(7).is_none());
}

/// What a leader says of leases holds in its own term: whoever leads later may have renewed them.
#[test]
fn a_lease_ends_only_in_the_term_of_the_leader_that_ended_it() {
    let mut machine = Machine::new();
    machine.apply(Command::LeaseGrant { id: 7, ttl: 60 }).0.expect("grant");
    machine.apply(Command::LeaseExpire { id: 7, term: TERM - 1 }).0.expect("nothing");
    machine.apply(Command::LeaseCheckpoint { term: TERM - 1, remaining: vec![(7, 9)] }).0.expect("nothing");
    assert_eq!(machine.reopened().lease(7).expect("a lease").remaining, 0);
    machine.apply(Command::LeaseCheckpoint { term: TERM, remaining: vec![(7, 9)] }).0.expect("checkpoint");
    assert_eq!(machine.reopened().lease(7).expect("a lease").remaining, 9);
    machine.apply(Command::LeaseExpire { id: 7, term: TERM }).0.expect("the end");
    assert!(machine.reopened().lease(7).is_none());
}

#[test]
fn no_space_refuses_what_grows_and_nothing_else() {
    use mvcc::{Alarm, AlarmAction, AlarmKind};
    let mut machine = Machine::new();
    machine.put("k", "1");
    let alarm = Alarm { member: 5, kind: AlarmKind::NoSpace };
    machine.apply(Command::Alarm { action: AlarmAction::Activate, alarm }).0.expect("alarm");
    assert_eq!(machine.txn(Txn::of(put("k", "2"))), Err(MvccError::NoSpace));
    assert_eq!(machine.apply(Command::LeaseGrant { id: 1, ttl: 9 }).0, Err(MvccError::NoSpace));
    machine.txn(Txn::of(delete(KeyRange::all()))).expect("deletes go on");
    assert_eq!(machine.reopened().alarms().collect::<Vec<_>>(), [alarm]);
    machine.apply(Command::Alarm { action: AlarmAction::Deactivate, alarm }).0.expect("disarm");
    machine.put("k", "3");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Both(u8, u8, u8),
    Compact(u8),
    Sweep,
    SaveIndex,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..8u8, 0..3u8).prop_map(|(from, len)| Step::Delete(from, len)),
        2 => (0..4u8, 4..8u8, any::<u8>()).prop_map(|(put, delete, value)| Step::Both(put, delete, value)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Sweep),
        1 => Just(Step::SaveIndex),
        1 => Just(Step::Reopen),
    ]
}

type Kvs = BTreeMap<Bytes, KeyValue>;

#[derive(Default)]
struct Model {
    /// The whole state at each revision; the first is revision 1.
    states: Vec<Kvs>,
    compacted: i64,
}

impl Model {
    fn now(&self) -> Kvs {
        self.states.last().cloned().unwrap_or_default()
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn put(&self, state: &mut Kvs, key: &Bytes, value: &Bytes) {
        let revision = self.revision() + 1;
        let kv = state.entry(key.clone()).or_insert_with(|| KeyValue {
            key: key.clone(),
            create_revision: revision,
            ..KeyValue::default()
        });
        (kv.value, kv.mod_revision, kv.version) = (value.clone(), revision, kv.version + 1);
    }
}

fn key(key: u8) -> Bytes {
    vec![b'a' + key].into()
}

fn run(steps: &[Step]) {
    let mut machine = Machine::new();
    let mut model = Model { states: vec![Kvs::new()], compacted: 0 };
    for step in steps {
        let mut state = model.now();
        let txn = match step {
            Step::Put(k, value) => {
                model.put(&mut state, &key(*k), &vec![*value].into());
                vec![Op::Put(PutRequest {
                    key: key(*k),
                    value: vec![*value].into(),
                    ..PutRequest::default()
                })]
            }
            Step::Delete(from, len) => {
                let range = KeyRange::Interval { start: key(*from), end: key(from + len) };
                state.retain(|key, _| !range.contains(key));
                vec![delete(range)]
            }
            Step::Both(k, gone, value) => {
                model.put(&mut state, &key(*k), &vec![*value].into());
                state.remove(&key(*gone));
                let put = PutRequest { key: key(*k), value: vec![*value].into(), ..PutRequest::default() };
                vec![Op::Put(put), delete(KeyRange::Key(key(*gone)))]
            }
            Step::Compact(at) => {
                let revision = model.compacted + 1 + i64::from(*at) % 4;
                let done = machine.apply(Command::Compact { revision }).0.is_ok();
                assert_eq!(done, revision <= model.revision());
                model.compacted = if done { revision } else { model.compacted };
                continue;
            }
            Step::Sweep => {
                machine.sweep();
                continue;
            }
            Step::SaveIndex => {
                machine.view().save_index().expect("save");
                continue;
            }
            Step::Reopen => {
                machine.mvcc = Mvcc::open(machine.engine.clone()).expect("reopen");
                continue;
            }
        };
        machine.txn(Txn { success: txn, ..Txn::default() }).expect("txn");
        if state != model.now() {
            model.states.push(state);
        }
    }
    let views = [machine.view(), machine.reopened(), machine.read_anew()];
    views.iter().for_each(|view| compare(view, &model));
    let sizes = |view: &View| (view.live_bytes(), view.total_bytes());
    assert!(views.iter().all(|view| sizes(view) == sizes(&views[0])));
    machine.sweep();
    let views = [machine.view(), machine.reopened(), machine.read_anew()];
    views.iter().for_each(|view| compare(view, &model));
    assert!(views.iter().all(|view| sizes(view) == sizes(&views[0])));
}

fn compare(view: &View, model: &Model) {
    assert_eq!(view.revision(), model.revision());
    assert_eq!(view.live_keys(), model.now().len() as u64);
    for revision in 1..=model.revision() {
        let answer = view.range(&RangeRequest { revision, ..RangeRequest::new(KeyRange::all()) });
        if revision < model.compacted {
            assert_eq!(answer, Err(MvccError::Compacted { compact_revision: model.compacted }));
        } else {
            let expected: Vec<_> = model.states[revision as usize - 1].values().cloned().collect();
            let answer = answer.expect("range");
            assert_eq!(answer.count, expected.len() as i64);
            assert_eq!(answer.kvs, expected, "at revision {revision}");
            let request = RangeRequest { revision, limit: 2, ..RangeRequest::new(KeyRange::From(key(2))) };
            let page = view.range(&request).expect("range");
            let behind: Vec<_> = expected.into_iter().filter(|kv| kv.key >= key(2)).collect();
            assert_eq!((page.count, page.more), (behind.len() as i64, behind.len() > 2));
            assert_eq!(page.kvs, behind[..behind.len().min(2)]);
        }
    }
    whole_at_the_compaction(view, model);
    replay(view, model);
}

/// A watcher may begin at the compacted revision: all that it did is still told, deletions too.
fn whole_at_the_compaction(view: &View, model: &Model) {
    let revision = model.compacted;
    if revision < 2 {
        return;
    }
    let (before, after) = (&model.states[revision as usize - 2], &model.states[revision as usize - 1]);
    let mut told: Vec<(Bytes, EventKind)> = Vec::new();
    let events = view.events(&KeyRange::all(), revision, usize::MAX).expect("events").events;
    for event in events.iter().filter(|event| event.kv.mod_revision == revision) {
        told.push((event.kv.key.clone(), event.kind));
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let put =
        after.values().filter(|kv| kv.mod_revision == revision).map(|kv| (kv.key.clone(), EventKind::Put));
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut expected: Vec<_> = put.chain(gone.map(|key| (key.clone(), EventKind::Delete))).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(told, expected, "of the compacted revision {revision}");
}

/// The history from the first readable revision on leads from that state to the last one, with right previous values.
fn replay(view: &View, model: &Model) {
    let first = model.compacted.max(1);
    let mut state = model.states[first as usize - 1].clone();
    let mut next = first + 1;
    while next <= view.revision() {
        let batch = view.events(&KeyRange::all(), next, 4).expect("events");
        assert!(batch.next_revision > next, "history goes on");
        for mut event in batch.events {
            view.fill_prev(&mut event).expect("the value before");
            assert_eq!(event.prev.as_deref(), state.get(&event.kv.key), "the value before {event:?}");
            match event.kind {
                EventKind::Put => drop(state.insert(event.kv.key.clone(), event.kv)),
                EventKind::Delete => drop(state.remove(&event.kv.key)),
            }
        }
        next = batch.next_revision;
        assert_eq!(state, model.states[next as usize - 2], "whole revisions");
    }
}

proptest! {
    #[test]
    fn the_machine_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps);
    }
}

#[test]
fn the_hash_is_that_of_the_keys_whatever_was_compacted_and_swept() {
    let (mut swept, mut other) = (Machine::new(), Machine::new());
    for machine in [&mut swept, &mut other] {
        for number in 0..20 {
            machine.put(&format!("k{}", number % 3), &number.to_string());
        }
        machine.txn(Txn::of(delete(KeyRange::Key("k1".into())))).expect("delete");
        machine.put("k2", "last");
    }
    let hash = |machine: &Machine, revision| machine.view().hash_kv(revision).expect("a hash").hash;
    let before = (hash(&swept, 12), hash(&swept, 0));
    assert_eq!(before, (hash(&other, 12), hash(&other, 0)));
    assert_ne!(hash(&swept, 9), hash(&swept, 10));
    swept.apply(Command::Compact { revision: 12 }).0.expect("compact");
    swept.sweep();
    assert!(!swept.mvcc.has_garbage());
    assert_eq!(before, (hash(&swept, 12), hash(&swept, 0)));
    assert_eq!(hash(&swept, 0), swept.reopened().hash_kv(0).expect("a hash").hash);
    assert!(matches!(swept.view().hash_kv(11), Err(MvccError::Compacted { compact_revision: 12 })));
    assert!(matches!(swept.view().hash_kv(1_000), Err(MvccError::FutureRevision)));
    other.put("k0", "more");
    assert_ne!(hash(&swept, 0), hash(&other, 0));
}

/// What `fuzz/corpus/<target>` holds, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("corpus").map(|file| file.expect("a file").path());
    let read = |file: std::path::PathBuf| {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read(file).expect("bytes"))
    };
    let inputs: Vec<_> = files.map(read).collect();
    writeln!(std::io::stderr(), "fuzz corpus {target}: {} inputs", inputs.len()).expect("printed");
    inputs
}

/// Rows as the fuzz target `state` reads them: a table's number, the lengths of key and value, both.
fn state_of(mut rest: &[u8]) -> MemoryEngine {
    let (engine, mut batch) = (MemoryEngine::default(), Batch::default());
    while let [table, key, value, more @ ..] = rest {
        let table = Table::ALL[usize::from(*table) % Table::ALL.len()];
        let (key, more) = more.split_at(usize::from(*key).min(more.len()));
        let (value, more) = more.split_at(usize::from(*value).min(more.len()));
        batch.put(table, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        rest = more;
    }
    engine.write(batch).expect("memory");
    engine
}

fn rows_of(engine: &MemoryEngine) -> Vec<u8> {
    let mut rows = Vec::new();
    for (number, table) in (0u8..).zip(Table::ALL) {
        let mut row = |key: &[u8], value: Bytes| {
            rows.extend([number, key.len() as u8, value.len() as u8]);
            rows.extend([key, &value].concat());
            std::ops::ControlFlow::Continue(())
        };
        engine.scan(table, &[], None, &mut row).expect("scan");
    }
    rows
}

/// A small state with something of every kind in it.
fn some_state() -> Vec<u8> {
    let mut machine = Machine::new();
    machine.apply(Command::LeaseGrant { id: 7, ttl: 60 }).0.expect("grant");
    machine.put("a", "1");
    machine.put("a", "2");
    let leased = PutRequest { key: "b".into(), value: "3".into(), lease: 7, ..PutRequest::default() };
    machine.txn(Txn::of(Op::Put(leased))).expect("put");
    machine.txn(Txn::of(delete(KeyRange::Key("a".into())))).expect("delete");
    machine.apply(Command::Compact { revision: 3 }).0.expect("compact");
    rows_of(&machine.engine)
}

fn look_at(rows: &[u8]) -> bool {
    let Ok(mvcc) = Mvcc::open(state_of(rows)) else { return false };
    drop(mvcc.view().range(&RangeRequest::new(KeyRange::all())));
    drop(mvcc.view().events(&KeyRange::all(), 1, usize::MAX));
    true
}

#[test]
fn the_fuzz_corpus_is_decoded() {
    // How the corpus was made.
    if let Some(file) = std::env::var_os("BLESS_STATE") {
        std::fs::write(file, some_state()).expect("written");
    }
    for (name, bytes) in corpus("command") {
        let decoded = Command::decode(bytes.into());
        assert_eq!(decoded.is_ok(), !name.starts_with("bad"), "{name}: {decoded:?}");
    }
    for (name, bytes) in corpus("state") {
        assert_eq!(look_at(&bytes), !name.starts_with("bad"), "{name}");
    }
    assert!(look_at(&some_state()));
}

proptest! {
    #[test]
    fn no_damage_of_the_state_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut rows = some_state();
        let at = at.index(rows.len());
        if cut {
            rows.truncate(at);
        } else {
            rows[at] = byte;
        }
        look_at(&rows);
    }
}

#[test]
fn a_saved_index_that_is_damaged_or_foreign_is_not_believed() {
    let mut machine = Machine::new();
    for number in 0..300 {
        machine.put(&format!("key-{:03}", number % 200), &number.to_string());
    }
    machine.view().save_index().expect("save");
    let saved = machine.engine.index().expect("saved");
    machine.put("key-007", "later");
    let all = RangeRequest::new(KeyRange::all());
    let expected = machine.view().range(&all).expect("range");
    let mut broken: Vec<Bytes> = (0..saved.len()).step_by(97).map(|end| saved.slice(..end)).collect();
    broken.extend((0..saved.len()).step_by(61).map(|at| {
        let mut bytes = saved.to_vec();
        bytes[at] ^= 0x10;
        bytes.into()
    }));
    let mut other = Machine::new();
    (0..100).for_each(|number| other.put("foreign", &number.to_string()));
    other.view().save_index().expect("save");
    broken.push(other.engine.index().expect("saved"));
    broken.push(saved);
    for bytes in broken {
        let engine = machine.engine.fork();
        engine.set_index(Some(bytes));
        let view = Mvcc::open(engine).expect("open").view();
        assert_eq!(view.range(&all).expect("range"), expected);
    }
}

#[test]
fn what_a_view_shows_is_there_until_it_is_swept_and_then_told_as_compacted() {
    let mut machine = Machine::new();
    machine.put("k", "1");
    let old = machine.view();
    machine.put("k", "2");
    machine.apply(Command::Compact { revision: 3 }).0.expect("compact");
    assert!(machine.mvcc.is_read_before_compaction());
    assert_eq!(old.get(b"k").expect("read").expect("k").value, "1");
    machine.sweep();
    // The cache may still hold it.
    let cold = Mvcc::open(machine.engine.clone()).expect("open").view();
    assert_eq!(cold.get(b"k").expect("read").expect("k").value, "2");
    drop(old);
    assert!(!machine.mvcc.is_read_before_compaction());
}

#[test]
fn a_small_cache_changes_no_answer() {
    let engine = MemoryEngine::default();
    let mut mvcc = Mvcc::open_with(engine.clone(), 2_000).expect("open");
    for number in 0..400_u64 {
        let op = put(&format!("k{:03}", number * 7 % 100), &number.to_string());
        mvcc.apply(number + 1, 1, &Command::Txn(Txn::of(op))).expect("the engine").response.expect("put");
        mvcc.commit(None).expect("commit");
    }
    let view = mvcc.view();
    let all: Vec<KeyValue> = view.iter(&KeyRange::all()).collect::<Result<_, _>>().expect("read");
    assert_eq!(all, view.range(&RangeRequest::new(KeyRange::all())).expect("range").kvs);
    assert_eq!(all.len(), 100);
    let view = std::sync::Arc::new(view);
    for limit in [0, 7] {
        let request = RangeRequest { limit, ..RangeRequest::new(KeyRange::all()) };
        let mut encoded = view.encoded_range(&request).expect("a range").expect("a plain one");
        let (bytes, mut pages) = (encoded.bytes(), Vec::new());
        while let Some(page) = encoded.next_page(100).expect("a page") {
            pages.extend_from_slice(&page);
        }
        assert_eq!((encoded.keys(), pages.len() as u64), (0, bytes));
        let values = all.iter().take(if limit == 0 { usize::MAX } else { 7 });
        let mut rest = pages.as_slice();
        for kv in values {
            // Tag, length, then the key's tag, length and bytes.
            let message = &rest[2..][..usize::from(rest[1])];
            assert_eq!((rest[0], message[0], &message[2..6]), (0x12, 0x0a, &kv.key[..]));
            assert!(message.windows(kv.value.len()).any(|part| part == kv.value));
            rest = &rest[2 + message.len()..];
        }
        assert!(rest.is_empty());
    }
    let anew = Mvcc::open(engine).expect("open").view();
    assert_eq!(all, anew.range(&RangeRequest::new(KeyRange::all())).expect("range").kvs);
}

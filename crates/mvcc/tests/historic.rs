//! Bugs of etcd's past that a state machine can have: each test says in its comment which it keeps away. Those of whole
//! members are in `crates/store/tests/it/historic.rs`; `docs/etcd.md` has all of them in one table.

use bytes::Bytes;
use mvcc::{
    Access, AuthCommand, AuthError, Caller, Command, DeleteRequest, EventKind, KeyRange, MemoryEngine, Mvcc,
    MvccError, Op, Permission, PutRequest, RangeRequest, Response, Revision, Txn, View, peek,
};

struct Machine {
    mvcc: Mvcc<MemoryEngine>,
    engine: MemoryEngine,
    index: u64,
}

type Answer = Result<Response, MvccError>;

impl Machine {
    fn new() -> Self {
        Self::on(MemoryEngine::default())
    }

    /// On what was written before a crash.
    fn on(engine: MemoryEngine) -> Self {
        let mvcc = Mvcc::open(engine.clone()).expect("open");
        let index = mvcc.applied().0;
        Self { mvcc, engine, index }
    }

    fn apply(&mut self, command: &Command) -> Answer {
        self.index += 1;
        let applied = self.mvcc.apply(self.index, 1, command).expect("apply");
        self.mvcc.commit(None).expect("commit");
        applied.response
    }

    fn must(&mut self, commands: impl IntoIterator<Item = Command>) {
        for command in commands {
            self.apply(&command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    fn crashed(&self) -> Self {
        Self::on(self.engine.fork())
    }

    fn view(&self) -> View {
        self.mvcc.view()
    }
}

fn txn(steps: impl IntoIterator<Item = Op>) -> Command {
    Command::Txn(Txn { success: steps.into_iter().collect(), ..Txn::default() })
}

fn put_op(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

fn put(key: &str) -> Command {
    txn([Op::Put(put_op(key))])
}

fn delete(range: KeyRange) -> Command {
    txn([Op::Delete(DeleteRequest { range, prev_kv: false })])
}

fn compact(revision: Revision) -> Command {
    Command::Compact { revision }
}

/// The value before a change is told although the change itself is compacted in the same breath.
#[test]
fn what_was_there_before_a_new_change_is_known_although_it_is_compacted() {
    let mut machine = Machine::new();
    machine.must([put("a")]);
    let applied = machine.mvcc.apply(2, 1, &txn([Op::Put(put_op("a"))])).expect("apply");
    machine.mvcc.apply(3, 1, &compact(3)).expect("apply").response.expect("compact");
    machine.mvcc.commit(None).expect("commit");
    let mut event = applied.events.into_iter().next().expect("an event");
    let late = machine.view().fill_prev(&mut event.clone());
    assert_eq!(late, Err(MvccError::Compacted { compact_revision: 3 }));
    machine.view().fill_prev_of_new(&mut event).expect("read");
    assert_eq!(event.prev.map(|kv| kv.mod_revision), Some(2));
}

/// #13766, #13514, #13922, #13937: the applied index and what the entry changed were two writes, and a crash between them
/// had the entry applied again or never. Here they are one: after every command what is on the disk is the state after it.
#[test]
fn a_crash_after_any_entry_leaves_the_state_and_its_index_together() {
    let (mut machine, mut others) = (Machine::new(), Vec::new());
    let commands = [
        put("a"),
        Command::LeaseGrant { id: 7, ttl: 60 },
        txn([Op::Put(PutRequest { lease: 7, ..put_op("b") }), Op::Put(put_op("c"))]),
        delete(KeyRange::prefix("a")),
        compact(3),
        Command::LeaseRevoke { id: 7 },
        put("d"),
    ];
    for command in &commands {
        machine.must([command.clone()]);
        others.push(machine.crashed());
    }
    let end = machine.view();
    for (done, mut other) in (1..).zip(others) {
        assert_eq!(peek(&other.engine).expect("peek").0, done as u64);
        other.must(commands[done..].iter().cloned());
        let view = other.view();
        assert_eq!((view.revision(), view.state_hash()), (end.revision(), end.state_hash()), "{done}");
        assert_eq!(view.hash_kv(0), end.hash_kv(0), "{done}");
    }
}

/// #17780 (and #17247's reading of what is cached): a crash during the compaction of the newest revision, a tombstone, made
/// the revision go back when the member came up.
#[test]
fn the_revision_never_goes_back_although_the_newest_is_a_tombstone_and_compacted() {
    let mut machine = Machine::new();
    machine.must([put("k"), delete(KeyRange::Key("k".into())), compact(3)]);
    for machine in [machine.crashed(), machine.crashed().crashed()] {
        assert_eq!((machine.view().revision(), machine.view().compact_revision()), (3, 3));
    }
    let mut machine = machine.crashed();
    machine.must([put("k")]);
    assert_eq!(machine.view().get(b"k").expect("read").map(|kv| (kv.mod_revision, kv.version)), Some((4, 1)));
}

/// #18089, #19179: a watch from the compacted revision on was not told of what that revision deleted.
#[test]
fn what_the_compacted_revision_deleted_is_still_told() {
    let mut machine = Machine::new();
    machine.must([put("a"), put("b"), delete(KeyRange::Key("a".into())), compact(4), put("c"), put("c")]);
    for view in [machine.view(), machine.crashed().view()] {
        let told = view.events(&KeyRange::all(), 4, usize::MAX).expect("from the compacted revision");
        let told: Vec<_> = told.events.iter().map(|event| (event.kv.mod_revision, event.kind)).collect();
        assert_eq!(told, [(4, EventKind::Delete), (5, EventKind::Put), (6, EventKind::Put)]);
    }
}

/// #17247: an event was told twice after a transaction, because it was found in a buffer and in the database.
#[test]
fn every_change_is_told_once() {
    let mut machine = Machine::new();
    machine.must([txn([Op::Put(put_op("a")), Op::Put(put_op("b"))]), put("a")]);
    let told = machine.view().events(&KeyRange::all(), 2, usize::MAX).expect("events").events;
    let places: Vec<_> = told.iter().map(|event| (event.kv.mod_revision, event.kv.key.clone())).collect();
    assert_eq!(places, [(2, "a".into()), (2, "b".into()), (3, Bytes::from("a"))]);
}

/// #18667: a transaction that also read a compacted revision was carried out by members that had not compacted it yet, and
/// by others not.
#[test]
fn a_transaction_that_reads_what_is_compacted_changes_nothing_anywhere() {
    let mut machine = Machine::new();
    machine.must([put("a"), put("a"), compact(3)]);
    let reads = |revision| Op::Range(RangeRequest { revision, ..RangeRequest::key("a") });
    let inner = Op::Txn(Txn { success: vec![reads(2)], ..Txn::default() });
    for (read, wanted) in [
        (reads(2), MvccError::Compacted { compact_revision: 3 }),
        (inner, MvccError::Compacted { compact_revision: 3 }),
        (reads(99), MvccError::FutureRevision),
    ] {
        let command = txn([Op::Put(put_op("b")), read]);
        let mut other = machine.crashed();
        for replica in [&mut machine, &mut other] {
            assert_eq!(replica.apply(&command), Err(wanted.clone()));
            assert_eq!(
                (replica.view().revision(), replica.view().get(b"b").expect("read").is_none()),
                (3, true)
            );
        }
        assert_eq!(machine.view().state_hash(), other.view().state_hash());
    }
}

fn auth(command: AuthCommand) -> Command {
    Command::Auth(command)
}

/// Root, and a user `u` who may write `a`, and read and write `b`.
fn with_users() -> Machine {
    let mut machine = Machine::new();
    let user =
        |name: &str| AuthCommand::UserAdd { name: name.into(), password: "h".into(), no_password: false };
    let grant = |name: &str, role: &str| AuthCommand::UserGrantRole { user: name.into(), role: role.into() };
    let permit = |access, key: &str| AuthCommand::RoleGrantPermission {
        role: "r".into(),
        permission: Permission { access, key: key.to_owned().into(), range_end: Bytes::new() },
    };
    let commands = [
        user("root"),
        grant("root", "root"),
        user("u"),
        AuthCommand::RoleAdd { name: "r".into() },
        permit(Access::Write, "a"),
        permit(Access::ReadWrite, "b"),
        grant("u", "r"),
        AuthCommand::Enable,
    ];
    machine.must(commands.map(auth));
    machine
}

fn by(machine: &Machine, user: &str, command: Command) -> Command {
    command.by(Caller { user: user.into(), revision: machine.view().auth().revision() })
}

/// #14571, #11651: users and roles were not read again after a snapshot or a crash, so that members disagreed on who may do
/// what, and with it on the keys.
#[test]
fn who_may_do_what_is_the_same_after_a_crash() {
    let mut machine = with_users();
    let mut other = machine.crashed();
    assert_eq!(machine.view().auth().revision(), other.view().auth().revision());
    for (key, allowed) in [("a", true), ("b", true), ("c", false)] {
        let command = by(&machine, "u", put(key));
        for replica in [&mut machine, &mut other] {
            assert_eq!(replica.apply(&command).is_ok(), allowed, "{key}");
        }
    }
    assert_eq!(machine.view().state_hash(), other.view().state_hash());
}

/// CVE-2026-33343: what a transaction within a transaction does was not checked.
#[test]
fn a_transaction_within_is_checked_as_the_one_around_it() {
    let mut machine = with_users();
    let within = |op: Op| Op::Txn(Txn { failure: vec![op], ..Txn::default() });
    let forbidden = [
        Op::Put(put_op("c")),
        Op::Range(RangeRequest::key("c")),
        Op::Delete(DeleteRequest { range: KeyRange::all(), prev_kv: false }),
    ];
    for op in forbidden {
        let command = by(&machine, "u", txn([within(within(op))]));
        assert_eq!(machine.apply(&command), Err(AuthError::Denied.into()));
    }
}

/// The security fixes of 2026: a put within a transaction showed the value before, or took a lease with others' keys, to
/// whoever may only write.
#[test]
fn a_put_within_shows_nothing_and_takes_no_lease_that_it_may_not() {
    let mut machine = with_users();
    machine.must([put("a"), Command::LeaseGrant { id: 9, ttl: 60 }]);
    machine.must([txn([Op::Put(PutRequest { lease: 9, ..put_op("secret") })])]);
    let within =
        |request: PutRequest| txn([Op::Txn(Txn { success: vec![Op::Put(request)], ..Txn::default() })]);
    let shows = by(&machine, "u", within(PutRequest { prev_kv: true, ..put_op("a") }));
    assert_eq!(machine.apply(&shows), Err(AuthError::Denied.into()), "a may be written, not read");
    let takes = by(&machine, "u", within(PutRequest { lease: 9, ..put_op("b") }));
    assert_eq!(machine.apply(&takes), Err(AuthError::Denied.into()));
    let may = by(&machine, "u", within(PutRequest { prev_kv: true, ..put_op("b") }));
    machine.must([may]);
}

/// GHSA-xg4h-6gfc-h4m8: the right to one key gave a watch of everything to its right.
#[test]
fn the_right_to_a_key_is_not_the_right_to_what_follows_it() {
    let machine = with_users();
    let view = machine.view();
    let caller = Caller { user: "u".into(), revision: view.auth().revision() };
    let may = |range: KeyRange| view.auth().check_read(&caller, &range);
    assert_eq!(may(KeyRange::Key("b".into())), Ok(()));
    for range in [KeyRange::prefix("b"), KeyRange::all(), KeyRange::Key("ba".into())] {
        assert_eq!(may(range.clone()), Err(AuthError::Denied), "{range:?}");
    }
}

/// #17132: what a lease still had was forgotten with the second checkpoint, and a new leader gave it all its time anew.
#[test]
fn what_a_lease_still_has_is_remembered_until_its_end() {
    let mut machine = Machine::new();
    machine.must([Command::LeaseGrant { id: 7, ttl: 300 }]);
    for left in [200, 100] {
        machine.must([Command::LeaseCheckpoint { term: 1, remaining: vec![(7, left)] }]);
        let view = machine.crashed().view();
        assert_eq!(view.lease(7).map(|lease| (lease.ttl, lease.remaining)), Some((300, left)));
    }
}

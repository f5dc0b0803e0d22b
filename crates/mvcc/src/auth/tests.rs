//! Users, roles and tokens through the whole machine.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, MemoryEngine, Mvcc, MvccError,
    Op, PutRequest, RangeRequest, Response, Txn,
};

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

    fn apply(&mut self, command: Command) -> Result<Response, MvccError> {
        self.index += 1;
        let applied = self.mvcc.apply(self.index, 1, &command).expect("the engine");
        self.mvcc.commit(None).expect("commit");
        applied.response
    }

    fn auth(&mut self, command: AuthCommand) -> Result<Response, MvccError> {
        self.apply(Command::Auth(command))
    }

    fn must(&mut self, commands: impl IntoIterator<Item = AuthCommand>) {
        for command in commands {
            self.auth(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    /// Root, and a user `u` whose role permits `a` to `c` and reading `r`.
    fn enabled() -> Self {
        let mut machine = Self::new();
        machine.must([
            user("root"),
            grant("root", "root"),
            user("u"),
            AuthCommand::RoleAdd { name: "r".into() },
            permit("r", Access::ReadWrite, "a", "c"),
            permit("r", Access::Read, "r", ""),
            grant("u", "r"),
            AuthCommand::Enable,
        ]);
        machine
    }

    fn caller(&self, user: &str) -> Caller {
        Caller { user: user.into(), revision: self.mvcc.view().auth().revision() }
    }

    fn by(&mut self, user: &str, command: Command) -> Result<Response, MvccError> {
        let caller = self.caller(user);
        self.apply(command.by(caller))
    }

    fn steps(&mut self, user: &str, steps: Vec<Op>) -> Result<Response, MvccError> {
        self.by(user, Command::Txn(Txn { success: steps, ..Txn::default() }))
    }
}

fn user(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.into(), password: "hash".into(), no_password: false }
}

fn grant(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { user: user.into(), role: role.into() }
}

fn permit(role: &str, access: Access, key: &str, end: &str) -> AuthCommand {
    let permission = Permission { access, key: key.to_owned().into(), range_end: end.to_owned().into() };
    AuthCommand::RoleGrantPermission { role: role.into(), permission }
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

fn denied<T>() -> Result<T, MvccError> {
    Err(AuthError::Denied.into())
}

#[test]
fn nothing_is_checked_before_authentication_is_on_and_only_root_can_turn_it_on() {
    let mut machine = Machine::new();
    assert_eq!(machine.mvcc.view().auth().revision(), 1);
    machine.apply(Command::Txn(Txn::of(Op::Put(put("k")))).by(Caller::default())).expect("put");
    assert_eq!(machine.auth(AuthCommand::Enable), Err(AuthError::RootUserMissing.into()));
    machine.must([user("root")]);
    assert_eq!(machine.auth(AuthCommand::Enable), Err(AuthError::RootRoleMissing.into()));
    machine.must([grant("root", "root"), AuthCommand::Enable]);
    let put = Command::Txn(Txn::of(Op::Put(put("k"))));
    assert_eq!(machine.apply(put.clone().by(Caller::default())), Err(AuthError::UserEmpty.into()));
    machine.apply(put.clone()).expect("the cluster itself is not checked");
    machine.by("root", put).expect("root may");
    machine.by("root", Command::Auth(AuthCommand::Disable)).expect("disable");
    assert_eq!(machine.mvcc.view().auth().revision(), 4);
}

#[test]
fn a_caller_of_before_a_change_is_refused() {
    let mut machine = Machine::enabled();
    let before = machine.caller("u");
    machine.must([user("other")]);
    let put = Command::Txn(Txn::of(Op::Put(put("a"))));
    assert_eq!(machine.apply(put.clone().by(before)), Err(AuthError::OldRevision.into()));
    machine.by("u", put).expect("known anew");
}

#[test]
fn every_step_of_a_transaction_is_checked_whichever_branch_it_is_in() {
    let mut machine = Machine::enabled();
    machine.steps("u", vec![Op::Put(put("a")), Op::Range(RangeRequest::key("r"))]).expect("permitted");
    assert_eq!(machine.steps("u", vec![Op::Put(put("c"))]), denied());
    assert_eq!(machine.steps("u", vec![Op::Put(put("r"))]), denied());
    let inner = Op::Txn(Txn { failure: vec![Op::Put(put("z"))], ..Txn::default() });
    let outer = Op::Txn(Txn { success: vec![inner], ..Txn::default() });
    assert_eq!(machine.steps("u", vec![outer]), denied());
    let compare = |key: &'static str| Compare {
        range: KeyRange::Key(key.into()),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let asks = |key| Command::Txn(Txn { compare: vec![compare(key)], ..Txn::default() });
    machine.by("u", asks("r")).expect("may be read");
    assert_eq!(machine.by("u", asks("s")), denied());
}

#[test]
fn previous_values_need_the_right_to_read() {
    let mut machine = Machine::enabled();
    machine.must([permit("r", Access::Write, "w", "x")]);
    machine.steps("u", vec![Op::Put(put("w"))]).expect("written blindly");
    assert_eq!(machine.steps("u", vec![Op::Put(PutRequest { prev_kv: true, ..put("w") })]), denied());
    let delete = |prev_kv| {
        let range = KeyRange::Interval { start: "w".into(), end: "x".into() };
        vec![Op::Delete(DeleteRequest { range, prev_kv })]
    };
    assert_eq!(machine.steps("u", delete(true)), denied());
    machine.steps("u", delete(false)).expect("deleted blindly");
}

#[test]
fn a_lease_is_attached_and_ended_by_whoever_may_write_its_keys() {
    let mut machine = Machine::enabled();
    let lease = |key: &str| Op::Put(PutRequest { lease: 7, ..put(key) });
    assert_eq!(
        machine.by("", Command::LeaseGrant { id: 7, ttl: 60 }),
        Err(AuthError::UserEmpty.into()),
        "who grants must be known"
    );
    machine.by("u", Command::LeaseGrant { id: 7, ttl: 60 }).expect("grant");
    machine.steps("u", vec![lease("a")]).expect("attach");
    machine.steps("root", vec![lease("z")]).expect("attach");
    assert_eq!(machine.steps("u", vec![lease("b")]), denied());
    assert_eq!(machine.by("u", Command::LeaseRevoke { id: 7 }), denied());
    let (view, caller) = (machine.mvcc.view(), machine.caller("u"));
    let found = view.lease(7).expect("lease");
    assert_eq!(view.auth().check_lease_read(&caller, found), Err(AuthError::Denied));
    machine.apply(Command::LeaseRevoke { id: 7 }).expect("its time ends it, whoever attached");
}

#[test]
fn what_would_lock_everybody_out_is_refused() {
    let mut machine = Machine::enabled();
    machine.must([AuthCommand::RoleAdd { name: "root".into() }]);
    let locking = [
        AuthCommand::UserDelete { name: "root".into() },
        AuthCommand::RoleDelete { name: "root".into() },
        AuthCommand::UserRevokeRole { user: "root".into(), role: "root".into() },
        permit("r", Access::Read, "", ""),
        permit("r", Access::Read, "b", "a"),
    ];
    for command in locking {
        assert_eq!(machine.auth(command), Err(AuthError::InvalidManagement.into()));
    }
    let names = [
        (user(""), AuthError::UserEmpty),
        (user("u"), AuthError::UserExists),
        (AuthCommand::RoleAdd { name: String::new() }, AuthError::RoleEmpty),
        (AuthCommand::RoleAdd { name: "r".into() }, AuthError::RoleExists),
        (grant("nobody", "r"), AuthError::UserNotFound),
        (grant("u", "nothing"), AuthError::RoleNotFound),
        (permit("nothing", Access::Read, "a", ""), AuthError::RoleNotFound),
    ];
    for (command, error) in names {
        assert_eq!(machine.by("root", Command::Auth(command.clone())), Err(error.into()));
        assert!(machine.by("u", Command::Auth(command)).is_err(), "only root manages");
    }
}

#[test]
fn a_role_that_goes_goes_from_its_users() {
    let mut machine = Machine::enabled();
    machine.must([AuthCommand::RoleDelete { name: "r".into() }]);
    assert_eq!(machine.steps("u", vec![Op::Put(put("a"))]), denied());
    assert!(machine.mvcc.view().auth().user("u").expect("user").roles.is_empty());
}

fn assign(machine: &mut Machine, user: &str, digest: impl Into<Bytes>) -> Result<Response, MvccError> {
    let revision = machine.mvcc.view().auth().revision();
    machine.auth(AuthCommand::TokenAssign { user: user.into(), revision, digest: digest.into() })
}

#[test]
fn a_token_ends_with_its_user_password_or_disuse() {
    let mut machine = Machine::enabled();
    let known =
        |machine: &Machine, digest: &str| machine.mvcc.view().auth().token(digest.as_bytes()).cloned();
    assign(&mut machine, "u", "1").expect("token");
    let first = known(&machine, "1").expect("known");
    assert_eq!((&*first.user, first.index), ("u", first.used));
    machine.must([AuthCommand::UserChangePassword { name: "u".into(), password: "new".into() }]);
    assert_eq!(known(&machine, "1"), None);
    assert_eq!(assign(&mut machine, "nobody", "2"), Err(AuthError::Failed.into()));
    let stale = AuthCommand::TokenAssign { user: "u".into(), revision: 1, digest: "2".into() };
    assert_eq!(machine.auth(stale), Err(AuthError::OldRevision.into()));

    assign(&mut machine, "u", "2").expect("token");
    let seen = known(&machine, "2").expect("known").used;
    machine.must([AuthCommand::TokensUsed { digests: vec!["2".into(), "unknown".into()] }]);
    let forget = |used| AuthCommand::TokensForget { tokens: vec![TokenUse { digest: "2".into(), used }] };
    machine.must([forget(seen)]);
    let used = known(&machine, "2").expect("it was used since").used;
    machine.must([forget(used)]);
    assert_eq!(known(&machine, "2"), None);

    assign(&mut machine, "u", "3").expect("token");
    machine.must([AuthCommand::Disable]);
    assert_eq!(known(&machine, "3"), None);
    assert_eq!(assign(&mut machine, "u", "4"), Err(AuthError::NotEnabled.into()));
}

#[test]
fn of_too_many_tokens_the_one_that_was_not_used_for_longest_goes() {
    let mut machine = Machine::enabled();
    let digest = |number: usize| Bytes::copy_from_slice(&number.to_be_bytes());
    let revision = machine.mvcc.view().auth().revision();
    for number in 0..MAX_TOKENS {
        let token = AuthCommand::TokenAssign { user: "u".into(), revision, digest: digest(number) };
        machine.index += 1;
        machine
            .mvcc
            .apply(machine.index, 1, &Command::Auth(token))
            .expect("the engine")
            .response
            .expect("token");
    }
    machine.must([AuthCommand::TokensUsed { digests: vec![digest(0)] }]);
    assert_eq!(machine.mvcc.view().auth().tokens().count(), MAX_TOKENS);
    assign(&mut machine, "u", "one more").expect("token");
    let view = machine.mvcc.view();
    assert_eq!(view.auth().tokens().count(), MAX_TOKENS);
    assert!(view.auth().token(&digest(0)).is_some() && view.auth().token(&digest(1)).is_none());
}

/// Names of few users, roles and keys, so that commands meet.
fn command() -> impl Strategy<Value = AuthCommand> {
    let name = || prop_oneof![Just("root"), Just("a"), Just("b")].prop_map(str::to_owned);
    let key = || prop_oneof![Just(""), Just("\0"), Just("k"), Just("l")].prop_map(Bytes::from);
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    let permission =
        (access, key(), key()).prop_map(|(access, key, range_end)| Permission { access, key, range_end });
    prop_oneof![
        2 => Just(AuthCommand::Enable),
        1 => Just(AuthCommand::Disable),
        4 => (name(), any::<bool>()).prop_map(|(name, no_password)| {
            AuthCommand::UserAdd { name, password: "hash".into(), no_password }
        }),
        1 => name().prop_map(|name| AuthCommand::UserDelete { name }),
        1 => name().prop_map(|name| AuthCommand::UserChangePassword { name, password: "x".into() }),
        6 => (name(), name()).prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
        1 => (name(), name()).prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
        4 => name().prop_map(|name| AuthCommand::RoleAdd { name }),
        1 => name().prop_map(|name| AuthCommand::RoleDelete { name }),
        6 => (name(), permission)
            .prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
        1 => (name(), key(), key()).prop_map(|(role, key, range_end)| {
            AuthCommand::RoleRevokePermission { role, key, range_end }
        }),
        3 => (name(), 0u64..20, any::<u8>()).prop_map(|(user, revision, digest)| {
            AuthCommand::TokenAssign { user, revision, digest: vec![digest].into() }
        }),
        1 => any::<u8>().prop_map(|digest| AuthCommand::TokensUsed { digests: vec![vec![digest].into()] }),
    ]
}

proptest! {
    #[test]
    fn replicas_agree_and_a_restart_or_a_snapshot_changes_nothing(
        commands in proptest::collection::vec(command(), 0..40),
        restart in any::<prop::sample::Index>(),
    ) {
        let (mut one, mut other) = (Machine::new(), Machine::new());
        let restart = restart.index(commands.len().max(1));
        for (number, command) in commands.into_iter().enumerate() {
            if number == restart {
                // A snapshot is a copy of the engine.
                let engine = other.engine.fork();
                other = Machine { mvcc: Mvcc::open(engine.clone()).expect("open"), engine, index: other.index };
            }
            let before = one.mvcc.view().auth().clone();
            let answer = one.auth(command.clone());
            prop_assert_eq!(&answer, &other.auth(command));
            if answer.is_err() {
                let after = one.mvcc.view();
                prop_assert_eq!(after.auth(), &before, "what is refused changes nothing");
            }
            let (one, other) = (one.mvcc.view(), other.mvcc.view());
            prop_assert_eq!(one.auth(), other.auth());
        }
    }
}

use super::check::check_within;
use super::search::{Model, Span, Verdict, search};
use super::*;

/// A history written down by hand: each operation with the times of its call and answer.
#[derive(Default)]
struct Told(History);

impl Told {
    fn new() -> Self {
        Self(History { first_revision: 1, ..History::default() })
    }

    fn operation(mut self, call: u64, end: u64, request: Request, response: Response) -> Self {
        let client = self.0.operations.len();
        self.0.operations.push(Operation { client, call, request, answer: Some((end, response)) });
        self
    }

    fn lost(mut self, call: u64, request: Request) -> Self {
        let client = self.0.operations.len();
        self.0.operations.push(Operation { client, call, request, answer: None });
        self
    }

    /// A put that was answered with a revision, and with what was there before.
    fn put(self, call: u64, end: u64, key: &str, value: &str, revision: i64, before: Option<Kv>) -> Self {
        let response = Response::Txn { revision, succeeded: true, outcomes: vec![Outcome::Put(before)] };
        self.operation(call, end, put(key, value), response)
    }

    fn get(self, call: u64, end: u64, revision: i64, kvs: &[Kv]) -> Self {
        self.read(call, end, 0, false, revision, kvs)
    }

    fn read(self, call: u64, end: u64, at: i64, serializable: bool, revision: i64, kvs: &[Kv]) -> Self {
        let request = Request::Range { keys: all(), revision: at, serializable };
        self.operation(call, end, request, Response::Range { revision, kvs: kvs.to_vec() })
    }

    fn watch(mut self, items: Vec<Item>) -> Self {
        let name = "watcher".to_owned();
        let (others, seen) = (false, Vec::new());
        let stream = Stream { name, keys: all(), previous: true, others, items, seen };
        self.0.streams.push(stream);
        self
    }

    #[track_caller]
    fn good(&self) {
        assert_eq!(check(&self.0), Vec::<String>::new());
    }

    #[track_caller]
    fn bad(&self, text: &str) {
        let wrong = check(&self.0);
        assert!(wrong.iter().any(|line| line.contains(text)), "expected {text:?} in {wrong:?}");
    }
}

fn all() -> Keys {
    Keys::range("a", "z")
}

fn put(key: &str, value: &str) -> Request {
    leased(key, value, 0)
}

fn leased(key: &str, value: &str, lease: i64) -> Request {
    let step = Step::Put { key: key.to_owned(), value: value.to_owned(), lease };
    Request::Txn { compares: Vec::new(), then: vec![step], otherwise: Vec::new() }
}

fn cas(key: &str, mod_revision: i64, value: &str) -> Request {
    let Request::Txn { then, .. } = put(key, value) else { unreachable!() };
    let compares = vec![Compare { key: key.to_owned(), mod_revision }];
    Request::Txn { compares, then, otherwise: vec![Step::Get(Keys::one(key))] }
}

fn kv(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Kv {
    let (key, value) = (key.to_owned(), value.to_owned());
    Kv { key, value, create_revision, mod_revision, version, lease: 0 }
}

fn changed(revision: i64, now: Kv, before: Option<Kv>) -> Change {
    Change { revision, key: now.key.clone(), now: Some(now), before }
}

#[test]
fn what_happened_one_after_the_other_is_accepted() {
    let (a1, a2) = (kv("a", "1", 2, 2, 1), kv("a", "2", 2, 3, 2));
    Told::new()
        .put(0, 1, "a", "1", 2, None)
        .get(2, 3, 2, std::slice::from_ref(&a1))
        .put(4, 5, "a", "2", 3, Some(a1.clone()))
        .get(6, 7, 3, std::slice::from_ref(&a2))
        .read(8, 9, 0, true, 2, std::slice::from_ref(&a1))
        .read(8, 9, 2, false, 3, &[a1])
        .good();
}

#[test]
fn concurrent_operations_may_take_effect_in_either_order() {
    let (x, y) = (kv("a", "x", 2, 2, 1), kv("a", "y", 2, 3, 2));
    Told::new()
        .put(0, 10, "a", "y", 3, Some(x.clone()))
        .put(1, 9, "a", "x", 2, None)
        .get(2, 8, 2, &[x])
        .get(3, 8, 3, &[y])
        .good();
}

#[test]
fn a_stale_read_is_refused_unless_it_asked_for_one() {
    let (a1, a2) = (kv("a", "1", 2, 2, 1), kv("a", "2", 2, 3, 2));
    let told = || Told::new().put(0, 1, "a", "1", 2, None).put(2, 3, "a", "2", 3, Some(a1.clone()));
    told().get(4, 5, 2, std::slice::from_ref(&a1)).bad("key a is not linearizable");
    told().read(4, 5, 0, true, 2, std::slice::from_ref(&a1)).good();
    told().get(4, 5, 2, std::slice::from_ref(&a2)).bad("no order explains");
    told().read(4, 5, 0, true, 2, &[a2]).bad("revision 2 holds");
}

#[test]
fn a_read_of_what_was_never_written_is_refused() {
    Told::new().put(0, 1, "a", "1", 2, None).get(0, 1, 2, &[kv("a", "9", 2, 2, 1)]).bad("key a");
}

#[test]
fn a_read_of_what_was_written_later_is_refused() {
    let a = kv("a", "1", 2, 2, 1);
    Told::new().get(0, 1, 2, std::slice::from_ref(&a)).put(2, 3, "a", "1", 2, None).bad("key a");
    Told::new().read(0, 1, 0, true, 2, &[a]).put(2, 3, "a", "1", 2, None).bad("revision 2 was made later");
}

#[test]
fn a_lost_update_is_refused() {
    let won = |revision, before: &Kv| Response::Txn {
        revision,
        succeeded: true,
        outcomes: vec![Outcome::Put(Some(before.clone()))],
    };
    let a = kv("a", "1", 2, 2, 1);
    Told::new()
        .put(0, 1, "a", "1", 2, None)
        .operation(2, 9, cas("a", 2, "x"), won(3, &a))
        .operation(2, 9, cas("a", 2, "y"), won(4, &a))
        .bad("no order explains");
    let lost = Response::Txn {
        revision: 3,
        succeeded: false,
        outcomes: vec![Outcome::Got(vec![kv("a", "x", 2, 3, 2)])],
    };
    Told::new()
        .put(0, 1, "a", "1", 2, None)
        .operation(2, 9, cas("a", 2, "x"), won(3, &a))
        .operation(2, 9, cas("a", 2, "y"), lost)
        .good();
}

#[test]
fn a_write_that_was_applied_twice_is_refused() {
    Told::new().put(0, 1, "a", "1", 2, None).get(2, 3, 3, &[kv("a", "1", 2, 3, 2)]).bad("no order explains");
}

#[test]
fn a_revision_that_goes_back_is_refused() {
    Told::new().put(0, 1, "a", "1", 2, None).put(2, 3, "b", "2", 2, None).bad("no order explains");
    Told::new().put(0, 1, "a", "1", 3, None).put(2, 3, "b", "2", 2, None).bad("no order explains");
}

#[test]
fn a_lost_write_may_have_happened_or_not() {
    let a = kv("a", "1", 2, 2, 1);
    Told::new().lost(0, put("a", "1")).get(5, 6, 1, &[]).good();
    Told::new().lost(0, put("a", "1")).get(5, 6, 2, std::slice::from_ref(&a)).good();
    // Late, between two reads.
    Told::new().lost(0, put("a", "1")).get(5, 6, 1, &[]).get(7, 8, 2, std::slice::from_ref(&a)).good();
    // But not before its call, and not undone.
    Told::new().get(0, 1, 2, std::slice::from_ref(&a)).lost(5, put("a", "1")).bad("key a");
    Told::new().lost(0, put("a", "1")).get(5, 6, 2, &[a]).get(7, 8, 1, &[]).bad("key a");
}

#[test]
fn what_watchers_saw_says_when_a_lost_write_happened() {
    let (a, b) = (kv("a", "1", 2, 2, 1), kv("b", "2", 3, 3, 1));
    let changes = vec![changed(2, a, None), changed(3, b, None)];
    let items = || vec![Item::Opened { from: 2 }, Item::Changes { revision: 3, changes: changes.clone() }];
    let told = || Told::new().lost(0, put("a", "1")).lost(0, put("c", "3"));
    told().put(1, 2, "b", "2", 3, None).watch(items()).good();
    told().put(1, 2, "b", "2", 2, None).watch(items()).bad("came where");
    told().put(1, 2, "b", "2", 3, None).get(5, 6, 4, &[]).watch(items()).bad("key");
}

#[test]
fn what_watchers_saw_says_which_of_two_lost_deletes_came_first() {
    let (b, c) = (kv("b", "1", 2, 2, 1), kv("c", "2", 3, 3, 1));
    let delete = |key: &str| Request::Txn {
        compares: Vec::new(),
        then: vec![Step::Delete(Keys::one(key))],
        otherwise: Vec::new(),
    };
    let gone =
        |revision, kv: &Kv| Change { revision, key: kv.key.clone(), now: None, before: Some(kv.clone()) };
    let changes = vec![changed(2, b.clone(), None), changed(3, c.clone(), None), gone(4, &c), gone(5, &b)];
    Told::new()
        .put(0, 1, "b", "1", 2, None)
        .put(2, 3, "c", "2", 3, None)
        .lost(4, delete("b"))
        .lost(5, delete("c"))
        .get(6, 7, 5, &[])
        .watch(vec![Item::Opened { from: 2 }, Item::Changes { revision: 5, changes }])
        .good();
}

#[test]
fn leases_take_their_keys_with_them() {
    let mut attached = kv("a", "1", 2, 2, 1);
    attached.lease = 7;
    let done = || Response::Txn { revision: 2, succeeded: true, outcomes: vec![Outcome::Put(None)] };
    let told = || {
        Told::new().operation(0, 1, Request::Grant { lease: 7 }, Response::Done).operation(
            2,
            3,
            leased("a", "1", 7),
            done(),
        )
    };
    let revoke = || Request::Revoke { lease: 7 };
    told().operation(4, 5, revoke(), Response::Done).get(6, 7, 3, &[]).good();
    told()
        .operation(4, 5, revoke(), Response::Done)
        .get(6, 7, 3, std::slice::from_ref(&attached))
        .bad("key a");
    told().lost(4, revoke()).get(6, 7, 2, &[attached]).get(8, 9, 3, &[]).good();
    let refused = || Response::Refused(Refusal::NoLease);
    told().operation(4, 5, revoke(), refused()).bad("no order explains");
    Told::new().operation(0, 1, leased("a", "1", 7), refused()).get(2, 3, 1, &[]).good();
}

#[test]
fn compacted_revisions_are_refused_and_only_those() {
    let a1 = kv("a", "1", 2, 2, 1);
    let at = |revision, serializable| Request::Range { keys: all(), revision, serializable };
    let compacted = || Response::Refused(Refusal::Compacted);
    let told = || {
        Told::new().put(0, 1, "a", "1", 2, None).put(2, 3, "a", "2", 3, Some(a1.clone())).operation(
            4,
            5,
            Request::Compact { revision: 3 },
            Response::Done,
        )
    };
    told().operation(6, 7, at(2, false), compacted()).operation(6, 7, at(2, true), compacted()).good();
    told().operation(6, 7, at(3, false), compacted()).bad("no order explains");
    told().operation(6, 7, at(3, true), compacted()).bad("nobody compacted");
    told().read(6, 7, 2, false, 3, &[a1]).bad("no order explains");
}

#[test]
fn transactions_do_all_or_nothing_in_one_revision() {
    let steps = ["a", "b"].map(|key| Step::Put { key: key.into(), value: format!("{key}1"), lease: 0 });
    let both = Request::Txn { compares: Vec::new(), then: steps.to_vec(), otherwise: Vec::new() };
    let done = Response::Txn { revision: 2, succeeded: true, outcomes: vec![Outcome::Put(None); 2] };
    let (a, b) = (kv("a", "a1", 2, 2, 1), kv("b", "b1", 2, 2, 1));
    let told = || Told::new().operation(0, 9, both.clone(), done.clone());
    told().get(1, 8, 1, &[]).get(1, 8, 2, &[a.clone(), b.clone()]).good();
    told().get(1, 8, 2, std::slice::from_ref(&a)).bad("no order explains");
    // A watcher must get both at once.
    let (a, b) = (changed(2, a, None), changed(2, b, None));
    let whole = vec![Item::Changes { revision: 2, changes: vec![a.clone(), b.clone()] }];
    let torn = [a, b].map(|change| Item::Changes { revision: 2, changes: vec![change] }).to_vec();
    let opened = |items: Vec<Item>| [vec![Item::Opened { from: 1 }], items].concat();
    told().watch(opened(whole)).good();
    told().watch(opened(torn)).bad("came in parts");
}

#[test]
fn watchers_get_everything_once_in_order_and_exactly() {
    let kvs: Vec<Kv> = (0..4).map(|n| kv("a", &n.to_string(), 2, n + 2, n + 1)).collect();
    let before = |n: usize| n.checked_sub(1).map(|n| kvs[n].clone());
    let told = (0..4).fold(Told::new(), |told, n| {
        let at = 10 * n as u64;
        told.put(at, at + 5, "a", &n.to_string(), n as i64 + 2, before(n))
    });
    let one = |n: usize| {
        let change = changed(n as i64 + 2, kvs[n].clone(), before(n));
        Item::Changes { revision: 5, changes: vec![change] }
    };
    let with = |items: Vec<Item>| Told(History { streams: Vec::new(), ..told.0.clone() }).watch(items);
    let opened = |from| Item::Opened { from };
    let progress = |revision| Item::Progress { revision };
    with(vec![opened(2), one(0), one(1), progress(3), one(2), opened(5), one(3), progress(5)]).good();
    with(vec![opened(2), one(0), one(2)]).bad("came where");
    with(vec![opened(2), one(0), one(0)]).bad("came where");
    with(vec![opened(2), one(1), one(0)]).bad("came where");
    with(vec![opened(2), one(0), opened(4), one(1)]).bad("came where");
    with(vec![opened(2), one(0), progress(3), one(1)]).bad("a bookmark at 3 is ahead of");
    with(vec![opened(2), progress(9)]).bad("only 5 revisions");
    with(vec![opened(2), Item::Compacted { revision: 3 }]).bad("told that 3 is compacted");
    let wrong = Change { before: before(1), ..changed(2, kvs[0].clone(), None) };
    with(vec![opened(2), Item::Changes { revision: 2, changes: vec![wrong] }]).bad("before it was None");
    let unheard = changed(6, kv("a", "9", 2, 6, 5), None);
    with(vec![opened(6), Item::Changes { revision: 6, changes: vec![unheard] }]).bad("never happened");
}

#[test]
fn a_search_that_is_too_long_says_so() {
    let told = (0..20).fold(Told::new(), |told, n| told.lost(0, put("a", &n.to_string())));
    let told = told.get(50, 60, 21, &[kv("a", "nobody", 2, 21, 20)]);
    let wrong = check_within(&told.0, 1000);
    assert!(wrong[0].contains("undecided after 1000 steps"), "{wrong:?}");
}

/// A counter that answers what it was before; many operations at once.
struct Counter(Vec<u64>);

impl Model for Counter {
    type State = u64;

    fn step(&self, state: &u64, operation: usize) -> Option<u64> {
        (self.0[operation] == *state).then_some(state + 1)
    }
}

#[test]
fn a_long_history_of_many_clients_is_ordered() {
    // Operation n takes effect at n, is called up to eight before and answered up to eight after.
    let spans: Vec<Span> = (0..5000_u64)
        .map(|n| Span { call: 10 * (n + 8) - 10 * (n * 7 % 9), end: Some(10 * (n + 8) + 10 * (n * 5 % 9)) })
        .collect();
    let counter = Counter((0..5000).collect());
    assert_eq!(search(&counter, 0, &spans, 10_000_000), Verdict::Order((0..5000).collect()));
    let mut wrong = Counter((0..5000).collect());
    wrong.0.swap(2000, 3000);
    assert!(matches!(search(&wrong, 0, &spans, 10_000_000), Verdict::Refused { .. }));
}

/// A watcher of what others wrote, who was told of each change at once.
fn watched(changes: &[(u64, Change)]) -> Stream {
    let item = |(_, change): &(u64, Change)| Item::Changes {
        revision: change.revision,
        changes: vec![change.clone()],
    };
    Stream {
        name: "watcher of others".to_owned(),
        keys: Keys::range("x/", "x0"),
        previous: false,
        others: true,
        items: changes.iter().map(item).collect(),
        seen: changes.iter().map(|(at, change)| (*at, change.revision)).collect(),
    }
}

fn came(revision: i64, key: &str) -> Change {
    changed(revision, kv(key, "x", revision, revision, 1), None)
}

fn went(revision: i64, key: &str) -> Change {
    Change { revision, key: key.to_owned(), now: None, before: None }
}

#[test]
fn what_others_wrote_takes_revisions_of_its_own() {
    let a = kv("a", "1", 3, 3, 1);
    let told = |changes: &[(u64, Change)]| {
        let mut told = Told::new().put(0, 1, "a", "1", 3, None).get(6, 7, 4, std::slice::from_ref(&a));
        told.0.streams.push(watched(changes));
        told
    };
    told(&[(1, came(2, "x/a")), (5, went(4, "x/a"))]).good();
    // Nobody was told of revision 2: somebody made it.
    told(&[(5, went(4, "x/a"))]).good();
    // It was there only after the read that shows it was answered.
    let mut late = told(&[(1, came(2, "x/a")), (5, went(4, "x/a"))]);
    late = late.get(8, 9, 3, std::slice::from_ref(&a));
    late.bad("no order explains");
    // Watchers were told of different things.
    let mut differ = told(&[(1, came(2, "x/a")), (5, went(4, "x/a"))]);
    differ.0.streams.push(watched(&[(1, came(2, "x/b")), (5, went(4, "x/a"))]));
    differ.bad("x/b=x (version 1) came where revision 2, x/a=x");
}

#[test]
fn a_lease_that_ends_before_its_time_is_refused_unless_somebody_ended_it() {
    let session = |given: &[(u64, u64)], revoked, gone| {
        let (key, given) = ("x/kept/1".to_owned(), given.to_vec());
        let session = Session { lease: 1, key, given, revoked, gone };
        let mut told = Told::new();
        told.0.streams.push(watched(&[(5, came(2, "x/kept/1")), (30, went(3, "x/kept/1"))]));
        told.0.sessions.push(session);
        told
    };
    session(&[(0, 20), (9, 20)], None, Some(31)).good();
    session(&[(0, 20), (11, 20)], None, None).bad("its key was deleted");
    session(&[(0, 20), (11, 20)], Some(29), None).good();
    session(&[(0, 20), (11, 20)], Some(31), None).bad("its key was deleted");
    let mut gone = session(&[(0, 20)], None, Some(19));
    gone.0.streams.clear();
    gone.bad("it was gone");
}

#[test]
fn a_lock_has_one_holder_at_each_revision_and_at_each_moment() {
    let hold = |client, key: &str, since, revision, until| {
        let key = key.to_owned();
        Hold { client, key, since, revision, until, fenced: Vec::new() }
    };
    let lease = |lease, key: &str| {
        let key = key.to_owned();
        Session { lease, key, given: vec![(0, 100)], revoked: Some(40), gone: None }
    };
    let told = |holds: &[Hold]| {
        let mut told = Told::new();
        let queue = [came(2, "x/lock/1"), came(3, "x/lock/2"), went(4, "x/lock/1"), went(5, "x/lock/2")];
        told.0.streams.push(watched(&queue.map(|change| (10 * change.revision.cast_unsigned(), change))));
        told.0.sessions.extend([lease(1, "x/lock/1"), lease(2, "x/lock/2")]);
        told.0.holds.extend_from_slice(holds);
        told
    };
    let (first, second) = (hold(1, "x/lock/1", 20, 2, Some(40)), hold(2, "x/lock/2", 41, 4, None));
    told(&[first.clone(), second.clone()]).good();
    told(&[hold(2, "x/lock/2", 41, 3, None)])
        .bad("at revision 3 the first in the queue is Some(\"x/lock/1\")");
    told(&[Hold { fenced: vec![2, 4], ..first.clone() }]).bad("at revision 4");
    told(&[Hold { until: None, ..first }, second]).bad("two held one lock at the same time");
}

#[test]
fn a_right_that_was_taken_is_not_used_and_one_that_was_given_not_refused() {
    let told = |attempts: &[Attempt]| {
        let mut told = Told::new();
        told.0.attempts.extend_from_slice(attempts);
        told
    };
    let attempt = |call, act, answer| Attempt { client: 1, call, act, answer };
    let using = |call, end, done| attempt(call, Act::Use, Some((end, done)));
    let set = |condition, to| Act::Set { condition, to };
    let taken = attempt(0, set(1, false), Some((1, true)));
    told(&[taken.clone(), using(2, 3, false)]).good();
    told(&[taken.clone(), using(2, 3, true)]).bad("no order explains what was permitted");
    told(&[taken.clone(), using(0, 3, true)]).good();
    told(&[using(2, 3, false)]).bad("no order explains what was permitted");
    // What was lost may have been done, and what is refused was done already.
    let lost = attempt(0, set(0, false), None);
    told(&[lost.clone(), using(2, 3, true), using(4, 5, false)]).good();
    told(&[lost, attempt(2, set(0, false), Some((3, false))), using(4, 5, true)])
        .bad("no order explains what was permitted");
}

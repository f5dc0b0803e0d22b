//! Operations and streams as clients record them (pure).

use std::fmt;

use serde::Serialize;

/// A key with its value and what the store says about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Kv {
    /// Its name.
    pub key: String,
    /// Unique among all values that were ever written.
    pub value: String,
    /// The revision that made it.
    pub create_revision: i64,
    /// The revision that changed it last.
    pub mod_revision: i64,
    /// How often it was written since it was made.
    pub version: i64,
    /// The lease it is attached to, or 0.
    pub lease: i64,
}

/// One key, or all from one up to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Keys {
    /// The first.
    pub from: String,
    /// The first that does not belong to them; empty for one key.
    pub end: String,
}

impl Keys {
    /// A single key.
    pub fn one(key: &str) -> Self {
        Self { from: key.to_owned(), end: String::new() }
    }

    /// All keys from one up to, but not with, another.
    pub fn range(from: &str, end: &str) -> Self {
        Self { from: from.to_owned(), end: end.to_owned() }
    }

    /// Whether it is one of them.
    pub fn contains(&self, key: &str) -> bool {
        if self.end.is_empty() {
            return self.from == key;
        }
        self.from.as_str() <= key && key < self.end.as_str()
    }
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Writes a key.
    Put {
        /// Which.
        key: String,
        /// What.
        value: String,
        /// Attached to this lease; 0 for none.
        lease: i64,
    },
    /// Deletes keys.
    Delete(Keys),
    /// Reads keys.
    Get(Keys),
}

/// Holds when the key was last changed by this revision; by 0 when there is no such key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// The revision.
    pub mod_revision: i64,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Request {
    /// A read.
    Range {
        /// Of what.
        keys: Keys,
        /// As it was at this revision; 0 for now.
        revision: i64,
        /// Whether an old state will do.
        serializable: bool,
    },
    /// A transaction; a put or a delete is one without compares and with one step.
    Txn {
        /// All must hold.
        compares: Vec<Compare>,
        /// Done when they do.
        then: Vec<Step>,
        /// Done when they do not.
        otherwise: Vec<Step>,
    },
    /// A lease that outlives the history.
    Grant {
        /// Its number.
        lease: i64,
    },
    /// The end of a lease and of what is attached to it.
    Revoke {
        /// Its number.
        lease: i64,
    },
    /// History before this revision is given up.
    Compact {
        /// The revision.
        revision: i64,
    },
    /// What somebody did whose requests are not recorded, as watchers tell (`others.rs`); no client asks for it.
    Others {
        /// The revision that it made.
        revision: i64,
        /// What it changed: none of the keys that recorded requests touch.
        changes: Vec<Change>,
    },
}

/// What a step of a transaction answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Of a put: what was there before.
    Put(Option<Kv>),
    /// Of a delete: what was deleted.
    Deleted(Vec<Kv>),
    /// Of a get.
    Got(Vec<Kv>),
}

/// Why the store refused, with no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Refusal {
    /// The revision has been compacted.
    Compacted,
    /// The revision is in the future.
    FutureRevision,
    /// There is no such lease.
    NoLease,
    /// There is such a lease already.
    LeaseExists,
}

/// What the store answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Response {
    /// To a read.
    Range {
        /// The store's revision.
        revision: i64,
        /// What was found.
        kvs: Vec<Kv>,
    },
    /// To a transaction.
    Txn {
        /// The store's revision after it.
        revision: i64,
        /// Whether all compares held.
        succeeded: bool,
        /// One for each step.
        outcomes: Vec<Outcome>,
    },
    /// The lease was made, or ended, or history was given up.
    Done,
    /// No effect.
    Refused(Refusal),
}

/// A request and what became of it. Times are nanoseconds on one clock for all clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// When.
    pub call: u64,
    /// What.
    pub request: Request,
    /// When the answer came, and the answer; `None` when it is not known whether it happened.
    pub answer: Option<(u64, Response)>,
}

impl Operation {
    /// Whether it reads a state that need not be the newest, so that no order with others is promised.
    pub fn reads_the_past(&self) -> bool {
        matches!(self.request, Request::Range { serializable: true, .. })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |nanos: u64| nanos / 1000;
        write!(out, "client {} at {} µs: {:?}", self.client, micros(self.call), self.request)?;
        match &self.answer {
            Some((at, response)) => write!(out, " answered at {} µs: {response:?}", micros(*at)),
            None => write!(out, ", answer lost"),
        }
    }
}

/// A change that a watcher was told of, or that the model made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// By which revision.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What it is now; `None` when it was deleted.
    pub now: Option<Kv>,
    /// What it was before.
    pub before: Option<Kv>,
}

/// What a watcher was told, one message at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Item {
    /// It asked for everything from this revision on; also when it went on after the stream broke.
    Opened {
        /// The revision.
        from: i64,
    },
    /// Changes.
    Changes {
        /// The header's revision.
        revision: i64,
        /// In the order they came.
        changes: Vec<Change>,
    },
    /// A bookmark: nothing up to this revision is still to come.
    Progress {
        /// The revision.
        revision: i64,
    },
    /// The watch was ended, since what it asked for has been compacted.
    Compacted {
        /// The oldest revision that there is.
        revision: i64,
    },
}

/// A watcher's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// For people.
    pub name: String,
    /// What it watches.
    pub keys: Keys,
    /// Whether it asked for what was there before.
    pub previous: bool,
    /// Whether its keys are those of clients whose requests are not recorded.
    pub others: bool,
    /// What it was told.
    pub items: Vec<Item>,
    /// When it was told of changes, and up to which revision.
    pub seen: Vec<(u64, i64)>,
}

/// Everything that was recorded of a store that began empty.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    /// The revision of the empty store.
    pub first_revision: i64,
    /// All clients' operations.
    pub operations: Vec<Operation>,
    /// All watchers.
    pub streams: Vec<Stream>,
    /// Leases that were kept alive for a while.
    pub sessions: Vec<Session>,
    /// Locks that were held, with the keys of [`Session`]s.
    pub holds: Vec<Hold>,
    /// Rights that were given, taken, and made use of.
    pub attempts: Vec<Attempt>,
}

/// A lease that was granted, with a key attached to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// Its number.
    pub lease: i64,
    /// The only key that is attached to it.
    pub key: String,
    /// Calls of the grant and of renewals that were answered, each with the nanoseconds that it gave.
    pub given: Vec<(u64, u64)>,
    /// When its end was asked for by name, whatever became of that.
    pub revoked: Option<u64>,
    /// When it was answered that there is no such lease.
    pub gone: Option<u64>,
}

impl Session {
    /// It may not end by itself before.
    pub fn lasts_until(&self) -> u64 {
        self.given.iter().map(|(call, ttl)| call + ttl).max().unwrap_or(0)
    }
}

/// A lock that was answered to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Who holds it.
    pub client: usize,
    /// The key in the queue of those who want it; a [`Session`]'s.
    pub key: String,
    /// When it was answered.
    pub since: u64,
    /// The revision of the answer.
    pub revision: i64,
    /// When it was given back; `None` when it was left to the lease.
    pub until: Option<u64>,
    /// Revisions of writes that were made on condition that the key is there.
    pub fenced: Vec<i64>,
}

/// What is done about a right. There are two conditions for having it: a permission of a role, and the role of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Act {
    /// A condition is made true, or not.
    Set {
        /// The first or the second.
        condition: usize,
        /// What it becomes.
        to: bool,
    },
    /// The right is made use of.
    Use,
}

/// A request about a right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Who asked.
    pub client: usize,
    /// When.
    pub call: u64,
    /// What.
    pub act: Act,
    /// When it was answered, and whether it was done: a condition that was so already is not set, and who has no right
    /// is refused. `None` when that is not known.
    pub answer: Option<(u64, bool)>,
}

//! Priority and fairness (KEP-1040): every request belongs to a flow of a FlowSchema, and takes seats of a priority
//! level. When a level's seats are taken, its requests wait in queues that flows share fairly; when a flow's queues are
//! full too, or a request waited too long, it is refused with 429.
//!
//! Pure: `rules.rs` (whose request is whose), `config.rs` (objects into rules and seats), `seats.rs` (who may run, in
//! virtual time), `defaults.rs` (what every cluster has). This file is the driver; `keep.rs` keeps the objects in shape,
//! `class.rs` is what is counted. Seats are held, and with them memory (`room.rs`), until an answer is sent (`held.rs`).
//!
//! Unlike upstream, which moves lent seats between levels every ten seconds, a level lends what it does not need at
//! once, and has it back as soon as who borrowed it is done.

mod class;
mod config;
mod defaults;
mod held;
mod keep;
mod room;
mod rules;
mod seats;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::storage::{Storage, View, Watcher};
use api_types::status::Status;
use arc_swap::ArcSwap;
use env::Clock;
use http::{HeaderName, Response};
use mvcc::KeyRange;
use parking_lot::Mutex;
use store::WatchRequest;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use held::{Held, Seated, hold};
pub(crate) use keep::keep;
pub(crate) use room::{LARGE, Room};

use crate::body::{self, Body};
use crate::info::RequestInfo;
use crate::user::UserInfo;
use class::Class;
use config::{Config, Level};
use seats::{Arrival, Seats, Ticket};

/// How long a request may wait in a queue (upstream: a quarter of the request timeout).
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds after which a client that was refused may come again.
const RETRY_AFTER: i32 = 1;
/// Bytes of objects that a list goes through for one seat (upstream's `bytesPerSeat`).
const BYTES_A_SEAT: u64 = 100_000;
/// Bytes from which on a list takes no more seats, since it is sent in pieces (upstream's
/// `cacheWithStreamingMaxMemoryUsage`).
pub(crate) const MOST_BYTES: u64 = 1_000_000;

const FLOW_SCHEMAS: &str = "/registry/flowschemas/";
const LEVELS: &str = "/registry/prioritylevelconfigurations/";

fn ranges() -> [KeyRange; 2] {
    [KeyRange::prefix(FLOW_SCHEMAS), KeyRange::prefix(LEVELS)]
}

/// What a request was found to belong to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classified {
    schema_uid: String,
    level_uid: String,
}

impl Classified {
    /// Tells a client in an answer.
    pub fn tell(&self, response: &mut Response<Body>) {
        let names = ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];
        for (name, uid) in names.into_iter().zip([&self.schema_uid, &self.level_uid]) {
            if !uid.is_empty() {
                body::set_header(response, HeaderName::from_static(name), uid);
            }
        }
    }
}

/// Who runs, who waits, by the rules of the moment.
pub(crate) struct Flow {
    storage: Storage,
    clock: Clock,
    /// Seats of all levels together.
    total: u32,
    started: Instant,
    config: ArcSwap<Config>,
    seen: AtomicI64,
    watchers: Mutex<Vec<Watcher>>,
    state: Arc<Mutex<State>>,
}

struct State {
    seats: Seats,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

impl State {
    fn wake(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if let Some(waiter) = self.waiting.remove(&ticket) {
                // Who has gone meanwhile gives the seats back when its permit is dropped.
                let _ = waiter.send(());
            }
        }
    }
}

/// A place in a queue, and then leave to be carried out, until it is dropped.
pub(crate) struct Permit {
    way: Way,
    clock: Clock,
    /// None for who is exempt.
    place: Option<Place>,
    arrived: Instant,
    /// Since when the request is carried out; none while it waits.
    began: Option<Instant>,
}

/// Seats, or a place in a queue.
struct Place {
    state: Arc<Mutex<State>>,
    ticket: Ticket,
    /// When the flow's time began.
    started: Instant,
}

impl Permit {
    fn begin(&mut self, now: Instant) {
        self.way.class.begins(self.way.seats);
        self.began = Some(now);
    }

    /// Since when the request is carried out.
    pub fn began(&self) -> Instant {
        self.began.unwrap_or(self.arrived)
    }

    /// The flow it belongs to.
    pub fn flow(&self) -> u64 {
        self.way.flow
    }

    /// Nobody of the level ever waits.
    pub fn is_exempt(&self) -> bool {
        self.way.is_exempt
    }

    /// How long it had to wait before.
    pub fn waited(&self) -> Duration {
        self.began().saturating_duration_since(self.arrived)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (now, Way { class, seats, is_watch, .. }) = (self.clock.monotonic(), &self.way);
        match self.began {
            Some(began) => class.ends(*seats, *is_watch, now.saturating_duration_since(began)),
            None => class.unqueued(*seats),
        }
        if let Some(Place { state, ticket, started }) = &self.place {
            let mut state = state.lock();
            state.waiting.remove(ticket);
            let next = state.seats.leave(*ticket, now.duration_since(*started));
            state.wake(next);
        }
    }
}

/// A request, as flows see it.
pub(crate) struct Request<'a> {
    pub info: &'a RequestInfo,
    pub user: &'a UserInfo,
    /// Bytes of the objects that it will go through, if it is a list; up to [`MOST_BYTES`].
    pub bytes: u64,
}

impl Flow {
    /// `total`: the seats of all levels together.
    pub fn new(storage: &Storage, clock: Clock, total: u32) -> Self {
        let config = Config::of(&[], &[]);
        let mut seats = Seats::default();
        let shares = config.shares(total);
        class::tell_shares(&shares);
        seats.configure(&shares, Duration::ZERO);
        Self {
            storage: storage.clone(),
            started: clock.monotonic(),
            clock,
            total,
            config: ArcSwap::from_pointee(config),
            seen: AtomicI64::new(-1),
            watchers: Mutex::default(),
            state: Arc::new(Mutex::new(State { seats, waiting: HashMap::new() })),
        }
    }

    /// What a request belongs to, and the way to its seats.
    pub fn classify(&self, view: &View, request: &Request<'_>) -> (Classified, Way) {
        let config = self.config(view);
        let schema = config.classify(request.info, request.user);
        let level = config.level(&schema.level);
        let found = Classified { schema_uid: schema.uid.clone(), level_uid: level.uid.clone() };
        let way = Way {
            level: schema.level.clone(),
            flow: schema.flow(request.info, request.user),
            seats: seats_of(level, request.bytes, self.total),
            is_exempt: level.is_exempt(),
            is_watch: request.info.verb == "watch",
            has_queues: level.has_queues(),
            class: schema.class().clone(),
        };
        (found, way)
    }

    /// Waits for seats.
    ///
    /// # Errors
    /// 429 when there are too many others.
    pub async fn enter(&self, way: Way) -> Result<Permit, Status> {
        let arrived = self.clock.monotonic();
        way.class.arrived(way.seats);
        let (place, woken) = if way.is_exempt { (None, None) } else { self.arrive(&way, arrived)? };
        let mut permit = Permit { way, clock: self.clock.clone(), place, arrived, began: None };
        let Some(woken) = woken else {
            permit.begin(arrived);
            return Ok(permit);
        };
        let class = permit.way.class.clone();
        class.queued(permit.way.seats);
        let is_turn = matches!(tokio::time::timeout(PATIENCE, woken).await, Ok(Ok(())));
        let now = self.clock.monotonic();
        class.waited(true, now.saturating_duration_since(arrived));
        if !is_turn {
            return Err(refused(&class, "time-out"));
        }
        class.unqueued(permit.way.seats);
        permit.begin(now);
        Ok(permit)
    }

    /// Takes seats, or a place in a queue with what tells that it is the request's turn.
    fn arrive(
        &self,
        way: &Way,
        now: Instant,
    ) -> Result<(Option<Place>, Option<oneshot::Receiver<()>>), Status> {
        let mut state = self.state.lock();
        let arrival = state.seats.arrive(&way.level, way.flow, way.seats, now.duration_since(self.started));
        let others = state.seats.take_others();
        state.wake(others);
        let place = |ticket| Some(Place { state: self.state.clone(), ticket, started: self.started });
        match arrival {
            Arrival::Runs(ticket) => {
                way.class.waited(true, Duration::ZERO);
                Ok((place(ticket), None))
            }
            Arrival::Refused => {
                way.class.waited(false, Duration::ZERO);
                Err(refused(&way.class, if way.has_queues { "queue-full" } else { "concurrency-limit" }))
            }
            Arrival::Waits(ticket) => {
                let (waiter, woken) = oneshot::channel();
                state.waiting.insert(ticket, waiter);
                Ok((place(ticket), Some(woken)))
            }
        }
    }

    /// The rules as of the view, or newer.
    fn config(&self, view: &View) -> Arc<Config> {
        if self.seen.load(Ordering::Acquire) < view.revision() {
            self.catch_up();
        }
        self.config.load_full()
    }

    fn catch_up(&self) {
        let mut watchers = self.watchers.lock();
        let (mut changed, mut reached) = (watchers.is_empty(), i64::MAX);
        for watcher in watchers.iter_mut() {
            changed |= watcher.poll().map_or(true, |batch| !batch.events.is_empty());
            reached = reached.min(watcher.progress());
        }
        if changed {
            // The rules stay as they were until these can be read.
            let Ok((config, revision)) = self.load() else { return };
            let now = self.clock.monotonic().duration_since(self.started);
            let shares = config.shares(self.total);
            class::tell_shares(&shares);
            let mut state = self.state.lock();
            let next = state.seats.configure(&shares, now);
            state.wake(next);
            self.config.store(Arc::new(config));
            reached = revision;
            let start_revision = revision + 1;
            *watchers =
                ranges().map(|range| self.storage.watch(WatchRequest { range, start_revision })).into();
        }
        self.seen.store(reached, Ordering::Release);
    }

    fn load(&self) -> Result<(Config, i64), Status> {
        let view = self.storage.view();
        let [schemas, levels] = keep::stored(&view)?;
        Ok((Config::of(&schemas, &levels), view.revision()))
    }
}

/// Where a request goes.
pub(crate) struct Way {
    level: Arc<str>,
    flow: u64,
    seats: u32,
    is_exempt: bool,
    is_watch: bool,
    /// Whether the level's requests may wait.
    has_queues: bool,
    class: Arc<Class>,
}

/// Seats that a request takes: more for a list of many bytes, but never so many that few lists fill a level.
fn seats_of(level: &Level, bytes: u64, total: u32) -> u32 {
    let wanted = bytes.min(MOST_BYTES).div_ceil(BYTES_A_SEAT);
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, level.max_seats(total))
}

fn refused(class: &Class, reason: &'static str) -> Status {
    class.refused(reason);
    Status::too_many("Too many requests, please try again later.", RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use api_types::{Value, meta};

    use super::*;

    #[test]
    fn a_list_takes_seats_by_its_size() {
        let levels: Vec<Value> = defaults::all().into_iter().map(|default| default.object).collect();
        let is_level = |object: &&Value| meta::kind(object) == defaults::LEVEL;
        let levels: Vec<Value> = levels.iter().filter(is_level).cloned().collect();
        let config = Config::of(&[], &levels);
        let seats = |level: &str, bytes| seats_of(config.level(&level.into()), bytes, 600);
        let low = [0, 1, 100_000, 100_001, 950_000, 1 << 40].map(|bytes| seats("workload-low", bytes));
        assert_eq!(low, [1, 1, 1, 2, 10, 10]);
        assert_eq!(seats("leader-election", 1 << 40), 4, "few lists must not fill a level");
    }
}

//! A thousand watchers: of one prefix while clients write as fast as they can or at a pace, and of a key each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use protos::etcd::etcdserverpb as pb;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::load::{CONNECTIONS, Meter, Outcome};
use crate::member::Members;
use crate::report::Notes;
use crate::rows::kv::{PUT, below, put};
use crate::values::{Dice, stamp, value};
use crate::wire::{Connection, Messages, Piece, field, find};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// On one connection, on one stream.
const WATCHERS: u64 = 100;
const ALL_WATCHERS: u64 = WATCHERS * CONNECTIONS as u64;
const WRITERS: usize = 20;
/// Writers that go as fast as they can wait when the watchers are so many writes behind: what is measured is delivery.
const AHEAD: u64 = 100;
const PACE: Duration = Duration::from_millis(10);
const VALUE: usize = 256;
/// Of how many events one's way is timed where they are many.
const SAMPLE: u64 = 64;
/// How long watchers may take to have everything that was written.
const LEVEL: Duration = Duration::from_secs(30);

/// Runs the rows.
pub async fn run(bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
    // First: what other rows free could hold the watchers.
    if bench.wants("watch-memory") {
        let before = members.memory().0;
        let mut watchers = Vec::new();
        for number in 0..CONNECTIONS {
            let mut watcher = Watcher::open(members, number).await?;
            // Ten times as many as elsewhere: a kilobyte each shows.
            watcher.create((0..10 * WATCHERS).map(|n| below(&format!("quiet/{number}/{n}/")))).await?;
            watchers.push(watcher);
        }
        let more = members.memory().0 - before;
        let each = more * 1024.0 * members.size() as f64 / (10 * ALL_WATCHERS) as f64;
        notes.note("watch-memory each", each.max(0.0));
    }
    for (row, own, paced) in
        [("watch-paced", false, true), ("watch-flat", false, false), ("watch-own", true, false)]
    {
        if bench.wants(row) {
            let load = Load::new(bench, own, paced);
            let outcome = load.run(bench, members).await?;
            notes.outcome(row, &outcome);
        }
    }
    Ok(())
}

/// What writers and watchers share.
struct Load {
    own: bool,
    paced: bool,
    started: Instant,
    end: Instant,
    written: Cell<u64>,
    writers_done: Cell<bool>,
    delivered: Cell<u64>,
    /// Events when the time was over: what counts as the rate.
    in_time: Cell<u64>,
    times: RefCell<Vec<Duration>>,
    moved: Notify,
    over: Notify,
}

impl Load {
    fn new(bench: &Bench, own: bool, paced: bool) -> Self {
        let started = bench.now();
        Self {
            own,
            paced,
            started,
            end: started,
            written: Cell::new(0),
            writers_done: Cell::new(false),
            delivered: Cell::new(0),
            in_time: Cell::new(0),
            times: RefCell::default(),
            moved: Notify::new(),
            over: Notify::new(),
        }
    }

    /// Events that one write makes.
    fn each(&self) -> u64 {
        if self.own { 1 } else { ALL_WATCHERS }
    }

    async fn run(mut self, bench: &Bench, members: &Members) -> Result<Outcome> {
        let mut watchers = Vec::new();
        for number in 0..CONNECTIONS {
            let mut watcher = Watcher::open(members, number).await?;
            let first = number as u64 * WATCHERS;
            let ranges = (first..first + WATCHERS).map(|n| match self.own {
                true => pb::RangeRequest { key: own_key(n).into(), ..pb::RangeRequest::default() },
                false => below("watched/"),
            });
            watcher.create(ranges).await?;
            watchers.push(watcher);
        }
        let writer = members.connect(0).await?;
        let meter = Meter::start(bench, members);
        self.started = bench.now();
        self.end = self.started + bench.length;
        let watching = watchers.into_iter().map(|watcher| watcher.watch(bench, &self));
        let watching = try_join_all(watching);
        let outcome = async {
            if self.paced {
                self.write_at_pace(bench, writer).await?;
            } else {
                self.write(bench, writer).await?;
            }
            self.writers_done.set(true);
            let deadline = bench.now() + LEVEL;
            while self.delivered.get() < self.written.get() * self.each() && bench.now() < deadline {
                drop(tokio::time::timeout_at(deadline, self.moved.notified()).await);
            }
            let times = self.times.take();
            let outcome = meter.stop(bench, members, self.delivered.get(), times);
            self.over.notify_waiters();
            self.over.notify_one();
            anyhow::Ok(outcome)
        };
        let mut outcome = {
            tokio::select! {
                outcome = outcome => outcome?,
                failed = watching => { failed?; anyhow::bail!("watchers ended by themselves") }
            }
        };
        let (written, delivered) = (self.written.get(), self.delivered.get());
        ensure!(delivered == written * self.each(), "{written} writes gave {delivered} events");
        outcome.rate = self.in_time.get() as f64 / bench.length.as_secs_f64();
        Ok(outcome)
    }

    fn next_put(&self, bench: &Bench, dice: &mut Dice) -> pb::PutRequest {
        let sent = (bench.now() - self.started).as_nanos() as u64;
        let key = match self.own {
            true => own_key(dice.below(ALL_WATCHERS)),
            false => format!("watched/{:04}", dice.below(1000)),
        };
        put(key, value(dice, sent, VALUE))
    }

    async fn write_at_pace(&self, bench: &Bench, mut door: Connection) -> Result<()> {
        let mut dice = Dice::new(3);
        let mut next = self.started;
        while next < self.end {
            bench.env.clock.sleep_until(next).await;
            let put = self.next_put(bench, &mut dice);
            let _: pb::PutResponse = door.call(PUT, &put).await?;
            self.written.set(self.written.get() + 1);
            next += PACE;
        }
        Ok(())
    }

    async fn write(&self, bench: &Bench, mut door: Connection) -> Result<()> {
        let (mut dice, mut idle, mut open, mut done) = (Dice::new(3), WRITERS, 0, 0);
        loop {
            let over = bench.now() >= self.end;
            let ahead = self.written.get() * self.each() >= self.delivered.get() + AHEAD * self.each();
            while idle > 0 && !over && !ahead {
                let stream = door.begin(PUT);
                door.send(stream, &self.next_put(bench, &mut dice), true);
                (idle, open) = (idle - 1, open + 1);
            }
            if over && open == 0 {
                return Ok(());
            }
            door.flush().await?;
            tokio::select! {
                received = door.receive(|_, piece| done += u64::from(matches!(piece, Piece::End))) => received?,
                () = self.moved.notified(), if idle > 0 && !over => {}
            }
            self.written.set(self.written.get() + done);
            (idle, open, done) = (idle + done as usize, open - done, 0);
        }
    }
}

fn own_key(number: u64) -> String {
    format!("own/{number:05}")
}

/// The watchers of one connection.
struct Watcher {
    door: Connection,
    stream: u32,
    messages: Messages,
}

impl Watcher {
    async fn open(members: &Members, number: usize) -> Result<Self> {
        let mut door = members.connect(number).await?;
        let stream = door.begin(WATCH);
        Ok(Self { door, stream, messages: Messages::default() })
    }

    async fn create(&mut self, ranges: impl Iterator<Item = pb::RangeRequest>) -> Result<()> {
        let mut wanted = 0;
        for range in ranges {
            let create = pb::WatchCreateRequest {
                key: range.key,
                range_end: range.range_end,
                ..pb::WatchCreateRequest::default()
            };
            let request = pb::watch_request::RequestUnion::CreateRequest(create);
            self.door.send(self.stream, &pb::WatchRequest { request_union: Some(request) }, false);
            wanted += 1;
        }
        self.door.flush().await?;
        while wanted > 0 {
            let (stream, messages) = (self.stream, &mut self.messages);
            self.door
                .receive(|of, piece| match piece {
                    Piece::Data(data) if of == stream => messages.push(data),
                    _ => {}
                })
                .await?;
            while self.messages.next().is_some() {
                wanted -= 1;
            }
        }
        Ok(())
    }

    async fn watch(mut self, bench: &Bench, load: &Load) -> Result<()> {
        let mut revisions: HashMap<u64, u64> = HashMap::new();
        loop {
            let (stream, messages) = (self.stream, &mut self.messages);
            self.door
                .receive(|of, piece| match piece {
                    Piece::Data(data) if of == stream => messages.push(data),
                    _ => {}
                })
                .await?;
            let now = bench.now();
            let mut events = 0;
            while let Some(message) = self.messages.next() {
                events += load.take(&message, now, &mut revisions)?;
            }
            load.delivered.set(load.delivered.get() + events);
            if now < load.end {
                load.in_time.set(load.in_time.get() + events);
            }
            load.moved.notify_waiters();
        }
    }
}

impl Load {
    /// The events of a message. Those of a watcher have to come in the order of their revisions.
    fn take(&self, mut message: &[u8], now: Instant, last: &mut HashMap<u64, u64>) -> Result<u64> {
        let (mut events, mut id, mut revision) = (0, 0, 0);
        while let Some((number, value, bytes)) = field(&mut message) {
            match number {
                1 => revision = header_revision(bytes),
                2 => id = value,
                11 => {
                    events += 1;
                    let place = self.delivered.get() + events;
                    if self.paced || self.own || place.is_multiple_of(SAMPLE) {
                        self.time(bytes, now);
                    }
                }
                _ => {}
            }
        }
        if events > 0 {
            let before = last.insert(id, revision).unwrap_or(0);
            ensure!(before < revision, "watcher {id}: revision {revision} after {before}");
        }
        Ok(events)
    }

    fn time(&self, event: &[u8], now: Instant) {
        let kv = find(event, 2);
        if let Some(sent) = kv.and_then(|kv| find(kv, 5)).and_then(stamp) {
            let took = (now - self.started).saturating_sub(Duration::from_nanos(sent));
            self.times.borrow_mut().push(took);
        }
    }
}

fn header_revision(mut header: &[u8]) -> u64 {
    std::iter::from_fn(|| field(&mut header)).find(|found| found.0 == 3).map_or(0, |found| found.1)
}

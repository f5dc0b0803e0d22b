//! Watches of all pods: how long a change is under way and what it costs, and many watchers that begin from nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use env::Env;
use futures::future::try_join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Work;
use super::masters::{Door, Masters, ask, get};
use super::objects::{JSON, POD, check, expect, pod_path, position};
use super::requests::status_patch;
use crate::bench::Bench;
use crate::load::{Meter, Outcome, Servers as _};
use crate::probe::Probe;
use crate::report::Notes;
use crate::values::Dice;
use crate::wire::{Connection, Piece, Request};

/// The form of watches in protobuf.
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Watches of one connection: fewer than any server allows.
const OF_CONNECTION: u64 = 50;
/// Watchers of the row of delivery, at most.
const FEW: u64 = 100;
/// Between two changes.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(50);
/// Of how many pieces one's stamps are looked at where they are many.
const SAMPLE: u64 = 16;
/// How long watches may take to begin, and watchers to have everything that was written.
const LEVEL: Duration = Duration::from_secs(60);
/// How long watchers that begin from nothing may take.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two GETs beside them.
const PAUSE: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_millis(300);
/// How an event begins that tells why a watch ends.
const FAILURE: &[u8] = br#"{"type":"ERROR""#;
const STAMP: &[u8] = b"stamp-";
const DIGITS: usize = 16;

/// Runs the rows of changes.
pub async fn run(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    for (row, watchers, accept, pace, sample) in [
        ("delivery", work.watchers.min(FEW), JSON, OFTEN, 1),
        ("watch-json", work.watchers, JSON, SELDOM, SAMPLE),
        ("watch-proto", work.watchers, PROTOBUF_STREAM, SELDOM, SAMPLE),
    ] {
        if work.bench.wants(row) {
            let load = Load::new(&work.bench, watchers, pace, sample);
            let (outcome, ended) = load.run(work, masters, accept).await.context(row)?;
            notes.outcome(row, &outcome);
            notes.note(&format!("{row} ended"), ended as f64);
        }
    }
    Ok(())
}

/// What the writer and the watchers share.
struct Load {
    watchers: u64,
    pace: Duration,
    sample: u64,
    started: Instant,
    end: Instant,
    written: Cell<u64>,
    delivered: Cell<u64>,
    /// Watches that the server has ended, and the events that they had had.
    ended: Cell<u64>,
    lost: Cell<u64>,
    pieces: Cell<u64>,
    times: RefCell<Vec<Duration>>,
    moved: Notify,
}

impl Load {
    fn new(bench: &Bench, watchers: u64, pace: Duration, sample: u64) -> Self {
        let started = bench.now();
        Self {
            watchers,
            pace,
            sample,
            started,
            end: started,
            written: Cell::new(0),
            delivered: Cell::new(0),
            ended: Cell::new(0),
            lost: Cell::new(0),
            pieces: Cell::new(0),
            times: RefCell::default(),
            moved: Notify::new(),
        }
    }

    /// What there was, and how many watches the server has ended.
    async fn run(mut self, work: &Work, masters: &Masters, accept: &'static str) -> Result<(Outcome, u64)> {
        let bench = &work.bench;
        let mut writer = masters.connect(0).await?;
        let path = format!("/api/v1/pods?watch=true&resourceVersion={}", revision(&mut writer).await?);
        let mut watchers = Vec::new();
        for (number, count) in shares(self.watchers).enumerate() {
            let mut watcher = Watcher::open(masters, number, count, &path, accept).await?;
            timeout_at(bench.now() + LEVEL, watcher.begun()).await.context("watches do not begin")??;
            watchers.push(watcher);
        }
        let meter = Meter::start(bench, masters);
        self.started = bench.now();
        self.end = self.started + bench.length;
        let watching = try_join_all(watchers.into_iter().map(|watcher| watcher.watch(bench, &self)));
        let writing = async {
            self.write(bench, &mut writer, work.pods).await?;
            let deadline = bench.now() + LEVEL;
            while self.missing() > 0 && bench.now() < deadline {
                drop(timeout_at(deadline, self.moved.notified()).await);
            }
            anyhow::Ok(meter.stop(bench, masters, self.delivered.get(), self.times.take()))
        };
        let outcome = tokio::select! {
            outcome = writing => outcome?,
            failed = watching => { failed?; anyhow::bail!("watchers ended by themselves") }
        };
        let (written, delivered, ended) = (self.written.get(), self.delivered.get(), self.ended.get());
        ensure!(self.missing() == 0 && ended < self.watchers, "{written} changes gave {delivered} events");
        Ok((outcome, ended))
    }

    /// Events that watches which have not ended are still to get.
    fn missing(&self) -> u64 {
        let wanted = self.written.get() * (self.watchers - self.ended.get());
        wanted.saturating_sub(self.delivered.get() - self.lost.get())
    }

    /// Changes pods at the pace, whether or not the changes before were answered.
    async fn write(&self, bench: &Bench, door: &mut Connection, pods: u64) -> Result<()> {
        let mut dice = Dice::new(3);
        let (mut next, mut open, mut done) = (self.started, HashMap::<u32, BytesMut>::new(), Vec::new());
        while next < self.end || !open.is_empty() {
            tokio::select! {
                () = bench.env.clock.sleep_until(next), if next < self.end => {
                    let sent = (bench.now() - self.started).as_nanos() as u64;
                    open.insert(status_patch(door, dice.below(pods), sent), BytesMut::new());
                    door.flush().await?;
                    next += self.pace;
                }
                received = door.receive(|of, piece| match (piece, open.get_mut(&of)) {
                    (Piece::Data(data), Some(body)) => body.extend_from_slice(data),
                    (Piece::End, _) => done.push(of),
                    _ => {}
                }) => received?,
            }
            for body in done.drain(..).filter_map(|of| open.remove(&of)) {
                expect(body, POD.name)?;
                self.written.set(self.written.get() + 1);
            }
        }
        Ok(())
    }

    /// Notes the ages of the stamps in a piece of one watcher's events, of one piece among some. A stamp that is cut in
    /// two is none.
    fn stamps(&self, data: &[u8], stamps: &mut Vec<u64>) {
        self.pieces.set(self.pieces.get() + 1);
        if self.pieces.get().is_multiple_of(self.sample) {
            stamps.extend(find_stamps(data));
        }
    }

    fn took(&self, events: u64, stamps: &mut Vec<u64>, now: Instant) {
        self.delivered.set(self.delivered.get() + events);
        let age = |sent| (now - self.started).saturating_sub(Duration::from_nanos(sent));
        self.times.borrow_mut().extend(stamps.drain(..).map(age));
        self.moved.notify_waiters();
    }
}

/// How many watchers each connection has.
fn shares(watchers: u64) -> impl Iterator<Item = u64> {
    (0..watchers).step_by(OF_CONNECTION as usize).map(move |first| OF_CONNECTION.min(watchers - first))
}

/// The revision of all pods now.
async fn revision(door: &mut Connection) -> Result<u64> {
    let list = ask(door, get("/api/v1/pods?limit=1")).await?;
    check(&list, "PodList")?;
    let key = br#""resourceVersion":""#;
    let place = position(&list, key).context("a list has a revision")? + key.len();
    let digits = list[place..].iter().take_while(|byte| byte.is_ascii_digit());
    Ok(digits.fold(0, |value, digit| 10 * value + u64::from(digit - b'0')))
}

fn find_stamps(mut data: &[u8]) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        loop {
            data = &data[position(data, STAMP)? + STAMP.len()..];
            let digits = std::str::from_utf8(data.get(..DIGITS)?).ok();
            if let Some(stamp) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                return Some(stamp);
            }
        }
    })
}

/// Counts the events of one watch without keeping them.
#[derive(Clone)]
enum Frames {
    /// Lines.
    Json,
    /// Each begins with its length in four bytes.
    Protobuf { head: [u8; 4], have: usize, skip: usize },
}

impl Frames {
    fn new(accept: &str) -> Self {
        match accept {
            JSON => Self::Json,
            _ => Self::Protobuf { head: [0; 4], have: 0, skip: 0 },
        }
    }

    /// The events that end in a piece.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let Self::Protobuf { head, have, skip } = self else {
            return data.iter().filter(|byte| **byte == b'\n').count() as u64;
        };
        let mut events = 0;
        while !data.is_empty() {
            if *have < head.len() {
                (head[*have], data) = (data[0], &data[1..]);
                *have += 1;
                *skip = u32::from_be_bytes(*head) as usize;
            } else {
                let gone = data.len().min(*skip);
                (data, *skip) = (&data[gone..], *skip - gone);
            }
            if *have == head.len() && *skip == 0 {
                (*have, events) = (0, events + 1);
            }
        }
        events
    }
}

/// The watchers of one connection.
struct Watcher {
    door: Connection,
    /// Of each watch, in the order of the streams.
    frames: Vec<Frames>,
    /// Events of each.
    counts: Vec<u64>,
    first: u32,
    /// The last failure that a watch was told of.
    failure: String,
}

impl Watcher {
    /// Asks for watches; nothing is waited for.
    async fn open(
        masters: &Masters,
        number: usize,
        count: u64,
        path: &str,
        accept: &'static str,
    ) -> Result<Self> {
        let mut door = masters.connect(number).await?;
        let request = Request { method: "GET", path, accept, body: None };
        let streams: Vec<u32> = (0..count).map(|_| door.request(request)).collect();
        door.flush().await?;
        let first = streams.first().copied().unwrap_or(1);
        let (frames, counts) = (vec![Frames::new(accept); streams.len()], vec![0; streams.len()]);
        Ok(Self { door, frames, counts, first, failure: String::new() })
    }

    /// Waits until all have begun; nothing may be on its way yet.
    async fn begun(&mut self) -> Result<()> {
        let mut begun = 0;
        while begun < self.frames.len() {
            let mut other = None;
            let receive = self.door.receive(|_, piece| match piece {
                Piece::Begun => begun += 1,
                Piece::Data(data) => other = Some(String::from_utf8_lossy(data).into_owned()),
                Piece::End => other = Some("it ended".to_owned()),
            });
            receive.await?;
            ensure!(other.is_none(), "a watch was refused: {other:?}");
        }
        Ok(())
    }

    /// Watches for ever; a watch that the server ends is counted as such.
    async fn watch(mut self, bench: &Bench, load: &Load) -> Result<()> {
        let mut stamps = Vec::new();
        loop {
            let (events, ended) = self.take(|data| load.stamps(data, &mut stamps)).await?;
            load.took(events, &mut stamps, bench.now());
            for place in ended {
                if load.ended.get() == 0 {
                    eprintln!("  a watch was ended after {} events {}", self.counts[place], self.failure);
                }
                load.ended.set(load.ended.get() + 1);
                load.lost.set(load.lost.get() + self.counts[place]);
            }
        }
    }

    /// Counts until each has so many events.
    async fn gather(mut self, wanted: u64, delivered: &Cell<u64>) -> Result<()> {
        while self.counts.iter().any(|count| *count < wanted) {
            let (events, ended) = self.take(|_| {}).await?;
            ensure!(ended.is_empty(), "a watch was ended: {}", self.failure);
            delivered.set(delivered.get() + events);
        }
        Ok(())
    }

    /// What comes next: tells the pieces; the events of all, and the places of watches that ended.
    async fn take(&mut self, mut tell: impl FnMut(&[u8])) -> Result<(u64, Vec<usize>)> {
        let Self { frames, counts, first, failure, door } = self;
        let (mut all, mut ended) = (0, Vec::new());
        let receive = door.receive(|of, piece| {
            let place = (of - *first) as usize / 2;
            match piece {
                Piece::Begun => {}
                Piece::Data(data) => {
                    if data.starts_with(FAILURE) {
                        *failure = String::from_utf8_lossy(data).into_owned();
                    }
                    let events = frames[place].count(data);
                    (counts[place], all) = (counts[place] + events, all + events);
                    tell(data);
                }
                Piece::End => ended.push(place),
            }
        });
        receive.await?;
        Ok((all, ended))
    }
}

/// Watchers that begin without a revision: each is told of every pod there is.
pub async fn fresh(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    let (bench, pods) = (&work.bench, 2 * work.pods);
    masters.forget_peak();
    let before = masters.memory().0;
    let (env, door) = (bench.env.clone(), masters.door(0));
    let probe = Probe::run(move |stopped| async move { gets(&env, &door, pods, &stopped).await });
    bench.env.clock.sleep(QUIET).await;
    let meter = Meter::start(bench, masters);
    let (begun, delivered) = (bench.now(), Cell::new(0));
    let mut watchers = Vec::new();
    for (number, count) in shares(work.watchers).enumerate() {
        let path = "/api/v1/pods?watch=true";
        watchers.push(Watcher::open(masters, number, count, path, PROTOBUF_STREAM).await?);
    }
    let gathering = try_join_all(watchers.into_iter().map(|watcher| watcher.gather(pods, &delivered)));
    // Who is not level by then is told by the share of events.
    match timeout_at(begun + work.patience, gathering).await {
        Ok(gathered) => drop(gathered?),
        Err(_) => eprintln!("  watchers from nothing: not level after {} s", work.patience.as_secs()),
    }
    notes.note("fresh time", (bench.now() - begun).as_secs_f64());
    notes.note("fresh memory", (masters.memory().1 - before).max(0.0));
    let outcome = meter.stop(bench, masters, delivered.get(), Vec::new());
    notes.note("fresh generator", outcome.generator);
    notes.note("fresh events", delivered.get() as f64 * 100.0 / (work.watchers * pods) as f64);
    notes.note("fresh p99", probe.finish()?.p99);
    Ok(())
}

/// GETs of pods at a pace until told to stop.
async fn gets(env: &Env, door: &Door, pods: u64, stopped: &AtomicBool) -> Result<Vec<Duration>> {
    let (mut door, mut dice, mut times) = (door.open().await?, Dice::new(7), Vec::new());
    while !stopped.load(Ordering::Relaxed) {
        let begun = env.clock.monotonic();
        let path = pod_path(dice.below(pods));
        // One that a server refuses in its plight has waited too.
        drop(ask(&mut door, get(&path)).await?);
        times.push(env.clock.monotonic() - begun);
        env.clock.sleep_until(begun + PAUSE).await;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_whatever_the_pieces() {
        let lines = b"{\"type\":\"ADDED\"}\n{\"type\":\"MODIFIED\"}\n";
        let frames = b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c";
        for (accept, bytes, events) in [(JSON, &lines[..], 2), (PROTOBUF_STREAM, &frames[..], 3)] {
            for cut in 0..=bytes.len() {
                let mut counter = Frames::new(accept);
                let all = counter.count(&bytes[..cut]) + counter.count(&bytes[cut..]);
                assert_eq!(all, events, "{accept} cut at {cut}");
            }
        }
    }

    #[test]
    fn stamps_are_found_and_what_is_cut_is_not() {
        let text = b"..stamp-00000000000000ff..stamp-nonsensenonsense..stamp-0000000000000001..stamp-00";
        assert_eq!(find_stamps(text).collect::<Vec<_>>(), [255, 1]);
        assert_eq!(find_stamps(b"").count(), 0);
    }

    #[test]
    fn watchers_are_spread_over_connections() {
        assert_eq!(shares(120).collect::<Vec<_>>(), [50, 50, 20]);
        assert_eq!(shares(50).collect::<Vec<_>>(), [50]);
    }
}

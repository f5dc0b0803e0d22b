//! Clients and watchers of a run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use env::{Env, Shutdown, TaskGroup};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::generator::{END, FROM, Generator, transaction};
use super::scenario::Scenario;
use super::watcher::{self, Place};
use super::wire::{self, Connection, Token};
use super::{rights, sessions};
use crate::history::{Attempt, History, Hold, Keys, Operation, Request, Response, Session, Step, Stream};
use crate::load::RETRY;
use crate::poll::until;

/// How long an answer may take; then it counts as lost.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long the last write may take, and watchers to see it.
pub const DRAIN: Duration = Duration::from_secs(60);
/// The key of the last write: every watcher watches it.
const LAST_KEY: &str = "k/~";

/// What was recorded so far; shared by all clients.
#[derive(Clone)]
pub struct Recorder {
    env: Env,
    begun: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
    /// Of clients with leases.
    pub sessions: Arc<Mutex<Vec<Session>>>,
    /// Of clients with locks.
    pub holds: Arc<Mutex<Vec<Hold>>>,
    /// Of clients with rights.
    pub attempts: Arc<Mutex<Vec<Attempt>>>,
}

/// A duration as it is recorded.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Recorder {
    /// Nothing yet.
    pub fn new(env: Env) -> Self {
        let begun = env.clock.monotonic();
        Self {
            env,
            begun,
            operations: Arc::default(),
            sessions: Arc::default(),
            holds: Arc::default(),
            attempts: Arc::default(),
        }
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        nanos(self.env.clock.monotonic().saturating_duration_since(self.begun))
    }

    /// Sends a request and records it; the answer, or `None` when it is lost.
    pub async fn ask(&self, client: usize, channel: &Connection, request: Request) -> Option<Response> {
        let call = self.now();
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, wire::send(channel, &request)).await;
        let response = answer.ok().and_then(Result::ok);
        let answer = response.clone().map(|response| (self.now(), response));
        self.operations.lock().push(Operation { client, call, request, answer });
        response
    }
}

/// All clients and watchers of a run. They stop when this is dropped.
pub struct Traffic {
    recorder: Recorder,
    endpoints: Vec<String>,
    token: Token,
    clients: usize,
    first_revision: i64,
    streams: Vec<Arc<Mutex<Stream>>>,
    asking: TaskGroup,
    watching: TaskGroup,
}

impl Traffic {
    /// Starts clients at members in turn, and two watchers at each member.
    ///
    /// # Errors
    /// The store does not say at which revision it is, or is not empty.
    pub async fn start(
        env: &Env,
        endpoints: Vec<String>,
        token: &Token,
        scenario: &Scenario,
        seed: u64,
    ) -> Result<Self> {
        if scenario.users > 0 {
            rights::prepare(env, &endpoints[0], token).await?;
        }
        let mut traffic = Self {
            recorder: Recorder::new(env.clone()),
            first_revision: first_revision(env, &endpoints[0], token).await?,
            endpoints,
            token: token.clone(),
            clients: scenario.clients,
            streams: Vec::new(),
            asking: TaskGroup::new("clients", Shutdown::new()),
            watching: TaskGroup::new("watchers", Shutdown::new()),
        };
        for member in 0..traffic.endpoints.len() {
            traffic.watch(env, member, Keys::range(FROM, END), true);
            traffic.watch(env, member, Keys::range("k/5", END), false);
            if scenario.keepers + scenario.lockers + scenario.users > 0 {
                traffic.watch(env, member, Keys::range(sessions::FROM, sessions::END), false);
            }
        }
        let pause = Duration::from_millis(scenario.pause_ms);
        for number in 0..scenario.clients {
            let client = Client {
                number,
                generator: Generator::new(number, seed),
                endpoints: traffic.endpoints.clone(),
                token: traffic.token.clone(),
                recorder: traffic.recorder.clone(),
                pause,
            };
            let stop = traffic.asking.shutdown().clone();
            traffic.asking.spawn_detached(format!("client-{number}"), client.run(stop));
        }
        traffic.start_others(scenario, seed);
        Ok(traffic)
    }

    /// Starts clients that do one thing only; their numbers follow those of the others.
    fn start_others(&self, scenario: &Scenario, seed: u64) {
        let stop = || self.asking.shutdown().clone();
        let mut number = scenario.clients;
        let mut caller = |token: &Token| {
            number += 1;
            Caller::new(&self.recorder, &self.endpoints, token, number)
        };
        for keeper in 0..scenario.keepers {
            let keeping = sessions::keep(caller(&self.token), seed, stop());
            self.asking.spawn_detached(format!("keeper-{keeper}"), keeping);
        }
        for locker in 0..scenario.lockers {
            let locking = sessions::lock(caller(&self.token), seed, stop());
            self.asking.spawn_detached(format!("locker-{locker}"), locking);
        }
        for user in 0..scenario.users {
            let using = rights::make_use(caller(&Token::default()), stop());
            self.asking.spawn_detached(format!("user-{user}"), using);
        }
        if scenario.users > 0 {
            let giving = rights::give_and_take(caller(&self.token), seed, stop());
            self.asking.spawn_detached("rights", giving);
        }
    }

    fn watch(&mut self, env: &Env, member: usize, keys: Keys, previous: bool) {
        let name = format!("watcher of {}..{} at member {member}", keys.from, keys.end);
        let others = keys.from == sessions::FROM;
        let (items, seen) = (Vec::new(), Vec::new());
        let stream = Stream { name: name.clone(), keys, previous, others, items, seen };
        let stream = Arc::new(Mutex::new(stream));
        let stop = self.watching.shutdown().clone();
        let (endpoint, token) = (self.endpoints[member].clone(), self.token.clone());
        let place = Place { env: env.clone(), endpoint, token, begun: self.recorder.begun };
        let watch = watcher::watch(place, stream.clone(), self.first_revision + 1, stop);
        self.watching.spawn_detached(name, watch);
        self.streams.push(stream);
    }

    /// How many operations were recorded.
    pub fn count(&self) -> usize {
        self.recorder.operations.lock().len()
    }

    /// Stops the clients, makes a last write, reads everything at every member, and waits until every watcher has seen
    /// the last write. What was never seen is told beside the history.
    ///
    /// # Errors
    /// Clients that do not stop; no member answers.
    pub async fn finish(self, env: &Env) -> Result<(History, Vec<String>)> {
        self.asking.shutdown().trigger();
        self.asking.clone().join(DRAIN).await?;
        let mut wrong = Vec::new();
        let leases_end = sessions::all_end(env, &self.endpoints, &self.token).await;
        wrong.extend(leases_end.err().map(|why| why.to_string()));
        let mut attempts = 0;
        let last = until(env, DRAIN, async || {
            attempts += 1;
            let value = format!("last-{attempts}");
            let step = Step::Put { key: LAST_KEY.to_owned(), value, lease: 0 };
            match self.ask_at(attempts % self.endpoints.len(), transaction(vec![step])).await? {
                Response::Txn { revision, .. } => Ok(revision),
                other => Err(anyhow!("the last write was answered {other:?}")),
            }
        })
        .await
        .context("no member takes a write at the end")?;
        let last_of_others = match self.streams.iter().any(|stream| stream.lock().others) {
            true => sessions::last(env, &self.endpoints, &self.token).await?,
            false => last,
        };
        for member in 0..self.endpoints.len() {
            let everything =
                || Request::Range { keys: Keys::range(FROM, END), revision: 0, serializable: false };
            let read = until(env, DRAIN, async || self.ask_at(member, everything()).await).await;
            wrong
                .extend(read.err().map(|why| format!("member {member} does not answer at the end: {why:#}")));
        }
        for stream in &self.streams {
            let last = if stream.lock().others { last_of_others } else { last };
            let seen = until(env, DRAIN, async || watcher::has_seen(&stream.lock(), last)).await;
            wrong.extend(seen.err().map(|why| why.to_string()));
        }
        self.watching.shutdown().trigger();
        self.watching.clone().join(DRAIN).await?;
        let history = History {
            first_revision: self.first_revision,
            operations: std::mem::take(&mut *self.recorder.operations.lock()),
            streams: self.streams.iter().map(|stream| stream.lock().clone()).collect(),
            sessions: std::mem::take(&mut *self.recorder.sessions.lock()),
            holds: std::mem::take(&mut *self.recorder.holds.lock()),
            attempts: std::mem::take(&mut *self.recorder.attempts.lock()),
        };
        Ok((history, wrong))
    }

    async fn ask_at(&self, member: usize, request: Request) -> Result<Response> {
        let channel = wire::connect(&self.endpoints[member], &self.token).await.context("no connection")?;
        self.recorder.ask(self.clients, &channel, request).await.context("the answer was lost")
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // The next cluster may have the same addresses.
        self.asking.shutdown().trigger();
        self.watching.shutdown().trigger();
    }
}

async fn first_revision(env: &Env, endpoint: &str, token: &Token) -> Result<i64> {
    let everything = Request::Range { keys: Keys::range(FROM, END), revision: 0, serializable: false };
    until(env, DRAIN, async || {
        let channel = wire::connect(endpoint, token).await.context("no connection")?;
        match wire::send(&channel, &everything).await? {
            Response::Range { revision, kvs } if kvs.is_empty() => Ok(revision),
            other => Err(anyhow!("the store is not empty: {other:?}")),
        }
    })
    .await
}

/// A client that goes on at the next member when an answer is lost.
pub struct Caller {
    /// Where what it sees is recorded.
    pub recorder: Recorder,
    /// Its number.
    pub number: usize,
    endpoints: Vec<String>,
    token: Token,
    at: usize,
    connection: Option<Connection>,
}

impl Caller {
    /// It begins at the member that its number says.
    pub fn new(recorder: &Recorder, endpoints: &[String], token: &Token, number: usize) -> Self {
        let (recorder, endpoints, token) = (recorder.clone(), endpoints.to_vec(), token.clone());
        Self { recorder, number, endpoints, token, at: number, connection: None }
    }

    /// Asks as somebody else from now on.
    pub fn become_user(&mut self, token: Token) {
        (self.token, self.connection) = (token, None);
    }

    /// Waits.
    pub async fn pause(&self, time: Duration) {
        self.recorder.env.clock.sleep(time).await;
    }

    /// Asks one thing, as soon as a member can be reached. The call's time comes with the answer; `None` when that was lost.
    pub async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(Connection) -> Result<T, Status>,
    ) -> (u64, Option<Result<T, Status>>) {
        let connection = loop {
            if let Some(connection) = &self.connection {
                break connection.clone();
            }
            let endpoint = &self.endpoints[self.at % self.endpoints.len()];
            self.connection = wire::connect(endpoint, &self.token).await;
            if self.connection.is_none() {
                self.at += 1;
                self.pause(RETRY).await;
            }
        };
        let call = self.recorder.now();
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, question(connection)).await.ok();
        let answer = answer.filter(|answer| answer.as_ref().err().is_none_or(wire::is_refusal));
        if answer.is_none() {
            (self.connection, self.at) = (None, self.at + 1);
        }
        (call, answer)
    }
}

struct Client {
    number: usize,
    generator: Generator,
    endpoints: Vec<String>,
    token: Token,
    recorder: Recorder,
    pause: Duration,
}

impl Client {
    /// Asks one thing after the other. When an answer is lost it goes on at the next member.
    async fn run(mut self, stop: Shutdown) {
        let mut member = self.number;
        let mut channel = None;
        while !stop.is_triggered() {
            let Some(connected) = &channel else {
                let endpoint = &self.endpoints[member % self.endpoints.len()];
                channel = wire::connect(endpoint, &self.token).await;
                if channel.is_none() {
                    member += 1;
                    self.recorder.env.clock.sleep(RETRY).await;
                }
                continue;
            };
            let request = self.generator.next();
            let response = self.recorder.ask(self.number, connected, request.clone()).await;
            self.generator.learn(&request, response.as_ref());
            if response.is_none() {
                channel = None;
                member += 1;
            }
            let pause = self.generator.below(u64::try_from(self.pause.as_micros()).unwrap_or(0) + 1);
            self.recorder.env.clock.sleep(Duration::from_micros(pause)).await;
        }
    }
}

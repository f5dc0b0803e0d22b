//! Clients and watchers of a run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use env::{Env, Shutdown, TaskGroup};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::generator::{END, FROM, Generator, transaction};
use super::watcher;
use super::wire;
use crate::history::{History, Keys, Operation, Request, Response, Step, Stream};
use crate::load::RETRY;
use crate::poll::until;

/// How long an answer may take; then it counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long the last write may take, and watchers to see it.
const DRAIN: Duration = Duration::from_secs(60);
/// The key of the last write: every watcher watches it.
const LAST_KEY: &str = "k/~";

/// What was recorded so far; shared by all clients.
#[derive(Clone)]
pub struct Recorder {
    env: Env,
    begun: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Recorder {
    /// Nothing yet.
    pub fn new(env: Env) -> Self {
        let begun = env.clock.monotonic();
        Self { env, begun, operations: Arc::default() }
    }

    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        let since = self.env.clock.monotonic().saturating_duration_since(self.begun);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sends a request and records it; the answer, or `None` when it is lost.
    pub async fn ask(
        &self,
        client: usize,
        channel: &tonic::transport::Channel,
        request: Request,
    ) -> Option<Response> {
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
        clients: usize,
        pause: Duration,
        seed: u64,
    ) -> Result<Self> {
        let mut traffic = Self {
            recorder: Recorder::new(env.clone()),
            first_revision: first_revision(env, &endpoints[0]).await?,
            endpoints,
            clients,
            streams: Vec::new(),
            asking: TaskGroup::new("clients", Shutdown::new()),
            watching: TaskGroup::new("watchers", Shutdown::new()),
        };
        for member in 0..traffic.endpoints.len() {
            traffic.watch(env, member, Keys::range(FROM, END), true);
            traffic.watch(env, member, Keys::range("k/5", END), false);
        }
        for number in 0..clients {
            let client = Client {
                number,
                generator: Generator::new(number, seed),
                endpoints: traffic.endpoints.clone(),
                recorder: traffic.recorder.clone(),
                pause,
            };
            let stop = traffic.asking.shutdown().clone();
            traffic.asking.spawn_detached(format!("client-{number}"), client.run(stop));
        }
        Ok(traffic)
    }

    fn watch(&mut self, env: &Env, member: usize, keys: Keys, previous: bool) {
        let name = format!("watcher of {}..{} at member {member}", keys.from, keys.end);
        let stream = Arc::new(Mutex::new(Stream { name: name.clone(), keys, previous, items: Vec::new() }));
        let stop = self.watching.shutdown().clone();
        let (from, endpoint) = (self.first_revision + 1, self.endpoints[member].clone());
        let watch = watcher::watch(env.clone(), endpoint, stream.clone(), from, stop);
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
        let mut wrong = Vec::new();
        for member in 0..self.endpoints.len() {
            let everything =
                || Request::Range { keys: Keys::range(FROM, END), revision: 0, serializable: false };
            let read = until(env, DRAIN, async || self.ask_at(member, everything()).await).await;
            wrong
                .extend(read.err().map(|why| format!("member {member} does not answer at the end: {why:#}")));
        }
        for stream in &self.streams {
            let seen = until(env, DRAIN, async || watcher::has_seen(&stream.lock(), last)).await;
            wrong.extend(seen.err().map(|why| why.to_string()));
        }
        self.watching.shutdown().trigger();
        self.watching.clone().join(DRAIN).await?;
        let operations = std::mem::take(&mut *self.recorder.operations.lock());
        let streams = self.streams.iter().map(|stream| stream.lock().clone()).collect();
        Ok((History { first_revision: self.first_revision, operations, streams }, wrong))
    }

    async fn ask_at(&self, member: usize, request: Request) -> Result<Response> {
        let channel = wire::connect(&self.endpoints[member]).await.context("no connection")?;
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

async fn first_revision(env: &Env, endpoint: &str) -> Result<i64> {
    let everything = Request::Range { keys: Keys::range(FROM, END), revision: 0, serializable: false };
    until(env, DRAIN, async || {
        let channel = wire::connect(endpoint).await.context("no connection")?;
        match wire::send(&channel, &everything).await? {
            Response::Range { revision, kvs } if kvs.is_empty() => Ok(revision),
            other => Err(anyhow!("the store is not empty: {other:?}")),
        }
    })
    .await
}

struct Client {
    number: usize,
    generator: Generator,
    endpoints: Vec<String>,
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
                channel = wire::connect(&self.endpoints[member % self.endpoints.len()]).await;
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

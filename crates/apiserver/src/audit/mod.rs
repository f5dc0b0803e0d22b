//! The audit log: who asked for what, when, and what came of it (upstream: `apiserver/pkg/audit`).
//!
//! A request that the policy says anything about has a [`Trail`], which writes an event at each of its stages. Events go
//! through a bounded queue per backend to the task that writes them. Without a policy and a backend there is no
//! [`Audit`], and requests do nothing for it.
//!
//! Reading order: `config.rs`, `policy.rs` (which requests), `event.rs` (what is written), this file (when), `queue.rs`,
//! `log.rs` and `webhook.rs` (whereto).

mod config;
mod event;
mod log;
mod policy;
mod queue;
mod webhook;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use api_types::time;
use bytes::Bytes;
use env::{Clock, Env, OldFiles, Shutdown, TaskGroup};
use http::{HeaderMap, Response, Uri, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use config::{
    AuditBatchConfig, AuditConfig, AuditFormat, AuditLogConfig, AuditMode, AuditTruncateConfig,
    AuditWebhookConfig,
};
pub(crate) use policy::Level;

use crate::body::{self, Body, Carrying};
use crate::info::RequestInfo;
use crate::negotiate;
use crate::user::UserInfo;
use event::{Answered, Authentication, Event, Micros, ObjectRef, Outcome, Sent, User};
use log::Log;
use policy::{Policy, Stage, Verdict};
use queue::{Batches, Job, Queue};
use webhook::Webhook;

/// Annotations of one event, at most.
const MAX_ANNOTATIONS: usize = 200;
/// How long what is queued may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// Batches on their way to the webhook at the same time, at most.
const MAX_SENDING: usize = 16;
/// From so much on it is written how long a request took (upstream's).
const SLOW: Duration = Duration::from_millis(500);
/// Bytes of an answer in which a Status is sought, at most.
const MAX_STATUS_BYTES: u64 = 1 << 20;
/// What the names of durations begin with.
const LATENCY: &str = "apiserver.latency.k8s.io/";
/// Where callers within this process come from.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Counts events that were not written, and says why.
fn lost(plugin: &'static str, events: usize, why: &str) {
    metrics::counter!("apiserver_audit_error_total", "plugin" => plugin).increment(events as u64);
    tracing::error!("Error in audit plugin '{plugin}' affecting {events} audit events: {why}");
}

/// The audit log of a server.
pub(crate) struct Audit {
    policy: Policy,
    backends: Vec<Queue>,
    clock: Clock,
    stop: Shutdown,
    tasks: TaskGroup,
}

/// A request as it arrives.
pub(crate) struct Arrival<'a> {
    pub id: &'a str,
    pub info: &'a RequestInfo,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// None within this process.
    pub peer: Option<IpAddr>,
    /// None when it could not be told who asks.
    pub user: Option<&'a UserInfo>,
    pub started: Instant,
}

impl Audit {
    /// The audit log that a configuration asks for, its tasks begun; none when it asks for none.
    ///
    /// # Errors
    /// Upstream's text for what is wrong with flags, policy, file or kubeconfig.
    pub fn build(config: &AuditConfig, env: &Env) -> Result<Option<Arc<Self>>, String> {
        config.check()?;
        let policy = config.policy_file.as_deref().map(Policy::load).transpose();
        let policy = policy.map_err(|error| format!("loading audit policy file: {error}"))?;
        let log = Log::open(&config.log, &env.clock)?;
        let Some(policy) = policy else {
            if log.is_some() || config.webhook.config_file.is_some() {
                tracing::info!("No audit policy file provided, no events will be recorded");
            }
            return Ok(None);
        };
        let (stop, mut backends) = (Shutdown::new(), Vec::new());
        let tasks = TaskGroup::new("audit", stop.clone());
        if let Some(log) = log {
            let (queue, batches) = queue::queue("log", &config.log.batch, true, &env.clock, &stop);
            backends.push(queue);
            let writer = LogWriter {
                log,
                old: log::old_files(&config.log),
                truncate: config.log.truncate.clone(),
                clock: env.clock.clone(),
                tasks: tasks.clone(),
            };
            tasks.spawn_detached("log", writer.run(batches));
        }
        if let Some(path) = &config.webhook.config_file {
            let webhook = Webhook::load(path, config.webhook.initial_backoff, env, &tasks)
                .map_err(|error| format!("initializing audit webhook: {error}"))?;
            let (queue, batches) = queue::queue("webhook", &config.webhook.batch, false, &env.clock, &stop);
            backends.push(queue);
            let truncate = config.webhook.truncate.clone();
            tasks.spawn_detached("webhook", send(Arc::new(webhook), truncate, tasks.clone(), batches));
        }
        if backends.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self { policy, backends, clock: env.clock.clone(), stop, tasks })))
    }

    /// Begins the trail of a request; none when the policy says nothing about it.
    pub fn open(self: &Arc<Self>, arrival: &Arrival<'_>) -> Option<Arc<Trail>> {
        let verdict = self.policy.look(arrival.user, arrival.info);
        metrics::counter!("apiserver_audit_level_total", "level" => verdict.level.name()).increment(1);
        if verdict.level == Level::None {
            return None;
        }
        let since = i64::try_from(arrival.started.elapsed().as_micros()).unwrap_or_default();
        let event = Event {
            level: verdict.level,
            audit_id: arrival.id.to_owned(),
            request_uri: arrival.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            verb: arrival.info.verb,
            user: arrival.user.map(User::from).unwrap_or_default(),
            source_ips: event::source_ips(arrival.headers, arrival.peer.unwrap_or(LOOPBACK)),
            user_agent: event::user_agent(arrival.headers),
            object_ref: ObjectRef::of(arrival.info),
            request_received_timestamp: Micros(self.clock.now_micros() - since),
            ..Event::default()
        };
        Some(Arc::new(Trail {
            audit: self.clone(),
            verdict,
            kind: match arrival.user {
                None => Kind::Stranger,
                Some(_) if arrival.info.is_long_running() => Kind::Lasting,
                Some(_) => Kind::Plain,
            },
            is_resource: arrival.info.is_resource,
            is_deletion: matches!(arrival.info.verb, "delete" | "deletecollection"),
            started: arrival.started,
            state: Mutex::new(State {
                event,
                sent: None,
                laps: Vec::new(),
                last_lap: arrival.started,
                ended: false,
            }),
        }))
    }

    /// Writes what is still queued, and takes nothing more.
    pub async fn close(&self) {
        self.stop.trigger();
        if let Err(error) = self.tasks.clone().join(FLUSH).await {
            tracing::warn!(%error, "the audit log was not written to its end");
        }
    }

    /// Gives an event to all backends; false when the request may not go on.
    async fn put(&self, event: Event) -> bool {
        metrics::counter!("apiserver_audit_event_total").increment(1);
        let event = Arc::new(event);
        let mut good = true;
        for backend in &self.backends {
            good &= backend.put(&event).await;
        }
        good
    }

    /// Gives an event to all backends that have room.
    fn offer(&self, event: Event) {
        metrics::counter!("apiserver_audit_event_total").increment(1);
        let event = Arc::new(event);
        self.backends.iter().for_each(|backend| backend.offer(&event));
    }
}

/// Which stages a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Received, complete.
    Plain,
    /// Received, started, complete.
    Lasting,
    /// Who asks is not known: the start of the refusal only.
    Stranger,
}

/// One request on its way, as far as it is written. When the last handle goes, so does its last event: the request is
/// over then, whether it was answered, its caller left, or it panicked.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    verdict: Verdict,
    kind: Kind,
    is_resource: bool,
    is_deletion: bool,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    event: Event,
    /// The body that was sent.
    sent: Option<Sent>,
    /// How long the parts of the way took.
    laps: Vec<(&'static str, Duration)>,
    last_lap: Instant,
    /// Whether nothing is written any more.
    ended: bool,
}

impl Trail {
    pub fn level(&self) -> Level {
        self.verdict.level
    }

    /// The request was received.
    ///
    /// # Errors
    /// 500 when it may not go on, since that cannot be written.
    pub async fn received(&self) -> Result<(), Status> {
        if self.kind == Kind::Stranger || self.process(Stage::RequestReceived).await {
            return Ok(());
        }
        self.state.lock().ended = true;
        metrics::counter!("apiserver_audit_requests_rejected_total").increment(1);
        Err(Status::internal("failed to store audit event"))
    }

    /// The request goes on in the name of another user, if its headers ask for that. `constraint`: the constrained verb
    /// that allowed it, or nothing.
    pub fn acts_as(&self, headers: &HeaderMap, user: &UserInfo, constraint: String) {
        if !headers.contains_key("impersonate-user") {
            return;
        }
        let constrained = !constraint.is_empty();
        {
            let event = &mut self.state.lock().event;
            event.impersonated_user = Some(User::from(user));
            event.authentication_metadata =
                constrained.then_some(Authentication { impersonation_constraint: constraint });
        }
        self.lap("impersonation");
    }

    /// A part of the way is behind it.
    pub fn lap(&self, part: &'static str) {
        let now = self.audit.clock.monotonic();
        let mut state = self.state.lock();
        let took = now.saturating_duration_since(state.last_lap);
        state.last_lap = now;
        state.laps.push((part, took));
    }

    /// Notes something. As upstream, the first of several values stays.
    pub fn annotate(&self, key: String, value: String) {
        let annotations = &mut self.state.lock().event.annotations;
        if annotations.len() < MAX_ANNOTATIONS || annotations.contains_key(&key) {
            annotations.entry(key).or_insert(value);
        }
    }

    /// The request's body was read.
    pub fn sent(&self, bytes: &Bytes, headers: &HeaderMap, info: &RequestInfo) {
        let sent = Sent::of(bytes, headers, info);
        self.state.lock().sent = sent;
    }

    /// The request is answered: what is written of the answer is taken from it. Requests that last end when the body
    /// does.
    pub async fn answered(self: Arc<Self>, response: Response<Body>) -> Response<Body> {
        let response = self.read(response).await;
        match self.kind {
            Kind::Plain => {
                let last = self.finish();
                if let Some(event) = last {
                    self.audit.put(event).await;
                }
                response
            }
            Kind::Stranger => {
                self.state.lock().ended = true;
                self.process(Stage::ResponseStarted).await;
                response
            }
            Kind::Lasting => {
                self.process(Stage::ResponseStarted).await;
                response.map(|body| BodyExt::boxed_unsync(Carrying::new(body, self)))
            }
        }
    }

    /// Reads an answer as far as it is written, and gives it back.
    async fn read(&self, response: Response<Body>) -> Response<Body> {
        let code = response.status().as_u16();
        let may_be_status = code >= 400 || self.is_deletion;
        let is_object = self.is_resource && self.kind == Kind::Plain && !body::goes_as_it_comes(&response);
        let wants_object = is_object && self.level() >= Level::RequestResponse;
        let small = response.body().size_hint().exact().is_some_and(|size| size <= MAX_STATUS_BYTES);
        if !(wants_object || may_be_status && small) {
            self.state.lock().event.response_status = Some(Outcome::of(code, None));
            return response;
        }
        let (parts, whole) = response.into_parts();
        let bytes = match body::read_up_to(whole, usize::MAX).await {
            Ok(bytes) => bytes,
            Err(_) => {
                self.state.lock().event.response_status = Some(Outcome::of(code, None));
                return body::response(500, "text/plain", "the answer was lost");
            }
        };
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let format = content_type.and_then(|text| negotiate::content_type(text).ok());
        let answer = Answered { bytes: &bytes, format, may_be_status, is_object };
        self.state.lock().event.take_answer(code, &answer, self.verdict.omit_managed_fields);
        Response::from_parts(parts, body::full(bytes))
    }

    /// Writes the event of a stage; false when the request may not go on.
    async fn process(&self, stage: Stage) -> bool {
        if self.verdict.omitted.has(stage) {
            return true;
        }
        let now = Micros(self.audit.clock.now_micros());
        let event = event::at(self.state.lock().event.clone(), stage, now);
        self.audit.put(event).await
    }

    /// The last event; none when it was written, or is not to be.
    fn finish(&self) -> Option<Event> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.ended, true) {
            return None;
        }
        let took = self.started.elapsed();
        let stage = state.settle(took, self.verdict.omit_managed_fields);
        if self.verdict.omitted.has(stage) {
            return None;
        }
        let now = Micros(self.audit.clock.now_micros());
        Some(event::at(std::mem::take(&mut state.event), stage, now))
    }
}

impl State {
    /// Completes the event; the stage that it is of.
    fn settle(&mut self, took: Duration, omit_managed_fields: bool) -> Stage {
        if std::thread::panicking() {
            self.event.response_status = Some(Outcome::panicked());
            return Stage::Panic;
        }
        self.event.response_status.get_or_insert_with(Outcome::closed_early);
        if let Some(sent) = self.sent.take() {
            self.event.take_request(&sent, omit_managed_fields);
        }
        if took > SLOW {
            let text =
                |took: Duration| time::format_duration(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
            for (part, took) in self.laps.iter().filter(|(_, took)| !took.is_zero()) {
                self.event.annotations.insert(format!("{LATENCY}{part}"), text(*took));
            }
            self.event.annotations.insert(format!("{LATENCY}total"), text(took));
        }
        Stage::ResponseComplete
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if self.kind == Kind::Stranger {
            return;
        }
        let unanswered = {
            let state = self.state.get_mut();
            !state.ended && state.event.response_status.is_none() && !std::thread::panicking()
        };
        let starts = !self.verdict.omitted.has(Stage::ResponseStarted);
        if unanswered && self.kind == Kind::Lasting && starts {
            let now = Micros(self.audit.clock.now_micros());
            let mut event = event::at(self.state.get_mut().event.clone(), Stage::ResponseStarted, now);
            event.response_status = Some(Outcome::closed_early());
            self.audit.offer(event);
        }
        if let Some(event) = self.finish() {
            self.audit.offer(event);
        }
    }
}

/// An event as it fits: whole, or without its bodies; none when it does not.
fn fitting(event: &Arc<Event>, config: &AuditTruncateConfig) -> Option<Arc<Event>> {
    let fits = |event: &Event| event.item().len() <= config.max_event_bytes;
    if !config.enabled || fits(event) {
        return Some(event.clone());
    }
    let small = (event.level >= Level::Request).then(|| Arc::new(event.truncated()));
    small.filter(|small| fits(small)).or_else(|| {
        lost("truncate", 1, "event is too large even after truncating");
        None
    })
}

/// Tells who waits for an event whether it was written.
fn tell(job: &mut Job, written: bool) {
    if let Some(waiter) = job.written.take() {
        // Its request may have ended.
        let _ = waiter.send(written);
    }
}

/// Writes events into the file.
struct LogWriter {
    log: Log,
    old: Option<OldFiles>,
    truncate: AuditTruncateConfig,
    clock: Clock,
    tasks: TaskGroup,
}

impl LogWriter {
    async fn run(mut self, mut batches: Batches) {
        self.tidy();
        while let Some(batch) = batches.next().await {
            let truncate = self.truncate.clone();
            let mut log = self.log;
            // The disk may be slow.
            let written = tokio::task::spawn_blocking(move || {
                let begun = write(&mut log, batch, &truncate);
                (log, begun)
            });
            match written.await {
                Ok((log, begun)) => {
                    self.log = log;
                    if begun {
                        self.tidy();
                    }
                }
                Err(error) => return tracing::error!(%error, "the audit log ended"),
            }
        }
    }

    fn tidy(&self) {
        let (Some(old), now) = (self.old.clone(), self.clock.now()) else { return };
        self.tasks.spawn_detached("log-tidy", async move {
            let tidied = tokio::task::spawn_blocking(move || (old.tidy(now), old.path)).await;
            if let Ok((Err(error), path)) = tidied {
                tracing::warn!(%error, path = %path.display(), "old audit logs are not kept in order");
            }
        });
    }
}

/// Writes a batch; whether another file was begun.
fn write(log: &mut Log, batch: Vec<Job>, truncate: &AuditTruncateConfig) -> bool {
    let mut begun = false;
    for mut job in batch {
        let Some(event) = fitting(&job.event, truncate) else {
            // As upstream: what is too large does not hold up its request.
            tell(&mut job, true);
            continue;
        };
        match log.write(&event) {
            Ok(another) => {
                begun |= another;
                tell(&mut job, true);
            }
            Err(error) => {
                lost("log", 1, &error.to_string());
                tell(&mut job, false);
            }
        }
    }
    begun
}

/// Sends batches to the webhook, several at a time.
async fn send(webhook: Arc<Webhook>, truncate: AuditTruncateConfig, tasks: TaskGroup, mut batches: Batches) {
    let places = Arc::new(Semaphore::new(MAX_SENDING));
    while let Some(batch) = batches.next().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (webhook, truncate) = (webhook.clone(), truncate.clone());
        tasks.spawn_detached("webhook-batch", async move {
            send_batch(&webhook, &truncate, batch).await;
            drop(place);
        });
    }
    // All that were sent have been answered.
    drop(places.acquire_many(MAX_SENDING as u32).await);
}

async fn send_batch(webhook: &Webhook, truncate: &AuditTruncateConfig, batch: Vec<Job>) {
    let (mut events, mut waiting, mut bytes): (Vec<Vec<u8>>, Vec<Job>, usize) = Default::default();
    for mut job in batch {
        let Some(event) = fitting(&job.event, truncate) else {
            tell(&mut job, true);
            continue;
        };
        let item = event.item();
        if truncate.enabled && !events.is_empty() && bytes + item.len() > truncate.max_batch_bytes {
            deliver(webhook, std::mem::take(&mut events), std::mem::take(&mut waiting)).await;
            bytes = 0;
        }
        bytes += item.len();
        events.push(item);
        waiting.push(job);
    }
    if !events.is_empty() {
        deliver(webhook, events, waiting).await;
    }
}

async fn deliver(webhook: &Webhook, events: Vec<Vec<u8>>, waiting: Vec<Job>) {
    let sent = webhook.send(&events).await;
    if let Err(error) = &sent {
        lost("webhook", events.len(), error);
    }
    for mut job in waiting {
        tell(&mut job, sent.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::Query;
    use http::Method;
    use serde_json::Value;
    use std::path::Path;

    fn audit(folder: &Path) -> Arc<Audit> {
        let policy = folder.join("policy.yaml");
        std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
            .unwrap();
        let mut config = AuditConfig { policy_file: Some(policy), ..AuditConfig::default() };
        config.log.path = Some(folder.join("audit.log"));
        Audit::build(&config, &Env::real()).unwrap().unwrap()
    }

    fn open(audit: &Arc<Audit>, path: &str, started: Instant) -> Arc<Trail> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let info = RequestInfo::parse(&Method::GET, path, &Query::parse(query));
        let (uri, headers) = (path.parse().unwrap(), HeaderMap::new());
        let user = UserInfo::new("jane", &[]);
        let arrival = Arrival {
            id: "id",
            info: &info,
            uri: &uri,
            headers: &headers,
            peer: None,
            user: Some(&user),
            started,
        };
        audit.open(&arrival).unwrap()
    }

    /// What was written, when all is over: stages and statuses.
    async fn written(audit: &Audit, folder: &Path) -> Vec<(String, Value, Value)> {
        audit.close().await;
        let text = std::fs::read_to_string(folder.join("audit.log")).unwrap();
        let event = |line: &str| -> (String, Value, Value) {
            let event: Value = serde_json::from_str(line).unwrap();
            let stage = event["stage"].as_str().unwrap().to_owned();
            (stage, event["responseStatus"].clone(), event["annotations"].clone())
        };
        text.lines().map(event).collect()
    }

    #[tokio::test]
    async fn a_panic_is_the_last_event() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit(folder.path());
        let trail = open(&audit, "/metrics", audit.clock.monotonic());
        trail.received().await.unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _trail = trail;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let events = written(&audit, folder.path()).await;
        assert_eq!((events.len(), events[1].0.as_str()), (2, "Panic"));
        assert_eq!((&events[1].1["code"], &events[1].1["reason"]), (&500.into(), &"InternalError".into()));
    }

    #[tokio::test]
    async fn a_caller_that_left_was_not_answered() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit(folder.path());
        drop(open(&audit, "/metrics", audit.clock.monotonic()));
        drop(open(&audit, "/api/v1/pods?watch=1", audit.clock.monotonic()));
        let events = written(&audit, folder.path()).await;
        let stages: Vec<&str> = events.iter().map(|(stage, _, _)| stage.as_str()).collect();
        assert_eq!(stages, ["ResponseComplete", "ResponseStarted", "ResponseComplete"]);
        assert!(events.iter().all(|(_, status, _)| status["message"] == "Connection closed early"));
    }

    #[tokio::test]
    async fn slow_requests_say_where_the_time_went() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit(folder.path());
        let started = audit.clock.monotonic() - Duration::from_secs(2);
        let trail = open(&audit, "/metrics", started);
        trail.lap("authentication");
        trail.annotate("a".to_owned(), "first".to_owned());
        trail.annotate("a".to_owned(), "second".to_owned());
        let response = trail.answered(body::response(200, "text/plain", "x")).await;
        assert_eq!(response.status(), 200);
        let events = written(&audit, folder.path()).await;
        let (stage, status, annotations) = &events[0];
        assert_eq!((stage.as_str(), &status["code"]), ("ResponseComplete", &200.into()));
        assert_eq!(annotations["a"], "first");
        for part in ["authentication", "total"] {
            let took = annotations[format!("{LATENCY}{part}")].as_str().unwrap();
            assert!(!took.starts_with('0') && took.ends_with('s'), "{took}");
        }
    }

    #[test]
    fn events_that_are_too_large_lose_their_bodies_or_are_lost() {
        let mut event = Event { level: Level::Request, ..Event::default() };
        event.request_object = serde_json::value::to_raw_value(&"x".repeat(1000)).ok();
        let event = Arc::new(event);
        let mut config = AuditTruncateConfig::default();
        assert!(fitting(&event, &config).unwrap().request_object.is_some());
        config.enabled = true;
        config.max_event_bytes = 600;
        assert!(fitting(&event, &config).unwrap().request_object.is_none());
        config.max_event_bytes = 10;
        assert!(fitting(&event, &config).is_none());
    }
}

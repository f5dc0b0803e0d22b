//! The client against a small API in memory: a map of objects, versions, and watches that can be cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, table};
use bytes::Bytes;
use client::{
    Body, BoxError, Change, Client, ElectionConfig, EventRecorder, EventType, InformerConfig, LeaderElector,
    Service,
};
use env::{Env, Shutdown, TaskGroup};
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tower::util::BoxCloneSyncService;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Watches from before this version are told to begin anew.
    oldest: u64,
    log: Vec<(u64, Value)>,
    fences: Vec<Option<String>>,
}

#[derive(Clone)]
struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Option<(u64, Value)>>,
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).expect("response")
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status =
        json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason });
    answer(code, &status)
}

impl FakeApi {
    fn new() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(1000).0 }
    }

    fn service(&self) -> Service {
        let api = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            let answer: futures::future::BoxFuture<'static, Result<Response<Body>, BoxError>> =
                Box::pin(async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    Ok(api.answer(&parts, &body))
                });
            answer
        }))
    }

    fn put(&self, path: &str, mut object: Value, kind: &str) -> Value {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        meta::set_resource_version(&mut object, &version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        let event = json!({ "type": kind, "object": object });
        state.log.push((version, event.clone()));
        drop(self.events.send(Some((version, event))));
        object
    }

    /// Cuts every watch; those that come again are told that their version is too old.
    fn forget_history(&self) {
        let mut state = self.state.lock();
        state.oldest = state.version + 1;
        state.log.clear();
        drop(self.events.send(None));
    }

    fn answer(&self, parts: &http::request::Parts, body: &Bytes) -> Response<Body> {
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let object = || serde_json::from_slice::<Value>(body).expect("a JSON body");
        if parts.method != Method::GET {
            let fence =
                parts.headers.get("trierarch-fence").map(|value| value.to_str().expect("text").to_owned());
            self.state.lock().fences.push(fence);
        }
        match parts.method {
            Method::GET if query.contains("watch=1") => self.watch(query),
            Method::GET => self.read(&path),
            Method::POST => {
                let object = object();
                let path = format!("{path}/{}", meta::name(&object));
                answer(201, &self.put(&path, object, "ADDED"))
            }
            Method::PUT => self.replace(&path, object()),
            Method::PATCH => {
                let mut changed = self.state.lock().objects[&path].clone();
                changed["count"] = object()["count"].clone();
                answer(200, &self.put(&path, changed, "MODIFIED"))
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn read(&self, path: &str) -> Response<Body> {
        let state = self.state.lock();
        if let Some(object) = state.objects.get(path) {
            return answer(200, object);
        }
        if path.ends_with("/leases/kube-scheduler") {
            return failure(404, "NotFound");
        }
        let items: Vec<_> =
            state.objects.iter().filter(|(key, _)| key.starts_with(path)).map(|(_, v)| v).collect();
        answer(200, &json!({ "metadata": { "resourceVersion": state.version.to_string() }, "items": items }))
    }

    fn replace(&self, path: &str, object: Value) -> Response<Body> {
        let current = self.state.lock().objects.get(path).map(|old| meta::resource_version(old).to_owned());
        match current {
            Some(version) if version == meta::resource_version(&object) => {
                answer(200, &self.put(path, object, "MODIFIED"))
            }
            Some(_) => failure(409, "Conflict"),
            None => failure(404, "NotFound"),
        }
    }

    fn watch(&self, query: &str) -> Response<Body> {
        let from =
            query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).expect("a version");
        let from: u64 = from.parse().expect("a number");
        let state = self.state.lock();
        if from + 1 < state.oldest {
            return failure(410, "Expired");
        }
        let past: Vec<_> =
            state.log.iter().filter(|(version, _)| *version > from).cloned().map(Some).collect();
        let live = tokio_stream_of(self.events.subscribe());
        let events =
            futures::stream::iter(past).chain(live).take_while(|event| std::future::ready(event.is_some()));
        let frames = events.map(|event| {
            let (_, event) = event.expect("taken while some");
            Ok::<_, BoxError>(Frame::data(Bytes::from(format!("{event}\n"))))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn tokio_stream_of(
    receiver: broadcast::Receiver<Option<(u64, Value)>>,
) -> impl futures::Stream<Item = Option<(u64, Value)>> + Send {
    futures::stream::unfold(receiver, |mut receiver| async {
        let event = receiver.recv().await.ok()?;
        Some((event, receiver))
    })
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let clock = Env::real().clock;
    let poll = async {
        while !check() {
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what} did not happen in time"));
}

fn pod(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "ns" } })
}

const PODS: &str = "/api/v1/pods";

#[tokio::test]
async fn an_informer_stays_level_across_lost_watches_and_lost_history() {
    let api = FakeApi::new();
    let caller = Client::new(api.service(), "test");
    api.put(&format!("{PODS}/a"), pod("a"), "ADDED");
    let pods = table::find("", "v1", "pods").expect("pods");
    let mut informer = InformerConfig::all(pods).build(Env::real(), &caller);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = seen.clone();
    informer.on_change(move |change| {
        let sign = match change {
            Change::Added(_) => '+',
            Change::Updated { .. } => '~',
            Change::Deleted(_) => '-',
        };
        told.lock().push(format!("{sign}{}", meta::name(change.object())));
    });
    let lister = informer.lister();
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new("test", shutdown.clone());
    tasks.spawn_detached("informer", informer.run(shutdown.clone()));
    assert!(lister.synced().await);
    api.put(&format!("{PODS}/b"), pod("b"), "ADDED");
    eventually("b", || lister.get("ns", "b").is_some()).await;
    // The watch is cut and its history lost; meanwhile a goes and c comes.
    api.state.lock().objects.remove(&format!("{PODS}/a"));
    api.forget_history();
    api.put(&format!("{PODS}/c"), pod("c"), "ADDED");
    api.state.lock().oldest = u64::MAX;
    eventually("c", || lister.get("ns", "c").is_some() && lister.get("ns", "a").is_none()).await;
    assert_eq!(*seen.lock(), ["+a", "+b", "+c", "-a"]);
    shutdown.trigger();
}

fn elector(api: &FakeApi, replica: &str, preferred: &watch::Receiver<bool>) -> LeaderElector {
    let config = ElectionConfig {
        retry_period: Duration::from_millis(20),
        ..ElectionConfig::new("kube-scheduler", replica)
    };
    LeaderElector::new(config, Env::real(), &Client::new(api.service(), "test"), preferred.clone())
}

#[tokio::test]
async fn the_preferred_replica_leads_at_once_and_each_term_has_its_own_fence() {
    let api = FakeApi::new();
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new("test", shutdown.clone());
    let leading: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut switches = Vec::new();
    for replica in ["m1", "m2"] {
        let (switch, preferred) = watch::channel(false);
        switches.push(switch);
        let (elector, leading, stop) =
            (elector(&api, replica, &preferred), leading.clone(), shutdown.clone());
        tasks.spawn_detached(replica, async move {
            let lead = |fence: client::Fence, stop: Shutdown| {
                let leading = leading.clone();
                async move {
                    leading.lock().push(format!("{} {}", fence.holder, fence.transitions));
                    stop.wait().await;
                    leading.lock().push(format!("{} ends", fence.holder));
                }
            };
            elector.run(stop, lead).await;
        });
    }
    switches[0].send_replace(true);
    eventually("m1", || leading.lock().len() == 1).await;
    switches[0].send_replace(false);
    switches[1].send_replace(true);
    eventually("m2", || leading.lock().len() == 3).await;
    let mut told = leading.lock().clone();
    told.sort();
    assert_eq!(told, ["trierarch/m1 0", "trierarch/m1 ends", "trierarch/m2 1"]);
    shutdown.trigger();
}

#[tokio::test]
async fn a_fence_goes_with_every_write_and_no_read() {
    let api = FakeApi::new();
    let fence =
        client::Fence { namespace: "ns".into(), lease: "l".into(), holder: "h".into(), transitions: 4 };
    let caller = Client::new(api.service(), "test").with_fence(&fence);
    let pods = caller.namespaced(table::find("", "v1", "pods").expect("pods"), "ns");
    pods.create(&pod("a")).await.expect("create");
    pods.get("a").await.expect("get");
    assert_eq!(api.state.lock().fences, [Some("ns/l; h/4".to_owned())]);
}

#[tokio::test]
async fn an_event_that_repeats_is_counted() {
    let api = FakeApi::new();
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new("test", shutdown.clone());
    let (recorder, writer) =
        EventRecorder::new(Env::real(), Client::new(api.service(), "test"), "scheduler", "m1");
    tasks.spawn_detached("events", writer);
    for _ in 0..3 {
        recorder.record(&pod("a"), EventType::Warning, "FailedScheduling", "0/1 nodes are available");
    }
    recorder.record(&pod("a"), EventType::Normal, "Scheduled", "to n1");
    let counts = || -> Vec<i64> {
        let state = api.state.lock();
        let mut counts: Vec<_> = state.objects.values().filter_map(|event| event["count"].as_i64()).collect();
        counts.sort_unstable();
        counts
    };
    eventually("two events", || counts() == [1, 3]).await;
    shutdown.trigger();
}

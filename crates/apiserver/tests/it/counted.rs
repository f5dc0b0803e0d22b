//! What is counted of requests, under upstream's names. The recorder is the process': the kinds here are no other test's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use serde_json::{Value, json};

use crate::cluster::{Cluster, ask, eventually};
use crate::custom::establish;
use crate::flow::{SlowReader, level_of, reader};

const THINGS: &str = "/apis/counted.example.org/v1/namespaces/default/things";

/// Everything that was recorded: counters, how often histograms were told something, and bits of gauges.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

struct Tally(Arc<AtomicU64>);

impl HistogramFn for Tally {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorded {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let mut labels: Vec<String> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.sort();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().expect("no panic").entry(name).or_default().clone()
    }

    /// What was recorded under a name with these labels.
    fn of(&self, series: &str) -> u64 {
        let all = self.0.lock().expect("no panic");
        all.get(series).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

impl metrics::Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Tally(self.cell(key))))
    }
}

/// The recorder of this process, set before the server is built that is looked at.
fn recorded() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let recorded = Recorded::default();
        assert!(metrics::set_global_recorder(recorded.clone()).is_ok(), "there is one already");
        recorded
    })
}

fn definition() -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.counted.example.org"},
        "spec": {
            "group": "counted.example.org",
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}

fn thing(name: &str) -> Value {
    json!({"apiVersion": "counted.example.org/v1", "kind": "Thing", "metadata": {"name": name}})
}

/// A series of requests about things.
fn series(name: &str, verb: &str, scope: &str, more: &str) -> String {
    let mut labels = vec![
        "component=apiserver".to_owned(),
        "group=counted.example.org".to_owned(),
        "resource=things".to_owned(),
        "subresource=".to_owned(),
        "version=v1".to_owned(),
        format!("scope={scope}"),
        format!("verb={verb}"),
    ];
    labels.extend(more.split(',').filter(|label| !label.is_empty()).map(str::to_owned));
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

/// Kinds of the table and versions of definitions, whatever is asked of them.
#[tokio::test]
async fn who_asks_for_what_is_deprecated_is_warned_and_it_is_counted() {
    let recorded = recorded();
    let cluster = Cluster::start().await;
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let text = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "old"}});
    let one = format!("{endpoints}/old");
    for (request, code) in [
        (ask("POST", endpoints).json(&object), 201),
        (ask("GET", &one), 200),
        (ask("GET", endpoints), 200),
        (ask("GET", &format!("{endpoints}?watch=true&timeoutSeconds=1")), 200),
        (ask("PUT", &one).json(&object), 200),
        (ask("DELETE", &one), 200),
        (ask("GET", &one), 404),
    ] {
        let answer = cluster.root(request).await;
        assert_eq!(answer.code, code);
        assert_eq!(answer.headers["warning"], text);
    }
    let status = cluster.root(ask("GET", "/api/v1/componentstatuses")).await;
    assert_eq!(status.headers["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let slices = cluster.root(ask("GET", "/apis/discovery.k8s.io/v1/endpointslices")).await;
    assert!(!slices.headers.contains_key("warning"));
    let deprecated = |resource: &str| {
        let labels = format!("group=,removed_release=,resource={resource},subresource=,version=v1");
        f64::from_bits(recorded.of(&format!("apiserver_requested_deprecated_apis{{{labels}}}")))
    };
    assert!(deprecated("endpoints") == 1.0 && deprecated("componentstatuses") == 1.0);
    assert!(deprecated("pods") == 0.0);
}

/// A list holds seats by the size of what it goes through, custom kinds too, until the client has read it; a watch that
/// begins with what there was, until that was told.
#[tokio::test]
async fn lists_hold_their_seats_until_they_are_read() {
    let recorded = recorded();
    let cluster = Cluster::start().await;
    // Things of another group: these are not counted above.
    let other = definition().to_string().replace("counted.example", "heavy.example");
    establish(&cluster, &serde_json::from_str(&other).expect("JSON")).await;
    let things = THINGS.replace("counted.example", "heavy.example");
    for name in 0..5 {
        let mut large = thing(&format!("large{name}"));
        large["apiVersion"] = "heavy.example.org/v1".into();
        large["data"] = "v".repeat(100_000).into();
        cluster.create(&things, &large).await;
    }
    level_of(&cluster, "hana", "heavy", 100).await;
    reader(&cluster, "hana", "cluster-admin").await;
    let seats = || {
        let series = "apiserver_flowcontrol_current_executing_seats{flow_schema=heavy,priority_level=heavy}";
        f64::from_bits(recorded.of(series))
    };
    let free = || eventually("free seats", || async { (seats() == 0.0).then_some(()) });
    let slow = SlowReader::connect(&cluster).await;
    let list = slow.begin("hana", &things).await;
    assert_eq!(seats(), 6.0, "one for each 100,000 bytes that were begun");
    let small = slow.begin("hana", &format!("{things}/large0/none")).await;
    assert_eq!((small.status(), seats()), (http::StatusCode::NOT_FOUND, 6.0));
    drop(http_body_util::BodyExt::collect(list.into_body()).await.expect("a body"));
    free().await;
    let all = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let watch = slow.begin("hana", &format!("{things}?{all}")).await;
    assert_eq!(seats(), 6.0);
    let mut body = watch.into_body();
    let mut told = String::new();
    while !told.contains("initial-events-end") {
        let frame = http_body_util::BodyExt::frame(&mut body).await.expect("a frame").expect("a piece");
        told.push_str(&String::from_utf8_lossy(&frame.into_data().expect("data")));
    }
    free().await;
    let later = slow.begin("hana", &format!("{things}?watch=1&resourceVersion=0&limit=1")).await;
    assert_eq!(seats(), 1.0);
    drop(later);
    free().await;
}

#[tokio::test]
async fn requests_are_counted_under_upstreams_names() {
    let recorded = recorded();
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    cluster.root(ask("POST", THINGS).json(&thing("a"))).await.expect(201);
    cluster.root(ask("POST", THINGS).json(&thing("a"))).await.expect(409);
    cluster.root(ask("POST", &format!("{THINGS}?dryRun=All")).json(&thing("b"))).await.expect(201);
    cluster.root(ask("GET", &format!("{THINGS}/none"))).await.expect(404);
    cluster.root(ask("GET", THINGS)).await.expect(200);
    cluster.root(ask("GET", "/apis/counted.example.org/v1/namespaces/default/others")).await;
    let total = |verb, scope, more| recorded.of(&series("apiserver_request_total", verb, scope, more));
    assert_eq!(total("POST", "resource", "code=201,dry_run="), 1);
    assert_eq!(total("POST", "resource", "code=409,dry_run="), 1);
    assert_eq!(total("POST", "resource", "code=201,dry_run=All"), 1);
    assert_eq!(total("GET", "resource", "code=404,dry_run="), 1);
    assert_eq!(total("LIST", "namespace", "code=200,dry_run="), 1);
    let took = |name, verb, scope, more| recorded.of(&series(name, verb, scope, more));
    assert_eq!(took("apiserver_request_duration_seconds", "POST", "resource", "dry_run="), 2);
    assert_eq!(took("apiserver_request_duration_seconds", "POST", "resource", "dry_run=All"), 1);
    assert_eq!(took("apiserver_request_sli_duration_seconds", "POST", "resource", ""), 2, "no dry runs");
    assert_eq!(took("apiserver_response_sizes", "LIST", "namespace", ""), 1);
    assert_eq!(took("apiserver_response_sizes", "POST", "resource", ""), 0, "only of reads");
    let bodies = "apiserver_request_body_size_bytes{group=counted.example.org,resource=things,verb=create}";
    assert_eq!(recorded.of(bodies), 3);
    let writes = "etcd_requests_total{group=counted.example.org,operation=create,resource=things}";
    assert!(recorded.of(writes) >= 1);
    let lists = "{group=counted.example.org,index=,resource=things,storage=etcd}";
    assert_eq!(recorded.of(&format!("apiserver_storage_list_total{lists}")), 1);
    assert_eq!(recorded.of(&format!("apiserver_storage_list_fetched_objects_total{lists}")), 1);
    let admitted = |name: &str, kind: &str| {
        let labels = format!("{name}operation=CREATE,rejected=false,type={kind}");
        let metric = if name.is_empty() { "step" } else { "controller" };
        recorded.of(&format!("apiserver_admission_{metric}_admission_duration_seconds{{{labels}}}"))
    };
    for (name, kind) in [
        ("", "admit"),
        ("", "validate"),
        ("name=NamespaceLifecycle,", "admit"),
        ("name=ValidatingAdmissionWebhook,", "validate"),
    ] {
        assert!(admitted(name, kind) >= 2, "{name}{kind}");
    }
    let dispatched = "{flow_schema=exempt,priority_level=exempt}";
    assert!(recorded.of(&format!("apiserver_flowcontrol_dispatched_requests_total{dispatched}")) > 0);
    let text = cluster.root(ask("GET", "/metrics")).await.text();
    for line in [
        "apiserver_storage_objects{resource=\"things.counted.example.org\"} 1\n",
        "apiserver_resource_objects{group=\"counted.example.org\",resource=\"things\"} 1\n",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} ",
        "kubernetes_build_info{build_date=",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let health = cluster.root(ask("GET", "/metrics/slis")).await.text();
    let ready = "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1\n";
    assert!(health.contains(ready), "{health}");
}

#[tokio::test]
async fn watches_are_counted_by_their_events() {
    let recorded = recorded();
    let cluster = Cluster::start().await;
    let mut definition = definition();
    definition["metadata"]["name"] = json!("seen.counted.example.org");
    definition["spec"]["names"] = json!({"plural": "seen", "singular": "seen", "kind": "Seen"});
    establish(&cluster, &definition).await;
    let seen = THINGS.replace("things", "seen");
    let object = json!({"apiVersion": "counted.example.org/v1", "kind": "Seen", "metadata": {"name": "a"}});
    cluster.root(ask("POST", &seen).json(&object)).await.expect(201);
    let watched = cluster.root(ask("GET", &format!("{seen}?watch=1&timeoutSeconds=1"))).await;
    assert!(watched.text().contains("\"ADDED\""), "{}", watched.text());
    let kind = "group=counted.example.org,resource=seen";
    assert_eq!(recorded.of(&format!("apiserver_watch_events_total{{{kind},version=v1}}")), 1);
    assert_eq!(recorded.of(&format!("apiserver_watch_events_sizes{{{kind},version=v1}}")), 1);
    assert_eq!(recorded.of(&format!("apiserver_init_events_total{{{kind}}}")), 1);
    let series =
        |name: &str, more: &str| series(name, "WATCH", "namespace", more).replace("=things", "=seen");
    assert_eq!(recorded.of(&series("apiserver_request_total", "code=200,dry_run=")), 1, "at its end");
    let lasting = f64::from_bits(recorded.of(&series("apiserver_longrunning_requests", "")));
    assert!(lasting.abs() < f64::EPSILON, "{lasting}");
}

#[tokio::test]
async fn work_queues_are_counted_by_name() {
    let recorded = recorded();
    let of = |metric: &str| recorded.of(&format!("workqueue_{metric}{{name=counted}}"));
    let depth = || f64::from_bits(of("depth")).round() as u64;
    let (queue, shutdown) = (client::WorkQueue::named(env::Env::seeded(1), "counted"), env::Shutdown::new());
    ["a", "a", "b"].into_iter().for_each(|key| queue.add(key));
    assert_eq!((of("adds_total"), depth(), of("queue_duration_seconds")), (2, 2, 0));
    let key = queue.next(&shutdown).await.expect("a key");
    assert_eq!((depth(), of("queue_duration_seconds"), of("work_duration_seconds")), (1, 1, 0));
    queue.add_failed(key);
    queue.done(&key);
    assert_eq!((of("work_duration_seconds"), of("retries_total")), (1, 1));
    let nothing = f64::from_bits(of("longest_running_processor_seconds"));
    assert!(nothing.abs() < f64::EPSILON, "{nothing}");
}

#[tokio::test]
async fn the_server_tells_since_when_it_runs_and_with_which_flags() {
    let cluster = Cluster::start_with(|config| {
        config.flags.insert("a-flag".to_owned(), "its value".to_owned());
    })
    .await;
    let cluster = &cluster;
    let text = |path: &'static str| async move { cluster.root(ask("GET", path)).await.text() };
    let status = text("/statusz").await;
    assert!(status.starts_with("\napiserver statusz\nWarning: "), "{status}");
    assert!(status.contains("\nBinary version: 1.37"), "{status}");
    assert!(text("/flagz").await.contains("\na-flag=its value\n"));
    let accept =
        |kind: &str, version: &str| format!("application/json;as={kind};v={version};g=config.k8s.io");
    let object = |path: &'static str, accept: String| async move {
        cluster.root(ask("GET", path).header("accept", &accept)).await
    };
    let status = object("/statusz", accept("Statusz", "v1beta1")).await.expect(200);
    assert_eq!((&status["kind"], &status["emulationVersion"]), (&json!("Statusz"), &json!("1.37")));
    assert!(status["uptimeSeconds"].as_i64().is_some_and(|seconds| seconds >= 0), "{status}");
    let flags = object("/flagz", accept("Flagz", "v1alpha1")).await;
    let warning = flags.headers["warning"].to_str().expect("a text").to_owned();
    assert!(warning.contains("This version of the flagz endpoint is deprecated"), "{warning}");
    assert_eq!(flags.expect(200)["flags"], json!({"a-flag": "its value"}));
    object("/flagz", "application/json".to_owned()).await.expect(406);
}

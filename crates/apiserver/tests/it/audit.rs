//! The audit log: what is written of requests at which level, in which stages, and whereto.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apiserver::{ApiServerConfig, AuditConfig, AuditFormat, AuditMode};
use base64::Engine as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Answer, Ask, Authority, CONFIG_MAPS, Cluster, Running, ask, config_map, eventually};
use crate::hook_server::HookServer;

/// Rules that leave out what the tests wait with.
const QUIET: &str = "- {level: None, nonResourceURLs: ['/readyz*']}\n";

/// A server whose audit log is a file.
struct Audited {
    cluster: Running,
    folder: TempDir,
}

/// Writes a policy; a configuration with a file.
fn configured(folder: &TempDir, rules: &str) -> AuditConfig {
    let policy = folder.path().join("policy.yaml");
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{QUIET}{rules}");
    std::fs::write(&policy, text).expect("policy");
    let mut config = AuditConfig { policy_file: Some(policy), ..AuditConfig::default() };
    config.log.path = Some(folder.path().join("logs/audit.log"));
    config
}

impl Audited {
    async fn start(rules: &str) -> Self {
        Self::start_with(rules, |_| ()).await
    }

    async fn start_with(rules: &str, adjust: impl FnOnce(&mut AuditConfig)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut config = configured(&folder, rules);
        adjust(&mut config);
        let cluster = Cluster::start_with(|server: &mut ApiServerConfig| server.audit = config).await;
        Self { cluster, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("logs/audit.log")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).expect("the log")
    }

    /// All events, in the order of the file.
    fn events(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    /// The events of a request that was answered.
    fn of(&self, answer: &Answer) -> Vec<Value> {
        let id = answer.headers["audit-id"].to_str().expect("id");
        self.events().into_iter().filter(|event| event["auditID"] == id).collect()
    }

    /// The last event of a request.
    fn last(&self, answer: &Answer) -> Value {
        let last = self.of(answer).pop().expect("an event");
        assert_eq!(last["stage"], "ResponseComplete", "{last}");
        last
    }

    async fn admin(&self, ask: Ask) -> Answer {
        self.cluster.send_as(ask, &self.cluster.admin).await.expect("answer")
    }

    async fn annotations(&self, ask: Ask) -> Value {
        let answer = self.cluster.root(ask).await;
        self.last(&answer)["annotations"].clone()
    }
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["stage"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn levels_say_how_much_is_written() {
    let audited = Audited::start(
        "- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}\n\
         - {level: Request, resources: [{group: '', resources: [services]}], omitStages: [RequestReceived]}\n\
         - {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n",
    )
    .await;
    let ask_map = ask("POST", &format!("{CONFIG_MAPS}?fieldManager=me")).json(&config_map("a"));
    let answer = audited.admin(ask_map.header("user-agent", "test/1")).await;
    let made = answer.expect(201);
    let events = audited.of(&answer);
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    let (first, last) = (&events[0], &events[1]);
    assert_eq!((&last["kind"], &last["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&last["level"], &last["verb"]), (&json!("RequestResponse"), &json!("create")));
    assert_eq!(last["requestURI"], format!("{CONFIG_MAPS}?fieldManager=me"));
    let groups = json!(["system:masters", "system:authenticated"]);
    assert_eq!((&last["user"]["username"], &last["user"]["groups"]), (&json!("kubernetes-admin"), &groups));
    assert_eq!(last["userAgent"], "test/1");
    assert_eq!(last["sourceIPs"], json!(["127.0.0.1"]));
    let object = json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"});
    assert_eq!(first["objectRef"], object);
    assert_eq!(last["objectRef"]["name"], "a");
    assert!(first["responseStatus"].is_null() && first["requestObject"].is_null());
    assert_eq!(first["stageTimestamp"], first["requestReceivedTimestamp"]);
    assert!(last["stageTimestamp"].as_str() > first["stageTimestamp"].as_str());
    assert_eq!(last["stageTimestamp"].as_str().map(str::len), Some("2006-01-02T15:04:05.000000Z".len()));
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(last["requestObject"]["data"], json!({"k": "v"}));
    assert!(last["requestObject"]["metadata"]["uid"].is_null());
    assert_eq!(last["responseObject"], made);
    assert_eq!(
        last["annotations"],
        json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""})
    );

    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let answer = audited.admin(ask("POST", "/api/v1/namespaces/default/services").json(&service)).await;
    let events = audited.of(&answer);
    assert_eq!(stages(&events), ["ResponseComplete"]);
    assert!(events[0]["requestObject"].is_object() && events[0]["responseObject"].is_null());

    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "not-for-the-log"}});
    audited.admin(ask("POST", secrets).json(&secret)).await.expect(201);
    let answer = audited.admin(ask("GET", &format!("{secrets}/s"))).await;
    assert_eq!(audited.last(&answer)["objectRef"]["name"], "s");
    let encoded = base64::engine::general_purpose::STANDARD.encode("not-for-the-log");
    assert!(!audited.text().contains("not-for-the-log") && !audited.text().contains(&encoded));

    // No rule: nothing.
    let answer = audited.admin(ask("GET", "/api/v1/nodes")).await;
    assert!(audited.of(&answer).is_empty());
}

#[tokio::test]
async fn bodies_are_json_in_one_line_whatever_was_sent_and_asked() {
    let audited = Audited::start("- {level: RequestResponse, omitManagedFields: true}\n").await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {k: 'a b'}\n";
    let post = ask("POST", &format!("{CONFIG_MAPS}?pretty=true")).body("application/yaml", yaml);
    let answer = audited.admin(post).await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let last = audited.last(&answer);
    assert_eq!(last["requestObject"]["data"]["k"], "a b");
    assert_eq!(last["responseObject"]["metadata"]["name"], "one");
    assert!(last["responseObject"]["metadata"]["managedFields"].is_null());
    let protobuf = ask("GET", CONFIG_MAPS).header("accept", "application/vnd.kubernetes.protobuf");
    let listed = audited.last(&audited.admin(protobuf).await);
    assert_eq!(
        (&listed["verb"], &listed["responseObject"]["kind"]),
        (&json!("list"), &json!("ConfigMapList"))
    );
    assert!(!listed["responseObject"].to_string().contains("managedFields"));
    let table = ask("GET", CONFIG_MAPS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    assert_eq!(audited.last(&audited.admin(table).await)["responseObject"]["kind"], "Table");
    let apply = ask("PATCH", &format!("{CONFIG_MAPS}/two?fieldManager=m"))
        .body("application/apply-patch+yaml", yaml.replace("name: one", "name: two"));
    let applied = audited.last(&audited.admin(apply).await);
    assert_eq!((&applied["verb"], &applied["requestObject"]["kind"]), (&json!("patch"), &json!("ConfigMap")));
    assert_eq!(applied["responseStatus"]["code"], 201);
}

#[tokio::test]
async fn refusals_and_deletions_have_their_status() {
    let audited = Audited::start("- {level: RequestResponse}\n").await;
    let answer = audited.admin(ask("GET", &format!("{CONFIG_MAPS}/none"))).await;
    let last = audited.last(&answer);
    let status = &last["responseStatus"];
    assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NotFound")));
    assert_eq!((&status["code"], &status["metadata"]), (&json!(404), &json!({})));
    assert_eq!(status["details"], json!({"name": "none", "kind": "configmaps"}));
    assert_eq!(last["responseObject"]["kind"], "Status");

    let answer = audited.admin(ask("POST", CONFIG_MAPS).body("application/json", "{not json")).await;
    let last = audited.last(&answer);
    assert_eq!((&last["responseStatus"]["code"], &last["requestObject"]), (&json!(400), &Value::Null));

    let answer = audited.admin(ask("GET", "/nothing/here")).await;
    let last = audited.last(&answer);
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 404}));
    assert!(last["objectRef"].is_null());

    audited.cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    let answer = audited.admin(ask("DELETE", &format!("{CONFIG_MAPS}/a")).json(&options)).await;
    let last = audited.last(&answer);
    assert_eq!(last["requestObject"], options);
    assert_eq!(
        (&last["responseStatus"]["status"], &last["responseStatus"]["code"]),
        (&json!("Success"), &json!(200))
    );

    let jane = audited.cluster.authority.issue("jane", None);
    let answer = audited.cluster.send_as(ask("POST", CONFIG_MAPS).json(&config_map("b")), &jane).await;
    let last = audited.last(&answer.expect("answer"));
    assert_eq!(last["responseStatus"]["reason"], "Forbidden");
    assert!(last["requestObject"].is_null());
    assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "forbid");
}

#[tokio::test]
async fn the_binding_that_allowed_is_named() {
    let audited = Audited::start("- {level: Metadata}\n").await;
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    audited.cluster.create(bindings, &binding).await;
    let jane = audited.cluster.authority.issue("jane", None);
    // The cluster's own roles are made a moment after the start.
    let answer = eventually("jane may see", || async {
        let answer = audited.cluster.send_as(ask("GET", CONFIG_MAPS), &jane).await.expect("answer");
        (answer.code == 200).then_some(answer)
    })
    .await;
    let last = audited.last(&answer);
    assert_eq!(
        last["annotations"]["authorization.k8s.io/reason"],
        "RBAC: allowed by RoleBinding \"b/default\" of ClusterRole \"view\" to User \"jane\""
    );
}

#[tokio::test]
async fn who_is_not_known_is_written_once() {
    let audited = Audited::start("- {level: None, users: [jane]}\n- {level: Metadata}\n").await;
    let ask = ask("GET", "/api/v1/secrets").header("x-forwarded-for", "203.0.113.7");
    let answer = audited.cluster.send(ask.header("authorization", "Bearer forged")).await.expect("answer");
    answer.expect(401);
    let events = audited.of(&answer);
    assert_eq!(stages(&events), ["ResponseStarted"]);
    assert_eq!((&events[0]["user"], &events[0]["verb"]), (&json!({}), &json!("list")));
    assert_eq!(events[0]["sourceIPs"], json!(["203.0.113.7", "127.0.0.1"]));
    let status = json!({"metadata": {}, "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401});
    assert_eq!(events[0]["responseStatus"], status);
}

#[tokio::test]
async fn a_watch_starts_and_ends() {
    let audited = Audited::start("- {level: RequestResponse}\n").await;
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1000");
    let open = ask("GET", &path).header("audit-id", "the-watch");
    let response = audited.cluster.open(open, Some(&audited.cluster.admin)).await.expect("watch");
    let of_watch = || -> Vec<Value> {
        audited.events().into_iter().filter(|event| event["auditID"] == "the-watch").collect()
    };
    let events = of_watch();
    assert_eq!(stages(&events), ["RequestReceived", "ResponseStarted"]);
    assert_eq!((&events[1]["verb"], &events[1]["responseStatus"]["code"]), (&json!("watch"), &json!(200)));
    audited.cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let mut body = response.into_body();
    body.frame().await.expect("frame").expect("an event");
    drop(body);
    let events =
        eventually("the watch ends", || async { Some(of_watch()).filter(|events| events.len() == 3) });
    let events = events.await;
    assert_eq!(events[2]["stage"], "ResponseComplete");
    assert!(events[2]["responseObject"].is_null());
    // One that is refused starts and ends too.
    let answer = audited.admin(ask("GET", &format!("{CONFIG_MAPS}?watch=1&resourceVersion=x"))).await;
    let events =
        eventually("it ends", || async { Some(audited.of(&answer)).filter(|events| events.len() == 3) });
    assert_eq!(stages(&events.await), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert_eq!(audited.last(&answer)["responseStatus"]["status"], "Failure");
}

#[tokio::test]
async fn both_users_of_an_impersonation_are_written() {
    let audited = Audited::start("- {level: Metadata, users: [kubernetes-admin]}\n").await;
    let review = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").json(&json!({}));
    let answer =
        audited.admin(review.header("impersonate-user", "jane").header("impersonate-group", "devs")).await;
    answer.expect(201);
    let events = audited.of(&answer);
    assert!(events[0]["impersonatedUser"].is_null());
    let last = audited.last(&answer);
    assert_eq!(last["user"]["username"], "kubernetes-admin");
    let jane = json!({"username": "jane", "groups": ["devs", "system:authenticated"]});
    assert_eq!(last["impersonatedUser"], jane);
    assert_eq!(last["authenticationMetadata"], json!({"impersonationConstraint": "impersonate:user-info"}));
}

#[tokio::test]
async fn admission_notes_what_it_did() {
    let audited = Audited::start("- {level: Request}\n").await;
    let cluster = &audited.cluster;
    // Pod Security.
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"});
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "n", "labels": labels}})).await;
    let accounts = "/api/v1/namespaces/n/serviceaccounts";
    cluster.create(accounts, &json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let noted = audited.annotations(ask("POST", "/api/v1/namespaces/n/pods").json(&pod)).await;
    assert_eq!(noted["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let violations = noted["pod-security.kubernetes.io/audit-violations"].as_str().expect("violations");
    assert!(violations.starts_with("would violate PodSecurity \"restricted:latest\": "), "{violations}");
    // Webhooks.
    let server = HookServer::start(cluster).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let mut broken = server.hook(cluster, "broken", "/broken");
    broken["failurePolicy"] = json!("Ignore");
    let hooks = json!([server.hook(cluster, "label", "/label/x"), broken]);
    let configuration = json!({"metadata": {"name": "a"}, "webhooks": hooks});
    cluster.create(&format!("{group}/mutatingwebhookconfigurations"), &configuration).await;
    let noted = audited.annotations(ask("POST", CONFIG_MAPS).json(&config_map("a"))).await;
    let read = |key: &str| -> Value { serde_json::from_str(noted[key].as_str().expect(key)).expect("JSON") };
    assert_eq!(
        noted["mutation.webhook.admission.k8s.io/round_0_index_0"],
        r#"{"configuration":"a","webhook":"label.hooks.test","mutated":true}"#
    );
    let patch = read("patch.webhook.admission.k8s.io/round_0_index_0");
    assert_eq!((&patch["webhook"], &patch["patchType"]), (&json!("label.hooks.test"), &json!("JSONPatch")));
    assert_eq!(patch["patch"][0]["op"], "add");
    assert_eq!(read("mutation.webhook.admission.k8s.io/round_0_index_1")["mutated"], false);
    assert_eq!(noted["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"], "broken.hooks.test");
    // Policies.
    let rules =
        json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
    let policy = json!({"metadata": {"name": "watched"}, "spec": {
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "false", "message": "never"}],
        "auditAnnotations": [{"key": "size", "valueExpression": "string(size(object.data))"}]}});
    cluster.create(&format!("{group}/validatingadmissionpolicies"), &policy).await;
    let binding =
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "watched", "validationActions": ["Audit"]}});
    cluster.create(&format!("{group}/validatingadmissionpolicybindings"), &binding).await;
    let noted = audited.annotations(ask("POST", CONFIG_MAPS).json(&config_map("b"))).await;
    assert_eq!(noted["watched/size"], "1");
    let failure = noted["validation.policy.admission.k8s.io/validation_failure"].as_str().expect("failure");
    assert!(failure.contains("\"message\":\"never\""), "{failure}");
    // Versions that will not stay.
    let noted = audited.annotations(ask("GET", "/api/v1/endpoints")).await;
    assert_eq!(noted["k8s.io/deprecated"], "true");
    assert!(noted.get("k8s.io/removed-release").is_none(), "there is no such release yet");
    assert!(audited.annotations(ask("GET", CONFIG_MAPS)).await.get("k8s.io/deprecated").is_none());
}

#[tokio::test]
async fn events_are_sent_to_a_webhook_until_it_takes_them() {
    let folder = tempfile::tempdir().expect("folder");
    let (authority, address) = (Authority::new(), env::ports::free_address());
    let ca = base64::engine::general_purpose::STANDARD.encode(&authority.certificate);
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{address}/events', certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{token: sesame}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).expect("kubeconfig");
    let rules = "- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], omitStages: [RequestReceived]}\n";
    let mut config = configured(&folder, rules);
    config.log.path = None;
    config.webhook.config_file = Some(kubeconfig);
    config.webhook.initial_backoff = Duration::from_millis(10);
    config.webhook.batch.max_wait = Duration::from_millis(50);
    let cluster = Cluster::start_with(|server| server.audit = config).await;
    let sink = HookServer::start_with(&cluster, &authority.issue("sink", None), &address.to_string()).await;
    for name in ["a", "b", "c"] {
        cluster.create(CONFIG_MAPS, &config_map(name)).await;
    }
    let names = || -> Vec<String> {
        let calls = sink.calls.lock();
        // The first was refused.
        let events =
            calls.iter().skip(1).flat_map(|(_, list)| list["items"].as_array().into_iter().flatten());
        let mut names: Vec<String> =
            events.map(|event| event["responseObject"]["metadata"]["name"].to_string()).collect();
        names.sort();
        names
    };
    eventually("all events are there", || async { (names() == ["\"a\"", "\"b\"", "\"c\""]).then_some(()) })
        .await;
    let (path, list) = sink.calls.lock()[1].clone();
    assert_eq!((path.as_str(), &list["apiVersion"]), ("/events", &json!("audit.k8s.io/v1")));
    assert!(list["items"][0]["kind"].is_null());
    assert!(sink.connections.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn what_is_queued_is_written_at_the_end() {
    let audited = Audited::start_with("- {level: Metadata}\n", |config| {
        config.log.batch.mode = AuditMode::Batch;
        config.log.batch.max_size = 10_000;
        config.log.batch.max_wait = Duration::from_secs(24 * 3600);
        config.log.format = AuditFormat::Legacy;
    })
    .await;
    audited.cluster.create(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!(audited.text(), "");
    audited.cluster.stop();
    let text =
        eventually("the log is written", || async { Some(audited.text()).filter(|text| !text.is_empty()) });
    let text = text.await;
    let complete = text.lines().find(|line| line.contains("stage=\"ResponseComplete\"")).expect("an event");
    assert!(
        complete.contains(" ip=\"127.0.0.1\" method=\"create\" user=\"kubernetes-admin\" "),
        "{complete}"
    );
    assert!(
        complete.ends_with(
            "namespace=\"default\" uri=\"/api/v1/namespaces/default/configmaps\" response=\"201\""
        )
    );
}

#[tokio::test]
async fn a_strict_log_that_is_full_refuses_requests() {
    for (mode, code) in [(AuditMode::Blocking, 201), (AuditMode::BlockingStrict, 500)] {
        let audited = Audited::start_with("- {level: Metadata}\n", |config| {
            config.log.path = Some("/dev/full".into());
            config.log.max_bytes = 0;
            config.log.batch.mode = mode;
        })
        .await;
        let answer = audited.cluster.root(ask("POST", CONFIG_MAPS).json(&config_map("a"))).await;
        let text = answer.text();
        assert_eq!(answer.code, code, "{text}");
        assert_eq!(text.contains("failed to store audit event"), mode == AuditMode::BlockingStrict, "{text}");
    }
}

#[tokio::test]
async fn what_users_say_of_themselves_stays_in_one_line() {
    let audited = Audited::start("- {level: RequestResponse}\n").await;
    let words = "a\n{\"kind\":\"Event\"}\r\n\u{2028}\u{85}";
    let asked = ask("POST", CONFIG_MAPS).json(&json!({"metadata": {"name": "a"}, "data": {"k": words}}));
    let asked = asked.header("user-agent", "x\\n{\"kind\":\"Event\"}\u{2028}").header("audit-id", "own\"}");
    let answer = audited.admin(asked).await;
    answer.expect(201);
    assert_eq!(audited.last(&answer)["requestObject"]["data"]["k"], words);
    let path = format!("{CONFIG_MAPS}/a%0A%7B%22kind%22%3A%22Event%22%7D%0A");
    let answer = audited.admin(ask("GET", &path)).await;
    answer.expect(404);
    assert_eq!(audited.last(&answer)["requestURI"], path.as_str());
    for event in audited.events() {
        assert_eq!(event["apiVersion"], "audit.k8s.io/v1", "{event}");
    }
}

#[tokio::test]
async fn what_is_refused_early_is_written_too() {
    let audited = Audited::start("- {level: Metadata}\n").await;
    let patch =
        ask("PATCH", &format!("{CONFIG_MAPS}/a")).body("application/json-patch+json", "[".repeat(100_000));
    let large = ask("POST", CONFIG_MAPS).body("application/json", vec![b' '; 4 << 20]);
    let late = ask("GET", &format!("{CONFIG_MAPS}?timeout=soon"));
    let nobody = ask("GET", CONFIG_MAPS).header("impersonate-group", "g");
    let odd = ask("GET", &format!("{CONFIG_MAPS}/a%2Fb/c"));
    for (asked, code) in [(patch, 400), (large, 413), (late, 400), (nobody, 400), (odd, 404)] {
        let path = asked.path.clone();
        let answer = audited.admin(asked).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text());
        let event = audited.last(&answer);
        assert_eq!((&event["responseStatus"]["code"], &event["requestURI"]), (&json!(code), &json!(path)));
    }
}

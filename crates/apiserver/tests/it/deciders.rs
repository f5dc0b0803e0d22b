//! Who decides what users may do: a server that is asked, in a chain with the others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apiserver::{ApiServerConfig, AuthorizationConfig};
use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, CONFIG_MAPS, Cluster, Keyed, Running, ask, config_map, eventually};
use crate::reviewer::{Reviewer, Said};

/// Allows `jane`, denies `joe`, fails for `jack`, has no word for `jim`, is undecided about everyone else.
fn answer(path: &str, review: &Value) -> Said {
    let status = match review["spec"]["user"].as_str().unwrap_or_default() {
        "jane" => json!({"allowed": true, "reason": "a friend"}),
        "joe" => json!({"allowed": false, "denied": true, "reason": "never again"}),
        "jack" => return Said::Code(500),
        "jim" => return Said::Nothing,
        "janus" => json!({"allowed": true, "denied": true}),
        _ => json!({"allowed": false, "reason": "who is this"}),
    };
    let version = if path == "/v1beta1" { "v1beta1" } else { "v1" };
    let version = format!("authorization.k8s.io/{version}");
    Said::Json(json!({"kind": "SubjectAccessReview", "apiVersion": version, "status": status}))
}

fn by_flags(config: &mut ApiServerConfig, modes: &[&str], file: Option<PathBuf>) {
    config.review_retry = Duration::from_millis(1);
    config.authorization = AuthorizationConfig {
        modes: Some(modes.iter().map(|mode| (*mode).to_owned()).collect()),
        webhook_config_file: file,
        ..AuthorizationConfig::default()
    };
}

/// A configuration with a webhook before RBAC.
fn configuration(file: &Path, kubeconfig: &Path, change: impl FnOnce(&mut Value)) {
    let mut webhook = json!({
        "timeout": "10s",
        "subjectAccessReviewVersion": "v1",
        "failurePolicy": "NoOpinion",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
    });
    change(&mut webhook);
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [{"type": "Webhook", "name": "friends", "webhook": webhook},
            {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}]});
    std::fs::write(file, text.to_string()).expect("written");
}

fn by_file(config: &mut ApiServerConfig, file: &Path) {
    config.review_retry = Duration::from_millis(1);
    config.reload_interval = Duration::from_millis(20);
    config.authorization =
        AuthorizationConfig { file: Some(file.to_owned()), ..AuthorizationConfig::default() };
}

fn user(cluster: &Running, name: &str) -> Keyed {
    cluster.authority.issue(name, None)
}

async fn send(cluster: &Running, ask: Ask, keyed: &Keyed) -> Answer {
    cluster.send_as(ask, keyed).await.expect("answer")
}

async fn get(cluster: &Running, name: &str) -> Answer {
    send(cluster, ask("GET", CONFIG_MAPS), &user(cluster, name)).await
}

/// Lets somebody read by RBAC.
async fn grant(cluster: &Running, name: &str) {
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create(bindings, &binding).await;
}

fn message(answer: &Answer, code: u16) -> String {
    answer.expect(code)["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_server_is_asked_before_the_others() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1beta1");
    let cluster = Cluster::start_with(|config| by_flags(config, &["Webhook", "RBAC"], Some(file))).await;
    for name in ["joe", "other"] {
        grant(&cluster, name).await;
    }
    get(&cluster, "jane").await.expect(200);
    get(&cluster, "other").await.expect(200);
    assert_eq!(
        message(&get(&cluster, "joe").await, 403),
        "configmaps is forbidden: User \"joe\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\": never again"
    );
    let unknown = message(&get(&cluster, "nobody").await, 403);
    assert!(unknown.ends_with("in the namespace \"default\": default: who is this"), "{unknown}");
    let both = message(&get(&cluster, "janus").await, 500);
    assert!(both.ends_with("webhook subject access review returned both allow and deny response"), "{both}");
    cluster.send_as(ask("GET", "/api/v1/nodes"), &cluster.admin).await.expect("answer").expect(200);
    assert!(reviewer.asked("/v1beta1").iter().all(|review| review["spec"]["user"] != "kubernetes-admin"));
}

#[tokio::test]
async fn the_question_says_who_and_what() {
    let reviewer = Reviewer::start(answer).await;
    let (v1, v1beta1) = (reviewer.kubeconfig("/v1"), reviewer.kubeconfig("/v1beta1"));
    let cluster = Cluster::start_with(|config| {
        by_flags(config, &["Webhook"], Some(v1));
        config.authorization.webhook_version = Some("v1".to_owned());
    })
    .await;
    let path = format!("{CONFIG_MAPS}?labelSelector=a%3Db%2Cc&fieldSelector=metadata.name!%3Dx");
    send(&cluster, ask("GET", &path), &cluster.authority.issue("jane", Some("friends"))).await.expect(200);
    let asked = reviewer.asked("/v1").pop().expect("a question");
    assert_eq!(
        (&asked["kind"], &asked["apiVersion"]),
        (&json!("SubjectAccessReview"), &json!("authorization.k8s.io/v1"))
    );
    let spec = &asked["spec"];
    assert_eq!(
        (&spec["user"], &spec["groups"]),
        (&json!("jane"), &json!(["friends", "system:authenticated"]))
    );
    assert!(spec["extra"]["authentication.kubernetes.io/credential-id"].is_array(), "{spec}");
    let attributes = json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps",
        "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "NotIn", "values": ["x"]}]},
        "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}]}});
    assert_eq!(spec["resourceAttributes"], attributes);
    send(&cluster, ask("GET", "/metrics"), &user(&cluster, "jane")).await;
    let asked = reviewer.asked("/v1").pop().expect("a question");
    assert_eq!(asked["spec"]["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    let other = Cluster::start_with(|config| by_flags(config, &["Webhook"], Some(v1beta1))).await;
    get(&other, "jane").await.expect(200);
    let asked = reviewer.asked("/v1beta1").pop().expect("a question");
    assert_eq!(asked["apiVersion"], "authorization.k8s.io/v1beta1");
    assert_eq!(asked["spec"]["group"], json!(["system:authenticated"]));
}

#[tokio::test]
async fn answers_are_believed_for_a_while() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1beta1");
    let cluster = Cluster::start_with(|config| {
        by_flags(config, &["Webhook"], Some(file));
        config.authorization.webhook_unauthorized_ttl = Some(Duration::ZERO);
    })
    .await;
    let times = |name: &str| {
        let asked = reviewer.asked("/v1beta1");
        asked.iter().filter(|review| review["spec"]["user"] == name).count()
    };
    let (jane, joe, jack) = (user(&cluster, "jane"), user(&cluster, "joe"), user(&cluster, "jack"));
    for round in 1..=2 {
        send(&cluster, ask("GET", CONFIG_MAPS), &jane).await.expect(200);
        send(&cluster, ask("GET", CONFIG_MAPS), &joe).await.expect(403);
        send(&cluster, ask("GET", CONFIG_MAPS), &jack).await.expect(500);
        assert_eq!((times("jane"), times("joe"), times("jack")), (1, round, 5 * round));
    }
    send(&cluster, ask("GET", "/api/v1/nodes"), &jane).await.expect(200);
    assert_eq!(times("jane"), 2, "another question");
}

#[tokio::test]
async fn a_failure_is_passed_over_or_refuses() {
    let reviewer = Reviewer::start(answer).await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("authorization.yaml");
    configuration(&file, &reviewer.kubeconfig("/v1"), |_| ());
    let named = file.clone();
    let cluster = Cluster::start_with(|config| by_file(config, &named)).await;
    let failed = message(&get(&cluster, "jack").await, 500);
    let text = "an error on the server (\"no\") has prevented the request from succeeding";
    assert_eq!(failed, format!("Internal Server Error: \"{CONFIG_MAPS}\": {text}"));
    grant(&cluster, "jack").await;
    get(&cluster, "jack").await.expect(200);
    configuration(&file, &reviewer.kubeconfig("/v1"), |webhook| webhook["failurePolicy"] = json!("Deny"));
    eventually("the policy", || async {
        Some(get(&cluster, "jack").await).filter(|answer| answer.code == 500)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_says_nothing_fails_in_time() {
    let reviewer = Reviewer::start(answer).await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("authorization.yaml");
    configuration(&file, &reviewer.kubeconfig("/v1"), |webhook| webhook["timeout"] = json!("100ms"));
    let cluster = Cluster::start_with(|config| by_file(config, &file)).await;
    let silent = message(&get(&cluster, "jim").await, 500);
    assert!(silent.ends_with("context deadline exceeded"), "{silent}");
}

#[tokio::test]
async fn conditions_say_when_a_server_is_asked() {
    let reviewer = Reviewer::start(answer).await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("authorization.yaml");
    configuration(&file, &reviewer.kubeconfig("/v1"), |webhook| {
        webhook["failurePolicy"] = json!("Deny");
        webhook["matchConditionSubjectAccessReviewVersion"] = json!("v1");
        webhook["matchConditions"] = json!([
            {"expression": "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'default'"},
            {"expression": "!('system:nodes' in request.groups)"},
            {"expression": "request.user != 'broken' || request.extra.nonsense == 'x'"}]);
    });
    let cluster = Cluster::start_with(|config| by_file(config, &file)).await;
    get(&cluster, "jane").await.expect(200);
    let jane = user(&cluster, "jane");
    send(&cluster, ask("GET", "/api/v1/namespaces/kube-system/configmaps"), &jane).await.expect(403);
    send(&cluster, ask("GET", "/metrics"), &jane).await.expect(403);
    let node = cluster.authority.issue("system:node:n1", Some("system:nodes"));
    send(&cluster, ask("GET", "/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1"), &node)
        .await
        .expect(200);
    assert_eq!(reviewer.asked("/v1").len(), 1);
    // A condition that fails counts as the server's failure.
    let broken = message(&get(&cluster, "broken").await, 500);
    assert!(broken.contains("cel evaluation error: expression 'request.user != 'broken'"), "{broken}");
    assert_eq!(reviewer.asked("/v1").len(), 1);
}

#[tokio::test]
async fn the_configuration_is_followed_as_long_as_it_can_be_used() {
    let reviewer = Reviewer::start(answer).await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("authorization.yaml");
    configuration(&file, &reviewer.kubeconfig("/v1"), |_| ());
    let text = std::fs::read_to_string(&file).expect("read");
    let cluster = Cluster::start_with(|config| {
        by_file(config, &file);
        config.reload_interval = Duration::from_millis(1);
    })
    .await;
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
    let broken = [
        "authorizers: [".to_owned(),
        format!("{head}authorizers: [{{type: AlwaysAllow, name: alwaysallow}}]\n"),
        text.replace("NoOpinion", "Ignore"),
        text.replace("\"timeout\"", "\"timeuot\""),
        text.replace("kubeconfig", "nowhere"),
    ];
    for text in broken {
        std::fs::write(&file, &text).expect("written");
        // The next look at the file is behind the next but one.
        for _ in 0..3 {
            get(&cluster, "jane").await.expect(200);
            get(&cluster, "nobody").await.expect(403);
        }
    }
    let without = format!("{head}authorizers: [{{type: Node, name: node}}, {{type: RBAC, name: rbac}}]\n");
    std::fs::write(&file, without).expect("written");
    eventually("the webhook gone", || async {
        Some(get(&cluster, "jane").await).filter(|answer| answer.code == 403)
    })
    .await;
    std::fs::write(&file, &text).expect("written");
    eventually("the webhook back", || async {
        Some(get(&cluster, "jane").await).filter(|answer| answer.code == 200)
    })
    .await;
}

#[tokio::test]
async fn everything_or_nothing_may_be_allowed() {
    let cluster = Cluster::start_with(|config| by_flags(config, &["AlwaysDeny"], None)).await;
    let refused = message(&get(&cluster, "jane").await, 403);
    assert!(
        refused.ends_with("in the namespace \"default\": alwaysdeny: Everything is forbidden."),
        "{refused}"
    );
    cluster.send(ask("GET", "/livez")).await.expect("answer");
    let cluster = Cluster::start_with(|config| by_flags(config, &["AlwaysAllow"], None)).await;
    get(&cluster, "jane").await.expect(200);
    let rules = ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
        .json(&json!({"spec": {"namespace": "default"}}));
    let rules = send(&cluster, rules, &user(&cluster, "jane")).await.expect(201);
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    cluster.send(ask("GET", CONFIG_MAPS)).await.expect("answer").expect(401);
}

#[tokio::test]
async fn policies_of_a_file_allow() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("policies");
    let policy = json!({"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy",
        "spec": {"user": "jane", "namespace": "default", "resource": "configmaps", "readonly": true}});
    std::fs::write(&file, format!("# who may what\n{policy}\n")).expect("written");
    let named = file.clone();
    let cluster = Cluster::start_with(|config| {
        by_flags(config, &["ABAC"], None);
        config.authorization.policy_file = Some(named);
    })
    .await;
    get(&cluster, "jane").await.expect(200);
    let make = ask("POST", CONFIG_MAPS).json(&config_map("a"));
    let refused = message(&send(&cluster, make, &user(&cluster, "jane")).await, 403);
    assert!(refused.ends_with("in the namespace \"default\": abac: No policy matched."), "{refused}");
    get(&cluster, "joe").await.expect(403);
    std::fs::write(&file, "no policy\n").expect("written");
    let fault = Cluster::fault(|config| {
        by_flags(config, &["ABAC"], None);
        config.authorization.policy_file = Some(file);
    })
    .await;
    assert!(fault.contains("line 1: no policy: "), "{fault}");
}

#[tokio::test]
async fn reviews_tell_what_the_server_says() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1beta1");
    let cluster = Cluster::start_with(|config| by_flags(config, &["Webhook", "RBAC"], Some(file))).await;
    grant(&cluster, "other").await;
    let about = |user: &str| {
        json!({"spec": {"user": user, "resourceAttributes": {"verb": "list", "resource": "configmaps",
            "namespace": "default", "labelSelector": {"rawSelector": "a=b"}}}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let status = async |user: &str| cluster.create(reviews, &about(user)).await["status"].clone();
    assert_eq!(status("jane").await, json!({"allowed": true, "reason": "a friend"}));
    assert_eq!(status("joe").await, json!({"allowed": false, "denied": true, "reason": "never again"}));
    assert_eq!(status("nobody").await, json!({"allowed": false, "reason": "default: who is this"}));
    let failed = status("jack").await;
    assert!(
        failed["evaluationError"].as_str().is_some_and(|text| text.starts_with("an error on the server")),
        "{failed}"
    );
    let granted = status("other").await;
    assert_eq!(granted["allowed"], true);
    assert!(
        granted["reason"].as_str().is_some_and(|text| text.starts_with("RBAC: allowed by RoleBinding")),
        "{granted}"
    );
    let asked = reviewer.asked("/v1beta1").pop().expect("a question");
    let selector = json!({"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]});
    assert_eq!(asked["spec"]["resourceAttributes"]["labelSelector"], selector);
    let rules = ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
        .json(&json!({"spec": {"namespace": "default"}}));
    let rules = send(&cluster, rules, &user(&cluster, "jane")).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], true);
    assert_eq!(
        rules["status"]["evaluationError"],
        "webhook authorizer does not support user rule resolution"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admission_asks_the_server_too() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1beta1");
    let cluster = Cluster::start_with(|config| by_flags(config, &["Webhook", "RBAC"], Some(file))).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "authorizer.group('').resource('pods').namespace('x').check('create').allowed()", "message": "may not"}]}});
    cluster.create(&format!("{group}/validatingadmissionpolicies"), &policy).await;
    let binding =
        json!({"metadata": {"name": "p-b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    cluster.create(&format!("{group}/validatingadmissionpolicybindings"), &binding).await;
    let edit = json!({"metadata": {"name": "other"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "other", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &edit).await;
    let make = |name: &str| ask("POST", CONFIG_MAPS).json(&config_map(name));
    send(&cluster, make("a"), &user(&cluster, "jane")).await.expect(201);
    let refused = message(&send(&cluster, make("b"), &user(&cluster, "other")).await, 422);
    assert!(refused.ends_with("denied request: may not"), "{refused}");
    let pods = |review: &&Value| review["spec"]["resourceAttributes"]["resource"] == "pods";
    assert_eq!(reviewer.asked("/v1beta1").iter().filter(pods).count(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_the_chain_is_said() {
    let fault = Cluster::fault(|config| by_flags(config, &["Webhook"], None)).await;
    assert_eq!(fault, "authorization-mode Webhook's authorization config file not passed");
    let fault = Cluster::fault(|config| by_flags(config, &["Webhook"], Some("/nowhere".into()))).await;
    assert!(fault.starts_with("open /nowhere: "), "{fault}");
    let fault = Cluster::fault(|config| by_file(config, Path::new("/nowhere"))).await;
    assert!(fault.starts_with("open /nowhere: "), "{fault}");
}

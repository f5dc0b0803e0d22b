//! Admission plugins that are off unless flags name them, as clients meet them.

use std::path::{Path, PathBuf};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, CONFIG_MAPS, Cluster, Running, ask, config_map};

const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn message(answer: &Answer, code: u16) -> String {
    answer.expect(code)["message"].as_str().unwrap_or_default().to_owned()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

async fn with(enable: &[&str], disable: &[&str], file: Option<PathBuf>) -> Running {
    let (enable, disable) = (names(enable), names(disable));
    let cluster = Cluster::start_with(|config| {
        config.admission.enable = enable;
        config.admission.disable = disable;
        config.admission.file = file;
    })
    .await;
    let account = json!({"metadata": {"name": "default"}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
    cluster
}

/// A file that configures one plugin.
fn configured(folder: &Path, plugin: &str, configuration: Value) -> PathBuf {
    let file = folder.join("admission.yaml");
    let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": configuration}]});
    std::fs::write(&file, document.to_string()).expect("write");
    file
}

fn pod(name: &str, mut spec: Value) -> Ask {
    spec["containers"] = json!([{"name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": {"acme.com/gpu": "1"}, "requests": {"acme.com/gpu": "1"}}}]);
    ask("POST", PODS).json(&json!({"metadata": {"name": name}, "spec": spec}))
}

#[tokio::test]
async fn flags_that_cannot_be_followed_end_the_start() {
    let fault = Cluster::fault(|config| config.admission.enable = names(&["Nothing"])).await;
    assert_eq!(fault, "enable-admission-plugins plugin \"Nothing\" is unknown");
    let fault = Cluster::fault(|config| config.admission.file = Some("/nowhere/a.yaml".into())).await;
    let wanted = "failed to read plugin config: unable to read admission control configuration from \"/nowhere/a.yaml\"";
    assert!(fault.starts_with(wanted), "{fault}");
    let folder = tempfile::tempdir().expect("folder");
    let file = configured(folder.path(), "ResourceQuota", json!({}));
    let fault = Cluster::fault(|config| config.admission.file = Some(file)).await;
    assert_eq!(fault, "the configuration of admission plugin \"ResourceQuota\" is not implemented");
    let file = configured(folder.path(), "PodSecurity", json!({"kind": "PodSecurityConfiguration"}));
    let fault = Cluster::fault(|config| config.admission.file = Some(file)).await;
    let wanted =
        "couldn't init admission plugin \"PodSecurity\": no kind \"PodSecurityConfiguration\" is registered";
    assert!(fault.starts_with(wanted), "{fault}");
}

#[tokio::test]
async fn services_get_no_external_addresses() {
    let cluster = with(&["DenyServiceExternalIPs"], &[], None).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |addresses: &[&str]| json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": addresses}});
    let refused = cluster.root(ask("POST", services).json(&service(&["192.0.2.1"]))).await;
    let why = "services \"s\" is forbidden: Use of external IPs is denied by admission control";
    assert_eq!(message(&refused, 403), why);
    cluster.create(services, &service(&[])).await;
    let patch = ask("PATCH", &format!("{services}/s"))
        .body("application/merge-patch+json", r#"{"spec":{"externalIPs":["192.0.2.1"]}}"#);
    assert_eq!(message(&cluster.root(patch).await, 403), why);
}

#[tokio::test]
async fn pods_are_changed_and_refused_by_plugins_that_flags_name() {
    let plugins = ["AlwaysPullImages", "ExtendedResourceToleration", "LimitPodHardAntiAffinityTopology"];
    let cluster = with(&plugins, &[], None).await;
    let made = cluster.root(pod("a", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let tolerations = made["spec"]["tolerations"].as_array().expect("tolerations");
    let wanted = json!({"key": "acme.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
    assert!(tolerations.contains(&wanted), "{tolerations:?}");
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}});
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let refused = cluster.root(pod("b", json!({"affinity": affinity}))).await;
    assert_eq!(
        message(&refused, 403),
        "pods \"b\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"
    );
}

#[tokio::test]
async fn namespaces_are_made_or_asked_for() {
    let maps = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let cluster = with(&["NamespaceAutoProvision"], &[], None).await;
    let dry = format!("{}?dryRun=All", maps("new"));
    let refused = cluster.root(ask("POST", &dry).json(&config_map("a"))).await;
    assert_eq!(message(&refused, 404), "namespaces \"new\" not found");
    cluster.create(&maps("new"), &config_map("a")).await;
    let made = cluster.root(ask("GET", "/api/v1/namespaces/new")).await.expect(200);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let refused = cluster.root(ask("POST", &maps("New_")).json(&config_map("a"))).await;
    let why = "configmaps \"a\" is forbidden: Namespace \"New_\" is invalid: [metadata.name: Invalid value: \"New_\": a lowercase RFC 1123 label must";
    assert!(message(&refused, 403).starts_with(why), "{}", refused.text());
    let cluster = with(&["NamespaceExists"], &["NamespaceLifecycle"], None).await;
    let refused = cluster.root(ask("POST", &maps("new")).json(&config_map("a"))).await;
    assert_eq!(message(&refused, 404), "namespaces \"new\" not found");
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let cluster = with(&[], &["NamespaceLifecycle"], None).await;
    cluster.create(&maps("new"), &config_map("a")).await;
}

#[tokio::test]
async fn events_that_come_too_fast_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let limits = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
        "limits": [{"type": "Namespace", "qps": 1, "burst": 2}]});
    let file = configured(folder.path(), "EventRateLimit", limits);
    let cluster = with(&["EventRateLimit"], &[], Some(file)).await;
    let event = |number: usize, query: &str| {
        let object = json!({"metadata": {"name": format!("e{number}")}, "reason": "r", "type": "Normal",
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "p"}});
        cluster.root(ask("POST", &format!("{EVENTS}{query}")).json(&object))
    };
    // So many that no machine is slow enough for all of them.
    let answers = join_all((0..60).map(|number| event(number, ""))).await;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.code == 429).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len(), "{}", refused.len());
    let why = "Too many requests: limit reached on type Namespace for key default";
    assert_eq!(message(refused[0], 429), why);
    let dry = join_all((60..70).map(|number| event(number, "?dryRun=All"))).await;
    assert!(dry.iter().all(|answer| answer.code == 201));
}

#[tokio::test]
async fn pods_are_placed_where_their_namespace_says() {
    let folder = tempfile::tempdir().expect("folder");
    let selectors = json!({"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "env=prod",
        "default": "env=prod,disk=ssd"}});
    let file = configured(folder.path(), "PodNodeSelector", selectors);
    let cluster = with(&["PodNodeSelector"], &[], Some(file)).await;
    let made = cluster.root(pod("a", json!({"nodeSelector": {"disk": "ssd"}}))).await.expect(201);
    assert_eq!(made["spec"]["nodeSelector"], json!({"disk": "ssd", "env": "prod"}));
    let refused = cluster.root(pod("b", json!({"nodeSelector": {"env": "test"}}))).await;
    assert_eq!(
        message(&refused, 403),
        "pods \"b\" is forbidden: pod node label selector conflicts with its namespace node label selector"
    );
    let refused = cluster.root(pod("b", json!({"nodeSelector": {"zone": "z"}}))).await;
    assert_eq!(
        message(&refused, 403),
        "pods \"b\" is forbidden: pod node label selector labels conflict with its namespace whitelist"
    );
}

#[tokio::test]
async fn pods_tolerate_what_their_namespace_allows() {
    let cluster = with(&["PodTolerationRestriction"], &[], None).await;
    let any = |key: &str| json!({"key": key, "operator": "Exists"});
    let allowed =
        json!([any("a"), any("node.kubernetes.io/not-ready"), any("node.kubernetes.io/unreachable")]);
    let annotations = json!({
        "scheduler.alpha.kubernetes.io/defaultTolerations": json!([any("a")]).to_string(),
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": allowed.to_string(),
    });
    let patch = json!({"metadata": {"annotations": annotations}}).to_string();
    let patch = ask("PATCH", "/api/v1/namespaces/default").body("application/merge-patch+json", patch);
    cluster.root(patch).await.expect(200);
    let made = cluster.root(pod("a", json!({}))).await.expect(201);
    let tolerations = made["spec"]["tolerations"].as_array().expect("tolerations");
    assert!(tolerations.contains(&any("a")), "{tolerations:?}");
    let refused = cluster.root(pod("b", json!({"tolerations": [any("b")]}))).await;
    assert_eq!(
        message(&refused, 500),
        "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist"
    );
}

/// Lets Ann do this everywhere.
async fn allow(cluster: &Running, name: &str, resource: &str, verbs: &[&str]) {
    let group = "rbac.authorization.k8s.io";
    let role = json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}]});
    cluster.create(&format!("{RBAC}/clusterroles"), &role).await;
    let binding = json!({"metadata": {"name": name}, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "ann"}]});
    cluster.create(&format!("{RBAC}/clusterrolebindings"), &binding).await;
}

#[tokio::test]
async fn owners_are_set_by_those_who_may_delete() {
    let cluster = with(&["OwnerReferencesPermissionEnforcement"], &[], None).await;
    allow(&cluster, "write", "configmaps", &["create", "get", "patch"]).await;
    let owner = cluster.create(CONFIG_MAPS, &config_map("o")).await;
    let reference = |blocks: bool| {
        let uid = &owner["metadata"]["uid"];
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid, "blockOwnerDeletion": blocks}])
    };
    let as_ann = |request: Ask| cluster.root(request.header("impersonate-user", "ann"));
    let own = |blocks: bool| {
        let patch = json!({"metadata": {"ownerReferences": reference(blocks)}}).to_string();
        ask("PATCH", &format!("{CONFIG_MAPS}/c")).body("application/merge-patch+json", patch)
    };
    let mut owned = config_map("d");
    owned["metadata"]["ownerReferences"] = reference(false);
    as_ann(ask("POST", CONFIG_MAPS).json(&owned)).await.expect(201);
    cluster.create(CONFIG_MAPS, &config_map("c")).await;
    let refused = as_ann(own(false)).await;
    assert_eq!(
        message(&refused, 403),
        "configmaps \"c\" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>"
    );
    allow(&cluster, "delete", "configmaps", &["delete"]).await;
    as_ann(own(false)).await.expect(200);
    let refused = as_ann(own(true)).await;
    assert_eq!(
        message(&refused, 403),
        "configmaps \"c\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
    );
    allow(&cluster, "finalize", "configmaps/finalizers", &["update"]).await;
    as_ann(own(true)).await.expect(200);
    let unknown = r#"{"metadata":{"ownerReferences":[{"apiVersion":"acme.com/v1","kind":"Toy","name":"t","uid":"u","blockOwnerDeletion":true}]}}"#;
    let patch = ask("PATCH", &format!("{CONFIG_MAPS}/c")).body("application/merge-patch+json", unknown);
    assert_eq!(
        message(&as_ann(patch).await, 403),
        "configmaps \"c\" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion acme.com/v1 Kind Toy: no matches for kind \"Toy\" in version \"acme.com/v1\""
    );
}

#[tokio::test]
async fn pod_security_has_defaults_and_exemptions() {
    let folder = tempfile::tempdir().expect("folder");
    let configuration = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "warn": "restricted"},
        "exemptions": {"usernames": ["jane"], "namespaces": ["free"], "runtimeClasses": ["sandboxed"]},
    });
    let cluster = with(&[], &[], Some(configured(folder.path(), "PodSecurity", configuration))).await;
    let pod = |name: &str, privileged: bool| {
        let container = json!({"name": "c", "image": "i", "securityContext": {"privileged": privileged}});
        json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
    };
    // What holds for a namespace without labels.
    let refused = cluster.root(ask("POST", PODS).json(&pod("a", true))).await;
    assert!(message(&refused, 403).contains("violates PodSecurity \"baseline:latest\": privileged"));
    let made = cluster.root(ask("POST", PODS).json(&pod("b", false))).await;
    made.expect(201);
    let warning = made.headers["warning"].to_str().expect("text");
    assert!(warning.contains("would violate PodSecurity \\\"restricted:latest\\\""), "{warning}");
    // Labels are asked first.
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let patch = ask("PATCH", "/api/v1/namespaces/default");
    cluster.root(patch.body("application/merge-patch+json", labels.to_string())).await.expect(200);
    cluster.create(PODS, &pod("c", true)).await;
    // Who and what is exempt.
    let strict = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    for name in ["strict", "free"] {
        let namespace = json!({"metadata": {"name": name, "labels": strict}});
        let made = cluster.root(ask("POST", "/api/v1/namespaces").json(&namespace)).await;
        made.expect(201);
        let told = made.headers.get("warning").map(|text| text.to_str().expect("text").to_owned());
        let wanted = "299 - \"namespace \\\"free\\\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored\"";
        assert_eq!(told.as_deref(), (name == "free").then_some(wanted));
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        cluster.create(&accounts, &json!({"metadata": {"name": "default"}})).await;
    }
    cluster.create("/api/v1/namespaces/free/pods", &pod("a", true)).await;
    let pods = "/api/v1/namespaces/strict/pods";
    let refused = cluster.root(ask("POST", pods).json(&pod("a", true))).await;
    message(&refused, 403);
    let binding = json!({"metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    cluster.create(&format!("{RBAC}/clusterrolebindings"), &binding).await;
    let by_jane = ask("POST", pods).json(&pod("by-jane", true)).header("impersonate-user", "jane");
    cluster.root(by_jane).await.expect(201);
    let class = json!({"metadata": {"name": "sandboxed"}, "handler": "sandboxed"});
    cluster.create("/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    let mut sandboxed = pod("sandboxed", true);
    sandboxed["spec"]["runtimeClassName"] = "sandboxed".into();
    cluster.create(pods, &sandboxed).await;
}

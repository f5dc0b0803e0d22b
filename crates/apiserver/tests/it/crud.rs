//! Create, update, patch, delete.

use serde_json::json;

use crate::cluster::{CONFIG_MAPS, Cluster, ask, config_map};

#[tokio::test]
async fn an_object_lives() {
    let cluster = Cluster::start().await;
    let made = cluster.create(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    let path = format!("{CONFIG_MAPS}/a");
    let got = cluster.root(ask("GET", &path)).await.expect(200);
    assert_eq!(got, made);
    let again = cluster.root(ask("POST", CONFIG_MAPS).json(&config_map("a"))).await.expect(409);
    assert_eq!(again["message"], "configmaps \"a\" already exists");
    let deleted = cluster.root(ask("DELETE", &path)).await.expect(200);
    assert_eq!((&deleted["status"], &deleted["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
    let gone = cluster.root(ask("GET", &path)).await.expect(404);
    assert_eq!(gone["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let cluster = Cluster::start().await;
    let first = cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut second = first.clone();
    second["data"]["k"] = json!("w");
    let second = cluster.root(ask("PUT", &path).json(&second)).await.expect(200);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let refused = cluster.root(ask("PUT", &path).json(&first)).await.expect(409);
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let same = cluster.root(ask("PUT", &path).json(&second)).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"], "nothing changed");
}

#[tokio::test]
async fn patches_of_every_form() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patch = |media: &str, text: &str| ask("PATCH", &path).body(media, text.to_owned());
    let json_patch = "application/json-patch+json";
    let added =
        cluster.root(patch(json_patch, r#"[{"op":"add","path":"/data/x","value":"1"}]"#)).await.expect(200);
    assert_eq!(added["data"], json!({"k": "v", "x": "1"}));
    cluster.root(patch(json_patch, r#"[{"op":"test","path":"/data/x","value":"2"}]"#)).await.expect(422);
    let merged =
        cluster.root(patch("application/merge-patch+json", r#"{"data":{"x":null}}"#)).await.expect(200);
    assert_eq!(merged["data"], json!({"k": "v"}));
    let strategic = "application/strategic-merge-patch+json";
    let labelled = cluster.root(patch(strategic, r#"{"metadata":{"labels":{"a":"b"}}}"#)).await.expect(200);
    assert_eq!(labelled["metadata"]["labels"], json!({"a": "b"}));
    cluster.root(patch("application/json", "{}")).await.expect(415);
    cluster.root(patch(strategic, "nonsense")).await.expect(400);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    cluster.root(ask("POST", &path).json(&config_map("ghost"))).await.expect(201);
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}/ghost"))).await.expect(404);
    let path = format!("{CONFIG_MAPS}?dryRun=Some");
    cluster.root(ask("POST", &path).json(&config_map("ghost"))).await.expect(422);
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let wish = json!({"metadata": {"generateName": "gen-"}});
    let made = cluster.create(CONFIG_MAPS, &wish).await;
    let name = made["metadata"]["name"].as_str().expect("name");
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let cluster = Cluster::start().await;
    let mut object = config_map("held");
    object["metadata"]["finalizers"] = json!(["example.com/x"]);
    cluster.create(CONFIG_MAPS, &object).await;
    let path = format!("{CONFIG_MAPS}/held");
    let marked = cluster.root(ask("DELETE", &path)).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let free =
        ask("PATCH", &path).body("application/merge-patch+json", r#"{"metadata":{"finalizers":null}}"#);
    cluster.root(free).await.expect(200);
    cluster.root(ask("GET", &path)).await.expect(404);
}

#[tokio::test]
async fn the_propagation_policy_becomes_a_finalizer() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let marked = cluster.root(ask("DELETE", &path).json(&options)).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let wrong = json!({"preconditions": {"uid": "other"}});
    let refused = cluster.root(ask("DELETE", &path).json(&wrong)).await.expect(409);
    assert!(
        refused["message"].as_str().is_some_and(|text| text.contains("the UID in the precondition (other)")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_namespace_ends_with_its_finalizers() {
    let cluster = Cluster::start().await;
    let namespace = json!({"metadata": {"name": "short"}});
    let made = cluster.create("/api/v1/namespaces", &namespace).await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let marked = cluster.root(ask("DELETE", "/api/v1/namespaces/short")).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused =
        cluster.root(ask("POST", "/api/v1/namespaces/short/configmaps").json(&config_map("a"))).await;
    assert_eq!(
        refused.expect(403)["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace short because it is being terminated"
    );
    let mut done = marked;
    done["spec"] = json!({});
    cluster.root(ask("PUT", "/api/v1/namespaces/short/finalize").json(&done)).await.expect(200);
    cluster.root(ask("GET", "/api/v1/namespaces/short")).await.expect(404);
    let missing =
        cluster.root(ask("POST", "/api/v1/namespaces/short/configmaps").json(&config_map("a"))).await;
    assert_eq!(missing.expect(404)["message"], "namespaces \"short\" not found");
    let refused = cluster.root(ask("DELETE", "/api/v1/namespaces/kube-system")).await.expect(403);
    assert!(
        refused["message"].as_str().is_some_and(|text| text.ends_with("this namespace may not be deleted"))
    );
}

#[tokio::test]
async fn pods_are_defaulted_bound_and_deleted_gracefully() {
    let cluster = Cluster::start().await;
    cluster
        .create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = cluster.create(pods, &pod).await;
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"][0]["tolerationSeconds"], 300);
    assert_eq!(made["status"]["phase"], "Pending");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    cluster.root(ask("POST", &format!("{pods}/p/binding")).json(&binding)).await.expect(201);
    let again = cluster.root(ask("POST", &format!("{pods}/p/binding")).json(&binding)).await.expect(409);
    assert_eq!(
        again["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let marked = cluster.root(ask("DELETE", &format!("{pods}/p"))).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["spec"]["nodeName"], "n1");
    let now = ask("DELETE", &format!("{pods}/p?gracePeriodSeconds=0"));
    cluster.root(now).await.expect(200);
    cluster.root(ask("GET", &format!("{pods}/p"))).await.expect(404);
}

#[tokio::test]
async fn a_deployment_is_scaled_by_its_subresource() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = cluster.create(deployments, &deployment).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{deployments}/d/scale");
    let patch = ask("PATCH", &path).body("application/merge-patch+json", r#"{"spec":{"replicas":4}}"#);
    let scale = cluster.root(patch).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let changed = cluster.root(ask("GET", &format!("{deployments}/d"))).await.expect(200);
    assert_eq!((&changed["spec"]["replicas"], &changed["metadata"]["generation"]), (&json!(4), &json!(2)));
    let patch = ask("PATCH", &format!("{deployments}/d"))
        .body("application/merge-patch+json", r#"{"spec":{"selector":{"matchLabels":{"a":"c"}}}}"#);
    let refused = cluster.root(patch).await.expect(422);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("field is immutable")), "{refused}");
}

#[tokio::test]
async fn many_writers_of_one_object_lose_nothing() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let writes = (0..20).map(|index| {
        let text = json!({"data": {format!("k{index}"): "v"}}).to_string();
        cluster.root(ask("PATCH", &path).body("application/merge-patch+json", text))
    });
    for answer in futures::future::join_all(writes).await {
        answer.expect(200);
    }
    let object = cluster.root(ask("GET", &path)).await.expect(200);
    assert_eq!(object["data"].as_object().map(serde_json::Map::len), Some(21));
}

#[tokio::test]
async fn an_approval_changes_conditions_and_metadata_and_nothing_else() {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let cluster = Cluster::start().await;
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "a"},
        "spec": {"request": "eA==", "signerName": "example.com/x", "usages": ["client auth"]}});
    let created = cluster.create(REQUESTS, &request).await;
    let patch = json!({"metadata": {"annotations": {"by": "me"}}, "spec": {"username": "other"},
        "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "r"}]}});
    let path = format!("{REQUESTS}/a/approval");
    let ask = ask("PATCH", &path).body("application/merge-patch+json", patch.to_string());
    let approved = cluster.root(ask).await.expect(200);
    assert_eq!(approved["metadata"]["annotations"], json!({"by": "me"}));
    assert_eq!(approved["status"]["conditions"][0]["reason"], "r");
    assert_eq!(approved["spec"], created["spec"]);
    assert!(approved["status"].get("certificate").is_none());
}

#[tokio::test]
async fn who_asks_for_a_certificate_is_noted() {
    let cluster = Cluster::start().await;
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "a"},
        "spec": {"request": "eA==", "signerName": "example.com/x", "usages": ["client auth"],
            "username": "system:node:other", "groups": ["system:nodes"], "uid": "1", "extra": {"a": ["b"]}}});
    let created = cluster.create("/apis/certificates.k8s.io/v1/certificatesigningrequests", &request).await;
    let spec = &created["spec"];
    assert_eq!(spec["username"], "kubernetes-admin");
    let groups = spec["groups"].as_array().expect("groups");
    assert!(groups.contains(&json!("system:masters")) && !groups.contains(&json!("system:nodes")), "{spec}");
    assert!(spec.get("uid").is_none() && spec.get("extra").is_none(), "{spec}");
}

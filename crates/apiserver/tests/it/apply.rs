//! Server-side apply.

use serde_json::{Value, json};

use crate::cluster::{Answer, CONFIG_MAPS, Cluster, Running, ask};

async fn apply(cluster: &Running, manager: &str, force: bool, data: Value) -> Answer {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let path = format!("{CONFIG_MAPS}/a?fieldManager={manager}&force={force}");
    cluster.root(ask("PATCH", &path).body("application/apply-patch+yaml", object.to_string())).await
}

#[tokio::test]
async fn managers_own_what_they_apply() {
    let cluster = Cluster::start().await;
    let made = apply(&cluster, "one", false, json!({"k": "v", "x": "1"})).await.expect(201);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("one"), &json!("Apply")));
    assert!(entry["fieldsV1"]["f:data"]["f:k"].is_object());
    let conflict = apply(&cluster, "two", false, json!({"k": "w"})).await.expect(409);
    assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.k");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = apply(&cluster, "two", true, json!({"k": "w"})).await.expect(200);
    assert_eq!(forced["data"], json!({"k": "w", "x": "1"}));
    let dropped = apply(&cluster, "one", false, json!({"y": "2"})).await.expect(200);
    assert_eq!(dropped["data"], json!({"k": "w", "y": "2"}), "x had no other owner, k has");
    let nobody = format!("{CONFIG_MAPS}/a");
    let nobody = ask("PATCH", &nobody).body("application/apply-patch+yaml", "{}");
    assert!(
        cluster.root(nobody).await.expect(422)["message"]
            .as_str()
            .is_some_and(|text| text.contains("fieldManager"))
    );
}

#[tokio::test]
async fn a_scale_is_applied_and_owned() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let apply = |manager: &str, force: bool, below: &str, object: Value| {
        let path = format!("{deployments}/d{below}?fieldManager={manager}&force={force}");
        ask("PATCH", &path).body("application/apply-patch+yaml", object.to_string())
    };
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut whole = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    cluster.root(apply("one", false, "", whole.clone())).await.expect(201);
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let conflict = cluster.root(apply("two", false, "/scale", scale(3))).await.expect(409);
    assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    let scaled = cluster.root(apply("two", true, "/scale", scale(3))).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let object = cluster.root(ask("GET", &format!("{deployments}/d"))).await.expect(200);
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(3), &json!(2)));
    let entries = object["metadata"]["managedFields"].as_array().expect("entries");
    let two = entries.iter().find(|entry| entry["manager"] == "two").expect("an entry");
    assert_eq!((&two["operation"], &two["subresource"]), (&json!("Apply"), &json!("scale")));
    assert_eq!(two["apiVersion"], "apps/v1");
    assert_eq!(two["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    // Who gives the field up leaves it to the other.
    whole["spec"].as_object_mut().expect("a map").remove("replicas");
    let left = cluster.root(apply("one", false, "", whole)).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 3);
    assert_eq!(cluster.root(apply("two", true, "/scale", scale(-1))).await.code, 422);
    let wrong = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    assert_eq!(cluster.root(apply("two", true, "/scale", wrong)).await.code, 400);
}

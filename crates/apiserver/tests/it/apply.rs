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

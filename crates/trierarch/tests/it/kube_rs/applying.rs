//! Patches of every kind, server-side apply with conflicts and force, scale, dry runs, preconditions.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::{apply, config_map, from, namespace, refused};

const NAMESPACE: &str = "rs-applying";

pub async fn play(client: Client) {
    namespace(&client, NAMESPACE).await;
    conflicts(&Api::namespaced(client.clone(), NAMESPACE)).await;
    let deployments = Api::namespaced(client.clone(), NAMESPACE);
    lists_merge_by_key(&deployments).await;
    scales(&deployments).await;
    patches(&Api::namespaced(client.clone(), NAMESPACE)).await;
    entries(&Api::namespaced(client, NAMESPACE)).await;
}

async fn conflicts(api: &Api<ConfigMap>) {
    apply(api, "one", "a", json!({"k": "1", "only": "one"})).await.expect("created");
    let status = refused(apply(api, "two", "a", json!({"k": "2"})).await);
    assert!(status.is_conflict() && status.message.contains("conflict with \"one\""), "{status:?}");
    let causes = status.details.expect("details").causes;
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), ("FieldManagerConflict", ".data.k"));
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "2"}});
    let forced =
        api.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(&body)).await.expect("taken");
    let managers: Vec<_> = forced.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    assert_eq!(managers, ["one", "two"]);
    // What nobody applies any more is gone, what somebody else applies stays.
    let left = apply(api, "one", "a", json!({})).await.expect("applied");
    assert_eq!(serde_json::to_value(left.data).expect("JSON"), json!({"k": "2"}));
    let again = apply(api, "two", "a", json!({"k": "2"})).await.expect("applied");
    let same = apply(api, "two", "a", json!({"k": "2"})).await.expect("applied");
    assert_eq!(again.resource_version(), same.resource_version(), "nothing changed");
    let dry = PatchParams::apply("two").dry_run();
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dry"}, "data": {"k": "2"}});
    api.patch("dry", &dry, &Patch::Apply(&body)).await.expect("a dry run");
    assert!(api.get_opt("dry").await.expect("an answer").is_none());
}

fn deployment(container: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [container]}}}})
}

async fn lists_merge_by_key(api: &Api<Deployment>) {
    let mut whole = deployment(&json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}));
    whole["spec"]["replicas"] = json!(0);
    whole["spec"]["selector"] = json!({"matchLabels": {"app": "d"}});
    whole["spec"]["template"]["metadata"] = json!({"labels": {"app": "d"}});
    api.patch("d", &PatchParams::apply("one"), &Patch::Apply(&whole)).await.expect("created");
    let more = deployment(&json!({"name": "c", "env": [{"name": "B", "value": "2"}]}));
    let merged = api.patch("d", &PatchParams::apply("two"), &Patch::Apply(&more)).await.expect("merged");
    let names = |object: &Deployment| {
        let value = serde_json::to_value(object).expect("JSON");
        let env = value["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned();
        let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
        env.unwrap_or_default().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&merged), ["A", "B"]);
    let patch =
        Patch::Strategic(deployment(&json!({"name": "c", "env": [{"name": "A", "$patch": "delete"}]})));
    let patched = api.patch("d", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(names(&patched), ["B"]);
    let mut wrong = deployment(&json!({"name": "c", "imagee": "i"}));
    let strict = PatchParams::apply("one").force().validation_strict();
    // 500 of upstream: the field is not in the schema.
    let status = refused(api.patch("d", &strict, &Patch::Apply(&wrong)).await);
    assert!([400, 500].contains(&status.code) && status.message.contains("imagee"), "{status:?}");
    wrong["kind"] = json!("Pod");
    assert_eq!(refused(api.patch("d", &PatchParams::apply("one"), &Patch::Apply(&wrong)).await).code, 400);
    let unknown = Patch::Merge(json!({"spec": {"nope": 1}}));
    let status = refused(api.patch("d", &PatchParams::default().validation_strict(), &unknown).await);
    assert!(status.message.contains("unknown field \"spec.nope\""), "{status:?}");
    api.patch("d", &PatchParams::default().validation_warn(), &unknown).await.expect("a mere warning");
}

async fn scales(api: &Api<Deployment>) {
    let scale = api.get_scale("d").await.expect("a scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas).unwrap_or_default(), 0);
    let patch = Patch::Merge(json!({"spec": {"replicas": 1}}));
    let scale = api.patch_scale("d", &PatchParams::default(), &patch).await.expect("scaled");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(1));
    let apply = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"observedGeneration": 0, "conditions": [{"type": "Own", "status": "True"}]}});
    let params = PatchParams::apply("statuses").force();
    let object = api.patch_status("d", &params, &Patch::Apply(apply)).await.expect("a status");
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_.as_deref() == Some("Own")), "{conditions:?}");
}

async fn patches(api: &Api<ConfigMap>) {
    let made = api.create(&PostParams::default(), &config_map("p", "p", "1")).await.expect("created");
    let operations = |value: Value| Patch::Json::<()>(from(value));
    let test = operations(json!([{"op": "test", "path": "/data/k", "value": "2"}]));
    assert_eq!(refused(api.patch("p", &PatchParams::default(), &test).await).code, 422);
    let moved = operations(
        json!([{"op": "test", "path": "/data/k", "value": "1"}, {"op": "move", "from": "/data/k", "path": "/data/l"}]),
    );
    let moved = api.patch("p", &PatchParams::default(), &moved).await.expect("patched");
    assert_eq!(serde_json::to_value(moved.data.clone()).expect("JSON"), json!({"l": "1"}));
    // A patch that names a version is conditional, a replacement always is.
    let stale =
        Patch::Merge(json!({"metadata": {"resourceVersion": made.resource_version()}, "data": {"k": "x"}}));
    assert!(refused(api.patch("p", &PatchParams::default(), &stale).await).is_conflict());
    assert!(refused(api.replace("p", &PostParams::default(), &made).await).is_conflict());
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"more": "yes"}}}));
    let meta = api.patch_metadata("p", &PatchParams::default(), &labelled).await.expect("metadata");
    assert_eq!(meta.labels().get("more").map(String::as_str), Some("yes"));
    let other = Preconditions { uid: Some("someone-else".into()), resource_version: None };
    let params = DeleteParams::default().preconditions(other);
    assert!(refused(api.delete("p", &params).await).is_conflict());
    let right = Preconditions { uid: made.uid(), resource_version: meta.resource_version() };
    api.delete("p", &DeleteParams::background().preconditions(right)).await.expect("deleted");
}

/// kube-rs' own read, change and write, which minds the version.
async fn entries(api: &Api<ConfigMap>) {
    let params = PostParams::default();
    let entry = api.entry("e").await.expect("an entry");
    entry.or_insert(|| config_map("e", "e", "1")).commit(&params).await.expect("created");
    let change = |map: &mut ConfigMap| drop(map.data.get_or_insert_default().insert("k".into(), "2".into()));
    let (first, second) = (api.entry("e").await.expect("an entry"), api.entry("e").await.expect("an entry"));
    let mut first = first.and_modify(change).or_insert(|| panic!("it is there"));
    first.commit(&params).await.expect("changed");
    let mut second = second.and_modify(change).or_insert(|| panic!("it is there"));
    assert!(second.commit(&params).await.is_err(), "somebody else was quicker");
}

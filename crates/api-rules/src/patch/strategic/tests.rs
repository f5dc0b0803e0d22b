use super::*;
use api_types::schema;
use serde_json::json;

fn pod(doc: Value, patch: Value) -> Value {
    strategic_merge(schema::lookup("", "v1", "Pod").unwrap(), doc, &patch).unwrap()
}

fn spec(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn containers_merge_by_name() {
    let merged = pod(
        spec(
            json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]),
        ),
        spec(json!([{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "3"}])),
    );
    let mut containers: Vec<Value> = merged["spec"]["containers"].as_array().unwrap().clone();
    containers.sort_by_key(|c| c["name"].as_str().unwrap().to_owned());
    assert_eq!(containers.iter().map(|c| c["image"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "1", "3"]);
    assert_eq!(containers[0]["env"].as_array().unwrap().len(), 2);
}

#[test]
fn directives_delete_and_replace() {
    let doc = spec(json!([{"name": "a"}, {"name": "b"}]));
    assert_eq!(
        pod(doc.clone(), spec(json!([{"$patch": "delete", "name": "a"}]))),
        spec(json!([{"name": "b"}]))
    );
    assert_eq!(
        pod(doc.clone(), spec(json!([{"$patch": "replace"}, {"name": "z"}]))),
        spec(json!([{"name": "z"}]))
    );
    assert_eq!(
        pod(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}})
        ),
        json!({"metadata": {"labels": {"c": "3"}}})
    );
    assert_eq!(
        pod(json!({"spec": {"nodeName": "n"}}), json!({"spec": {"nodeName": null}})),
        json!({"spec": {}})
    );
}

#[test]
fn the_order_that_is_asked_for() {
    let merged = pod(
        spec(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "b", "image": "x"}]}}),
    );
    let names: Vec<&str> = merged["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn scalars_merge_as_sets() {
    let doc = json!({"metadata": {"finalizers": ["a/a", "b/b"]}});
    assert_eq!(
        pod(doc.clone(), json!({"metadata": {"finalizers": ["c/c"]}}))["metadata"]["finalizers"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(
        pod(doc, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"]}})),
        json!({"metadata": {"finalizers": ["b/b"]}})
    );
}

#[test]
fn retained_keys() {
    let deployment = schema::lookup("apps", "v1", "Deployment").unwrap();
    let doc = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        strategic_merge(deployment, doc.clone(), &patch).unwrap(),
        json!({"spec": {"strategy": {"type": "Recreate"}}})
    );
}

#[test]
fn elements_without_a_key_are_refused() {
    let error = strategic_merge(
        schema::lookup("", "v1", "Pod").unwrap(),
        spec(json!([{"name": "a"}])),
        &spec(json!([{"image": "x"}])),
    );
    assert_eq!(error.unwrap_err().to_string(), "map: map[image:x] does not contain declared merge key: name");
}

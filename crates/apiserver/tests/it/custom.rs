//! Custom resources: definitions become kinds, and their objects follow the definition's rules.

use serde_json::{Value, json};

use crate::cluster::{Answer, Cluster, Running, ask};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let spec = json!({"type": "object", "required": ["size"],
        "x-kubernetes-validations": [{"rule": "self.size <= self.max", "message": "size must not exceed max"},
            {"rule": "!has(oldSelf.color) || self.color == oldSelf.color", "message": "color is fixed"}],
        "properties": {
            "size": {"type": "integer", "minimum": 0},
            "max": {"type": "integer", "default": 10},
            "color": {"type": "string", "enum": ["red", "green"]},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"],
                    "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}}}});
    let status = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true,
                    "selectableFields": [{"jsonPath": ".spec.color"}],
                    "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                    "subresources": {"status": {},
                        "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                    "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.",
                        "properties": {"spec": spec, "status": status}}}},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            ],
        },
    })
}

/// Does what the controller does: accepts the names.
pub async fn establish(cluster: &Running, definition: &Value) -> Value {
    let made = cluster.root(ask("POST", DEFINITIONS).json(definition)).await.expect(201);
    let mut changed = made.clone();
    changed["status"]["acceptedNames"] = made["spec"]["names"].clone();
    let condition = |name: &str, reason: &str| json!({"type": name, "status": "True", "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    changed["status"]["conditions"] =
        json!([condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")]);
    let name = made["metadata"]["name"].as_str().expect("name");
    cluster.root(ask("PUT", &format!("{DEFINITIONS}/{name}/status")).json(&changed)).await.expect(200)
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn create(cluster: &Running, query: &str, object: &Value) -> Answer {
    cluster.root(ask("POST", &format!("{WIDGETS}{query}")).json(object)).await
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_kind_is_served_from_the_moment_that_its_definition_is_established() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.root(ask("GET", WIDGETS)).await.code, 404);
    let mut other = definition();
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget"});
    cluster.root(ask("POST", DEFINITIONS).json(&other)).await.expect(201);
    let gadgets = WIDGETS.replace("widgets", "gadgets");
    assert_eq!(cluster.root(ask("GET", &gadgets)).await.code, 404, "nobody accepted its names");
    establish(&cluster, &definition()).await;
    let list = cluster.root(ask("GET", WIDGETS)).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("WidgetList"), &json!("example.com/v1")));
    let groups = cluster.root(ask("GET", "/apis")).await.expect(200);
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "example.com").unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = cluster.root(ask("GET", "/apis/example.com/v1")).await.expect(200);
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = cluster.root(ask("GET", "/apis").header("accept", accept)).await;
    assert!(aggregated.text().contains("\"Widget\""));
    let etag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    let again = ask("GET", "/apis").header("accept", accept).header("if-none-match", &etag);
    assert_eq!(cluster.root(again).await.code, 304);
}

#[tokio::test]
async fn objects_follow_the_schema() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    let made =
        create(&cluster, "", &widget("a", json!({"size": 2, "color": "red", "gone": 1, "free": {"x": 1}})))
            .await;
    assert!(
        made.headers["warning"].to_str().unwrap().contains("unknown field \\\"spec.gone\\\""),
        "{:?}",
        made.headers
    );
    let made = made.expect(201);
    assert_eq!(made["spec"], json!({"size": 2, "color": "red", "max": 10, "free": {"x": 1}}));
    assert_eq!(made["metadata"]["generation"], 1);
    for (spec, wanted) in [
        (
            json!({}),
            "Widget.example.com \"b\" is invalid: [spec.size: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]",
        ),
        (json!({"size": -1}), "spec.size in body should be greater than or equal to 0"),
        (
            json!({"size": 1, "color": "blue"}),
            "Unsupported value: \"blue\": supported values: \"red\", \"green\"",
        ),
        (json!({"size": 11}), "size must not exceed max"),
        (json!({"size": 1, "parts": [{"name": "p"}, {"name": "p"}]}), "Duplicate value"),
    ] {
        let refused = create(&cluster, "", &widget("b", spec)).await;
        assert!(refused.code == 422 && message(&refused).contains(wanted), "{}", refused.text());
    }
    let strict =
        create(&cluster, "?fieldValidation=Strict", &widget("b", json!({"size": 1, "gone": 1}))).await;
    assert_eq!(
        (strict.code, message(&strict)),
        (400, "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.gone\"".to_owned())
    );
    let patch = |patch: Value| {
        ask("PATCH", &format!("{WIDGETS}/a")).body("application/merge-patch+json", patch.to_string())
    };
    let fixed = cluster.root(patch(json!({"spec": {"color": "green"}}))).await;
    assert!(fixed.code == 422 && message(&fixed).contains("color is fixed"), "{}", fixed.text());
    let strategic =
        ask("PATCH", &format!("{WIDGETS}/a")).body("application/strategic-merge-patch+json", "{}");
    assert_eq!(cluster.root(strategic).await.code, 415);
    let proto = ask("GET", &format!("{WIDGETS}/a"))
        .header("accept", "application/vnd.kubernetes.protobuf,application/json");
    assert_eq!(cluster.root(proto).await.expect(200)["kind"], "Widget");
}

#[tokio::test]
async fn status_and_scale_are_apart() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    create(&cluster, "", &widget("a", json!({"size": 2}))).await.expect(201);
    let merge = |below: &str, patch: Value| {
        ask("PATCH", &format!("{WIDGETS}/a{below}")).body("application/merge-patch+json", patch.to_string())
    };
    let main = cluster.root(merge("", json!({"status": {"size": 3}, "spec": {"size": 4}}))).await.expect(200);
    assert!(main["status"].is_null());
    assert_eq!((&main["spec"]["size"], &main["metadata"]["generation"]), (&json!(4), &json!(2)));
    let status =
        cluster.root(merge("/status", json!({"status": {"size": 7}, "spec": {"size": 1}}))).await.expect(200);
    assert_eq!((&status["status"]["size"], &status["spec"]["size"]), (&json!(7), &json!(4)));
    assert_eq!(status["metadata"]["generation"], 2);
    let scale = cluster.root(ask("GET", &format!("{WIDGETS}/a/scale"))).await.expect(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(4), &json!(7)));
    cluster.root(merge("/scale", json!({"spec": {"replicas": 5}}))).await.expect(200);
    let scaled = cluster.root(ask("GET", &format!("{WIDGETS}/a"))).await.expect(200);
    assert_eq!(scaled["spec"]["size"], 5);
}

#[tokio::test]
async fn columns_and_selectable_fields() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    create(&cluster, "", &widget("a", json!({"size": 1, "color": "red"}))).await.expect(201);
    create(&cluster, "", &widget("b", json!({"size": 1, "color": "green"}))).await.expect(201);
    let list =
        cluster.root(ask("GET", &format!("{WIDGETS}?fieldSelector=spec.color%3Dred"))).await.expect(200);
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][0]["metadata"]["name"]),
        (1, &json!("a"))
    );
    assert_eq!(list["items"][0]["kind"], "Widget", "items of custom kinds say what they are");
    let other = cluster.root(ask("GET", &format!("{WIDGETS}?fieldSelector=spec.size%3D1"))).await;
    assert_eq!((other.code, message(&other)), (400, "field label not supported: spec.size".to_owned()));
    let table = ask("GET", WIDGETS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = cluster.root(table).await.expect(200);
    assert_eq!(table["columnDefinitions"][1]["name"], "Color");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "red"]));
}

#[tokio::test]
async fn versions_are_one_object() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    create(&cluster, "", &widget("a", json!({"size": 1}))).await.expect(201);
    let old = cluster.root(ask("GET", &format!("{}/a", WIDGETS.replace("/v1/", "/v1beta1/")))).await;
    assert!(old.headers["warning"].to_str().unwrap().contains("example.com/v1beta1 Widget is deprecated"));
    let old = old.expect(200);
    assert_eq!((&old["apiVersion"], &old["spec"]["size"]), (&json!("example.com/v1beta1"), &json!(1)));
}

#[tokio::test]
async fn apply_merges_by_the_schema() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    let apply = |manager: &str, body: String| {
        ask("PATCH", &format!("{WIDGETS}/a?fieldManager={manager}&force=true&fieldValidation=Strict"))
            .body("application/apply-patch+yaml", body)
    };
    let with = |part: &str| widget("a", json!({"size": 1, "parts": [{"name": part, "n": 1}]})).to_string();
    cluster.root(apply("x", with("p1"))).await.expect(201);
    let both = cluster.root(apply("y", with("p2"))).await.expect(200);
    let names: Vec<&Value> = both["spec"]["parts"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["p1", "p2"]);
    let mut unknown = widget("a", json!({"size": 1}));
    unknown["unknownField"] = json!(1);
    let refused = cluster.root(apply("x", unknown.to_string())).await;
    assert!(message(&refused).contains(".unknownField: field not declared in schema"), "{}", refused.text());
    let twice =
        "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec:\n  size: 1\n  size: 2\n";
    let refused = cluster.root(apply("x", twice.to_owned())).await;
    assert!(message(&refused).contains("line 6: key \"size\" already set in map"), "{}", refused.text());
}

#[tokio::test]
async fn a_schema_that_changes_holds_for_what_is_stored() {
    let cluster = Cluster::start().await;
    let known = establish(&cluster, &definition()).await;
    create(&cluster, "", &widget("a", json!({"size": 1, "color": "red"}))).await.expect(201);
    let mut changed = known.clone();
    let properties =
        &mut changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["later"] = json!({"type": "string", "default": "x"});
    properties["size"]["minimum"] = json!(5);
    cluster.root(ask("PUT", &format!("{DEFINITIONS}/widgets.example.com")).json(&changed)).await.expect(200);
    let read = cluster.root(ask("GET", &format!("{WIDGETS}/a"))).await.expect(200);
    assert_eq!(read["spec"]["later"], "x", "defaults hold for what was stored before");
    let patch = |patch: Value| {
        ask("PATCH", &format!("{WIDGETS}/a")).body("application/merge-patch+json", patch.to_string())
    };
    cluster.root(patch(json!({"metadata": {"labels": {"a": "b"}}}))).await.expect(200);
    let worse = cluster.root(patch(json!({"spec": {"size": 2}}))).await;
    assert_eq!(worse.code, 422, "what was wrong may stay, but not change into another wrong value");
}

#[tokio::test]
async fn openapi_shows_the_kind() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    assert!(index["paths"]["apis/example.com/v1"].is_object());
    let v3 = cluster.root(ask("GET", "/openapi/v3/apis/example.com/v1")).await.expect(200);
    let schema = &v3["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(v3["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    assert_eq!(schema["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
    let v2 = cluster.root(ask("GET", "/openapi/v2")).await.expect(200);
    let widget = &v2["definitions"]["com.example.v1.Widget"];
    assert_eq!(widget["description"], "A widget.");
    let spec = &widget["properties"]["spec"];
    assert_eq!(spec["properties"]["color"]["enum"], json!(["red", "green"]));
    assert_eq!(spec["x-kubernetes-validations"][1]["message"], "color is fixed");
    assert_eq!(spec["properties"]["max"], json!({"type": "integer"}), "v2 has no defaults");
    assert_eq!(
        v2["definitions"]["com.example.v1beta1.Widget"]
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>()),
        Some(vec!["type".to_owned(), "x-kubernetes-group-version-kind".to_owned()])
    );
    let item = &v2["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert_eq!(item["get"]["operationId"], "readExampleComV1NamespacedWidget");
    assert!(!item["patch"]["consumes"].to_string().contains("strategic"));
    let scale = &v2["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale"]["get"];
    assert_eq!(scale["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.autoscaling.v1.Scale");
}

#[tokio::test]
async fn openapi_follows_the_definition() {
    let cluster = Cluster::start().await;
    let made = establish(&cluster, &definition()).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let etag = |answer: &Answer| answer.headers["etag"].to_str().expect("text").to_owned();
    let first = cluster.root(ask("GET", "/openapi/v2")).await;
    let known = etag(&first);
    let again = |known: &str| ask("GET", "/openapi/v2").header("if-none-match", known);
    assert_eq!(cluster.root(again(&known)).await.code, 304);

    let mut status = made.clone();
    status["status"]["conditions"][0]["message"] = json!("other words");
    let status = cluster.root(ask("PUT", &format!("{path}/status")).json(&status)).await.expect(200);
    assert_eq!(cluster.root(again(&known)).await.code, 304, "conditions are not published");

    let mut fewer = status.clone();
    fewer["spec"]["versions"][1]["served"] = json!(false);
    let fewer = cluster.root(ask("PUT", &path).json(&fewer)).await.expect(200);
    let answer = cluster.root(again(&known)).await;
    assert_ne!(etag(&answer), known);
    let v2 = answer.expect(200);
    assert!(v2["definitions"].get("com.example.v1beta1.Widget").is_none());
    assert!(v2["definitions"]["com.example.v1.Widget"].is_object());
    assert!(!v2["paths"].to_string().contains("v1beta1/namespaces/{namespace}/widgets"));
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    assert!(index["paths"].get("apis/example.com/v1beta1").is_none());
    assert_eq!(cluster.root(ask("GET", "/openapi/v3/apis/example.com/v1beta1")).await.code, 404);

    let url = |index: &Value| {
        index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().expect("url").to_owned()
    };
    let old = url(&index);
    let answer = cluster.root(ask("GET", &old)).await;
    assert_eq!(answer.headers["cache-control"], "public, immutable");
    assert!(answer.headers["expires"].to_str().expect("text").ends_with(" GMT"));
    let mut renamed = fewer.clone();
    renamed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("Another widget.");
    cluster.root(ask("PUT", &path).json(&renamed)).await.expect(200);
    let moved = cluster.root(ask("GET", &old)).await;
    assert_eq!(moved.code, 301);
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    assert_eq!(moved.headers["location"].to_str().ok(), Some(url(&index).as_str()));
    let v3 = cluster.root(ask("GET", &url(&index))).await.expect(200);
    assert_eq!(v3["components"]["schemas"]["com.example.v1.Widget"]["description"], "Another widget.");
}

#[tokio::test]
async fn a_definition_that_goes_takes_nothing_new() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let going = cluster.root(ask("DELETE", &path)).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(going["status"]["conditions"][2]["reason"], "InstanceDeletionPending");
    let late = create(&cluster, "", &widget("a", json!({"size": 1}))).await;
    assert_eq!(
        (late.code, message(&late)),
        (405, "create not allowed while custom resource definition is terminating".to_owned())
    );
    let release =
        ask("PATCH", &path).body("application/merge-patch+json", r#"{"metadata":{"finalizers":null}}"#);
    cluster.root(release).await.expect(200);
    assert_eq!(cluster.root(ask("GET", WIDGETS)).await.code, 404);
}

#[tokio::test]
async fn definitions_that_cannot_work_are_refused() {
    let cluster = Cluster::start().await;
    let refused = |change: fn(&mut Value)| {
        let mut bad = definition();
        change(&mut bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]);
        ask("POST", DEFINITIONS).json(&bad)
    };
    let untyped = cluster.root(refused(|spec| spec["properties"]["size"] = json!({"minimum": 0}))).await;
    assert!(untyped.code == 422 && message(&untyped).contains("must not be empty"), "{}", untyped.text());
    let rule = cluster
        .root(refused(|spec| spec["x-kubernetes-validations"][0] = json!({"rule": "self.size <= self.nope"})))
        .await;
    assert!(rule.code == 422 && message(&rule).contains("compilation failed"), "{}", rule.text());
}

#[tokio::test]
async fn a_watch_ends_when_the_definition_changes() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition()).await;
    let request = ask("GET", &format!("{WIDGETS}?watch=true"));
    let answer = cluster.open(request, Some(&cluster.admin)).await.expect("a watch");
    let mut watch = std::pin::pin!(http_body_util::BodyExt::collect(answer.into_body()));
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let status = ask("PATCH", &format!("{path}/status"))
        .body("application/merge-patch+json", r#"{"status":{"storedVersions":["v1"]}}"#);
    cluster.root(status).await.expect(200);
    assert!(futures::poll!(watch.as_mut()).is_pending(), "its status says nothing about the kind");
    let patch = r#"{"spec":{"names":{"categories":["some"]}}}"#;
    cluster.root(ask("PATCH", &path).body("application/merge-patch+json", patch)).await.expect(200);
    let ended = tokio::time::timeout(crate::cluster::DEADLINE, watch).await.expect("the watch ends");
    ended.expect("a whole answer");
}

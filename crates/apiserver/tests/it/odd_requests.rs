//! Ordinary requests with something odd about them: each row is a request and what a kube-apiserver 1.37.2 answers, as
//! status, reason and message. What is answered otherwise on purpose stands in `docs/status.md`.

use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, CONFIG_MAPS, Cluster, Running, ask, config_map};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// A request, its status, its reason (`""`: none), and how its message begins.
type Row<'a> = (Ask, u16, &'a str, &'a str);

fn field(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_default().to_owned()
}

async fn check(cluster: &Running, rows: Vec<Row<'_>>) {
    let mut wrong = Vec::new();
    for (asked, code, reason, message) in rows {
        let shown = format!("{} {} {:?}", asked.method, asked.path, asked.body);
        let answer = cluster.root(asked).await;
        let found = (answer.code, field(&answer, "reason"), field(&answer, "message"));
        if found.0 != code || found.1 != reason || !found.2.starts_with(message) {
            wrong.push(format!("{shown:.200}\n  wanted {code} {reason} {message}\n  found  {found:.300?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn get(path: &str) -> Ask {
    ask("GET", path)
}

fn list(query: &str) -> Ask {
    get(&format!("{CONFIG_MAPS}?{query}"))
}

fn accept(path: &str, accept: &str) -> Ask {
    get(path).header("accept", accept)
}

fn patch(kind: &str, body: impl Into<bytes::Bytes>) -> Ask {
    ask("PATCH", &format!("{CONFIG_MAPS}/a?dryRun=All")).body(kind, body)
}

fn apply(query: &str, object: &Value) -> Ask {
    ask("PATCH", &format!("{CONFIG_MAPS}/a?{query}")).body(APPLY, object.to_string())
}

fn put(object: &Value) -> Ask {
    ask("PUT", &format!("{CONFIG_MAPS}/a")).json(object)
}

fn delete(query: &str, body: &Value) -> Ask {
    ask("DELETE", &format!("{CONFIG_MAPS}/a?{query}")).json(body)
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// The object with metadata of a value.
fn with(name: &str, value: Value) -> Value {
    let mut object = config_map("a");
    object["metadata"][name] = value;
    object
}

const NOT_FOUND: &str = "the server could not find the requested resource";
const NO_METHOD: &str = "the server does not allow this method on the requested resource";
const NO_NAME: &str = "the name of the object (a based on URL) was undeterminable: name must be provided";

#[tokio::test]
async fn kinds_are_where_they_are_and_nowhere_else() {
    let cluster = Cluster::start().await;
    let missing = |path: &str| (get(path), 404, "NotFound", NOT_FOUND);
    let no_method = |method: &str, path: &str| (ask(method, path), 405, "MethodNotAllowed", NO_METHOD);
    check(
        &cluster,
        vec![
            // A right in a namespace is none in the cluster.
            missing("/api/v1/namespaces/default/nodes"),
            missing("/api/v1/namespaces/default/nodes/n"),
            missing("/api/v1/namespaces/default/persistentvolumes/a/status"),
            missing("/api/v1/configmaps/a"),
            missing("/apis/apps/v2/deployments"),
            missing("/apis/apps/v7"),
            missing("/api/v7"),
            missing("/api//v1/configmaps"),
            missing("/version/x"),
            (ask("PATCH", "/api/v1/configmaps/a"), 404, "NotFound", NOT_FOUND),
            (ask("DELETE", "/apis/authentication.k8s.io/v1/tokenreviews/x"), 404, "NotFound", NOT_FOUND),
            no_method("HEAD", CONFIG_MAPS),
            no_method("HEAD", "/api/v1"),
            no_method("HEAD", "/version"),
            no_method("POST", "/version"),
            no_method("POST", "/api/v1/watch/namespaces/default/configmaps"),
            no_method("POST", "/api/v1/configmaps"),
        ],
    )
    .await;
    for (method, path, code) in [
        ("GET", "//api/v1/configmaps", 404),
        ("GET", "/apis/foo/v1/bars", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/openapi/v3/", 404),
        ("POST", "/none", 404),
        ("POST", "/healthz", 200),
        ("POST", "/apis", 200),
        ("HEAD", "/apis", 200),
        ("GET", "/api/v1/namespaces/default", 200),
        ("GET", "/api/v1/namespaces", 200),
        ("GET", "/version/", 200),
        // Its documents are there for every method.
        ("POST", "/openapi/v2", 200),
        ("PUT", "/openapi/v3", 200),
        ("DELETE", "/openapi/v3/api/v1", 200),
        ("POST", "/openapi", 404),
    ] {
        let answer = cluster.root(ask(method, path)).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
        if code == 404 {
            assert_eq!(answer.text(), "404 page not found\n", "{path}");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        }
    }
}

#[tokio::test]
async fn a_path_that_is_escaped_wrongly_is_none() {
    let cluster = Cluster::start().await;
    for path in ["/api/v1/namespaces/%zz", "/api/v1/namespaces/a%", "/%2", "/healthz%2x", "/apis/%C3%/v1"] {
        for method in ["GET", "POST"] {
            let answer = cluster.root(ask(method, path)).await;
            assert_eq!((answer.code, answer.text().as_str()), (400, "400 Bad Request"), "{method} {path}");
        }
    }
    cluster.root(get("/api/v1/namespaces/%64efault")).await.expect(200);
}

#[tokio::test]
async fn metadata_are_those_of_an_object_or_of_a_list() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let one = format!("{CONFIG_MAPS}/a");
    let of = |kind: &str| format!("application/json;as={kind};v=v1;g=meta.k8s.io,application/json");
    let (object, list) = (of("PartialObjectMetadata"), of("PartialObjectMetadataList"));
    let refused = |asked: Ask, message| (asked, 406, "NotAcceptable", message);
    let is_list =
        "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)";
    let is_none =
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)";
    let none = format!("{CONFIG_MAPS}/none");
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    check(
        &cluster,
        vec![
            refused(accept(CONFIG_MAPS, &object), is_list),
            refused(
                accept(DEPLOYMENTS, &object),
                "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)",
            ),
            refused(ask("DELETE", &dry).header("accept", &object), is_list),
            refused(accept(&one, &list), is_none),
            refused(ask("POST", &dry).json(&config_map("b")).header("accept", &list), is_none),
            (accept(&none, &list), 404, "NotFound", "configmaps \"none\" not found"),
        ],
    )
    .await;
    for (path, form, kind) in
        [(CONFIG_MAPS, &list, "PartialObjectMetadataList"), (&one, &object, "PartialObjectMetadata")]
    {
        let found = cluster.root(accept(path, form)).await.expect(200);
        assert_eq!(found["kind"], kind);
    }
}

#[tokio::test]
async fn answers_have_a_form_that_is_accepted() {
    let cluster = Cluster::start().await;
    let one = format!("{CONFIG_MAPS}/a");
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let no_form = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let only = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let refused = |path: &str, text: &str, message| (accept(path, text), 406, "NotAcceptable", message);
    let none = format!("{CONFIG_MAPS}/none");
    let watch = format!("{CONFIG_MAPS}?watch=1");
    check(
        &cluster,
        vec![
            refused(&one, "text/html", no_form),
            refused(&one, "application/*", no_form),
            refused(&one, "APPLICATION/JSON", no_form),
            refused(&one, ";;;", no_form),
            // Before it is looked for.
            refused(&none, "text/html", no_form),
            refused("/api/v1", "text/html", no_form),
            refused("/version", "text/html", "406: Not Acceptable\n\nAvailable representations: application/json"),
            refused(&one, "application/json;v=v1", only),
            refused(&one, "application/json;as=Tafel;v=v1;g=meta.k8s.io", only),
            refused(&watch, "application/json;stream=other", only),
            refused(
                &watch,
                "text/html",
                "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            ),
        ],
    )
    .await;
    let answer = cluster.root(accept(&watch, "application/yaml, text/html")).await;
    assert_eq!((answer.code, answer.text().contains("application/json;stream=watch")), (406, true));
    for text in ["application/json;q=0", "text/html, */*;q=0.1", "application/json;stream=watch", ""] {
        cluster.root(accept(&one, text)).await.expect(200);
    }
    let answer = cluster
        .root(accept("/apis", "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io"))
        .await;
    assert_eq!(answer.headers["cache-control"], "public");
    assert_eq!(cluster.root(get("/openid/v1/jwks")).await.headers["cache-control"], "public, max-age=3600");
}

#[tokio::test]
async fn bodies_are_of_the_kind_of_their_url() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let post = |body: &str| ask("POST", CONFIG_MAPS).body("application/json", body.to_owned());
    let bad = |asked: Ask, message| (asked, 400, "BadRequest", message);
    let kind = |kind: &str, version: &str| {
        put(&json!({"kind": kind, "apiVersion": version, "metadata": {"name": "a"}}))
    };
    let gone = "the namespace of the provided object does not match the namespace sent on the request";
    check(
        &cluster,
        vec![
            bad(kind("Secret", "v1"), "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"),
            bad(kind("ConfigMap", "v2"), "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/runtime/scheme.go:111\""),
            bad(kind("ConfigMapList", "v1"), "ConfigMapList in version \"v1\" cannot be handled as a ConfigMap: converting (v1.ConfigMapList) to (core.ConfigMap): unknown conversion"),
            bad(post("[]"), "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)"),
            (post("null"), 422, "Invalid", "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"),
            (ask("POST", CONFIG_MAPS).body("application/json; charset", "{}"), 415, "UnsupportedMediaType", "the body of the request was in an unknown format"),
            bad(put(&json!({"data": {}})), NO_NAME),
            bad(put(&config_map("b")), "the name of the object (b) does not match the name on the URL (a)"),
            bad(put(&with("namespace", json!("x"))), gone),
            bad(patch(MERGE, r#"{"metadata":{"namespace":"x"}}"#), gone),
            (put(&with("resourceVersion", json!("x"))), 500, "", "strconv.ParseUint: parsing \"x\": invalid syntax"),
            (put(&with("uid", json!("x"))), 409, "Conflict", "Operation cannot be fulfilled on configmaps \"a\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: "),
            (ask("POST", CONFIG_MAPS).json(&json!({"metadata": {"name": "b", "resourceVersion": "5"}})), 500, "", "resourceVersion should not be set on objects to be created"),
            (ask("PUT", "/apis/networking.k8s.io/v1/namespaces/default/ingresses/none").json(&json!({"metadata": {"name": "none"}})), 404, "NotFound", ""),
            (ask("GET", &format!("{CONFIG_MAPS}/a%00")), 404, "NotFound", "configmaps \"a\\x00\" not found"),
        ],
    )
    .await;
    let namespace = json!({"metadata": {"name": "nn", "namespace": "x"}});
    let made = cluster.root(ask("POST", "/api/v1/namespaces?dryRun=All").json(&namespace)).await.expect(201);
    assert!(made["metadata"].get("namespace").is_none(), "{made}");
}

#[tokio::test]
async fn options_are_checked_all_at_once() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let invalid = |asked: Ask, message| (asked, 422, "Invalid", message);
    let create = |query: &str| ask("POST", &format!("{CONFIG_MAPS}?{query}")).json(&config_map("b"));
    let remove = |query: &str| ask("DELETE", &format!("{CONFIG_MAPS}/a?dryRun=All&{query}"));
    check(
        &cluster,
        vec![
            invalid(create("dryRun=x&fieldValidation=x&fieldManager=a%01"), "CreateOptions.meta.k8s.io \"\" is invalid: [fieldManager: Invalid value: \"a\\x01\": invalid character U+0001 (at position 1), dryRun: Unsupported value: [\"x\"]: supported values: \"All\", fieldValidation: Unsupported value: \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"),
            invalid(create("dryRun="), "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"\"]: supported values: \"All\""),
            invalid(ask("PATCH", &format!("{CONFIG_MAPS}/a?force=1&dryRun=x")).body(MERGE, "{}"), "PatchOptions.meta.k8s.io \"\" is invalid: [force: Forbidden: may not be specified for non-apply patch, dryRun: "),
            invalid(remove("propagationPolicy=x&orphanDependents=true"), "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: Invalid value: \"x\": orphanDependents and deletionPropagation cannot be both set, propagationPolicy: Unsupported value: \"x\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"]"),
            (remove("gracePeriodSeconds=99999999999999999999"), 400, "BadRequest", "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
            (delete("", &json!({"preconditions": {"uid": "x"}})), 409, "Conflict", "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x) does not match the UID in record ("),
            (delete("", &json!({"preconditions": {"resourceVersion": "1"}})), 409, "Conflict", "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ("),
            (remove("uid=x"), 409, "Conflict", "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x)"),
            (delete("", &json!({"orphanDependents": "x"})), 400, "BadRequest", "json: cannot unmarshal string into Go struct field DeleteOptions.orphanDependents of type bool"),
            (delete("", &json!({"gracePeriodSeconds": "x"})), 400, "BadRequest", "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64"),
            (delete("", &json!({"kind": "Pod", "apiVersion": "v1"})), 400, "BadRequest", "no kind \"Pod\" is registered for version \"v1\""),
            (delete("", &json!([])), 400, "BadRequest", "couldn't get version/kind; json parse error: json: cannot unmarshal array"),
            (delete("", &json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true})), 409, "Conflict", "Operation cannot be fulfilled on configmaps \"a\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/a, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage"),
            invalid(delete("", &json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true, "gracePeriodSeconds": 1})), "DeleteOptions.meta.k8s.io \"\" is invalid: ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: cannot be set together with .gracePeriodSeconds"),
            (ask("DELETE", &format!("{CONFIG_MAPS}?resourceVersion=x")), 400, "BadRequest", "invalid resource version: "),
            (ask("DELETE", &format!("{CONFIG_MAPS}?continue=zzz")), 400, "BadRequest", "invalid continue token: "),
        ],
    )
    .await;
    // Upstream does not look at the query when there is a body, and deletes.
    cluster.root(delete("dryRun=All", &json!({}))).await.expect(200);
    cluster.root(get(&format!("{CONFIG_MAPS}/a"))).await.expect(200);
    // Less than nothing counts as a second.
    cluster.root(remove("gracePeriodSeconds=-1")).await.expect(200);
}

#[tokio::test]
async fn lists_and_watches_say_what_they_cannot_do() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    cluster.create(CONFIG_MAPS, &config_map("b")).await;
    let no_number = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    let bad_list = format!("invalid resource version: {no_number}");
    let bad = |query: &str, message| (list(query), 400, "BadRequest", message);
    let invalid = |query: &str, message| (list(query), 422, "Invalid", message);
    let one = |query: &str| get(&format!("{CONFIG_MAPS}/a?{query}"));
    check(
        &cluster,
        vec![
            bad("resourceVersion=x", bad_list.as_str()),
            (list("watch=1&resourceVersion=x"), 500, "", no_number),
            (one("resourceVersion=x"), 500, "", no_number),
            (one("export=true"), 400, "BadRequest", "the export parameter, deprecated since v1.14, is no longer supported"),
            bad("continue=zzz", "invalid continue token: continue key is not valid: invalid character 'Ï' looking for beginning of value"),
            bad("continue=e30", "invalid continue token: continue key is not valid: server does not recognize this encoded version "),
            bad("timeoutSeconds=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            bad("limit=99999999999999999999", "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
            bad("labelSelector=!!a", "unable to parse requirement: found '!', expected: identifier"),
            bad("labelSelector=((", "found '(', expected: !, identifier, or 'end of string'"),
            invalid("watch=1&continue=x", "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"),
            invalid("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]"),
            invalid("resourceVersion=0&resourceVersionMatch=Exact&sendInitialEvents=1", "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\", sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]"),
        ],
    )
    .await;
    // A named object is read, whatever is said of watching.
    assert_eq!(cluster.root(one("watch=1")).await.expect(200)["kind"], "ConfigMap");
    // A watch of one object by the old path shows no other.
    let path = "/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1";
    let answer = cluster.root(get(path)).await;
    assert_eq!((answer.code, answer.text().matches("ADDED").count()), (200, 1), "{}", answer.text());
}

#[tokio::test]
async fn patches_that_do_not_fit_are_shown() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    cluster.create(DEPLOYMENTS, &deployment()).await;
    let of_deployment =
        |body: &str| ask("PATCH", &format!("{DEPLOYMENTS}/d?dryRun=All")).body(STRATEGIC, body.to_owned());
    let invalid = |asked: Ask, message| (asked, 422, "Invalid", message);
    check(
        &cluster,
        vec![
            (patch("application/json", "{}"), 415, "UnsupportedMediaType", "415: Unsupported Media Type"),
            (patch("APPLICATION/merge-patch+json", "{}"), 415, "UnsupportedMediaType", "415: Unsupported Media Type"),
            invalid(patch(MERGE, r#"{"data":{"k":1}}"#), " \"\" is invalid: patch: Invalid value: \"{\\\""),
            invalid(patch(MERGE, r#"{"kind":"Secret"}"#), " \"\" is invalid: patch: Invalid value: \"{\\\""),
            invalid(patch(STRATEGIC, r#"{"data":{"k":1}}"#), " \"\" is invalid: patch: Invalid value: \"map[data:map[k:1]]\": "),
            invalid(patch(MERGE, r#"{"metadata":{"uid":"b"}}"#), "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"b\": field is immutable"),
            invalid(patch(MERGE, r#"{"metadata":{"ownerReferences":[{}]}}"#), "ConfigMap \"a\" is invalid: [metadata.ownerReferences[0].apiVersion: Required value: must not be empty, "),
            (patch(MERGE, "null"), 400, "BadRequest", "Invalid JSON Patch"),
            (patch(MERGE, r#"{"metadata":null}"#), 400, "BadRequest", NO_NAME),
            (patch(JSON_PATCH, "[1]"), 400, "BadRequest", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
            (patch(JSON_PATCH, r#"[{"op":1}]"#), 400, "BadRequest", "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
            (patch(STRATEGIC, r#"{"$patch":"x"}"#), 500, "", "unknown patch type: x in map: map[$patch:x]"),
            (of_deployment(r#"{"spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}"#), 500, "", "map: map[image:x] does not contain declared merge key: name"),
            (of_deployment(r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"z"}],"containers":[{"name":"c","image":"x"}]}}}}"#), 500, "", "The order in patch list:\n[map[image:x name:c]]\n doesn't match $setElementOrder list:\n[map[name:z]]\n"),
            (ask("PUT", &format!("{DEPLOYMENTS}/d/scale")).json(&json!({})), 400, "BadRequest", "the name of the object (d based on URL) was undeterminable: name must be provided"),
        ],
    )
    .await;
    for (kind, body) in [
        (STRATEGIC, "null"),
        (JSON_PATCH, "null"),
        (STRATEGIC, r#"{"kind":"Secret"}"#),
        (STRATEGIC, r#"{"$patch":"replace","metadata":{"name":"a"}}"#),
        // What is missing in an object is put there.
        (JSON_PATCH, r#"[{"op":"replace","path":"/data/new","value":"1"}]"#),
    ] {
        let answer = cluster.root(patch(kind, body)).await;
        assert_eq!(answer.code, 200, "{kind} {body}: {}", answer.text());
    }
}

#[tokio::test]
async fn applied_configurations_fit_their_kind() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let forced = "fieldManager=t&force=true";
    let mut unknown = config_map("a");
    unknown["nope"] = json!(1);
    let bad = |object: &Value, message| (apply(forced, object), 400, "BadRequest", message);
    let kind =
        |kind: &str, version: &str| json!({"kind": kind, "apiVersion": version, "metadata": {"name": "a"}});
    let mut numbers = config_map("a");
    numbers["data"]["k"] = json!(1);
    let mut new = config_map("n");
    new["metadata"]["uid"] = json!("u");
    let fresh = ask("PATCH", &format!("{CONFIG_MAPS}/n?fieldManager=t")).body(APPLY, new.to_string());
    check(
        &cluster,
        vec![
            (apply("dryRun=x", &config_map("a")), 422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid: [fieldManager: Required value: is required for apply patch, dryRun: Unsupported value: "),
            bad(&kind("Secret", "v1"), "invalid object type: /v1, Kind=Secret"),
            bad(&json!({"metadata": {"name": "a"}}), "invalid object type: /, Kind="),
            bad(&json!([]), "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}"),
            bad(&config_map("b"), "the name of the object (b) does not match the name on the URL (a)"),
            bad(&with("namespace", json!("x")), "the namespace of the provided object does not match the namespace sent on the request"),
            (apply(forced, &unknown), 500, "", "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .nope: field not declared in schema"),
            (apply(forced, &numbers), 500, "", "failed to create typed patch object (/a; /v1, Kind=ConfigMap): "),
            (fresh, 409, "Conflict", "Operation cannot be fulfilled on configmaps \"n\": uid mismatch: the provided object specified uid u, and no existing object was found"),
        ],
    )
    .await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments/d?fieldManager=t";
    let of_container = |container: Value| {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
        let object =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
        ask("PATCH", deployments).body(APPLY, object.to_string())
    };
    let portless = json!({"name": "c", "image": "i", "ports": [{"name": "p"}]});
    check(
        &cluster,
        vec![
            (of_container(portless), 422, "Invalid", "Deployment.apps \"d\" is invalid: spec.template.spec.containers[0].ports[0].containerPort: Required value"),
            (of_container(json!({"image": "i"})), 500, "", "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"]"),
        ],
    )
    .await;
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "1"}});
    let made = cluster
        .root(ask("PATCH", &format!("{CONFIG_MAPS}/m?fieldManager=t")).body(APPLY, nameless.to_string()));
    let made = made.await.expect(201);
    assert_eq!((&made["metadata"]["name"], &made["metadata"]["namespace"]), (&json!("m"), &json!("default")));
}

#[tokio::test]
async fn subresources_are_of_what_they_say() {
    let cluster = Cluster::start().await;
    let below = |name: &str| format!("/api/v1/namespaces/default/pods/none/{name}");
    let named = |name: &str| json!({"metadata": {"name": name}, "target": {"name": "n"}});
    let post = |path: &str, object: &Value| ask("POST", path).json(object);
    let mut aimless = named("none");
    aimless["target"] = json!({});
    check(
        &cluster,
        vec![
            (
                post(&below("eviction"), &json!({"metadata": {"name": "x"}})),
                400,
                "BadRequest",
                "name in URL does not match name in Eviction object",
            ),
            (
                post(&below("binding"), &named("x")),
                400,
                "BadRequest",
                "name in URL does not match name in Binding object",
            ),
            (post(&below("binding"), &aimless), 500, "", "target.name: Required value"),
            (
                get(&below("log?tailLines=x")),
                400,
                "BadRequest",
                "strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                post(
                    "/api/v1/namespaces/default/serviceaccounts/none/token",
                    &json!({"spec": {"expirationSeconds": 1}}),
                ),
                404,
                "NotFound",
                "serviceaccounts \"none\" not found",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn warnings_go_with_failures_too() {
    let cluster = Cluster::start().await;
    let object = json!({"metadata": {"name": "B_"}, "nope": 1});
    let answer = cluster.root(ask("POST", CONFIG_MAPS).json(&object)).await;
    answer.expect(422);
    assert_eq!(answer.headers["warning"], "299 - \"unknown field \\\"nope\\\"\"");
    let answer = cluster.send(get("/version").header("authorization", "Bearer  x")).await.expect("answer");
    answer.expect(200);
    assert_eq!(
        answer.headers["warning"],
        "299 - \"the provided Authorization header contains extra space before the bearer token, and is ignored\""
    );
}

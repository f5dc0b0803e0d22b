//! Admission policies in CEL.

use serde_json::{Value, json};

use crate::cluster::{Answer, CONFIG_MAPS, Cluster, Running, ask, config_map};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

/// Stores a policy and its binding.
async fn configure(cluster: &Running, kind: &str, name: &str, mut spec: Value, mut binding: Value) {
    spec["matchConstraints"] = constraints();
    binding["policyName"] = json!(name);
    let path = format!("{GROUP}/{kind}admissionpolicies");
    cluster.create(&path, &json!({"metadata": {"name": name}, "spec": spec})).await;
    let path = format!("{GROUP}/{kind}admissionpolicybindings");
    cluster.create(&path, &json!({"metadata": {"name": format!("{name}-b")}, "spec": binding})).await;
}

fn named(name: &str, data: Value) -> Value {
    let mut object = config_map(name);
    object["data"] = data;
    object
}

async fn post(cluster: &Running, object: &Value) -> Answer {
    cluster.root(ask("POST", CONFIG_MAPS).json(object)).await
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_policy_with_parameters_and_variables_denies() {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces/kube-public/configmaps", &named("limits", json!({"max": "3"}))).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-exempt", "expression": "request.operation == 'DELETE' || !('exempt' in object.metadata.?labels.orValue({}))"}],
        "variables": [{"name": "n", "expression": "int(object.?data.?n.orValue('1'))"}],
        "validations": [{"expression": "request.operation == 'DELETE' || variables.n <= int(params.data.max)",
            "messageExpression": "'n ' + string(variables.n) + ' exceeds ' + params.data.max", "reason": "Forbidden"}],
    });
    let binding = json!({"validationActions": ["Deny"],
        "paramRef": {"name": "limits", "namespace": "kube-public", "parameterNotFoundAction": "Deny"},
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}});
    configure(&cluster, "validating", "limit", spec, binding).await;
    let refused = post(&cluster, &named("a", json!({"n": "4"}))).await;
    refused.expect(403);
    assert_eq!(
        message(&refused),
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'limit' with binding 'limit-b' denied request: n 4 exceeds 3"
    );
    post(&cluster, &named("a", json!({"n": "3"}))).await.expect(201);
    let patch = ask("PATCH", &format!("{CONFIG_MAPS}/a"))
        .body("application/merge-patch+json", r#"{"data":{"n":"5"}}"#);
    cluster.root(patch).await.expect(403);
    let mut exempt = named("b", json!({"n": "9"}));
    exempt["metadata"]["labels"] = json!({"exempt": "y"});
    post(&cluster, &exempt).await.expect(201);
    cluster.create("/api/v1/namespaces/kube-public/configmaps", &named("c", json!({"n": "9"}))).await;
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/a"))).await.expect(200);
    // Without its parameters the binding refuses everything.
    cluster.root(ask("DELETE", "/api/v1/namespaces/kube-public/configmaps/limits")).await.expect(200);
    let refused = post(&cluster, &named("d", json!({"n": "1"}))).await;
    refused.expect(422);
    assert!(message(&refused).ends_with("denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), "{}", message(&refused));
}

#[tokio::test]
async fn parameters_are_selected() {
    let cluster = Cluster::start().await;
    let mut limit = named("one", json!({"max": "3"}));
    limit["metadata"]["labels"] = json!({"limit": "y"});
    cluster.create("/api/v1/namespaces/kube-public/configmaps", &limit).await;
    limit["metadata"]["name"] = json!("two");
    limit["data"]["max"] = json!("5");
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "int(object.data.n) <= int(params.data.max)"}]});
    let binding = json!({"validationActions": ["Deny"], "paramRef": {"namespace": "kube-public",
        "selector": {"matchLabels": {"limit": "y"}}, "parameterNotFoundAction": "Allow"},
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}});
    configure(&cluster, "validating", "limit", spec, binding).await;
    cluster.create("/api/v1/namespaces/kube-public/configmaps", &limit).await;
    let refused = post(&cluster, &named("a", json!({"n": "4"}))).await;
    refused.expect(422);
    assert!(
        message(&refused)
            .ends_with("denied request: failed expression: int(object.data.n) <= int(params.data.max)"),
        "{}",
        message(&refused)
    );
    for name in ["one", "two"] {
        cluster
            .root(ask("DELETE", &format!("/api/v1/namespaces/kube-public/configmaps/{name}")))
            .await
            .expect(200);
    }
    post(&cluster, &named("a", json!({"n": "4"}))).await.expect(201);
}

#[tokio::test]
async fn a_policy_warns_and_asks_the_authorizer() {
    let cluster = Cluster::start().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('pods').namespace('default').check('create').allowed()", "message": "may not"},
        {"expression": "namespaceObject.metadata.name == 'default' && request.userInfo.username == 'nobody'", "message": "who are you"},
    ]});
    configure(&cluster, "validating", "warn", spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let answer = post(&cluster, &config_map("a")).await;
    answer.expect(201);
    assert_eq!(
        answer.headers["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn-b': who are you\""
    );
    assert_eq!(answer.headers.get_all("warning").iter().count(), 1);
}

#[tokio::test]
async fn an_expression_that_fails_counts_as_the_policy_says() {
    let cluster = Cluster::start().await;
    let spec = |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.data.missing == 'x'"}]});
    configure(&cluster, "validating", "ignore", spec("Ignore"), json!({"validationActions": ["Deny"]})).await;
    post(&cluster, &config_map("a")).await.expect(201);
    configure(&cluster, "validating", "fail", spec("Fail"), json!({"validationActions": ["Deny"]})).await;
    let refused = post(&cluster, &config_map("b")).await;
    refused.expect(422);
    assert!(
        message(&refused).ends_with(
            "denied request: expression 'object.data.missing == 'x'' resulted in error: no such key: missing"
        ),
        "{}",
        message(&refused)
    );
}

#[tokio::test]
async fn expressions_are_compiled_when_they_are_written() {
    let cluster = Cluster::start().await;
    let refused = |spec: Value| async {
        let mut spec = spec;
        spec["matchConstraints"] = constraints();
        let path = format!("{GROUP}/validatingadmissionpolicies");
        let answer =
            cluster.root(ask("POST", &path).json(&json!({"metadata": {"name": "p"}, "spec": spec}))).await;
        answer.expect(422);
        message(&answer)
    };
    let found = refused(json!({"validations": [{"expression": "object.x +"}]})).await;
    assert!(found.contains("spec.validations[0].expression: Invalid value: \"object.x +\": compilation failed: ERROR: <input>:1:"), "{found}");
    let found = refused(json!({"validations": [{"expression": "params.x == 1"}]})).await;
    assert!(found.contains("undeclared reference to 'params' (in container '')"), "{found}");
    let found = refused(json!({"validations": [{"expression": "variables.x == 1"}], "variables": [{"name": "y", "expression": "1"}]})).await;
    assert!(found.contains("undefined field 'x'"), "{found}");
    let found = refused(json!({"validations": [{"expression": "'text'"}]})).await;
    assert!(found.contains("must evaluate to bool"), "{found}");
}

#[tokio::test]
async fn expressions_ask_about_the_objects_that_are_selected() {
    let cluster = Cluster::start().await;
    // An agent lists the pods of its node alone.
    let node = "authorizer.serviceAccount('default', 'any')";
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('pods').fieldSelector('spec.nodeName=n1').check('list').allowed()"},
        {"expression": "!authorizer.group('').resource('pods').fieldSelector('spec.nodeName=n2').check('list').allowed()"},
        {"expression": "!authorizer.group('').resource('pods').labelSelector('a=b').check('list').allowed()"},
        {"expression": "!authorizer.group('').resource('pods').check('list').allowed()"},
        {"expression": format!("!{node}.group('').resource('pods').fieldSelector('spec.nodeName=n1').check('list').allowed()")},
    ]});
    let binding = json!({"validationActions": ["Deny"]});
    configure(&cluster, "validating", "agents", spec, binding).await;
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]});
    cluster.create(&format!("/apis/{rbac}/v1/clusterroles"), &role).await;
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "maps"},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": "makers"}]});
    cluster.create(&format!("/apis/{rbac}/v1/clusterrolebindings"), &binding).await;
    let as_node = |name: &str, node: &str| {
        let request = ask("POST", CONFIG_MAPS).json(&config_map(name)).header("impersonate-user", node);
        let request = request.header("impersonate-group", "system:nodes");
        cluster.root(request.header("impersonate-group", "makers"))
    };
    as_node("a", "system:node:n1").await.expect(201);
    as_node("b", "system:node:n2").await.expect(422);
}

#[tokio::test]
async fn a_mutating_policy_applies_and_patches() {
    let cluster = Cluster::start().await;
    let apply = json!({"reinvocationPolicy": "IfNeeded", "matchConditions": [{"name": "c", "expression": "request.operation == 'CREATE'"}],
        "variables": [{"name": "v", "expression": "object.metadata.name + '-v'"}],
        "mutations": [{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: Object.metadata.labels{made: variables.v}}}"}}]});
    configure(&cluster, "mutating", "apply", apply, json!({})).await;
    let patch = json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'test', path: '/data/k', value: 'v'}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a.b/c'), value: 'd'}]"}}]});
    configure(&cluster, "mutating", "patch", patch, json!({})).await;
    let object = post(&cluster, &config_map("x")).await.expect(201);
    assert_eq!(object["metadata"]["labels"], json!({"made": "x-v", "a.b/c": "d"}));
    // A test that fails means that there is nothing to do.
    let object = post(&cluster, &named("y", json!({"k": "w"}))).await.expect(201);
    assert_eq!(object["metadata"]["labels"], json!({"made": "y-v"}));
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/x"))).await.expect(200);
}

#[tokio::test]
async fn a_mutating_policy_may_not_replace_lists() {
    let cluster = Cluster::start().await;
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{metadata: Object.metadata{ownerReferences: [Object.metadata.ownerReferences{uid: 'u'}], finalizers: ['a/b']}, binaryData: {'x': 'eA=='}, spec: Object.spec{no: 1}}"}}]});
    configure(&cluster, "mutating", "odd", spec, json!({})).await;
    let refused = post(&cluster, &config_map("x")).await;
    refused.expect(403);
    let found = message(&refused);
    assert!(
        found.starts_with("policy 'odd' with binding 'odd-b' denied request: error applying patch: "),
        "{found}"
    );
}

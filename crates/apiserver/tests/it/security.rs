//! Who may ask what.

use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, Running, ask, config_map};

#[tokio::test]
async fn nobody_in_particular_sees_health_and_version_only() {
    let cluster = Cluster::start().await;
    for path in ["/livez", "/readyz?verbose", "/healthz", "/version"] {
        assert_eq!(cluster.send(ask("GET", path)).await.expect("answer").code, 200, "{path}");
    }
    for path in ["/api", "/metrics", "/openapi/v3", "/livez/ping"] {
        let answer = cluster.send(ask("GET", path)).await.expect("answer");
        let wanted = format!("forbidden: User \"system:anonymous\" cannot get path \"{path}\"");
        assert_eq!(answer.expect(403)["message"], wanted.as_str());
    }
    let answer = cluster.send(ask("GET", "/api/v1/secrets")).await.expect("answer");
    let wanted = "secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope";
    assert_eq!(answer.expect(403)["message"], wanted);
}

#[tokio::test]
async fn nobody_in_particular_may_be_kept_out() {
    let cluster = Cluster::start_with(|config| config.anonymous_auth = Some(false)).await;
    let answer = cluster.send(ask("GET", "/version")).await.expect("answer");
    assert_eq!(answer.expect(401)["message"], "Unauthorized");
}

async fn with_bootstrap_token(cluster: &Running) -> crate::cluster::Answer {
    let who = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").json(&json!({}));
    let who = who.header("authorization", "Bearer abcdef.0123456789abcdef");
    cluster.send(who).await.expect("answer")
}

#[tokio::test]
async fn a_machine_joins_with_a_bootstrap_token() {
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": {
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:nodes"}});
    let cluster = Cluster::start_with(|config| config.bootstrap_token_auth = true).await;
    cluster.create(secrets, &secret).await;
    let answer = with_bootstrap_token(&cluster).await.expect(201);
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "system:bootstrap:abcdef");
    assert_eq!(
        user["groups"],
        json!(["system:bootstrappers", "system:bootstrappers:nodes", "system:authenticated"])
    );
    cluster.root(ask("DELETE", &format!("{secrets}/bootstrap-token-abcdef"))).await.expect(200);
    assert_eq!(with_bootstrap_token(&cluster).await.code, 401);
    let other = Cluster::start().await;
    other.create(secrets, &secret).await;
    assert_eq!(with_bootstrap_token(&other).await.code, 401, "it is off by default");
}

#[tokio::test]
async fn a_certificate_names_user_and_groups() {
    let cluster = Cluster::start().await;
    let review = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").json(&json!({}));
    let answer = cluster.send_as(review, &cluster.admin).await.expect("answer").expect(201);
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "kubernetes-admin");
    assert_eq!(user["groups"], json!(["system:masters", "system:authenticated"]));
}

async fn account(cluster: &Running) -> String {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.create(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let request = json!({"spec": {"expirationSeconds": 1200}});
    let answer = cluster.create(&format!("{accounts}/robot/token"), &request).await;
    answer["status"]["token"].as_str().expect("token").to_owned()
}

async fn with_token(cluster: &Running, token: &str, method: &str, path: &str) -> crate::cluster::Answer {
    let ask = ask(method, path).header("authorization", &format!("Bearer {token}"));
    cluster.send(ask).await.expect("answer")
}

#[tokio::test]
async fn roles_decide_what_a_token_may() {
    let cluster = Cluster::start().await;
    let token = account(&cluster).await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let refused = with_token(&cluster, &token, "GET", &path).await.expect(403);
    assert_eq!(
        refused["message"],
        "configmaps \"a\" is forbidden: User \"system:serviceaccount:default:robot\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]});
    cluster.create(bindings, &binding).await;
    with_token(&cluster, &token, "GET", &path).await.expect(200);
    with_token(&cluster, &token, "DELETE", &path).await.expect(403);
    with_token(&cluster, &token, "GET", "/api/v1/namespaces/kube-system/configmaps").await.expect(403);
    cluster.root(ask("DELETE", &format!("{bindings}/b"))).await.expect(200);
    with_token(&cluster, &token, "GET", &path).await.expect(403);
    assert_eq!(with_token(&cluster, &format!("{token}x"), "GET", &path).await.code, 401);
}

#[tokio::test]
async fn a_token_dies_with_its_account() {
    let cluster = Cluster::start().await;
    let token = account(&cluster).await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": token}});
    let good = cluster.create(reviews, &review).await;
    assert_eq!(good["status"]["authenticated"], true);
    assert_eq!(good["status"]["user"]["username"], "system:serviceaccount:default:robot");
    cluster.root(ask("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot")).await.expect(200);
    let gone = cluster.create(reviews, &review).await;
    assert!(gone["status"].get("authenticated").is_none_or(|flag| flag == false), "{gone}");
    assert_eq!(with_token(&cluster, &token, "GET", "/api").await.code, 401);
}

#[tokio::test]
async fn impersonation_is_a_permission() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let asked = ask("GET", path).header("impersonate-user", "system:serviceaccount:default:robot");
    cluster.root(asked).await.expect(403);
    let jane = cluster.authority.issue("jane", None);
    let asked = ask("GET", path).header("impersonate-user", "kubernetes-admin");
    let refused = cluster.send_as(asked, &jane).await.expect("answer").expect(403);
    assert_eq!(
        refused["message"],
        "secrets is forbidden: User \"jane\" cannot impersonate-on:user-info:list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn access_reviews_agree_with_answers() {
    let cluster = Cluster::start().await;
    let ask_for = |user: &str| {
        json!({"spec": {"user": user, "groups": ["system:authenticated"],
            "resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "default"}}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let allowed = |review: &Value| review["status"]["allowed"] == true;
    assert!(!allowed(&cluster.create(reviews, &ask_for("jane")).await));
    assert!(allowed(&cluster.create(reviews, &ask_for("system:kube-controller-manager")).await));
    let own = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    assert!(allowed(&cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &own).await));
}

#[tokio::test]
async fn a_node_sees_its_own() {
    let cluster = Cluster::start().await;
    let node = cluster.authority.issue("system:node:n1", Some("system:nodes"));
    let send = |asked| cluster.send_as(asked, &node);
    let make = |name: &str| ask("POST", "/api/v1/nodes").json(&json!({"metadata": {"name": name}}));
    send(make("n1")).await.expect("answer").expect(201);
    send(make("n2")).await.expect("answer").expect(403);
    send(ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")).await.expect("answer").expect(200);
    send(ask("GET", "/api/v1/pods")).await.expect("answer").expect(403);
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.create(secrets, &json!({"metadata": {"name": "s"}})).await;
    send(ask("GET", &format!("{secrets}/s"))).await.expect("answer").expect(403);
    cluster
        .create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
    cluster.create("/api/v1/namespaces/default/pods", &pod).await;
    send(ask("GET", &format!("{secrets}/s"))).await.expect("answer").expect(200);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let cluster = Cluster::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "makes-roles"}, "rules": [
        {"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    cluster.create(&format!("{rbac}/clusterroles"), &role).await;
    let binding = json!({"metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "makes-roles"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create(&format!("{rbac}/clusterrolebindings"), &binding).await;
    let jane = cluster.authority.issue("jane", None);
    let (cluster, jane, rbac) = (&cluster, &jane, rbac);
    let make = |name: &str, verb: &str| {
        let role = json!({"metadata": {"name": name}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
        cluster.send_as(ask("POST", &format!("{rbac}/clusterroles")).json(&role), jane)
    };
    make("less", "get").await.expect("answer").expect(201);
    let refused = make("more", "delete").await.expect("answer").expect(403);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("not currently held")), "{refused}");
}

#[tokio::test]
async fn a_token_in_a_secret_lasts_as_long_as_its_secret() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = cluster.create(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let uid = account["metadata"]["uid"].as_str().expect("a UID");
    let token = cluster.sign_secret_token(["default", "robot", uid, "robot-token"]);
    assert_eq!(with_token(&cluster, &token, "GET", "/api").await.code, 401, "no Secret holds it");
    let secret = json!({"metadata": {"name": "robot-token", "annotations": {
        "kubernetes.io/service-account.name": "robot", "kubernetes.io/service-account.uid": uid}},
        "type": "kubernetes.io/service-account-token", "stringData": {"token": token}});
    cluster.create(secrets, &secret).await;
    with_token(&cluster, &token, "GET", "/api").await.expect(200);
    cluster.root(ask("DELETE", &format!("{secrets}/robot-token"))).await.expect(200);
    assert_eq!(with_token(&cluster, &token, "GET", "/api").await.code, 401);
}

//! Those who pretend to be somebody else, or take more than they were given: certificates, tokens, impersonation, roles,
//! agents of nodes. `docs/security.md` is the table that these tests are named in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use serde_json::{Value, json};

use crate::cluster::{
    Answer, Ask, Authority, CONFIG_MAPS, Cluster, Keyed, Running, ask, config_map, eventually,
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn as_user(cluster: &Running, asked: Ask, keyed: &Keyed) -> Answer {
    cluster.send_as(asked, keyed).await.expect("answer")
}

async fn with_token(cluster: &Running, token: &str) -> Answer {
    let asked = ask("POST", WHO).json(&json!({})).header("authorization", &format!("Bearer {token}"));
    cluster.send(asked).await.expect("answer")
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

/// A user who may do what the rules of a cluster role say.
async fn user(cluster: &Running, name: &str, rules: Value) -> Keyed {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    cluster.create(&format!("{RBAC}/clusterroles"), &role).await;
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create(&format!("{RBAC}/clusterrolebindings"), &binding).await;
    cluster.authority.issue(name, None)
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_no_credential_and_nobodys() {
    let cluster = Cluster::start().await;
    let issue = |adjust: fn(&mut rcgen::CertificateParams)| {
        cluster.authority.issue_with("kubernetes-admin", Some("system:masters"), adjust)
    };
    let bad = [
        ("expired", issue(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))),
        ("not valid yet", issue(|params| params.not_before = rcgen::date_time_ymd(2100, 1, 1))),
        ("of a server", issue(|params| params.extended_key_usages = vec![ServerAuth])),
        ("of another authority", Authority::new().issue("kubernetes-admin", Some("system:masters"))),
    ];
    let token = token_of(&cluster, "robot", json!({})).await;
    for (which, keyed) in &bad {
        // Not even what anybody may see.
        for path in ["/version", "/api/v1/secrets", "/livez"] {
            let answer = as_user(&cluster, ask("GET", path), keyed).await.expect(401);
            assert_eq!(
                (&answer["message"], &answer["reason"]),
                (&json!("Unauthorized"), &json!("Unauthorized")),
                "{which}"
            );
        }
        // Another credential is one.
        let both = ask("POST", WHO).json(&json!({})).header("authorization", &format!("Bearer {token}"));
        let who = as_user(&cluster, both, keyed).await.expect(201);
        assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:robot", "{which}");
    }
}

/// A token of a service account, which is made.
async fn token_of(cluster: &Running, name: &str, spec: Value) -> String {
    let made = cluster.root(ask("POST", ACCOUNTS).json(&json!({"metadata": {"name": name}}))).await;
    assert!(matches!(made.code, 201 | 409), "{}", made.text());
    let answer = cluster.create(&format!("{ACCOUNTS}/{name}/token"), &json!({"spec": spec})).await;
    answer["status"]["token"].as_str().expect("token").to_owned()
}

#[tokio::test]
async fn a_forged_token_is_nobodys() {
    let cluster = Cluster::start().await;
    let token = token_of(&cluster, "robot", json!({})).await;
    with_token(&cluster, &token).await.expect(201);
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts.as_slice() else { panic!("three parts") };
    let decode = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("json")
    };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let changed = |part: &str, field: &str, value: Value| {
        let mut object = decode(part);
        object[field] = value;
        encode(&object)
    };
    let other = changed(claims, "sub", json!("system:serviceaccount:kube-system:default"));
    let later = changed(claims, "exp", json!(9_999_999_999_u64));
    let secret = changed(claims, "iss", json!("kubernetes/serviceaccount"));
    let none = encode(&json!({"alg": "none", "typ": "JWT"}));
    // With the public key for a secret that both sides know.
    let shared = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        &decode(claims),
        &jsonwebtoken::EncodingKey::from_secret(&cluster.keys.public_keys[0]),
    );
    let forged = [
        format!("{head}.{other}.{signature}"),
        format!("{head}.{later}.{signature}"),
        format!("{head}.{secret}.{signature}"),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{}.{claims}.{signature}", changed(head, "alg", json!("HS256"))),
        format!("{}.{claims}.{signature}", changed(head, "alg", json!("PS256"))),
        shared.expect("signed"),
        format!("{head}.{claims}."),
        format!("{head}.{claims}"),
        format!("{head}..{signature}"),
        "..".to_owned(),
        "x".repeat(30_000),
    ];
    for token in &forged {
        let answer = with_token(&cluster, token).await;
        assert_eq!((answer.code, message(&answer).as_str()), (401, "Unauthorized"), "{token}");
    }
    with_token(&cluster, &token).await.expect(201);
    // Letters that are no text are a bad token too, not none.
    let odd = ask("GET", "/version").header("authorization", "Bearer \u{fffd}");
    assert_eq!(cluster.send(odd).await.expect("answer").code, 401);
}

#[tokio::test]
async fn a_token_lives_no_longer_than_what_it_is_bound_to() {
    let cluster = Cluster::start().await;
    cluster.create(ACCOUNTS, &json!({"metadata": {"name": "robot"}})).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]}});
    let objects = [
        ("Pod", PODS, pod),
        ("Secret", secrets, json!({"metadata": {"name": "p"}})),
        ("Node", "/api/v1/nodes", json!({"metadata": {"name": "p"}})),
    ];
    for (kind, path, object) in objects {
        cluster.create(path, &object).await;
        let token = token_of(&cluster, "robot", bound(kind, "p")).await;
        with_token(&cluster, &token).await.expect(201);
        cluster.root(ask("DELETE", &format!("{path}/p?gracePeriodSeconds=0"))).await.expect(200);
        assert_eq!(with_token(&cluster, &token).await.code, 401, "{kind} is gone");
        cluster.create(path, &object).await;
        assert_eq!(with_token(&cluster, &token).await.code, 401, "another {kind} of that name");
    }
    // An object that is only held back is gone for its tokens a minute after it was deleted.
    let held = json!({"metadata": {"name": "held", "finalizers": ["a.b/c"]}});
    cluster.create(secrets, &held).await;
    let token = token_of(&cluster, "robot", bound("Secret", "held")).await;
    cluster.root(ask("DELETE", &format!("{secrets}/held"))).await.expect(200);
    with_token(&cluster, &token).await.expect(201);
    let key = "/registry/secrets/default/held";
    let kv = cluster.store.view().get(key.as_bytes()).expect("readable").expect("there");
    let mut older = api_types::codec::from_stored(&kv.value, 0).expect("readable");
    older["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    let kind = api_types::schema::lookup("", "v1", "Secret").expect("known");
    let value = api_types::codec::to_stored(kind, "v1", "Secret", &older).expect("stored");
    let put = mvcc::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    let txn = mvcc::Txn { success: vec![mvcc::Op::Put(put)], ..mvcc::Txn::default() };
    cluster.store.propose(mvcc::Command::Txn(txn)).await.expect("written");
    eventually("the token's end", || async {
        (with_token(&cluster, &token).await.code == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_for_its_audience() {
    let cluster = Cluster::start().await;
    let token = token_of(&cluster, "robot", json!({"audiences": ["vault"]})).await;
    assert_eq!(with_token(&cluster, &token).await.code, 401);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = |audiences: Value| json!({"spec": {"token": token, "audiences": audiences}});
    let good = cluster.create(reviews, &review(json!(["vault", "other"]))).await;
    assert_eq!(
        (&good["status"]["authenticated"], &good["status"]["audiences"]),
        (&json!(true), &json!(["vault"]))
    );
    for audiences in [json!(["other"]), json!([])] {
        let bad = cluster.create(reviews, &review(audiences)).await;
        assert_ne!(bad["status"]["authenticated"], true, "{bad}");
    }
}

#[tokio::test]
async fn who_is_impersonated_is_who_acts() {
    let cluster = Cluster::start().await;
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["jürgen", "system:serviceaccount:a:b:c"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["Köln"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/acme.com/project"], "resourceNames": ["x"]},
        {"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"]}]);
    let proxy = user(&cluster, "proxy", rules).await;
    let who = || ask("POST", WHO).json(&json!({}));
    let send = |asked| as_user(&cluster, asked, &proxy);
    let user_of = |answer: Answer| answer.expect(201)["status"]["userInfo"].clone();
    // A name in other letters is a name: the request must not go on as the proxy's own.
    let asked = who().header("impersonate-user", "jürgen").header("impersonate-group", "Köln");
    let found = user_of(send(asked.header("impersonate-extra-acme.com%2fproject", "x")).await);
    assert_eq!(
        (&found["username"], &found["groups"]),
        (&json!("jürgen"), &json!(["Köln", "system:authenticated"]))
    );
    assert_eq!(found["extra"], json!({"acme.com/project": ["x"]}));
    let secrets = ask("GET", "/api/v1/secrets").header("impersonate-user", "jürgen");
    let refused = send(secrets).await;
    refused.expect(403);
    assert!(message(&refused).contains("User \"jürgen\" cannot list"), "{}", message(&refused));
    // What looks like an account and can be none is a user.
    let odd = user_of(send(who().header("impersonate-user", "system:serviceaccount:a:b:c")).await);
    assert_eq!(odd["groups"], json!(["system:authenticated"]));
    let account = user_of(send(who().header("impersonate-user", "system:serviceaccount:a:b")).await);
    assert_eq!(
        account["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"])
    );
    // Each part is a right of its own.
    let parts: [(&'static str, &str, &str); 4] = [
        ("impersonate-group", "system:masters", "groups"),
        ("impersonate-uid", "u", "uids"),
        ("impersonate-extra-scopes", "s", "userextras/scopes"),
        ("impersonate-extra-acme.com%2fproject", "y", "userextras/acme.com/project"),
    ];
    for (header, value, resource) in parts {
        let answer = send(who().header("impersonate-user", "jürgen").header(header, value)).await;
        answer.expect(403);
        let why = format!("cannot impersonate resource \"{resource}\"");
        assert!(message(&answer).contains(&why), "{}", message(&answer));
        let alone = send(who().header(header, value)).await;
        alone.expect(400);
        assert!(message(&alone).ends_with(" without impersonating a user name"), "{}", message(&alone));
    }
}

#[tokio::test]
async fn constrained_impersonation_is_of_some_for_some_requests() {
    let cluster = Cluster::start().await;
    let part = |verb: &str, resource: &str, name: &str| json!({"verbs": [verb], "apiGroups": ["authentication.k8s.io"], "resources": [resource], "resourceNames": [name]});
    let request =
        |verb: &str, resource: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": [resource]});
    let rules = json!([
        part("impersonate:user-info", "users", "jane"),
        part("impersonate:user-info", "groups", "devs"),
        part("impersonate:user-info", "groups", "system:masters"),
        part("impersonate:arbitrary-node", "nodes", "n1"),
        request("impersonate-on:user-info:list", "configmaps"),
        request("impersonate-on:user-info:list", "secrets"),
        request("impersonate-on:arbitrary-node:get", "nodes"),
    ]);
    let proxy = user(&cluster, "proxy", rules).await;
    let jane = json!([{"verbs": ["list", "create"], "apiGroups": [""], "resources": ["configmaps"]}]);
    user(&cluster, "jane", jane).await;
    cluster.create("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let as_user_of =
        |asked: Ask, name: &str| as_user(&cluster, asked.header("impersonate-user", name), &proxy);
    as_user_of(ask("GET", CONFIG_MAPS), "jane").await.expect(200);
    as_user_of(ask("GET", CONFIG_MAPS).header("impersonate-group", "devs"), "jane").await.expect(200);
    as_user_of(ask("GET", "/api/v1/nodes/n1"), "system:node:n1").await.expect(200);
    let secrets = "/api/v1/namespaces/default/secrets";
    // It may be asked in her name, and she may not.
    let refused = as_user_of(ask("GET", secrets), "jane").await;
    refused.expect(403);
    let why = "User \"jane\" cannot list resource \"secrets\"";
    assert!(message(&refused).contains(why), "{}", message(&refused));
    // She may, and it may not be done in her name.
    let asked = ask("POST", CONFIG_MAPS).json(&config_map("a"));
    let refused = as_user_of(asked, "jane").await;
    refused.expect(403);
    let why = "User \"proxy\" cannot impersonate-on:user-info:create resource \"configmaps\"";
    assert!(message(&refused).contains(why), "{}", message(&refused));
    let refused = as_user_of(ask("GET", CONFIG_MAPS), "joe").await;
    refused.expect(403);
    let why = "users.authentication.k8s.io \"joe\" is forbidden: User \"proxy\" cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(message(&refused), why);
    let asked = ask("GET", CONFIG_MAPS).header("impersonate-group", "system:masters");
    let refused = as_user_of(asked, "jane").await;
    refused.expect(403);
    let why = "impersonating the system:masters group is not allowed";
    assert!(message(&refused).ends_with(why), "{}", message(&refused));
    as_user_of(ask("GET", "/api/v1/nodes/n1"), "system:node:n2").await.expect(403);
}

/// What a kube-apiserver 1.37.2 says.
#[tokio::test]
async fn impersonation_is_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    let any = user(&cluster, "ann", json!([])).await;
    let parts = json!({"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["*"]});
    let lists =
        json!({"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["configmaps"]});
    let some = user(&cluster, "ben", json!([parts, lists])).await;
    let maps = "resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    let part = |resource: &str, why: &str| {
        format!("{resource} in API group \"authentication.k8s.io\" at the cluster scope: impersonating {why}")
    };
    let group = "impersonate-group";
    let group_part = "User \"ben\" cannot impersonate:user-info resource \"groups\"";
    let extra_part = "User \"ben\" cannot impersonate:user-info resource \"userextras\"";
    let invalid =
        |key: &str| format!("an invalid key in extra is not allowed: extra.key: Invalid value: {key}");
    for (who, name, more, path, why) in [
        (&any, "joe", None, CONFIG_MAPS, format!("configmaps is forbidden: User \"ann\" cannot impersonate-on:user-info:list {maps}")),
        (&any, "system:node:n1", None, CONFIG_MAPS, format!("configmaps is forbidden: User \"ann\" cannot impersonate-on:arbitrary-node:list {maps}")),
        (&any, "system:serviceaccount:a:b", None, CONFIG_MAPS, format!("configmaps is forbidden: User \"ann\" cannot impersonate-on:serviceaccount:list {maps}")),
        (&any, "system:serviceaccount:a:b", Some((group, "g")), CONFIG_MAPS, "serviceaccounts \"b\" is forbidden: User \"ann\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"a\"".to_owned()),
        (&any, "joe", None, "/version", "forbidden: User \"ann\" cannot impersonate-on:user-info:get path \"/version\"".to_owned()),
        (&some, "joe", None, CONFIG_MAPS, format!("configmaps is forbidden: User \"joe\" cannot list {maps}")),
        (&some, "joe", Some((group, "system:masters")), CONFIG_MAPS, format!("groups.authentication.k8s.io \"system:masters\" is forbidden: {}", part(group_part, "the system:masters group is not allowed"))),
        (&some, "joe", Some((group, "")), CONFIG_MAPS, format!("groups.authentication.k8s.io is forbidden: {}", part(group_part, "the empty string group is not allowed"))),
        (&some, "joe", Some(("impersonate-extra-scopes", "a")), CONFIG_MAPS, format!("userextras.authentication.k8s.io is forbidden: {}", part(extra_part, &invalid("\"scopes\": must be a domain-prefixed path (such as \"acme.io/foo\")")))),
        (&some, "joe", Some(("impersonate-extra-a.b%2fc%20d", "a")), CONFIG_MAPS, format!("userextras.authentication.k8s.io is forbidden: {}", part(extra_part, &invalid("\"c d\": Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')")))),
    ] {
        let mut asked = ask("GET", path).header("impersonate-user", name);
        if let Some((header, value)) = more {
            asked = asked.header(header, value);
        }
        let refused = as_user(&cluster, asked, who).await;
        refused.expect(403);
        assert_eq!(message(&refused), why, "{name} {more:?}");
    }
    for (name, groups) in [
        ("system:node:n1", json!(["system:nodes", "system:authenticated"])),
        (
            "system:serviceaccount:a:b",
            json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]),
        ),
    ] {
        let asked = ask("POST", WHO).json(&json!({})).header("impersonate-user", name);
        assert_eq!(cluster.root(asked).await.expect(201)["status"]["userInfo"]["groups"], groups, "{name}");
    }
}

#[tokio::test]
async fn roles_give_no_more_than_their_writer_has() {
    let cluster = Cluster::start().await;
    let rbac = "rbac.authorization.k8s.io";
    let rules = json!([
        {"verbs": ["create", "update", "patch", "get"], "apiGroups": [rbac], "resources": ["clusterroles", "clusterrolebindings", "roles", "rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": [""]}]);
    let jane = user(&cluster, "jane", rules).await;
    let send = |asked| as_user(&cluster, asked, &jane);
    let roles = format!("{RBAC}/clusterroles");
    let merge = |path: String, patch: Value| {
        ask("PATCH", &path).body("application/merge-patch+json", patch.to_string())
    };
    let full = "clusterroles.rbac.authorization.k8s.io \"jane\" is forbidden: must have cluster-admin privileges to use the aggregationRule";
    // Her own role collects nothing for her.
    let everything = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}]}});
    let aggregated = send(merge(format!("{roles}/jane"), everything.clone())).await;
    aggregated.expect(403);
    assert_eq!(message(&aggregated), full);
    let mut new = everything;
    new["metadata"] = json!({"name": "jane"});
    send(ask("POST", &roles).json(&new)).await.expect(403);
    // Nor can she lend others' rules by a label.
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let labelled = send(merge(format!("{roles}/cluster-admin"), label)).await;
    labelled.expect(403);
    assert!(message(&labelled).contains("is attempting to grant RBAC permissions not currently held:\n{"));
    let secrets = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]);
    let named = send(ask("POST", &roles).json(&json!({"metadata": {"name": "all"}, "rules": secrets}))).await;
    named.expect(403);
    assert_eq!(
        message(&named),
        "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    // A binding to what is not there yet would give what somebody else puts there.
    let binding = |kind: &str, name: &str| {
        json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": rbac, "kind": kind, "name": name},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": rbac}]})
    };
    let bindings = format!("{RBAC}/clusterrolebindings");
    let missing = send(ask("POST", &bindings).json(&binding("ClusterRole", "later"))).await;
    missing.expect(404);
    assert_eq!(message(&missing), "clusterrolebindings.rbac.authorization.k8s.io \"later\" not found");
    let namespaced = format!("{RBAC}/namespaces/default/rolebindings");
    let missing = send(ask("POST", &namespaced).json(&binding("Role", "later"))).await;
    missing.expect(404);
    assert_eq!(message(&missing), "rolebindings.rbac.authorization.k8s.io \"later\" not found");
    send(ask("POST", &namespaced).json(&binding("ClusterRole", "cluster-admin"))).await.expect(403);
    // What is hers she may give, and what is to be deleted she may let go.
    let less = json!({"metadata": {"name": "less"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    send(ask("POST", &roles).json(&less)).await.expect(201);
    send(ask("POST", &bindings).json(&binding("ClusterRole", "less"))).await.expect(201);
    let finalizers = json!({"metadata": {"finalizers": ["a.b/c"]}});
    send(merge(format!("{roles}/view"), finalizers)).await.expect(200);
    // Rules that multiply themselves are not multiplied out.
    let many = |what: &str| (0..500).map(|number| format!("{what}{number}")).collect::<Vec<_>>();
    let bomb = json!({"metadata": {"name": "bomb"}, "rules": [{"verbs": many("v"), "apiGroups": many("g"), "resources": many("r")}]});
    let bomb = send(ask("POST", &roles).json(&bomb)).await;
    bomb.expect(403);
    assert!(message(&bomb).contains("more than 1000000 combinations"), "{}", message(&bomb));
}

#[tokio::test]
async fn an_agent_sees_and_does_what_its_node_needs() {
    let cluster = Cluster::start().await;
    let agent = cluster.authority.issue("system:node:n1", Some("system:nodes"));
    let nameless = cluster.authority.issue("system:node:", Some("system:nodes"));
    for node in ["n1", "n2"] {
        cluster.create("/api/v1/nodes", &json!({"metadata": {"name": node}})).await;
        let lease = json!({"metadata": {"name": node}, "spec": {}});
        cluster.create("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &lease).await;
        cluster
            .create(
                "/apis/storage.k8s.io/v1/csinodes",
                &json!({"metadata": {"name": node}, "spec": {"drivers": []}}),
            )
            .await;
        cluster.create(CONFIG_MAPS, &config_map(node)).await;
    }
    cluster.create(ACCOUNTS, &json!({"metadata": {"name": "default"}})).await;
    for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "configMap": {"name": node}}, {"name": "d", "persistentVolumeClaim": {"claimName": name}}]});
        cluster.create(PODS, &json!({"metadata": {"name": name}, "spec": spec})).await;
        let volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/tmp"}, "claimRef": {"namespace": "default", "name": name}}});
        cluster.create("/api/v1/persistentvolumes", &volume).await;
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let may = [
        ("GET", format!("{PODS}/mine")),
        ("GET", format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")),
        ("GET", "/api/v1/pods?watch=1&timeoutSeconds=1&fieldSelector=spec.nodeName%3Dn1".to_owned()),
        ("GET", format!("{CONFIG_MAPS}/n1")),
        ("GET", format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dn1")),
        ("GET", "/api/v1/persistentvolumes/mine".to_owned()),
        ("GET", format!("{leases}/n1")),
        ("GET", "/apis/storage.k8s.io/v1/csinodes/n1".to_owned()),
        ("GET", "/api/v1/services".to_owned()),
    ];
    for (method, path) in may {
        assert_eq!(as_user(&cluster, ask(method, &path), &agent).await.code, 200, "{path}");
    }
    let may_not = [
        ("GET", format!("{PODS}/theirs")),
        ("GET", "/api/v1/pods".to_owned()),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned()),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn1".to_owned()),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName".to_owned()),
        ("GET", "/api/v1/pods?labelSelector=spec.nodeName%3Dn1".to_owned()),
        ("DELETE", format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")),
        ("DELETE", format!("{PODS}/theirs")),
        ("GET", format!("{PODS}/mine/log")),
        ("GET", format!("{CONFIG_MAPS}/n2")),
        ("GET", CONFIG_MAPS.to_owned()),
        ("DELETE", format!("{CONFIG_MAPS}/n1")),
        ("GET", "/api/v1/persistentvolumes/theirs".to_owned()),
        ("GET", "/api/v1/persistentvolumes".to_owned()),
        ("GET", format!("{leases}/n2")),
        ("GET", leases.to_owned()),
        ("DELETE", format!("{leases}/n2")),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler".to_owned()),
        ("GET", "/apis/storage.k8s.io/v1/csinodes/n2".to_owned()),
        ("GET", "/apis/resource.k8s.io/v1/resourceslices".to_owned()),
        ("DELETE", "/api/v1/nodes/n1".to_owned()),
        ("GET", "/api/v1/namespaces/default/secrets".to_owned()),
    ];
    for (method, path) in &may_not {
        let answer = as_user(&cluster, ask(method, path), &agent).await;
        assert_eq!(answer.code, 403, "{method} {path}: {}", answer.text());
        assert_eq!(as_user(&cluster, ask(method, path), &nameless).await.code, 403, "{method} {path}");
    }
    // Deleting itself by way of an owner that is not there (CVE-2025-5187), and others' nodes.
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "u"}]}});
    for node in ["n1", "n2"] {
        let patch = ask("PATCH", &format!("/api/v1/nodes/{node}"))
            .body("application/merge-patch+json", owner.to_string());
        assert_eq!(as_user(&cluster, patch, &agent).await.code, 403, "{node}");
    }
    // A pod of its own that takes resources of claims (CVE-2025-4563), or refers to anything.
    let mirror = |spec: Value| {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        let owner =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true}]);
        json!({"metadata": {"name": "static-n1", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": owner}, "spec": spec})
    };
    for spec in [
        json!({"resourceClaims": [{"name": "r", "resourceClaimName": "c"}]}),
        json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        json!({"serviceAccountName": "default"}),
        json!({"imagePullSecrets": [{"name": "s"}]}),
    ] {
        let answer = as_user(&cluster, ask("POST", PODS).json(&mirror(spec.clone())), &agent).await;
        assert_eq!(answer.code, 403, "{spec}: {}", answer.text());
    }
    // Others may not make such pods refer to secrets either.
    let secret = mirror(json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}));
    let refused = cluster.root(ask("POST", PODS).json(&secret)).await;
    refused.expect(403);
    assert_eq!(message(&refused), "pods \"static-n1\" is forbidden: a mirror pod may not reference secrets");
}

#[tokio::test]
async fn reviews_count_the_selectors() {
    let cluster = Cluster::start().await;
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    cluster.create("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let review = |selector: Value| {
        json!({"spec": {"user": "system:node:n1", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "list", "resource": "pods", "version": "v1", "fieldSelector": selector}}})
    };
    let listed = |operator: &str, value: &str| json!({"requirements": [{"key": "spec.nodeName", "operator": operator, "values": [value]}]});
    for (selector, allowed) in [
        (json!({"rawSelector": "spec.nodeName=n1"}), true),
        (json!({"rawSelector": "spec.nodeName=n2"}), false),
        (listed("In", "n1"), true),
        (listed("NotIn", "n1"), false),
        (Value::Null, false),
    ] {
        let answer = cluster.create(reviews, &review(selector.clone())).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{selector}");
        assert!(answer["status"].get("evaluationError").is_none());
    }
    let unknown = json!({"requirements": [{"key": "spec.nodeName", "operator": "Near", "values": ["n1"]}]});
    let answer = cluster.create(reviews, &review(unknown)).await;
    assert_eq!(answer["status"]["allowed"], false);
    assert_eq!(
        answer["status"]["evaluationError"],
        "spec.resourceAttributes.fieldSelector ignored due to parse error"
    );
    let both =
        json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In", "values": ["b"]}]});
    let refused = cluster.root(ask("POST", reviews).json(&review(both))).await;
    refused.expect(422);
    assert!(
        message(&refused).contains("may not specified at the same time as requirements"),
        "{}",
        message(&refused)
    );
}

#[tokio::test]
async fn an_account_may_limit_the_secrets_of_its_pods() {
    let cluster = Cluster::start().await;
    let annotations = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    let account =
        json!({"metadata": {"name": "default", "annotations": annotations}, "secrets": [{"name": "own"}]});
    cluster.create(ACCOUNTS, &account).await;
    let end = "is not allowed because service account default does not reference that secret";
    let pod = |container: Value, volumes: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "volumes": volumes}});
    let container = |extra: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        if let (Some(object), Value::Object(extra)) = (container.as_object_mut(), extra) {
            object.extend(extra);
        }
        container
    };
    let from = |name: &str| json!([{"secretRef": {"name": name}}]);
    for (object, why) in [
        (
            pod(container(json!({})), json!([{"name": "v", "secret": {"secretName": "x"}}])),
            format!("volume with secret.secretName=\"x\" {end}"),
        ),
        (
            pod(container(json!({"envFrom": from("x")})), json!([])),
            format!("container c with envFrom referencing secret.secretName=\"x\" {end}"),
        ),
    ] {
        let refused = cluster.root(ask("POST", PODS).json(&object)).await;
        refused.expect(403);
        assert_eq!(message(&refused), format!("pods \"p\" is forbidden: {why}"));
    }
    let good = pod(
        container(json!({"envFrom": from("own")})),
        json!([{"name": "v", "secret": {"secretName": "own"}}]),
    );
    cluster.create(PODS, &good).await;
    // Nor by a container that comes later (CVE-2023-2728).
    let debug = |name: &str| {
        let patch =
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "envFrom": from(name)}]}});
        ask("PATCH", &format!("{PODS}/p/ephemeralcontainers"))
            .body("application/strategic-merge-patch+json", patch.to_string())
    };
    let refused = cluster.root(debug("x")).await;
    refused.expect(403);
    assert_eq!(
        message(&refused),
        format!(
            "pods \"p\" is forbidden: ephemeral container e with envFrom referencing secret.secretName=\"x\" {end}"
        )
    );
    cluster.root(debug("own")).await.expect(200);
}

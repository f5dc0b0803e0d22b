//! Requests that a proxy passes on, and certificates that are not believed.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::RequestHeaderConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Answer, Ask, Authority, Cluster, Keyed, Running, ask, eventually};

const CONFIG_MAP: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// A cluster that believes one proxy, its authority, and the file that names it.
struct Fronted {
    cluster: Running,
    authority: Authority,
    file: PathBuf,
    _folder: TempDir,
}

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn request_header(file: PathBuf) -> RequestHeaderConfig {
    RequestHeaderConfig {
        client_ca_file: Some(file),
        allowed_names: list(&["front-proxy-client"]),
        username_headers: list(&["X-Remote-User"]),
        uid_headers: list(&["X-Remote-Uid"]),
        group_headers: list(&["X-Remote-Group"]),
        extra_headers_prefix: list(&["X-Remote-Extra-"]),
    }
}

async fn fronted() -> Fronted {
    let folder = tempfile::tempdir().expect("folder");
    let (authority, file) = (Authority::named("front-proxy-ca"), folder.path().join("front-proxy-ca.crt"));
    std::fs::write(&file, &authority.certificate).expect("written");
    let cluster = Cluster::start_with(|config| {
        config.request_header = request_header(file.clone());
        config.reload_interval = Duration::from_millis(20);
    })
    .await;
    Fronted { cluster, authority, file, _folder: folder }
}

fn who() -> Ask {
    ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").json(&json!({}))
}

fn ann() -> Ask {
    let who = who().header("x-remote-user", "ann").header("x-remote-uid", "7").header("x-remote-group", "a");
    who.header("x-remote-group", "b").header("x-remote-extra-example.com%2fscope", "all")
}

async fn send(cluster: &Running, ask: Ask, keyed: &Keyed) -> Answer {
    cluster.send_as(ask, keyed).await.expect("answer")
}

fn user(answer: &Answer) -> Value {
    answer.expect(201)["status"]["userInfo"].clone()
}

#[tokio::test]
async fn a_proxy_says_whose_requests_it_passes_on() {
    let fronted = fronted().await;
    let proxy = fronted.authority.issue("front-proxy-client", None);
    let found = user(&send(&fronted.cluster, ann(), &proxy).await);
    let wanted = json!({"username": "ann", "uid": "7", "groups": ["a", "b", "system:authenticated"],
        "extra": {"example.com/scope": ["all"]}});
    assert_eq!(found, wanted);
    let root = who().header("x-remote-user", "root").header("x-remote-group", "system:masters");
    assert_eq!(user(&send(&fronted.cluster, root, &proxy).await)["groups"][0], "system:masters");
}

#[tokio::test]
async fn nobody_else_says_whose_a_request_is() {
    let fronted = fronted().await;
    let (cluster, authority) = (&fronted.cluster, &fronted.authority);
    let answer = cluster.send(ann()).await.expect("answer");
    assert!(answer.expect(403)["message"].as_str().is_some_and(|text| text.contains("system:anonymous")));
    for own in ["jane", "front-proxy-client"] {
        let keyed = cluster.authority.issue(own, None);
        assert_eq!(user(&send(cluster, ann(), &keyed).await)["username"], own);
    }
    let others = [
        authority.issue("another-proxy", None),
        authority.issue_expired("front-proxy-client"),
        Authority::named("front-proxy-ca").issue("front-proxy-client", None),
        cluster.authority.issue_expired("jane"),
    ];
    for keyed in others {
        assert_eq!(send(cluster, ann(), &keyed).await.expect(401)["message"], "Unauthorized");
    }
    let silent = authority.issue("front-proxy-client", None);
    send(cluster, who(), &silent).await.expect(401);
    send(cluster, who().header("x-remote-group", "system:masters"), &silent).await.expect(401);
}

#[tokio::test]
async fn a_token_counts_beside_a_certificate_that_does_not() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.create(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let request = json!({"spec": {"expirationSeconds": 1200}});
    let answer = cluster.create(&format!("{accounts}/robot/token"), &request).await;
    let token = answer["status"]["token"].as_str().expect("token");
    let stranger = Authority::named("strangers").issue("jane", None);
    let asked = who().header("authorization", &format!("Bearer {token}"));
    let found = user(&send(&cluster, asked, &stranger).await);
    assert_eq!(found["username"], "system:serviceaccount:default:robot");
    send(&cluster, who(), &stranger).await.expect(401);
}

#[tokio::test]
async fn a_certificate_may_hold_a_uid() {
    let cluster = Cluster::start().await;
    let found = user(&send(&cluster, who(), &cluster.authority.issue_with_uid("jane", "u-1")).await);
    assert_eq!((&found["username"], &found["uid"]), (&json!("jane"), &json!("u-1")));
    let id = &found["extra"]["authentication.kubernetes.io/credential-id"][0];
    assert!(id.as_str().is_some_and(|id| id.starts_with("X509SHA256=") && id.len() == 75), "{found}");
    send(&cluster, who(), &cluster.authority.issue_with_uid("jane", "")).await.expect(401);
}

#[tokio::test]
async fn extension_servers_read_what_to_believe() {
    let fronted = fronted().await;
    let cluster = &fronted.cluster;
    let read = || async { cluster.root(ask("GET", CONFIG_MAP)).await };
    let data = read().await.expect(200)["data"].clone();
    assert_eq!(data["client-ca-file"], cluster.authority.certificate.replace('\r', "").as_str());
    assert_eq!(
        data["requestheader-client-ca-file"],
        fronted.authority.certificate.replace('\r', "").as_str()
    );
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-uid-headers"], "[\"X-Remote-Uid\"]");
    cluster.root(ask("DELETE", CONFIG_MAP)).await.expect(200);
    eventually("the object made again", || async {
        Some(read().await).filter(|answer| answer.code == 200 && answer.json()["data"] == data)
    })
    .await;
    let reader = ask(
        "GET",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader",
    );
    cluster.root(reader).await.expect(200);
}

#[tokio::test]
async fn the_authority_of_proxies_may_change() {
    let fronted = fronted().await;
    let (cluster, next) = (&fronted.cluster, Authority::named("next"));
    let (old, new) =
        (fronted.authority.issue("front-proxy-client", None), next.issue("front-proxy-client", None));
    std::fs::write(&fronted.file, "nothing of use").expect("written");
    send(cluster, ann(), &new).await.expect(401);
    send(cluster, ann(), &old).await.expect(201);
    std::fs::write(&fronted.file, &next.certificate).expect("written");
    eventually("the new authority", || async {
        Some(send(cluster, ann(), &new).await).filter(|answer| answer.code == 201)
    })
    .await;
    send(cluster, ann(), &old).await.expect(401);
}

#[tokio::test]
async fn what_is_wrong_with_the_flags_is_said() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("ca.crt");
    let faulty = |change: fn(&mut RequestHeaderConfig)| {
        let file = file.clone();
        Cluster::fault(move |config| {
            std::fs::write(&file, &config.tls.client_ca).expect("written");
            config.request_header = request_header(file);
            change(&mut config.request_header);
        })
    };
    let overlapping = faulty(|config| config.allowed_names.clear()).await;
    assert!(
        overlapping.starts_with(
            "--requestheader-client-ca-file and --client-ca-file contain overlapping certificates"
        )
    );
    assert_eq!(faulty(|_| ()).await, "");
    let empty = faulty(|config| config.username_headers = vec![String::new()]).await;
    assert_eq!(empty, "empty value in \"requestheader-username-headers\"");
    let missing = faulty(|config| config.client_ca_file = Some("/nowhere/ca.crt".into())).await;
    assert!(missing.starts_with("open /nowhere/ca.crt: "), "{missing}");
}

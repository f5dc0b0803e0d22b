//! Tokens that others vouch for: a server that is asked, and issuers of OpenID Connect.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServerConfig, OidcConfig, TokenWebhookConfig};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::cluster::{Answer, Authority, Cluster, Running, ask, eventually};
use crate::reviewer::{Reviewer, Said};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Knows `ann`, and for `other` only the audience of that name; fails by the token's name.
fn answer(path: &str, review: &Value) -> Said {
    let known = json!({"authenticated": true, "user": {"username": "ann", "uid": "7", "groups": ["a"],
        "extra": {"example.com/k": ["v"]}}});
    let mut audience = known.clone();
    audience["audiences"] = json!(["other"]);
    let status = match review["spec"]["token"].as_str().unwrap_or_default() {
        "ann" => known,
        "other" => audience,
        "broken" => return Said::Code(500),
        "busy" => return Said::Code(503),
        "told" => json!({"error": "this token was withdrawn"}),
        _ => json!({}),
    };
    let version = if path == "/v1" { "v1" } else { "v1beta1" };
    let (kind, version) = ("TokenReview", format!("authentication.k8s.io/{version}"));
    Said::Json(json!({"kind": kind, "apiVersion": version, "status": status}))
}

fn webhook(config: &mut ApiServerConfig, file: PathBuf, version: &str) {
    config.review_retry = Duration::from_millis(1);
    config.token_webhook = TokenWebhookConfig {
        config_file: Some(file),
        version: version.to_owned(),
        ..TokenWebhookConfig::default()
    };
}

async fn with_token(cluster: &Running, token: &str) -> Answer {
    let who = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").json(&json!({}));
    let who = who.header("authorization", &format!("Bearer {token}"));
    cluster.send(who).await.expect("answer")
}

async fn review(cluster: &Running, token: &str, audiences: &[&str]) -> Value {
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    cluster.create(REVIEWS, &review).await["status"].clone()
}

#[tokio::test]
async fn another_server_knows_tokens() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1");
    let cluster = Cluster::start_with(|config| webhook(config, file, "v1")).await;
    let user = json!({"username": "ann", "uid": "7", "groups": ["a", "system:authenticated"],
        "extra": {"example.com/k": ["v"]}});
    for _ in 0..2 {
        assert_eq!(with_token(&cluster, "ann").await.expect(201)["status"]["userInfo"], user);
        with_token(&cluster, "nobody").await.expect(401);
    }
    let asked = reviewer.asked("/v1");
    assert_eq!(asked.len(), 2, "answers are kept, whatever they are");
    let wanted = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
        "spec": {"token": "ann", "audiences": ["https://kubernetes.default.svc"]}, "status": {"user": {}}});
    assert_eq!(asked[0], wanted);
    let good = review(&cluster, "ann", &[]).await;
    assert_eq!((&good["authenticated"], &good["user"]["username"]), (&json!(true), &json!("ann")));
    assert_eq!(good["audiences"], json!(["https://kubernetes.default.svc"]));
    assert_eq!(reviewer.asked("/v1").len(), 2);
}

#[tokio::test]
async fn answers_are_for_audiences() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1beta1");
    let cluster = Cluster::start_with(|config| webhook(config, file, "v1beta1")).await;
    let found = review(&cluster, "other", &["else", "other"]).await;
    assert_eq!((&found["authenticated"], &found["audiences"]), (&json!(true), &json!(["other"])));
    let asked = reviewer.asked("/v1beta1").pop().expect("a question");
    assert_eq!(asked["apiVersion"], "authentication.k8s.io/v1beta1");
    assert_eq!(asked["spec"]["audiences"], json!(["else", "other"]));
    // It is for nobody that asks this server, and one without an audience is for this server only.
    with_token(&cluster, "other").await.expect(401);
    let status = review(&cluster, "ann", &["else"]).await;
    assert_eq!((&status["authenticated"], &status["error"]), (&Value::Null, &json!("invalid bearer token")));
    assert_eq!(review(&cluster, "told", &[]).await["error"], "this token was withdrawn");
}

#[tokio::test]
async fn failures_are_tried_again_and_not_kept() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1");
    let cluster = Cluster::start_with(|config| webhook(config, file, "v1")).await;
    for (token, tries) in [("broken", 5), ("busy", 1), ("told", 1)] {
        let before = reviewer.asked("/v1").len();
        for round in 1..=2 {
            with_token(&cluster, token).await.expect(401);
            assert_eq!(reviewer.asked("/v1").len() - before, round * tries, "{token}");
        }
    }
    let broken = review(&cluster, "broken", &[]).await;
    assert_eq!(broken["error"], "an error on the server (\"no\") has prevented the request from succeeding");
}

#[tokio::test]
async fn nothing_is_kept_without_a_time() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1");
    let cluster = Cluster::start_with(|config| {
        webhook(config, file, "v1");
        config.token_webhook.cache_ttl = Duration::ZERO;
    })
    .await;
    for times in 1..=2 {
        with_token(&cluster, "ann").await.expect(201);
        assert_eq!(reviewer.asked("/v1").len(), times);
    }
}

#[tokio::test]
async fn a_server_that_is_not_believed_or_speaks_otherwise_knows_nobody() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig_by("/v1", &Authority::named("reviewer-ca"));
    let cluster = Cluster::start_with(|config| webhook(config, file, "v1")).await;
    with_token(&cluster, "ann").await.expect(401);
    assert!(reviewer.asked("/v1").is_empty());
    let error = review(&cluster, "ann", &[]).await["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("tls: failed to verify certificate: x509:"), "{error}");
    let file = reviewer.kubeconfig("/v1");
    let other = Cluster::start_with(|config| webhook(config, file, "v1beta1")).await;
    with_token(&other, "ann").await.expect(401);
}

#[tokio::test]
async fn what_is_wrong_with_the_webhook_is_said() {
    let reviewer = Reviewer::start(answer).await;
    let file = reviewer.kubeconfig("/v1");
    let fault = Cluster::fault(|config| webhook(config, file, "v2")).await;
    assert_eq!(
        fault,
        "unsupported authentication webhook version \"v2\", supported versions are \"v1\", \"v1beta1\""
    );
    let fault = Cluster::fault(|config| webhook(config, "/nowhere".into(), "v1")).await;
    assert!(fault.starts_with("open /nowhere: "), "{fault}");
}

/// An issuer of tokens, signed with ES256.
struct Issuer {
    server: Reviewer,
    key: KeyPair,
    /// What is answered at `/claims`.
    told: Arc<Mutex<String>>,
}

impl Issuer {
    async fn start() -> Self {
        let key = KeyPair::generate().expect("key");
        // Before both coordinates stands that there are two.
        let point = &key.der_bytes()[1..];
        let coordinate = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k",
            "x": coordinate(&point[..32]), "y": coordinate(&point[32..])});
        let address = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
        let own = address.clone();
        let told = Arc::new(Mutex::new(String::new()));
        let tells = told.clone();
        let server = Reviewer::start(move |path, _| {
            let url = own.get().cloned().unwrap_or_default();
            match path {
                "/.well-known/openid-configuration" => {
                    Said::Json(json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
                }
                "/keys" => Said::Json(json!({"keys": [jwk]})),
                "/claims" => Said::Text(tells.lock().clone()),
                _ => Said::Code(404),
            }
        })
        .await;
        address.set(format!("https://{}", server.address)).expect("once");
        Self { server, key, told }
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    fn token(&self, key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({"iss": self.url(), "aud": "cluster", "sub": "ann", "groups": ["a"],
            "exp": 4_000_000_000_i64});
        change(&mut claims);
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("key");
        jsonwebtoken::encode(&header, &claims, &key).expect("token")
    }

    fn flags(&self) -> OidcConfig {
        let ca_file = self.server.kubeconfig("/ca").with_extension("crt");
        std::fs::write(&ca_file, &self.server.authority.certificate).expect("written");
        OidcConfig {
            issuer_url: self.url(),
            client_id: "cluster".to_owned(),
            ca_file: Some(ca_file),
            groups_claim: "groups".to_owned(),
            groups_prefix: "oidc:".to_owned(),
            signing_algs: vec!["ES256".to_owned()],
            ..OidcConfig::default()
        }
    }
}

#[tokio::test]
async fn an_issuer_by_flags_vouches_for_its_tokens() {
    let issuer = Issuer::start().await;
    let flags = issuer.flags();
    let cluster = Cluster::start_with(|config| config.oidc = Some(flags)).await;
    let good = issuer.token(&issuer.key, |_| ());
    let user = with_token(&cluster, &good).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(user["username"], format!("{}#ann", issuer.url()));
    assert_eq!(user["groups"], json!(["oidc:a", "system:authenticated"]));
    let status = review(&cluster, &good, &[]).await;
    assert_eq!((&status["authenticated"], &status["user"]["username"]), (&json!(true), &user["username"]));
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc"]));
    assert_eq!(review(&cluster, &good, &["else"]).await["error"], "invalid bearer token");
    let bad = [
        issuer.token(&KeyPair::generate().expect("key"), |_| ()),
        issuer.token(&issuer.key, |claims| claims["aud"] = json!("another")),
        issuer.token(&issuer.key, |claims| claims["exp"] = json!(1)),
        issuer.token(&issuer.key, |claims| claims["iss"] = json!("https://elsewhere")),
        // The cluster's own issuer is believed by its own key alone.
        issuer.token(&issuer.key, |claims| claims["iss"] = json!("https://kubernetes.default.svc")),
    ];
    for token in bad {
        with_token(&cluster, &token).await.expect(401);
    }
}

#[tokio::test]
async fn groups_may_be_told_elsewhere() {
    let issuer = Issuer::start().await;
    let flags = issuer.flags();
    let cluster = Cluster::start_with(|config| config.oidc = Some(flags)).await;
    let token = issuer.token(&issuer.key, |claims| {
        claims.as_object_mut().expect("an object").remove("groups");
        claims["_claim_names"] = json!({"groups": "there"});
        let endpoint = format!("{}/claims", issuer.url());
        claims["_claim_sources"] = json!({"there": {"endpoint": endpoint, "access_token": "t"}});
    });
    *issuer.told.lock() = issuer.token(&issuer.key, |claims| claims["groups"] = json!(["b"]));
    let user = with_token(&cluster, &token).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(user["groups"], json!(["oidc:b", "system:authenticated"]));
    let bad = [
        issuer.token(&KeyPair::generate().expect("key"), |_| ()),
        issuer.token(&issuer.key, |claims| claims["aud"] = json!("another")),
        issuer.token(&issuer.key, |claims| claims["exp"] = json!(1)),
        issuer.token(&issuer.key, |claims| drop(claims.as_object_mut().expect("an object").remove("groups"))),
        "no token".to_owned(),
    ];
    for told in bad {
        *issuer.told.lock() = told;
        with_token(&cluster, &token).await.expect(401);
    }
}

#[tokio::test]
async fn a_file_holds_tokens() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("tokens.csv");
    std::fs::write(&file, "sesame,ann,7,\"a,b\"\n").expect("written");
    let named = file.clone();
    let cluster = Cluster::start_with(|config| config.token_file = Some(named)).await;
    let user = with_token(&cluster, "sesame").await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(user, json!({"username": "ann", "uid": "7", "groups": ["a", "b", "system:authenticated"]}));
    with_token(&cluster, "sesam").await.expect(401);
    assert_eq!(review(&cluster, "sesame", &["else"]).await["error"], "invalid bearer token");
    std::fs::write(&file, "sesame\n").expect("written");
    let fault = Cluster::fault(|config| config.token_file = Some(file)).await;
    assert!(fault.ends_with("must have at least 3 columns (token, user name, user uid), found 1"), "{fault}");
}

#[tokio::test]
async fn tokens_are_meant_for_this_server_by_its_audiences() {
    let cluster = Cluster::start_with(|config| config.api_audiences = vec!["one".into(), "two".into()]).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.create(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let token = async |audiences: &[&str]| {
        let request = json!({"spec": {"audiences": audiences, "expirationSeconds": 1200}});
        let made = cluster.create(&format!("{accounts}/robot/token"), &request).await;
        (made["status"]["token"].as_str().expect("token").to_owned(), made["spec"]["audiences"].clone())
    };
    let (default, audiences) = token(&[]).await;
    assert_eq!(audiences, json!(["one", "two"]));
    with_token(&cluster, &default).await.expect(201);
    with_token(&cluster, &token(&["two"]).await.0).await.expect(201);
    let issuers = token(&["https://kubernetes.default.svc"]).await.0;
    with_token(&cluster, &issuers).await.expect(401);
    assert_eq!(review(&cluster, &default, &[]).await["audiences"], json!(["one", "two"]));
}

/// A new key signs for a new issuer; what the old ones signed before counts on.
#[tokio::test]
async fn keys_and_issuers_of_service_accounts_are_replaced_in_turn() {
    let old = Arc::new(Mutex::new(Vec::new()));
    let before = old.clone();
    let cluster = Cluster::start_with(move |config| {
        let keys = &mut config.service_account;
        let new = KeyPair::generate().expect("key").serialize_pem().into_bytes();
        *before.lock() = std::mem::replace(&mut keys.signing_key, new.clone());
        keys.public_keys.push(new);
        keys.issuers.insert(0, "https://new".into());
        keys.max_expiration = Some(Duration::from_hours(2));
    })
    .await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = cluster.create(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let asked = json!({"spec": {"expirationSeconds": 7201}});
    let made = cluster.root(ask("POST", &format!("{accounts}/robot/token")).json(&asked)).await;
    let warning = made.headers["warning"].to_str().expect("a text").to_owned();
    assert!(warning.contains("requested expiration of 7201 seconds shortened to 7200 seconds"), "{warning}");
    let made = made.expect(201);
    assert_eq!(made["spec"]["expirationSeconds"], 7200);
    assert_eq!(made["spec"]["audiences"], json!(["https://new", "https://kubernetes.default.svc"]));
    let token = made["status"]["token"].as_str().expect("token");
    let part = |place: usize| {
        let text = token.split('.').nth(place).expect("three parts");
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("JSON")
    };
    let (head, claims) = (part(0), part(1));
    assert_eq!((&head["alg"], &claims["iss"]), (&json!("ES256"), &json!("https://new")));
    with_token(&cluster, token).await.expect(201);

    let signed = |issuer: &str, key: &[u8]| {
        let mut claims = claims.clone();
        claims["iss"] = issuer.into();
        claims["kubernetes.io"]["serviceaccount"]["uid"] = account["metadata"]["uid"].clone();
        let key = EncodingKey::from_rsa_pem(key).expect("key");
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).expect("token")
    };
    let old = old.lock().clone();
    with_token(&cluster, &signed("https://kubernetes.default.svc", &old)).await.expect(201);
    with_token(&cluster, &signed("https://elsewhere", &old)).await.expect(401);

    let found = cluster.root(ask("GET", "/openid/v1/jwks")).await.expect(200);
    let listed: Vec<&Value> = found["keys"].as_array().expect("keys").iter().map(|key| &key["kid"]).collect();
    assert!(listed.len() == 2 && listed.contains(&&head["kid"]), "{found}");
    let told = cluster.root(ask("GET", "/.well-known/openid-configuration")).await.expect(200);
    assert_eq!(told["issuer"], "https://new");
    assert_eq!(told["id_token_signing_alg_values_supported"], json!(["ES256", "RS256"]));
    let uri = told["jwks_uri"].as_str().expect("an address");
    assert!(uri.starts_with("https://127.0.0.1:") && uri.ends_with("/openid/v1/jwks"), "{uri}");
}

#[tokio::test]
async fn flags_and_configuration_exclude_each_other() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("authentication.yaml");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    std::fs::write(&file, format!("{head}anonymous: {{enabled: true}}\n")).expect("written");
    let named = file.clone();
    let both = Cluster::fault(|config| {
        config.authentication_config = Some(named);
        config.oidc = Some(OidcConfig::default());
    });
    assert_eq!(both.await, "authentication-config file and oidc-* flags are mutually exclusive");
    let alone = Cluster::fault(|config| config.oidc = Some(OidcConfig::default()));
    assert!(alone.await.starts_with("oidc-issuer-url and oidc-client-id must be specified together"));
    let anonymous = Cluster::fault(|config| {
        config.authentication_config = Some(file);
        config.anonymous_auth = Some(true);
    });
    assert!(anonymous.await.starts_with("anonymous: Forbidden: --anonymous-auth flag cannot be set"));
}

#[tokio::test]
async fn issuers_are_read_again_when_the_configuration_changes() {
    let (issuer, folder) = (Issuer::start().await, tempfile::tempdir().expect("folder"));
    let file = folder.path().join("authentication.yaml");
    let write = |issuers: Value| {
        let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": issuers});
        let new = file.with_extension("new");
        std::fs::write(&new, document.to_string()).expect("written");
        std::fs::rename(&new, &file).expect("renamed");
    };
    let believed = |prefix: &str| {
        let by = json!({"url": issuer.url(), "audiences": ["cluster"],
            "certificateAuthority": issuer.server.authority.certificate});
        json!([{"issuer": by, "claimMappings": {"username": {"claim": "sub", "prefix": prefix}}}])
    };
    write(json!([]));
    let named = file.clone();
    let cluster = Cluster::start_with(|config| {
        config.authentication_config = Some(named);
        config.reload_interval = std::time::Duration::from_millis(10);
    })
    .await;
    let token = issuer.token(&issuer.key, |_| ());
    let name = || async {
        let answer = with_token(&cluster, &token).await;
        (answer.code == 201).then(|| answer.json()["status"]["userInfo"]["username"].clone())
    };
    assert_eq!(name().await, None);
    write(believed("oidc:"));
    assert_eq!(eventually("a new issuer", name).await, "oidc:ann");
    // One that cannot be used changes nothing.
    write(json!([{"issuer": {"url": "http://plain"}}]));
    assert_eq!(name().await, Some(json!("oidc:ann")));
    write(believed("other:"));
    eventually("another prefix", || async { name().await.filter(|name| name == "other:ann") }).await;
    write(json!([]));
    eventually("the issuer's end", || async { name().await.is_none().then_some(()) }).await;
}

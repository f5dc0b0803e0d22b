//! Users, roles, tokens.

use std::time::Duration;

use etcd_api::AuthOptions;
use etcd_client::{
    Client, ConnectOptions, GetOptions, Permission, PermissionType, PutOptions, RoleRevokePermissionOptions,
    UserAddOptions, WatchOptions,
};

use crate::{DEADLINE, Server, connect, next, start, start_with};

/// A member with authentication on: `root` may everything, `alice` may read and write `a…` and read `r`, `bob` nothing.
async fn guarded(options: Option<AuthOptions>) -> (Server, Client) {
    let server = start_with(|config| {
        // The cheapest hashes.
        config.auth = options.unwrap_or_else(|| {
            AuthOptions::parse("simple", Duration::from_secs(300), 4, false).expect("options")
        });
    })
    .await;
    let mut client = connect(&server).await;
    for name in ["root", "alice", "bob"] {
        client.user_add(name, format!("{name}'s"), None).await.expect("user");
    }
    client.user_grant_role("root", "root").await.expect("role");
    client.role_add("letters").await.expect("role");
    let letters = Permission::read_write("a").with_prefix();
    client.role_grant_permission("letters", letters).await.expect("grant");
    client.role_grant_permission("letters", Permission::read("r")).await.expect("grant");
    client.user_grant_role("alice", "letters").await.expect("role");
    client.auth_enable().await.expect("enable");
    let root = as_user(&server, "root").await;
    (server, root)
}

async fn as_user(server: &Server, name: &str) -> Client {
    let options = ConnectOptions::new().with_user(name, format!("{name}'s"));
    Client::connect([server.address.to_string()], Some(options)).await.expect("connect")
}

fn told(error: etcd_client::Error) -> (tonic::Code, String) {
    match error {
        etcd_client::Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

fn denied() -> (tonic::Code, String) {
    (tonic::Code::PermissionDenied, "etcdserver: permission denied".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_reach_the_keys_that_their_roles_permit() {
    let (server, mut root) = guarded(None).await;
    root.put("r", "1", None).await.expect("root may");
    root.put("x", "1", None).await.expect("root may");
    let mut alice = as_user(&server, "alice").await;
    alice.put("a1", "v", None).await.expect("alice may");
    assert_eq!(alice.get("r", None).await.expect("alice may").count(), 1);
    assert_eq!(told(alice.put("r", "2", None).await.expect_err("only read")), denied());
    assert_eq!(told(alice.get("x", None).await.expect_err("not hers")), denied());
    let all = Some(GetOptions::new().with_all_keys());
    assert_eq!(told(alice.get("", all).await.expect_err("not all hers")), denied());
    assert_eq!(told(alice.delete("x", None).await.expect_err("not hers")), denied());
    assert_eq!(told(alice.compact(2, None).await.expect_err("root only")), denied());
    assert_eq!(alice.member_list().await.expect("known").members().len(), 1);
    assert_eq!(told(alice.hash_kv(0).await.expect_err("root only")), denied());
    assert_eq!(told(alice.user_list().await.expect_err("root only")), denied());
    assert_eq!(alice.user_get("alice").await.expect("of herself").roles(), ["letters"]);
    assert_eq!(told(alice.user_get("bob").await.expect_err("root only")), denied());
    let mut bob = as_user(&server, "bob").await;
    assert_eq!(told(bob.get("a1", None).await.expect_err("nothing")), denied());
}

/// CVE-2026-33413 of etcd: what operators ask was answered to whoever asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_operators_ask_is_answered_to_operators() {
    use etcd_client::{AlarmAction, AlarmType};
    let (server, _) = guarded(None).await;
    let empty = (tonic::Code::InvalidArgument, "etcdserver: user name is empty".to_owned());
    let nobody = Client::connect([server.address.to_string()], None).await.expect("connect");
    let alice = as_user(&server, "alice").await;
    for (mut client, refusal) in [(nobody, empty), (alice, denied())] {
        let raise = client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await;
        assert_eq!(told(raise.expect_err("an alarm")), refusal);
        assert_eq!(told(client.defragment().await.expect_err("defragment")), refusal);
        assert_eq!(told(client.hash().await.expect_err("hash")), refusal);
        assert_eq!(told(client.hash_kv(0).await.expect_err("hash of keys")), refusal);
        assert_eq!(told(client.move_leader(1).await.expect_err("move")), refusal);
        assert_eq!(told(client.member_add(["http://x:1"], None).await.expect_err("add")), refusal);
        let copied = match client.snapshot().await {
            Ok(mut stream) => stream.message().await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(told(copied.expect_err("a snapshot")), refusal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_or_something_wrong_is_told_so() {
    let (server, mut root) = guarded(None).await;
    let mut nobody = Client::connect([server.address.to_string()], None).await.expect("connect");
    let empty = (tonic::Code::InvalidArgument, "etcdserver: user name is empty".to_owned());
    assert_eq!(told(nobody.get("a", None).await.expect_err("nobody")), empty);
    assert_eq!(told(nobody.put("a", "", None).await.expect_err("nobody")), empty);
    assert_eq!(told(nobody.lease_grant(60, None).await.expect_err("nobody")), empty);
    assert_eq!(told(nobody.status().await.expect_err("nobody")), empty);
    let wrong = ConnectOptions::new().with_user("alice", "wrong");
    let refused = Client::connect([server.address.to_string()], Some(wrong)).await.err().expect("refused");
    let text = "etcdserver: authentication failed, invalid user ID or password";
    assert_eq!(told(refused), (tonic::Code::InvalidArgument, text.to_owned()));
    root.auth_disable().await.expect("disable");
    nobody.get("a", None).await.expect("nobody is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_away_is_denied_at_once() {
    let (server, mut root) = guarded(None).await;
    let mut alice = as_user(&server, "alice").await;
    alice.put("a", "1", None).await.expect("may");
    let range = Some(RoleRevokePermissionOptions::new().with_prefix());
    root.role_revoke_permission("letters", "a", range).await.expect("revoke");
    assert_eq!(told(alice.put("a", "2", None).await.expect_err("no more")), denied());
    root.user_change_password("alice", "other").await.expect("change");
    let invalid = (tonic::Code::Unauthenticated, "etcdserver: invalid auth token".to_owned());
    assert_eq!(told(alice.get("r", None).await.expect_err("the token has ended")), invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_with_keys_of_others_and_their_watches_are_closed() {
    let (server, mut root) = guarded(None).await;
    let mut alice = as_user(&server, "alice").await;
    let lease = root.lease_grant(600, None).await.expect("grant").id();
    root.put("x", "1", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    assert_eq!(told(alice.lease_revoke(lease).await.expect_err("with a key of another")), denied());
    let attach = Some(PutOptions::new().with_lease(lease));
    assert_eq!(told(alice.put("a", "1", attach).await.expect_err("with a key of another")), denied());
    let mut stream = alice.watch("a", Some(WatchOptions::new().with_prefix())).await.expect("watch");
    alice.put("a2", "1", None).await.expect("put");
    assert!(next(&mut stream).await.created());
    assert_eq!(next(&mut stream).await.events().len(), 1);
    let mut closed = alice.watch("x", None).await.expect("a stream");
    let refused = next(&mut closed).await;
    assert!(refused.canceled() && refused.cancel_reason().contains("permission denied"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_uses_ends() {
    let options = AuthOptions::parse("simple", Duration::from_secs(1), 4, false).expect("options");
    let (server, mut root) = guarded(Some(options)).await;
    let mut idle = as_user(&server, "alice").await;
    idle.get("a", None).await.expect("the token is new");
    let ended = async {
        // The other token stays in use.
        while root.get("a", None).await.is_ok() {
            env::Clock::default().sleep(Duration::from_millis(50)).await;
            if server.tokens() <= 1 {
                return idle.get("a", None).await.expect_err("it has ended");
            }
        }
        panic!("a token that is in use has ended");
    };
    let error = tokio::time::timeout(DEADLINE, ended).await.expect("in time");
    let invalid = (tonic::Code::Unauthenticated, "etcdserver: invalid auth token".to_owned());
    assert_eq!(told(error), invalid);
}

/// The same, with signed tokens; the folder holds the key.
async fn guarded_by_signatures() -> (tempfile::TempDir, Server, Client) {
    let folder = tempfile::tempdir().expect("folder");
    let pair = rcgen::KeyPair::generate().expect("key");
    let key = folder.path().join("key.pem");
    std::fs::write(&key, pair.serialize_pem()).expect("write");
    let flag = format!("jwt,priv-key={},sign-method=ES256,ttl=1h", key.display());
    let options = AuthOptions::parse(&flag, Duration::ZERO, 4, false).expect("options");
    let (server, root) = guarded(Some(options)).await;
    (folder, server, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_are_known_by_their_signature() {
    let (_key, server, mut root) = guarded_by_signatures().await;
    let mut alice = as_user(&server, "alice").await;
    alice.put("a", "1", None).await.expect("may");
    root.user_add("carol", "c", None).await.expect("add");
    // The token says how old it is.
    let old = (tonic::Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned());
    assert_eq!(told(alice.get("a", None).await.expect_err("of before")), old);
    let mut again = as_user(&server, "alice").await;
    again.get("a", None).await.expect("a new token");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_shut_everybody_out_is_refused() {
    let server = start().await;
    let mut client = connect(&server).await;
    let refused = |error| told(error).1;
    assert_eq!(
        refused(client.auth_enable().await.expect_err("no root")),
        "etcdserver: root user does not exist"
    );
    client.user_add("root", "", Some(UserAddOptions::new().with_no_pwd())).await.expect("root");
    assert_eq!(
        refused(client.auth_enable().await.expect_err("no role")),
        "etcdserver: root user does not have root role"
    );
    assert_eq!(
        refused(client.user_add("root", "x", None).await.expect_err("twice")),
        "etcdserver: user name already exists"
    );
    assert_eq!(
        refused(client.user_add("", "x", None).await.expect_err("no name")),
        "etcdserver: user name is empty"
    );
    let role = client.role_get("root").await;
    assert_eq!(refused(role.expect_err("nobody made it")), "etcdserver: role name not found");
    client.role_add("root").await.expect("role");
    let everything = client.role_get("root").await.expect("role").permissions();
    assert_eq!(everything.len(), 1);
    assert_eq!(everything[0].get_type(), i32::from(PermissionType::Readwrite));
    let authenticate = ConnectOptions::new().with_user("root", "x");
    let error = Client::connect([server.address.to_string()], Some(authenticate)).await.err().expect("off");
    assert_eq!(refused(error), "etcdserver: authentication is not enabled");
}

/// Bytes that a request may have by default.
const MAX_REQUEST: usize = 3 << 19;

#[tokio::test(flavor = "multi_thread")]
async fn names_and_keys_of_permissions_may_be_as_large_as_a_request() {
    let (_server, mut root) = guarded(None).await;
    let too_large = (tonic::Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    let (most, more) = ("n".repeat(MAX_REQUEST - 1024), "n".repeat(MAX_REQUEST + 1));
    root.user_add(most.as_str(), "p", None).await.expect("a long name");
    root.role_add(most.as_str()).await.expect("a long name");
    root.user_grant_role("bob", most.as_str()).await.expect("a long name");
    root.role_grant_permission("letters", Permission::read(most.as_str())).await.expect("a long key");
    assert_eq!(root.user_get("bob").await.expect("bob").roles(), [most.as_str()]);
    let large = async |root: &mut Client| {
        [
            root.user_add(more.as_str(), "p", None).await.map(drop),
            root.role_add(more.as_str()).await.map(drop),
            root.role_grant_permission("letters", Permission::read(more.as_str())).await.map(drop),
        ]
    };
    for refused in large(&mut root).await {
        assert_eq!(told(refused.expect_err("too large")), too_large);
    }
    let names = root.user_list().await.expect("users");
    assert_eq!(names.users().len(), 4, "nothing else was added");
    let empty = |what: &str| (tonic::Code::InvalidArgument, format!("etcdserver: {what} name is empty"));
    assert_eq!(told(root.user_add("", "p", None).await.expect_err("no name")), empty("user"));
    assert_eq!(told(root.role_add("").await.expect_err("no name")), empty("role"));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_may_have_as_many_bytes_as_are_looked_at() {
    let (server, mut root) = guarded(None).await;
    let (most, more) = ("p".repeat(72), "p".repeat(73));
    let refused = (tonic::Code::Unknown, "bcrypt: password length exceeds 72 bytes".to_owned());
    root.user_add("carol", most.as_str(), None).await.expect("72 bytes");
    assert_eq!(told(root.user_add("dave", more.as_str(), None).await.expect_err("73 bytes")), refused);
    let changed = root.user_change_password("bob", more.as_str()).await;
    assert_eq!(told(changed.expect_err("73 bytes")), refused);
    let options = || ConnectOptions::new().with_user("carol", most.as_str());
    Client::connect([server.address.to_string()], Some(options())).await.expect("the password");
    as_user(&server, "bob").await.get("a", None).await.expect_err("bob's is the old one, and may nothing");
    assert_eq!(root.user_list().await.expect("users").users().len(), 4, "nobody else was added");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_have_any_number_of_roles_and_a_role_of_permissions() {
    const MANY: usize = 300;
    let (server, mut root) = guarded(None).await;
    for number in 0..MANY {
        let role = format!("role-{number:03}");
        root.role_add(role.as_str()).await.expect("role");
        root.role_grant_permission(role.as_str(), Permission::read(format!("k{number}")))
            .await
            .expect("grant");
        root.user_grant_role("bob", role.as_str()).await.expect("grant");
        root.role_grant_permission("letters", Permission::write(format!("w{number}"))).await.expect("grant");
    }
    assert_eq!(root.role_list().await.expect("roles").roles().len(), MANY + 1);
    assert_eq!(root.user_get("bob").await.expect("bob").roles().len(), MANY);
    assert_eq!(root.role_get("letters").await.expect("role").permissions().len(), MANY + 2);
    let (mut bob, mut alice) = (as_user(&server, "bob").await, as_user(&server, "alice").await);
    for number in [0, MANY / 2, MANY - 1] {
        bob.get(format!("k{number}"), None).await.expect("bob may read it");
        alice.put(format!("w{number}"), "v", None).await.expect("alice may write it");
        assert_eq!(told(alice.get(format!("k{number}"), None).await.expect_err("no")), denied());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_as_json_too() {
    use serde_json::json;

    use crate::gateway::post_as;
    let (server, mut root) = guarded(None).await;
    let login = json!({ "name": "root", "password": "root's" });
    let (_, answer) = post_as(&server, "", "/v3/auth/authenticate", &login).await;
    let token = answer["token"].as_str().expect("a token").to_owned();
    let long = "p".repeat(73);
    let name = "n".repeat(MAX_REQUEST + 1);
    let permission = |key: &str| json!({ "name": "letters", "perm": { "permType": "READ", "key": key } });
    let key = "A".repeat(MAX_REQUEST / 3 * 4 + 8);
    for (path, body, code, status, text) in [
        ("user/add", json!({ "name": "", "password": "p" }), 3, 400, "etcdserver: user name is empty"),
        ("user/add", json!({ "name": name, "password": "p" }), 3, 400, "etcdserver: request is too large"),
        (
            "user/add",
            json!({ "name": "x", "password": long }),
            2,
            500,
            "bcrypt: password length exceeds 72 bytes",
        ),
        (
            "user/add",
            json!({ "name": "bob", "password": "p" }),
            9,
            400,
            "etcdserver: user name already exists",
        ),
        (
            "user/changepw",
            json!({ "name": "bob", "password": long }),
            2,
            500,
            "bcrypt: password length exceeds 72 bytes",
        ),
        ("user/grant", json!({ "user": "bob", "role": "x" }), 9, 400, "etcdserver: role name not found"),
        ("user/grant", json!({ "user": "x", "role": "root" }), 9, 400, "etcdserver: user name not found"),
        ("role/add", json!({ "name": "" }), 3, 400, "etcdserver: role name is empty"),
        ("role/add", json!({ "name": name }), 3, 400, "etcdserver: request is too large"),
        ("role/add", json!({ "name": "letters" }), 9, 400, "etcdserver: role name already exists"),
        ("role/grant", json!({ "name": "letters" }), 3, 400, "etcdserver: permission not given"),
        ("role/grant", permission(&key), 3, 400, "etcdserver: request is too large"),
    ] {
        let answer = post_as(&server, &token, &format!("/v3/auth/{path}"), &body).await;
        assert_eq!(answer, (status, json!({ "code": code, "message": text })), "{path}");
    }
    let grant = post_as(&server, &token, "/v3/auth/role/grant", &permission("eA==")).await;
    assert_eq!(grant.0, 200);
    let (status, user) = post_as(&server, &token, "/v3/auth/user/get", &json!({ "name": "alice" })).await;
    assert_eq!((status, &user["roles"]), (200, &json!(["letters"])));
    assert_eq!(root.user_list().await.expect("users").users().len(), 3, "nobody was added");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_revision_is_told_as_json_too() {
    use serde_json::json;

    use crate::gateway::post_as;
    let (_key, server, mut root) = guarded_by_signatures().await;
    let login = json!({ "name": "alice", "password": "alice's" });
    let read = json!({ "key": "YQ==" });
    let token = async || {
        let (_, answer) = post_as(&server, "", "/v3/auth/authenticate", &login).await;
        answer["token"].as_str().expect("a token").to_owned()
    };
    let old = token().await;
    assert_eq!(post_as(&server, &old, "/v3/kv/range", &read).await.0, 200);
    root.role_add("another").await.expect("role");
    let stale = json!({ "code": 3, "message": "etcdserver: revision of auth store is old" });
    assert_eq!(post_as(&server, &old, "/v3/kv/range", &read).await, (400, stale));
    assert_eq!(post_as(&server, &token().await, "/v3/kv/range", &read).await.0, 200);
    let nonsense = post_as(&server, "nonsense", "/v3/kv/range", &read).await;
    assert_eq!(nonsense, (401, json!({ "code": 16, "message": "etcdserver: invalid auth token" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_come_as_metadata_of_a_json_request() {
    use serde_json::json;

    use crate::gateway::{post_as, post_with};
    let (server, _root) = guarded(None).await;
    let login = json!({ "name": "alice", "password": "alice's" });
    let (_, answer) = post_as(&server, "", "/v3/auth/authenticate", &login).await;
    let token = answer["token"].as_str().expect("a token").to_owned();
    let read = json!({ "key": "YQ==" });
    for (header, expected) in [
        (format!("grpc-metadata-token: {token}\r\n"), 200),
        (format!("Grpc-Metadata-Authorization: Bearer {token}\r\n"), 200),
        (format!("grpc-metadata-token: {token}\r\ngrpc-metadata-grpc-encoding: gzip\r\n"), 200),
        (format!("grpc-metadata-token: {token}\r\ngrpc-metadata-content-type: text/plain\r\n"), 200),
        (format!("token: {token}\r\n"), 400),
        ("grpc-metadata-token: nonsense\r\n".to_owned(), 401),
    ] {
        let (status, answer) = post_with(&server, &header, "/v3/kv/range", &read).await;
        assert_eq!(status, expected, "{header}: {answer}");
    }
}

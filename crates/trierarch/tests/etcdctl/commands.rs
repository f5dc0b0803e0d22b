//! What each command prints. Every function cleans up behind itself, so that another `etcdctl` can play it again.

use base64::Engine as _;
use serde_json::Value;

use crate::cluster::Cli;
use crate::shared::eventually;

/// That a text has these parts, in this order.
fn has(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let found = rest.find(part);
        rest =
            &rest[found.unwrap_or_else(|| panic!("{part:?} is not in {rest:?} of {text:?}"))..][part.len()..];
    }
}

fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).unwrap_or_else(|| panic!("{path} is not in {value}"));
    found.as_u64().unwrap_or_else(|| panic!("{path} is no number in {value}"))
}

fn text64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn header(value: &Value, path: &str) {
    for field in ["cluster_id", "member_id", "raft_term"] {
        assert!(number(value, &format!("{path}/header/{field}")) > 0);
    }
}

pub fn keys(cli: &Cli) {
    assert_eq!(cli.ok(&["put", "a/1", "one"]), "OK\n");
    assert_eq!(cli.ok(&["put", "a/1", "eins", "--prev-kv"]), "OK\na/1\none\n");
    assert_eq!(cli.ok(&["put", "a/2", "two"]), "OK\n");
    assert_eq!(cli.ok(&["get", "a/1"]), "a/1\neins\n");
    assert_eq!(cli.ok(&["get", "a/1", "--print-value-only"]), "eins\n");
    assert_eq!(cli.ok(&["get", "a/", "--prefix", "--keys-only"]), "a/1\n\na/2\n\n");
    assert_eq!(cli.ok(&["get", "a/", "--prefix", "--limit", "1"]), "a/1\neins\n");
    assert_eq!(
        cli.ok(&["get", "a/1", "a/3", "--order", "DESCEND", "--sort-by", "KEY"]),
        "a/2\ntwo\na/1\neins\n"
    );
    assert_eq!(cli.ok(&["get", "a/2", "--from-key", "--limit", "1"]), "a/2\ntwo\n");
    assert_eq!(cli.ok(&["get", "nothing"]), "");
    assert_eq!(cli.ok(&["get", "a/1", "--hex"]), "\\x61\\x2f\\x31\n\\x65\\x69\\x6e\\x73\n");
    if !cli.is_old() {
        has(
            &cli.ok(&["get", "a/", "--prefix", "--count-only", "-w", "fields"]),
            &["\"Revision\" : ", "\"More\" : false", "\"Count\" : 2"],
        );
    }
    has(
        &cli.ok(&["get", "a/1", "-w", "fields"]),
        &[
            "\"ClusterID\" : ",
            "\"MemberID\" : ",
            "\"Revision\" : ",
            "\"RaftTerm\" : ",
            "\"Key\" : \"a/1\"",
            "\"CreateRevision\" : ",
            "\"ModRevision\" : ",
            "\"Version\" : 2",
            "\"Value\" : \"eins\"",
            "\"Lease\" : 0",
            "\"Count\" : 1",
        ],
    );
    let found = cli.json(&["get", "a/1"]);
    header(&found, "");
    assert_eq!(found["kvs"][0]["key"], text64("a/1"));
    assert_eq!(found["kvs"][0]["value"], text64("eins"));
    assert_eq!((number(&found, "/kvs/0/version"), number(&found, "/count")), (2, 1));
    let (created, changed) =
        (number(&found, "/kvs/0/create_revision"), number(&found, "/kvs/0/mod_revision"));
    assert_eq!((changed, number(&found, "/header/revision")), (created + 1, changed + 1));
    assert_eq!(cli.ok(&["get", "a/1", "--rev", &created.to_string()]), "a/1\none\n");
    assert!(
        cli.refused(&["get", "a/1", "--rev", "99999999"]).contains("required revision is a future revision")
    );
    assert!(!cli.ok(&["get", "a/1", "-w", "protobuf"]).is_empty());
    assert_eq!(cli.ok(&["del", "a/1"]), "1\n");
    assert_eq!(cli.ok(&["del", "a/1"]), "0\n");
    assert_eq!(cli.ok(&["del", "a/", "--prefix", "--prev-kv"]), "1\na/2\ntwo\n");
    header(&cli.json(&["put", "a/1", "x"]), "");
    assert_eq!(number(&cli.json(&["del", "a/", "--prefix"]), "/deleted"), 1);
    compaction(cli);
}

fn compaction(cli: &Cli) {
    cli.ok(&["put", "a/1", "x"]);
    let revision = number(&cli.json(&["get", "a/1"]), "/header/revision").to_string();
    assert_eq!(cli.ok(&["compaction", &revision]), format!("compacted revision {revision}\n"));
    assert!(cli.refused(&["compaction", &revision]).contains("required revision has been compacted"));
    cli.ok(&["put", "a/1", "y"]);
    let next = number(&cli.json(&["get", "a/1"]), "/header/revision").to_string();
    assert_eq!(cli.ok(&["compaction", "--physical", &next]), format!("compacted revision {next}\n"));
    assert!(
        cli.refused(&["get", "a/1", "--rev", &revision]).contains("required revision has been compacted")
    );
    cli.ok(&["del", "a/1"]);
}

pub fn transactions(cli: &Cli) {
    cli.ok(&["put", "t", "1"]);
    let input = "value(\"t\") = \"1\"\nmod(\"t\") > \"0\"\n\nput t 2\nget t\n\nput t 3\n\n";
    assert_eq!(cli.told(&["txn"], input), "SUCCESS\n\nOK\n\nt\n2\n");
    assert_eq!(cli.told(&["txn"], input), "FAILURE\n\nOK\n");
    let answer: Value =
        serde_json::from_str(&cli.told(&["txn", "-w", "json"], "\nget t\n\n\n\n")).expect("JSON");
    assert_eq!(answer["succeeded"], true);
    has(
        &cli.told(&["txn", "--interactive"], "\nget t\n\n\n\n"),
        &["compares:", "success requests", "failure requests", "SUCCESS", "t\n3"],
    );
    assert_eq!(cli.ok(&["del", "t"]), "1\n");
}

pub fn watches(cli: &Cli) {
    let revision = number(&cli.json(&["get", "w"]), "/header/revision") + 1;
    let from = revision.to_string();
    cli.ok(&["put", "w/1", "one"]);
    cli.ok(&["put", "w/1", "two"]);
    cli.ok(&["del", "w/1"]);
    let watch = ["watch", "w/", "--prefix", "--rev", &from];
    let lines = cli.lines(&watch, 8, || {});
    assert_eq!(lines, ["PUT", "w/1", "one", "PUT", "w/1", "two", "DELETE", "w/1"]);
    let lines = cli.lines(&[&watch[..], &["--prev-kv"]].concat(), 8, || {});
    assert_eq!(lines[3..8], ["PUT", "w/1", "one", "w/1", "two"]);
    let line = cli.lines(&[&watch[..], &["-w", "json"]].concat(), 1, || {}).remove(0);
    let answer: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(answer["Events"][0]["kv"]["value"], text64("one"), "{answer}");
    let lines = cli.lines(&[&watch[..], &["-w", "fields"]].concat(), 6, || {});
    has(&lines.join("\n"), &["\"ClusterID\" : ", "\"Type\" : PUT"]);
    let script = ["--", "sh", "-c", "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"];
    // It is run once for each event, when all have been printed.
    let lines = cli.lines(&[&watch[..], &script].concat(), 10, || {});
    assert_eq!(lines[9], "\"PUT\" \"w/1\" \"one\"");
    let lines = cli.lines(&["watch", "w/live"], 3, || {
        // Nobody says when it began: it is told until it hears.
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            cli.ok(&["put", "w/live", "now"]);
        }
    });
    assert_eq!(lines, ["PUT", "w/live", "now"]);
    cli.ok(&["del", "w/", "--prefix"]);
}

pub fn leases(cli: &Cli) {
    let granted = cli.ok(&["lease", "grant", "60"]);
    has(&granted, &["lease ", " granted with TTL(60s)\n"]);
    let id = granted.split(' ').nth(1).expect("an id").to_owned();
    assert_eq!(cli.ok(&["put", "l", "x", "--lease", &id]), "OK\n");
    has(&cli.ok(&["lease", "timetolive", &id]), &[&format!("lease {id} granted with TTL(60s), remaining(5")]);
    has(&cli.ok(&["lease", "timetolive", &id, "--keys"]), &["attached keys([l])"]);
    has(&cli.ok(&["lease", "list"]), &["found ", " leases\n", &id]);
    assert_eq!(
        cli.ok(&["lease", "keep-alive", "--once", &id]),
        format!("lease {id} keepalived with TTL(60)\n")
    );
    let lines = cli.lines(&["lease", "keep-alive", &id], 1, || {});
    assert_eq!(lines, [format!("lease {id} keepalived with TTL(60)")]);
    let time = cli.json(&["lease", "timetolive", &id]);
    assert_eq!(number(&time, "/granted-ttl"), 60);
    has(&cli.ok(&["lease", "timetolive", &id, "-w", "fields"]), &["\"TTL\" : ", "\"GrantedTTL\" : 60"]);
    assert_eq!(cli.ok(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(cli.ok(&["get", "l"]), "", "its keys went with it");
    has(&cli.ok(&["lease", "timetolive", &id]), &["already expired"]);
    assert!(cli.refused(&["lease", "revoke", &id]).contains("requested lease not found"));
}

pub fn queues(cli: &Cli) {
    assert_eq!(cli.ok(&["lock", "q", "echo", "held"]), "held\n");
    let lines = cli.lines(&["lock", "q"], 1, || {});
    has(&lines[0], &["q/"]);
    let lines = cli.lines(&["elect", "e", "me"], 2, || {});
    has(&lines[0], &["e/"]);
    assert_eq!(lines[1], "me");
    let revision = number(&cli.json(&["get", "e"]), "/header/revision");
    assert!(revision > 0);
    cli.ok(&["del", "q/", "--prefix"]);
    cli.ok(&["del", "e/", "--prefix"]);
}

pub fn members(cli: &Cli) {
    let list = cli.ok(&["member", "list"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    let first = list.lines().next().expect("a member");
    has(first, &[", started, m", ", http://127.0.0.1:", ", http://127.0.0.1:", ", false"]);
    has(
        &cli.ok(&["member", "list", "-w", "table"]),
        &["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER", "started"],
    );
    has(
        &cli.ok(&["member", "list", "-w", "fields"]),
        &["\"ID\" : ", "\"Name\" : \"m", "\"PeerURL\" : ", "\"ClientURL\" : ", "\"IsLearner\" : false"],
    );
    let json = cli.json(&["member", "list"]);
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    assert!(number(&json, "/members/0/ID") > 0);
    if !cli.is_old() {
        has(&cli.ok(&["member", "list", "-w", "json", "--hex"]), &["\"ID\":\""]);
    }
    // Members are not changed before they have been in touch for a while.
    let added = eventually("a member is added", || {
        let (good, text) =
            cli.run(&["member", "add", "new", "--learner", "--peer-urls", "http://127.0.0.1:1"]);
        good.then_some(text)
    });
    has(
        &added,
        &[
            "Member ",
            " added ",
            "to cluster ",
            "ETCD_NAME=\"new\"",
            "ETCD_INITIAL_CLUSTER=",
            "ETCD_INITIAL_CLUSTER_STATE=\"existing\"",
        ],
    );
    let id = added.split_whitespace().nth(1).expect("an id").to_owned();
    has(
        &cli.ok(&["member", "update", &id, "--peer-urls", "http://127.0.0.1:2"]),
        &["Member ", &id, " updated in cluster "],
    );
    assert!(
        cli.refused(&["member", "promote", &id])
            .contains("can only promote a learner member which is in sync with leader")
    );
    has(&cli.ok(&["member", "remove", &id]), &["Member ", &id, " removed from cluster "]);
    assert!(cli.refused(&["member", "remove", "1234"]).contains("member not found"));
}

pub fn maintenance(cli: &Cli) {
    let status = cli.json(&["endpoint", "status"]);
    assert_eq!(status.as_array().map(Vec::len), Some(3));
    for member in 0..3 {
        let status = &status[member]["Status"];
        header(status, "");
        assert_eq!(status["version"], "3.7.1");
        for field in ["dbSize", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSizeInUse"] {
            assert!(number(status, &format!("/{field}")) > 0, "{field} of {status}");
        }
    }
    has(&cli.ok(&["endpoint", "status"]), &["http://127.0.0.1:", ", 3.7.1, ", "B, ", ", "]);
    has(
        &cli.ok(&["endpoint", "status", "-w", "table"]),
        &[
            "ENDPOINT",
            "ID",
            "VERSION",
            "DB SIZE",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
        ],
    );
    has(
        &cli.ok(&["endpoint", "status", "-w", "fields"]),
        &["\"Version\" : \"3.7.1\"", "\"DBSize\" : ", "\"Leader\" : ", "\"RaftIndex\" : ", "\"RaftTerm\" : "],
    );
    let health = cli.run(&["endpoint", "health", "--cluster"]);
    assert!(health.0, "{}", health.1);
    has(&health.1, &["is healthy: successfully committed proposal: took = "]);
    has(
        &cli.ok(&["endpoint", "health", "-w", "json"]),
        &["\"endpoint\":\"http://127.0.0.1:", "\"health\":true", "\"took\":\""],
    );
    let hashes = cli.json(&["endpoint", "hashkv"]);
    let hash = |member: &str| number(&hashes, &format!("/{member}/HashKV/hash"));
    eventually("all hash the same", || {
        let hashes = cli.json(&["endpoint", "hashkv"]);
        let hash = |member: &str| number(&hashes, &format!("/{member}/HashKV/hash"));
        (hash("0") == hash("1") && hash("1") == hash("2")).then_some(())
    });
    assert!(hash("0") > 0);
    assert_eq!(cli.ok(&["alarm", "list"]), "");
    assert_eq!(cli.ok(&["alarm", "disarm"]), "");
    has(&cli.ok(&["defrag"]), &["Finished defragmenting etcd member["]);
    snapshot(cli);
    move_leader(cli, &status);
}

fn snapshot(cli: &Cli) {
    let one = cli.at(&cli.endpoints[..1]);
    let file = cli.folder.join("snapshot.db");
    let file = file.to_str().expect("text");
    let (good, text) = one.run(&["snapshot", "save", file]);
    assert!(good && text.contains(&format!("Snapshot saved at {file}")), "{text}");
    std::fs::remove_file(file).expect("it is there");
}

fn move_leader(cli: &Cli, status: &Value) {
    let leader = number(status, "/0/Status/leader");
    let members = status.as_array().expect("members");
    let id = |member: &Value| number(member, "/Status/header/member_id");
    let other = members.iter().map(id).find(|id| *id != leader).expect("a follower");
    let text = cli.ok(&["move-leader", &format!("{other:x}")]);
    assert_eq!(text, format!("Leadership transferred from {leader:x} to {other:x}\n"));
    assert!(cli.refused(&["move-leader", "1234"]).contains("bad leader transferee"));
}

pub fn mirror(cli: &Cli) {
    cli.ok(&["put", "m/1", "one"]);
    let mut command =
        cli.command(&["make-mirror", "--prefix", "m/", "--dest-prefix", "mirrored/", &cli.endpoints[0]]);
    let mut mirroring = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start");
    eventually("what was there is mirrored", || {
        (cli.ok(&["get", "mirrored/1", "--print-value-only"]) == "one\n").then_some(())
    });
    cli.ok(&["put", "m/2", "two"]);
    eventually("what comes is mirrored", || {
        (cli.ok(&["get", "mirrored/2", "--print-value-only"]) == "two\n").then_some(())
    });
    drop(mirroring.kill());
    drop(mirroring.wait());
    cli.ok(&["del", "m", "--prefix"]);
}

pub fn users(cli: &Cli) {
    assert_eq!(cli.ok(&["role", "add", "r"]), "Role r created\n");
    assert_eq!(cli.ok(&["role", "grant-permission", "r", "readwrite", "u/", "--prefix"]), "Role r updated\n");
    has(
        &cli.ok(&["role", "get", "r"]),
        &["Role r\n", "KV Read:\n", "[u/, u0) (prefix u/)", "KV Write:\n", "[u/, u0) (prefix u/)"],
    );
    assert_eq!(cli.ok(&["role", "list"]), "r\n");
    assert_eq!(cli.ok(&["user", "add", "bob:pass"]), "User bob created\n");
    assert_eq!(cli.ok(&["user", "grant-role", "bob", "r"]), "Role r is granted to user bob\n");
    has(&cli.ok(&["user", "get", "bob"]), &["User: bob\n", "Roles: r\n"]);
    has(&cli.ok(&["user", "get", "bob", "--detail"]), &["User: bob", "Role r", "KV Read:"]);
    assert_eq!(cli.ok(&["user", "list"]), "bob\n");
    assert_eq!(cli.told(&["user", "passwd", "bob", "--interactive=false"], "secret\n"), "Password updated\n");
    assert!(cli.refused(&["auth", "enable"]).contains("root user does not exist"));
    assert_eq!(cli.ok(&["user", "add", "root:root"]), "User root created\n");
    cli.ok(&["user", "grant-role", "root", "root"]);
    assert_eq!(cli.ok(&["auth", "enable"]), "Authentication Enabled\n");
    assert_eq!(cli.ok(&["--user", "bob:secret", "put", "u/1", "x"]), "OK\n");
    assert!(cli.refused(&["--user", "bob:secret", "put", "v", "x"]).contains("permission denied"));
    assert!(
        cli.refused(&["--user", "bob:wrong", "get", "u/1"])
            .contains("authentication failed, invalid user ID or password")
    );
    assert!(cli.refused(&["get", "u/1"]).contains("user name is empty"));
    let root = ["--user", "root:root"];
    let as_root = |arguments: &[&str]| cli.ok(&[&root[..], arguments].concat());
    if !cli.is_old() {
        has(&as_root(&["auth", "status"]), &["Authentication Status: true\n", "AuthRevision: "]);
    }
    assert_eq!(as_root(&["role", "revoke-permission", "r", "u/", "--prefix"]).lines().count(), 1);
    assert_eq!(as_root(&["user", "revoke-role", "bob", "r"]), "Role r is revoked from user bob\n");
    assert_eq!(as_root(&["auth", "disable"]), "Authentication Disabled\n");
    assert_eq!(cli.ok(&["role", "delete", "r"]), "Role r deleted\n");
    for user in ["bob", "root"] {
        assert_eq!(cli.ok(&["user", "delete", user]), format!("User {user} deleted\n"));
    }
    cli.run(&["role", "delete", "root"]);
    cli.ok(&["del", "u/", "--prefix"]);
}

pub fn others(cli: &Cli) {
    has(&cli.ok(&["version"]), &["etcdctl version: 3.", "API version: 3."]);
    if cli.is_old() {
        return;
    }
    assert!(cli.ok(&["completion", "bash"]).contains("etcdctl"));
    assert!(cli.refused(&["downgrade", "validate", "3.5"]).contains("invalid downgrade target version"));
    assert!(cli.refused(&["downgrade", "validate", "x"]).contains("wrong downgrade target version format"));
    has(&cli.ok(&["downgrade", "validate", "3.6"]), &["Downgrade validate success, cluster version 3.7"]);
    has(&cli.ok(&["downgrade", "enable", "3.6"]), &["Downgrade enable success, cluster version 3."]);
    eventually("the cluster speaks the older version", || {
        let status = cli.json(&["endpoint", "status"]);
        let status = &status[0]["Status"];
        (status["storageVersion"] == "3.6.0" && status["downgradeInfo"]["targetVersion"] == "3.6.0")
            .then_some(())
    });
    assert!(cli.refused(&["downgrade", "enable", "3.5"]).contains("cluster has a downgrade job in progress"));
    has(&cli.ok(&["downgrade", "cancel"]), &["Downgrade cancel success, cluster version 3."]);
    eventually("it speaks the newest again", || {
        let status = cli.json(&["endpoint", "status"]);
        (status[0]["Status"]["storageVersion"] == "3.7.0").then_some(())
    });
}

pub fn checks(cli: &Cli) {
    has(&cli.ok(&["check", "perf", "--load", "s", "--auto-compact"]), &["PASS"]);
    has(&cli.ok(&["check", "datascale", "--load", "s", "--auto-compact"]), &["PASS"]);
}

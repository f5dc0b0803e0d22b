//! Every built-in kind through the whole API: made, read in every form, replaced, and patched in every form. What must be
//! the same in every form is asserted here; what a kind's object becomes on the way stands in `testdata/golden`, a file
//! a group. `make golden` writes those files anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use api_types::{Resource, codec, table};
use futures::FutureExt as _;
use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, Cluster, Running, ask};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Columns of ages and times, and of what the server itself notes when it likes to.
const VARYING: &[&str] =
    &["Age", "Last Seen", "First Seen", "Created At", "TimeAdded", "MissingPL", "Available"];
/// Kinds whose status the server itself writes when it likes to.
const STATUS_OF_THE_SERVER: &[&str] = &["APIService", "FlowSchema", "PriorityLevelConfiguration"];

fn testdata(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

/// An object of `objects.yaml`.
struct Case {
    resource: &'static Resource,
    text: String,
    sent: Value,
    list: String,
    path: String,
}

fn cases() -> Vec<Case> {
    let all = std::fs::read_to_string(testdata("objects.yaml")).expect("objects");
    let case = |text: &str| {
        let sent = codec::decode_yaml(text.as_bytes()).expect("YAML").value;
        let of = |name: &str| sent[name].as_str().expect("text");
        let resource = table::by_api_version(of("apiVersion"), of("kind")).expect("a kind of the table");
        let root = if resource.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if resource.namespaced { "namespaces/default/" } else { "" };
        let list = format!("{root}/{}/{namespace}{}", resource.api_version(), resource.resource);
        let path = format!("{list}/{}", sent["metadata"]["name"].as_str().expect("a name"));
        Case { resource, text: text.to_owned(), sent, list, path }
    };
    all.split("\n---\n").map(case).collect()
}

#[test]
fn no_kind_is_missing() {
    let cases = cases();
    let served = table::resources().iter().filter(|one| one.served_by_default && one.is_stored());
    let missing: Vec<String> = served
        .filter(|one| one.has_verb("create") && !cases.iter().any(|case| std::ptr::eq(case.resource, *one)))
        .map(|one| format!("{} {}", one.api_version(), one.kind))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[tokio::test]
async fn every_kind_goes_through_every_form() {
    let cluster = Cluster::start().await;
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    let mut failed = Vec::new();
    for case in cases() {
        // All kinds are played, whatever is wrong with one of them.
        let Ok(entry) = AssertUnwindSafe(play(&cluster, &case)).catch_unwind().await else {
            failed.push(case.path.clone());
            continue;
        };
        let group = if case.resource.group.is_empty() { "core" } else { case.resource.group.as_str() };
        groups.entry(group.to_owned()).or_default().push_str(&entry);
    }
    assert_eq!(failed, Vec::<String>::new(), "what is wrong stands above");
    compare(&groups);
}

/// Compares with the files, or writes them.
fn compare(groups: &BTreeMap<String, String>) {
    let folder = testdata("golden");
    if std::env::var_os("GOLDEN_BLESS").is_some() {
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("folder");
        for (group, text) in groups {
            std::fs::write(folder.join(format!("{group}.txt")), text).expect("written");
        }
        return;
    }
    let mut differences = String::new();
    for (group, text) in groups {
        let known = std::fs::read_to_string(folder.join(format!("{group}.txt"))).unwrap_or_default();
        let (mut old, mut new) = (known.lines(), text.lines());
        let mut kind = "";
        loop {
            match (old.next(), new.next()) {
                (None, None) => break,
                (old, new) => {
                    kind = new.filter(|line| line.starts_with('#')).unwrap_or(kind);
                    if old != new {
                        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
                        writeln!(differences, "{group} {kind}\n- {old}\n+ {new}").expect("text");
                    }
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "not as in testdata/golden (`make golden` writes it anew):\n{differences}"
    );
}

/// Plays one kind; what it becomes, as text.
async fn play(cluster: &Running, case: &Case) -> String {
    let what = format!("{} {}", case.resource.api_version(), case.resource.kind);
    let root = |ask: Ask| async move { cluster.root(ask).await };
    let made = root(ask("POST", &case.list).body("application/yaml", case.text.clone())).await;
    let made = expect(made, 201, &format!("{what}: made"));
    let read = expect(root(ask("GET", &case.path)).await, 200, &what);
    same(&format!("{what}: read"), &made, &read);

    let yaml = root(ask("GET", &case.path).header("accept", "application/yaml")).await;
    let yaml = codec::decode_yaml(&yaml.bytes).expect("YAML").value;
    same(&format!("{what}: YAML"), &read, &yaml);
    let bytes = root(ask("GET", &case.path).header("accept", PROTOBUF)).await;
    let proto = codec::from_envelope(&bytes.bytes).expect("protobuf");
    same(&format!("{what}: protobuf"), &read, &proto);
    let table = expect(root(ask("GET", &case.path).header("accept", TABLE)).await, 200, &what);

    replace(cluster, case, &what).await;
    for (form, patch) in patches(case) {
        let query = if form.contains("apply") { "?fieldManager=golden&force=true" } else { "" };
        let sent = ask("PATCH", &format!("{}{query}", case.path)).body(form, patch);
        let patched = expect(root(sent).await, 200, &format!("{what}: {form}"));
        same(&format!("{what}: {form}"), &read, &patched);
    }
    let last = expect(root(ask("GET", &case.path)).await, 200, &what);
    let annotations = &last["metadata"]["annotations"];
    for name in ["golden.dev/json", "golden.dev/merge", "golden.dev/strategic"] {
        assert!(annotations[name].is_string(), "{what}: {name}: {annotations}");
    }
    again(cluster, case, &what, &last).await;
    describe(&what, case, &read, &table, &last)
}

/// Sends the whole object with a label more, in protobuf; whoever writes in between is read first.
async fn replace(cluster: &Running, case: &Case, what: &str) {
    for _ in 0..20 {
        let mut object = expect(cluster.root(ask("GET", &case.path)).await, 200, what);
        let before = object.clone();
        object["metadata"]["labels"]["golden.dev/replaced"] = json!("yes");
        let message = case.resource.built_in_message();
        let bytes = codec::to_envelope(message, &case.resource.api_version(), &case.resource.kind, &object);
        let answer = cluster.root(ask("PUT", &case.path).body(PROTOBUF, bytes.expect("encoded"))).await;
        if answer.code == 409 {
            continue;
        }
        let replaced = expect(answer, 200, &format!("{what}: replaced"));
        assert_eq!(replaced["metadata"]["labels"]["golden.dev/replaced"], "yes", "{what}");
        return same(&format!("{what}: replaced"), &before, &replaced);
    }
    panic!("{what}: always in conflict");
}

/// Patches that change annotations and nothing else. Two of them name all that was sent at first.
fn patches(case: &Case) -> Vec<(&'static str, String)> {
    let mark = |name: &str| json!({format!("golden.dev/{name}"): "yes"});
    let steps = json!([
        {"op": "test", "path": "/kind", "value": case.resource.kind.as_str()},
        {"op": "add", "path": "/metadata/annotations", "value": mark("json")}]);
    let merge = json!({"metadata": {"annotations": mark("merge")}, "nothing": null});
    let mut strategic = case.sent.clone();
    strategic["metadata"]["annotations"] = mark("strategic");
    vec![
        ("application/json-patch+json", steps.to_string()),
        ("application/merge-patch+json", merge.to_string()),
        ("application/strategic-merge-patch+json", strategic.to_string()),
        ("application/apply-patch+yaml", case.text.clone()),
    ]
}

/// What is applied twice is written once.
async fn again(cluster: &Running, case: &Case, what: &str, last: &Value) {
    let path = format!("{}?fieldManager=golden&force=true", case.path);
    let sent = ask("PATCH", &path).body("application/apply-patch+yaml", case.text.clone());
    let applied = expect(cluster.root(sent).await, 200, &format!("{what}: applied again"));
    if !STATUS_OF_THE_SERVER.contains(&case.resource.kind.as_str()) {
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        assert_eq!(version(&applied), version(last), "{what}: applied again");
    }
}

fn expect(answer: Answer, code: u16, what: &str) -> Value {
    assert_eq!(answer.code, code, "{what}: {}", answer.text());
    answer.json()
}

/// Removes what is null: protobuf has no word for it.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// The object without what differs with each write, and without what tests add.
fn stable(object: &Value) -> Value {
    let mut object = object.clone();
    remove_nulls(&mut object);
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let whole = object.as_object_mut().expect("an object");
    if STATUS_OF_THE_SERVER.contains(&kind.as_str()) {
        whole.remove("status");
    }
    let metadata = whole["metadata"].as_object_mut().expect("metadata");
    // Annotations of a Deployment are part of its generation.
    for field in ["resourceVersion", "managedFields", "generation"] {
        metadata.remove(field);
    }
    for field in ["annotations", "labels"] {
        let Some(map) = metadata.get_mut(field).and_then(Value::as_object_mut) else { continue };
        map.retain(|name, _| !name.starts_with("golden.dev/"));
        if map.is_empty() {
            metadata.remove(field);
        }
    }
    object
}

fn same(what: &str, one: &Value, other: &Value) {
    let (one, other) = (stable(one), stable(other));
    assert!(one == other, "{what}:\n{one}\n{other}");
}

/// What is different in every run is shown as `*`.
fn mask(text: &str, uid: &str) -> String {
    let text = if uid.is_empty() { text.to_owned() } else { text.replace(uid, "*") };
    let Some((before, after)) = text.split_once("kube-api-access-") else { return text };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
    format!("{before}kube-api-access-*{}", mask(rest, ""))
}

/// Sets times that the server notes to one that is always the same.
fn fix_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match name.as_str() {
                    "lastPhaseTransitionTime" | "lastTransitionTime" => {
                        *value = json!("2026-01-01T00:00:00Z")
                    }
                    _ => fix_times(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fix_times),
        _ => {}
    }
}

fn describe(what: &str, case: &Case, read: &Value, table: &Value, last: &Value) -> String {
    let mut object = stable(read);
    fix_times(&mut object);
    let uid = read["metadata"]["uid"].as_str().unwrap_or_default();
    for field in ["uid", "creationTimestamp"] {
        object["metadata"][field] = json!("*");
    }
    if let Some(generation) = read["metadata"].get("generation") {
        object["metadata"]["generation"] = generation.clone();
    }
    let mut text = format!("# {what}\n");
    for (name, value) in object.as_object().expect("an object") {
        if name != "apiVersion" && name != "kind" {
            writeln!(text, "{name}: {}", mask(&value.to_string(), uid)).expect("text");
        }
    }
    let columns = table["columnDefinitions"].as_array().expect("columns").iter();
    let cells = table["rows"][0]["cells"].as_array().expect("cells").iter();
    let shown = columns.zip(cells).map(|(column, cell)| {
        let name = column["name"].as_str().unwrap_or_default();

        let varies = VARYING.contains(&name);
        format!("{name}={}", if varies { "*".to_owned() } else { mask(&cell.to_string(), uid) })
    });
    writeln!(text, "table: {}", shown.collect::<Vec<_>>().join(" ")).expect("text");
    let owned = last["metadata"]["managedFields"].as_array().expect("managed fields").iter();
    let owned =
        owned.filter(|entry| entry["operation"] == "Apply").map(|entry| entry["fieldsV1"].to_string());
    writeln!(text, "applied: {}", owned.collect::<Vec<_>>().join(" ")).expect("text");
    object["metadata"].as_object_mut().expect("metadata").remove("creationTimestamp");
    let masked: Value = serde_json::from_str(&mask(&object.to_string(), uid)).expect("JSON");
    let message = case.resource.built_in_message();
    let bytes = codec::to_stored(message, &case.resource.api_version(), &case.resource.kind, &masked);
    let bytes = bytes.expect("encoded");
    writeln!(text, "protobuf: {} bytes, {:016x}", bytes.len(), fingerprint(&bytes)).expect("text");
    text
}

/// FNV-1a: changes when a byte does.
fn fingerprint(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

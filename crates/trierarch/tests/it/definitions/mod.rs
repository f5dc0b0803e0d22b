//! Definitions as large as those of real operators: accepted, pruned, defaulted, validated and explained. What each takes
//! is printed (`-- --nocapture`), not judged: `bench api --rows crds` measures.

mod inline;
mod shapes;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, IMAGE, outcome, tools};
use crate::shared::eventually;

struct Large {
    cluster: Cluster,
    /// What was not refused as it should: one run tells everything.
    faults: RefCell<Vec<String>>,
}

impl Large {
    fn write(&self, name: &str, value: &Value) -> PathBuf {
        let path = self.cluster.file(name);
        std::fs::write(&path, value.to_string()).expect("written");
        path
    }

    fn put(&self, verb: &str, object: &Value) -> (bool, String) {
        let file = self.write("object.json", object);
        self.cluster.try_kubectl(&format!("{verb} -f {}", file.display()))
    }

    /// What the object is when it was created.
    fn created(&self, object: &Value) -> Value {
        let (good, text) = self.put("create --validate=false -o json", object);
        assert!(good, "{text}");
        // Warnings come on standard error, after the object.
        let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        values.next().expect("an object").expect("JSON")
    }

    fn refused(&self, object: &Value, why: &str) {
        let (good, text) = self.put("create --validate=false", object);
        if good || !text.contains(why) {
            self.faults.borrow_mut().push(format!("{why:?} is missing: {text}"));
        }
    }

    /// Resident memory of the master, bytes.
    fn memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.cluster.pid("m1"))).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    }

    /// Brings a definition, and waits until it is established; says what that took.
    fn bring(&self, definition: &Value) {
        let clock = env::Env::real().clock;
        let (start, before) = (clock.monotonic(), self.memory());
        let (good, text) = self.put("create", definition);
        assert!(good, "{}", &text[..text.len().min(4000)]);
        let name = definition["metadata"]["name"].as_str().expect("a name");
        // `kubectl wait` does not take the null that a definition has for conditions at first.
        let established = "jsonpath={.status.conditions[?(@.type==\"Established\")].status}";
        self.cluster.until(&format!("get crd {name} -o {established}"), "True");
        println!(
            "{name}: {} KiB, {} rules; established after {:?}, {} KiB more memory",
            definition.to_string().len() >> 10,
            shapes::count_rules(definition),
            clock.monotonic() - start,
            self.memory().saturating_sub(before) >> 10,
        );
    }

    fn explains(&self, what: &str, lines: usize, wanted: &str) {
        let clock = env::Env::real().clock;
        let (start, before) = (clock.monotonic(), self.memory());
        // The kind may not be in the documents yet that another request has just made.
        let text = eventually(what, || {
            let (good, text) = self.cluster.try_kubectl(&format!("explain {what} --recursive"));
            good.then_some(text)
        });
        assert!(text.lines().count() >= lines, "{} lines of {what}", text.lines().count());
        assert!(text.contains(wanted), "{wanted} is missing in {what}");
        let more = self.memory().saturating_sub(before) >> 10;
        println!("explained {what} in {:?}, {more} KiB more memory", clock.monotonic() - start);
    }
}

fn custom(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("large.example.com/{version}"), "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

#[test]
fn large_definitions_are_served() {
    let large = Large { cluster: Cluster::up(&["--simulated", "--masters=1"]), faults: RefCell::default() };
    let document: Value =
        serde_json::from_str(&large.cluster.kubectl("get --raw /openapi/v3/api/v1")).expect("JSON");
    let pod = inline::inline(&document, "PodSpec");
    let template = inline::inline(&document, "PodTemplateSpec");
    let status = shapes::status();
    large.bring(&shapes::definition(
        "routes",
        "Route",
        &["v1", "v1beta1", "v1alpha2"],
        &shapes::routes(),
        &status,
    ));
    large.bring(&shapes::definition("issuers", "Issuer", &["v1"], &shapes::issuers(&template), &status));
    large.bring(&shapes::definition(
        "monitors",
        "Monitor",
        &["v1"],
        &shapes::monitors(&pod, &template),
        &status,
    ));
    routes(&large);
    issuers(&large);
    monitors(&large);
    large.explains("route.spec", 200, "extension19");
    large.explains("issuer", 1000, "provider23");
    large.explains("monitors.spec", 2000, "remote59");
    large
        .cluster
        .kubectl("delete crd routes.large.example.com issuers.large.example.com monitors.large.example.com");
    assert!(!large.cluster.try_kubectl("get routes").0);
    let faults = large.faults.borrow();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn routes(large: &Large) {
    let made = large.created(&custom(
        "v1",
        "Route",
        "a",
        json!({"nonsense": 1, "listeners": [{"name": "l", "port": 80}]}),
    ));
    assert_eq!(made["spec"]["rules"], json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]));
    assert_eq!(made["spec"]["listeners"], json!([{"name": "l", "port": 80, "protocol": "HTTP"}]));
    assert!(made["spec"].get("nonsense").is_none());
    let filter = |filter: Value| json!({"rules": [{"filters": [filter]}]});
    let refusals = [
        (filter(json!({"type": "extension7"})), "route extension7 must be set when type is extension7"),
        (
            filter(json!({"type": "extension7", "extension8": {"name": "x"}})),
            "route extension8 must be nil unless type is extension8",
        ),
        (
            filter(json!({"type": "extension7", "extension7": {"name": "x", "hosts": ["a", "x"]}})),
            "a host must not be the name",
        ),
        (filter(json!({"type": "other"})), "Unsupported value: \"other\""),
        (json!({"rules": [{"matches": [{"path": {"value": "none"}}]}]}), "value must be an absolute path"),
        (
            json!({"rules": [{"matches": [{"path": {"value": "/a b"}}]}]}),
            "must only contain valid characters",
        ),
        (
            json!({"rules": [{"timeouts": {"request": "1s", "backendRequest": "2s"}}]}),
            "backendRequest timeout cannot be longer",
        ),
        (json!({"rules": [{"name": "x"}, {"name": "x"}]}), "Rule name must be unique within the route"),
        (
            json!({"listeners": [{"name": "l", "port": 80}, {"name": "m", "port": 80}]}),
            "Combination of port and protocol must be unique",
        ),
        (json!({"listeners": [{"name": "l", "port": 80}, {"name": "l", "port": 81}]}), "Duplicate value"),
        (json!({"listeners": [{"name": "l", "port": 70000}]}), "should be less than or equal to 65535"),
    ];
    for (spec, why) in refusals {
        large.refused(&custom("v1", "Route", "b", spec), why);
    }
    let mut deep = json!({"type": "extension3", "extension3": {"name": "n", "hosts": ["h"]}});
    let backend = json!({"name": "svc", "port": 80, "filters": [deep]});
    let made = large.created(&custom(
        "v1alpha2",
        "Route",
        "c",
        json!({"class": "x", "rules": [{"backendRefs": [backend]}]}),
    ));
    deep["extension3"]["weight"] = json!(3);
    assert_eq!(
        made["spec"]["rules"][0]["backendRefs"][0],
        json!({"name": "svc", "port": 80, "weight": 1, "filters": [deep]})
    );
    assert_eq!(made["apiVersion"], "large.example.com/v1alpha2");
    let seen = large.cluster.kubectl("get routes.v1.large.example.com c -o jsonpath={.apiVersion}");
    assert_eq!(seen, "large.example.com/v1");
    let (good, text) = large.cluster.try_kubectl(r#"patch route c --type=merge -p {"spec":{"class":"y"}}"#);
    assert!(!good && text.contains("class is immutable"), "{text}");
    // The schema's lists merge by their keys.
    for (manager, name) in [("one", "l1"), ("two", "l2")] {
        let port = 80 + name.len() + usize::from(manager == "two");
        let object = custom("v1", "Route", "d", json!({"listeners": [{"name": name, "port": port}]}));
        let (good, text) = large.put(&format!("apply --server-side --field-manager={manager}"), &object);
        assert!(good, "{text}");
    }
    assert_eq!(large.cluster.kubectl("get route d -o jsonpath={.spec.listeners[*].name}"), "l1 l2");
}

fn issuers(large: &Large) {
    let key = json!({"name": "k"});
    let solver = json!({"dns": {"type": "provider5", "provider5": {"secretRef": key, "config": {"any": {"thing": 1}}, "gone": 1}}});
    let made =
        large.created(&custom("v1", "Issuer", "a", json!({"privateKeyRef": key, "solvers": [solver]})));
    assert_eq!(made["spec"]["server"], "https://acme.example.com/");
    assert_eq!(
        made["spec"]["solvers"][0]["dns"]["provider5"],
        json!({"secretRef": key, "config": {"any": {"thing": 1}}})
    );
    let http =
        json!({"podTemplate": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}}});
    let made = large.created(&custom(
        "v1",
        "Issuer",
        "b",
        json!({"privateKeyRef": key, "solvers": [{"http": http}]}),
    ));
    let port = &made["spec"]["solvers"][0]["http"]["podTemplate"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(port, &json!({"containerPort": 80, "protocol": "TCP"}));
    assert_eq!(made["spec"]["solvers"][0]["http"]["serviceType"], "NodePort");
    let both = json!({"http": {}, "dns": solver["dns"]});
    let refusals = [
        (json!({"solvers": []}), "spec.privateKeyRef: Required value"),
        (json!({"privateKeyRef": key, "solvers": [both]}), "one of dns and http is needed"),
        (
            json!({"privateKeyRef": key, "solvers": [{"dns": {"type": "provider9", "provider9": {}}}]}),
            "secretRef: Required value",
        ),
    ];
    for (spec, why) in refusals {
        large.refused(&custom("v1", "Issuer", "c", spec), why);
    }
}

fn monitors(large: &Large) {
    let container = |name: &str| json!({"name": name, "image": IMAGE, "env": [{"name": "A", "value": "b"}], "resources": {"limits": {"cpu": "1", "memory": 5}}, "ports": [{"containerPort": 9090, "name": "web"}], "livenessProbe": {"httpGet": {"port": "web", "nope": 1}}});
    let spec = json!({"containers": [container("a"), container("b")], "remote7": [{"url": "https://example.com"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "x"}}]}}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]});
    let made = large.created(&custom("v1", "Monitor", "a", spec.clone()));
    assert_eq!(
        (&made["spec"]["replicas"], &made["spec"]["remote7"][0]["timeout"]),
        (&json!(1), &json!("30s"))
    );
    assert_eq!(made["spec"]["containers"][1]["livenessProbe"], json!({"httpGet": {"port": "web"}}));
    assert_eq!(made["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    let mut wrong = spec.clone();
    wrong["remote7"] = json!([{"url": "ftp://example.com"}]);
    large.refused(&custom("v1", "Monitor", "b", wrong), "an URL is one of HTTP");
    let mut wrong = spec.clone();
    wrong["containers"] = json!([container("a"), container("a")]);
    large.refused(&custom("v1", "Monitor", "b", wrong), "Duplicate value");
    let mut wrong = spec.clone();
    wrong["containers"][0]["resources"]["limits"]["cpu"] = json!("much");
    large.refused(&custom("v1", "Monitor", "b", wrong), "should match");
    let mut wrong = spec;
    wrong["volumes"][0]["projected"]["sources"] = json!("none");
    large.refused(&custom("v1", "Monitor", "b", wrong), "must be of type array");
    let (good, text) = {
        let mut command = Command::new(tools().join("kubectl"));
        let patch = r#"[{"op":"add","path":"/spec/containers/1/env/-","value":{"name":"C","value":"d"}}]"#;
        command.env("KUBECONFIG", large.cluster.file("kubeconfig")).args([
            "patch",
            "monitor",
            "a",
            "--type=json",
            "-p",
            patch,
            "-o",
            "jsonpath={.spec.containers[1].env[*].name}",
        ]);
        outcome(&mut command)
    };
    assert!(good && text == "A C", "{text}");
}

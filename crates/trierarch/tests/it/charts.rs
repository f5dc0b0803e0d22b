//! The chart of the control plane: `helm` takes it, and the masters that it describes serve.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Process, outcome, program, tools};
use crate::shared::eventually;

const SET: [&str; 2] = ["--set", "image.repository=registry.example/trierarch,pki.secret=pki"];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/trierarch")
}

fn helm(words: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().expect("folder");
    let mut command = Command::new(tools().join("helm"));
    command.env("HOME", home.path()).args(&words[..1]);
    if words[0] == "template" {
        command.args(["cp", "--namespace", "ns"]);
    }
    outcome(command.arg(chart()).args(&words[1..]))
}

fn stateful_set(flags: &[&str]) -> Value {
    let show = ["template", "--show-only", "templates/statefulset.yaml"];
    let (good, text) = helm(&[&show[..], &SET, flags].concat());
    assert!(good, "{text}");
    serde_saphyr::from_str(&text).expect("YAML")
}

#[test]
fn the_chart_is_sound_and_refuses_what_cannot_be() {
    for masters in ["1", "3", "5"] {
        let set = format!("masters={masters}");
        let (good, text) = helm(&["lint", "--strict", SET[0], SET[1], "--set", &set]);
        assert!(good, "{text}");
        let found = stateful_set(&["--set", &set]);
        assert_eq!(found["spec"]["replicas"].to_string(), masters);
        let (good, text) = helm(&["template", SET[0], SET[1], "--set", &set]);
        assert!(good && text.matches("kind: Service\n").count() == 2, "{text}");
        assert_eq!(text.contains("kind: PodDisruptionBudget"), masters != "1");
    }
    for (set, words) in [
        ("masters=2,pki.secret=s,image.repository=r", "masters"),
        ("image.repository=r", "pki.secret"),
        ("pki.secret=s", "image.repository"),
    ] {
        let (good, text) = helm(&["template", "--set", set]);
        assert!(!good && text.contains(words), "{set}: {text}");
    }
}

/// Where a master of the chart is on this machine.
struct Place {
    name: String,
    api: String,
    peer: String,
}

/// The Secret's files where the volume puts them, out of the folder that `trierarch pki` wrote.
fn mount(set: &Value, written: &Path, to: &Path) {
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
    let pki = volumes.iter().find(|volume| volume["name"] == "pki").expect("pki");
    for item in pki["secret"]["items"].as_array().expect("items") {
        let (key, path) = (item["key"].as_str().expect("a key"), item["path"].as_str().expect("a path"));
        // The Secret's keys are made of the files' names: see the chart's notes.
        let file = key.strip_prefix("etcd-").map_or_else(|| key.to_owned(), |file| format!("etcd/{file}"));
        let to = to.join(path);
        fs::create_dir_all(to.parent().expect("a folder")).expect("folder");
        fs::copy(written.join(&file), to).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// The arguments of a master as its pod gets them, at places of this machine.
fn arguments(set: &Value, place: &Place, places: &[Place], folder: &Path) -> Vec<String> {
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"], serde_json::json!(["trierarch", "server"]));
    let mut moved = BTreeMap::from([
        ("$(POD_NAME)".to_owned(), place.name.clone()),
        ("$(POD_IP)".to_owned(), "127.0.0.1".to_owned()),
        ("/var/lib/trierarch/data".to_owned(), folder.join(&place.name).display().to_string()),
        ("/etc/trierarch/pki".to_owned(), folder.join("mounted").display().to_string()),
        ("0.0.0.0:2380".to_owned(), place.peer.clone()),
        ("0.0.0.0:6443".to_owned(), place.api.clone()),
        ("127.0.0.1:2379".to_owned(), format!("127.0.0.1:{}", env::ports::free())),
    ]);
    for Place { name, peer, .. } in places {
        moved.insert(format!("{name}.cp-trierarch-members.ns.svc:2380"), peer.clone());
    }
    let argument = |argument: &Value| {
        let text = argument.as_str().expect("text").to_owned();
        moved.iter().fold(text, |text, (from, to)| text.replace(from, to))
    };
    container["args"].as_array().expect("arguments").iter().map(argument).collect()
}

#[test]
fn the_masters_of_the_chart_serve() {
    let folder = TempDir::new().expect("folder");
    let set = stateful_set(&[]);
    let local = || format!("127.0.0.1:{}", env::ports::free());
    let places: Vec<Place> =
        (0..3).map(|n| Place { name: format!("cp-trierarch-{n}"), api: local(), peer: local() }).collect();
    let mut pki = program();
    pki.args(["pki", "--dir"]).arg(folder.path().join("pki"));
    for Place { name, api, .. } in &places {
        pki.arg("--master").arg(format!("{name}=https://{api},{name}.cp-trierarch-members.ns.svc"));
    }
    let (good, text) = outcome(&mut pki);
    assert!(good, "{text}");
    mount(&set, &folder.path().join("pki"), &folder.path().join("mounted"));
    let start = |place: &Place| {
        let log = fs::File::create(folder.path().join(format!("{}.log", place.name))).expect("log");
        let mut command = program();
        command.arg("server").args(arguments(&set, place, &places, folder.path()));
        Process(command.stdout(Stdio::null()).stderr(log).spawn().expect("start"))
    };
    let _masters: Vec<Process> = places.iter().map(start).collect();
    for Place { name, .. } in &places {
        eventually(&format!("{name} serves"), || {
            let mut kubectl = Command::new(tools().join("kubectl"));
            kubectl.env("HOME", folder.path()).arg("--kubeconfig").arg(folder.path().join("pki/kubeconfig"));
            let (good, text) =
                outcome(kubectl.args(["--context", &format!("trierarch-{name}"), "get", "--raw", "/readyz"]));
            (good && text == "ok").then_some(())
        });
    }
}

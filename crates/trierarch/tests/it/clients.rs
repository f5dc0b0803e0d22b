//! Clients of other languages against a whole cluster.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, outcome, tools};

/// What a script prints that builds clients where that has not happened yet.
fn built(script: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(script);
    let built = Command::new(path).output().expect("a shell");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "clients are missing: run scripts/{script}\n{errors}");
    String::from_utf8_lossy(&built.stdout).trim().to_owned()
}

/// Plays parts of the program in Go, with switches of client-go's.
fn play(cluster: &Cluster, parts: &[&str], switches: &[(&str, &str)]) {
    let mut command = Command::new(built("go-clients"));
    command.arg(cluster.file("kubeconfig")).args(parts).envs(switches.iter().copied());
    // A stream of what there is that differs from a list of it, or an object that a handler changes, ends the program.
    command.env("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true").env("KUBE_CACHE_MUTATION_DETECTOR", "true");
    let (good, text) = outcome(&mut command);
    assert!(good && text.contains("everything held"), "{text}");
}

#[test]
fn client_go_and_controller_runtime_find_what_they_expect() {
    let cluster = Cluster::up(&["--simulated"]);
    let parts = ["typed", "same", "informers", "dynamic", "discovery", "leading", "events", "manager"];
    play(&cluster, &parts, &[]);
    for namespace in ["go-informers", "go-dynamic"] {
        cluster.kubectl(&format!("delete namespace {namespace}"));
    }
    // Lists and watches in place of streams; CBOR, which nobody speaks here, would be welcome.
    let switches = [("KUBE_FEATURE_WatchListClient", "false"), ("KUBE_FEATURE_ClientsAllowCBOR", "true")];
    play(&cluster, &["informers", "dynamic"], &switches);
}

#[test]
fn the_python_client_finds_what_it_expects() {
    let packages = tools().join("python");
    assert!(packages.join("kubernetes").is_dir(), "the Python client is missing: run scripts/tools");
    let cluster = Cluster::up(&["--simulated"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/walk.py");
    let mut command = Command::new("python3");
    let (good, text) =
        outcome(command.arg(script).arg(cluster.file("kubeconfig")).env("PYTHONPATH", packages));
    assert!(good && text.contains("everything held"), "{text}");
}

#[test]
fn the_clients_in_java_find_what_they_expect() {
    let classes = built("java-clients");
    let cluster = Cluster::up(&["--simulated"]);
    let mut command = Command::new("java");
    command.args(["-cp", &classes, "clients.Main"]).arg(cluster.file("kubeconfig"));
    let (good, text) = outcome(&mut command);
    assert!(good && text.contains("everything held"), "{text}");
}

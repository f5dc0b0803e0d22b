//! Clients of other languages against a whole cluster.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, outcome, tools};

/// The program in Go, built by its script where that has not happened yet.
fn go_clients() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/go-clients");
    let built = Command::new(script).output().expect("a shell");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "the clients in Go are missing: run scripts/go-clients\n{errors}");
    Command::new(String::from_utf8_lossy(&built.stdout).trim())
}

/// Plays parts of the program in Go, with switches of client-go's.
fn play(cluster: &Cluster, parts: &[&str], switches: &[(&str, &str)]) {
    let mut command = go_clients();
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

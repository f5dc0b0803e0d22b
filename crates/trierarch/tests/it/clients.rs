//! Clients of other languages against a whole cluster.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, outcome, tools};

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

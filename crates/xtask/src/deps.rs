//! `cargo xtask deps-check`: who may depend on whom.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A crate and the local crates it may depend on (not counting dev-dependencies). `*` = any.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base2histogram", &[]),
    ("env", &[]),
    ("protos", &[]),
    ("transport", &["env"]),
    ("api-types", &[]),
    ("mvcc", &[]),
    ("api-rules", &["api-types"]),
    ("rocks", &["mvcc", "store", "wal"]),
    ("wal", &["store"]),
    ("store", &["env", "protos", "transport", "mvcc"]),
    ("etcd-files", &["protos"]),
    ("etcd-api", &["env", "protos", "transport", "store", "mvcc", "etcd-files"]),
    ("backup", &["env", "protos", "etcd-files"]),
    ("apiserver", &["env", "protos", "transport", "api-types", "api-rules", "store", "mvcc"]),
    ("client", &["env", "api-types"]),
    ("controllers", &["env", "api-types", "api-rules", "client"]),
    ("scheduler", &["env", "api-types", "client"]),
    ("node-agent", &["env", "transport", "api-types", "client", "protos"]),
    ("trierarch", &["*"]),
    ("bench", &["env", "protos"]),
    ("chaos", &["*"]),
    ("xtask", &[]),
];

/// Compares `cargo metadata` with [`ALLOWED`].
///
/// # Errors
/// A crate that is not in the table, or a dependency that the table does not allow.
pub fn run(root: &Path) -> Result<()> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let faults = faults(&metadata);
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

fn faults(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
            faults.push(format!("crate {name} is not in the table of crates (crates/xtask/src/deps.rs)"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        for dependency in dependencies.iter().filter(|d| d["kind"] != "dev" && d["path"].is_string()) {
            let other = dependency["name"].as_str().unwrap_or_default();
            if !allowed.contains(&other) && *allowed != ["*"] {
                faults.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependency: &str, kind: Value) -> Value {
        json!({"packages": [{"name": name, "dependencies": [{"name": dependency, "kind": kind, "path": "/x"}]}]})
    }

    #[test]
    fn a_forbidden_dependency_is_named() {
        assert_eq!(faults(&package("mvcc", "store", Value::Null)), ["mvcc must not depend on store"]);
        assert!(faults(&package("store", "mvcc", Value::Null)).is_empty());
    }

    #[test]
    fn dev_dependencies_are_free() {
        assert!(faults(&package("mvcc", "store", json!("dev"))).is_empty());
    }

    #[test]
    fn an_unknown_crate_is_named() {
        assert_eq!(faults(&package("common", "env", Value::Null)).len(), 1);
    }
}

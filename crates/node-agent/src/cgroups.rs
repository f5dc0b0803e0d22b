//! The pod's own control groups: made with limits before its sandbox, removed after it. Driver.
//!
//! Works on cgroup v1 hierarchies mounted apart and on v2; what cannot be written is left to the runtime's groups.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pod::resources::{PodCgroup, cpu_weight};

const MOUNT: &str = "/sys/fs/cgroup";
/// CFS period in microseconds.
const PERIOD_MICROS: i64 = 100_000;
/// How deep the groups of a pod nest at most.
const DEPTH: usize = 6;

/// Every hierarchy: the one of v2, or each controller's of v1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(MOUNT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Makes the pod's groups and writes its limits.
pub(crate) fn make(group: &PodCgroup) {
    let below = group.path.trim_start_matches('/');
    if let [only] = hierarchies().as_slice() {
        let dir = only.join(below);
        let _ = fs::create_dir_all(&dir);
        put(&dir, "cpu.weight", cpu_weight(group.cpu_shares));
        if let Some(quota) = group.cpu_quota {
            write(&dir.join("cpu.max"), &format!("{quota} {PERIOD_MICROS}"));
        }
        if let Some(limit) = group.memory_limit {
            put(&dir, "memory.max", limit);
        }
        return;
    }
    let root = Path::new(MOUNT);
    for (controller, file, value) in [
        ("cpu", "cpu.shares", Some(group.cpu_shares)),
        ("cpu", "cpu.cfs_quota_us", group.cpu_quota),
        ("memory", "memory.limit_in_bytes", group.memory_limit),
    ] {
        let Some(value) = value else { continue };
        let dir = root.join(controller).join(below);
        let _ = fs::create_dir_all(&dir);
        put(&dir, file, value);
    }
}

fn put(dir: &Path, file: &str, value: i64) {
    write(&dir.join(file), &value.to_string());
}

fn write(file: &Path, text: &str) {
    if let Err(error) = fs::write(file, text) {
        tracing::debug!(file = %file.display(), %error, "a control group's limit was not written");
    }
}

/// Removes the groups of the pod, whatever class it had; groups that still hold a process stay.
pub(crate) fn remove(root: &str, uid: &str) {
    for hierarchy in hierarchies() {
        for class in ["", "burstable", "besteffort"] {
            let group =
                hierarchy.join(root.trim_matches('/')).join("kubepods").join(class).join(format!("pod{uid}"));
            remove_tree(&group, DEPTH);
        }
    }
}

fn remove_tree(dir: &Path, depth: usize) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path(), depth - 1);
        }
    }
    let _ = fs::remove_dir(dir);
}

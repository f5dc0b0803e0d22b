//! Removes what a real cluster left in the kernel, in the order that leaves nothing behind: containers first (killing
//! their shims first would orphan them), then shims, mounts, cgroups and namespaces. Touches only what carries the
//! cluster's own names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use env::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::Layout;
use super::machine;
use super::shell::succeeds;

/// How long killed processes may take to leave their cgroups.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Mounts stack; more passes than any node has layers.
const UNMOUNT_PASSES: usize = 3;

/// Removes everything of `layout` that is not a process of ours (those are ended before).
pub async fn remove_machine(clock: &Clock, layout: &Layout) -> Result<()> {
    kill_containers(clock, layout).await;
    kill_shims(layout);
    for _ in 0..UNMOUNT_PASSES {
        unmount_below(&layout.machine_dir());
    }
    for hierarchy in hierarchies() {
        remove_cgroups(&hierarchy.join(layout.cgroup()));
    }
    for node in layout.nodes() {
        succeeds(&format!("ip netns delete {}", layout.namespace(&node)));
    }
    machine::remove_fabric(layout);
    match fs::remove_dir_all(layout.machine_dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The roots of all cgroup hierarchies: one for version 2, one a controller for version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut found = vec![root.to_owned()];
    if let Ok(entries) = fs::read_dir(root) {
        found.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
}

async fn kill_containers(clock: &Clock, layout: &Layout) {
    let deadline = clock.monotonic() + PATIENCE;
    loop {
        let mut pids = Vec::new();
        for hierarchy in hierarchies() {
            collect_pids(&hierarchy.join(layout.cgroup()), &mut pids);
        }
        if pids.is_empty() || clock.monotonic() > deadline {
            return;
        }
        pids.into_iter().for_each(kill_pid);
        clock.sleep(POLL).await;
    }
}

fn collect_pids(cgroup: &Path, pids: &mut Vec<i32>) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        collect_pids(&entry.path(), pids);
    }
}

fn remove_cgroups(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&entry.path());
    }
    // A cgroup that still has members stays and is removed by the next `down`.
    let _ = fs::remove_dir(cgroup);
}

/// Shims are the processes whose arguments name a containerd socket of ours.
fn kill_shims(layout: &Layout) {
    let ours = layout.machine_dir().display().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        let words: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        let is_shim = words.first().is_some_and(|program| program.contains("containerd-shim"));
        if is_shim && words.iter().any(|word| word.starts_with(&ours)) {
            kill_pid(pid);
        }
    }
}

fn kill_pid(pid: i32) {
    // It may have ended by itself in the meantime.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut ours: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| Path::new(at).starts_with(dir))
        .collect();
    ours.sort_by_key(|at| std::cmp::Reverse(at.len()));
    for at in ours {
        succeeds(&format!("umount -l {at}"));
    }
}

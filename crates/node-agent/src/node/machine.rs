//! What this machine is and has, read from the kernel. Driver.

use std::fs;
use std::path::Path;

use super::pressure::{Signals, Supply};
use crate::context::Capacity;

/// Pods a node takes (the kubelet's default).
const MAX_PODS: i64 = 110;

/// Facts that `nodeInfo` reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Reads the facts; what cannot be read stays empty.
pub(crate) fn machine() -> Machine {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let machine_id = line("/etc/machine-id");
    let uuid = line("/sys/class/dmi/id/product_uuid");
    Machine {
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
    }
}

/// Reads how much of everything there is; the disk is that of `root`.
pub(crate) fn capacity(root: &Path) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo_bytes(&memory, "MemTotal:").and_then(|bytes| i64::try_from(bytes).ok());
    let disk = nix::sys::statvfs::statvfs(root)
        .ok()
        .and_then(|stat| i64::try_from(stat.blocks().checked_mul(stat.fragment_size())?).ok());
    Capacity {
        cpu_milli: i64::try_from(cores).unwrap_or(1) * 1000,
        memory_bytes: total.unwrap_or(0),
        disk_bytes: disk.unwrap_or(0),
        pods: MAX_PODS,
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads how much of everything is left; the disk is that of `root`.
pub(crate) fn signals(root: &Path) -> Signals {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name| meminfo_bytes(&memory, name);
    let stat = nix::sys::statvfs::statvfs(root).ok();
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    Signals {
        memory: of("MemAvailable:")
            .zip(of("MemTotal:"))
            .map(|(available, capacity)| Supply { available, capacity }),
        disk: stat.map(|stat| Supply {
            available: bytes(stat.blocks_available(), stat.fragment_size()),
            capacity: bytes(stat.blocks(), stat.fragment_size()),
        }),
        // A file system that makes inodes as it needs them says that it has none.
        inodes: stat
            .filter(|stat| stat.files() > 0)
            .map(|stat| Supply { available: stat.files_available(), capacity: stat.files() }),
        pids: pids(
            &line("/proc/loadavg"),
            &line("/proc/sys/kernel/pid_max"),
            &line("/proc/sys/kernel/threads-max"),
        ),
    }
}

/// Process ids: the kernel's limit is the smaller of two; the tasks that exist follow the slash in `loadavg`.
fn pids(loadavg: &str, pid_max: &str, threads_max: &str) -> Option<Supply> {
    let capacity: u64 = pid_max.parse::<u64>().ok()?.min(threads_max.parse().ok()?);
    let tasks: u64 = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Supply { available: capacity.saturating_sub(tasks), capacity })
}

/// The architecture as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read() {
        let meminfo = "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:   512 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemAvailable:"), Some(512 << 10));
        let loadavg = "0.10 0.20 0.30 2/150 4711";
        assert_eq!(pids(loadavg, "1000", "32768"), Some(Supply { available: 850, capacity: 1000 }));
        assert_eq!(pids(loadavg, "1000", "100"), Some(Supply { available: 0, capacity: 100 }));
        assert_eq!(pids("", "1000", "100"), None);
    }

    #[test]
    fn this_machine_tells_everything() {
        let seen = signals(Path::new("/"));
        for supply in [seen.memory, seen.disk, seen.pids] {
            let supply = supply.expect("measured");
            assert!(supply.capacity > 0 && supply.available <= supply.capacity, "{supply:?}");
        }
    }
}

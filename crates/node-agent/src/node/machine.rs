//! What this machine is and has, read from the kernel. Driver.

use std::fs;

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
pub(crate) fn capacity(root: &std::path::Path) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|text| text.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0);
    let disk = nix::sys::statvfs::statvfs(root)
        .ok()
        .and_then(|stat| i64::try_from(stat.blocks().checked_mul(stat.fragment_size())?).ok());
    Capacity {
        cpu_milli: i64::try_from(cores).unwrap_or(1) * 1000,
        memory_bytes: kibibytes * 1024,
        disk_bytes: disk.unwrap_or(0),
        pods: MAX_PODS,
    }
}

/// The architecture as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

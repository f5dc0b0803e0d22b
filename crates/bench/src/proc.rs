//! What the kernel says of processes and of the machine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// The processor time that a process has used.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field may hold blanks and brackets; after its end `utime` and `stime` are the 12th and 13th.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Ticks are hundredths of a second on every Linux that this runs on (`getconf CLK_TCK`).
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory in KiB: now and at most so far.
pub fn memory_kib(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
}

/// The processor and the memory of this machine.
pub fn machine() -> String {
    let find = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|line| line.split(':').nth(1).map(|value| value.trim().to_owned())).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (model, memory) = (find("/proc/cpuinfo", "model name"), find("/proc/meminfo", "MemTotal"));
    format!("{model}, {cores} cores, {memory} memory")
}

/// What the files below a folder take in MiB: those that are not of a log, and those that are.
pub fn disk_bytes(folder: &Path, log: bool) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let log = log || name == "wal" || name == "log" || name == "raft";
        if meta.is_dir() {
            let below = disk_bytes(&entry.path(), log);
            sum = (sum.0 + below.0, sum.1 + below.1);
        } else {
            let size = (meta.blocks() * 512) as f64 / (1 << 20) as f64;
            if log { sum.1 += size } else { sum.0 += size }
        }
    }
    sum
}

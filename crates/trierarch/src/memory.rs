//! How much memory there is.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};

/// What clients of the store may hold of it: a part of so many.
const PART: u64 = 4;
/// Where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// Bytes that requests and answers of clients may hold where nobody says otherwise.
pub fn for_clients() -> u64 {
    available(Path::new("/")) / PART
}

/// Keeps what this process has in memory, and what it will have, out of the swap area. What is mapped and never touched
/// takes no memory for it.
///
/// # Errors
/// The process may not have so much (`RLIMIT_MEMLOCK`).
pub fn lock() -> Result<(), Errno> {
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
}

/// Bytes that this process may use: the machine's memory, or its control group's if that is less.
fn available(root: &Path) -> u64 {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let limits = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.into_iter().filter_map(|path| read(path).trim().parse::<u64>().ok());
    let table = read("proc/meminfo");
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    let total = total.and_then(|kib| kib.trim().parse::<u64>().ok()).map(|kib| kib << 10);
    limits.chain(total).min().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        assert_eq!(available(folder.path()), UNKNOWN);
        write("proc/meminfo", "MemFree: 7 kB\nMemTotal:       24000000 kB\n");
        assert_eq!(available(folder.path()), 24_000_000 << 10);
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(available(folder.path()), 24_000_000 << 10);
        write("sys/fs/cgroup/memory.max", "1073741824\n");
        assert_eq!(available(folder.path()), 1 << 30);
    }
}

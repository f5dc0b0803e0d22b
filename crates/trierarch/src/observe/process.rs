//! What the kernel says of this process, under the names of Prometheus' own libraries. Those of Go's runtime are there
//! because dashboards draw them: memory and threads say what they say of a Go program as far as there is a counterpart,
//! and what only Go has (its collector, its caches) is 0.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::recorder::number;

/// Linux counts processor time in hundredths of a second towards programs (`getconf CLK_TCK`).
const CLOCK_TICKS: f64 = 100.0;
/// The page size of the machines that this runs on.
const PAGE_BYTES: f64 = 4096.0;

/// Names of Go's runtime that have no counterpart.
const ONLY_GO: &[(&str, &str)] = &[
    ("go_gc_gogc_percent", "gauge"),
    ("go_gc_gomemlimit_bytes", "gauge"),
    ("go_memstats_buck_hash_sys_bytes", "gauge"),
    ("go_memstats_frees_total", "counter"),
    ("go_memstats_gc_sys_bytes", "gauge"),
    ("go_memstats_heap_idle_bytes", "gauge"),
    ("go_memstats_heap_objects", "gauge"),
    ("go_memstats_heap_released_bytes", "gauge"),
    ("go_memstats_last_gc_time_seconds", "gauge"),
    ("go_memstats_mallocs_total", "counter"),
    ("go_memstats_mcache_inuse_bytes", "gauge"),
    ("go_memstats_mcache_sys_bytes", "gauge"),
    ("go_memstats_mspan_inuse_bytes", "gauge"),
    ("go_memstats_mspan_sys_bytes", "gauge"),
    ("go_memstats_next_gc_bytes", "gauge"),
    ("go_memstats_other_sys_bytes", "gauge"),
];

/// The process as Prometheus text.
pub fn render() -> String {
    let stat = Stat::read();
    let mut out = String::new();
    let ((used, limit), (received, sent)) = (files(), octets());
    let status = status();
    let kib = |name: &str| status.get(name).copied().unwrap_or(0.0) * 1024.0;
    let threads = status.get("Threads").copied().unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let heap = kib("RssAnon");
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", stat.cpu_seconds),
        ("process_max_fds", "gauge", limit),
        ("process_network_receive_bytes_total", "counter", received),
        ("process_network_transmit_bytes_total", "counter", sent),
        ("process_open_fds", "gauge", used),
        ("process_resident_memory_bytes", "gauge", stat.resident),
        ("process_start_time_seconds", "gauge", boot_seconds().unwrap_or(0.0) + stat.started),
        ("process_virtual_memory_bytes", "gauge", stat.virtual_bytes),
        ("process_virtual_memory_max_bytes", "gauge", u64::MAX as f64),
        ("os_fd_used", "gauge", used),
        ("os_fd_limit", "gauge", limit),
        ("go_goroutines", "gauge", threads),
        ("go_threads", "gauge", threads),
        ("go_sched_gomaxprocs_threads", "gauge", cores),
        ("go_memstats_alloc_bytes", "gauge", heap),
        ("go_memstats_alloc_bytes_total", "counter", heap),
        ("go_memstats_heap_alloc_bytes", "gauge", heap),
        ("go_memstats_heap_inuse_bytes", "gauge", heap),
        ("go_memstats_heap_sys_bytes", "gauge", kib("VmData")),
        ("go_memstats_stack_inuse_bytes", "gauge", kib("VmStk")),
        ("go_memstats_stack_sys_bytes", "gauge", kib("VmStk")),
        ("go_memstats_sys_bytes", "gauge", kib("VmSize")),
    ] {
        one(&mut out, name, kind, value);
    }
    ONLY_GO.iter().for_each(|(name, kind)| one(&mut out, name, kind, 0.0));
    let version = concat!("trierarch-", env!("CARGO_PKG_VERSION"));
    out.push_str(&format!("# TYPE go_info gauge\ngo_info{{version=\"{version}\"}} 1\n"));
    out.push_str("# TYPE go_gc_duration_seconds summary\ngo_gc_duration_seconds_sum 0\ngo_gc_duration_seconds_count 0\n");
    out
}

fn one(out: &mut String, name: &str, kind: &str, value: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {}", number(value));
}

/// Files that are open, and how many may be.
fn files() -> (f64, f64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = limit.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    (open as f64, soft.unwrap_or(0.0))
}

/// Bytes that came and went over IP in this process' network namespace (`IpExt` of `/proc/self/net/netstat`).
fn octets() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let all: BTreeMap<&str, &str> = names.split(' ').zip(values.split(' ')).collect();
    let value = |name| all.get(name).and_then(|value| value.parse().ok()).unwrap_or(0.0);
    (value("InOctets"), value("OutOctets"))
}

/// The numbers of `/proc/self/status`; sizes are in KiB.
fn status() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pair = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

struct Stat {
    cpu_seconds: f64,
    resident: f64,
    virtual_bytes: f64,
    /// Seconds after the machine's start.
    started: f64,
}

impl Stat {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field may hold blanks and brackets; after its end `utime` and `stime` are the 12th and 13th.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
            .unwrap_or_default();
        let field = |place: usize| fields.get(place).copied().unwrap_or(0.0);
        Self {
            cpu_seconds: (field(11) + field(12)) / CLOCK_TICKS,
            resident: field(21) * PAGE_BYTES,
            virtual_bytes: field(20),
            started: field(19) / CLOCK_TICKS,
        }
    }
}

/// When the machine was started, seconds since the Unix epoch.
fn boot_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described() {
        let text = render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("there");
            line.trim().parse().expect("a number")
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0 && value("os_fd_limit ") > 3.0);
        assert!(value("go_memstats_heap_alloc_bytes ") > 100_000.0 && value("go_threads ") >= 1.0);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(b"there is traffic", socket.local_addr().expect("bound")).expect("sent");
        assert!(octets().0 > 0.0 && octets().1 > 0.0);
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        let age = now - value("process_start_time_seconds ");
        assert!((-2.0..600.0).contains(&age), "{age}");
    }
}

//! Metrics as Prometheus text. Every component records through the `metrics` facade; this is where it is rendered.

use anyhow::Result;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bucket bounds of durations, seconds: etcd's and Kubernetes' common range, from 100 µs to a minute.
const DURATION_BUCKETS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.6384, 5.0, 15.0, 60.0,
];

/// Linux counts processor time in hundredths of a second towards programs (`getconf CLK_TCK`).
const CLOCK_TICKS: i32 = 100;
/// The page size of the machines that this runs on.
const PAGE_BYTES: i64 = 4096;

/// Starts recording; the handle renders what was recorded.
pub fn install() -> Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &DURATION_BUCKETS)?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("metrics are recorded already"))?;
    Ok(handle)
}

/// What was recorded, and what the kernel says of this process (the names of Prometheus' own client libraries).
pub fn text(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    let ticks = i64::from(CLOCK_TICKS);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field may hold blanks and brackets; after its end `utime` and `stime` are the 12th and 13th.
    let fields: Vec<i64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let field = |place: usize| fields.get(place).copied().unwrap_or(0);
    let cpu = (field(11) + field(12)) as f64 / ticks as f64;
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let resident = field(21) * PAGE_BYTES;
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", cpu.to_string()),
        ("process_open_fds", "gauge", files.to_string()),
        ("process_resident_memory_bytes", "gauge", resident.to_string()),
        ("process_virtual_memory_bytes", "gauge", field(20).to_string()),
    ] {
        text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described() {
        let text = text(&PrometheusBuilder::new().build_recorder().handle());
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("there");
            line.trim().parse().expect("a number")
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0);
    }
}

//! Metrics as Prometheus text. Every component records through the `metrics` facade; this is where it is rendered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use env::{Env, TaskGroup};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Renders metrics as Prometheus text.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Bucket bounds of durations, seconds: etcd's and Kubernetes' common range, from 100 µs to a minute.
const DURATION_BUCKETS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.6384, 5.0, 15.0, 60.0,
];

/// Linux counts processor time in hundredths of a second towards programs (`getconf CLK_TCK`).
const CLOCK_TICKS: i32 = 100;
/// The page size of the machines that this runs on.
const PAGE_BYTES: i64 = 4096;

/// Samples are put into their buckets this often; until then each takes memory, whether anyone scrapes or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts recording; what is returned renders what was recorded.
///
/// # Errors
/// It was called before in this process.
pub fn install(env: &Env, tasks: &TaskGroup) -> Result<Render> {
    let handle = recorder()?;
    let (upkept, clock, shutdown) = (handle.clone(), env.clock.clone(), tasks.shutdown().clone());
    tasks.spawn_detached("metrics", async move {
        while !shutdown.is_triggered() {
            upkept.run_upkeep();
            tokio::select! {
                () = clock.sleep(UPKEEP) => {}
                () = shutdown.wait() => {}
            }
        }
    });
    Ok(Arc::new(move || text(&handle)))
}

fn recorder() -> Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &DURATION_BUCKETS)?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("metrics are recorded already"))?;
    Ok(handle)
}

/// What was recorded, and what the kernel says of this process (the names of Prometheus' own client libraries).
fn text(handle: &PrometheusHandle) -> String {
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
    let started = boot_seconds().unwrap_or(0) as f64 + field(19) as f64 / ticks as f64;
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", cpu.to_string()),
        ("process_open_fds", "gauge", files.to_string()),
        ("process_start_time_seconds", "gauge", started.to_string()),
        ("process_resident_memory_bytes", "gauge", resident.to_string()),
        ("process_virtual_memory_bytes", "gauge", field(20).to_string()),
    ] {
        text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
    }
    text
}

/// When the machine was started, seconds since the Unix epoch.
fn boot_seconds() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
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
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        let age = now - value("process_start_time_seconds ");
        assert!((-2.0..600.0).contains(&age), "{age}");
    }
}

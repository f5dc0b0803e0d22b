//! What a scenario showed, for people.

use std::fs;
use std::time::Duration;

use crate::scenario::Scenario;

/// What one run showed.
pub struct Outcome {
    /// From the fault to the first acknowledged write begun after it.
    pub writes_resumed: Option<Duration>,
    /// From the fault until every watcher of a living master saw a write made after it.
    pub watchers_resumed: Option<Duration>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes whose outcome is not known.
    pub unknown: usize,
    /// What did not hold.
    pub wrong: Vec<String>,
}

/// The processor and the memory of this machine.
pub fn machine() -> String {
    let find = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|line| line.split(':').nth(1).map(|value| value.trim().to_owned())).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} cores, {} memory",
        find("/proc/cpuinfo", "model name"),
        find("/proc/meminfo", "MemTotal")
    )
}

/// Prints a scenario's outcomes; whether all invariants held.
pub fn print(scenario: &Scenario, outcomes: &[Outcome]) -> bool {
    println!("## {}: {}", scenario.name, scenario.about);
    let line = |what: &str, times: Vec<Option<Duration>>, limit: u64| {
        let shown: Vec<String> = times.iter().map(|time| show(*time)).collect();
        let median = median(&times);
        let met = median.is_some_and(|median| median <= Duration::from_millis(limit));
        let verdict = if met { "met" } else { "NOT met" };
        println!("{what}: median {} (wanted {limit} ms: {verdict}); runs: {}", show(median), shown.join(" "));
    };
    let limits = scenario.limits;
    line(
        "writes resumed after",
        outcomes.iter().map(|o| o.writes_resumed).collect(),
        limits.writes_resumed_ms,
    );
    line(
        "watchers resumed after",
        outcomes.iter().map(|o| o.watchers_resumed).collect(),
        limits.watchers_resumed_ms,
    );
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    println!("writes: {} acknowledged, {} of unknown outcome", sum(|o| o.acknowledged), sum(|o| o.unknown));
    let wrong: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.wrong).collect();
    match wrong.as_slice() {
        [] => println!("invariants: all held\n"),
        wrong => wrong.iter().for_each(|text| println!("VIOLATED: {text}")),
    }
    wrong.is_empty()
}

fn show(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), |time| format!("{} ms", time.as_millis()))
}

fn median(times: &[Option<Duration>]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    // Runs in which it never happened count as the longest.
    sorted.sort_by_key(|time| time.unwrap_or(Duration::MAX));
    sorted.get(sorted.len() / 2).copied().flatten()
}

//! What a scenario showed, for people.

use std::fs;
use std::time::Duration;

use crate::scenario::Scenario;

/// What one run showed. Times are from the fault on.
pub struct Outcome {
    /// To the first acknowledged write of either kind that was begun after it.
    pub writes_resumed: Option<Duration>,
    /// Until every watcher of a living master saw a write of its kind that was made after it.
    pub watchers_resumed: Option<Duration>,
    /// Until a pod of the Deployment that was scaled then was bound to a node.
    pub controllers_resumed: Option<Duration>,
    /// Until every component had a new leader, where a leader was struck.
    pub led: Option<Duration>,
    /// Until a lost node's pods were ready elsewhere.
    pub replaced: Option<Duration>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// ConfigMaps that were.
    pub configmaps: usize,
    /// Writes and ConfigMaps whose outcome is not known.
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
    let limits = scenario.limits;
    line("writes resumed after", outcomes, |o| o.writes_resumed, limits.writes_resumed_ms);
    line("controllers resumed after", outcomes, |o| o.controllers_resumed, limits.controllers_resumed_ms);
    line("watchers resumed after", outcomes, |o| o.watchers_resumed, limits.watchers_resumed_ms);
    if outcomes.iter().any(|outcome| outcome.led.is_some()) {
        line("new leaders after", outcomes, |o| o.led, limits.controllers_resumed_ms);
    }
    if let Some(limit) = limits.replaced_ms {
        line("the lost node's pods replaced after", outcomes, |o| o.replaced, limit);
    }
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    println!(
        "acknowledged: {} writes and {} ConfigMaps; of unknown outcome: {}",
        sum(|o| o.acknowledged),
        sum(|o| o.configmaps),
        sum(|o| o.unknown)
    );
    let wrong: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.wrong).collect();
    match wrong.as_slice() {
        [] => println!("invariants: all held\n"),
        wrong => {
            wrong.iter().for_each(|text| println!("VIOLATED: {text}"));
            println!();
        }
    }
    wrong.is_empty()
}

/// One time of all runs, beside its limit in milliseconds.
fn line(what: &str, outcomes: &[Outcome], time: fn(&Outcome) -> Option<Duration>, limit: u64) {
    let times: Vec<Option<Duration>> = outcomes.iter().map(time).collect();
    let shown: Vec<String> = times.iter().map(|time| show(*time)).collect();
    let median = median(&times);
    let met = median.is_some_and(|median| median <= Duration::from_millis(limit));
    let verdict = if met { "met" } else { "NOT met" };
    println!("{what}: median {} (wanted {limit} ms: {verdict}); runs: {}", show(median), shown.join(" "));
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

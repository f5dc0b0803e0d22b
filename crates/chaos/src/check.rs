//! What must hold whatever happens. Each check returns what it found wrong.

use std::collections::{BTreeMap, HashMap};

use crate::load::{Seen, Write};

/// Every check over what the writers did and the watchers saw.
pub fn all(writes: &[Write], watchers: &[Vec<Seen>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, seen) in watchers.iter().enumerate() {
        wrong.extend(in_order(number, seen));
    }
    wrong.extend(alike(watchers));
    if let Some(history) = watchers.first() {
        wrong.extend(nothing_lost(writes, history));
        wrong.extend(nothing_twice(history));
        wrong.extend(nothing_invented(writes, history));
    }
    wrong
}

/// A watcher sees revisions that only grow. (Each write of the load is a revision of its own.)
fn in_order(number: usize, seen: &[Seen]) -> Option<String> {
    let broken = seen.windows(2).find(|pair| pair[0].revision >= pair[1].revision)?;
    let (before, after) = (broken[0].revision, broken[1].revision);
    Some(format!("watcher {number} saw revision {after} after {before}"))
}

/// All watchers saw the same history.
fn alike(watchers: &[Vec<Seen>]) -> Option<String> {
    let history = |seen: &[Seen]| -> Vec<(i64, String)> {
        seen.iter().map(|event| (event.revision, format!("{}={}", event.key, event.value))).collect()
    };
    let first = history(watchers.first()?);
    let (number, other) =
        watchers.iter().enumerate().map(|(n, seen)| (n, history(seen))).find(|(_, h)| *h != first)?;
    let at = first.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(first.len().min(other.len()));
    Some(format!(
        "watchers 0 and {number} differ at their event {at}: {:?} and {:?}",
        first.get(at),
        other.get(at)
    ))
}

/// What was acknowledged happened, at the revision that was told.
fn nothing_lost(writes: &[Write], history: &[Seen]) -> Option<String> {
    let by_revision: BTreeMap<i64, &Seen> = history.iter().map(|event| (event.revision, event)).collect();
    writes.iter().find_map(|write| {
        let (_, revision) = write.acknowledged?;
        match by_revision.get(&revision) {
            Some(event) if event.key == write.key && event.value == write.value && !event.deleted => None,
            found => Some(format!(
                "{}={} was acknowledged at {revision}, where {found:?} is",
                write.key, write.value
            )),
        }
    })
}

/// No write took effect more than once.
fn nothing_twice(history: &[Seen]) -> Option<String> {
    let mut times: HashMap<&str, i64> = HashMap::new();
    history.iter().find_map(|event| {
        let first = times.insert(&event.value, event.revision)?;
        Some(format!("{} was applied at {first} and at {}", event.value, event.revision))
    })
}

/// Only what was written happened, and a writer's writes in their order.
fn nothing_invented(writes: &[Write], history: &[Seen]) -> Option<String> {
    let places: HashMap<&str, usize> =
        writes.iter().enumerate().map(|(place, write)| (write.value.as_str(), place)).collect();
    let mut last: HashMap<&str, usize> = HashMap::new();
    history.iter().find_map(|event| {
        let Some(&place) = places.get(event.value.as_str()) else {
            return Some(format!("{} was never written", event.value));
        };
        let writer = event.value.split('-').next().unwrap_or_default();
        match last.insert(writer, place) {
            Some(before) if before > place => {
                Some(format!("{} came after a later write of its writer", event.value))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: &str, revision: Option<i64>) -> Write {
        let begun = env::Env::seeded(1).clock.monotonic();
        let acknowledged = revision.map(|revision| (begun, revision));
        Write { key: "k".into(), value: value.into(), begun, acknowledged }
    }

    fn seen(value: &str, revision: i64) -> Seen {
        let at = env::Env::seeded(1).clock.monotonic();
        Seen { revision, key: "k".into(), value: value.into(), deleted: false, at }
    }

    #[tokio::test]
    async fn a_good_history_passes_and_each_fault_is_found() {
        let writes = [write("0-1", Some(2)), write("0-2", None), write("0-3", Some(4))];
        let good = vec![seen("0-1", 2), seen("0-2", 3), seen("0-3", 4)];
        assert_eq!(all(&writes, &[good.clone(), good.clone()]), Vec::<String>::new());
        let unknown = vec![seen("0-1", 2), seen("0-3", 4)];
        assert_eq!(all(&writes, &[unknown]), Vec::<String>::new(), "an unknown write may be missing");
        let faults = [
            vec![seen("0-1", 2), seen("0-2", 3)],
            vec![seen("0-1", 2), seen("0-3", 3)],
            vec![seen("0-1", 2), seen("0-2", 3), seen("0-3", 4), seen("0-2", 5)],
            vec![seen("0-1", 2), seen("0-3", 4), seen("9-9", 5)],
            vec![seen("0-2", 1), seen("0-1", 2), seen("0-3", 4)],
            vec![seen("0-1", 2), seen("0-3", 4), seen("0-3", 4)],
        ];
        for fault in faults {
            assert!(!all(&writes, std::slice::from_ref(&fault)).is_empty(), "{fault:?}");
        }
        let short = good[..2].to_vec();
        assert!(alike(&[good, short]).is_some());
    }
}

//! Locks (pure): who is told that it holds one is the first in the queue at the revision of the answer, and at every
//! write that it fenced with its key; no two of them hold it at one time for certain.

use std::collections::HashMap;

use super::others::Others;
use super::types::{Change, History, Hold, Session};

/// Judges each hold; what is wrong, if anything.
pub fn check(history: &History, others: &Others) -> Vec<String> {
    let mut wrong: Vec<String> = overlaps(history).into_iter().collect();
    // Without the whole history of the queue it is not known who was first.
    if others.complete {
        let queues = Queues::new(others.changes());
        for hold in &history.holds {
            let revisions = std::iter::once(&hold.revision).chain(&hold.fenced);
            wrong.extend(revisions.filter_map(|revision| queues.not_first(hold, *revision)));
        }
    }
    wrong
}

/// The name of the lock whose queue a key is in.
fn name(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(name, _)| name)
}

/// Who is in which queue.
struct Queues<'a> {
    /// Keys by the lock's name, in the order in which they came; each with its first revision and that of its deletion.
    places: HashMap<&'a str, Vec<(&'a str, i64, i64)>>,
}

impl<'a> Queues<'a> {
    fn new(changes: impl Iterator<Item = &'a Change>) -> Self {
        let mut places: HashMap<&str, Vec<(&str, i64, i64)>> = HashMap::new();
        for change in changes {
            let queue = places.entry(name(&change.key)).or_default();
            match &change.now {
                Some(kv) if kv.create_revision == change.revision => {
                    queue.push((&change.key, change.revision, i64::MAX));
                }
                Some(_) => {}
                None => {
                    let place = queue.iter_mut().rev().find(|(key, ..)| *key == change.key);
                    place.into_iter().for_each(|(_, _, until)| *until = change.revision);
                }
            }
        }
        Self { places }
    }

    fn not_first(&self, hold: &Hold, revision: i64) -> Option<String> {
        let queue = self.places.get(name(&hold.key)).map_or(&[][..], Vec::as_slice);
        let first = queue.iter().find(|(_, from, until)| *from <= revision && revision < *until);
        let first = first.map(|(key, ..)| *key);
        (first != Some(hold.key.as_str()))
            .then(|| format!("at revision {revision} the first in the queue is {first:?}: {hold:?}"))
    }
}

/// Two that held a lock at the same time, each before it was given back and before its lease could end.
fn overlaps(history: &History) -> Option<String> {
    let lasts: HashMap<&str, u64> = history
        .sessions
        .iter()
        .map(|session| (session.key.as_str(), Session::lasts_until(session)))
        .collect();
    let certain = |hold: &Hold| {
        let lasts = lasts.get(hold.key.as_str()).copied().unwrap_or(hold.since);
        hold.until.unwrap_or(lasts).min(lasts)
    };
    let mut holds: Vec<&Hold> = history.holds.iter().filter(|hold| hold.since < certain(hold)).collect();
    holds.sort_by_key(|hold| (name(&hold.key), hold.since));
    let both = |pair: &[&Hold]| name(&pair[0].key) == name(&pair[1].key) && pair[1].since < certain(pair[0]);
    let pair = holds.windows(2).find(|pair| both(pair))?;
    Some(format!("two held one lock at the same time: {:?} and {:?}", pair[0], pair[1]))
}

//! What watchers are promised (pure): ordered, unique, atomic, reliable, resumable, exact previous values, and
//! bookmarks that are never ahead.

use super::past::Past;
use super::types::{Change, Item, Stream};

/// Judges a watcher; the first thing that is wrong.
pub fn check(past: &Past, stream: &Stream, compacted: i64) -> Option<String> {
    let expected: Vec<&Change> =
        past.changes.iter().filter(|change| stream.keys.contains(&change.key)).collect();
    let mut reader = Reader { stream, expected, next: 0, from: 0, compacted };
    let number = |(number, item): (usize, &Item)| {
        let why = reader.item(item, past.last())?;
        Some(format!("{}, message {number}: {why}", stream.name))
    };
    stream.items.iter().enumerate().find_map(number)
}

/// Reads a stream beside the changes that it should tell of.
struct Reader<'a> {
    stream: &'a Stream,
    expected: Vec<&'a Change>,
    /// The next of them.
    next: usize,
    /// The revision asked for.
    from: i64,
    compacted: i64,
}

impl Reader<'_> {
    fn item(&mut self, item: &Item, last: i64) -> Option<String> {
        match item {
            Item::Opened { from } => {
                self.from = *from;
                self.next = self.expected.partition_point(|change| change.revision < *from);
                None
            }
            Item::Changes { revision, changes } => self.changes(*revision, changes),
            Item::Progress { revision } if *revision > last => {
                Some(format!("a bookmark at {revision}, but there are only {last} revisions"))
            }
            Item::Progress { revision } => {
                let missing = self.expected.get(self.next).filter(|change| change.revision <= *revision)?;
                Some(format!("a bookmark at {revision} is ahead of {}", show(missing)))
            }
            Item::Compacted { revision } => {
                let untrue = *revision > self.compacted || *revision <= self.from;
                untrue.then(|| format!("told that {revision} is compacted, asked from {}", self.from))
            }
        }
    }

    fn changes(&mut self, header: i64, changes: &[Change]) -> Option<String> {
        for seen in changes {
            let Some(expected) = self.expected.get(self.next) else {
                return Some(format!("{} never happened", show(seen)));
            };
            if let Some(why) = self.differ(expected, seen) {
                return Some(why);
            }
            self.next += 1;
        }
        let newest = changes.last()?.revision;
        if header < newest {
            return Some(format!("the header says {header}, a change {newest}"));
        }
        let torn = self.expected.get(self.next).filter(|change| change.revision == newest)?;
        Some(format!("revision {newest} came in parts: {} was not in the message", show(torn)))
    }

    fn differ(&self, expected: &Change, seen: &Change) -> Option<String> {
        let same = expected.revision == seen.revision && expected.key == seen.key && expected.now == seen.now;
        if !same {
            return Some(format!("{} came where {} was due", show(seen), show(expected)));
        }
        let gone = seen.before.is_none() && expected.revision <= self.compacted;
        let exact = !self.stream.previous || seen.before == expected.before || gone;
        (!exact)
            .then(|| format!("{}: before it was {:?}, not {:?}", show(seen), expected.before, seen.before))
    }
}

fn show(change: &Change) -> String {
    let Change { revision, key, now, .. } = change;
    match now {
        Some(kv) => format!("revision {revision}, {key}={} (version {})", kv.value, kv.version),
        None => format!("revision {revision}, {key} deleted"),
    }
}

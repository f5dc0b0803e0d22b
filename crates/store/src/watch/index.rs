//! Which of many ranges hold a key.
//!
//! Whoever has the same range is found together. Single keys are found by their hash. Intervals lie in sorted runs, each twice as long as the next: a new one is merged
//! into the shortest runs (the logarithmic method), so that adding costs little in the mean and there is no balancing.
//! In a run every interval knows the greatest end below it in the implicit search tree, so that a key is looked up in
//! steps of the logarithm of the run's length, and one for each interval that holds it. Whatever the intervals are, memory
//! grows with their number alone.

use std::collections::HashMap;

use bytes::Bytes;
use mvcc::KeyRange;

/// Runs with more dead intervals than this and than living ones are made anew.
const DEAD: usize = 16;

/// Ranges, each with what it belongs to.
pub(super) struct RangeIndex<T> {
    keys: HashMap<Bytes, Vec<T>>,
    runs: Vec<Vec<Interval<T>>>,
    living: usize,
    dead: usize,
}

struct Interval<T> {
    start: Bytes,
    /// No end reaches to the last key.
    end: Option<Bytes>,
    /// The greatest end in the part of the run of which this is the middle.
    reach: Option<Bytes>,
    /// In the order in which they came; none when all were removed.
    owners: Vec<T>,
}

impl<T> Interval<T> {
    fn order(&self) -> (&[u8], bool, Option<&[u8]>) {
        order(&self.start, self.end.as_ref())
    }

    /// The range, in the bytes that all its owners share.
    fn range(&self) -> KeyRange {
        let start = self.start.clone();
        match self.end.clone() {
            Some(end) => KeyRange::Interval { start, end },
            None => KeyRange::From(start),
        }
    }
}

/// Intervals are sorted by where they start, then by where they end.
fn order<'a>(start: &'a Bytes, end: Option<&'a Bytes>) -> (&'a [u8], bool, Option<&'a [u8]>) {
    (start, end.is_none(), end.map(Bytes::as_ref))
}

impl<T> Default for RangeIndex<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), runs: Vec::new(), living: 0, dead: 0 }
    }
}

fn bounds(range: &KeyRange) -> Option<(&Bytes, Option<&Bytes>)> {
    match range {
        KeyRange::Key(_) => None,
        KeyRange::Interval { start, end } => Some((start, Some(end))),
        KeyRange::From(start) => Some((start, None)),
    }
}

/// Whether an end lies behind a key.
fn is_behind(end: Option<&Bytes>, key: &[u8]) -> bool {
    end.is_none_or(|end| end.as_ref() > key)
}

fn later(one: &Option<Bytes>, other: &Option<Bytes>) -> Option<Bytes> {
    one.as_ref().zip(other.as_ref()).map(|(one, other)| one.max(other).clone())
}

impl<T: PartialEq> RangeIndex<T> {
    /// Adds a range; it comes back in the bytes that all its owners share.
    pub fn insert(&mut self, range: KeyRange, owner: T) -> KeyRange {
        let Some((start, end)) = bounds(&range) else {
            let KeyRange::Key(key) = range else { return range };
            let entry = self.keys.entry(key);
            let key = entry.key().clone();
            entry.or_default().push(owner);
            return KeyRange::Key(key);
        };
        if let Some(interval) = same(&mut self.runs, start, end) {
            let lives = !interval.owners.is_empty();
            interval.owners.push(owner);
            let range = interval.range();
            if !lives {
                (self.living, self.dead) = (self.living + 1, self.dead - 1);
            }
            return range;
        }
        self.living += 1;
        let (start, end) = (start.clone(), end.cloned());
        let mut run = vec![Interval { start, reach: end.clone(), end, owners: vec![owner] }];
        while self.runs.last().is_some_and(|last| last.len() < 2 * run.len()) {
            run = self.merge(self.runs.len() - 1, run);
        }
        reach(&mut run);
        self.runs.push(run);
        range
    }

    /// Merges a run with one that is taken out, without the dead.
    fn merge(&mut self, place: usize, run: Vec<Interval<T>>) -> Vec<Interval<T>> {
        let (one, other) = (self.runs.swap_remove(place), run);
        let mut merged = Vec::with_capacity(one.len() + other.len());
        let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
        loop {
            let first = match (one.peek(), other.peek()) {
                (Some(left), Some(right)) => left.order() <= right.order(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return merged,
            };
            match if first { one.next() } else { other.next() } {
                Some(interval) if !interval.owners.is_empty() => merged.push(interval),
                _ => self.dead -= 1,
            }
        }
    }

    /// Takes a range out that was added.
    pub fn remove(&mut self, range: &KeyRange, owner: &T) {
        let Some((start, end)) = bounds(range) else {
            let KeyRange::Key(key) = range else { return };
            if let Some(owners) = self.keys.get_mut(key) {
                owners.retain(|other| other != owner);
                if owners.is_empty() {
                    self.keys.remove(key);
                }
            }
            return;
        };
        let Some(interval) = same(&mut self.runs, start, end) else { return };
        let Some(place) = interval.owners.iter().position(|other| other == owner) else { return };
        interval.owners.remove(place);
        if interval.owners.is_empty() {
            interval.owners = Vec::new();
            (self.living, self.dead) = (self.living - 1, self.dead + 1);
        }
        if self.dead > DEAD.max(self.living) {
            let mut all: Vec<_> =
                self.runs.drain(..).flatten().filter(|interval| !interval.owners.is_empty()).collect();
            all.sort_by(|one, other| one.order().cmp(&other.order()));
            self.dead = 0;
            if !all.is_empty() {
                reach(&mut all);
                self.runs.push(all);
            }
        }
    }

    /// Names the owners of all ranges.
    pub fn all(&self, mut found: impl FnMut(&T)) {
        self.keys.values().flatten().for_each(&mut found);
        self.runs.iter().flatten().flat_map(|interval| &interval.owners).for_each(&mut found);
    }

    /// Names the owners of all ranges that hold a key.
    pub fn find(&self, key: &[u8], mut found: impl FnMut(&T)) {
        if let Some(owners) = self.keys.get(key) {
            owners.iter().for_each(&mut found);
        }
        for run in &self.runs {
            stab(run, key, &mut found);
        }
    }
}

/// The interval of a range that was added before, also if nobody has it any more.
fn same<'a, T>(
    runs: &'a mut [Vec<Interval<T>>],
    start: &Bytes,
    end: Option<&Bytes>,
) -> Option<&'a mut Interval<T>> {
    let wanted = order(start, end);
    runs.iter_mut().find_map(|run| {
        let place = run.partition_point(|interval| interval.order() < wanted);
        run.get_mut(place).filter(|interval| interval.order() == wanted)
    })
}

/// Says of every middle how far its part reaches.
fn reach<T>(run: &mut [Interval<T>]) -> Option<Bytes> {
    let middle = run.len() / 2;
    let (left, rest) = run.split_at_mut(middle);
    let (interval, right) = rest.split_first_mut().expect("invariant: asked of parts that are not empty");
    interval.reach = interval.end.clone();
    for part in [left, right] {
        if !part.is_empty() {
            let below = reach(part);
            interval.reach = later(&interval.reach, &below);
        }
    }
    interval.reach.clone()
}

fn stab<T>(run: &[Interval<T>], key: &[u8], found: &mut impl FnMut(&T)) {
    let (left, rest) = run.split_at(run.len() / 2);
    let Some((interval, right)) = rest.split_first() else { return };
    if !is_behind(interval.reach.as_ref(), key) {
        return;
    }
    stab(left, key, found);
    if interval.start.as_ref() <= key {
        if is_behind(interval.end.as_ref(), key) {
            interval.owners.iter().for_each(&mut *found);
        }
        stab(right, key, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || prop::collection::vec(0u8..4, 0..3).prop_map(Bytes::from);
        prop_oneof![
            key().prop_map(KeyRange::Key),
            key().prop_map(KeyRange::From),
            (key(), key()).prop_map(|(start, end)| KeyRange::Interval { start, end }),
        ]
    }

    proptest! {
        #[test]
        fn finds_what_a_search_through_all_finds(
            steps in prop::collection::vec((range(), any::<bool>()), 1..120),
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..4), 1..20),
        ) {
            let (mut index, mut all) = (RangeIndex::default(), Vec::new());
            for (owner, (range, remove)) in steps.into_iter().enumerate() {
                prop_assert_eq!(&index.insert(range.clone(), owner), &range);
                all.push((range, owner));
                if remove {
                    let (range, owner) = all.swap_remove(owner * 7 % all.len());
                    index.remove(&range, &owner);
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.find(&key, |owner| found.push(*owner));
                found.sort_unstable();
                let holds = all.iter().filter(|(range, _)| range.contains(&key));
                let mut expected: Vec<usize> = holds.map(|(_, owner)| *owner).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn many_nested_ranges_cost_what_they_are() {
        let mut index = RangeIndex::default();
        let key = |number: u32| Bytes::from(number.to_be_bytes().to_vec());
        let nested = |n: u32| KeyRange::Interval { start: key(n), end: key(100_000 - n) };
        (0..10_000).for_each(|n| drop(index.insert(nested(n), n)));
        let stored: usize = index.runs.iter().map(Vec::len).sum();
        assert!(stored == 10_000 && index.runs.len() < 20, "{stored} in {} runs", index.runs.len());
        let mut found = 0;
        index.find(&key(5), |_| found += 1);
        assert_eq!(found, 6);
        (0..10_000).for_each(|n| index.remove(&nested(n), &n));
        assert!(index.runs.iter().map(Vec::len).sum::<usize>() <= DEAD);
    }

    #[test]
    fn owners_of_the_same_range_share_it_and_are_found_in_their_order() {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let ranges = || {
            let (start, end) = (text("a"), text("c"));
            [KeyRange::Key(text("b")), KeyRange::From(text("a")), KeyRange::Interval { start, end }]
        };
        let place = |range: &KeyRange| match range {
            KeyRange::Key(key) | KeyRange::From(key) | KeyRange::Interval { start: key, .. } => key.as_ptr(),
        };
        for number in 0..3 {
            let (mut index, of) = (RangeIndex::default(), || ranges()[number].clone());
            let first = index.insert(of(), 0);
            for owner in 1..100 {
                assert_eq!(place(&index.insert(of(), owner)), place(&first));
            }
            (0..100).filter(|owner| owner % 3 > 0).for_each(|owner| index.remove(&of(), &owner));
            index.insert(of(), 100);
            let mut found = Vec::new();
            index.find(b"b", |owner| found.push(*owner));
            let expected: Vec<i32> = (0..100).filter(|owner| owner % 3 == 0).chain([100]).collect();
            assert_eq!(found, expected);
            assert!(index.runs.iter().map(Vec::len).sum::<usize>() <= 1);
        }
    }
}

//! Which keys several ranges cover together.

use bytes::Bytes;

use crate::types::KeyRange;

/// Disjoint spans of keys that do not touch, in order. `None` as the end is behind the last key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<(Bytes, Option<Bytes>)>);

impl Spans {
    /// The union of ranges: those that overlap or touch become one.
    pub fn new(ranges: impl IntoIterator<Item = KeyRange>) -> Self {
        let mut spans: Vec<_> =
            ranges.into_iter().filter(|range| !range.is_empty()).map(|range| bounds(&range)).collect();
        spans.sort();
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(spans.len());
        for (start, end) in spans {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    if reaches(end.as_ref(), last.as_ref()) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    /// Whether every key of a range is covered.
    pub fn cover(&self, range: &KeyRange) -> bool {
        if let KeyRange::Key(key) = range {
            return self.span_at(key).is_some_and(|end| end.is_none_or(|end| key < end));
        }
        let (start, end) = bounds(range);
        self.span_at(&start)
            .is_some_and(|covered| covered.is_none_or(|last| start < *last) && reaches(covered, end.as_ref()))
    }

    /// The end of the last span that starts at or before a key.
    fn span_at(&self, key: &Bytes) -> Option<Option<&Bytes>> {
        let behind = self.0.partition_point(|(start, _)| start <= key);
        let (_, end) = self.0.get(behind.checked_sub(1)?)?;
        Some(end.as_ref())
    }
}

/// Whether `end` lies at or behind `other`.
fn reaches(end: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    match (end, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    }
}

fn bounds(range: &KeyRange) -> (Bytes, Option<Bytes>) {
    match range {
        KeyRange::Key(key) => {
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(key);
            next.push(0);
            (key.clone(), Some(next.into()))
        }
        KeyRange::Interval { start, end } => (start.clone(), Some(end.clone())),
        KeyRange::From(start) => (start.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys of up to two letters out of three, zero among them.
    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b')], 1..3).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::Key),
            (key(), key()).prop_map(|(start, end)| KeyRange::Interval { start, end }),
            key().prop_map(KeyRange::From),
        ]
    }

    /// Every key of up to four letters that the ranges can tell apart.
    fn all_keys() -> Vec<Bytes> {
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        let mut last = keys.clone();
        for _ in 0..4 {
            let longer = |key: &Vec<u8>| [0, 1, b'a', b'b', b'c'].map(|byte| [&key[..], &[byte]].concat());
            last = last.iter().flat_map(longer).collect();
            keys.extend(last.clone());
        }
        keys.into_iter().filter(|key| !key.is_empty()).map(Bytes::from).collect()
    }

    proptest! {
        #[test]
        fn a_range_is_covered_when_each_of_its_keys_is(
            granted in proptest::collection::vec(range(), 0..5),
            asked in range(),
        ) {
            prop_assume!(!asked.is_empty());
            let spans = Spans::new(granted.clone());
            let mut keys = all_keys();
            keys.retain(|key| asked.contains(key));
            let each = keys.iter().all(|key| granted.iter().any(|range| range.contains(key)));
            // No finite set of keys shows that a range is open: only an open one covers it.
            let open = granted.iter().any(|range| matches!(range, KeyRange::From(_)));
            let expected = each && (open || !matches!(asked, KeyRange::From(_)));
            prop_assert_eq!(spans.cover(&asked), expected);
        }
    }

    #[test]
    fn ranges_that_touch_are_one_and_a_gap_is_not_bridged() {
        let interval = |start: &'static str, end: &'static str| KeyRange::Interval {
            start: start.into(),
            end: end.into(),
        };
        let spans = Spans::new([interval("b", "c"), interval("a", "b"), interval("d", "e")]);
        assert!(spans.cover(&interval("a", "c")));
        assert!(!spans.cover(&interval("a", "c\0")));
        assert!(!spans.cover(&interval("a", "e")));
        assert!(!spans.cover(&KeyRange::From("d".into())));
        assert!(!spans.cover(&KeyRange::Key("c".into())));
        let spans = Spans::new([KeyRange::Key("a".into()), KeyRange::From("a\0".into())]);
        assert!(spans.cover(&KeyRange::From("a".into())));
    }
}

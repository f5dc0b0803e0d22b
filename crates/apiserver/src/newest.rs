//! What was made last, kept for others who want the same: so many entries and bytes at most, the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Up to `ENTRIES` values that have up to `BYTES` together.
pub(crate) struct Newest<K, V, const ENTRIES: usize, const BYTES: usize> {
    /// Each with its bytes.
    kept: HashMap<K, (V, usize), foldhash::fast::RandomState>,
    /// The oldest first.
    order: VecDeque<K>,
    bytes: usize,
}

impl<K, V, const ENTRIES: usize, const BYTES: usize> Default for Newest<K, V, ENTRIES, BYTES> {
    fn default() -> Self {
        Self { kept: HashMap::default(), order: VecDeque::new(), bytes: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Clone, const ENTRIES: usize, const BYTES: usize> Newest<K, V, ENTRIES, BYTES> {
    pub fn get(&self, key: &K) -> Option<V> {
        self.kept.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value of so many bytes; one that is there already is replaced and does not become newer.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        self.bytes += bytes;
        match self.kept.insert(key.clone(), (value, bytes)) {
            Some((_, before)) => self.bytes -= before,
            None => self.order.push_back(key),
        }
        while self.order.len() > ENTRIES || self.bytes > BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, gone)) = self.kept.remove(&oldest) {
                self.bytes -= gone;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_where_entries_or_bytes_are_too_many() {
        let mut newest = Newest::<u8, u8, 3, 10>::default();
        (0..3).for_each(|key| newest.put(key, key, 1));
        newest.put(0, 9, 2);
        assert_eq!([0, 1, 2].map(|key| newest.get(&key)), [Some(9), Some(1), Some(2)]);
        newest.put(3, 3, 1);
        assert_eq!([0, 1].map(|key| newest.get(&key)), [None, Some(1)], "replaced, and the oldest still");
        newest.put(4, 4, 9);
        assert_eq!([1, 2, 3, 4].map(|key| newest.get(&key)), [None, None, Some(3), Some(4)]);
        newest.put(5, 5, 11);
        assert!(
            (0..=5).all(|key| newest.get(&key).is_none()) && newest.bytes == 0,
            "more than there is room"
        );
    }
}

//! Answers of others that are believed for a while, by a digest of the question.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use env::Rng;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// A question that was digested.
pub(crate) type Key = [u8; 32];

/// As many answers as are asked for again; who was not asked for the longest time goes first.
pub(crate) struct Cache<V> {
    size: usize,
    /// Nobody who chooses questions knows their digests.
    salt: Key,
    kept: Mutex<Kept<V>>,
}

struct Kept<V> {
    entries: HashMap<Key, Entry<V>>,
    /// Keys in the order in which they were asked for.
    order: BTreeMap<u64, Key>,
    turn: u64,
}

struct Entry<V> {
    value: V,
    until: Instant,
    turn: u64,
}

impl<V: Clone> Cache<V> {
    /// Keeps `size` answers, at most.
    pub fn new(size: usize, rng: &Rng) -> Self {
        let mut salt = Key::default();
        rng.fill(&mut salt);
        let kept = Kept { entries: HashMap::new(), order: BTreeMap::new(), turn: 0 };
        Self { size, salt, kept: Mutex::new(kept) }
    }

    /// The key of a question of several parts.
    pub fn key<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Key {
        let mut digest = Sha256::new();
        digest.update(self.salt);
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    pub fn get(&self, key: &Key, now: Instant) -> Option<V> {
        self.kept.lock().get(key, now)
    }

    /// Keeps an answer for a time; for none if that is zero.
    pub fn put(&self, key: Key, value: V, now: Instant, ttl: Duration) {
        // A time that never comes is as good as never.
        let Some(until) = now.checked_add(ttl).filter(|_| !ttl.is_zero()) else { return };
        let mut kept = self.kept.lock();
        kept.remove(&key);
        kept.turn += 1;
        let turn = kept.turn;
        kept.order.insert(turn, key);
        kept.entries.insert(key, Entry { value, until, turn });
        while kept.entries.len() > self.size {
            let Some((_, oldest)) = kept.order.pop_first() else { break };
            kept.entries.remove(&oldest);
        }
    }
}

impl<V: Clone> Kept<V> {
    fn get(&mut self, key: &Key, now: Instant) -> Option<V> {
        let next = self.turn + 1;
        let entry = self.entries.get_mut(key)?;
        if entry.until <= now {
            self.remove(key);
            return None;
        }
        self.order.remove(&entry.turn);
        self.order.insert(next, *key);
        (entry.turn, self.turn) = (next, next);
        Some(entry.value.clone())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn answers_last_as_long_as_they_are_said_to() {
        let cache = Cache::new(2, &Rng::seeded(1));
        let now = env::Env::seeded(1).clock.monotonic();
        let [a, b, c] = ["a", "b", "c"].map(|name| cache.key([name]));
        cache.put(a, 1, now, Duration::from_secs(2));
        cache.put(b, 2, now, Duration::ZERO);
        assert_eq!((cache.get(&a, second(now, 1)), cache.get(&b, now)), (Some(1), None));
        assert_eq!(cache.get(&a, second(now, 2)), None);
        for (key, value) in [(a, 1), (b, 2)] {
            cache.put(key, value, now, Duration::from_secs(9));
        }
        assert_eq!(cache.get(&a, now), Some(1));
        cache.put(c, 3, now, Duration::from_secs(9));
        assert_eq!([a, b, c].map(|key| cache.get(&key, now)), [Some(1), None, Some(3)]);
        cache.put(a, 4, now, Duration::from_secs(9));
        assert_eq!([a, c].map(|key| cache.get(&key, now)), [Some(4), Some(3)]);
    }

    #[test]
    fn keys_tell_parts_apart() {
        let cache: Cache<()> = Cache::new(1, &Rng::seeded(1));
        assert_ne!(cache.key(["xy", "z"]), cache.key(["x", "yz"]));
        assert_ne!(cache.key(["x"]), cache.key(["x", ""]));
        let other: Cache<()> = Cache::new(1, &Rng::seeded(2));
        assert_ne!(cache.key(["x"]), other.key(["x"]));
    }
}

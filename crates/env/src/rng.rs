use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

/// The letters of generated names: no vowels and no look-alikes, so that no word appears by chance
/// (Kubernetes' `generateName` and pod-template-hash use the same set).
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Randomness shared by cloning; the same seed gives the same sequence.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Any 64 bits.
    pub fn u64(&self) -> u64 {
        self.0.lock().random()
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }

    /// `duration` lengthened by a random part of up to `fraction` of it.
    pub fn jittered(&self, duration: Duration, fraction: f64) -> Duration {
        duration.mul_f64(1.0 + fraction * self.0.lock().random::<f64>())
    }

    /// A random suffix of `len` letters, as in a generated name.
    pub fn suffix(&self, len: usize) -> String {
        let mut rng = self.0.lock();
        (0..len).map(|_| char::from(NAME_ALPHABET[rng.random_range(0..NAME_ALPHABET.len())])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert_eq!(a.u64(), b.u64());
        assert_eq!(a.suffix(5), b.suffix(5));
        assert_ne!(Rng::seeded(7).u64(), Rng::seeded(8).u64());
    }

    #[test]
    fn bounds_hold() {
        let rng = Rng::seeded(1);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| rng.below(3) < 3));
        let base = Duration::from_secs(10);
        assert!((0..1000).map(|_| rng.jittered(base, 0.2)).all(|d| d >= base && d <= base.mul_f64(1.2)));
        assert!(rng.suffix(200).bytes().all(|c| NAME_ALPHABET.contains(&c)));
    }
}

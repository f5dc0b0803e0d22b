use std::time::Duration;

use crate::Rng;

/// Exponential back-off: each [`Backoff::next`] is `factor` times the last, up to `max`, with jitter on top.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    factor: f64,
    max: Duration,
    jitter: f64,
    current: Option<Duration>,
}

impl Backoff {
    /// Starts at `initial`; `jitter` is the largest part added at random (0.0 for none).
    pub const fn new(initial: Duration, factor: f64, max: Duration, jitter: f64) -> Self {
        Self { initial, factor, max, jitter, current: None }
    }

    /// How long to wait before the next try.
    pub fn next(&mut self, rng: &Rng) -> Duration {
        let base = self.current.map_or(self.initial, |last| last.mul_f64(self.factor)).min(self.max);
        self.current = Some(base);
        rng.jittered(base, self.jitter)
    }

    /// After a success: the next wait is `initial` again.
    pub fn reset(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again() {
        let rng = Rng::seeded(1);
        let mut backoff = Backoff::new(Duration::from_secs(10), 2.0, Duration::from_secs(35), 0.0);
        let waits: Vec<u64> = (0..4).map(|_| backoff.next(&rng).as_secs()).collect();
        assert_eq!(waits, [10, 20, 35, 35]);
        backoff.reset();
        assert_eq!(backoff.next(&rng).as_secs(), 10);
    }
}

//! How often a client may ask whether the server is there (pure), by the rules of Go's gRPC server.

use std::time::Duration;

use tokio::time::Instant;

/// Pings that come too early and are let pass, in a row.
const STRIKES: u32 = 2;
/// How often a client may ask that has no call open.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// The pings of one client.
#[derive(Default)]
pub(crate) struct Pings {
    last: Option<Instant>,
    strikes: u32,
}

impl Pings {
    /// A ping has come; whether it is one too many. `spoken` is whether the client was told anything since the last one:
    /// then it may ask, to find out how fast the way is. `calls` is whether it has a call open, and `every` how often it
    /// may ask then.
    pub fn came(&mut self, now: Instant, spoken: bool, calls: bool, every: Duration) -> bool {
        let last = self.last.replace(now);
        if spoken {
            self.strikes = 0;
            return false;
        }
        let pause = if calls { every } else { IDLE };
        if last.is_some_and(|last| now < last + pause) {
            self.strikes += 1;
        }
        self.strikes > STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    fn too_many(pings: &[(u64, bool, bool)]) -> Vec<bool> {
        let (start, mut state) = (Instant::now(), Pings::default());
        let came = pings.iter().map(|&(second, spoken, calls)| {
            state.came(start + Duration::from_secs(second), spoken, calls, EVERY)
        });
        came.collect()
    }

    #[test]
    fn the_third_early_ping_is_too_much() {
        let quick = [(0, false, true), (1, false, true), (2, false, true), (3, false, true)];
        assert_eq!(too_many(&quick), [false, false, false, true]);
        let in_time =
            [(0, false, true), (5, false, true), (10, false, true), (15, false, true), (20, false, true)];
        assert_eq!(too_many(&in_time), [false; 5]);
    }

    #[test]
    fn without_a_call_the_pause_is_two_hours() {
        let idle = [(0, false, false), (10, false, false), (20, false, false), (30, false, false)];
        assert_eq!(too_many(&idle), [false, false, false, true]);
        let patient = [(0, false, false), (7200, false, false), (14400, false, false), (21600, false, false)];
        assert_eq!(too_many(&patient), [false; 4]);
    }

    #[test]
    fn who_was_answered_may_ask() {
        let busy = [(0, false, true), (0, true, true), (0, false, true), (0, false, true), (0, true, true)];
        assert_eq!(too_many(&busy), [false; 5]);
    }
}

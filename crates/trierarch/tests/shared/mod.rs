//! What the tests of this crate wait with.

use std::time::Duration;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Polls until `check` has an answer.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let clock = env::Env::real().clock;
    let end = clock.monotonic() + DEADLINE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(clock.monotonic() < end, "{what} did not happen in {} s", DEADLINE.as_secs());
        std::thread::sleep(POLL);
    }
}

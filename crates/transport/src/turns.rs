//! Attempts to reach an address, one at a time: a member that is away, or a proxy before it, is not besieged by everybody
//! who wants something of it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// When the last attempt failed; nothing if it did not. Held during one.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The turns at all addresses.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Turn>>>);

impl Turns {
    /// Waits until nobody else tries, and tries, unless an attempt has failed meanwhile.
    ///
    /// # Errors
    /// As the attempt; `NotConnected` where another one failed.
    pub async fn take<T>(
        &self,
        address: &str,
        attempt: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let turn = self.0.lock().entry(address.to_owned()).or_default().clone();
        let came = Instant::now();
        let mut failed = turn.lock().await;
        if failed.is_some_and(|at| at > came) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "an attempt failed meanwhile"));
        }
        let result = attempt.await;
        *failed = result.is_err().then(Instant::now);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_tries_at_a_time_and_those_who_waited_share_its_failure() {
        let (turns, tried) = (Turns::default(), AtomicUsize::new(0));
        let attempt = async || {
            tried.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        };
        let (first, second) = tokio::join!(turns.take("a", attempt()), turns.take("a", attempt()));
        assert_eq!(first.expect_err("refused").kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(second.expect_err("not tried").kind(), io::ErrorKind::NotConnected);
        assert_eq!(tried.load(Ordering::Relaxed), 1);
        turns.take("b", ready(Ok(()))).await.expect("another address");
        turns.take("a", ready(Ok(()))).await.expect("who comes later tries");
        let given_up = turns.take("a", pending::<io::Result<()>>());
        tokio::time::timeout(Duration::ZERO, given_up).await.expect_err("given up");
        turns.take("a", ready(Ok(()))).await.expect("nobody is in the way");
    }
}

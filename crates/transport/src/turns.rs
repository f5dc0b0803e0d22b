//! Attempts to reach an address, one at a time: a member that is away, or a proxy before it, is not besieged by everybody
//! who wants something of it.
//!
//! Whoever gives a call up leaves its channel half connected, and nobody looks at such a channel before the next call on
//! it. Its turn must end all the same, and so every attempt is a task of its own.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When the last attempt failed; nothing if it did not. Held during one.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The turns at all addresses.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Turn>>>);

impl Turns {
    /// Waits until nobody else tries, and tries, unless an attempt has failed meanwhile. From the first poll on this goes
    /// on by itself, until it is dropped.
    ///
    /// # Errors
    /// As the attempt; `NotConnected` where another one failed.
    pub async fn take<T: Send + 'static>(
        &self,
        address: &str,
        attempt: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.0.lock().entry(address.to_owned()).or_default().clone();
        let mut task = JoinSet::new();
        task.spawn(at_its_turn(turn, attempt));
        let ended = task.join_next().await.expect("one task");
        ended.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

async fn at_its_turn<T>(turn: Turn, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let came = Instant::now();
    let mut failed = turn.lock().await;
    if failed.is_some_and(|at| at > came) {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "an attempt failed meanwhile"));
    }
    let result = attempt.await;
    *failed = result.is_err().then(Instant::now);
    result
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_tries_at_a_time_and_those_who_waited_share_its_failure() {
        let (turns, tried) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
        let attempt = || {
            let tried = tried.clone();
            async move {
                tried.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
            }
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

    #[tokio::test]
    async fn nobody_waits_for_those_whom_nobody_looks_at() {
        let turns = Turns::default();
        let attempt = || async {
            tokio::task::yield_now().await;
            Ok(())
        };
        let mut left = [pin!(turns.take("a", attempt())), pin!(turns.take("a", attempt()))];
        for left in &mut left {
            assert!(left.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let late = turns.take("a", attempt());
        tokio::time::timeout(Duration::from_secs(10), late).await.expect("its turn").expect("tried");
        for left in left {
            left.await.expect("tried long ago");
        }
    }
}

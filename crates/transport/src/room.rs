//! How many connections there may be at a time, and what is done when the system has none to give.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use env::{Backoff, Env};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pauses after connections that could not be accepted: those of Go's HTTP server.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Places for connections. Listeners that share one share its places; who comes when all are taken waits in the
/// system's queue, as with etcd's listeners.
#[derive(Clone, Debug)]
pub struct Room {
    /// A room that is part of another has fewer places of its own, and takes one of the other's too.
    places: Vec<Arc<Semaphore>>,
    count: usize,
}

/// A connection's place, which is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Room {
    /// Places for so many connections.
    pub fn new(connections: usize) -> Self {
        let count = connections.min(u32::MAX as usize);
        Self { places: vec![Arc::new(Semaphore::new(count))], count }
    }

    /// As many as the system gives.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// A part of this room: at most so many of its connections.
    pub fn part(&self, connections: usize) -> Self {
        let mut part = Self::new(connections.min(self.count));
        part.places.extend_from_slice(&self.places);
        part
    }

    /// The next connection of a listener, when there is a place for it. One that cannot be accepted (no more file
    /// descriptors, or a client that has gone already) is told in the log and followed by a pause, a longer one each
    /// time.
    pub async fn next<T, F>(&self, env: &Env, accept: impl Fn() -> F) -> (T, Place)
    where
        F: Future<Output = io::Result<T>>,
    {
        let place = self.place().await;
        let mut pauses = Backoff::new(FIRST_PAUSE, 2.0, LONGEST_PAUSE, 0.0);
        loop {
            match accept().await {
                Ok(connection) => return (connection, place),
                Err(error) => {
                    let pause = pauses.next(&env.rng);
                    tracing::warn!(%error, ?pause, "a connection could not be accepted");
                    env.clock.sleep(pause).await;
                }
            }
        }
    }

    /// Waits until no connection has a place any more; nobody gets one afterwards.
    pub async fn emptied(&self) {
        let all = u32::try_from(self.count).unwrap_or(u32::MAX);
        if let Ok(permits) = self.places[0].acquire_many(all).await {
            permits.forget();
        }
    }

    async fn place(&self) -> Place {
        let mut permits = Vec::with_capacity(self.places.len());
        for places in &self.places {
            let permit = places.clone().acquire_owned().await;
            permits.push(permit.expect("invariant: a room is never closed"));
        }
        Place { _permits: permits }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn after_a_failure_there_is_a_pause_that_grows() {
        let (env, tries) = (Env::seeded(1), AtomicUsize::new(0));
        let accept = || {
            tries.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<(), _>(io::Error::from_raw_os_error(24)))
        };
        let room = Room::new(1);
        let pauses = tokio::time::timeout(Duration::from_millis(500), room.next(&env, accept));
        assert!(pauses.await.is_err());
        // Pauses of 5 ms, doubled each time: 315 ms after six of them, 635 ms after seven.
        let tries = tries.load(Ordering::Relaxed);
        assert!((2..=7).contains(&tries), "{tries} tries");
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits() {
        let env = Env::seeded(1);
        let accept = || std::future::ready(Ok(()));
        let room = Room::new(3);
        let part = room.part(1);
        let ((), inside) = part.next(&env, accept).await;
        assert!(part.next(&env, accept).now_or_never().is_none(), "the part is full");
        let second = room.next(&env, accept).now_or_never().expect("the whole is not");
        let _third = room.next(&env, accept).now_or_never().expect("a third");
        assert!(room.next(&env, accept).now_or_never().is_none(), "the part's connection counts");
        assert!(part.emptied().now_or_never().is_none());
        drop(inside);
        drop(room.next(&env, accept).now_or_never().expect("a place that was given back"));
        drop(second);
        assert!(part.emptied().now_or_never().is_some());
    }
}

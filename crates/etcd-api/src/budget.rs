//! The memory that clients' requests and answers may hold, and each client's share of it.
//!
//! Whatever a client can make large is counted while it is held: requests that are coming in, answers that are being made
//! or wait for the client to read them, watches. A client (an address; all local sockets are one) may hold as much as is
//! still free: alone half of everything, two of them a third each, and so on, so that there is always something left for
//! one that comes. (The rule is from buffers of switches: Choudhury and Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches", 1998.) What does not fit is refused with `ResourceExhausted`. Parts of answers that have
//! begun wait, and take only half of what the client may have, so that one that does not read can still be answered.

use std::any::Any;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mvcc::MvccError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;
use transport::Peer;

use crate::context::Context;
use crate::error::mvcc_status;

/// Bytes that a call counts as, with what is small of it.
pub(crate) const CALL: u64 = 4 << 10;
/// How often a client that waits for another's memory looks again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a part of an answer waits for memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// All clients' memory.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Total>);

struct Total {
    bytes: u64,
    used: AtomicU64,
    shares: Mutex<HashMap<Option<IpAddr>, Weak<Held>>>,
}

/// What a client holds.
#[derive(Clone)]
pub(crate) struct Share(Arc<Held>);

pub(crate) struct Held {
    budget: Budget,
    client: Option<IpAddr>,
    bytes: AtomicU64,
    released: Notify,
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Total { bytes, used: AtomicU64::new(0), shares: Mutex::default() }))
    }

    /// The share of a client, the same for all its connections.
    pub fn share(&self, client: Option<IpAddr>) -> Share {
        let client = client.map(|address| address.to_canonical());
        let mut shares = self.0.shares.lock();
        if let Some(held) = shares.get(&client).and_then(Weak::upgrade) {
            return Share(held);
        }
        let (bytes, released) = (AtomicU64::new(0), Notify::new());
        let held = Arc::new(Held { budget: self.clone(), client, bytes, released });
        shares.insert(client, Arc::downgrade(&held));
        Share(held)
    }

    /// Bytes that all clients hold.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut shares = self.budget.0.shares.lock();
        if shares.get(&self.client).is_some_and(|share| share.strong_count() == 0) {
            shares.remove(&self.client);
        }
    }
}

impl Share {
    /// The share of the client that is at the other end of a connection.
    pub fn of_peer(budget: &Budget, peer: Option<&Peer>) -> Self {
        let noted = peer.and_then(|peer| peer.note.clone()?.downcast::<Held>().ok());
        noted.map_or_else(|| budget.share(None), Self)
    }

    /// The share of the client that made a call.
    pub fn of_call(context: &Context, extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| context.budget.share(None))
    }

    /// To be noted of a connection.
    pub fn note(self) -> Arc<dyn Any + Send + Sync> {
        self.0
    }

    /// Bytes that the client may still take.
    pub fn left(&self) -> u64 {
        let total = &self.0.budget.0;
        let free = total.bytes.saturating_sub(total.used.load(Ordering::Relaxed));
        free.saturating_sub(self.0.bytes.load(Ordering::Relaxed)) / 2
    }

    /// Takes bytes, if there are so many left. (Two who ask at the same moment may both be given the last ones.)
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub fn try_take(&self, bytes: u64) -> Result<Permit, Status> {
        let left = self.left();
        if bytes <= left {
            return Ok(self.charge(bytes));
        }
        Err(Status::resource_exhausted(format!(
            "etcdserver: too many requests: this takes {bytes} bytes of memory, of which the client may have {left} \
             more now; ask for less at a time, or later"
        )))
    }

    /// Takes bytes, there or not: they are in use already.
    pub fn charge(&self, bytes: u64) -> Permit {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.budget.0.used.fetch_add(bytes, Ordering::Relaxed);
        Permit { share: self.clone(), bytes }
    }

    /// Whether the client may have bytes for what can wait: it keeps as much for what cannot.
    fn may_have(&self, bytes: u64) -> bool {
        self.0.bytes.load(Ordering::Relaxed) + bytes <= self.left()
    }

    /// Whether there is room for what can wait.
    pub fn has_room(&self) -> bool {
        self.may_have(0)
    }

    /// Waits until there is room for what can wait.
    pub async fn room(&self, clock: &env::Clock) {
        loop {
            let released = self.0.released.notified();
            if self.has_room() {
                return;
            }
            self.wait(released, clock).await;
        }
    }

    async fn wait(&self, released: tokio::sync::futures::Notified<'_>, clock: &env::Clock) {
        tokio::select! {
            () = released => {}
            () = clock.sleep(AGAIN) => {}
        }
    }

    /// Waits until there is room for bytes that can wait, and takes them.
    ///
    /// # Errors
    /// `ResourceExhausted` after [`PATIENCE`].
    pub async fn take(&self, bytes: u64, clock: &env::Clock) -> Result<Permit, Status> {
        let end = clock.monotonic() + PATIENCE;
        loop {
            let released = self.0.released.notified();
            if self.may_have(bytes) {
                return Ok(self.charge(bytes));
            }
            if clock.monotonic() >= end {
                return self.try_take(bytes);
            }
            self.wait(released, clock).await;
        }
    }
}

/// What an answer on its way has taken already: the body is to be counted with it, and not again.
#[derive(Clone, Default)]
pub(crate) struct Reserved(Arc<Mutex<Option<Permit>>>);

impl Reserved {
    pub fn new(permit: Option<Permit>) -> Self {
        Self(Arc::new(Mutex::new(permit)))
    }

    pub fn take(&self) -> Option<Permit> {
        self.0.lock().take()
    }
}

/// Asks a share for what an answer of keys and values takes.
pub(crate) struct Asked<'a> {
    share: &'a Share,
    permit: Option<Permit>,
    refused: Option<Status>,
}

impl<'a> Asked<'a> {
    pub fn new(share: &'a Share) -> Self {
        Self { share, permit: None, refused: None }
    }

    /// Takes what so many bytes of keys and values take, as they are and encoded; whether they may be read.
    pub fn admit(&mut self, bytes: u64) -> bool {
        if bytes <= CALL {
            return true;
        }
        match (self.share.try_take(2 * bytes), &mut self.permit) {
            (Ok(more), Some(permit)) => permit.join(more),
            (Ok(more), none) => *none = Some(more),
            (Err(refused), _) => self.refused = Some(refused),
        }
        self.refused.is_none()
    }

    /// What was taken, or why not.
    pub fn answer<T>(self, answer: Result<T, MvccError>) -> Result<(T, Option<Permit>), Status> {
        match (answer, self.refused) {
            (Err(MvccError::TooMuch { .. }), Some(refused)) => Err(refused),
            (answer, _) => Ok((answer.map_err(|error| mvcc_status(&error))?, self.permit)),
        }
    }
}

/// Bytes that are taken until it is dropped.
pub(crate) struct Permit {
    share: Share,
    bytes: u64,
}

impl Permit {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over what another has taken of the same share.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// The same bytes; what is taken is given back when nobody holds them any more.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        struct Owned(Bytes, #[expect(dead_code, reason = "dropped with the bytes")] Permit);
        impl AsRef<[u8]> for Owned {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Owned(bytes, self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let held = &self.share.0;
        held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        held.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
        held.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn a_client_may_hold_as_much_as_is_left_for_others() {
        let budget = Budget::new(1200);
        let one = budget.share(client(1));
        assert_eq!(one.left(), 600);
        assert!(one.try_take(601).is_err());
        let half = one.try_take(600).unwrap();
        assert_eq!(budget.share(client(1)).left(), 0, "another connection of the same client");
        assert_eq!(budget.share(client(2)).left(), 300);
        let quarter = budget.share(client(2)).try_take(300).unwrap();
        assert_eq!((one.left(), budget.share(client(3)).left()), (0, 150));
        drop(half);
        assert_eq!((one.left(), budget.used()), (450, 300));
        drop(quarter);
        assert_eq!((one.left(), budget.used()), (600, 0));
    }

    #[test]
    fn what_is_held_is_given_back_with_its_last_holder() {
        let budget = Budget::new(1000);
        let share = budget.share(None);
        let mut permit = share.try_take(100).unwrap();
        permit.join(share.charge(50));
        let bytes = permit.hold(Bytes::from_static(b"abc"));
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((part.as_ref(), budget.used()), (&b"bc"[..], 150));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_client_that_is_gone_is_forgotten() {
        let budget = Budget::new(1000);
        let share = budget.share(client(1));
        let again = budget.share(Some("::ffff:10.0.0.1".parse().unwrap()));
        drop(share);
        assert_eq!(budget.0.shares.lock().len(), 1);
        drop(again);
        assert_eq!(budget.0.shares.lock().len(), 0);
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_there_is_room() {
        let (budget, clock) = (Budget::new(1000), env::Env::real().clock);
        let share = budget.share(client(1));
        let held = share.try_take(250).unwrap();
        let waiting = share.take(300, &clock);
        let releasing = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let (taken, ()) = tokio::join!(waiting, releasing);
        assert_eq!(taken.map(drop).map_err(|status| status.to_string()), Ok(()));
    }
}

//! Answers that hold seats and memory until they are sent, or the request's time is over.
//!
//! A client that does not read keeps the server from asking for more of the body, so that the body cannot see by itself
//! that its time is over: a task does. It takes the body away, with the objects in it; whoever reads on then is told that
//! the answer ends too early. Pieces that the connection has taken already stay charged until they are written.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use env::{Clock, TaskGroup};
use http::Response;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Permit;
use super::room::Charge;
use crate::body::{Body, BoxError};

/// What an answer holds.
#[derive(Default)]
pub(crate) struct Held {
    pub seat: Option<Permit>,
    pub charge: Option<Charge>,
}

/// The same, shared by a body and its pieces.
struct Holder {
    held: Mutex<Held>,
    /// Bytes of pieces that were given and not written yet.
    given: AtomicUsize,
    /// Ends the task that looks at the clock.
    _over: oneshot::Sender<()>,
}

impl Holder {
    fn new(held: Held) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (over, watched) = oneshot::channel();
        let holder = Self { held: Mutex::new(held), given: AtomicUsize::new(0), _over: over };
        (Arc::new(holder), watched)
    }

    /// Gives back everything but the room of pieces that are not written yet.
    fn let_go(&self) {
        let mut held = self.held.lock();
        held.seat = None;
        if let Some(charge) = &mut held.charge {
            charge.shrink(self.given.load(Ordering::Relaxed));
        }
    }
}

/// Seats that a watch holds while it is told what there was.
pub(crate) struct Seated(Arc<Holder>);

impl Seated {
    /// They are given back at a time at the latest.
    pub fn until(seat: Permit, until: Instant, clock: Clock, tasks: &TaskGroup) -> Self {
        let (holder, over) = Holder::new(Held { seat: Some(seat), charge: None });
        let watched = Arc::downgrade(&holder);
        tasks.spawn_detached("seated", async move {
            watch_time(over, until, clock, move || watched.upgrade().iter().for_each(|held| held.let_go()))
                .await;
        });
        Self(holder)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// Calls `end` at a time unless it is over before.
async fn watch_time(over: oneshot::Receiver<()>, until: Instant, clock: Clock, end: impl FnOnce()) {
    tokio::select! {
        _ = over => {}
        () = clock.sleep_until(until) => end(),
    }
}

/// A body, and who waits for more of it.
#[derive(Default)]
struct Taken {
    body: Option<Body>,
    waiting: Option<Waker>,
}

type Slot = Mutex<Taken>;

/// A body that holds something.
struct Holding {
    body: Arc<Slot>,
    holder: Arc<Holder>,
    is_broken: bool,
}

/// A piece of it.
struct Piece {
    bytes: Bytes,
    holder: Arc<Holder>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.holder.given.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// Lets an answer hold something until it is sent, or until a time.
pub(crate) fn hold(
    response: Response<Body>,
    held: Held,
    until: Instant,
    clock: Clock,
    tasks: &TaskGroup,
) -> Response<Body> {
    let (holder, over) = Holder::new(held);
    response.map(|body| {
        let body = Arc::new(Mutex::new(Taken { body: Some(body), waiting: None }));
        let (slot, watched) = (Arc::downgrade(&body), Arc::downgrade(&holder));
        tasks.spawn_detached("answer", async move {
            watch_time(over, until, clock, move || end(&slot, &watched)).await;
        });
        http_body_util::BodyExt::boxed_unsync(Holding { body, holder, is_broken: false })
    })
}

/// The time of an answer is over.
fn end(slot: &Weak<Slot>, holder: &Weak<Holder>) {
    let Taken { body, waiting } =
        slot.upgrade().map(|slot| std::mem::take(&mut *slot.lock())).unwrap_or_default();
    if body.is_some() {
        tracing::debug!("an answer was not read in time");
    }
    drop(body);
    if let Some(waiting) = waiting {
        waiting.wake();
    }
    if let Some(holder) = holder.upgrade() {
        holder.let_go();
    }
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_broken {
            return Poll::Ready(None);
        }
        let polled = {
            let mut slot = self.body.lock();
            let polled = slot.body.as_mut().map(|body| Pin::new(body).poll_frame(context));
            slot.waiting = matches!(polled, Some(Poll::Pending)).then(|| context.waker().clone());
            polled
        };
        let Some(polled) = polled else {
            self.is_broken = true;
            return Poll::Ready(Some(Err("the answer was not read in time".into())));
        };
        let holder = &self.holder;
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                holder.given.fetch_add(bytes.len(), Ordering::Relaxed);
                Bytes::from_owner(Piece { bytes, holder: holder.clone() })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use env::Shutdown;
    use http_body_util::BodyExt;

    use super::super::room::Room;
    use super::*;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    /// Bytes of a piece of the bodies here.
    const PIECE: usize = 100 * KIB;

    fn answer(room: &Room, time: Duration) -> Response<Body> {
        let pieces = (0..3).map(|_| Ok(Bytes::from(vec![7; PIECE])));
        let response = Response::new(crate::body::stream(futures::stream::iter(pieces)));
        let held = Held { seat: None, charge: room.try_take(1, 3 * PIECE) };
        let (clock, tasks) = (env::Env::real().clock, TaskGroup::new("test", Shutdown::new()));
        hold(response, held, clock.monotonic() + time, clock, &tasks)
    }

    #[tokio::test]
    async fn room_is_given_back_when_the_last_piece_is_written() {
        let room = Room::new(MIB);
        let mut body = answer(&room, Duration::from_secs(60)).into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.expect("a piece").into_data().expect("data"));
        }
        drop(body);
        assert_eq!((pieces.len(), room.taken()), (3, 3 * PIECE));
        let last = pieces.pop();
        drop(pieces);
        assert_eq!(room.taken(), 3 * PIECE, "a part of it is still to be written");
        drop(last);
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_more_is_told_that_there_is_none() {
        let room = Room::new(MIB);
        let response = Response::new(crate::body::stream(futures::stream::pending()));
        let held = Held { seat: None, charge: room.try_take(1, PIECE) };
        let (clock, tasks) = (env::Env::real().clock, TaskGroup::new("test", Shutdown::new()));
        let until = clock.monotonic() + Duration::from_millis(1);
        let mut body = hold(response, held, until, clock, &tasks).into_body();
        let told = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.expect("it is told");
        assert_eq!(
            told.expect("a frame").expect_err("it is over").to_string(),
            "the answer was not read in time"
        );
    }

    #[tokio::test]
    async fn who_does_not_read_in_time_loses_the_rest() {
        let room = Room::new(MIB);
        let mut body = answer(&room, Duration::from_millis(1)).into_body();
        let first = body.frame().await.expect("a frame").expect("a piece").into_data().expect("data");
        while room.taken() == 3 * PIECE {
            tokio::task::yield_now().await;
        }
        assert_eq!(room.taken(), PIECE, "what the connection holds is still charged");
        let error = body.frame().await.expect("a frame").expect_err("it is over");
        assert_eq!(error.to_string(), "the answer was not read in time");
        assert!(body.frame().await.is_none());
        drop((first, body));
        assert_eq!(room.taken(), 0);
    }
}

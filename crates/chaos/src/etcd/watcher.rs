//! A watcher at one member, which goes on where it was when its stream breaks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use env::{Env, Shutdown};
use parking_lot::Mutex;
use protos::etcd::etcdserverpb::WatchResponse;
use protos::etcd::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::traffic::nanos;
use super::wire::{self, Token};
use crate::history::{Item, Stream};
use crate::load::RETRY;

/// Between requests for a bookmark.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(300);
/// Requests on their way to the member.
const REQUESTS: usize = 4;

/// Where and since when a watcher watches, and as whom.
pub struct Place {
    pub env: Env,
    pub endpoint: String,
    pub token: Token,
    /// The zero of all times.
    pub begun: Instant,
}

/// Watches until told to stop.
pub async fn watch(place: Place, stream: Arc<Mutex<Stream>>, from: i64, stop: Shutdown) {
    let mut next = from;
    while !stop.is_triggered() {
        tokio::select! {
            _ = follow(&place, &stream, &mut next) => {}
            () = stop.wait() => return,
        }
        place.env.clock.sleep(RETRY).await;
    }
}

/// Follows one stream to its end.
async fn follow(place: &Place, stream: &Mutex<Stream>, next: &mut i64) -> Option<()> {
    let clock = &place.env.clock;
    let mut client = WatchClient::new(wire::connect(&place.endpoint, &place.token).await?);
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let create = {
        let stream = stream.lock();
        wire::watch(&stream.keys, *next, stream.previous)
    };
    requests.send(create).await.ok()?;
    let mut answers = client.watch(ReceiverStream::new(receiver)).await.ok()?.into_inner();
    stream.lock().items.push(Item::Opened { from: *next });
    let mut ask_again = clock.monotonic() + PROGRESS_INTERVAL;
    loop {
        tokio::select! {
            answer = answers.message() => {
                let at = nanos(clock.monotonic().saturating_duration_since(place.begun));
                take(&mut stream.lock(), answer.ok()??, at, next)?;
            }
            () = clock.sleep_until(ask_again) => {
                // Before the stream is full, or it is asked next time.
                drop(requests.try_send(wire::progress()));
                ask_again = clock.monotonic() + PROGRESS_INTERVAL;
            }
        }
    }
}

/// Records a message; `None` when it ends the watch.
fn take(stream: &mut Stream, message: WatchResponse, at: u64, next: &mut i64) -> Option<()> {
    let items = &mut stream.items;
    let revision = message.header.map_or(0, |header| header.revision);
    if message.canceled {
        if message.compact_revision > 0 {
            items.push(Item::Compacted { revision: message.compact_revision });
            *next = message.compact_revision;
        }
        return None;
    }
    if message.created {
        return Some(());
    }
    if message.events.is_empty() {
        items.push(Item::Progress { revision });
        *next = (*next).max(revision + 1);
        return Some(());
    }
    let changes: Vec<_> = message.events.into_iter().map(wire::change).collect();
    *next = changes.last().map_or(*next, |change| change.revision + 1);
    items.push(Item::Changes { revision, changes });
    stream.seen.push((at, *next - 1));
    Some(())
}

/// Whether it was told of a revision.
///
/// # Errors
/// Says who was not.
pub fn has_seen(stream: &Stream, revision: i64) -> Result<()> {
    let seen = stream.items.iter().rev().find_map(|item| match item {
        Item::Changes { changes, .. } => changes.last().map(|change| change.revision),
        _ => None,
    });
    if seen.unwrap_or(0) < revision {
        bail!("the {} never saw revision {revision}, only {seen:?}", stream.name);
    }
    Ok(())
}

//! Watching: a ring of the newest events, sets of watches with few cursors, and the engine's history for those behind.
//!
//! Read `hub.rs` (publishing, and who is called), `index.rs` (which ranges hold a key), `set.rs` (the watches of a client).

mod hub;
mod index;
mod set;

use std::sync::Arc;

use mvcc::{KeyRange, Revision};

pub(crate) use self::hub::Hub;
pub use self::hub::SharedEvent;
pub use self::set::{Delivery, Ended, Member, WatchSet};
use crate::state::Shared;

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision of interest; 0 is the next one. It may lie in the future.
    pub start_revision: Revision,
}

/// Events in the order of their revisions; those of one revision are never split.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// The events; empty when there were none in the range.
    pub events: Vec<Arc<SharedEvent>>,
    /// Everything up to this revision was delivered.
    pub revision: Revision,
}

/// Why a watcher ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// What it should deliver next was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The first revision that is still readable.
        compact_revision: Revision,
    },
    /// The history could not be read.
    #[error("{0}")]
    Engine(String),
    /// The store has stopped.
    #[error("server stopped")]
    Stopped,
}

/// One watch. Dropping it ends it.
pub struct Watcher {
    set: WatchSet,
    /// Why it ended.
    ended: Option<WatchError>,
}

/// The id of a watch that is alone in its set.
const ONLY: i64 = 0;

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, request: WatchRequest) -> Self {
        let mut set = WatchSet::new(shared);
        set.add(ONLY, request);
        Self { set, ended: None }
    }

    /// The next events; waits until there are some.
    ///
    /// # Errors
    /// `Compacted`, `Engine`, `Stopped`: the watch is then over.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let batch = self.take()?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            self.set.changed().await?;
        }
    }

    /// Everything up to this revision was delivered.
    pub fn progress(&self) -> Revision {
        self.set.delivered(ONLY)
    }

    /// What there is now, without waiting.
    ///
    /// # Errors
    /// `Compacted`, `Engine`.
    pub fn poll(&mut self) -> Result<WatchBatch, WatchError> {
        if self.progress() < self.set.head() {
            self.set.refresh();
        }
        self.take()
    }

    /// The next events of which is known already.
    fn take(&mut self) -> Result<WatchBatch, WatchError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        loop {
            let mut events = Vec::new();
            let polled = self.set.poll(|delivery| {
                for member in delivery.members {
                    events.extend_from_slice(member.wanted(delivery.events));
                }
            });
            let more = polled.map_err(|ended| {
                self.ended = Some(ended.error.clone());
                ended.error
            })?;
            if !more || !events.is_empty() {
                return Ok(WatchBatch { events, revision: self.progress() });
            }
        }
    }
}

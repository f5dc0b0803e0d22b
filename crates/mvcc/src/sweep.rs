//! Deleting what was compacted, in small steps beside the writes.
//!
//! Every version says which one it took the place of, so that a walk over the versions up to the compaction finds all
//! that has to go: what each of them replaced, and those that are deletions themselves. What the compacted revision
//! itself wrote stays, deletions too: a watcher may begin there. How far the walk is lies in the engine, in the same
//! batch as what it deletes. An index that was saved before the compacted revision is of no use once the walk has begun,
//! so one should be saved first.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Batch, Engine, EngineError, Table};
use crate::record::{self, meta};
use crate::tree::Place;
use crate::txn::size;
use crate::types::Revision;
use crate::values;
use crate::view::State;

/// How far what was compacted is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything that the compaction of this revision let go is gone.
    done: Revision,
    /// The compaction that is being worked on; `done` when there is none.
    target: Revision,
    /// Where the walk goes on.
    next: Option<Place>,
}

impl Progress {
    pub fn read<E: Engine + ?Sized>(engine: &E) -> Result<Self, EngineError> {
        let Some(bytes) = engine.get(Table::Meta, meta::SWEPT)? else { return Ok(Self::default()) };
        let [done, target, main, sub] = record::decode_i64s("what is swept", &bytes)?;
        let sub = u32::try_from(sub).map_err(|_| EngineError("what is swept is damaged".into()))?;
        Ok(Self { done, target, next: (target > done).then_some(Place { main, sub }) })
    }

    fn write(self, batch: &mut Batch) {
        let next = self.next.unwrap_or(Place { main: 0, sub: 0 });
        let numbers = [self.done, self.target, next.main, next.sub.into()];
        batch.put(Table::Meta, meta::SWEPT, record::encode_i64s(numbers));
    }

    pub fn is_done(self, compact_revision: Revision) -> bool {
        self.done >= compact_revision
    }

    /// Whether all that was written behind `revision` is still there: deletions are swept too, and an index from before
    /// would not hear of them.
    pub fn allows(self, revision: Revision) -> bool {
        self.target <= revision
    }
}

/// The next step, which can be walked while others write.
pub struct SweepStep {
    engine: Arc<dyn Engine>,
    progress: Progress,
}

/// What a step found.
#[derive(Default)]
pub struct Swept {
    progress: Progress,
    places: Vec<Place>,
    /// Keys whose deletion can be forgotten.
    keys: Vec<(Bytes, Place)>,
    bytes: u64,
}

impl SweepStep {
    pub(crate) fn new(engine: Arc<dyn Engine>, progress: Progress, compact_revision: Revision) -> Self {
        let begun = progress.next.is_some();
        let first = Place { main: progress.done, sub: 0 };
        let progress = if begun {
            progress
        } else {
            Progress { target: compact_revision, next: Some(first), ..progress }
        };
        Self { engine, progress }
    }

    /// Walks over so many versions at most.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn walk(self, versions: usize) -> Result<Swept, EngineError> {
        let Progress { done, target, next } = self.progress;
        let mut swept = Swept { progress: Progress { done: target, target, next: None }, ..Swept::default() };
        let mut seen = 0;
        values::versions(
            &*self.engine,
            next.unwrap_or(Place { main: done, sub: 0 }),
            &mut |place, version| {
                if place.main > target {
                    return ControlFlow::Break(());
                }
                if seen == versions.max(1) {
                    swept.progress = Progress { done, target, next: Some(place) };
                    return ControlFlow::Break(());
                }
                seen += 1;
                if version.tombstone && place.main < target {
                    swept.places.push(place);
                    swept.bytes += size(&version.kv.key, 0);
                    swept.keys.push((Bytes::copy_from_slice(&version.kv.key), place));
                }
                // A deletion that was replaced goes by itself.
                if let Some(before) = version.before.filter(|before| !before.tombstone && place.main > done) {
                    swept.places.push(before.place);
                    swept.bytes += size(&version.kv.key, before.value_len);
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(swept)
    }
}

impl Swept {
    /// How many versions it deletes.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it deletes nothing.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Makes the step part of the state and of the next batch.
    pub(crate) fn absorb(self, state: &mut State, batch: &mut Batch) -> Progress {
        for place in self.places {
            batch.delete(Table::Revisions, Bytes::copy_from_slice(&record::place_key(place)));
        }
        for (key, place) in self.keys {
            if state.index.get(&key).is_some_and(|entry| !entry.is_live() && entry.place() == place) {
                state.index.remove(&key);
            }
        }
        state.past_bytes = state.past_bytes.saturating_sub(self.bytes);
        self.progress.write(batch);
        self.progress
    }
}

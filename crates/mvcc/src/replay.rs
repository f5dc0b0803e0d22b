//! The index from what the engine holds: a saved one, and the versions behind it; or every version.

use std::io::Read;
use std::ops::ControlFlow;

use crate::engine::{Engine, EngineError};
use crate::record::{self, Version};
use crate::saved::{self, Saved};
use crate::sweep::Progress;
use crate::tree::{Entry, Place, Tree};
use crate::txn::{add_to_hash, size};
use crate::types::Revision;
use crate::values;
use crate::view::State;

/// How an index was filled.
pub(crate) struct Replayed {
    /// The revision of the saved index; 0 without one.
    pub saved: Revision,
    /// Versions that were read beside it.
    pub versions: u64,
}

/// Fills the index of a state of which everything else was read.
pub(crate) fn fill<E: Engine>(
    engine: &E,
    state: &mut State,
    swept: Progress,
) -> Result<Replayed, EngineError> {
    let saved = engine.load_index().ok().flatten().and_then(|from| load(from, state));
    if let Some(saved) = saved.filter(|saved| swept.allows(saved.revision)) {
        let (live, past) = (saved.live_bytes, saved.past_bytes);
        let mut replay = Replay { index: saved.index, hash: saved.hash, live, past, versions: 0 };
        replay.play(engine, saved.revision + 1)?;
        if replay.hash == state.hash {
            return Ok(replay.settle(state, saved.revision));
        }
    }
    let mut replay = Replay::default();
    replay.play(engine, 0)?;
    Ok(replay.settle(state, 0))
}

/// A saved index that is whole and not of a newer state.
fn load(mut from: Box<dyn Read + '_>, state: &State) -> Option<Saved> {
    saved::read(&mut *from, state.compact_revision).ok().filter(|saved| saved.revision <= state.revision)
}

#[derive(Default)]
struct Replay {
    index: Tree,
    hash: u32,
    live: u64,
    past: u64,
    versions: u64,
}

impl Replay {
    fn play<E: Engine>(&mut self, engine: &E, from: i64) -> Result<(), EngineError> {
        values::versions(engine, Place { main: from, sub: 0 }, &mut |place, version| {
            self.add(place, &version);
            ControlFlow::Continue(())
        })
    }

    fn add(&mut self, place: Place, version: &Version) {
        self.versions += 1;
        let kv = &version.kv;
        let mut message = bytes::BytesMut::new();
        record::put_message(&mut message, kv);
        self.hash = add_to_hash(self.hash, place, version.tombstone, &message);
        let before = self.index.get(&kv.key).copied();
        let first = before.is_none_or(|before| before.is_live() && before.is_first());
        let current = before.filter(Entry::is_live);
        let entry = match (version.tombstone, current) {
            (true, Some(current)) => Entry::new(place, current.create, 0, 0, 0).tombstone(),
            _ => version.entry(place.sub),
        };
        self.index.insert(&kv.key, entry.first(first));
        if let Some(current) = current {
            let bytes = size(&kv.key, current.value_len);
            self.live -= bytes;
            self.past += bytes;
        }
        let bytes = size(&kv.key, entry.value_len);
        *(if version.tombstone { &mut self.past } else { &mut self.live }) += bytes;
    }

    /// Makes it the state's. The sizes are those that were written with the last commit, if any were: what was swept
    /// since an index was saved is not in its own.
    fn settle(self, state: &mut State, saved: Revision) -> Replayed {
        state.index = self.index;
        if state.live_bytes + state.past_bytes == 0 {
            (state.live_bytes, state.past_bytes) = (self.live, self.past);
        }
        Replayed { saved, versions: self.versions }
    }
}

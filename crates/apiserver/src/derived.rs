//! State that follows from stored objects: read again when one of them changed, or changed in the same way where that is
//! said, and a look at a number otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use mvcc::KeyRange;
use parking_lot::Mutex;
use store::{SharedEvent, WatchRequest};

use crate::storage::{Storage, View, Watcher};

/// Reads the state out of a view; `None` when that cannot be read: what was known stays then. The state before is given,
/// so that what did not change need not be made again.
type Read<T> = fn(&View, &T) -> Option<T>;
/// Makes the state after some changes of the one before them.
type Step<T> = fn(&T, &[Arc<SharedEvent>]) -> T;

/// See the module.
pub(crate) struct Derived<T> {
    storage: Storage,
    ranges: Vec<KeyRange>,
    read: Read<T>,
    step: Option<Step<T>>,
    state: ArcSwap<T>,
    seen: AtomicI64,
    watchers: Mutex<Vec<Watcher>>,
}

impl<T: Default> Derived<T> {
    /// Of the objects in `ranges`.
    pub fn new(storage: &Storage, ranges: impl IntoIterator<Item = KeyRange>, read: Read<T>) -> Self {
        Self {
            storage: storage.clone(),
            ranges: ranges.into_iter().collect(),
            read,
            step: None,
            state: ArcSwap::default(),
            seen: AtomicI64::new(-1),
            watchers: Mutex::default(),
        }
    }

    /// The same, whose changes are not read with everything else again.
    pub fn stepping(self, step: Step<T>) -> Self {
        Self { step: Some(step), ..self }
    }

    /// The state at the view's revision or newer.
    pub fn at(&self, view: &View) -> Arc<T> {
        if self.seen.load(Ordering::Acquire) < view.revision() {
            self.catch_up();
        }
        self.state.load_full()
    }

    fn catch_up(&self) {
        let mut watchers = self.watchers.lock();
        let (mut unknown, mut events) = (watchers.is_empty(), Vec::new());
        let mut reached = i64::MAX;
        for watcher in watchers.iter_mut() {
            match watcher.poll() {
                Ok(batch) => events.extend(batch.events),
                Err(_) => unknown = true,
            }
            reached = reached.min(watcher.progress());
        }
        let changed = !events.is_empty();
        match self.step.filter(|_| !unknown) {
            Some(step) if changed => self.state.store(Arc::new(step(&self.state.load(), &events))),
            None if unknown || changed => reached = self.reload(&mut watchers),
            _ => {}
        }
        self.seen.store(reached, Ordering::Release);
    }

    fn reload(&self, watchers: &mut Vec<Watcher>) -> i64 {
        let view = self.storage.view();
        let Some(new) = (self.read)(&view, &self.state.load()) else {
            // What the watchers told is used up: it is read anew the next time.
            watchers.clear();
            return -1;
        };
        self.state.store(Arc::new(new));
        let start_revision = view.revision() + 1;
        let watch =
            |range: &KeyRange| self.storage.watch(WatchRequest { range: range.clone(), start_revision });
        *watchers = self.ranges.iter().map(watch).collect();
        view.revision()
    }
}

//! A persistent B+tree of keys that knows how many of them are live: a copy costs nothing and never changes, a count
//! or a rank takes logarithmic time.
//!
//! Invariants:
//! - every leaf has the same depth; a branch has one separator fewer than children;
//! - the summary that a branch keeps of a child is right in `live` and never too low in `newest`;
//! - a node that a copy shares is not changed but copied ([`Arc::make_mut`]); one that nobody shares is changed in place.

mod iter;
mod keys;
mod node;
#[cfg(test)]
mod tests;

use crate::types::{KeyRange, LeaseId, Revision};

pub(crate) use iter::Iter;
use keys::Keys;
use node::{Branch, Child, Inserted, Leaf, MAX_BRANCH, MAX_LEAF, Node};

/// Where one version of a key is kept: the revision that made it, and which change of that revision it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub main: Revision,
    pub sub: u32,
}

/// What the index knows of a key's last version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub main: Revision,
    pub sub: u32,
    pub value_len: u32,
    /// When the key came to be; of a deleted one, when it had last come to be.
    pub create: Revision,
    pub lease: LeaseId,
    /// Changes since then, and two flags below.
    marked: i64,
}

const TOMBSTONE: i64 = 1;
const FIRST: i64 = 2;
const FLAG_BITS: u32 = 2;

impl Entry {
    pub fn new(place: Place, create: Revision, version: i64, lease: LeaseId, value_len: usize) -> Self {
        let value_len = u32::try_from(value_len).expect("invariant: a request is smaller than 4 GiB");
        Self { main: place.main, sub: place.sub, value_len, create, lease, marked: version << FLAG_BITS }
    }

    /// The key was deleted by this version.
    #[must_use]
    pub fn tombstone(mut self) -> Self {
        self.marked |= TOMBSTONE;
        self
    }

    /// The key never was there before `create`, as far as can be read.
    #[must_use]
    pub fn first(mut self, first: bool) -> Self {
        self.marked |= if first { FIRST } else { 0 };
        self
    }

    pub fn place(&self) -> Place {
        Place { main: self.main, sub: self.sub }
    }

    pub fn version(&self) -> i64 {
        self.marked >> FLAG_BITS
    }

    pub fn is_live(&self) -> bool {
        self.marked & TOMBSTONE == 0
    }

    pub fn is_first(&self) -> bool {
        self.marked & FIRST != 0
    }

    /// The numbers as they are kept in a file.
    pub fn to_numbers(self) -> [i64; 5] {
        let places = (i64::from(self.sub) << 32) | i64::from(self.value_len);
        [self.main, places, self.create, self.lease, self.marked]
    }

    pub fn from_numbers([main, places, create, lease, marked]: [i64; 5]) -> Self {
        let (sub, value_len) = ((places.cast_unsigned() >> 32) as u32, places as u32);
        Self { main, sub, value_len, create, lease, marked }
    }
}

/// What a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    /// Keys that are not deleted.
    live: u64,
    /// No version in it is newer.
    newest: Revision,
}

impl Summary {
    fn replace(&mut self, before: Option<Entry>, after: Option<Entry>) {
        let live = |entry: Option<Entry>| u64::from(entry.is_some_and(|entry| entry.is_live()));
        self.live = self.live + live(after) - live(before);
        self.newest = self.newest.max(after.map_or(0, |entry| entry.main));
    }

    fn add(&mut self, other: Self) {
        self.live += other.live;
        self.newest = self.newest.max(other.newest);
    }
}

/// Makes a key's entry of the one that is there; without one everything stays as it is.
pub(crate) type Make<'a> = &'a mut dyn FnMut(Option<&Entry>) -> Option<Entry>;

/// The tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Child,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Child::new(Node::Leaf(Leaf::default())) }
    }
}

impl Tree {
    /// How many keys are live.
    pub fn live(&self) -> u64 {
        self.root.summary.live
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = &*self.root.node;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.keys.search(key).ok().map(|found| &leaf.entries[found]),
                Node::Branch(branch) => node = &branch.children[branch.child_of(key)].node,
            }
        }
    }

    /// Inserts or replaces; returns what was there.
    pub fn insert(&mut self, key: &[u8], entry: Entry) -> Option<Entry> {
        self.update(key, &mut |_| Some(entry))
    }

    /// Inserts or replaces by what is there, in one search; returns what was replaced.
    pub fn update(&mut self, key: &[u8], entry: Make<'_>) -> Option<Entry> {
        let Inserted { before, split, .. } = self.root.insert(key, entry);
        if let Some((separator, right)) = split {
            let mut branch = Branch::default();
            branch.separators.push(&separator);
            branch.children.extend([self.root.clone(), right]);
            self.root = Child::new(Node::Branch(branch));
        }
        before
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.get(key)?;
        let before = self.root.remove(key);
        while let Node::Branch(branch) = &*self.root.node
            && branch.children.len() == 1
        {
            self.root = branch.children[0].clone();
        }
        before
    }

    /// Keys of a range in order, deleted ones too.
    pub fn range(&self, range: &KeyRange) -> Iter<'_> {
        Iter::new(&self.root.node, range)
    }

    /// How many live keys are in a range.
    pub fn count(&self, range: &KeyRange) -> u64 {
        match range {
            KeyRange::Key(key) => u64::from(self.get(key).is_some_and(Entry::is_live)),
            range if range.is_empty() => 0,
            KeyRange::From(start) => self.live() - self.rank(start),
            KeyRange::Interval { start, end } => self.rank(end) - self.rank(start),
        }
    }

    /// How many live keys lie before one.
    fn rank(&self, key: &[u8]) -> u64 {
        let (mut node, mut rank) = (&*self.root.node, 0);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let (Ok(at) | Err(at)) = leaf.keys.search(key);
                    return rank + leaf.entries[..at].iter().filter(|entry| entry.is_live()).count() as u64;
                }
                Node::Branch(branch) => {
                    let at = branch.child_of(key);
                    rank += branch.children[..at].iter().map(|child| child.summary.live).sum::<u64>();
                    node = &branch.children[at].node;
                }
            }
        }
    }

    /// How many keys of a range there were at a revision. `was_there` is asked only about keys that changed since.
    pub fn count_at<E>(
        &self,
        range: &KeyRange,
        revision: Revision,
        was_there: &mut dyn FnMut(&Entry) -> Result<bool, E>,
    ) -> Result<u64, E> {
        if range.is_empty() {
            return Ok(0);
        }
        let end: Option<Vec<u8>> = match range {
            KeyRange::Key(key) => Some([key, &b"\0"[..]].concat()),
            KeyRange::Interval { end, .. } => Some(end.to_vec()),
            KeyRange::From(_) => None,
        };
        count_at(&self.root, (Some(range.start()), end.as_deref()), revision, was_there)
    }
}

/// Builds a tree of keys that come in order; that they do is not checked.
#[derive(Default)]
pub(crate) struct Builder {
    leaves: Vec<Built>,
    leaf: Leaf,
}

impl Builder {
    pub fn push(&mut self, key: &[u8], entry: Entry) {
        if self.leaf.entries.len() == MAX_LEAF {
            self.leaves.push(finish(std::mem::take(&mut self.leaf)));
        }
        if self.leaf.entries.is_empty() {
            let typical = self.leaves.last().map_or(0, |_| MAX_LEAF * key.len());
            self.leaf =
                Leaf { keys: Keys::with_capacity(MAX_LEAF, typical), entries: Vec::with_capacity(MAX_LEAF) };
        }
        self.leaf.keys.push(key);
        self.leaf.entries.push(entry);
    }

    pub fn finish(mut self) -> Tree {
        self.leaves.push(finish(self.leaf));
        let mut level = self.leaves;
        while level.len() > 1 {
            level = stack(level);
        }
        Tree { root: level.pop().map_or_else(|| Tree::default().root, |(_, child)| child) }
    }
}

/// A node with its first key.
type Built = (Vec<u8>, Child);

fn finish(mut leaf: Leaf) -> Built {
    leaf.keys.shrink();
    leaf.entries.shrink_to_fit();
    let first = if leaf.entries.is_empty() { Vec::new() } else { leaf.keys.get(0).to_vec() };
    (first, Child::new(Node::Leaf(leaf)))
}

fn stack(level: Vec<Built>) -> Vec<Built> {
    let mut above: Vec<(Vec<u8>, Branch)> = Vec::new();
    for (first, child) in level {
        match above.last_mut() {
            Some((_, branch)) if branch.children.len() < MAX_BRANCH => {
                branch.separators.push(&first);
                branch.children.push(child);
            }
            _ => above.push((first, Branch { children: vec![child], ..Branch::default() })),
        }
    }
    above.into_iter().map(|(first, branch)| (first, Child::new(Node::Branch(branch)))).collect()
}

fn count_at<E>(
    child: &Child,
    (start, end): (Option<&[u8]>, Option<&[u8]>),
    revision: Revision,
    was_there: &mut dyn FnMut(&Entry) -> Result<bool, E>,
) -> Result<u64, E> {
    if start.is_none() && end.is_none() && child.summary.newest <= revision {
        return Ok(child.summary.live);
    }
    let mut count = 0;
    match &*child.node {
        Node::Leaf(leaf) => {
            let at = |key: &[u8]| leaf.keys.search(key).unwrap_or_else(|at| at);
            let (from, to) = (start.map_or(0, at), end.map_or(leaf.entries.len(), at));
            for entry in leaf.entries.get(from..to).unwrap_or_default() {
                let there = if entry.main <= revision { entry.is_live() } else { was_there(entry)? };
                count += u64::from(there);
            }
        }
        Node::Branch(branch) => {
            let from = start.map_or(0, |start| branch.child_of(start));
            let to = end.map_or(branch.children.len() - 1, |end| branch.child_of(end));
            for at in from..=to {
                let bounds = (start.filter(|_| at == from), end.filter(|_| at == to));
                count += count_at(&branch.children[at], bounds, revision, was_there)?;
            }
        }
    }
    Ok(count)
}

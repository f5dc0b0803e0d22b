//! The tree's nodes: leaves hold keys and what is known of them, branches hold nodes and a summary of each.

use std::sync::Arc;

use super::keys::{Keys, copied, grow};
use super::{Entry, Make, Summary};

/// Keys of a leaf, at most. A change of a leaf that a view shares copies it.
pub(super) const MAX_LEAF: usize = 64;
/// Nodes below a branch, at most.
pub(super) const MAX_BRANCH: usize = 32;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

#[derive(Debug, Default)]
pub(super) struct Leaf {
    pub keys: Keys,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Default)]
pub(super) struct Branch {
    /// Each lies behind all keys of a child, and not behind the first of the next.
    pub separators: Keys,
    pub children: Vec<Child>,
}

#[derive(Clone, Debug)]
pub(super) struct Child {
    pub summary: Summary,
    pub node: Arc<Node>,
}

/// A node that did not fit, and what separates it from the one before.
type Split = Option<(Vec<u8>, Child)>;

/// What was replaced, what is there now, and the half that did not fit.
#[derive(Default)]
pub(super) struct Inserted {
    pub before: Option<Entry>,
    after: Option<Entry>,
    pub split: Split,
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), entries: copied(&self.entries) }
    }
}

impl Clone for Branch {
    fn clone(&self) -> Self {
        Self { separators: self.separators.clone(), children: copied(&self.children) }
    }
}

impl Child {
    pub fn new(node: Node) -> Self {
        Self { summary: node.summary(), node: Arc::new(node) }
    }

    pub fn insert(&mut self, key: &[u8], entry: Make<'_>) -> Inserted {
        let inserted = Arc::make_mut(&mut self.node).insert(key, entry);
        match inserted.split {
            Some(_) => self.summary = self.node.summary(),
            None => self.summary.replace(inserted.before, inserted.after),
        }
        inserted
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let before = Arc::make_mut(&mut self.node).remove(key);
        self.summary.replace(before, None);
        before
    }
}

impl Node {
    pub fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    fn max(&self) -> usize {
        match self {
            Self::Leaf(_) => MAX_LEAF,
            Self::Branch(_) => MAX_BRANCH,
        }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        match self {
            Self::Leaf(leaf) => leaf.entries.iter().for_each(|entry| summary.replace(None, Some(*entry))),
            Self::Branch(branch) => branch.children.iter().for_each(|child| summary.add(child.summary)),
        }
        summary
    }

    fn insert(&mut self, key: &[u8], entry: Make<'_>) -> Inserted {
        match self {
            Self::Leaf(leaf) => leaf.insert(key, entry),
            Self::Branch(branch) => branch.insert(key, entry),
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        match self {
            Self::Leaf(leaf) => leaf.remove(key),
            Self::Branch(branch) => branch.remove(key),
        }
    }

    /// Takes in the node behind, of the same height.
    fn append(&mut self, separator: &[u8], behind: &Self) {
        match (self, behind) {
            (Self::Leaf(leaf), Self::Leaf(behind)) => {
                leaf.keys.append(&behind.keys);
                leaf.entries.extend_from_slice(&behind.entries);
            }
            (Self::Branch(branch), Self::Branch(behind)) => {
                branch.separators.push(separator);
                branch.separators.append(&behind.separators);
                branch.children.extend_from_slice(&behind.children);
            }
            _ => unreachable!("invariant: siblings have one height"),
        }
    }
}

impl Leaf {
    fn insert(&mut self, key: &[u8], entry: Make<'_>) -> Inserted {
        let at = match self.keys.search(key) {
            Ok(found) => {
                let there = &mut self.entries[found];
                let after = entry(Some(there));
                let before = after.map(|after| std::mem::replace(there, after));
                return Inserted { before, after, split: None };
            }
            Err(at) => at,
        };
        let Some(entry) = entry(None) else { return Inserted::default() };
        let inserted = Inserted { after: Some(entry), ..Inserted::default() };
        if self.entries.len() < MAX_LEAF {
            self.add(at, key, entry);
            return inserted;
        }
        let mut right = self.split(at);
        match at.checked_sub(self.entries.len()) {
            Some(at) => right.add(at, key, entry),
            None => self.add(at, key, entry),
        }
        let separator = right.keys.get(0).to_vec();
        Inserted { split: Some((separator, Child::new(Node::Leaf(right)))), ..inserted }
    }

    /// The upper part of a full leaf. Keys that come in order fill their leaves: nothing goes with one behind the last.
    fn split(&mut self, at: usize) -> Self {
        let middle = if at == MAX_LEAF { MAX_LEAF } else { MAX_LEAF / 2 };
        Self { keys: self.keys.split_off(middle), entries: self.entries.split_off(middle) }
    }

    fn add(&mut self, at: usize, key: &[u8], entry: Entry) {
        self.keys.insert(at, key);
        grow(&mut self.entries);
        self.entries.insert(at, entry);
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let at = self.keys.search(key).ok()?;
        self.keys.remove(at);
        Some(self.entries.remove(at))
    }
}

impl Branch {
    /// Which child holds a key, if any does.
    pub fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.search(key) {
            Ok(found) => found + 1,
            Err(at) => at,
        }
    }

    fn insert(&mut self, key: &[u8], entry: Make<'_>) -> Inserted {
        let at = self.child_of(key);
        let mut inserted = self.children[at].insert(key, entry);
        let Some((separator, child)) = inserted.split.take() else { return inserted };
        if self.children.len() < MAX_BRANCH {
            self.add(at, &separator, child);
            return inserted;
        }
        let (middle, mut right) = self.split(at + 1);
        match at.checked_sub(self.children.len()) {
            Some(at) => right.add(at, &separator, child),
            None => self.add(at, &separator, child),
        }
        Inserted { split: Some((middle, Child::new(Node::Branch(right)))), ..inserted }
    }

    /// The upper part of a full branch, in which `at` is where a child is to come: one behind the last takes only the
    /// last along.
    fn split(&mut self, at: usize) -> (Vec<u8>, Self) {
        let middle = if at == MAX_BRANCH { MAX_BRANCH - 1 } else { MAX_BRANCH / 2 };
        let children = self.children.split_off(middle);
        let separators = self.separators.split_off(middle);
        let between = self.separators.get(middle - 1).to_vec();
        self.separators.remove(middle - 1);
        (between, Self { separators, children })
    }

    /// Adds a child behind the one at `at`.
    fn add(&mut self, at: usize, separator: &[u8], child: Child) {
        self.separators.insert(at, separator);
        grow(&mut self.children);
        self.children.insert(at + 1, child);
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let at = self.child_of(key);
        let before = self.children[at].remove(key)?;
        self.tidy(at);
        Some(before)
    }

    /// Lets a child that has become small join a neighbour, if both together leave room for more.
    fn tidy(&mut self, at: usize) {
        let (len, max) = (self.children[at].node.len(), self.children[at].node.max());
        if self.children.len() == 1 || len >= max / 3 {
            return;
        }
        if len == 0 {
            self.children.remove(at);
            return self.separators.remove(at.saturating_sub(1));
        }
        let pairs = [at.checked_sub(1), Some(at).filter(|at| at + 1 < self.children.len())];
        for left in pairs.into_iter().flatten() {
            let together = self.children[left].node.len() + self.children[left + 1].node.len();
            if together <= max * 3 / 4 {
                return self.join(left);
            }
        }
    }

    fn join(&mut self, left: usize) {
        let right = self.children.remove(left + 1);
        let separator = self.separators.get(left).to_vec();
        self.separators.remove(left);
        let child = &mut self.children[left];
        Arc::make_mut(&mut child.node).append(&separator, &right.node);
        child.summary.add(right.summary);
    }
}

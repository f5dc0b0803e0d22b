//! Keys in order.

use super::Entry;
use super::node::{Branch, Leaf, Node};
use crate::types::KeyRange;

/// Keys of a range with what is known of them, deleted ones too.
pub(crate) struct Iter<'a> {
    /// Branches on the way, and the child of each that comes next.
    above: Vec<(&'a Branch, usize)>,
    leaf: Option<&'a Leaf>,
    next: usize,
    /// Where the range ends in this leaf.
    end: usize,
    limit: Limit,
}

enum Limit {
    None,
    /// The key behind the last.
    Before(Vec<u8>),
    /// The last key.
    Only(Vec<u8>),
}

impl Limit {
    /// How many keys of a leaf are within.
    fn within(&self, leaf: &Leaf) -> usize {
        let Some(last) = leaf.keys.last() else { return 0 };
        match self {
            Self::None => leaf.keys.len(),
            Self::Before(end) if last < end.as_slice() => leaf.keys.len(),
            Self::Before(end) => leaf.keys.search(end).unwrap_or_else(|at| at),
            Self::Only(key) => leaf.keys.search(key).map_or_else(|at| at, |found| found + 1),
        }
    }
}

impl<'a> Iter<'a> {
    pub(super) fn new(root: &'a Node, range: &KeyRange) -> Self {
        let limit = match range {
            KeyRange::Key(key) => Limit::Only(key.to_vec()),
            KeyRange::Interval { end, .. } => Limit::Before(end.to_vec()),
            KeyRange::From(_) => Limit::None,
        };
        let mut iter = Self { above: Vec::new(), leaf: None, next: 0, end: 0, limit };
        if !range.is_empty() {
            iter.descend(root, Some(range.start()));
        }
        iter
    }

    fn descend(&mut self, mut node: &'a Node, start: Option<&[u8]>) {
        loop {
            match node {
                Node::Branch(branch) => {
                    let at = start.map_or(0, |start| branch.child_of(start));
                    self.above.push((branch, at + 1));
                    node = &branch.children[at].node;
                }
                Node::Leaf(leaf) => {
                    self.next = start.map_or(0, |start| leaf.keys.search(start).unwrap_or_else(|at| at));
                    self.end = self.limit.within(leaf);
                    self.leaf = Some(leaf);
                    return;
                }
            }
        }
    }

    /// Goes on to the next leaf, unless the range ended in this one.
    fn advance(&mut self) -> Option<()> {
        let leaf = self.leaf.take()?;
        if self.end < leaf.keys.len() {
            return None;
        }
        while let Some((branch, next)) = self.above.pop() {
            if let Some(child) = branch.children.get(next) {
                self.above.push((branch, next + 1));
                self.descend(&child.node, None);
                return Some(());
            }
        }
        None
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let leaf = self.leaf?;
            if self.next < self.end {
                let at = self.next;
                self.next += 1;
                return Some((leaf.keys.get(at), &leaf.entries[at]));
            }
            self.advance()?;
        }
    }
}

//! The tree against a map from the standard library.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<Vec<u8>, Entry>;

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, bool),
    Remove(Vec<u8>),
    RemoveRange(Vec<u8>, Vec<u8>),
    Snapshot,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..600_u32).prop_map(|number| format!("k{number:04}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (key(), proptest::bool::weighted(0.9)).prop_map(|(key, live)| Step::Insert(key, live)),
        3 => key().prop_map(Step::Remove),
        1 => (key(), key()).prop_map(|(from, to)| Step::RemoveRange(from, to)),
        1 => Just(Step::Snapshot),
    ]
}

fn entry(main: Revision, live: bool) -> Entry {
    let entry = Entry::new(Place { main, sub: 0 }, 1, 1, 0, 0);
    if live { entry } else { entry.tombstone() }
}

fn ranges(from: &[u8], to: &[u8]) -> [KeyRange; 4] {
    let (start, end) = (bytes::Bytes::copy_from_slice(from), bytes::Bytes::copy_from_slice(to));
    [
        KeyRange::all(),
        KeyRange::From(start.clone()),
        KeyRange::Key(start.clone()),
        KeyRange::Interval { start, end },
    ]
}

fn check(tree: &Tree, model: &Model, probe: (&[u8], &[u8])) {
    let held: Vec<_> = tree.range(&KeyRange::all()).map(|(key, entry)| (key.to_vec(), *entry)).collect();
    let expected: Vec<_> = model.iter().map(|(key, entry)| (key.clone(), *entry)).collect();
    assert_eq!(held, expected);
    let middle = model.values().map(|entry| entry.main).sum::<i64>() / model.len().max(1) as i64;
    for range in ranges(probe.0, probe.1) {
        let within = |key: &[u8]| range.contains(key);
        let expected: Vec<_> = model.iter().filter(|(key, _)| within(key)).collect();
        let found: Vec<_> = tree.range(&range).collect();
        assert_eq!(found.len(), expected.len(), "{range:?}");
        assert!(found.iter().zip(&expected).all(|(found, expected)| found.0 == &expected.0[..]));
        let live = expected.iter().filter(|(_, entry)| entry.is_live()).count() as u64;
        assert_eq!(tree.count(&range), live, "{range:?}");
        let there = |entry: &Entry| entry.main % 3 == 0;
        let then = expected.iter().filter(|(_, entry)| match entry.main <= middle {
            true => entry.is_live(),
            false => there(entry),
        });
        let counted = tree.count_at(&range, middle, &mut |entry| Ok::<_, Infallible>(there(entry)));
        assert_eq!(counted, Ok(then.count() as u64), "{range:?}");
    }
    assert_eq!(tree.get(probe.0), model.get(probe.0));
    shape(&tree.root);
}

/// The height of a node whose invariants hold.
fn shape(child: &Child) -> usize {
    match &*child.node {
        Node::Leaf(leaf) => {
            assert_eq!(leaf.keys.len(), leaf.entries.len());
            assert!(leaf.entries.len() <= MAX_LEAF);
            assert!(leaf.entries.iter().all(|entry| entry.main <= child.summary.newest));
            0
        }
        Node::Branch(branch) => {
            assert_eq!(branch.separators.len() + 1, branch.children.len());
            assert!(branch.children.len() <= MAX_BRANCH);
            let live: u64 = branch.children.iter().map(|child| child.summary.live).sum();
            assert_eq!(live, child.summary.live);
            let heights: Vec<_> = branch.children.iter().map(shape).collect();
            assert!(heights.windows(2).all(|pair| pair[0] == pair[1]));
            heights[0] + 1
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tree_holds_what_the_map_holds_and_copies_stay(
        steps in proptest::collection::vec(step(), 0..1500),
        (from, to) in (key(), key()),
    ) {
        let (mut tree, mut model) = (Tree::default(), Model::new());
        let mut copies: Vec<(Tree, Model)> = Vec::new();
        for (main, step) in (1..).zip(steps) {
            match step {
                Step::Insert(key, live) => {
                    let entry = entry(main, live);
                    prop_assert_eq!(tree.insert(&key, entry), model.insert(key, entry));
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                Step::RemoveRange(from, to) => {
                    let gone: Vec<_> = model.keys().filter(|key| (&from..&to).contains(key)).cloned().collect();
                    for key in gone {
                        prop_assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                }
                Step::Snapshot if copies.len() < 4 => copies.push((tree.clone(), model.clone())),
                Step::Snapshot => {}
            }
        }
        check(&tree, &model, (&from, &to));
        for (tree, model) in &copies {
            check(tree, model, (&from, &to));
        }
        let mut builder = Builder::default();
        model.iter().for_each(|(key, entry)| builder.push(key, *entry));
        check(&builder.finish(), &model, (&from, &to));
    }
}

#[test]
fn keys_in_order_fill_their_leaves() {
    let mut tree = Tree::default();
    for number in 0..10_000_u32 {
        tree.insert(&number.to_be_bytes(), entry(1, true));
    }
    fn leaves(node: &Node) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Branch(branch) => branch.children.iter().map(|child| leaves(&child.node)).sum(),
        }
    }
    assert_eq!(leaves(&tree.root.node), 10_000_usize.div_ceil(MAX_LEAF));
    for number in 0..10_000_u32 {
        assert!(tree.remove(&number.to_be_bytes()).is_some());
    }
    assert_eq!((leaves(&tree.root.node), tree.live()), (1, 0));
}

fn is_same(a: &Tree, b: &Tree) -> bool {
    Arc::ptr_eq(&a.root.node, &b.root.node)
}

#[test]
fn a_copy_is_the_same_until_one_of_them_changes() {
    let mut tree = Tree::default();
    tree.insert(b"a", entry(1, true));
    let copy = tree.clone();
    assert!(is_same(&copy, &tree));
    tree.insert(b"a", entry(2, true));
    assert!(!is_same(&copy, &tree));
    assert_eq!(copy.get(b"a").map(|entry| entry.main), Some(1));
}

#[test]
fn an_entry_comes_back_from_its_numbers() {
    let entry = Entry::new(Place { main: 1 << 40, sub: u32::MAX }, 77, 9, -5, 123).tombstone().first(true);
    assert_eq!(Entry::from_numbers(entry.to_numbers()), entry);
    assert!(!entry.is_live() && entry.is_first());
    assert_eq!(entry.version(), 9);
}

//! What an informer knows: objects by key, and the indexes that were asked for.
//!
//! A tree takes ten times the memory of what it says. Where there are many objects, only those that changed last may be
//! kept as trees; the others are packed, and unpacked for whoever reads them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use api_types::codec::peek::Peek;
use api_types::selector::LabelSelector;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::object::{Object, Packed};

/// A change of what an informer shows.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object came.
    Added(Arc<Object>),
    /// An object changed.
    Updated {
        /// As it was.
        old: Arc<Object>,
        /// As it is.
        new: Arc<Object>,
    },
    /// An object went; as it was last known.
    Deleted(Arc<Object>),
}

impl Change {
    /// The object, as it is or was last.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }

    /// The object as it was before it changed.
    pub fn before(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Updated { old, .. } => Some(old),
            Self::Added(_) | Self::Deleted(_) => None,
        }
    }
}

/// A way to find objects: the values under which each is found.
#[derive(Clone, Copy)]
pub struct Index {
    /// The index's name.
    pub name: &'static str,
    /// The field of the object that the values are in, such as `spec`; empty when they are in several.
    pub field: &'static str,
    /// The values of an object.
    pub values: fn(&Peek<'_>) -> Vec<String>,
}

/// Namespace and name.
pub(crate) type Key = (String, String);
/// Keys by the value they are found under.
type Entries = HashMap<Named, Found>;

/// A value under which objects are found. UIDs, of which there are as many as objects, take no memory of their own.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Named {
    Uid(Uuid),
    Text(Box<str>),
}

impl Named {
    fn of(text: &str) -> Self {
        let is_same = |uid: &Uuid| *uid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *text;
        Uuid::try_parse(text).ok().filter(is_same).map_or_else(|| Self::Text(text.into()), Self::Uid)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => uid.hyphenated().fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Keys under one value; mostly there is one, which takes no memory of its own.
enum Found {
    One(Arc<Key>),
    Many(BTreeSet<Arc<Key>>),
}

impl Found {
    fn insert(&mut self, key: &Arc<Key>) {
        match self {
            Self::One(one) if one == key => {}
            Self::One(one) => *self = Self::Many(BTreeSet::from([one.clone(), key.clone()])),
            Self::Many(many) => drop(many.insert(key.clone())),
        }
    }

    /// Whether it was the last one.
    fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(one) => **one == *key,
            Self::Many(many) => {
                many.remove(key);
                many.is_empty()
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    /// In order.
    fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// An object as it is kept.
#[derive(Clone)]
enum Kept {
    /// One of the last that changed, and the number of its change.
    Newest(Arc<Object>, u64),
    Packed(Packed),
}

impl Kept {
    fn object(self) -> Arc<Object> {
        match self {
            Self::Newest(object, _) => object,
            Self::Packed(packed) => Arc::new(Object::known(packed)),
        }
    }

    fn tree(self) -> Arc<Value> {
        self.object().tree().clone()
    }
}

#[derive(Default)]
struct Objects {
    by_key: BTreeMap<Arc<Key>, Kept>,
    /// Those that changed last in the order of their changes, of which some are outdated.
    newest: VecDeque<(Arc<Key>, u64)>,
    changes: u64,
    indexes: HashMap<&'static str, Entries>,
    /// The newest version that was seen.
    version: u64,
}

/// Reads what an informer knows. Cheap to clone.
#[derive(Clone)]
pub struct Lister {
    objects: Arc<RwLock<Objects>>,
    indexes: Arc<[Index]>,
    /// How many objects may be trees.
    trees: usize,
    synced: watch::Receiver<bool>,
}

pub(crate) fn key_of(object: &Object) -> Key {
    let peek = object.peek();
    (peek.namespace().into_owned(), peek.name().into_owned())
}

impl Lister {
    pub(crate) fn new(indexes: Vec<Index>, trees: usize, synced: watch::Receiver<bool>) -> Self {
        Self { objects: Arc::default(), indexes: indexes.into(), trees, synced }
    }

    /// A lister of fixed objects, for tests of what reads them.
    pub fn of(indexes: Vec<Index>, objects: Vec<Value>) -> Self {
        let lister = Self::new(indexes, usize::MAX, watch::channel(true).1);
        objects.into_iter().for_each(|object| drop(lister.show(object.into())));
        lister
    }

    /// The newest version that was seen, of any object.
    pub fn version(&self) -> u64 {
        self.objects.read().version
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.kept(&(namespace.to_owned(), name.to_owned())).map(Kept::tree)
    }

    fn kept(&self, key: &Key) -> Option<Kept> {
        self.objects.read().by_key.get(key).cloned()
    }

    /// What is kept, and its key in the memory that all share.
    fn known(&self, key: &Key) -> Option<(Arc<Key>, Kept)> {
        self.objects.read().by_key.get_key_value(key).map(|(key, kept)| (key.clone(), kept.clone()))
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<Value>> {
        let kept: Vec<Kept> = self.objects.read().by_key.values().cloned().collect();
        kept.into_iter().map(Kept::tree).collect()
    }

    /// The objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.kept_in(namespace).into_iter().map(Kept::tree).collect()
    }

    fn kept_in(&self, namespace: &str) -> Vec<Kept> {
        let objects = self.objects.read();
        let from = (namespace.to_owned(), String::new());
        let found = objects.by_key.range::<Key, _>(from..).take_while(|(key, _)| key.0 == namespace);
        found.map(|(_, kept)| kept.clone()).collect()
    }

    /// The objects of a namespace whose labels fit.
    pub fn select(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<Value>> {
        let objects = self.kept_in(namespace).into_iter().map(Kept::object);
        let selected = objects.filter(|object| selector.matches_peek(&object.peek()));
        selected.map(|object| object.tree().clone()).collect()
    }

    /// The objects that an index has under a value.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Value>> {
        let kept: Vec<Kept> = {
            let objects = self.objects.read();
            let found = objects.indexes.get(index).and_then(|entries| entries.get(&Named::of(value)));
            let keys = found.into_iter().flat_map(Found::keys);
            keys.filter_map(|key| objects.by_key.get(key)).cloned().collect()
        };
        kept.into_iter().map(Kept::tree).collect()
    }

    /// How many objects an index has under a value.
    pub fn index_len(&self, index: &str, value: &str) -> usize {
        let objects = self.objects.read();
        objects.indexes.get(index).and_then(|entries| entries.get(&Named::of(value))).map_or(0, Found::len)
    }

    /// The values under which an index has objects.
    pub fn index_values(&self, index: &str) -> Vec<String> {
        let objects = self.objects.read();
        objects
            .indexes
            .get(index)
            .into_iter()
            .flat_map(|entries| entries.keys().map(Named::to_string))
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.read().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether everything was read once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Returns when everything was read once; `false` when the informer has ended before.
    pub async fn synced(&self) -> bool {
        self.synced.clone().wait_for(|synced| *synced).await.is_ok()
    }

    /// Shows an object as it is now; what changed by that.
    pub(crate) fn show(&self, object: Object) -> Option<Change> {
        let (key, new) = (key_of(&object), Arc::new(object));
        // Nobody else writes.
        let (key, old) = match self.known(&key) {
            Some((key, kept)) => (key, Some(kept.object())),
            None => (Arc::new(key), None),
        };
        let mut objects = self.objects.write();
        objects.saw(&new);
        objects.reindex(&self.indexes, &key, old.as_deref(), Some(&new));
        objects.keep(key, new.clone(), self.trees);
        match old {
            None => Some(Change::Added(new)),
            Some(old) if old.version() == new.version() => None,
            Some(old) => Some(Change::Updated { old, new }),
        }
    }

    /// Forgets an object; what changed by that, with the object as it is known to have been last.
    pub(crate) fn remove(&self, object: Object) -> Option<Change> {
        let key = key_of(&object);
        let old = self.kept(&key).map(Kept::object);
        let mut objects = self.objects.write();
        objects.saw(&object);
        let old = old?;
        objects.by_key.remove(&key);
        objects.reindex(&self.indexes, &Arc::new(key), Some(&old), None);
        Some(Change::Deleted(Arc::new(object)))
    }

    /// Forgets all objects but these; what changed by that.
    pub(crate) fn retain(&self, keys: &BTreeSet<Key>) -> Vec<Change> {
        let mut guard = self.objects.write();
        let objects = &mut *guard;
        let gone: Vec<_> = objects.by_key.extract_if(.., |key, _| !keys.contains(&**key)).collect();
        let forget = |(key, kept): (Arc<Key>, Kept)| {
            let object = kept.object();
            objects.reindex(&self.indexes, &key, Some(&object), None);
            Change::Deleted(object)
        };
        gone.into_iter().map(forget).collect()
    }
}

impl Objects {
    /// Keeps an object as it is, and `trees` of them at most: those that changed last.
    fn keep(&mut self, key: Arc<Key>, object: Arc<Object>, trees: usize) {
        self.changes += 1;
        self.by_key.insert(key.clone(), Kept::Newest(object, self.changes));
        if trees == usize::MAX {
            return;
        }
        self.newest.push_back((key, self.changes));
        while self.newest.len() > trees {
            let Some((key, number)) = self.newest.pop_front() else { return };
            let Some(kept) = self.by_key.get_mut(&key) else { continue };
            if let Kept::Newest(object, change) = kept
                && *change == number
            {
                *kept = Kept::Packed(object.pack());
            }
        }
    }

    fn saw(&mut self, object: &Object) {
        self.version = object.version().parse().unwrap_or(0).max(self.version);
    }

    /// Finds an object by what it says now instead of what it said.
    fn reindex(&mut self, indexes: &[Index], key: &Arc<Key>, old: Option<&Object>, new: Option<&Object>) {
        let [old, new] = [old, new].map(|object| object.map(Object::peek));
        for index in indexes {
            let is_same = |old: Peek<'_>, new: Peek<'_>| old.has_same_bytes(&new, index.field);
            if old.zip(new).is_some_and(|(old, new)| is_same(old, new)) {
                continue;
            }
            let of = |peek: &Option<Peek<'_>>| peek.as_ref().map(index.values).unwrap_or_default();
            let (old, new) = (of(&old), of(&new));
            if old == new {
                continue;
            }
            let entries = self.indexes.entry(index.name).or_default();
            for value in old.iter().map(|value| Named::of(value)) {
                if entries.get_mut(&value).is_some_and(|found| found.remove(key)) {
                    entries.remove(&value);
                }
            }
            for value in new {
                entries.entry(Named::of(&value)).or_insert_with(|| Found::One(key.clone())).insert(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::{codec, meta};
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::object::Came;

    fn lister() -> Lister {
        let node = Index {
            name: "node",
            field: "spec",
            values: |pod| pod.scalar(&["spec", "nodeName"]).map(Into::into).into_iter().collect(),
        };
        Lister::new(vec![node], usize::MAX, watch::channel(true).1)
    }

    fn pod(name: &str, version: &str, node: &str) -> Object {
        json!({ "metadata": { "name": name, "namespace": "ns", "resourceVersion": version }, "spec": { "nodeName": node } })
            .into()
    }

    /// An object as a server stores it, with what nobody here keeps.
    fn stored(object: &Value) -> Bytes {
        let mut object = object.clone();
        object["metadata"]["managedFields"] = json!([{ "manager": "me", "operation": "Update" }]);
        let (api_version, kind) = (meta::api_version(&object), meta::kind(&object));
        match api_types::schema::lookup_api_version(api_version, kind) {
            Some(message) => codec::to_stored(message, api_version, kind, &object).expect("stored").into(),
            None => codec::json_to_stored(&object).into(),
        }
    }

    fn replace(lister: &Lister, items: Vec<Object>) -> Vec<Change> {
        let keys = items.iter().map(key_of).collect();
        let changes = items.into_iter().filter_map(|object| lister.show(object));
        changes.collect::<Vec<_>>().into_iter().chain(lister.retain(&keys)).collect()
    }

    fn names(objects: Vec<Arc<Value>>) -> Vec<String> {
        objects.iter().map(|object| meta::name(object).to_owned()).collect()
    }

    #[test]
    fn an_index_follows_the_objects() {
        let lister = lister();
        assert!(matches!(lister.show(pod("a", "1", "n1")), Some(Change::Added(_))));
        assert!(lister.show(pod("a", "1", "n1")).is_none(), "the same version is no change");
        lister.show(pod("b", "2", "n1"));
        assert_eq!(names(lister.by_index("node", "n1")), ["a", "b"]);
        assert!(matches!(lister.show(pod("a", "3", "n2")), Some(Change::Updated { .. })));
        assert_eq!(names(lister.by_index("node", "n1")), ["b"]);
        assert!(matches!(lister.remove(pod("b", "4", "n1")), Some(Change::Deleted(_))));
        assert!(lister.by_index("node", "n1").is_empty());
        assert!(lister.remove(pod("b", "4", "n1")).is_none());
    }

    #[test]
    fn a_value_is_found_as_it_is_written() {
        let uid = "8f849410-b138-4879-9ad5-ee5d5e2e511d";
        assert!(matches!(Named::of(uid), Named::Uid(_)));
        let odd =
            [uid.to_uppercase(), uid.replace('-', ""), format!("{{{uid}}}"), String::new(), "n1".to_owned()];
        for text in odd.iter().map(String::as_str).chain([uid]) {
            assert_eq!(Named::of(text).to_string(), text);
            assert!(text == uid || Named::of(text) != Named::of(uid), "{text}");
        }
    }

    /// Protobuf says that a pod has no node yet, and a tree says nothing.
    #[test]
    fn an_index_follows_what_was_read_as_a_tree_meanwhile() {
        let lister = lister();
        let pod = |spec: Value, revision: i64| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "namespace": "ns" }, "spec": spec});
            Came::Packed(Packed::Stored(stored(&pod), revision)).object().expect("an object")
        };
        lister.show(pod(json!({ "containers": [] }), 1));
        assert!(lister.index_values("node").is_empty());
        drop(lister.all());
        lister.show(pod(json!({ "containers": [], "nodeName": "n1" }), 2));
        assert_eq!(lister.index_values("node"), ["n1"]);
    }

    #[test]
    fn a_replacement_tells_what_came_changed_and_went() {
        let lister = lister();
        ["a", "b", "c"].iter().for_each(|name| drop(lister.show(pod(name, "1", "n"))));
        let changes = replace(&lister, vec![pod("b", "1", "n"), pod("c", "2", "n"), pod("d", "3", "n")]);
        let told: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Added(object) => format!("+{}", meta::name(object)),
                Change::Updated { new, .. } => format!("~{}", meta::name(new)),
                Change::Deleted(object) => format!("-{}", meta::name(object)),
            })
            .collect();
        assert_eq!(told, ["~c", "+d", "-a"]);
        assert_eq!(names(lister.by_index("node", "n")), ["b", "c", "d"]);
    }

    #[test]
    fn many_are_packed_and_nobody_sees_it() {
        let tests = lister();
        let few = Lister::new(tests.indexes.to_vec(), 2, watch::channel(true).1);
        let object = |api_version: &str, kind: &str, number: usize, version: usize| {
            json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": {
                    "name": format!("o{number}"), "namespace": "ns", "resourceVersion": version.to_string(),
                    "labels": { "parity": if number.is_multiple_of(2) { "even" } else { "odd" } },
                },
                "spec": { "nodeName": format!("n{}", number % 3), "containers": [{ "name": "c", "resources": {} }] },
                "status": {},
            })
        };
        for (api_version, kind) in [("v1", "Pod"), ("example.com/v1", "Own")] {
            let (all, few) = (lister(), few.clone());
            let mut version = 0;
            for (round, number) in
                [(0..8), (2..4), (0..8)].into_iter().enumerate().flat_map(|(r, n)| n.map(move |n| (r, n)))
            {
                version += 1;
                let each = object(api_version, kind, number, version);
                let told = |change: Option<Change>| match change {
                    Some(Change::Updated { old, new }) => {
                        Some((Some(old.tree().clone()), new.tree().clone()))
                    }
                    Some(Change::Added(new)) => Some((None, new.tree().clone())),
                    _ => None,
                };
                // They come in every way.
                let came = match number % 3 {
                    0 => Came::Tree(each.clone()),
                    1 => Came::Packed(Packed::of(&each)),
                    _ => Came::Packed(Packed::Stored(stored(&each), version as i64)),
                };
                let came = came.object().expect("an object");
                let told = (told(all.show(each.into())), told(few.show(came)));
                assert_eq!(told.0, told.1, "{round}, {number}");
            }
            let packed =
                few.objects.read().by_key.values().filter(|kept| matches!(kept, Kept::Packed(_))).count();
            assert_eq!((few.len(), packed), (8, 6));
            assert!(few.objects.read().newest.len() <= 2);
            assert_eq!(all.all(), few.all());
            assert_eq!(all.get("ns", "o0"), few.get("ns", "o0"));
            assert_eq!(all.by_index("node", "n1"), few.by_index("node", "n1"));
            for selector in ["parity=odd", "parity!=odd", "other", "!other", ""] {
                let selector = LabelSelector::parse(selector).expect("a selector");
                assert_eq!(all.select("ns", &selector), few.select("ns", &selector), "{selector}");
            }
            let kept =
                || vec![object(api_version, kind, 3, 99).into(), object(api_version, kind, 9, 98).into()];
            assert_eq!(replace(&all, kept()).len(), replace(&few, kept()).len());
            assert_eq!(all.all(), few.all());
            replace(&few, Vec::new());
        }
    }

    #[test]
    fn a_namespace_is_not_a_prefix_of_another() {
        let lister = lister();
        lister.show(json!({ "metadata": { "name": "x", "namespace": "a" } }).into());
        lister.show(json!({ "metadata": { "name": "y", "namespace": "ab" } }).into());
        assert_eq!(names(lister.in_namespace("a")), ["x"]);
    }

    #[test]
    fn nothing_is_read_as_a_tree_that_nobody_reads() {
        let tests = lister();
        let (lister, came) = (
            Lister::new(tests.indexes.to_vec(), 1, watch::channel(true).1),
            |version: i64| {
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": { "name": "a", "namespace": "ns" }, "spec": { "nodeName": format!("n{version}") },
                });
                Came::Packed(Packed::Stored(stored(&pod), version)).object().expect("a pod")
            },
        );
        lister.show(came(1));
        let Some(Change::Updated { old, new }) = lister.show(came(2)) else { panic!("it changed") };
        assert_eq!((lister.index_len("node", "n1"), lister.index_len("node", "n2")), (0, 1));
        assert!([&old, &new].iter().all(|object| !object.is_tree()));
        assert_eq!(meta::resource_version(&lister.get("ns", "a").expect("a pod")), "2");
        assert!(new.is_tree(), "what was read is kept of the newest");
        assert!(!old.is_same_in(&new, "spec"));
        assert!(old.is_same_in(&new, "status"));
    }

    #[test]
    fn what_cannot_be_read_does_not_come() {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "nodeName": "n" } });
        let whole = stored(&pod);
        for end in 0..whole.len() {
            let came = Came::Packed(Packed::Stored(whole.slice(..end), 1)).object();
            assert!(came.is_err() || came.is_ok_and(|object| object.tree().is_object()), "{end} bytes");
        }
        assert!(Came::Packed(Packed::Stored(Bytes::from_static(b"{"), 1)).object().is_err());
    }
}

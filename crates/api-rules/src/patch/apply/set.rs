//! Sets of field paths and their JSON form, `FieldsV1`.

use serde_json::{Map, Value};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// One step of a path, as `FieldsV1` writes it.
///
/// * `f:`: a field of a struct or a key of a map,
/// * `k:`: an element of a list of maps, its keys as canonical JSON,
/// * `v:`: an element of a list that is a set, its value as JSON,
/// * `i:`: an element by position: read from other writers, never made here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step(String);

impl Step {
    pub(crate) fn field(name: &str) -> Step {
        Step(["f:", name].concat())
    }

    pub(crate) fn key(json: &str) -> Step {
        Step(["k:", json].concat())
    }

    pub(crate) fn value(json: &str) -> Step {
        Step(["v:", json].concat())
    }

    fn decode(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Step(text.to_owned())),
            "k" => Some(Step::key(&canonical(rest)?)),
            "v" => Some(Step::value(&canonical(rest)?)),
            "i" => rest.parse().ok().map(|index: i64| Step(format!("i:{index}"))),
            _ => None,
        }
    }

    /// The name of a field.
    pub(crate) fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// As upstream prints it in a path: `.name`, `[name="a"]`, `[="a"]`, `[0]`.
    pub(crate) fn shown(&self) -> String {
        match self.0.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some(("v", json)) => format!("[={json}]"),
            Some(("k", json)) => {
                let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", pairs.join(","))
            }
            Some((_, rest)) => format!("[{rest}]"),
            None => String::new(),
        }
    }
}

/// Other writers may have spaces in their JSON.
fn canonical(json: &str) -> Option<String> {
    serde_json::from_str::<Value>(json).ok().map(|value| value.to_string())
}

/// A set of paths: those that end here and those that go on. No set in it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    members: BTreeSet<Step>,
    children: BTreeMap<Step, Set>,
}

impl Set {
    /// The set of paths of fields.
    pub(crate) fn of_fields<'a, P: IntoIterator<Item = &'a str>>(paths: impl Iterator<Item = P>) -> Set {
        let mut set = Set::default();
        for path in paths {
            let steps: Vec<Step> = path.into_iter().map(Step::field).collect();
            set.insert(&steps);
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Whether the path of one step is a member.
    pub(crate) fn has(&self, step: &Step) -> bool {
        self.members.contains(step)
    }

    /// What lies below a step.
    pub(crate) fn below(&self, step: &Step) -> Option<&Set> {
        self.children.get(step)
    }

    /// Adds a path; the empty one stands for the object, which nobody owns.
    fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => self.put(last.clone(), true, Set::default()),
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Adds a step that is not in it yet: as a member, and with what lies below it.
    pub(crate) fn put(&mut self, step: Step, member: bool, below: Set) {
        match (member, below.is_empty()) {
            (true, true) => drop(self.members.insert(step)),
            (false, false) => drop(self.children.insert(step, below)),
            (true, false) => {
                self.members.insert(step.clone());
                self.children.insert(step, below);
            }
            (false, true) => {}
        }
    }

    /// The paths that are in either.
    pub(crate) fn union(mut self, other: Set) -> Set {
        if self.is_empty() {
            return other;
        }
        self.members.extend(other.members);
        for (step, theirs) in other.children {
            match self.children.entry(step) {
                Entry::Vacant(place) => drop(place.insert(theirs)),
                Entry::Occupied(mut place) => {
                    let mine = std::mem::take(place.get_mut());
                    *place.get_mut() = mine.union(theirs);
                }
            }
        }
        self
    }

    /// Whether a path is in both.
    pub(crate) fn overlaps(&self, other: &Set) -> bool {
        let below = |(step, set): (&Step, &Set)| other.children.get(step).is_some_and(|o| set.overlaps(o));
        !self.members.is_disjoint(&other.members) || self.children.iter().any(below)
    }

    /// The paths that are in both.
    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both = |(step, set): (&Step, &Set)| {
            let common = set.intersection(other.children.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        };
        Set { members, children: self.children.iter().filter_map(both).collect() }
    }

    /// The paths that are not in the other.
    pub(crate) fn difference(mut self, other: &Set) -> Set {
        self.members.retain(|step| !other.members.contains(step));
        for (step, theirs) in &other.children {
            self.shrink(step, |mine| mine.difference(theirs));
        }
        self
    }

    /// Without these paths and everything below them.
    pub(crate) fn without(mut self, ignored: &Set) -> Set {
        for step in &ignored.members {
            self.members.remove(step);
            self.children.remove(step);
        }
        for (step, theirs) in &ignored.children {
            self.shrink(step, |mine| mine.without(theirs));
        }
        self
    }

    fn shrink(&mut self, step: &Step, by: impl FnOnce(Set) -> Set) {
        let Some(mine) = self.children.get_mut(step) else { return };
        let left = by(std::mem::take(mine));
        match left.is_empty() {
            true => drop(self.children.remove(step)),
            false => *mine = left,
        }
    }

    /// Also owns the named fields on the way to what it owns; `named` says which steps are fields of a struct and
    /// gives the judge for what is below.
    pub(crate) fn with_named<T: Copy>(&self, at: T, named: &impl Fn(T, &Step) -> (bool, T)) -> Set {
        let mut out = Set { members: self.members.clone(), children: BTreeMap::new() };
        for (step, set) in &self.children {
            let (is_named, below) = named(at, step);
            if is_named {
                out.members.insert(step.clone());
            }
            out.children.insert(step.clone(), set.with_named(below, named));
        }
        out
    }

    /// Every path, as upstream prints it.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out: Vec<String> = self.members.iter().map(Step::shown).collect();
        for (step, set) in &self.children {
            out.extend(set.paths().into_iter().map(|rest| step.shown() + &rest));
        }
        out.sort_unstable();
        out
    }

    /// `FieldsV1`.
    pub(crate) fn into_json(self) -> Value {
        let Set { mut members, children } = self;
        let mut out = Map::new();
        for (step, set) in children {
            let mut below = set.into_json();
            if let (true, Some(below)) = (members.remove(&step), below.as_object_mut()) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(step.0, below);
        }
        out.extend(members.into_iter().map(|step| (step.0, Value::Object(Map::new()))));
        Value::Object(out)
    }

    /// Reads `FieldsV1`; what is not understood is left out.
    pub(crate) fn from_json(json: &Value) -> Set {
        let mut set = Set::default();
        for (key, value) in json.as_object().into_iter().flatten() {
            let Some(step) = Step::decode(key) else { continue };
            let below = value.as_object();
            let member = below.is_none_or(|b| b.is_empty() || b.contains_key("."));
            set.put(step, member, Set::from_json(value));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_both_ways() {
        let json = json!({"f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}},
            "f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}}});
        let set = Set::from_json(&json);
        assert_eq!(set.clone().into_json(), json);
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a/b\"]",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].image",
                ".spec.replicas"
            ]
        );
    }

    #[test]
    fn algebra() {
        let a = Set::from_json(&json!({"f:a": {"f:b": {}, "f:c": {}}, "f:d": {}}));
        let b = Set::from_json(&json!({"f:a": {"f:b": {}}}));
        assert_eq!(a.clone().difference(&b).paths(), [".a.c", ".d"]);
        assert_eq!(a.intersection(&b).paths(), [".a.b"]);
        assert_eq!(b.clone().union(a.clone()), a);
        assert!(b.clone().difference(&a).is_empty());
        assert!(a.overlaps(&b) && b.overlaps(&a));
        let c = Set::from_json(&json!({"f:a": {".": {}, "f:e": {}}, "f:b": {}}));
        assert!(!a.overlaps(&c) && !c.overlaps(&a) && a.intersection(&c).is_empty());
        assert_eq!(a.clone().without(&Set::from_json(&json!({"f:a": {}}))).paths(), [".d"]);
    }
}

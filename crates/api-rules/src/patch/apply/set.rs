//! Sets of field paths and their JSON form, `FieldsV1`.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a struct or a key of a map.
    Field(String),
    /// An element of a list of maps: its keys as canonical JSON.
    Key(String),
    /// An element of a list that is a set: its value as JSON.
    Value(String),
    /// An element by position: read from other writers, never made here.
    Index(i64),
}

impl Step {
    fn encode(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(json) => format!("k:{json}"),
            Step::Value(json) => format!("v:{json}"),
            Step::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Step::Field(rest.to_owned())),
            "k" => Some(Step::Key(canonical(rest)?)),
            "v" => Some(Step::Value(canonical(rest)?)),
            "i" => rest.parse().ok().map(Step::Index),
            _ => None,
        }
    }

    /// As upstream prints it in a path: `.name`, `[name="a"]`, `[="a"]`, `[0]`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Step::Field(name) => format!(".{name}"),
            Step::Value(json) => format!("[={json}]"),
            Step::Index(index) => format!("[{index}]"),
            Step::Key(json) => {
                let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", pairs.join(","))
            }
        }
    }
}

/// Other writers may have spaces in their JSON.
fn canonical(json: &str) -> Option<String> {
    serde_json::from_str::<Value>(json).ok().map(|value| value.to_string())
}

/// A set of paths: those that end here and those that go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    members: BTreeSet<Step>,
    children: BTreeMap<Step, Set>,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Set::is_empty)
    }

    /// Whether the path of one step is a member.
    pub(crate) fn has(&self, step: &Step) -> bool {
        self.members.contains(step)
    }

    /// What lies below a step.
    pub(crate) fn below(&self, step: &Step) -> Option<&Set> {
        self.children.get(step).filter(|set| !set.is_empty())
    }

    /// Adds a path; the empty one stands for the object, which nobody owns.
    pub(crate) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(crate) fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (step, set) in &other.children {
            let merged = out.children.get(step).map_or_else(|| set.clone(), |mine| mine.union(set));
            out.children.insert(step.clone(), merged);
        }
        out
    }

    /// The paths that are in both.
    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both =
            |(step, set): (&Step, &Set)| Some((step.clone(), set.intersection(other.children.get(step)?)));
        Set { members, children: without_empty(self.children.iter().filter_map(both)) }
    }

    /// The paths that are not in the other.
    pub(crate) fn difference(&self, other: &Set) -> Set {
        let members = self.members.difference(&other.members).cloned().collect();
        let left = |(step, set): (&Step, &Set)| {
            (step.clone(), other.children.get(step).map_or_else(|| set.clone(), |o| set.difference(o)))
        };
        Set { members, children: without_empty(self.children.iter().map(left)) }
    }

    /// Removes these paths and everything below them.
    pub(crate) fn without(&self, ignored: &Set) -> Set {
        let members = self.members.difference(&ignored.members).cloned().collect();
        let left = |(step, set): (&Step, &Set)| {
            if ignored.members.contains(step) {
                return None;
            }
            Some((step.clone(), ignored.children.get(step).map_or_else(|| set.clone(), |o| set.without(o))))
        };
        Set { members, children: without_empty(self.children.iter().filter_map(left)) }
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
    pub(crate) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for step in &self.members {
            out.insert(step.encode(), Value::Object(Map::new()));
        }
        for (step, set) in self.children.iter().filter(|(_, set)| !set.is_empty()) {
            let mut below = match set.to_json() {
                Value::Object(below) => below,
                _ => Map::new(),
            };
            if self.members.contains(step) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(step.encode(), Value::Object(below));
        }
        Value::Object(out)
    }

    /// Reads `FieldsV1`; what is not understood is left out.
    pub(crate) fn from_json(json: &Value) -> Set {
        let mut set = Set::default();
        for (key, value) in json.as_object().into_iter().flatten() {
            let Some(step) = Step::decode(key) else { continue };
            let below = value.as_object();
            if below.is_none_or(|b| b.is_empty() || b.contains_key(".")) {
                set.members.insert(step.clone());
            }
            let child = Set::from_json(value);
            if !child.is_empty() {
                set.children.insert(step, child);
            }
        }
        set
    }
}

fn without_empty(children: impl Iterator<Item = (Step, Set)>) -> BTreeMap<Step, Set> {
    children.filter(|(_, set)| !set.is_empty()).collect()
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
        assert_eq!(set.to_json(), json);
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
        assert_eq!(a.difference(&b).paths(), [".a.c", ".d"]);
        assert_eq!(a.intersection(&b).paths(), [".a.b"]);
        assert_eq!(b.union(&a), a);
        assert!(b.difference(&a).is_empty());
        assert_eq!(a.without(&Set::from_json(&json!({"f:a": {}}))).paths(), [".d"]);
    }
}

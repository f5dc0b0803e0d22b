//! Sets of field paths and their JSON form, `FieldsV1`.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// What a step leads to, in the order of the letters that `FieldsV1` has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `f:`: a field of a struct or a key of a map.
    Field,
    /// `i:`: an element by position: read from other writers, never made here.
    Index,
    /// `k:`: an element of a list of maps, its keys as canonical JSON.
    Keys,
    /// `v:`: an element of a list that is a set, its value as JSON.
    Value,
}

impl Kind {
    fn letter(self) -> &'static str {
        match self {
            Kind::Field => "f:",
            Kind::Index => "i:",
            Kind::Keys => "k:",
            Kind::Value => "v:",
        }
    }
}

/// One step of a path. Names of fields are borrowed from the object that has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step<'a> {
    kind: Kind,
    text: Cow<'a, str>,
}

impl<'a> Step<'a> {
    pub(crate) fn field(name: &'a str) -> Self {
        Step { kind: Kind::Field, text: name.into() }
    }

    pub(crate) fn key(json: String) -> Self {
        Step { kind: Kind::Keys, text: json.into() }
    }

    pub(crate) fn value(json: String) -> Self {
        Step { kind: Kind::Value, text: json.into() }
    }

    fn decode(text: Cow<'a, str>) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => {
                let begin = text.len() - rest.len();
                let text = match text {
                    Cow::Borrowed(text) => Cow::Borrowed(&text[begin..]),
                    Cow::Owned(text) => Cow::Owned(text[begin..].to_owned()),
                };
                Some(Step { kind: Kind::Field, text })
            }
            "k" => Some(Step::key(canonical(rest)?)),
            "v" => Some(Step::value(canonical(rest)?)),
            "i" => {
                let index: i64 = rest.parse().ok()?;
                Some(Step { kind: Kind::Index, text: index.to_string().into() })
            }
            _ => None,
        }
    }

    /// As `FieldsV1` writes it.
    fn encode(&self) -> String {
        [self.kind.letter(), &self.text].concat()
    }

    /// As `FieldsV1` writes it, in quotes.
    fn write(&self, out: &mut String) {
        if self.is_plain() {
            ["\"", self.kind.letter(), &self.text, "\""].iter().for_each(|part| out.push_str(part));
        } else {
            out.push_str(&Value::from(self.encode()).to_string());
        }
    }

    /// Whether JSON has its text as it is.
    fn is_plain(&self) -> bool {
        self.text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
    }

    /// The name of a field.
    pub(crate) fn as_field(&self) -> Option<&str> {
        (self.kind == Kind::Field).then_some(&*self.text)
    }

    /// As upstream prints it in a path: `.name`, `[name="a"]`, `[="a"]`, `[0]`.
    pub(crate) fn shown(&self) -> String {
        let text = &self.text;
        match self.kind {
            Kind::Field => format!(".{text}"),
            Kind::Index => format!("[{text}]"),
            Kind::Value => format!("[={text}]"),
            Kind::Keys => {
                let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
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

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set<'a> {
    /// In the order of their steps.
    nodes: Vec<Node<'a>>,
}

/// A step that paths end with, or go on from, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node<'a> {
    step: Step<'a>,
    /// Whether the path that ends here is in the set.
    member: bool,
    below: Set<'a>,
}

impl Node<'_> {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl<'a> Set<'a> {
    /// The set of paths of fields.
    pub(crate) fn of_fields<P: IntoIterator<Item = &'a str>>(paths: impl Iterator<Item = P>) -> Self {
        let mut set = Set::default();
        for path in paths {
            let steps: Vec<Step<'a>> = path.into_iter().map(Step::field).collect();
            set.insert(&steps);
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn find(&self, step: &Step<'_>) -> Option<&Node<'a>> {
        self.place(step).ok().map(|at| &self.nodes[at])
    }

    /// Where a step stands, or would stand.
    fn place(&self, step: &Step<'_>) -> Result<usize, usize> {
        // They mostly come in order.
        if self.nodes.last().is_none_or(|last| last.step < *step) {
            return Err(self.nodes.len());
        }
        self.nodes.binary_search_by(|node| node.step.cmp(step))
    }

    /// Whether the path of one step is a member.
    pub(crate) fn has(&self, step: &Step<'_>) -> bool {
        self.find(step).is_some_and(|node| node.member)
    }

    /// What lies below a step.
    pub(crate) fn below(&self, step: &Step<'_>) -> Option<&Set<'a>> {
        self.find(step).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Adds a path; the empty one stands for the object, which nobody owns.
    fn insert(&mut self, path: &[Step<'a>]) {
        let Some((first, rest)) = path.split_first() else { return };
        let mut below = Set::default();
        below.insert(rest);
        self.put(first.clone(), rest.is_empty(), below);
    }

    /// Adds a step: as a member, and with what lies below it.
    pub(crate) fn put(&mut self, step: Step<'a>, member: bool, below: Set<'a>) {
        let new = Node { step, member, below };
        if new.is_empty() {
            return;
        }
        match self.place(&new.step) {
            Ok(at) => {
                let node = &mut self.nodes[at];
                node.member |= member;
                node.below = std::mem::take(&mut node.below).union(new.below);
            }
            Err(at) => self.nodes.insert(at, new),
        }
    }

    /// The paths that are in either.
    pub(crate) fn union(mut self, other: Set<'a>) -> Self {
        if self.is_empty() {
            return other;
        }
        for Node { step, member, below } in other.nodes {
            self.put(step, member, below);
        }
        self
    }

    /// Whether a path is in both.
    pub(crate) fn overlaps(&self, other: &Set<'_>) -> bool {
        let is_in = |node: &Node<'_>| {
            let other = other.find(&node.step);
            other.is_some_and(|other| node.member && other.member || node.below.overlaps(&other.below))
        };
        self.nodes.iter().any(is_in)
    }

    /// The paths that are in both.
    pub(crate) fn intersection(&self, other: &Set<'_>) -> Self {
        let both = |node: &Node<'a>| {
            let other = other.find(&node.step)?;
            let (member, below) = (node.member && other.member, node.below.intersection(&other.below));
            let both = Node { step: node.step.clone(), member, below };
            (!both.is_empty()).then_some(both)
        };
        Set { nodes: self.nodes.iter().filter_map(both).collect() }
    }

    /// The paths that are not in the other.
    pub(crate) fn difference(mut self, other: &Set<'_>) -> Self {
        self.shrink(other, |mine, theirs| {
            mine.member &= !theirs.member;
            mine.below = std::mem::take(&mut mine.below).difference(&theirs.below);
        });
        self
    }

    /// Without these paths and everything below them.
    pub(crate) fn without(mut self, ignored: &Set<'_>) -> Self {
        self.shrink(ignored, |mine, theirs| {
            mine.below = match theirs.member {
                true => Set::default(),
                false => std::mem::take(&mut mine.below).without(&theirs.below),
            };
            mine.member &= !theirs.member;
        });
        self
    }

    /// Takes from each step that is in the other too.
    fn shrink(&mut self, other: &Set<'_>, by: impl Fn(&mut Node<'a>, &Node<'_>)) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|mine| {
            if let Some(theirs) = other.find(&mine.step) {
                by(mine, theirs);
            }
            !mine.is_empty()
        });
    }

    /// Also owns the named fields on the way to what it owns; `named` says which steps are fields of a struct and
    /// gives the judge for what is below.
    pub(crate) fn with_named<T: Copy>(&self, at: T, named: &impl Fn(T, &Step<'_>) -> (bool, T)) -> Self {
        let with_named = |node: &Node<'a>| {
            if node.below.is_empty() {
                return node.clone();
            }
            let (is_named, below) = named(at, &node.step);
            let below = node.below.with_named(below, named);
            Node { step: node.step.clone(), member: node.member || is_named, below }
        };
        Set { nodes: self.nodes.iter().map(with_named).collect() }
    }

    /// Every path, as upstream prints it.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        for node in &self.nodes {
            let step = node.step.shown();
            out.extend(node.below.paths().into_iter().map(|rest| step.clone() + &rest));
            out.extend(node.member.then_some(step));
        }
        out.sort_unstable();
        out
    }

    /// The first steps of its paths.
    pub(crate) fn starts(&self) -> impl Iterator<Item = &Step<'a>> {
        self.nodes.iter().map(|node| &node.step)
    }

    /// The text of `FieldsV1`.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        self.write(false, &mut text);
        text
    }

    /// Writes what lies below a step.
    fn write(&self, is_member: bool, out: &mut String) {
        let mut before = "{";
        if is_member && !self.is_empty() {
            out.push_str("{\".\":{}");
            before = ",";
        }
        for node in &self.nodes {
            out.push_str(before);
            before = ",";
            node.step.write(out);
            out.push(':');
            node.below.write(node.member, out);
        }
        out.push_str(if self.is_empty() { "{}" } else { "}" });
    }

    /// `FieldsV1`.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for node in &self.nodes {
            let mut below = node.below.to_json();
            if let (true, false, Some(below)) = (node.member, node.below.is_empty(), below.as_object_mut()) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(node.step.encode(), below);
        }
        Value::Object(out)
    }

    /// Reads `FieldsV1`; what is not understood is left out.
    pub(crate) fn from_json(json: &'a Value) -> Self {
        Below::deserialize(json).map_or_else(|_| Set::default(), |below| below.set)
    }

    /// [`Set::from_json`] of the text.
    pub(crate) fn from_text(json: &'a str) -> Self {
        serde_json::from_str(json).map_or_else(|_| Set::default(), |below: Below<'a>| below.set)
    }
}

/// What stands behind a step in `FieldsV1`.
struct Below<'a> {
    /// Whether the step is a member.
    member: bool,
    set: Set<'a>,
}

/// Nothing: the path ends here.
impl Default for Below<'_> {
    fn default() -> Self {
        Below { member: true, set: Set::default() }
    }
}

impl<'de> Deserialize<'de> for Below<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BelowVisitor)
    }
}

struct BelowVisitor;

impl<'de> Visitor<'de> for BelowVisitor {
    type Value = Below<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut set, mut is_empty, mut has_own) = (Set::default(), true, false);
        while let Some(Key(key)) = entries.next_key()? {
            is_empty = false;
            has_own |= key == ".";
            let below: Below<'de> = entries.next_value()?;
            if let Some(step) = Step::decode(key) {
                set.put(step, below.member, below.set);
            }
        }
        Ok(Below { member: is_empty || has_own, set })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Below::default())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Below::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Below::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Below::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Below::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Below::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Below::default())
    }
}

/// A key, borrowed where nothing in it is escaped.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a step")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(key.into()))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(key.to_owned().into()))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
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
        assert_eq!(set.to_json(), json);
        assert_eq!(set.to_text(), json.to_string());
        assert_eq!(Set::from_text(&json.to_string()), set);
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
    fn what_others_wrote_is_read_as_far_as_it_is_understood() {
        for (text, understood) in [
            (
                r#"{"f:a\"b":{"k:{ \"y\": 1, \"x\": \"z\" }":{}}}"#,
                r#"{"f:a\"b":{"k:{\"x\":\"z\",\"y\":1}":{}}}"#,
            ),
            (
                r#"{"f:a":7,"f:b":"x","f:c":[1],"f:d":null,"f:e":true}"#,
                r#"{"f:a":{},"f:b":{},"f:c":{},"f:d":{},"f:e":{}}"#,
            ),
            (r#"{"x:a":{},"f:b":{"x:a":{}},"i:3":{},"i:x":{},"k:{":{},"v:1":{}}"#, r#"{"i:3":{},"v:1":{}}"#),
            ("[]", "{}"),
            ("{", "{}"),
        ] {
            assert_eq!(Set::from_text(text).to_text(), understood, "{text}");
            if let Ok(json) = serde_json::from_str(text) {
                assert_eq!(Set::from_json(&json), Set::from_text(text));
            }
        }
    }

    #[test]
    fn algebra() {
        let sets = [
            json!({"f:a": {"f:b": {}, "f:c": {}}, "f:d": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {".": {}, "f:e": {}}, "f:b": {}}),
            json!({"f:a": {}}),
        ];
        let [a, b, c, whole] = sets.each_ref().map(Set::from_json);
        assert_eq!(a.clone().difference(&b).paths(), [".a.c", ".d"]);
        assert_eq!(a.intersection(&b).paths(), [".a.b"]);
        assert_eq!(b.clone().union(a.clone()), a);
        assert!(b.clone().difference(&a).is_empty());
        assert!(a.overlaps(&b) && b.overlaps(&a));
        assert!(!a.overlaps(&c) && !c.overlaps(&a) && a.intersection(&c).is_empty());
        assert_eq!(a.clone().without(&whole).paths(), [".d"]);
        assert_eq!(c.clone().difference(&whole).paths(), [".a.e", ".b"]);
        assert_eq!(c.clone().union(a).paths(), [".a", ".a.b", ".a.c", ".a.e", ".b", ".d"]);
        assert_eq!(c.clone().union(whole), c);
    }
}

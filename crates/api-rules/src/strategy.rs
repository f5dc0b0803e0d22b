//! Create and update strategies of every kind, from `data/strategies.txt`: status and spec kept apart, generation,
//! unconditional updates.

use crate::index::Index;
use crate::look::{Look, object_mut, remove, same, set};
use crate::meta;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// How dependents fare by default when an object is deleted without a propagation policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultDeletion {
    /// Dependents are deleted in the background.
    Background,
    /// Dependents are orphaned.
    Orphan,
}

/// What is particular about creating and updating a kind.
#[derive(Debug, Clone)]
pub struct Strategy {
    /// PUT of a missing object creates it.
    pub create_on_update: bool,
    /// Updates may come without a resourceVersion.
    pub unconditional_update: bool,
    /// What happens to dependents by default.
    pub deletion: DefaultDeletion,
    clears_status: bool,
    keeps_status: bool,
    generation: bool,
    /// Paths whose change raises the generation; `*` for everything but metadata.
    raised_by: Vec<&'static str>,
    /// Paths that a status update keeps from the stored object.
    status_update_keeps: Vec<&'static str>,
}

static TABLE: LazyLock<Index<2, Strategy>> =
    LazyLock::new(|| include_str!("../data/strategies.txt").lines().filter_map(parse).collect());

/// For kinds without a row, custom resources among them.
static GENERIC: LazyLock<Strategy> = LazyLock::new(|| row("skg", "*", "metadata,spec"));

fn parse(line: &'static str) -> Option<([&'static str; 2], Strategy)> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        [group, kind, flags, raised, kept] if group != "#" && !line.starts_with('#') => {
            Some(([if group == "-" { "" } else { group }, kind], row(flags, raised, kept)))
        }
        _ => None,
    }
}

fn row(flags: &str, raised: &'static str, kept: &'static str) -> Strategy {
    let list = |text: &'static str| if text == "-" { Vec::new() } else { text.split(',').collect() };
    Strategy {
        create_on_update: flags.contains('c'),
        unconditional_update: flags.contains('u'),
        deletion: if flags.contains('O') { DefaultDeletion::Orphan } else { DefaultDeletion::Background },
        clears_status: flags.contains('s'),
        keeps_status: flags.contains('k'),
        generation: flags.contains('g'),
        raised_by: list(raised),
        status_update_keeps: list(kept),
    }
}

impl Strategy {
    /// Dotted paths that the endpoint resets whoever sends them, so that nobody owns them through it.
    pub fn reset_fields(&self, subresource: &str) -> &[&'static str] {
        match subresource {
            "status" => &self.status_update_keeps,
            "" if self.keeps_status || self.clears_status => &["status"],
            _ => &[],
        }
    }
}

/// The strategy of a kind.
pub fn strategy(group: &str, kind: &str) -> &'static Strategy {
    TABLE.get([group, kind]).unwrap_or(&GENERIC)
}

/// The strategy of the object's own kind.
pub fn of(object: &Value) -> &'static Strategy {
    strategy(group_of(object), object.text("kind"))
}

/// The API group of an object, empty for core.
pub fn group_of(object: &Value) -> &str {
    object.text("apiVersion").split_once('/').map_or("", |(group, _)| group)
}

/// Resets what a client may not set on a new object.
pub fn prepare_create(object: &mut Value) {
    let strategy = of(object);
    meta::prepare_create(object);
    if strategy.clears_status {
        remove(object, "status");
    }
    if strategy.generation {
        set(object, "metadata.generation", json!(1));
    }
}

/// Keeps what the main endpoint may not change and raises the generation when the intent changed.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let strategy = of(new);
    meta::prepare_update(new, old);
    if strategy.keeps_status {
        set(new, "status", old.at("status").clone());
    }
    raise_generation(strategy, new, old);
}

/// Raises the generation when one of the strategy's fields differs from the stored object.
pub fn raise_generation(strategy: &Strategy, new: &mut Value, old: &Value) {
    let changed = strategy.raised_by.iter().any(|path| match *path {
        "*" => changed_outside_metadata(new, old),
        path => !same(new.at(path), old.at(path)),
    });
    if changed {
        set(new, "metadata.generation", json!(old.int("metadata.generation") + 1));
    }
}

fn changed_outside_metadata(new: &Value, old: &Value) -> bool {
    let differs = |a: &Value, b: &Value| {
        a.entries("").any(|(key, value)| !matches!(key, "metadata" | "status") && !same(value, b.key(key)))
    };
    differs(new, old) || differs(old, new)
}

/// A status update changes the status only (and, for some kinds, metadata).
pub fn prepare_status_update(new: &mut Value, old: &Value) {
    let strategy = of(new);
    meta::prepare_update(new, old);
    for path in &strategy.status_update_keeps {
        match *path {
            "metadata" => keep_metadata(new, old),
            path if new.at(path) == old.at(path) => {}
            path => set(new, path, old.at(path).clone()),
        }
    }
}

/// Everything of the stored metadata but managedFields and the version that the update is conditional on.
fn keep_metadata(new: &mut Value, old: &Value) {
    let is_own = |field: &str| matches!(field, "managedFields" | "resourceVersion");
    let (metadata, old) = (object_mut(new, "metadata"), old.at("metadata"));
    metadata.retain(|field, _| is_own(field) || !old.key(field).is_null());
    for (field, value) in old.entries("").filter(|(field, _)| !is_own(field)) {
        if metadata.get(field) != Some(value) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_objects_start_at_generation_one_without_status() {
        let mut deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "generation": 7}, "status": {"replicas": 3}});
        prepare_create(&mut deployment);
        assert_eq!(
            deployment,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "generation": 1}})
        );
        let mut node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "status": {"phase": "x"}});
        prepare_create(&mut node);
        assert_eq!(node.text("status.phase"), "x", "a node registers with its status");
    }

    #[test]
    fn only_a_change_of_intent_raises_the_generation() {
        let old = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a", "generation": 4}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut relabelled = old.clone();
        set(&mut relabelled, "metadata.labels", json!({"a": "b"}));
        set(&mut relabelled, "status.replicas", json!(9));
        prepare_update(&mut relabelled, &old);
        assert_eq!(relabelled.int("metadata.generation"), 4);
        assert_eq!(relabelled.int("status.replicas"), 1);
        let mut scaled = old.clone();
        set(&mut scaled, "spec.replicas", json!(2));
        prepare_update(&mut scaled, &old);
        assert_eq!(scaled.int("metadata.generation"), 5);
    }

    #[test]
    fn status_updates_keep_the_spec() {
        let old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        let mut new = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 5}, "status": {"replicas": 1}});
        prepare_status_update(&mut new, &old);
        assert_eq!(new.int("spec.replicas"), 1);
        assert_eq!(new.at("metadata.labels"), &json!({"a": "b"}));
        assert_eq!(new.int("status.replicas"), 1);
    }
}

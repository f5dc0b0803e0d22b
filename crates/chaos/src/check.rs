//! What must hold whatever happens. Each check returns what it found wrong.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;

use crate::api_load::{Answer, Create, Listed, Told, What};
use crate::clients::Story;
use crate::load::{Seen, Write};

/// Every check over what clients did and saw. `lists` are the ConfigMaps as each master lists them at the end.
pub fn all(story: &Story, lists: &[Vec<Listed>]) -> Vec<String> {
    let mut wrong = etcd(&story.writes, &story.seen);
    wrong.extend(api(&story.creates, &story.told, lists));
    wrong.extend(in_real_time(effects(story, lists)));
    wrong
}

fn etcd(writes: &[Write], watchers: &[Vec<Seen>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, seen) in watchers.iter().enumerate() {
        wrong.extend(in_order(number, seen));
    }
    wrong.extend(alike(watchers));
    if let Some(history) = watchers.first() {
        wrong.extend(nothing_lost(writes, history));
        wrong.extend(nothing_twice(history));
        wrong.extend(nothing_invented(writes, history));
    }
    wrong
}

/// A watcher sees revisions that only grow. (Each write of the load is a revision of its own.)
fn in_order(number: usize, seen: &[Seen]) -> Option<String> {
    let broken = seen.windows(2).find(|pair| pair[0].revision >= pair[1].revision)?;
    let (before, after) = (broken[0].revision, broken[1].revision);
    Some(format!("watcher {number} saw revision {after} after {before}"))
}

/// All watchers saw the same history.
fn alike(watchers: &[Vec<Seen>]) -> Option<String> {
    let history = |seen: &[Seen]| -> Vec<(i64, String)> {
        seen.iter().map(|event| (event.revision, format!("{}={}", event.key, event.value))).collect()
    };
    let first = history(watchers.first()?);
    let (number, other) =
        watchers.iter().enumerate().map(|(n, seen)| (n, history(seen))).find(|(_, h)| *h != first)?;
    let at = first.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(first.len().min(other.len()));
    Some(format!(
        "watchers 0 and {number} differ at their event {at}: {:?} and {:?}",
        first.get(at),
        other.get(at)
    ))
}

/// What was acknowledged happened, at the revision that was told.
fn nothing_lost(writes: &[Write], history: &[Seen]) -> Option<String> {
    let by_revision: BTreeMap<i64, &Seen> = history.iter().map(|event| (event.revision, event)).collect();
    writes.iter().find_map(|write| {
        let (_, revision) = write.acknowledged?;
        match by_revision.get(&revision) {
            Some(event) if event.key == write.key && event.value == write.value && !event.deleted => None,
            found => Some(format!(
                "{}={} was acknowledged at {revision}, where {found:?} is",
                write.key, write.value
            )),
        }
    })
}

/// No write took effect more than once.
fn nothing_twice(history: &[Seen]) -> Option<String> {
    let mut times: HashMap<&str, i64> = HashMap::new();
    history.iter().find_map(|event| {
        let first = times.insert(&event.value, event.revision)?;
        Some(format!("{} was applied at {first} and at {}", event.value, event.revision))
    })
}

/// Only what was written happened.
fn nothing_invented(writes: &[Write], history: &[Seen]) -> Option<String> {
    let written: HashSet<&str> = writes.iter().map(|write| write.value.as_str()).collect();
    let invented = history.iter().find(|event| !written.contains(event.value.as_str()))?;
    Some(format!("{} was never written", invented.value))
}

fn api(creates: &[Create], watchers: &[Vec<Told>], lists: &[Vec<Listed>]) -> Vec<String> {
    let mut wrong: Vec<String> = creates.iter().filter_map(refused).collect();
    for (number, told) in watchers.iter().enumerate() {
        wrong.extend(told_in_order(number, told));
    }
    let Some(list) = lists.first() else { return wrong };
    let other = lists.iter().position(|other| other != list);
    wrong.extend(other.map(|other| format!("masters 0 and {other} list different ConfigMaps")));
    for (number, told) in watchers.iter().enumerate() {
        wrong.extend(told_what_is(number, told, list));
    }
    wrong.extend(made_once(creates, list));
    wrong
}

/// Every name is new, so that no create can be wrong.
fn refused(create: &Create) -> Option<String> {
    match &create.answer {
        Answer::Refused(why) => Some(format!("ConfigMap {} was refused: {why}", create.name)),
        Answer::Acknowledged(..) | Answer::Unknown => None,
    }
}

/// An API watcher is told of growing versions, and nothing after a bookmark that was before it.
fn told_in_order(number: usize, told: &[Told]) -> Option<String> {
    let mut last = 0;
    told.iter().find_map(|told| {
        let good = match &told.what {
            What::Added(_) => told.version > last,
            What::Bookmark => told.version >= last,
            What::Wrong(what) => return Some(format!("API watcher {number}: {what}")),
        };
        let before = std::mem::replace(&mut last, told.version);
        (!good).then(|| format!("API watcher {number} was told of version {} after {before}", told.version))
    })
}

/// An API watcher was told of exactly what there is.
fn told_what_is(number: usize, told: &[Told], list: &[Listed]) -> Option<String> {
    let told: Vec<(&str, i64)> = told.iter().filter_map(added).collect();
    let listed: Vec<(&str, i64)> = list.iter().map(|item| (item.name.as_str(), item.version)).collect();
    if told == listed {
        return None;
    }
    let at = told.iter().zip(&listed).position(|(a, b)| a != b).unwrap_or(told.len().min(listed.len()));
    let (told, listed) = (told.get(at), listed.get(at));
    Some(format!("API watcher {number} was told {told:?} at its event {at}, where {listed:?} is listed"))
}

fn added(told: &Told) -> Option<(&str, i64)> {
    match &told.what {
        What::Added(name) => Some((name.as_str(), told.version)),
        What::Bookmark | What::Wrong(_) => None,
    }
}

/// Every acknowledged ConfigMap is there once, at the version that was told, and none that nobody made.
fn made_once(creates: &[Create], list: &[Listed]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut versions: HashMap<&str, i64> = HashMap::new();
    for item in list {
        if versions.insert(&item.name, item.version).is_some() {
            wrong.push(format!("ConfigMap {} is listed twice", item.name));
        }
    }
    for create in creates {
        let found = versions.remove(create.name.as_str());
        if let Some((_, version)) = create.acknowledged()
            && found != Some(version)
        {
            wrong.push(format!("ConfigMap {} was acknowledged at {version}, and is {found:?}", create.name));
        }
    }
    wrong.extend(versions.keys().map(|name| format!("nobody made the ConfigMap {name}")));
    wrong
}

/// A write that took effect.
struct Effect<'a> {
    what: &'a str,
    begun: Instant,
    acknowledged: Option<Instant>,
    revision: i64,
}

/// All writes that took effect, whether or not that was told, through etcd and the API: both have the same revisions.
fn effects<'a>(story: &'a Story, lists: &[Vec<Listed>]) -> Vec<Effect<'a>> {
    let seen = story.seen.first().into_iter().flatten();
    let revisions: HashMap<&str, i64> = seen.map(|event| (event.value.as_str(), event.revision)).collect();
    let listed = lists.first().into_iter().flatten();
    let versions: HashMap<&str, i64> = listed.map(|item| (item.name.as_str(), item.version)).collect();
    let write = |write: &'a Write| {
        let revision = *revisions.get(write.value.as_str())?;
        let acknowledged = write.acknowledged.map(|(at, _)| at);
        Some(Effect { what: &write.value, begun: write.begun, acknowledged, revision })
    };
    let create = |create: &'a Create| {
        let revision = *versions.get(create.name.as_str())?;
        let acknowledged = create.acknowledged().map(|(at, _)| at);
        Some(Effect { what: &create.name, begun: create.begun, acknowledged, revision })
    };
    let mut effects: Vec<Effect<'a>> = story.writes.iter().filter_map(write).collect();
    effects.extend(story.creates.iter().filter_map(create));
    effects
}

/// What was acknowledged before something else was begun comes before it, whoever wrote. (What was not acknowledged may
/// come at any time after it was begun.)
fn in_real_time(mut effects: Vec<Effect<'_>>) -> Option<String> {
    effects.sort_by_key(|effect| effect.revision);
    let mut latest: Option<&Effect<'_>> = None;
    for effect in &effects {
        if let (Some(at), Some(before)) = (effect.acknowledged, latest)
            && before.begun > at
        {
            let (what, other) = (effect.what, before.what);
            return Some(format!("{what} came after {other}, which was begun after {what} was acknowledged"));
        }
        if latest.is_none_or(|latest| effect.begun > latest.begun) {
            latest = Some(effect);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Seconds on a clock of which only differences mean something.
    struct Times(Instant);

    impl Times {
        fn new() -> Self {
            Self(env::Env::seeded(1).clock.monotonic())
        }

        fn at(&self, second: u64) -> Instant {
            self.0 + Duration::from_secs(second)
        }

        /// Begun at one second, acknowledged at the other.
        fn write(&self, value: &str, begun: u64, acknowledged: Option<(u64, i64)>) -> Write {
            let acknowledged = acknowledged.map(|(second, revision)| (self.at(second), revision));
            Write { key: "k".into(), value: value.into(), begun: self.at(begun), acknowledged }
        }

        fn seen(&self, value: &str, revision: i64) -> Seen {
            Seen { revision, key: "k".into(), value: value.into(), deleted: false, at: self.at(9) }
        }

        fn create(&self, name: &str, begun: u64, answer: Option<(u64, i64)>) -> Create {
            let known = |(second, version)| Answer::Acknowledged(self.at(second), version);
            let answer = answer.map_or(Answer::Unknown, known);
            Create { name: name.into(), begun: self.at(begun), answer }
        }

        fn told(&self, version: i64, what: What) -> Told {
            Told { version, what, at: self.at(9) }
        }
    }

    fn listed(items: &[(&str, i64)]) -> Vec<Listed> {
        items.iter().map(|&(name, version)| Listed { name: name.into(), version }).collect()
    }

    fn story(writes: &[Write], watcher: &[Seen]) -> Story {
        let (writes, seen) = (writes.to_vec(), vec![watcher.to_vec()]);
        Story { writes, seen, creates: Vec::new(), told: Vec::new() }
    }

    #[test]
    fn a_good_history_passes_and_each_fault_is_found() {
        let times = Times::new();
        let seen = |value, revision| times.seen(value, revision);
        let writes = [
            times.write("0-1", 1, Some((2, 2))),
            times.write("0-2", 3, None),
            times.write("0-3", 5, Some((6, 4))),
        ];
        let good = [seen("0-1", 2), seen("0-2", 3), seen("0-3", 4)];
        assert_eq!(all(&story(&writes, &good), &[]), Vec::<String>::new());
        let missing = [seen("0-1", 2), seen("0-3", 4)];
        assert_eq!(
            all(&story(&writes, &missing), &[]),
            Vec::<String>::new(),
            "an unknown write may be missing"
        );
        let late = [seen("0-1", 2), seen("0-3", 4), seen("0-2", 5)];
        assert_eq!(all(&story(&writes, &late), &[]), Vec::<String>::new(), "an unknown write may come late");
        let faults = [
            vec![seen("0-1", 2), seen("0-2", 3)],
            vec![seen("0-1", 2), seen("0-3", 3)],
            vec![seen("0-1", 2), seen("0-2", 3), seen("0-3", 4), seen("0-2", 5)],
            vec![seen("0-1", 2), seen("0-3", 4), seen("9-9", 5)],
            vec![seen("0-2", 1), seen("0-1", 2), seen("0-3", 4)],
            vec![seen("0-1", 2), seen("0-3", 4), seen("0-3", 4)],
        ];
        for fault in faults {
            assert!(!all(&story(&writes, &fault), &[]).is_empty(), "{fault:?}");
        }
        let short = good[..2].to_vec();
        assert!(alike(&[good.to_vec(), short]).is_some());
    }

    #[test]
    fn an_order_against_the_clock_is_found_across_writers() {
        let times = Times::new();
        let writes = [times.write("0-1", 1, Some((2, 5))), times.write("1-1", 3, Some((4, 3)))];
        let seen = [times.seen("1-1", 3), times.seen("0-1", 5)];
        assert_eq!(all(&story(&writes, &seen), &[]).len(), 1);
        let together = [times.write("0-1", 1, Some((4, 5))), times.write("1-1", 3, Some((5, 3)))];
        assert_eq!(all(&story(&together, &seen), &[]), Vec::<String>::new());
    }

    #[test]
    fn configmaps_are_there_once_and_watchers_were_told_once() {
        let times = Times::new();
        let added = |name: &str, version| times.told(version, What::Added(name.into()));
        let creates = [times.create("0-1", 1, Some((2, 7))), times.create("0-2", 3, None)];
        let check = |told: Vec<Told>, lists: &[Vec<Listed>]| api(&creates, &[told], lists);
        let list = listed(&[("0-1", 7), ("0-2", 9)]);
        let good = vec![added("0-1", 7), times.told(8, What::Bookmark), added("0-2", 9)];
        assert_eq!(check(good.clone(), &[list.clone(), list.clone()]), Vec::<String>::new());
        let one = listed(&[("0-1", 7)]);
        assert_eq!(check(vec![added("0-1", 7)], std::slice::from_ref(&one)), Vec::<String>::new());
        assert!(!check(good.clone(), &[list.clone(), one]).is_empty(), "masters that differ");
        assert!(
            !check(vec![added("0-1", 7)], std::slice::from_ref(&list)).is_empty(),
            "a watcher that missed one"
        );
        let again = vec![added("0-1", 7), added("0-1", 7), added("0-2", 9)];
        assert!(!check(again, std::slice::from_ref(&list)).is_empty(), "told twice");
        let behind = vec![added("0-1", 7), times.told(9, What::Bookmark), added("0-2", 9)];
        assert!(!check(behind, &[list]).is_empty(), "told after its bookmark");
        for list in [listed(&[("0-2", 9)]), listed(&[("0-1", 8)]), listed(&[("0-1", 7), ("5-5", 9)])] {
            let told = list.iter().map(|item| added(&item.name, item.version)).collect();
            assert!(!check(told, std::slice::from_ref(&list)).is_empty(), "{list:?}");
        }
    }

    #[test]
    fn a_create_of_a_new_name_cannot_be_refused() {
        let times = Times::new();
        let answer = Answer::Refused("it exists".into());
        let creates = [Create { name: "0-1".into(), begun: times.at(1), answer }];
        assert_eq!(api(&creates, &[], &[]).len(), 1);
    }
}

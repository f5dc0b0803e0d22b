//! Leases (pure): none ends before the time that it was given last is over, unless somebody asked for its end. That they
//! do end is waited for while the store runs.

use std::collections::HashMap;

use super::types::{Change, History, Item, Session, Stream};

/// Judges each lease; what is wrong, if anything.
pub fn check(history: &History) -> Vec<String> {
    let deleted = deleted(history);
    history.sessions.iter().filter_map(|session| judge(session, &deleted)).collect()
}

fn judge(session: &Session, deleted: &HashMap<&str, u64>) -> Option<String> {
    let lasts = session.lasts_until();
    let early = |at: u64| at < lasts && session.revoked.is_none_or(|call| at < call);
    let told = |what: &str, at: u64| {
        let (lease, millis) = (session.lease, (lasts - at) / 1_000_000);
        format!("lease {lease:x}: {what} {millis} ms before the time that it was given was over: {session:?}")
    };
    match (deleted.get(session.key.as_str()), session.gone) {
        (Some(&at), _) if early(at) => Some(told("its key was deleted", at)),
        (_, Some(at)) if early(at) => Some(told("it was gone", at)),
        _ => None,
    }
}

/// When a watcher was first told that a key is deleted.
fn deleted(history: &History) -> HashMap<&str, u64> {
    let mut deleted: HashMap<&str, u64> = HashMap::new();
    for stream in history.streams.iter().filter(|stream| stream.others) {
        for (at, change) in changes(stream) {
            if change.now.is_none() {
                let first = deleted.entry(&change.key).or_insert(at);
                *first = at.min(*first);
            }
        }
    }
    deleted
}

/// A watcher's changes, and when it was told of each.
fn changes(stream: &Stream) -> impl Iterator<Item = (u64, &Change)> {
    let messages = stream.items.iter().filter_map(|item| match item {
        Item::Changes { changes, .. } => Some(changes),
        _ => None,
    });
    stream.seen.iter().zip(messages).flat_map(|((at, _), changes)| changes.iter().map(|change| (*at, change)))
}

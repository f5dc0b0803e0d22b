//! etcd's own comparisons of members, for those who ask for them: at the start (`InitialCorruptCheck`), from time to time
//! (`--corrupt-check-time`) and after compactions (`CompactHashCheck`). They say what etcd says, and unlike the comparison
//! that is always on they read what is stored. Whom a majority contradicts takes another's state (ADR 0016); etcd blames
//! the follower, whoever is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mvcc::{AlarmAction, StateHash};
use openraft::async_runtime::WatchReceiver as _;
use protos::peer;

use super::keys::{self, Answer, Others};
use super::marks::Verdict;
use super::watch::alarm;
use super::{Wrong, keys::KeyHashes};
use crate::config::Checks;
use crate::error::StoreError;
use crate::inner::Inner;
use crate::members::hex;
use crate::peers::{Lane, Peers};
use crate::state::Shared;

/// How long a member may take to hear that its keys are wrong.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts those that are asked for.
pub(crate) fn spawn(inner: &Arc<Inner>, checks: Checks) {
    if let Some(interval) = checks.periodic {
        inner.tasks.spawn_detached("corruption-check", periodic(inner.clone(), interval));
    }
    if let Some(interval) = checks.compactions {
        inner.tasks.spawn_detached("compaction-hashes", note_compactions(inner.clone()));
        inner.tasks.spawn_detached("compaction-hash-check", compactions(inner.clone(), interval));
    }
}

/// The others, and who has a vote.
fn others(inner: &Inner) -> (Others<'_>, BTreeSet<u64>) {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let nodes = membership.nodes().filter(|(id, _)| **id != inner.me);
    let nodes = nodes.map(|(id, node)| (*id, node.clone())).collect();
    let timeout = inner.timing.request_timeout();
    (Others { me: inner.me, peers: &inner.peers, nodes, timeout }, membership.voter_ids().collect())
}

/// Waits; whether the store stops.
async fn pause(inner: &Inner, interval: Duration) -> bool {
    tokio::select! {
        () = inner.env.clock.sleep(interval) => false,
        () = inner.shutdown.wait() => true,
    }
}

async fn periodic(inner: Arc<Inner>, interval: Duration) {
    let me = hex(inner.me);
    tracing::info!("local-member-id" = me, interval = ?interval, "enabled corruption checking");
    while !pause(&inner, interval).await {
        if !inner.leads() {
            continue;
        }
        if let Err(error) = check_now(&inner).await {
            tracing::warn!(error = error.to_string(), "failed to check hash KV");
        }
    }
    tracing::info!("server has stopped; stopping kv hash's monitor");
}

async fn check_now(inner: &Inner) -> Result<(), StoreError> {
    let first = keys::read(&inner.shared, 0).await?;
    let (others, voters) = others(inner);
    let answers = others.ask(first.revision).await;
    inner.read_barrier().await?;
    let second = keys::read(&inner.shared, 0).await?;
    if second.revision == first.revision && second.hash != first.hash {
        tracing::warn!(
            "revision-1" = first.revision,
            "hash-1" = first.hash,
            "revision-2" = second.revision,
            "hash-2" = second.hash,
            "found hash mismatch"
        );
        accuse(inner, inner.me, second).await;
    }
    for (id, answer) in &answers {
        if let Some(why) = ahead(*answer, second) {
            tracing::warn!(
                "leader-revision" = second.revision,
                "leader-compact-revision" = second.compact_revision,
                "follower-peer-id" = hex(*id),
                "{why}"
            );
            alarm(inner, *id, AlarmAction::Activate).await;
        }
    }
    act(inner, first, &answers, &voters, "same compact revision then hashes must match").await;
    let checked = answers.values().filter(|answer| matches!(answer, Answer::Hashed { .. })).count();
    tracing::info!("number-of-peers-checked" = checked, "finished peer corruption check");
    Ok(())
}

/// What a follower has that its leader has not, read after the follower was.
fn ahead(answer: Answer, leader: StateHash) -> Option<&'static str> {
    match answer {
        Answer::Hashed { revision, .. } if revision > leader.revision => {
            Some("revision from follower must be less than or equal to leader's")
        }
        Answer::Hashed { compact_revision, .. } if compact_revision > leader.compact_revision => {
            Some("compact revision from follower must be less than or equal to leader's")
        }
        _ => None,
    }
}

/// Raises alarms for those that are wrong; whether all that answered hold the same.
async fn act(
    inner: &Inner,
    own: StateHash,
    answers: &BTreeMap<u64, Answer>,
    voters: &BTreeSet<u64>,
    words: &'static str,
) -> bool {
    let (wrong, hash) = match keys::compare(inner.me, own, answers, voters) {
        Verdict::Nothing | Verdict::Same { .. } => return true,
        Verdict::Odd { members, hash, .. } => (members, hash),
        Verdict::Unknown { .. } => {
            tracing::error!(
                "leader-id" = hex(inner.me),
                "leader-revision" = own.revision,
                "leader-hash" = own.hash,
                "Detected hash mismatch but cannot identify the corrupted members, so intentionally set the memberID as 0"
            );
            alarm(inner, 0, AlarmAction::Activate).await;
            return false;
        }
    };
    tracing::error!(
        "leader-id" = hex(inner.me),
        "leader-revision" = own.revision,
        "leader-compact-revision" = own.compact_revision,
        "leader-hash" = own.hash,
        "peer-ids" = wrong.iter().map(|id| hex(*id)).collect::<Vec<_>>().join(","),
        "quorum-exist" = true,
        "{words}"
    );
    for id in wrong {
        accuse(inner, id, StateHash { hash, ..own }).await;
    }
    false
}

/// Raises the alarm for a member and tells it; one that does not hear it is told again with the next comparison.
async fn accuse(inner: &Inner, id: u64, right: StateHash) {
    alarm(inner, id, AlarmAction::Activate).await;
    if id == inner.me {
        inner.shared.fence.raise(Wrong::Keys { revision: right.revision });
        return;
    }
    let Ok(mut client) = inner.peer(id, Lane::Control) else { return };
    let tell = client.keys_differ(peer::KeysDifferRequest { revision: right.revision, hash: right.hash });
    drop(tokio::time::timeout(TELL_TIMEOUT, tell).await);
}

/// Heeds the leader's word that a majority has other keys stored, if this member still reads what it read.
pub(crate) async fn heed(shared: &Arc<Shared>, told: peer::KeysDifferRequest) {
    let peer::KeysDifferRequest { revision, hash } = told;
    let own = match keys::read(shared, revision).await {
        Ok(own) => Some(own),
        // It is compacted by now: what was noted then counts.
        Err(_) => shared.key_hashes.lock().at(revision),
    };
    if own.is_some_and(|own| own.hash != hash) {
        shared.fence.raise(Wrong::Keys { revision });
    }
}

/// Notes the hash at each compacted revision.
async fn note_compactions(inner: Arc<Inner>) {
    let mut swept = inner.shared.swept.subscribe();
    let mut noted = 0;
    loop {
        let revision = tokio::select! {
            swept = swept.wait_for(|swept| *swept > noted) => match swept {
                Ok(swept) => *swept,
                Err(_) => return,
            },
            () = inner.shutdown.wait() => return,
        };
        noted = revision;
        // One that cannot be read any more was compacted again: the next is noted.
        let Ok(hash) = keys::read(&inner.shared, revision).await else { continue };
        tracing::info!(
            hash = hash.hash,
            revision = hash.revision,
            "compact-revision" = hash.compact_revision,
            "storing new hash"
        );
        inner.shared.key_hashes.lock().keep(hash);
    }
}

async fn compactions(inner: Arc<Inner>, interval: Duration) {
    let mut checked = 0;
    while !pause(&inner, interval).await {
        if inner.leads() {
            check_compactions(&inner, &mut checked).await;
        }
    }
    tracing::info!("server has stopped; stopping compact hash's monitor");
}

/// Compares at the newest compacted revision that all members have the hash of.
async fn check_compactions(inner: &Inner, checked: &mut mvcc::Revision) {
    tracing::info!(
        "local-member-id" = hex(inner.me),
        timeout = ?inner.timing.request_timeout(),
        "starting compact hash check"
    );
    let hashes = KeyHashes::after(&inner.shared.key_hashes.lock(), *checked);
    let mut count = 0;
    for hash in hashes {
        count += 1;
        if check_compaction(inner, hash, checked).await {
            break;
        }
    }
    tracing::info!("number-of-hashes-checked" = count, "finished compaction hash check");
}

/// Whether no older hash needs to be looked at.
async fn check_compaction(inner: &Inner, hash: StateHash, checked: &mut mvcc::Revision) -> bool {
    let (others, voters) = others(inner);
    let answers = others.ask(hash.revision).await;
    for (id, answer) in &answers {
        if !matches!(answer, Answer::Hashed { .. }) {
            tracing::warn!(
                "number-of-peers" = answers.len(),
                "leader-id" = hex(inner.me),
                "peer-id" = hex(*id),
                reason =
                    if *answer == Answer::Compacted { "it has compacted further" } else { "no response" },
                "Skipped peer's hash"
            );
        }
    }
    if !act(inner, hash, &answers, &voters, "Detected compaction hash mismatch").await {
        return true;
    }
    let told = answers.values().filter(|answer| matches!(answer, Answer::Hashed { .. })).count();
    if told < answers.len() {
        tracing::warn!(
            "number-of-peers-checked" = told,
            "number-of-peers" = answers.len(),
            revision = hash.revision,
            "skipped revision in compaction hash check; was not able to check all peers"
        );
        return false;
    }
    tracing::info!(
        "number-of-peers-checked" = told,
        revision = hash.revision,
        "successfully checked hash on whole cluster"
    );
    *checked = (*checked).max(hash.revision);
    true
}

/// What the check at the start found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    Passed,
    /// A majority has other keys: why the state is to be replaced.
    Contradicted(String),
    /// Another member has other keys, and nobody knows which is wrong.
    Inconsistent,
}

/// Compares the state as it was opened with what the others hold, before anything is served. Others that do not answer
/// say nothing.
pub(crate) async fn first(
    me: u64,
    peers: &Peers,
    shared: &Arc<Shared>,
    timeout: Duration,
) -> Result<First, StoreError> {
    tracing::info!("local-member-id" = hex(me), timeout = ?timeout, "starting initial corruption check");
    let own = keys::read(shared, 0).await?;
    let (nodes, voters) = {
        let membership = shared.membership.load();
        let nodes = membership.membership().nodes().filter(|(id, _)| **id != me);
        (nodes.map(|(id, node)| (*id, node.clone())).collect(), membership.voter_ids().collect())
    };
    let answers = Others { me, peers, nodes, timeout }.ask(own.revision).await;
    for (id, answer) in &answers {
        say_first(me, own, *id, *answer);
    }
    Ok(match keys::compare(me, own, &answers, &voters) {
        Verdict::Odd { members, .. } if members.contains(&me) => {
            First::Contradicted(Wrong::Keys { revision: own.revision }.to_string())
        }
        Verdict::Unknown { .. } => First::Inconsistent,
        // Others that are wrong are told by whoever leads.
        Verdict::Nothing | Verdict::Same { .. } | Verdict::Odd { .. } => {
            let me = hex(me);
            tracing::info!("local-member-id" = me, "initial corruption checking passed; no corruption");
            First::Passed
        }
    })
}

fn say_first(me: u64, own: StateHash, id: u64, answer: Answer) {
    let words = match answer {
        Answer::Hashed { hash, .. } if hash != own.hash => "found different hash values from remote peer",
        Answer::Future => "cannot fetch hash from slow remote peer",
        Answer::Compacted => "cannot fetch hash from remote peer; local member is behind",
        Answer::Hashed { .. } | Answer::Silent => return,
    };
    tracing::warn!(
        "local-member-id" = hex(me),
        "local-member-revision" = own.revision,
        "local-member-compact-revision" = own.compact_revision,
        "local-member-hash" = own.hash,
        "remote-peer-id" = hex(id),
        "{words}"
    );
}

/// What etcd says of a member that may not start.
pub(crate) fn inconsistent(me: u64) -> String {
    format!("{} found data inconsistency with peers", hex(me))
}

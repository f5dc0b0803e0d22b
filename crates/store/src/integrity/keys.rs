//! The hash of the keys as members have them stored (etcd's HashKV): this member's, and what others say of theirs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mvcc::{MvccError, Revision, StateHash};
use protos::peer;
use protos::peer::keys_hash_response::Found;

use super::Mark;
use super::marks::{Verdict, judge};
use crate::consensus::Node;
use crate::error::StoreError;
use crate::members::hex;
use crate::peers::{Lane, Peers};
use crate::state::Shared;

/// Hashes at compacted revisions that are kept (etcd's `hashStorageMaxSize`).
const KEPT: usize = 10;
/// How often a hash is begun again because a compaction came between.
const ATTEMPTS: usize = 10;

/// Hashes at the newest compacted revisions, so that they can be compared when the next compaction has come.
#[derive(Default)]
pub(crate) struct KeyHashes(VecDeque<StateHash>);

impl KeyHashes {
    pub fn keep(&mut self, hash: StateHash) {
        if self.0.back().is_some_and(|last| last.revision >= hash.revision) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(hash);
    }

    pub fn at(&self, revision: Revision) -> Option<StateHash> {
        self.0.iter().find(|hash| hash.revision == revision).copied()
    }

    /// Those after a revision, the newest first.
    pub fn after(&self, revision: Revision) -> Vec<StateHash> {
        self.0.iter().rev().take_while(|hash| hash.revision > revision).copied().collect()
    }

    /// Begins anew: the state was replaced.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The hash at a revision, or now if that is 0, as it was kept or as it is read now.
pub(crate) async fn hash(shared: &Arc<Shared>, revision: Revision) -> Result<StateHash, StoreError> {
    let kept = shared.key_hashes.lock().at(revision);
    match kept {
        Some(kept) => Ok(kept),
        None => read(shared, revision).await,
    }
}

/// Reads all keys for it, on a thread that may wait for the disk.
pub(crate) async fn read(shared: &Arc<Shared>, revision: Revision) -> Result<StateHash, StoreError> {
    for _ in 0..ATTEMPTS {
        let view = shared.view.load_full();
        let seen = view.compact_revision();
        let hashed = tokio::task::spawn_blocking(move || view.hash_kv(revision)).await;
        match hashed.map_err(|_| StoreError::Stopped)? {
            // A compaction came between, and the revision may still be there.
            Err(MvccError::Compacted { compact_revision }) if compact_revision > seen => {}
            other => return other.map_err(StoreError::Mvcc),
        }
    }
    Err(StoreError::Timeout)
}

/// What a member says of its keys at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Hashed {
        hash: u32,
        /// Its newest revision.
        revision: Revision,
        compact_revision: Revision,
    },
    Compacted,
    Future,
    Silent,
}

/// This member's answer to another.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    revision: Revision,
) -> Result<peer::KeysHashResponse, StoreError> {
    let hashed = hash(shared, revision).await;
    let view = shared.view.load();
    let (found, hash) = match hashed {
        Ok(hashed) => (Found::Hashed, hashed.hash),
        Err(StoreError::Mvcc(MvccError::Compacted { .. })) => (Found::Compacted, 0),
        Err(StoreError::Mvcc(MvccError::FutureRevision)) => (Found::Future, 0),
        Err(error) => return Err(error),
    };
    Ok(peer::KeysHashResponse {
        found: found.into(),
        hash,
        revision: view.revision(),
        compact_revision: view.compact_revision(),
    })
}

/// Whom to ask.
pub(crate) struct Others<'a> {
    pub me: u64,
    pub peers: &'a Peers,
    pub nodes: BTreeMap<u64, Node>,
    /// How long each may take to read its keys.
    pub timeout: Duration,
}

impl Others<'_> {
    /// Asks all at once.
    pub async fn ask(&self, revision: Revision) -> BTreeMap<u64, Answer> {
        let asked = self.nodes.iter().map(|(id, node)| async move {
            let answer = self.ask_one(*id, node, revision).await.unwrap_or_else(|error| {
                tracing::warn!(
                    "local-member-id" = hex(self.me),
                    "requested-revision" = revision,
                    "remote-peer-endpoint" = node.peer_urls.join(","),
                    error,
                    "failed hash kv request"
                );
                Answer::Silent
            });
            (*id, answer)
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    async fn ask_one(&self, id: u64, node: &Node, revision: Revision) -> Result<Answer, String> {
        let mut client = self.peers.client(id, node, Lane::Control).map_err(|error| error.to_string())?;
        let asked = client.keys_hash(peer::KeysHashRequest { revision });
        let answer = tokio::time::timeout(self.timeout, asked).await;
        let answer = answer.map_err(|_| "context deadline exceeded".to_owned())?;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        Ok(match answer.found() {
            Found::Hashed => Answer::Hashed {
                hash: answer.hash,
                revision: answer.revision,
                compact_revision: answer.compact_revision,
            },
            Found::Compacted => Answer::Compacted,
            Found::Future => Answer::Future,
        })
    }
}

/// Who holds other keys than a majority of the voters does, of those who said.
pub(crate) fn compare(
    me: u64,
    own: StateHash,
    answers: &BTreeMap<u64, Answer>,
    voters: &BTreeSet<u64>,
) -> Verdict {
    let mark = |hash| vec![Mark { index: own.revision.unsigned_abs(), hash }];
    let said = answers.iter().filter_map(|(id, answer)| match answer {
        Answer::Hashed { hash, .. } => Some((*id, mark(*hash))),
        Answer::Compacted | Answer::Future | Answer::Silent => None,
    });
    judge(&said.chain([(me, mark(own.hash))]).collect(), &voters.iter().copied().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: Revision, hash: u32) -> StateHash {
        StateHash { hash, revision, compact_revision: 0 }
    }

    #[test]
    fn the_newest_hashes_are_kept_and_found() {
        let mut hashes = KeyHashes::default();
        for revision in (2..=2 * (KEPT as i64 + 3)).step_by(2) {
            hashes.keep(at(revision, revision as u32));
        }
        hashes.keep(at(8, 0));
        assert_eq!(hashes.0.len(), KEPT);
        assert_eq!((hashes.at(2), hashes.at(9)), (None, None));
        assert_eq!(hashes.at(26), Some(at(26, 26)));
        let newest: Vec<_> = hashes.after(20).iter().map(|hash| hash.revision).collect();
        assert_eq!(newest, [26, 24, 22]);
        hashes.clear();
        assert_eq!(hashes.at(26), None);
    }

    #[test]
    fn whoever_is_silent_or_elsewhere_says_nothing_for_or_against() {
        let (voters, own) = (BTreeSet::from([1, 2, 3]), at(7, 5));
        let hashed = |hash| Answer::Hashed { hash, revision: 9, compact_revision: 0 };
        let judged = |answers: [Answer; 2]| {
            let answers = [2, 3].into_iter().zip(answers).collect();
            compare(1, own, &answers, &voters)
        };
        assert_eq!(judged([hashed(5), Answer::Silent]), Verdict::Same { index: 7 });
        assert_eq!(judged([Answer::Compacted, Answer::Future]), Verdict::Same { index: 7 });
        assert_eq!(judged([hashed(6), Answer::Silent]), Verdict::Unknown { index: 7 });
        assert_eq!(judged([hashed(5), hashed(6)]), Verdict::Odd { index: 7, hash: 5, members: vec![3] });
        assert_eq!(judged([hashed(6), hashed(6)]), Verdict::Odd { index: 7, hash: 6, members: vec![1] });
    }
}

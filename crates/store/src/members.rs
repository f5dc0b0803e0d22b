//! Members and the ids that etcd gives them.

use std::collections::BTreeSet;
use std::fmt;

use mvcc::View;
use sha1::{Digest as _, Sha1};

use crate::consensus::StoredMembership;

/// The id of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has started once.
    pub name: String,
    /// Where it talks to other members.
    pub peer_urls: Vec<String>,
    /// Where it serves clients.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// How many of so many voters decide.
pub(crate) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// An id as etcd spells it: hexadecimal, without zeros before it.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// A member's id: the first eight bytes of the SHA-1 of its peer URLs in order, the cluster's token and, for one that
/// was added later, the Unix time of that in seconds (etcd, `membership/member.go`).
pub fn member_id(peer_urls: &[String], cluster_token: &str, added_at: Option<i64>) -> u64 {
    let mut sorted = peer_urls.to_vec();
    sorted.sort();
    let mut hash = Sha1::new();
    sorted.iter().for_each(|url| hash.update(url.as_bytes()));
    hash.update(cluster_token.as_bytes());
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string().as_bytes());
    }
    first_eight(&hash.finalize())
}

/// A cluster's id: the first eight bytes of the SHA-1 of its first members' ids in order (`membership/cluster.go`).
pub fn cluster_id(members: &[u64]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    sorted.iter().for_each(|id| hash.update(id.to_be_bytes()));
    ClusterId(first_eight(&hash.finalize()))
}

/// All members: who they are from the raft configuration, what they tell of themselves from the state.
pub(crate) fn list(stored: &StoredMembership, view: &View) -> Vec<Member> {
    let voters: BTreeSet<u64> = stored.membership().voter_ids().collect();
    let nodes = stored.membership().nodes();
    let member = |(id, node): (&u64, &crate::consensus::Node)| {
        let known = view.members().find(|known| known.id == *id);
        Member {
            id: *id,
            name: known.map(|known| known.name.clone()).unwrap_or_default(),
            peer_urls: node.peer_urls.clone(),
            client_urls: known.map(|known| known.client_urls.clone()).unwrap_or_default(),
            is_learner: !voters.contains(id) && !node.joining,
        }
    };
    nodes.map(member).collect()
}

fn first_eight(hash: &[u8]) -> u64 {
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids that etcd gives a single member `http://localhost:2380` of the cluster `etcd-cluster`.
    #[test]
    fn ids_are_those_of_etcd() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster", None);
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(cluster_id(&[id]).to_string(), "cdf818194e3a8c32");
    }
}

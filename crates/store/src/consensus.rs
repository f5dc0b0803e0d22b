//! openraft's types, and their forms on disk and on the wire (both are `proto/peer`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::type_config::alias as of;
use prost::Message as _;
use protos::peer;

use crate::sessions::{Origin, Sessions};

/// A command on its way into the log, encoded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub origin: Origin,
    pub command: Bytes,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x}/{}/{}: {} bytes",
            self.origin.member,
            self.origin.boot,
            self.origin.number,
            self.command.len()
        )
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A member as the raft configuration knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub peer_urls: Vec<String>,
    /// It was added as a voter and becomes one when it has caught up: a vote that cannot answer yet would count against
    /// the quorum.
    pub joining: bool,
}

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = Node,
        LeaderId = LeaderId<u64, u64>,
);

pub(crate) type Entry = of::EntryOf<TypeConfig>;
pub(crate) type LogId = of::LogIdOf<TypeConfig>;
pub(crate) type Vote = of::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = of::StoredMembershipOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::state::StateMachine>;

/// Whether nobody else is in a membership, not even without a vote.
pub(crate) fn is_only_member(membership: &StoredMembership, me: u64) -> bool {
    let mut nodes = membership.membership().nodes();
    nodes.next().is_some_and(|(id, _)| *id == me) && nodes.next().is_none()
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(crate) fn term_of(id: &LogId) -> u64 {
    **id.committed_leader_id()
}

pub(crate) fn damaged(what: &str, error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is damaged: {error}"))
}

pub(crate) fn log_id_to_wire(id: &LogId) -> peer::LogId {
    peer::LogId { term: term_of(id), index: id.index }
}

pub(crate) fn log_id_from_wire(id: peer::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> peer::BallotVote {
    peer::BallotVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: peer::BallotVote) -> Vote {
    let leader_id = LeaderId { term: vote.term, voted_for: vote.node };
    Vote { leader_id, committed: vote.committed }
}

/// A vote that a message must carry.
pub(crate) fn required_vote(vote: Option<peer::BallotVote>) -> Result<Vote, io::Error> {
    vote.map(vote_from_wire).ok_or_else(|| damaged("a message", "it has no vote"))
}

pub(crate) fn node_to_wire(id: u64, node: &Node) -> peer::Node {
    peer::Node { id, peer_urls: node.peer_urls.clone(), joining: node.joining }
}

pub(crate) fn node_from_wire(node: peer::Node) -> Node {
    Node { peer_urls: node.peer_urls, joining: node.joining }
}

pub(crate) fn membership_to_wire(membership: &Membership) -> peer::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes();
    peer::Membership {
        configs: configs.map(|ids| peer::Voters { ids: ids.iter().copied().collect() }).collect(),
        nodes: nodes.map(|(id, node)| node_to_wire(*id, node)).collect(),
    }
}

pub(crate) fn membership_from_wire(membership: peer::Membership) -> Result<Membership, io::Error> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> =
        membership.nodes.into_iter().map(|node| (node.id, node_from_wire(node))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| damaged("a membership", error))
}

pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> peer::StoredMembership {
    peer::StoredMembership {
        id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_wire(
    stored: peer::StoredMembership,
) -> Result<StoredMembership, io::Error> {
    let membership = membership_from_wire(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(stored.id.map(log_id_from_wire), membership))
}

pub(crate) fn proposal_to_wire(proposal: &Proposal) -> peer::Proposal {
    let Origin { member, boot, number, settled } = proposal.origin;
    let origin = Some(peer::Origin { member, boot, number, settled });
    peer::Proposal { origin, command: proposal.command.clone() }
}

pub(crate) fn proposal_from_wire(proposal: peer::Proposal) -> Result<Proposal, io::Error> {
    let origin = proposal.origin.ok_or_else(|| damaged("a proposal", "it has no origin"))?;
    let peer::Origin { member, boot, number, settled } = origin;
    Ok(Proposal { origin: Origin { member, boot, number, settled }, command: proposal.command })
}

pub(crate) fn entry_to_wire(entry: &Entry) -> peer::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(proposal) => Some(peer::entry::Payload::Proposal(proposal_to_wire(proposal))),
        EntryPayload::Membership(membership) => {
            Some(peer::entry::Payload::Membership(membership_to_wire(membership)))
        }
    };
    peer::Entry { id: Some(log_id_to_wire(&entry.log_id)), payload }
}

pub(crate) fn entry_from_wire(entry: peer::Entry) -> Result<Entry, io::Error> {
    let id = entry.id.ok_or_else(|| damaged("an entry", "it has no id"))?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(peer::entry::Payload::Proposal(proposal)) => EntryPayload::Normal(proposal_from_wire(proposal)?),
        Some(peer::entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_wire(membership)?)
        }
    };
    Ok(Entry { log_id: log_id_from_wire(id), payload })
}

pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    entry_to_wire(entry).encode_to_vec().into()
}

pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, io::Error> {
    let wire = peer::Entry::decode(bytes).map_err(|error| damaged("an entry", error))?;
    entry_from_wire(wire)
}

/// About how many bytes an entry takes, in memory and on the wire.
pub(crate) fn entry_size(entry: &Entry) -> usize {
    const OVERHEAD: usize = 64;
    match &entry.payload {
        EntryPayload::Normal(proposal) => OVERHEAD + proposal.command.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => OVERHEAD,
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote, io::Error> {
    let wire = peer::BallotVote::decode(bytes).map_err(|error| damaged("the vote", error))?;
    Ok(vote_from_wire(wire))
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    log_id_to_wire(id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<LogId, io::Error> {
    let wire = peer::LogId::decode(bytes).map_err(|error| damaged("a log id", error))?;
    Ok(log_id_from_wire(wire))
}

/// What is kept beside the state machine's own state, in one piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    pub membership: StoredMembership,
    pub sessions: Sessions,
}

pub(crate) fn encode_beside(beside: &Beside) -> Bytes {
    let membership = Some(stored_membership_to_wire(&beside.membership));
    peer::Beside { membership, sessions: beside.sessions.to_wire() }.encode_to_vec().into()
}

pub(crate) fn decode_beside(bytes: Option<Bytes>) -> Result<Beside, io::Error> {
    let Some(bytes) = bytes else { return Ok(Beside::default()) };
    let wire = peer::Beside::decode(bytes).map_err(|error| damaged("the membership", error))?;
    Ok(Beside {
        membership: stored_membership_from_wire(wire.membership.unwrap_or_default())?,
        sessions: Sessions::from_wire(wire.sessions),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_each_kind_comes_back() {
        let node = Node { peer_urls: vec!["https://127.0.0.1:2380".into()], joining: true };
        let nodes: BTreeMap<u64, Node> = [(1, node.clone()), (2, node)].into();
        let joint = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let membership = Membership::new(joint, nodes).expect("membership");
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal {
                origin: Origin { member: 9, boot: 1, number: 7, settled: 5 },
                command: "command".into(),
            }),
            EntryPayload::Membership(membership),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, 7), payload };
            assert_eq!(decode_entry(encode_entry(&entry)).expect("decode"), entry);
        }
    }

    #[test]
    fn a_damaged_entry_is_an_error() {
        assert!(decode_entry(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode_entry(Bytes::new()).is_err(), "an entry without an id");
    }
}

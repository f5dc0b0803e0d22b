//! What can go wrong between a caller and the replicated state. Texts are etcd's (`rpctypes/error.go`), without
//! `etcdserver: `.

use mvcc::MvccError;

/// What etcd tells a member that was removed, and what the member says when it ends.
pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The state machine refused it; nothing was changed.
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    /// No leader was there all the time; nothing was changed.
    #[error("no leader")]
    NoLeader,
    /// This member does not lead; nothing was changed.
    #[error("not leader")]
    NotLeader,
    /// The leader was lost while it had the request: whether it took effect is not known.
    #[error("request timed out, possibly due to previous leader failure")]
    LeaderLost,
    /// No answer in time: whether it took effect is not known.
    #[error("request timed out")]
    Timeout,
    /// Larger than a request may be.
    #[error("request is too large")]
    TooLarge,
    /// Too many requests wait to be applied.
    #[error("too many requests")]
    TooManyRequests,
    /// The store is stopping or has failed.
    #[error("server stopped")]
    Stopped,
    /// A change of members would leave too few that have ever started; nothing was changed.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Too few members are in touch for a change of members; nothing was changed.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// A change of members that is not possible.
    #[error("{0}")]
    Membership(String),
    /// No such member.
    #[error("member not found")]
    MemberNotFound,
    /// This member's state is wrong: it answers nobody until it has another's.
    #[error("corrupt cluster")]
    Corrupt,
    /// The chosen member cannot lead.
    #[error("bad leader transferee")]
    BadTransferee,
}

/// Why a store cannot be built. Each is one line for the command line.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder: {0}")]
    Storage(std::io::Error),
    /// The data folder belongs to another cluster or member.
    #[error(
        "the data folder belongs to {found}, not to {expected}: give the member its own folder, or its old name, peer URL and cluster token"
    )]
    Identity {
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The folder's member was removed from its cluster.
    #[error("{REMOVED}")]
    Removed,
    /// The check at the start found that others hold other keys, and nobody knows who is wrong.
    #[error("{0}")]
    Inconsistent(String),
    /// `--initial-cluster` does not fit the member.
    #[error("{0}")]
    InitialCluster(String),
    /// The cluster to be joined does not answer, or does not know this member.
    #[error("{0}")]
    Join(String),
    /// The peer address cannot be listened on.
    #[error("cannot listen for peers on {address}: {cause}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The certificates for peers cannot be used.
    #[error("{0}")]
    Tls(String),
    /// openraft refused to start.
    #[error("consensus cannot start: {0}")]
    Consensus(String),
}

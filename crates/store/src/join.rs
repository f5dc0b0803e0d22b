//! Joining a cluster that exists (etcd's `--initial-cluster-state existing`): who the new member is there, and how it
//! comes to vote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::Clock;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use protos::peer::join_client::JoinClient;
use protos::peer::{self, join_server::Join};
use tonic::{Request, Response, Status};
use transport::Dialer;

use crate::config::{Identity, StoreConfig};
use crate::consensus::{self, Node};
use crate::error::BuildError;
use crate::inner::Inner;
use crate::members::{ClusterId, hex};
use crate::peers::Peers;
use crate::storage::{LogEngine, LogMeta};

/// How long one member may take to describe the cluster.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often all members are asked before the start is given up.
const ROUNDS: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Entries that a joining member may lack when it is given its vote.
const MAX_LAG: u64 = 1_000;
/// How often the leader looks for members that have caught up.
const LOOK: Duration = Duration::from_millis(100);

/// A data folder's owner, as the folder says it.
pub(crate) fn spell(me: u64, cluster: ClusterId) -> String {
    format!("member {me:x} of cluster {cluster}")
}

/// Behind the owner of a folder that began with a state from elsewhere.
const SEEDED: &str = ", seeded";

/// The owner of a folder that began with a state from elsewhere: who it is, is decided by that state alone.
pub(crate) fn spell_seeded(me: u64, cluster: ClusterId) -> String {
    format!("{}{SEEDED}", spell(me, cluster))
}

/// Whether a folder began with a state from elsewhere; then the flags of a first start say nothing.
pub(crate) fn is_seeded(engine: &dyn LogEngine) -> Result<bool, BuildError> {
    let known = engine.meta(LogMeta::Identity).map_err(BuildError::Storage)?;
    Ok(known.is_some_and(|text| text.ends_with(SEEDED.as_bytes())))
}

/// Member and cluster as [`spell`] and [`spell_seeded`] write them.
pub(crate) fn read(text: &str) -> Option<(u64, ClusterId)> {
    let text = text.strip_suffix(SEEDED).unwrap_or(text);
    let (me, cluster) = text.strip_prefix("member ")?.split_once(" of cluster ")?;
    let id = |text| u64::from_str_radix(text, 16).ok();
    Some((id(me)?, ClusterId(id(cluster)?)))
}

/// Who the member is that a folder holds, if it holds one.
pub(crate) fn known(engine: &dyn LogEngine) -> Result<Option<Identity>, BuildError> {
    let text = engine.meta(LogMeta::Identity).map_err(BuildError::Storage)?;
    let owner = text.and_then(|text| read(&String::from_utf8_lossy(&text)));
    Ok(owner.map(|(me, cluster)| Identity { me, cluster, members: Vec::new() }))
}

/// Who a member that joins is: what the other members say of its URLs.
pub(crate) async fn identity(
    config: &StoreConfig,
    dialer: Dialer,
    clock: &Clock,
) -> Result<Identity, BuildError> {
    let (own, others): (Vec<_>, Vec<_>) =
        config.initial_cluster.iter().partition(|(name, _)| *name == config.name);
    let own: BTreeSet<&str> = own.iter().map(|(_, url)| url.as_str()).collect();
    let described = describe(&others, &Peers::new(0, dialer, clock.clone()), clock).await?;
    let count: BTreeSet<&str> = config.initial_cluster.iter().map(|(name, _)| name.as_str()).collect();
    if count.len() != described.members.len() {
        return Err(BuildError::Join("error validating peerURLs: member count is unequal".to_owned()));
    }
    let me = described.members.iter().find(|member| {
        let urls: BTreeSet<&str> = member.peer_urls.iter().map(String::as_str).collect();
        urls == own
    });
    match me {
        Some(me) => Ok(Identity { me: me.id, cluster: ClusterId(described.cluster), members: Vec::new() }),
        None => {
            let text =
                format!("error validating peerURLs: unmatched member while checking PeerURLs ({own:?})");
            Err(BuildError::Join(text))
        }
    }
}

/// Refuses a first start of a member that has served before: it has lost its log, and its votes with it. Members that do
/// not answer are not waited for, as in etcd.
pub(crate) async fn refuse_second_start(
    config: &StoreConfig,
    identity: &Identity,
    dialer: Dialer,
    clock: &Clock,
) -> Result<(), BuildError> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let peers = Peers::new(0, dialer, clock.clone());
    let ask = |(_, url): &(String, String)| {
        let channel = peers.stranger(url);
        async move {
            let mut client = JoinClient::new(channel.ok()?);
            let asked = client.describe(peer::DescribeRequest {});
            Some(tokio::time::timeout(config.bootstrap_timeout, asked).await.ok()?.ok()?.into_inner())
        }
    };
    let answers = futures::future::join_all(others.map(ask)).await;
    let has_served = |answer: &peer::DescribeResponse| {
        answer.cluster == identity.cluster.0 && answer.started.contains(&identity.me)
    };
    if answers.iter().flatten().any(has_served) {
        let text = format!("member {:x} has already been bootstrapped", identity.me);
        return Err(BuildError::Join(text));
    }
    Ok(())
}

async fn describe(
    others: &[&(String, String)],
    peers: &Peers,
    clock: &Clock,
) -> Result<peer::DescribeResponse, BuildError> {
    for round in 0..ROUNDS {
        if round > 0 {
            clock.sleep(PAUSE).await;
        }
        for (_, url) in others {
            let Ok(channel) = peers.stranger(url) else { continue };
            let mut client = JoinClient::new(channel);
            let asked = client.describe(peer::DescribeRequest {});
            if let Ok(Ok(answer)) = tokio::time::timeout(ASK_TIMEOUT, asked).await {
                return Ok(answer.into_inner());
            }
        }
    }
    let text = "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
    Err(BuildError::Join(text.to_owned()))
}

/// The other members, as those say it that this member's command line names.
pub(crate) async fn others(
    config: &StoreConfig,
    me: u64,
    peers: &Peers,
    clock: &Clock,
) -> BTreeMap<u64, Node> {
    let named: Vec<_> = config.initial_cluster.iter().filter(|(name, _)| *name != config.name).collect();
    let described = match named.is_empty() {
        true => Vec::new(),
        false => describe(&named, peers, clock).await.map(|answer| answer.members).unwrap_or_default(),
    };
    let nodes = described.into_iter().map(|node| (node.id, consensus::node_from_wire(node)));
    nodes.filter(|(id, _)| *id != me).collect()
}

/// Describes the cluster to whoever wants to join it.
pub(crate) struct JoinService {
    pub inner: Arc<Inner>,
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn describe(
        &self,
        _: Request<peer::DescribeRequest>,
    ) -> Result<Response<peer::DescribeResponse>, Status> {
        let stored = self.inner.shared.membership.load_full();
        let nodes = stored.membership().nodes();
        let members: Vec<_> = nodes.map(|(id, node)| consensus::node_to_wire(*id, node)).collect();
        if members.is_empty() {
            return Err(Status::unavailable("this member has not heard of the others yet"));
        }
        let view = self.inner.shared.view.load_full();
        let belongs = |id: &u64| members.iter().any(|member| member.id == *id);
        let started = view.members().map(|member| member.id).filter(belongs).collect();
        Ok(Response::new(peer::DescribeResponse { cluster: self.inner.cluster.0, members, started }))
    }
}

/// As the leader, gives members that have caught up the vote for which they were added.
pub(crate) async fn promote(inner: Arc<Inner>) {
    while !inner.shutdown.is_triggered() {
        if let Some(id) = caught_up(&inner) {
            let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
            match inner.raft.change_membership(change, false).await {
                Ok(_) => tracing::info!(member = hex(id), "the new member votes"),
                Err(error) => tracing::debug!(%error, "the new member does not vote yet"),
            }
        }
        tokio::select! {
            () = inner.env.clock.sleep(LOOK) => {}
            () = inner.shutdown.wait() => return,
        }
    }
}

/// A joining member that lacks few entries. None if this member does not lead.
fn caught_up(inner: &Inner) -> Option<u64> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let last = metrics.last_log_index?;
    let matched = |id: &u64| metrics.replication.as_ref()?.get(id)?.as_ref().map(|id| id.index);
    let near = |id: &u64| matched(id).is_some_and(|index| index + MAX_LAG >= last);
    let mut joining = membership.nodes().filter(|(id, node)| node.joining && !voters.contains(id));
    joining.find(|(id, _)| near(id)).map(|(id, _)| *id)
}

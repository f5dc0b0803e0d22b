//! How proxies find each other: each has a key in the store, below a prefix that all share, with a lease that it renews. The
//! key's value is what etcd's resolver for gRPC reads. Whoever asks a proxy for the members is told of the proxies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::{Clock, Shutdown};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::{Shared, namespace};

/// How long to wait after a failure. etcd's.
const AGAIN: Duration = Duration::from_secs(1);
/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;
/// How long the list of proxies may take to be read, and how long it may take to leave.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a proxy says of itself.
#[derive(Clone)]
pub(super) struct Entry {
    key: String,
    address: String,
    ttl: i64,
}

impl Entry {
    pub fn new(prefix: &str, address: &str, ttl: i64) -> Self {
        Self { key: format!("{prefix}/{address}"), address: address.to_owned(), ttl }
    }

    fn value(&self, host_name: &str) -> String {
        let name = json!({ "name": host_name }).to_string();
        json!({ "Op": 0, "Addr": self.address, "Metadata": name }).to_string()
    }
}

/// Keeps the entry where it is to be found, until `stop`.
pub(super) async fn keep(shared: Arc<Shared>, entry: Entry, stop: Shutdown) {
    while !stop.is_triggered() {
        if let Err(status) = session(shared.clone(), entry.clone(), stop.clone()).await {
            tracing::warn!(error = status.message(), "the session of this proxy ended; a new one is made");
        }
        tokio::select! {
            () = shared.env.clock.sleep(AGAIN) => {}
            () = stop.wait() => {}
        }
    }
}

/// Writes the entry and keeps it there as long as that goes, or until `stop`.
async fn session(shared: Arc<Shared>, entry: Entry, stop: Shutdown) -> Result<(), Status> {
    let ttl = entry.ttl;
    let (channel, lease) = enter(shared.clone(), entry).await?;
    tracing::info!("lease-ttl" = ttl, "registered session with lease");
    let renewed = renew(shared.env.clock.clone(), channel.clone(), lease, ttl);
    tokio::select! {
        ended = renewed => ended,
        () = stop.wait() => {
            leave(channel, lease).await;
            Ok(())
        }
    }
}

/// Writes the entry; the member that took it, and its lease.
async fn enter(shared: Arc<Shared>, entry: Entry) -> Result<(Channel, i64), Status> {
    let member = shared.pick().ok_or_else(|| Status::unavailable("no endpoint is known"))?;
    let channel = member.channel.clone();
    let grant = pb::LeaseGrantRequest { ttl: entry.ttl, id: 0 };
    let lease = match LeaseClient::new(channel.clone()).lease_grant(grant).await {
        Ok(granted) => granted.into_inner().id,
        Err(status) => {
            shared.rest(&member);
            return Err(status);
        }
    };
    let put = pb::PutRequest {
        key: stored(&shared, &entry.key),
        value: entry.value(&shared.config.host_name).into(),
        lease,
        ..pb::PutRequest::default()
    };
    KvClient::new(channel.clone()).put(put).await?;
    Ok((channel, lease))
}

/// Renews the lease as long as that goes.
async fn renew(clock: Clock, channel: Channel, lease: i64, ttl: i64) -> Result<(), Status> {
    let pause = Duration::from_secs(ttl.unsigned_abs()) / RENEWALS;
    let (ask, requests) = mpsc::channel(1);
    let ended = || Status::not_found("the lease has ended");
    let request = pb::LeaseKeepAliveRequest { id: lease };
    ask.try_send(request).map_err(|_| ended())?;
    let answers = LeaseClient::new(channel).lease_keep_alive(ReceiverStream::new(requests)).await?;
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await? {
        if answer.ttl <= 0 {
            break;
        }
        clock.sleep(pause).await;
        ask.send(request).await.map_err(|_| ended())?;
    }
    Err(ended())
}

/// Takes the entry back, if that goes at once; it ends by itself otherwise.
async fn leave(channel: Channel, lease: i64) {
    let mut client = LeaseClient::new(channel);
    let left = client.lease_revoke(pb::LeaseRevokeRequest { id: lease });
    drop(tokio::time::timeout(PATIENCE, left).await);
}

fn stored(shared: &Shared, key: &str) -> Bytes {
    shared.namespace.as_ref().map_or_else(|| key.to_owned().into(), |inside| inside.stored(key.as_bytes()))
}

/// What is answered for the members: the proxies that are known, or this one.
pub(super) async fn members(shared: &Shared) -> pb::MemberListResponse {
    let mut members = match &shared.config.register {
        Some((prefix, _)) => read(shared, prefix).await.unwrap_or_default(),
        None => Vec::new(),
    };
    if members.is_empty() {
        let address = shared.config.advertise.clone();
        members.push(member(shared.config.host_name.clone(), address.unwrap_or_default()));
    }
    pb::MemberListResponse { members, ..pb::MemberListResponse::default() }
}

fn member(name: String, address: String) -> pb::Member {
    pb::Member { name, client_ur_ls: vec![address], ..pb::Member::default() }
}

async fn read(shared: &Shared, prefix: &str) -> Option<Vec<pb::Member>> {
    let asked = shared.pick()?;
    let key = stored(shared, prefix);
    let range_end = namespace::behind(&key);
    let range = pb::RangeRequest { key, range_end, serializable: true, ..pb::RangeRequest::default() };
    let mut client = KvClient::new(asked.channel.clone());
    let found = tokio::time::timeout(PATIENCE, client.range(range)).await.ok()?.ok()?.into_inner();
    let entry = |value: &[u8]| {
        let entry: Value = serde_json::from_slice(value).ok()?;
        let meta: Value = serde_json::from_str(entry["Metadata"].as_str()?).ok()?;
        Some(member(meta["name"].as_str()?.to_owned(), entry["Addr"].as_str()?.to_owned()))
    };
    Some(found.kvs.iter().filter_map(|kv| entry(&kv.value)).collect())
}

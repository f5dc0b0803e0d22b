//! Finding the first members of a cluster through another etcd cluster (etcd's v3 discovery). Each member writes itself
//! under the token that all of them share; the first ones, as many as the token's size says, are the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use env::Clock;
use protos::etcd::etcdserverpb::auth_client::AuthClient;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::watch_client::WatchClient;
use protos::etcd::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    watch_request::RequestUnion,
};
use protos::etcd::mvccpb::{KeyValue, event::EventType};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::Dialer;

/// Go's clients ask no more often whether the other side is there, whatever they are told.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Where etcd keeps discovery.
const PREFIX: &str = "/_etcd/registry";
/// Doublings of the pause between attempts, at most: 256 s.
const MAX_DOUBLINGS: u32 = 8;

/// How a discovery service is called.
pub struct Discovery {
    /// What all members of the cluster to be share (`--discovery-token`).
    pub token: String,
    /// The service's members (`--discovery-endpoints`).
    pub endpoints: Vec<String>,
    /// How they are connected to.
    pub dialer: Dialer,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How often silent connections are asked whether they live, and how long they have to answer.
    pub keep_alive: (Duration, Duration),
    /// A user and its password.
    pub user: Option<(String, String)>,
}

/// Why there is no cluster. The words are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Nobody has said how large the cluster is to be.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// What was said is no size.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Others came first.
    #[error("discovery: cluster is full")]
    Full,
}

type Stub = InterceptedService<Channel, Token>;

/// Adds the token of a user.
#[derive(Clone)]
struct Token(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// Members by the revision at which they came, then by key: the cluster's are the first ones.
#[derive(Default)]
struct Found(BTreeMap<(i64, String), String>);

impl Found {
    fn add(&mut self, member: &KeyValue) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, value) = (text(&member.key), text(&member.value));
        if !value.contains('=') {
            tracing::warn!(
                member_key = key,
                member_info = value,
                "invalid peer info returned from discovery service"
            );
        } else if self.0.keys().any(|(_, known)| *known == key) {
            tracing::warn!(
                member_key = key,
                member_info = value,
                "found duplicate peer from discovery service"
            );
        } else {
            tracing::info!(member_key = key, member_info = value, "found peer from discovery service");
            self.0.insert((member.create_revision, key), value);
        }
    }

    /// Whether one more member, or this one, finds room.
    fn has_room_for(&self, key: &str, size: usize) -> bool {
        self.0.len() < size || self.0.keys().take(size).any(|(_, known)| known == key)
    }

    fn cluster(&self, size: usize) -> String {
        self.0.values().take(size).cloned().collect::<Vec<_>>().join(",")
    }
}

impl Discovery {
    /// Registers a member, waits for the others, and says who the cluster is, as `--initial-cluster` says it.
    /// A service that does not answer is waited for.
    ///
    /// # Errors
    /// See [`DiscoveryError`].
    pub async fn join(
        &self,
        clock: &Clock,
        member: u64,
        description: &str,
    ) -> Result<String, DiscoveryError> {
        let key = format!("{PREFIX}/{}/members/{member:x}", self.token);
        self.check(clock, &key).await?;
        self.register(clock, &key, description).await?;
        let (mut found, size, mut revision) = self.check(clock, &key).await?;
        tracing::info!(
            cluster_size = size,
            found_peers = found.0.len(),
            "waiting for peers from discovery service"
        );
        let mut attempt = 0;
        while found.0.len() < size {
            if let Err(error) = self.wait(&mut found, size, &mut revision).await {
                self.pause(clock, &mut attempt, "waiting for peers", &error).await;
            }
        }
        tracing::info!(
            cluster_size = size,
            found_peers = found.0.len(),
            "found all needed peers from discovery service"
        );
        let cluster = found.cluster(size);
        tracing::info!(cluster, "discovery joined cluster successfully");
        Ok(cluster)
    }

    /// Who has come so far, of how many, at which revision.
    async fn check(&self, clock: &Clock, key: &str) -> Result<(Found, usize, i64), DiscoveryError> {
        let mut attempt = 0;
        loop {
            match self.look(attempt).await {
                Ok((size, members)) => {
                    let size = size.ok_or(DiscoveryError::SizeNotFound)?;
                    let size = String::from_utf8_lossy(&size).trim().parse().unwrap_or(0);
                    if size == 0 {
                        return Err(DiscoveryError::BadSize);
                    }
                    let mut found = Found::default();
                    members.kvs.iter().for_each(|member| found.add(member));
                    if !found.has_room_for(key, size) {
                        return Err(DiscoveryError::Full);
                    }
                    let revision = members.header.map_or(0, |header| header.revision);
                    return Ok((found, size, revision));
                }
                Err(error) => self.pause(clock, &mut attempt, "cluster status check", &error).await,
            }
        }
    }

    async fn look(&self, attempt: u32) -> Result<(Option<Bytes>, RangeResponse), Status> {
        let mut kv = KvClient::new(self.stub(attempt).await?);
        let size = format!("{PREFIX}/{}/_config/size", self.token);
        let size = RangeRequest { key: size.into(), ..RangeRequest::default() };
        let size = self.in_time(kv.range(size)).await?;
        let (key, range_end) = self.members();
        let members = RangeRequest { key, range_end, ..RangeRequest::default() };
        let members = self.in_time(kv.range(members)).await?;
        Ok((size.kvs.into_iter().next().map(|kv| kv.value), members))
    }

    async fn register(&self, clock: &Clock, key: &str, description: &str) -> Result<(), DiscoveryError> {
        let mut attempt = 0;
        loop {
            let registered = async {
                let mut kv = KvClient::new(self.stub(attempt).await?);
                let key = Bytes::copy_from_slice(key.as_bytes());
                let value = Bytes::copy_from_slice(description.as_bytes());
                self.in_time(kv.put(PutRequest { key, value, ..PutRequest::default() })).await
            };
            match registered.await {
                Ok(_) => {
                    tracing::info!(
                        member_key = key,
                        member_info = description,
                        "register member itself successfully"
                    );
                    return Ok(());
                }
                Err(error) => self.pause(clock, &mut attempt, "register member itself", &error).await,
            }
        }
    }

    /// Adds members as they come, until there are enough or the watch ends.
    async fn wait(&self, found: &mut Found, size: usize, revision: &mut i64) -> Result<(), Status> {
        let mut watch = WatchClient::new(self.stub(0).await?);
        let (key, range_end) = self.members();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: *revision + 1,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open: its end would end the watch.
        let requests = futures::StreamExt::chain(
            futures::stream::once(std::future::ready(create)),
            futures::stream::pending(),
        );
        let mut answers = watch.watch(requests).await?.into_inner();
        while found.0.len() < size {
            let Some(answer) = answers.message().await? else { break };
            if answer.canceled {
                return Err(Status::cancelled(answer.cancel_reason));
            }
            *revision = answer.header.map_or(*revision, |header| header.revision.max(*revision));
            let puts = answer.events.into_iter().filter(|event| event.r#type() == EventType::Put);
            puts.filter_map(|event| event.kv).for_each(|member| found.add(&member));
        }
        Ok(())
    }

    fn members(&self) -> (Bytes, Bytes) {
        let (key, end) =
            (format!("{PREFIX}/{}/members/", self.token), format!("{PREFIX}/{}/members0", self.token));
        (key.into(), end.into())
    }

    /// A connection to one of the endpoints: with every attempt to the next.
    async fn stub(&self, attempt: u32) -> Result<Stub, Status> {
        let endpoint = &self.endpoints[attempt as usize % self.endpoints.len().max(1)];
        let secure = self.dialer.tls.is_some();
        let url = match (endpoint.contains("://"), secure) {
            (true, _) => endpoint.clone(),
            (false, true) => format!("https://{endpoint}"),
            (false, false) => format!("http://{endpoint}"),
        };
        let (interval, timeout) = self.keep_alive;
        let channel = self.dialer.lazy(&[url], |settings| {
            let interval = interval.max(MIN_KEEP_ALIVE);
            settings.http2_keep_alive_interval(interval).keep_alive_timeout(timeout)
        });
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut token = None;
        if let Some((name, password)) = &self.user {
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let answer = self.in_time(AuthClient::new(channel.clone()).authenticate(request)).await?;
            let value = MetadataValue::try_from(answer.token);
            token = Some(value.map_err(|error| Status::internal(error.to_string()))?);
        }
        Ok(InterceptedService::new(channel, Token(token)))
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        let late = || Status::deadline_exceeded("context deadline exceeded");
        let answer = tokio::time::timeout(self.request_timeout, call).await;
        Ok(answer.unwrap_or_else(|_| Err(late()))?.into_inner())
    }

    async fn pause(&self, clock: &Clock, attempt: &mut u32, reason: &str, error: &Status) {
        *attempt += 1;
        let backoff = Duration::from_secs(1 << (*attempt).min(MAX_DOUBLINGS));
        tracing::warn!(
            reason,
            backoff = ?backoff,
            error = error.message(),
            "retry connecting to discovery service"
        );
        clock.sleep(backoff).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(key: &str, value: &str, create_revision: i64) -> KeyValue {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        KeyValue { key: bytes(key), value: bytes(value), create_revision, ..KeyValue::default() }
    }

    #[test]
    fn the_first_to_come_are_the_cluster() {
        let mut found = Found::default();
        for (key, value, revision) in
            [("k3", "c=http://c", 9), ("k1", "a=http://a", 5), ("k1", "z=http://z", 6), ("k2", "nonsense", 7)]
        {
            found.add(&member(key, value, revision));
        }
        assert_eq!(found.cluster(2), "a=http://a,c=http://c");
        assert_eq!(found.cluster(1), "a=http://a");
        assert!(found.has_room_for("k9", 3) && found.has_room_for("k3", 2));
        assert!(!found.has_room_for("k9", 2) && !found.has_room_for("k3", 1));
    }
}

//! Reading and writing the store in the terms of the API: consistency of reads, conditional writes, the fence of a
//! leader's component, values that are encrypted at rest, and what a failed store means to a client. Whoever reads and
//! writes through this sees plain values.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use api_types::{Value, codec};
use bytes::Bytes;
use env::Env;
use mvcc::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, Event, KeyRange, KeyValue, MvccError, Op,
    OpResponse, PutRequest, RangeRequest, RangeResponse, Response, Txn,
};
use parking_lot::RwLock;
use store::{SharedEvent, Store, StoreError, WatchBatch, WatchError, WatchRequest};

use crate::encryption::Sealing;

/// Objects that are kept as trees, at most.
const MAX_TREES: usize = 256;
/// How long a request waits for the store before the client is told to try again.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two tries of a write.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a read waits for a revision that this replica has not applied yet (upstream's watch cache: 3 s).
const FRESHNESS_PATIENCE: Duration = Duration::from_secs(3);

/// The condition a leader's component puts on its writes: that it still holds its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub namespace: String,
    pub lease: String,
    /// `<holder>/<leaseTransitions>`.
    pub token: String,
}

impl Fence {
    /// Reads `<namespace>/<lease>; <holder>/<transitions>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (lease, token) = text.split_once(';')?;
        let (namespace, lease) = lease.trim().split_once('/')?;
        let token = token.trim();
        token.contains('/').then(|| Self {
            namespace: namespace.to_owned(),
            lease: lease.to_owned(),
            token: token.to_owned(),
        })
    }

    fn lost(&self) -> Status {
        let holder = self.token.rsplit_once('/').map_or("", |(holder, _)| holder);
        let message = format!("the lease {}/{} is no longer held by {holder}", self.namespace, self.lease);
        Status::failure(409, "Conflict", message)
    }
}

/// Where the holder of a lease is written down for [`Fence`].
pub(crate) fn fence_key(namespace: &str, lease: &str) -> String {
    format!("/trierarch/fence/{namespace}/{lease}")
}

/// One conditional change of one object, and what must go with it.
pub(crate) struct Write {
    pub key: Bytes,
    /// Revision of the object that this change is based on; 0: it must not exist.
    pub expected: i64,
    /// The new value; none deletes.
    pub value: Option<Bytes>,
    pub lease: i64,
    pub fence: Option<Fence>,
    /// Further conditions and steps in the same transaction.
    pub extra: Vec<(Option<Compare>, Option<Op>)>,
}

/// How a [`Write`] ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is durable at this revision.
    Done(i64),
    /// The object is not what the change was based on.
    Changed,
    /// Another condition did not hold (an address that was just taken).
    Taken,
}

/// The store as the API sees it.
#[derive(Clone)]
pub(crate) struct Storage {
    pub store: Store,
    pub env: Env,
    pub sealing: Arc<Sealing>,
    trees: Arc<Trees>,
}

/// Objects that many requests look at beside their own, as trees, each with the revision at which it is so.
#[derive(Default)]
struct Trees(RwLock<HashMap<Bytes, (i64, Arc<Value>)>>);

impl Trees {
    fn get(&self, kv: &KeyValue) -> Option<Arc<Value>> {
        let trees = self.0.read();
        let (revision, tree) = trees.get(&kv.key)?;
        (*revision == kv.mod_revision).then(|| tree.clone())
    }

    fn put(&self, kv: &KeyValue, tree: &Arc<Value>) {
        let mut trees = self.0.write();
        if trees.len() >= MAX_TREES {
            trees.clear();
        }
        trees.insert(kv.key.clone(), (kv.mod_revision, tree.clone()));
    }
}

/// The state at one revision, with plain values.
pub(crate) struct View {
    inner: Arc<mvcc::View>,
    sealing: Arc<Sealing>,
    trees: Arc<Trees>,
}

impl std::ops::Deref for View {
    type Target = mvcc::View;

    fn deref(&self) -> &mvcc::View {
        &self.inner
    }
}

impl View {
    /// A key's current value.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        self.inner.get(key)?.map(|kv| opened(&self.sealing, kv)).transpose()
    }

    /// Current values of a range in key order, lazily. It ends behind the first error.
    pub fn iter(&self, range: &KeyRange) -> impl Iterator<Item = Result<KeyValue, MvccError>> {
        self.inner.iter(range).map(|kv| opened(&self.sealing, kv?))
    }

    /// A range, maybe at an older revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        let mut answer = self.inner.range(request)?;
        answer.kvs = answer.kvs.into_iter().map(|kv| opened(&self.sealing, kv)).collect::<Result<_, _>>()?;
        Ok(answer)
    }

    /// An object of a built-in kind as a tree, if it can be read. It is shared and kept for a while: for objects that change
    /// rarely and that many requests look at.
    pub fn tree(&self, kv: &KeyValue) -> Option<Arc<Value>> {
        if let Some(tree) = self.trees.get(kv) {
            return Some(tree);
        }
        let tree = Arc::new(codec::from_stored(&kv.value, kv.mod_revision).ok()?);
        self.trees.put(kv, &tree);
        Some(tree)
    }

    /// Whether an object is to be stored again even if it does not change: its keys are others now.
    pub fn is_stale(&self, key: &[u8]) -> bool {
        let stored = self.inner.get(key).ok().flatten();
        stored.is_some_and(|kv| self.sealing.is_stale(key, &kv.value))
    }
}

fn opened(sealing: &Sealing, mut kv: KeyValue) -> Result<KeyValue, MvccError> {
    kv.value = sealing.open(&kv.key, kv.value).map_err(|why| {
        let key = String::from_utf8_lossy(&kv.key);
        MvccError::Engine(format!("unable to transform key {key:?}: {why}"))
    })?;
    Ok(kv)
}

/// A watch, with plain values.
pub(crate) struct Watcher {
    inner: store::Watcher,
    sealing: Arc<Sealing>,
}

impl Watcher {
    /// Waits for the next events.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        let batch = self.inner.next().await?;
        self.open(batch)
    }

    /// What there is now.
    pub fn poll(&mut self) -> Result<WatchBatch, WatchError> {
        let batch = self.inner.poll()?;
        self.open(batch)
    }

    /// The revision up to which everything was delivered.
    pub fn progress(&self) -> i64 {
        self.inner.progress()
    }

    fn open(&self, mut batch: WatchBatch) -> Result<WatchBatch, WatchError> {
        let sealed = |kv: &KeyValue| self.sealing.is_sealed(&kv.value);
        let plain =
            |kv: KeyValue| opened(&self.sealing, kv).map_err(|error| WatchError::Engine(error.to_string()));
        for shared in &mut batch.events {
            if !sealed(&shared.kv) && !shared.prev.as_deref().is_some_and(sealed) {
                continue;
            }
            let mut event = Event::clone(shared);
            event.kv = plain(event.kv)?;
            event.prev = event.prev.map(|prev| plain(*prev).map(Box::new)).transpose()?;
            *shared = SharedEvent::new(event);
        }
        Ok(batch)
    }
}

impl Storage {
    pub fn new(store: Store, env: Env, sealing: Arc<Sealing>) -> Self {
        Self { store, env, sealing, trees: Arc::default() }
    }

    pub fn view(&self) -> Arc<View> {
        Arc::new(View { inner: self.store.view(), sealing: self.sealing.clone(), trees: self.trees.clone() })
    }

    /// Follows changes from a revision on.
    pub fn watch(&self, request: WatchRequest) -> Watcher {
        Watcher { inner: self.store.watch(request), sealing: self.sealing.clone() }
    }

    /// A change with its values as they are stored.
    fn sealed(&self, mut write: Write) -> Result<Write, Status> {
        let seal = |key: &[u8], value: Bytes| self.sealing.seal(key, value).map_err(Status::internal);
        write.value = write.value.map(|value| seal(&write.key, value)).transpose()?;
        for (_, step) in &mut write.extra {
            if let Some(Op::Put(put)) = step {
                put.value = seal(&put.key, std::mem::take(&mut put.value))?;
            }
        }
        Ok(write)
    }

    /// A view that shows everything acknowledged before the call.
    pub async fn fresh(&self) -> Result<Arc<View>, Status> {
        self.store.read_barrier().await.map_err(|error| store_failure(&error))?;
        Ok(self.view())
    }

    /// A view at `revision` or newer.
    pub async fn at_least(&self, revision: i64) -> Result<Arc<View>, Status> {
        let view = self.view();
        if view.revision() >= revision {
            return Ok(view);
        }
        let deadline = self.env.clock.monotonic() + FRESHNESS_PATIENCE;
        loop {
            let view = self.fresh().await?;
            if view.revision() >= revision {
                return Ok(view);
            }
            if self.env.clock.monotonic() >= deadline {
                return Err(too_large(revision, view.revision()));
            }
            self.env.clock.sleep(RETRY_PAUSE).await;
        }
    }

    /// Makes a change. A change whose fate is unknown is tried again; that it took effect the first time shows in
    /// the value that stands there then.
    pub async fn commit(&self, write: Write) -> Result<Outcome, Status> {
        let deadline = self.env.clock.monotonic() + WRITE_PATIENCE;
        let write = self.sealed(write)?;
        let command = Command::Txn(write.transaction());
        let mut unsure = false;
        loop {
            let error = match self.store.propose(command.clone()).await {
                Ok(applied) => return write.outcome(applied.revision, applied.response, unsure),
                Err(error) => error,
            };
            unsure |= matches!(error, StoreError::LeaderLost | StoreError::Timeout);
            let again = matches!(
                error,
                StoreError::NoLeader | StoreError::NotLeader | StoreError::LeaderLost | StoreError::Timeout
            );
            if !again || self.env.clock.monotonic() >= deadline {
                return Err(if unsure { unknown_outcome() } else { store_failure(&error) });
            }
            self.env.clock.sleep(RETRY_PAUSE).await;
        }
    }

    /// Makes a lease for `seconds`.
    pub async fn grant(&self, seconds: i64) -> Result<i64, Status> {
        let id = i64::try_from(self.env.rng.u64() >> 1).unwrap_or(1).max(1);
        let applied = self
            .store
            .propose(Command::LeaseGrant { id, ttl: seconds })
            .await
            .map_err(|error| store_failure(&error))?;
        applied.response.map_err(Status::internal)?;
        Ok(id)
    }
}

impl Write {
    fn transaction(&self) -> Txn {
        let mut compare = vec![Compare::mod_revision(self.key.clone(), self.expected)];
        let mut failure = vec![Op::Range(RangeRequest::key(self.key.clone()))];
        if let Some(fence) = &self.fence {
            let key = Bytes::from(fence_key(&fence.namespace, &fence.lease));
            compare.push(Compare {
                range: KeyRange::Key(key.clone()),
                result: CompareResult::Equal,
                target: CompareTarget::Value(Bytes::from(fence.token.clone())),
            });
            failure.push(Op::Range(RangeRequest::key(key)));
        }
        let mut success = vec![match &self.value {
            Some(value) => Op::Put(PutRequest {
                key: self.key.clone(),
                value: value.clone(),
                lease: self.lease,
                ..PutRequest::default()
            }),
            None => Op::Delete(DeleteRequest { range: KeyRange::Key(self.key.clone()), prev_kv: false }),
        }];
        for (condition, step) in &self.extra {
            compare.extend(condition.clone());
            success.extend(step.clone());
        }
        Txn { compare, success, failure }
    }

    fn outcome(
        &self,
        revision: i64,
        response: Result<Response, mvcc::MvccError>,
        unsure: bool,
    ) -> Result<Outcome, Status> {
        let answer = match response {
            Ok(Response::Txn(answer)) => answer,
            Ok(_) => return Err(Status::internal("the store gave the wrong answer")),
            Err(error) => return Err(Status::internal(error)),
        };
        if answer.succeeded {
            return Ok(Outcome::Done(revision));
        }
        let found = |index: usize| match answer.responses.get(index) {
            Some(OpResponse::Range(range)) => range.kvs.first(),
            _ => None,
        };
        let current = found(0);
        if unsure && self.already_done(current) {
            return Ok(Outcome::Done(current.map_or(revision, |kv| kv.mod_revision)));
        }
        if let Some(fence) = &self.fence
            && found(1).is_none_or(|kv| kv.value != fence.token.as_bytes())
        {
            return Err(fence.lost());
        }
        let same = current.map_or(0, |kv| kv.mod_revision) == self.expected;
        Ok(if same { Outcome::Taken } else { Outcome::Changed })
    }

    fn already_done(&self, current: Option<&KeyValue>) -> bool {
        match (&self.value, current) {
            (Some(value), Some(kv)) => kv.mod_revision > self.expected && kv.value == *value,
            (None, None) => true,
            _ => false,
        }
    }
}

/// Puts without a condition, as a step that goes with a [`Write`].
pub(crate) fn put(key: String, value: impl Into<Bytes>) -> Op {
    Op::Put(PutRequest { key: Bytes::from(key), value: value.into(), ..PutRequest::default() })
}

/// Deletes one key, as a step that goes with a [`Write`].
pub(crate) fn delete(key: String) -> Op {
    Op::Delete(DeleteRequest { range: KeyRange::Key(Bytes::from(key)), prev_kv: false })
}

/// 504 with the cause that tells clients to wait for this replica.
pub(crate) fn too_large(wanted: i64, current: i64) -> Status {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    Status::timeout(&message, 1).with_cause("ResourceVersionTooLarge", "Too large resource version", "")
}

fn unknown_outcome() -> Status {
    Status::timeout(
        "the store lost its leader while it had the request; the request may have taken effect",
        1,
    )
}

/// A key's current value.
pub(crate) fn get(view: &View, key: &[u8]) -> Result<Option<KeyValue>, Status> {
    view.get(key).map_err(|error| unreadable(&error))
}

/// Current values of a range, in order; nothing comes behind an error.
pub(crate) fn each(view: &View, range: &KeyRange) -> impl Iterator<Item = Result<KeyValue, Status>> {
    view.iter(range).map(|kv| kv.map_err(|error| unreadable(&error)))
}

/// What a client is told when what is stored cannot be read. The member is about to stop then.
pub(crate) fn unreadable(error: &MvccError) -> Status {
    tracing::error!(%error, "the store cannot be read");
    Status::internal(format_args!("etcdserver: {error}"))
}

/// What a client is told when the store does not answer.
pub(crate) fn store_failure(error: &StoreError) -> Status {
    match error {
        StoreError::TooLarge => Status::request_entity_too_large(format_args!("etcdserver: {error}")),
        StoreError::TooManyRequests => Status::too_many(format!("etcdserver: {error}"), 1),
        StoreError::NoLeader
        | StoreError::NotLeader
        | StoreError::Timeout
        | StoreError::Stopped
        | StoreError::Corrupt => {
            let mut status = Status::service_unavailable(format!("etcdserver: {error}"));
            status.details.get_or_insert_default().retry_after_seconds = 1;
            status
        }
        _ => Status::internal(format_args!("etcdserver: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_names_lease_and_holder() {
        let fence = Fence::parse("kube-system/kube-scheduler; m1_x/7").unwrap();
        assert_eq!((fence.lease.as_str(), fence.token.as_str()), ("kube-scheduler", "m1_x/7"));
        assert_eq!(fence.lost().message, "the lease kube-system/kube-scheduler is no longer held by m1_x");
        assert_eq!(Fence::parse("nonsense"), None);
    }
}

//! Clients with leases: some keep them alive for a while and give them up, others contend for a lock with them. What they
//! write is no operation that is recorded; watchers of their keys tell of it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Rng, Shutdown};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use protos::etcd::v3lockpb::lock_client::LockClient;
use protos::etcd::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tonic::Status;

use super::traffic::{Caller, DRAIN};
use super::wire::{self, Connection, Token};
use crate::history::{Hold, Session};
use crate::poll::until;

/// All keys of clients whose requests are not recorded lie between these.
pub const FROM: &str = "x/";
/// See [`FROM`].
pub const END: &str = "x0";
/// Keys with a lease that is kept alive.
const KEPT: [&str; 2] = ["x/kept/", "x/kept0"];
/// The lock, and what it guards.
const LOCK: &str = "x/lock";
const GUARDED: &str = "x/guarded";
/// The key of the last write.
const LAST_KEY: &str = "x/~";
/// Seconds that leases are asked for: of those that are kept alive, and of those who want a lock.
const KEPT_TTL: i64 = 2;
const LOCK_TTL: i64 = 2;
/// Between renewals.
const RENEW: Duration = Duration::from_millis(400);
/// Renewals of a lease at most, and writes under a lock.
const RENEWALS: u64 = 10;
const WRITES: u64 = 4;

/// Keeps leases alive, one after the other, each for a while; some are revoked and some are left to end.
pub async fn keep(mut caller: Caller, seed: u64, stop: Shutdown) {
    let rng = rng(&caller, seed);
    while !stop.is_triggered() {
        let key = |lease: i64| format!("{}{lease:x}", KEPT[0]);
        let Some(mut session) = grant(&mut caller, KEPT_TTL, key).await else { continue };
        let put = pb::PutRequest { lease: session.lease, ..write(&session.key) };
        // When the answer is lost there may be a key or not.
        caller.ask(async |connection| KvClient::new(connection).put(put).await).await;
        for _ in 0..rng.below(RENEWALS) {
            caller.pause(RENEW).await;
            if stop.is_triggered() || !renew(&mut caller, &mut session).await {
                break;
            }
        }
        if rng.below(3) == 0 {
            revoke(&mut caller, &mut session).await;
        }
        caller.recorder.sessions.lock().push(session);
    }
}

/// Wants the lock, again and again; holds it for a few writes that need it, and gives it back, or leaves it to its lease.
pub async fn lock(mut caller: Caller, seed: u64, stop: Shutdown) {
    let rng = rng(&caller, seed);
    while !stop.is_triggered() {
        let key = |lease: i64| format!("{LOCK}/{lease:x}");
        let Some(mut session) = grant(&mut caller, LOCK_TTL, key).await else { continue };
        let request = LockRequest { name: wire::bytes(LOCK), lease: session.lease };
        let locking = async |connection| LockClient::new(connection).lock(request).await;
        let (call, answer) = caller.ask(locking).await;
        if !matches!(answer, Some(Ok(_))) {
            // Who goes away while it waits is taken out of the queue.
            session.revoked = Some(call);
        }
        let hold = match answer {
            Some(Ok(answer)) => Some(hold(&mut caller, &mut session, answer.into_inner(), &rng).await),
            _ => None,
        };
        if session.revoked.is_some() || rng.below(2) == 0 {
            revoke(&mut caller, &mut session).await;
        }
        let until = session.revoked;
        caller.recorder.holds.lock().extend(hold.map(|hold| Hold { until, ..hold }));
        caller.recorder.sessions.lock().push(session);
    }
}

/// Writes what the lock guards, and mostly gives the lock back.
async fn hold(caller: &mut Caller, session: &mut Session, answer: LockResponse, rng: &Rng) -> Hold {
    let (client, key, since) = (caller.number, session.key.clone(), caller.recorder.now());
    let revision = answer.header.map_or(0, |header| header.revision);
    let mut hold = Hold { client, key, since, revision, until: None, fenced: Vec::new() };
    for _ in 0..rng.below(WRITES) + 1 {
        let (_, answer) = caller.ask(async |connection| fenced(connection, &hold.key).await).await;
        hold.fenced.extend(answer.and_then(Result::ok).flatten());
        if !renew(caller, session).await {
            break;
        }
    }
    if rng.below(4) > 0 {
        // The key is gone before the lease is.
        session.revoked = Some(caller.recorder.now());
        let request = UnlockRequest { key: wire::bytes(&hold.key) };
        caller.ask(async |connection| LockClient::new(connection).unlock(request).await).await;
    }
    hold
}

fn rng(caller: &Caller, seed: u64) -> Rng {
    Rng::seeded(seed.wrapping_mul(1000).wrapping_add(caller.number as u64))
}

fn write(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: wire::bytes(key), value: wire::bytes("x"), ..Default::default() }
}

fn seconds(ttl: i64) -> u64 {
    u64::try_from(ttl).unwrap_or(0) * 1_000_000_000
}

async fn grant(caller: &mut Caller, ttl: i64, key: impl Fn(i64) -> String) -> Option<Session> {
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    let granting = async |connection| LeaseClient::new(connection).lease_grant(request).await;
    let (call, answer) = caller.ask(granting).await;
    let answer = answer?.ok()?.into_inner();
    let given = vec![(call, seconds(answer.ttl))];
    Some(Session { lease: answer.id, key: key(answer.id), given, revoked: None, gone: None })
}

/// Renews a lease; whether it is still there, as far as is known.
async fn renew(caller: &mut Caller, session: &mut Session) -> bool {
    let id = session.lease;
    let renewing = async |connection: Connection| {
        let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut answers = LeaseClient::new(connection).lease_keep_alive(requests).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::unavailable("no answer"))
    };
    match caller.ask(renewing).await {
        (call, Some(Ok(answer))) if answer.ttl > 0 => session.given.push((call, seconds(answer.ttl))),
        (_, Some(Ok(_))) => session.gone = Some(caller.recorder.now()),
        _ => {}
    }
    session.gone.is_none()
}

async fn revoke(caller: &mut Caller, session: &mut Session) {
    session.revoked.get_or_insert(caller.recorder.now());
    let request = pb::LeaseRevokeRequest { id: session.lease };
    caller.ask(async |connection| LeaseClient::new(connection).lease_revoke(request).await).await;
}

/// Writes what the lock guards, if the key of the lock is there; the revision, if it was.
async fn fenced(connection: Connection, key: &str) -> Result<Option<i64>, Status> {
    let there = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: wire::bytes(key),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let put = pb::request_op::Request::RequestPut(write(GUARDED));
    let success = vec![pb::RequestOp { request: Some(put) }];
    let request = pb::TxnRequest { compare: vec![there], success, failure: Vec::new() };
    let answer = KvClient::new(connection).txn(request).await?.into_inner();
    Ok(answer.header.filter(|_| answer.succeeded).map(|header| header.revision))
}

/// Waits until all leases have ended that nobody keeps alive any more.
///
/// # Errors
/// One did not.
pub async fn all_end(env: &Env, endpoints: &[String], token: &Token) -> Result<()> {
    let mut at = 0;
    until(env, DRAIN, async || {
        at += 1;
        let connection =
            wire::connect(&endpoints[at % endpoints.len()], token).await.context("no connection")?;
        let mut kv = KvClient::new(connection);
        for [from, end] in [KEPT, ["x/lock/", "x/lock0"]] {
            let (key, range_end) = (wire::bytes(from), wire::bytes(end));
            let request = pb::RangeRequest { key, range_end, ..Default::default() };
            let there = kv.range(request).await?.into_inner().kvs;
            if let Some(kv) = there.first() {
                bail!("the lease of {} does not end", String::from_utf8_lossy(&kv.key));
            }
        }
        Ok(())
    })
    .await
}

/// The last write of all; its revision.
///
/// # Errors
/// No member takes it.
pub async fn last(env: &Env, endpoints: &[String], token: &Token) -> Result<i64> {
    let mut at = 0;
    until(env, DRAIN, async || {
        at += 1;
        let connection =
            wire::connect(&endpoints[at % endpoints.len()], token).await.context("no connection")?;
        let answer = KvClient::new(connection).put(write(LAST_KEY)).await?.into_inner();
        answer.header.map(|header| header.revision).context("an answer without a header")
    })
    .await
}

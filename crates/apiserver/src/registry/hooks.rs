//! What goes into the store together with an object: addresses of Services, the fence of a Lease, the life of Events.

use std::time::Duration;

use api_types::status::Status;
use api_types::{Resource, Value, meta};
use mvcc::{Compare, Op};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Target;
use crate::api::Api;
use crate::storage::{self, View, fence_key};

/// Further conditions and steps of a write.
pub(crate) type Extra = Vec<(Option<Compare>, Option<Op>)>;

/// Events share a lease that is at most so old.
const LEASE_REUSE: Duration = Duration::from_secs(60);
/// Events on one lease, at most.
const LEASE_EVENTS: usize = 1000;

/// The lease that new Events are attached to.
pub(crate) struct EventLeases {
    /// How long Events live.
    ttl: Duration,
    newest: Mutex<Option<EventLease>>,
}

struct EventLease {
    id: i64,
    granted: Instant,
    events: usize,
}

impl EventLeases {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, newest: Mutex::default() }
    }

    fn current(&self, now: Instant) -> Option<i64> {
        let mut guard = self.newest.lock();
        let lease = guard.as_mut()?;
        if now.duration_since(lease.granted) > LEASE_REUSE || lease.events >= LEASE_EVENTS {
            return None;
        }
        lease.events += 1;
        Some(lease.id)
    }
}

fn is(resource: &Resource, group: &str, kind: &str) -> bool {
    resource.group == group && resource.kind == kind
}

impl Api {
    /// The store's lease for a new object; 0 for kinds that live until they are deleted.
    pub(super) async fn event_lease(&self, resource: &Resource) -> Result<i64, Status> {
        if resource.kind != "Event" || resource.message.is_none() {
            return Ok(0);
        }
        let now = self.storage.env.clock.monotonic();
        if let Some(id) = self.event_leases.current(now) {
            return Ok(id);
        }
        let life = self.event_leases.ttl + LEASE_REUSE;
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        let id = self.storage.grant(seconds).await?;
        *self.event_leases.newest.lock() = Some(EventLease { id, granted: now, events: 1 });
        Ok(id)
    }

    /// Takes over what the server gave to the old object and the new one leaves out.
    pub(super) fn keep_allocated(&self, target: &Target, new: &mut Value, old: &Value) {
        if is(&target.resource, "", "Service") {
            crate::services::keep(new, old);
        }
    }

    /// Whether [`Self::before_write`] changes objects of a kind, each time in another way.
    pub(super) fn completes(resource: &Resource) -> bool {
        is(resource, "", "Service")
    }

    /// Completes an object that is about to be written.
    pub(super) fn before_write(
        &self,
        view: &View,
        target: &Target,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Extra, Status> {
        if is(&target.resource, "", "Service") {
            return self.allocator.allocate(self, view, old, new);
        }
        if is(&target.resource, "coordination.k8s.io", "Lease") {
            return fence(view, target, new);
        }
        Ok(Extra::new())
    }

    /// What goes with an object that is removed.
    pub(super) fn after_delete(&self, target: &Target, old: &Value) -> Extra {
        if is(&target.resource, "", "Service") {
            return self.allocator.release(old);
        }
        if is(&target.resource, "coordination.k8s.io", "Lease") {
            return vec![(None, Some(storage::delete(fence_key(&target.namespace, &target.name))))];
        }
        Extra::new()
    }
}

/// Writes down who holds a lease, and for which time, where writes of its holder can be conditional on it.
fn fence(view: &View, target: &Target, lease: &Value) -> Result<Extra, Status> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    let token = format!("{holder}/{}", spec["leaseTransitions"].as_i64().unwrap_or(0));
    let key = fence_key(&target.namespace, meta::name(lease));
    Ok(match storage::get(view, key.as_bytes())? {
        Some(kv) if kv.value == token.as_bytes() => Extra::new(),
        _ => vec![(None, Some(storage::put(key, token)))],
    })
}

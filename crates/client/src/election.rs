//! Leader election through Leases, as upstream's components contend for them, but decided by the store: the replica
//! that leads the consensus takes the Lease at once, and one that does not lead gives up at once.
//!
//! Writes carry the Lease's term as a fence, so that even a component that does not know yet that it was deposed can
//! change nothing.

use std::future::Future;
use std::time::Duration;

use api_types::{meta, table, time};
use env::{Env, Shutdown};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::Api;
use crate::client::{Client, Fence};
use crate::counters;
use crate::error::ClientError;

/// The first part of a holder that is one of our replicas: they obey the store's leadership, so that one may take a
/// Lease from another at once.
const OURS: &str = "trierarch/";

/// How a Lease is contended for; the times are upstream's defaults.
#[derive(Clone, Debug)]
pub struct ElectionConfig {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name, which is also the component's.
    pub lease: String,
    /// This replica's name.
    pub replica: String,
    /// How long a holder's claim lasts without renewal.
    pub lease_duration: Duration,
    /// How long a holder tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Between attempts.
    pub retry_period: Duration,
}

impl ElectionConfig {
    /// The Lease of a component in `kube-system`.
    pub fn new(lease: &str, replica: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            lease: lease.to_owned(),
            replica: replica.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    fn holder(&self) -> String {
        format!("{OURS}{}", self.replica)
    }
}

/// Contends for a Lease.
pub struct LeaderElector {
    config: ElectionConfig,
    env: Env,
    leases: Api,
    preferred: watch::Receiver<bool>,
}

/// What the Lease allows this replica to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is free, ours, or another replica's of ours that does not lead any more.
    Take,
    /// A foreign holder's claim lasts.
    Wait,
}

/// How long a claim of ours waits after the API could not be asked.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

impl LeaderElector {
    /// Contends through `client` while `preferred` is true.
    pub fn new(config: ElectionConfig, env: Env, client: &Client, preferred: watch::Receiver<bool>) -> Self {
        let kind =
            table::find("coordination.k8s.io", "v1", "leases").expect("invariant: leases are in the table");
        let leases = client.namespaced(kind, &config.namespace);
        counters::leads(&config.lease, false);
        Self { config, env, leases, preferred }
    }

    /// Runs `lead` whenever the Lease is held, with the fence for its writes and a signal that ends it; until shutdown.
    /// `lead` must end soon after the signal.
    pub async fn run<F, Fut>(mut self, shutdown: Shutdown, lead: F)
    where
        F: Fn(Fence, Shutdown) -> Fut,
        Fut: Future<Output = ()>,
    {
        loop {
            tokio::select! {
                wanted = self.preferred.wait_for(|preferred| *preferred) => if wanted.is_err() { return },
                () = shutdown.wait() => return,
            }
            match self.acquire().await {
                Ok(Some(held)) => self.hold(held, &shutdown, &lead).await,
                Ok(None) => self.pause(self.config.retry_period, &shutdown).await,
                Err(error) => {
                    tracing::debug!(%error, lease = self.config.lease, "cannot take the lease yet");
                    self.pause(ERROR_PAUSE, &shutdown).await;
                }
            }
            if shutdown.is_triggered() {
                return;
            }
        }
    }

    async fn pause(&self, pause: Duration, shutdown: &Shutdown) {
        tokio::select! {
            () = self.env.clock.sleep(pause) => {}
            () = shutdown.wait() => {}
        }
    }

    /// Takes the Lease, if it may be taken. A conflict means that someone else was faster.
    async fn acquire(&self) -> Result<Option<Value>, ClientError> {
        let now = self.env.clock.now().millis();
        let taken = match self.leases.get(&self.config.lease).await {
            Ok(lease) if claim(&lease, now) == Claim::Wait => return Ok(None),
            Ok(lease) => self.leases.update(&self.claimed(lease, now)).await,
            Err(error) if error.is_not_found() => self.leases.create(&self.claimed(self.empty(), now)).await,
            Err(error) => return Err(error),
        };
        taken.map(Some)
    }

    fn empty(&self) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": self.config.lease, "namespace": self.config.namespace },
            "spec": {},
        })
    }

    /// The Lease as ours, with a new term: even our own former holding is another one, whose writes must fail.
    fn claimed(&self, mut lease: Value, now: i64) -> Value {
        let transitions = lease["spec"]["leaseTransitions"].as_i64().map_or(0, |last| last + 1);
        let spec = meta::child_mut(&mut lease, &["spec"]);
        spec.insert("holderIdentity".to_owned(), json!(self.config.holder()));
        spec.insert("leaseDurationSeconds".to_owned(), json!(self.config.lease_duration.as_secs()));
        spec.insert("acquireTime".to_owned(), json!(time::micro_from_millis(now)));
        spec.insert("renewTime".to_owned(), json!(time::micro_from_millis(now)));
        spec.insert("leaseTransitions".to_owned(), json!(transitions));
        lease
    }

    async fn hold<F, Fut>(&mut self, held: Value, shutdown: &Shutdown, lead: &F)
    where
        F: Fn(Fence, Shutdown) -> Fut,
        Fut: Future<Output = ()>,
    {
        let fence = Fence {
            namespace: self.config.namespace.clone(),
            lease: self.config.lease.clone(),
            holder: self.config.holder(),
            transitions: held["spec"]["leaseTransitions"].as_i64().unwrap_or_default(),
        };
        tracing::info!(lease = fence.lease, term = fence.transitions, "leading");
        counters::leads(&fence.lease, true);
        let stop = shutdown.child();
        let leading = lead(fence.clone(), stop.clone());
        let mut preferred = self.preferred.clone();
        let lost = async {
            tokio::select! {
                () = self.renew(held) => "the lease was lost",
                _ = preferred.wait_for(|preferred| !preferred) => "another replica leads the store",
                () = shutdown.wait() => "stopping",
            }
        };
        tokio::pin!(leading);
        tokio::select! {
            () = &mut leading => {}
            why = lost => {
                tracing::info!(lease = fence.lease, term = fence.transitions, why, "not leading any more");
                stop.trigger();
                leading.await;
            }
        }
        counters::leads(&fence.lease, false);
    }

    /// Renews until that is not possible any more.
    async fn renew(&self, mut held: Value) {
        let mut renewed = self.env.clock.monotonic();
        loop {
            self.env.clock.sleep(self.config.retry_period).await;
            let now = self.env.clock.now().millis();
            meta::child_mut(&mut held, &["spec"])
                .insert("renewTime".to_owned(), json!(time::micro_from_millis(now)));
            match self.leases.update(&held).await {
                Ok(lease) => {
                    held = lease;
                    renewed = self.env.clock.monotonic();
                }
                Err(error) if error.is_conflict() || error.is_not_found() => match self.reread(&held).await {
                    Some(lease) => held = lease,
                    None => return,
                },
                Err(error) => tracing::debug!(%error, lease = self.config.lease, "the lease was not renewed"),
            }
            if self.env.clock.monotonic() - renewed > self.config.renew_deadline {
                return;
            }
        }
    }

    /// The Lease as it is now, if it is still held by this replica in the same term: someone may have labelled it.
    async fn reread(&self, held: &Value) -> Option<Value> {
        let lease = self.leases.get(&self.config.lease).await.ok()?;
        let same = |field: &str| lease["spec"][field] == held["spec"][field];
        (same("holderIdentity") && same("leaseTransitions")).then_some(lease)
    }
}

fn claim(lease: &Value, now_millis: i64) -> Claim {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() || holder.starts_with(OURS) {
        return Claim::Take;
    }
    let seconds = spec["leaseDurationSeconds"].as_i64().unwrap_or_default();
    let renewed = spec["renewTime"].as_str().and_then(time::to_millis);
    match renewed {
        Some(renewed) if renewed + seconds * 1000 > now_millis => Claim::Wait,
        _ => Claim::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed_millis: i64) -> Value {
        let renewed = time::micro_from_millis(renewed_millis);
        json!({ "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed } })
    }

    #[test]
    fn a_foreign_claim_is_waited_out_and_one_of_ours_is_not() {
        let now = 1_000_000_000_000;
        assert_eq!(claim(&lease("upstream_1", now - 14_000), now), Claim::Wait);
        assert_eq!(claim(&lease("upstream_1", now - 15_000), now), Claim::Take);
        assert_eq!(claim(&lease("trierarch/m1", now), now), Claim::Take);
        assert_eq!(claim(&lease("", now), now), Claim::Take);
        assert_eq!(claim(&json!({}), now), Claim::Take);
    }
}

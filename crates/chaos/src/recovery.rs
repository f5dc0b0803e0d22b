//! What the cluster does after a fault, seen through the masters that live: leaders change, a Deployment that is scaled
//! gets its pods, a lost node loses them.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use client::{Api, Client};
use env::Env;
use serde_json::json;
use tokio::time::Instant;

use crate::access::kind;
use crate::api_load::configmaps;
use crate::cluster::{Cluster, master_name, node_becomes, node_name};
use crate::fault::Struck;
use crate::load::RETRY;
use crate::poll::until;
use crate::web::Web;

/// Who leads what: the Leases of the components that only one replica runs.
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// What a cut-off master does so shortly before it is mended is not judged: the answer could come after that.
const MEND_MARGIN: Duration = Duration::from_millis(200);
/// How long a change of leaders may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who leads the components, and in which term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    holders: [String; LEASES.len()],
    terms: [i64; LEASES.len()],
}

/// What was seen after the fault.
#[derive(Debug, Default)]
pub struct Recovery {
    /// When each component had a leader of a new term, where that was to be.
    pub led: Option<Instant>,
    /// When the first pod of the scaled Deployment was bound to a node.
    pub bound: Option<Instant>,
    /// When the lost node's pods were replaced elsewhere, where a node was lost.
    pub replaced: Option<Instant>,
    /// What did not happen, or what must not have happened.
    pub wrong: Vec<String>,
}

/// Before the fault: through whom to look, and how things are.
pub struct Before {
    /// The masters that will live, as one caller.
    client: Client,
    /// Each master that will be struck.
    struck: Vec<Client>,
    web: Web,
    pods: HashSet<String>,
    held: Held,
}

/// What has to happen after the fault.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The Deployment is scaled to so many replicas.
    pub replicas: u64,
    /// Whether others have to lead: a leader was struck.
    pub leads: bool,
    /// Whether the struck masters run on without the others, and so must not accept anything.
    pub cut: bool,
    /// How long the fault lasts; a lost node's pods have to be replaced within it.
    pub lasts: Duration,
}

impl Held {
    async fn read(leases: &Api) -> Result<Self> {
        let (controllers, scheduler) = (leases.get(LEASES[0]).await?, leases.get(LEASES[1]).await?);
        let both = [&controllers["spec"], &scheduler["spec"]];
        Ok(Self {
            holders: both.map(|spec| spec["holderIdentity"].as_str().unwrap_or_default().to_owned()),
            terms: both.map(|spec| spec["leaseTransitions"].as_i64().unwrap_or(-1)),
        })
    }

    fn by(&self, master: usize) -> bool {
        self.holders.iter().any(|holder| *holder == format!("trierarch/{}", master_name(master)))
    }

    /// Whether every component changed hands since `before`.
    fn is_after(&self, before: &Self) -> bool {
        self.terms.iter().zip(&before.terms).all(|(now, then)| now > then)
    }
}

fn leases(client: &Client) -> Api {
    client.namespaced(kind("coordination.k8s.io", "leases"), "kube-system")
}

/// The master that leads the store and every component.
///
/// # Errors
/// They are not led by one master within half a minute.
pub async fn leader(env: &Env, cluster: &Cluster<'_>) -> Result<usize> {
    let client = cluster.client(&(0..cluster.size()).collect::<Vec<_>>())?;
    let leases = leases(&client);
    until(env, PATIENCE, async || {
        let (leader, held) = (cluster.leader().await?, Held::read(&leases).await?);
        let own = format!("trierarch/{}", master_name(leader));
        match held.holders.iter().all(|holder| *holder == own) {
            true => Ok(leader),
            false => bail!("m{leader} leads the store, and {:?} lead {LEASES:?}", held.holders),
        }
    })
    .await
}

impl Before {
    /// Looks.
    ///
    /// # Errors
    /// The API does not answer, or the node to be lost has no pods.
    pub async fn look(env: &Env, cluster: &Cluster<'_>, struck: &Struck) -> Result<Self> {
        let client = cluster.client(&struck.living(cluster.size()))?;
        let web = Web::through(env, &client);
        for &node in &struck.nodes {
            if web.pods_on(&node_name(node)).await? == 0 {
                bail!("there are no pods on {}, so that nothing can be lost with it", node_name(node));
            }
        }
        let (pods, held) = (web.uids().await?, Held::read(&leases(&client)).await?);
        let alone: Result<Vec<Client>> =
            struck.masters.iter().map(|&index| cluster.client(&[index])).collect();
        Ok(Self { pods, held, client, struck: alone?, web })
    }

    /// Scales the Deployment at once and watches what happens then.
    pub async fn follow(&self, env: &Env, struck: &Struck, expected: Expected) -> Recovery {
        let Expected { replicas, leads, cut, lasts } = expected;
        let (scaled, led, replaced, alone) = tokio::join!(
            self.scaled(env, replicas),
            self.led(env, struck, leads, lasts),
            self.replaced(env, struck, replicas, lasts),
            self.alone(env, cut, lasts)
        );
        let mut recovery = Recovery::default();
        let mut note = |result: Result<Option<Instant>>| match result {
            Ok(at) => at,
            Err(error) => {
                recovery.wrong.push(format!("after the fault: {error:#}"));
                None
            }
        };
        (recovery.bound, recovery.led, recovery.replaced) = (note(scaled), note(led), note(replaced));
        note(alone.map(|()| None));
        recovery
    }

    async fn scaled(&self, env: &Env, replicas: u64) -> Result<Option<Instant>> {
        self.web.scale(replicas).await?;
        self.web.new_one_bound(&self.pods).await?;
        Ok(Some(env.clock.monotonic()))
    }

    /// The struck master must not be seen to lead in a new term while it is dead, stopped or alone. When it is back, it
    /// may.
    async fn led(&self, env: &Env, struck: &Struck, leads: bool, lasts: Duration) -> Result<Option<Instant>> {
        if !leads {
            return Ok(None);
        }
        let mended = env.clock.monotonic() + lasts;
        let leases = leases(&self.client);
        let held = until(env, PATIENCE, async || {
            let held = Held::read(&leases).await?;
            match held.is_after(&self.held) {
                true => Ok(held),
                false => Err(anyhow!("the components are still led as before: {held:?}")),
            }
        })
        .await?;
        let at = env.clock.monotonic();
        match struck.masters[..] {
            [master] if at < mended && held.by(master) => {
                bail!("a struck master leads in a new term: {held:?}")
            }
            _ => Ok(Some(at)),
        }
    }

    /// A master that is cut off answers clients, but takes no write while it is.
    async fn alone(&self, env: &Env, cut: bool, lasts: Duration) -> Result<()> {
        let Some(client) = self.struck.first().filter(|_| cut) else { return Ok(()) };
        let mended = env.clock.monotonic() + lasts.saturating_sub(MEND_MARGIN);
        let (api, mut count) = (configmaps(client), 0);
        while env.clock.monotonic() < mended {
            count += 1;
            let metadata = json!({ "name": format!("alone-{count}") });
            let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
            tokio::select! {
                answer = api.create(&object) => if answer.is_ok() {
                    bail!("a master that was cut off took a write");
                },
                () = env.clock.sleep_until(mended) => {}
            }
            env.clock.sleep(RETRY).await;
        }
        Ok(())
    }

    async fn replaced(
        &self,
        env: &Env,
        struck: &Struck,
        replicas: u64,
        lasts: Duration,
    ) -> Result<Option<Instant>> {
        let Some(&node) = struck.nodes.first() else { return Ok(None) };
        node_becomes(env, &self.client, node, false, lasts).await?;
        self.web.moved_off(&node_name(node), replicas, lasts).await?;
        Ok(Some(env.clock.monotonic()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_have_changed_hands_when_every_term_grew() {
        let held = |terms| Held { holders: ["trierarch/m0".into(), "trierarch/m0".into()], terms };
        assert!(held([2, 3]).is_after(&held([1, 2])));
        assert!(!held([2, 2]).is_after(&held([1, 2])));
        assert!(held([0, 0]).by(0) && !held([0, 0]).by(1));
    }
}

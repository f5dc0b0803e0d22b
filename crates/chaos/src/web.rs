//! The Deployment that is to stand, whatever happens.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use api_types::meta;
use client::{Api, Client, ListParams, Patch};
use env::Env;
use serde_json::{Value, json};

use crate::access::kind;
use crate::api_load::NAMESPACE;
use crate::poll::until;

const NAME: &str = "web";
/// How long replicas may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The Deployment `web`, through some masters.
pub struct Web {
    deployments: Api,
    pods: Api,
    env: Env,
}

impl Web {
    /// Through these masters.
    pub fn through(env: &Env, client: &Client) -> Self {
        Self {
            deployments: client.namespaced(kind("apps", "deployments"), NAMESPACE),
            pods: client.namespaced(kind("", "pods"), NAMESPACE),
            env: env.clone(),
        }
    }

    /// Makes its namespace and the Deployment, and waits for the replicas.
    ///
    /// # Errors
    /// The API refuses, or the replicas do not come.
    pub async fn make(env: &Env, client: &Client, replicas: u64) -> Result<Self> {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        client.all(kind("", "namespaces")).create(&namespace).await?;
        let web = Self::through(env, client);
        let labels = json!({ "app": NAME });
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": NAME },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": NAME, "image": "example.invalid/web:1" }] },
                },
            },
        });
        web.deployments.create(&deployment).await?;
        web.settled(replicas).await?;
        Ok(web)
    }

    /// Says how many replicas are wanted, as often as it takes.
    ///
    /// # Errors
    /// Nobody takes it.
    pub async fn scale(&self, replicas: u64) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        until(&self.env, PATIENCE, async || Ok(self.deployments.patch(NAME, "", &patch).await.map(drop)?))
            .await
    }

    /// Returns when exactly so many pods are there, and ready.
    ///
    /// # Errors
    /// How it is instead after half a minute.
    pub async fn settled(&self, replicas: u64) -> Result<()> {
        until(&self.env, PATIENCE, async || self.stands(replicas, None).await.map(drop)).await
    }

    /// Returns when exactly so many pods are there, ready, and none of them on `lost`.
    ///
    /// # Errors
    /// How it is instead after `patience`.
    pub async fn moved_off(&self, lost: &str, replicas: u64, patience: Duration) -> Result<()> {
        until(&self.env, patience, async || self.stands(replicas, Some(lost)).await.map(drop)).await
    }

    async fn stands(&self, wanted: u64, lost: Option<&str>) -> Result<()> {
        let pods = self.living_pods().await?;
        let ready = self.deployments.get(NAME).await?["status"]["readyReplicas"].as_u64().unwrap_or(0);
        let misplaced = pods.iter().filter(|pod| lost.is_some() && node_of(pod) == lost).count();
        if pods.len() as u64 == wanted && ready == wanted && misplaced == 0 {
            return Ok(());
        }
        let place = lost.map(|node| format!(", {misplaced} of them on {node}")).unwrap_or_default();
        bail!("{wanted} replicas are wanted; there are {} pods{place}, and {ready} ready", pods.len())
    }

    /// Pods that were not asked to go.
    async fn living_pods(&self) -> Result<Vec<Value>> {
        let params = ListParams { label_selector: format!("app={NAME}"), ..ListParams::default() };
        let mut pods = self.pods.list_all(&params).await?.items;
        pods.retain(|pod| !meta::is_being_deleted(pod));
        Ok(pods)
    }

    /// The pods that are there.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn uids(&self) -> Result<HashSet<String>> {
        Ok(self.living_pods().await?.iter().map(|pod| meta::uid(pod).to_owned()).collect())
    }

    /// Returns when a pod that is not among `known` is bound to a node.
    ///
    /// # Errors
    /// None is after half a minute.
    pub async fn new_one_bound(&self, known: &HashSet<String>) -> Result<()> {
        until(&self.env, PATIENCE, async || {
            let pods = self.living_pods().await?;
            let is_new = |pod: &&Value| !known.contains(meta::uid(pod));
            match pods.iter().filter(is_new).find(|pod| node_of(pod).is_some()) {
                Some(_) => Ok(()),
                None => bail!("no new pod was bound to a node"),
            }
        })
        .await
    }

    /// How many pods are on a node.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn pods_on(&self, node: &str) -> Result<usize> {
        Ok(self.living_pods().await?.iter().filter(|pod| node_of(pod) == Some(node)).count())
    }
}

fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

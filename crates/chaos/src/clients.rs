//! All clients of a run together.

use std::time::Duration;

use anyhow::{Result, bail};
use env::{Env, Shutdown, TaskGroup};

use crate::api_load::{self, Create, Told};
use crate::cluster::Cluster;
use crate::load::{self, Record, Seen, Write};
use crate::poll::until;
use crate::scenario;

/// How long watchers may take to see the last write, and clients to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// A writer and a watcher for each master, of either kind. They stop when this is dropped: the next cluster may have the
/// same addresses.
pub struct Clients {
    writes: Vec<Record<Write>>,
    creates: Vec<Record<Create>>,
    seen: Vec<Record<Seen>>,
    told: Vec<Record<Told>>,
    writing: TaskGroup,
    watching: TaskGroup,
}

/// What all of them did and saw.
pub struct Story {
    /// Writes through etcd.
    pub writes: Vec<Write>,
    /// ConfigMaps.
    pub creates: Vec<Create>,
    /// What each etcd watcher saw.
    pub seen: Vec<Vec<Seen>>,
    /// What each API watcher was told.
    pub told: Vec<Vec<Told>>,
}

impl Clients {
    /// Starts them.
    ///
    /// # Errors
    /// The ConfigMaps cannot be listed.
    pub async fn start(env: &Env, cluster: &Cluster<'_>, load: scenario::Load) -> Result<Self> {
        let mut clients = Self {
            writes: Vec::new(),
            creates: Vec::new(),
            seen: Vec::new(),
            told: Vec::new(),
            writing: TaskGroup::new("writers", Shutdown::new()),
            watching: TaskGroup::new("watchers", Shutdown::new()),
        };
        let (_, from) = api_load::list(&cluster.client(&[0])?).await?;
        for number in 0..cluster.size() {
            clients.start_etcd(env, cluster, number, Duration::from_millis(load.interval_ms));
            let interval = Duration::from_millis(load.configmap_interval_ms);
            clients.start_api(env, cluster, number, interval, &from)?;
        }
        Ok(clients)
    }

    fn start_etcd(&mut self, env: &Env, cluster: &Cluster<'_>, number: usize, interval: Duration) {
        let endpoints: Vec<String> = (0..cluster.size()).map(|index| cluster.endpoint(index)).collect();
        let (writes, seen) = (Record::<Write>::default(), Record::<Seen>::default());
        let stop = self.watching.shutdown().clone();
        let watch = load::watch(env.clone(), endpoints[number].clone(), seen.clone(), stop);
        self.watching.spawn_detached(format!("etcd-{number}"), watch);
        let stop = self.writing.shutdown().clone();
        let write = load::write(env.clone(), number, endpoints, interval, writes.clone(), stop);
        self.writing.spawn_detached(format!("etcd-{number}"), write);
        self.writes.push(writes);
        self.seen.push(seen);
    }

    fn start_api(
        &mut self,
        env: &Env,
        cluster: &Cluster<'_>,
        number: usize,
        interval: Duration,
        from: &str,
    ) -> Result<()> {
        let clients =
            (0..cluster.size()).map(|index| cluster.client(&[index])).collect::<Result<Vec<_>>>()?;
        let (creates, told) = (Record::<Create>::default(), Record::<Told>::default());
        let client = cluster.client(&[number])?;
        let stop = self.watching.shutdown().clone();
        let watch = api_load::watch(env.clone(), client, from.to_owned(), told.clone(), stop);
        self.watching.spawn_detached(format!("api-{number}"), watch);
        let stop = self.writing.shutdown().clone();
        let create = api_load::create(env.clone(), number, clients, interval, creates.clone(), stop);
        self.writing.spawn_detached(format!("api-{number}"), create);
        self.creates.push(creates);
        self.told.push(told);
        Ok(())
    }

    fn story(&self) -> Story {
        Story {
            writes: self.writes.iter().flat_map(|record| record.lock().clone()).collect(),
            creates: self.creates.iter().flat_map(|record| record.lock().clone()).collect(),
            seen: self.seen.iter().map(|record| record.lock().clone()).collect(),
            told: self.told.iter().map(|record| record.lock().clone()).collect(),
        }
    }

    /// Stops the writers, waits until every watcher has seen the last acknowledged write of its kind, and stops these.
    /// What watchers never saw is told beside the story.
    ///
    /// # Errors
    /// Clients that do not stop.
    pub async fn finish(self, env: &Env) -> Result<(Story, Option<String>)> {
        self.writing.shutdown().trigger();
        self.writing.clone().join(DRAIN).await?;
        let late = until(env, DRAIN, async || self.level()).await.err().map(|error| error.to_string());
        let story = self.story();
        self.watching.shutdown().trigger();
        self.watching.clone().join(DRAIN).await?;
        Ok((story, late))
    }

    /// Whether all watchers have seen the last acknowledged write.
    fn level(&self) -> Result<()> {
        let Story { writes, creates, seen, told } = self.story();
        let last = writes.iter().filter_map(|write| write.acknowledged).map(|(_, revision)| revision).max();
        let last_api = creates.iter().filter_map(Create::acknowledged).map(|(_, version)| version).max();
        let late = |newest: Vec<Option<i64>>, last: Option<i64>| -> Vec<usize> {
            (0..newest.len()).filter(|&number| newest[number] < last).collect()
        };
        let etcd = late(seen.iter().map(|seen| seen.last().map(|event| event.revision)).collect(), last);
        let newest = |told: &Vec<Told>| told.iter().map(|told| told.version).max();
        let api = late(told.iter().map(newest).collect(), last_api);
        match (etcd.is_empty(), api.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => bail!("etcd watchers {etcd:?} never saw revision {}", last.unwrap_or(0)),
            (true, false) => {
                bail!("API watchers {api:?} were never told of version {}", last_api.unwrap_or(0))
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.writing.shutdown().trigger();
        self.watching.shutdown().trigger();
    }
}

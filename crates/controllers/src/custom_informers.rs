//! Driver. Informers of custom kinds, for the garbage collector: they come and go with their definitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api_types::ResourceRef;
use client::{Client, InformerConfig, WorkQueue};
use env::{Env, Shutdown};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;

use crate::controller::{Key, Listers, indexes};
use crate::runner::METADATA_TREES;
use crate::{custom_resources, garbage_collector};

/// See the module.
pub(crate) struct CustomInformers {
    pub env: Env,
    pub client: Client,
    pub listers: Listers,
    /// Rung when a definition changes.
    pub changed: Arc<Notify>,
    pub queue: WorkQueue<Key>,
}

impl CustomInformers {
    /// Follows the definitions until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        // The version that each kind is watched in, and what stops its informer.
        let mut running: HashMap<String, (String, Shutdown)> = HashMap::new();
        let mut informers = FuturesUnordered::new();
        loop {
            let wanted = custom_resources::kinds(&self.listers).into_iter();
            let wanted: BTreeMap<String, ResourceRef> = wanted.map(|kind| (kind.qualified(), kind)).collect();
            running.retain(|name, (version, stop)| {
                let stays = wanted.get(name).is_some_and(|kind| kind.version == version.as_str());
                if !stays {
                    stop.trigger();
                    self.listers.set_custom(name, None);
                }
                stays
            });
            for (name, kind) in wanted {
                if running.contains_key(&name) {
                    continue;
                }
                let stop = Shutdown::new();
                running.insert(name.clone(), (String::from(&kind.version), stop.clone()));
                let config = InformerConfig {
                    indexes: indexes(),
                    metadata_only: true,
                    trees: METADATA_TREES,
                    ..InformerConfig::all(kind)
                };
                let mut informer = config.build(self.env.clone(), &self.client);
                self.listers.set_custom(&name, Some(informer.lister()));
                let (listers, queue) = (self.listers.clone(), self.queue.clone());
                informer.on_change(move |change| {
                    let keys = garbage_collector::concerned(change, &listers);
                    keys.into_iter().for_each(|key| queue.add(key));
                });
                informers.push(informer.run(stop));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                _ = informers.next(), if !informers.is_empty() => {}
                () = shutdown.wait() => return,
            }
        }
    }
}

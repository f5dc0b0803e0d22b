//! Keeps a copy of the objects of a kind level with the API.

use std::time::Duration;

use api_types::{ResourceRef, Value, meta};
use env::{Backoff, Env, Shutdown};
use tokio::sync::watch;

use crate::api::{Api, ListParams};
use crate::cache::{Change, Index, Lister};
use crate::client::Client;
use crate::error::ClientError;
use crate::watch::WatchEvent;

/// Objects asked for at a time.
const PAGE: u64 = 500;
/// A watch is renewed after this, or up to twice as long, so that not all are at once (client-go's reflector).
const WATCH_SECONDS: u64 = 300;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An informer to be.
pub struct InformerConfig {
    /// Which kind.
    pub resource: ResourceRef,
    /// Only one namespace; all when empty.
    pub namespace: String,
    /// Only those with such labels.
    pub label_selector: String,
    /// Only those with such fields.
    pub field_selector: String,
    /// Ways to find objects.
    pub indexes: Vec<Index>,
    /// How many objects are kept as trees, those that changed last; the others take a tenth of the memory, and time
    /// whenever they are read.
    pub trees: usize,
}

type Handler = Box<dyn Fn(&Change) + Send + Sync>;

/// A copy of the objects of a kind. Register handlers, then run it.
pub struct Informer {
    api: Api,
    params: ListParams,
    env: Env,
    lister: Lister,
    handlers: Vec<Handler>,
    synced: watch::Sender<bool>,
}

impl InformerConfig {
    /// All objects of a kind.
    pub fn all(resource: impl Into<ResourceRef>) -> Self {
        Self {
            resource: resource.into(),
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
            indexes: Vec::new(),
            trees: usize::MAX,
        }
    }

    /// The informer, not yet running.
    pub fn build(self, env: Env, client: &Client) -> Informer {
        let (synced, seen) = watch::channel(false);
        let api = client.namespaced(self.resource, &self.namespace);
        let params = ListParams {
            label_selector: self.label_selector,
            field_selector: self.field_selector,
            ..ListParams::default()
        };
        let lister = Lister::new(self.indexes, self.trees, seen);
        Informer { api, params, env, lister, handlers: Vec::new(), synced }
    }
}

/// Nobody here asks who set a field, which takes half of an object's memory. An update that does not name it leaves it as
/// it is.
fn without_managed_fields(mut object: Value) -> Value {
    meta::metadata_mut(&mut object).remove("managedFields");
    object
}

/// Why a watch ended.
enum Ended {
    /// It can go on from here.
    At(String),
    /// Everything must be read again.
    Relist,
}

impl Informer {
    /// Reads what the informer knows.
    pub fn lister(&self) -> Lister {
        self.lister.clone()
    }

    /// Calls `handler` with every change, in order, from the informer's own task: it should do little, such as adding
    /// a key to a queue.
    pub fn on_change(&mut self, handler: impl Fn(&Change) + Send + Sync + 'static) {
        self.handlers.push(Box::new(handler));
    }

    fn tell(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.handlers.iter().for_each(|handler| handler(&change));
        }
    }

    /// Runs until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut pause = Backoff::new(FIRST_PAUSE, 2.0, LONGEST_PAUSE, 0.2);
        while !shutdown.is_triggered() {
            tokio::select! {
                result = self.follow(&mut pause) => if let Err(error) = result {
                    let resource = self.api.resource().qualified();
                    tracing::debug!(resource, %error, "an informer has to begin anew");
                },
                () = shutdown.wait() => return,
            }
            tokio::select! {
                () = self.env.clock.sleep(pause.next(&self.env.rng)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Reads everything, then follows the changes until it has to read everything again.
    async fn follow(&self, pause: &mut Backoff) -> Result<(), ClientError> {
        let list = self.api.list_all(&ListParams { limit: PAGE, ..self.params.clone() }).await?;
        let items = list.items.into_iter().map(without_managed_fields).collect();
        for change in self.lister.replace(items) {
            self.tell(Some(change));
        }
        self.synced.send_replace(true);
        pause.reset();
        let mut version = list.resource_version;
        loop {
            match self.watch(version, pause).await {
                Ended::At(last) => version = last,
                Ended::Relist => return Ok(()),
            }
            self.env.clock.sleep(pause.next(&self.env.rng)).await;
        }
    }

    /// One watch, until it ends.
    async fn watch(&self, mut version: String, pause: &mut Backoff) -> Ended {
        let seconds = WATCH_SECONDS + self.env.rng.below(WATCH_SECONDS);
        let mut stream = match self.api.watch(&self.params, &version, seconds).await {
            Ok(stream) => stream,
            Err(error) => return self.ended(version, &error),
        };
        loop {
            let change = match stream.next().await {
                Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    version = meta::resource_version(&object).to_owned();
                    self.lister.put(without_managed_fields(object))
                }
                Ok(Some(WatchEvent::Deleted(object))) => {
                    version = meta::resource_version(&object).to_owned();
                    self.lister.remove(&without_managed_fields(object))
                }
                Ok(Some(WatchEvent::Bookmark { resource_version, .. })) => {
                    version = resource_version;
                    None
                }
                Ok(None) => return Ended::At(version),
                Err(error) => return self.ended(version, &error),
            };
            pause.reset();
            self.tell(change);
        }
    }

    fn ended(&self, version: String, error: &ClientError) -> Ended {
        let resource = self.api.resource().qualified();
        tracing::debug!(resource, %error, "a watch ended");
        match error {
            // The connection broke or a master is not ready: what was seen so far stays true.
            ClientError::Transport(_) => Ended::At(version),
            ClientError::Api(status) if status.code >= 500 || status.code == 429 => Ended::At(version),
            _ => Ended::Relist,
        }
    }
}

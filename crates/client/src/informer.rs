//! Keeps a copy of the objects of a kind level with the API.

use std::collections::BTreeSet;
use std::time::Duration;

use api_types::{ResourceRef, Value};
use env::{Backoff, Env, Shutdown};
use tokio::sync::watch;

use crate::api::{Api, ListParams};
use crate::cache::{Change, Index, Lister, key_of};
use crate::client::Client;
use crate::error::ClientError;
use crate::object::{Came, Object};
use crate::watch::EventKind;

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
    /// How many objects are kept as trees once they were read so, of those that changed last; the others take a tenth of
    /// the memory, and time whenever they are read.
    pub trees: usize,
    /// Nothing of the objects but their metadata.
    pub metadata_only: bool,
    /// Takes away what nobody here needs. Who changes such an object must not send it whole.
    pub trim: Option<fn(&mut Value)>,
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
    trim: Option<fn(&mut Value)>,
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
            metadata_only: false,
            trim: None,
        }
    }

    /// The informer, not yet running.
    pub fn build(self, env: Env, client: &Client) -> Informer {
        let (synced, seen) = watch::channel(false);
        let api = client.namespaced(self.resource, &self.namespace);
        let params = ListParams {
            label_selector: self.label_selector,
            field_selector: self.field_selector,
            metadata_only: self.metadata_only,
            ..ListParams::default()
        };
        let lister = Lister::new(self.indexes, self.trees, seen);
        Informer { api, params, env, lister, handlers: Vec::new(), synced, trim: self.trim }
    }
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
        let mut version = self.read().await?;
        self.synced.send_replace(true);
        pause.reset();
        loop {
            match self.watch(version, pause).await {
                Ended::At(last) => version = last,
                Ended::Relist => return Ok(()),
            }
            self.env.clock.sleep(pause.next(&self.env.rng)).await;
        }
    }

    /// Reads everything, a page at a time so that never all are trees; the version at which that was so.
    async fn read(&self) -> Result<String, ClientError> {
        let mut params = ListParams { limit: PAGE, ..self.params.clone() };
        let mut seen = BTreeSet::new();
        loop {
            let page = self.api.list_as_it_came(&params).await?;
            for came in page.items {
                let object = self.trimmed(came)?;
                seen.insert(key_of(&object));
                self.tell(self.lister.show(object));
            }
            if page.continue_token.is_empty() {
                self.lister.retain(&seen).into_iter().for_each(|change| self.tell(Some(change)));
                return Ok(page.resource_version);
            }
            params.continue_token = page.continue_token;
        }
    }

    /// An object without what nobody needs.
    fn trimmed(&self, came: Came) -> Result<Object, ClientError> {
        let Some(trim) = self.trim else { return came.object() };
        let mut tree = came.tree()?;
        trim(&mut tree);
        Ok(tree.into())
    }

    /// One watch, until it ends.
    async fn watch(&self, mut version: String, pause: &mut Backoff) -> Ended {
        let seconds = WATCH_SECONDS + self.env.rng.below(WATCH_SECONDS);
        let mut stream = match self.api.watch(&self.params, &version, seconds).await {
            Ok(stream) => stream,
            Err(error) => return self.ended(version, &error),
        };
        loop {
            let event = match stream.next_as_it_came().await {
                Ok(Some((kind, came))) => self.trimmed(came).map(|object| (kind, object)),
                Ok(None) => return Ended::At(version),
                Err(error) => Err(error),
            };
            let (kind, object) = match event {
                Ok(event) => event,
                Err(error) => return self.ended(version, &error),
            };
            version = object.version();
            let change = match kind {
                EventKind::Put { .. } => self.lister.show(object),
                EventKind::Deleted => self.lister.remove(object),
                EventKind::Bookmark => None,
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

//! The server's state, shared by all requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::time;
use env::{Shutdown, TaskGroup};

use crate::admission::{Dynamic, Enabled, Settings, Turns};
use crate::aggregation::Aggregation;
use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::catalog::Catalog;
use crate::config::{ApiServerConfig, MetricsText};
use crate::counters::Counts;
use crate::discovery::Documents;
use crate::flow::{Flow, Room};
use crate::health::Health;
use crate::impersonate::Modes;
use crate::initial::Pieces;
use crate::node_client::NodeClient;
use crate::registry::EventLeases;
use crate::services::Allocator;
use crate::storage::Storage;
use crate::watch::Shared;

/// Everything a request needs.
pub(crate) struct Api {
    pub name: String,
    pub storage: Storage,
    pub shutdown: Shutdown,
    pub tasks: TaskGroup,
    pub authenticator: Authenticator,
    pub authorizer: Arc<Authorizer>,
    pub admission: Settings,
    pub plugins: Enabled,
    pub impersonations: Modes,
    pub dynamic: Dynamic,
    pub aggregation: Aggregation,
    pub allocator: Allocator,
    pub turns: Turns,
    pub documents: Arc<Documents>,
    pub catalog: Catalog,
    pub watched: Shared,
    pub pieces: Arc<Pieces>,
    pub event_leases: EventLeases,
    pub health: Health,
    pub nodes: Option<Arc<NodeClient>>,
    pub metrics: Option<MetricsText>,
    pub counts: Counts,
    /// When the server was built, milliseconds since the epoch.
    pub started: i64,
    /// The flags that it was started with.
    pub flags: BTreeMap<String, String>,
    /// How long a request may take that is not meant to last.
    pub request_timeout: Duration,
    /// How long a watch lasts at least when the client does not say; up to twice so long.
    pub min_request_timeout: Duration,
    pub flow: Flow,
    /// Memory of the lists that are being sent.
    pub room: Room,
    pub audit: Option<Arc<Audit>>,
}

impl Api {
    pub fn new(
        config: &ApiServerConfig,
        storage: Storage,
        authenticator: Authenticator,
        authorizer: Authorizer,
        plugins: Enabled,
        aggregation: Aggregation,
        nodes: Option<Arc<NodeClient>>,
        tasks: TaskGroup,
    ) -> Self {
        let started = storage.env.clock.now().millis();
        Self {
            name: config.name.clone(),
            authorizer: Arc::new(authorizer),
            dynamic: Dynamic::new(&storage),
            impersonations: Modes::new(&storage.env.rng),
            aggregation,
            flow: Flow::new(&storage, storage.env.clock.clone(), config.max_requests),
            room: Room::new(config.list_memory),
            request_timeout: config.request_timeout,
            min_request_timeout: config.min_request_timeout,
            storage,
            shutdown: tasks.shutdown().clone(),
            tasks,
            authenticator,
            admission: Settings {
                not_ready_toleration_seconds: config.default_not_ready_toleration_seconds,
                unreachable_toleration_seconds: config.default_unreachable_toleration_seconds,
            },
            plugins,
            allocator: Allocator::new(config.service_cidr, config.node_ports.clone()),
            turns: Turns::default(),
            documents: Documents::new(),
            catalog: Catalog::default(),
            watched: Shared::default(),
            pieces: Arc::default(),
            event_leases: EventLeases::new(config.event_ttl),
            health: Health::default(),
            nodes,
            metrics: config.metrics.clone(),
            counts: Counts::default(),
            started,
            flags: config.flags.clone(),
            audit: None,
        }
    }

    /// Milliseconds since the epoch.
    pub fn now(&self) -> i64 {
        self.storage.env.clock.now().millis()
    }

    /// Now, as `metav1.Time`.
    pub fn now_text(&self) -> String {
        time::from_millis(self.now())
    }

    /// A new object's uid.
    pub fn new_uid(&self) -> String {
        let mut bytes = [0; 16];
        self.storage.env.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

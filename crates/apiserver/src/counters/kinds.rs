//! What is counted of kinds: requests about them, events that watchers are sent, lists, and writes to the store.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_types::{Resource, table};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::few::Few;
use super::requests::{Asked, Series};
use crate::catalog::Kind;
use crate::storage::Write;

/// Everything that is counted of one kind. What is counted first is made then.
#[derive(Default)]
pub(crate) struct KindCounts {
    requests: Few<Asked, Arc<Series>>,
    watched: OnceLock<Box<Watched>>,
    lists: OnceLock<Box<Lists>>,
    writes: Few<&'static str, Written>,
    /// By subresource, if the kind is deprecated.
    deprecated: Few<&'static str, Gauge>,
}

impl KindCounts {
    /// What is counted of requests that ask the same of the kind.
    pub fn series(&self, kind: &Resource, asked: Asked) -> Arc<Series> {
        self.requests.get(asked, || Arc::new(Series::of(asked, Some(kind)))).clone()
    }

    pub fn watched(&self, kind: &Resource) -> Watched {
        let made = || Box::new(Watched::of(kind));
        Watched::clone(self.watched.get_or_init(made))
    }

    /// A list went through `seen` objects and returned some of them.
    pub fn listed(&self, kind: &Resource, seen: usize, returned: usize) {
        let lists = self.lists.get_or_init(|| Box::new(Lists::of(kind)));
        lists.lists.increment(1);
        lists.fetched.increment(seen as u64);
        lists.evaluated.increment(seen as u64);
        lists.returned.increment(returned as u64);
    }

    /// A deprecated version was asked for, which goes with a release.
    pub fn deprecated(&self, kind: &Resource, subresource: &'static str, removed: &'static str) {
        let made = || {
            let labels = [
                ("group", kind.group.to_string()),
                ("version", kind.version.to_string()),
                ("resource", kind.resource.to_string()),
                ("subresource", subresource.to_owned()),
                ("removed_release", removed.to_owned()),
            ];
            gauge!("apiserver_requested_deprecated_apis", &labels)
        };
        self.deprecated.get(subresource, made).set(1.0);
    }

    /// An object was written, or was not because the store failed.
    pub fn written(&self, kind: &Resource, operation: &'static str, failed: bool, took: Duration) {
        let written = self.writes.get(operation, || Written::of(kind, operation));
        written.took.record(took.as_secs_f64());
        written.all.increment(1);
        if failed {
            written.failed.increment(1);
        }
    }
}

/// What is counted of all kinds: of those of the table here, of those of definitions where they are.
pub(crate) struct AllKinds(Box<[KindCounts]>);

impl Default for AllKinds {
    fn default() -> Self {
        Self(table::resources().iter().map(|_| KindCounts::default()).collect())
    }
}

impl AllKinds {
    pub fn of<'a>(&'a self, kind: &'a Kind) -> &'a KindCounts {
        match kind {
            Kind::BuiltIn(row) => &self.0[table::position(row)],
            Kind::Custom(custom) => &custom.counts,
        }
    }
}

/// Of watches of one kind.
#[derive(Clone)]
pub(crate) struct Watched {
    events: Counter,
    sizes: Histogram,
    initial: Counter,
}

impl Watched {
    fn of(kind: &Resource) -> Self {
        let (group, version, resource) =
            (kind.group.to_string(), kind.version.to_string(), kind.resource.to_string());
        let labels = [("group", group), ("version", version), ("resource", resource)];
        let [group, _, resource] = labels.clone();
        Self {
            events: counter!("apiserver_watch_events_total", &labels),
            sizes: histogram!("apiserver_watch_events_sizes", &labels),
            initial: counter!("apiserver_init_events_total", &[group, resource]),
        }
    }

    /// An event of so many bytes goes to a watcher.
    pub fn sent(&self, bytes: usize) {
        self.events.increment(1);
        self.sizes.record(bytes as f64);
    }

    /// So many objects were there when a watch began.
    pub fn began_with(&self, objects: u64) {
        if objects > 0 {
            self.initial.increment(objects);
        }
    }
}

/// Of lists of one kind.
struct Lists {
    lists: Counter,
    fetched: Counter,
    evaluated: Counter,
    returned: Counter,
}

impl Lists {
    fn of(kind: &Resource) -> Self {
        let [group, resource] = [("group", kind.group.to_string()), ("resource", kind.resource.to_string())];
        // There is no watch cache beside the store, and no index that upstream would have.
        let storage = ("storage", "etcd".to_owned());
        let indexed = [group.clone(), resource.clone(), storage.clone(), ("index", String::new())];
        let plain = [group, resource, storage];
        Self {
            lists: counter!("apiserver_storage_list_total", &indexed),
            fetched: counter!("apiserver_storage_list_fetched_objects_total", &indexed),
            evaluated: counter!("apiserver_storage_list_evaluated_objects_total", &plain),
            returned: counter!("apiserver_storage_list_returned_objects_total", &plain),
        }
    }
}

/// Of one operation with one kind.
struct Written {
    took: Histogram,
    all: Counter,
    failed: Counter,
}

impl Written {
    fn of(kind: &Resource, operation: &'static str) -> Self {
        let labels = [
            ("operation", operation.to_owned()),
            ("group", kind.storage_group.to_string()),
            ("resource", kind.resource.to_string()),
        ];
        Self {
            took: histogram!("etcd_request_duration_seconds", &labels),
            all: counter!("etcd_requests_total", &labels),
            failed: counter!("etcd_request_errors_total", &labels),
        }
    }
}

/// What upstream calls a write.
pub(crate) fn operation(write: &Write) -> &'static str {
    match (&write.value, write.expected) {
        (None, _) => "delete",
        (Some(_), 0) => "create",
        (Some(_), _) => "update",
    }
}

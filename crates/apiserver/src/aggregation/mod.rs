//! Aggregated API servers: an APIService that names a service has the requests of its group and version passed on to it
//! (upstream: `kube-aggregator`).
//!
//! Which groups and versions these are follows from the stored APIServices ([`Aggregation`]). `proxy.rs` passes requests
//! on, `remote.rs` is how a server is reached and asked in this server's own name, `probe.rs` says whether it serves,
//! `discovery.rs` and `openapi.rs` hold what it serves, and `follow.rs` asks for that again and again.

mod discovery;
mod follow;
mod identity;
mod openapi;
mod probe;
mod proxy;
mod remote;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use api_rules::look::Look;
use api_types::definition::compare_versions;
use api_types::{Value, codec, meta, table};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mvcc::{KeyRange, KeyValue};
use parking_lot::Mutex;

pub(crate) use discovery::RemoteVersion;
pub(crate) use follow::keep;
pub(crate) use identity::keep_identity;
pub(crate) use openapi::Parts;
pub(crate) use probe::probe;
pub(crate) use remote::Remote;

use crate::config::{AggregationConfig, ProxyClient};
use crate::derived::Derived;
use crate::storage::{self, Storage, View};
use identity::Identity;
use remote::Trust;

/// The group of the APIServices, which has none itself.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// Where an APIService without a port is asked.
const DEFAULT_PORT: u64 = 443;

/// See the module.
pub(crate) struct Aggregation {
    services: Derived<ApiServices>,
    /// What this server shows to those that it passes requests on to.
    identity: Identity,
    settings: AggregationConfig,
    discovery: discovery::Documents,
    openapi: openapi::Documents,
    /// Names of the APIServices whose servers are followed.
    followed: Mutex<HashSet<String>>,
}

/// The stored APIServices, by name.
#[derive(Default)]
pub(crate) struct ApiServices {
    list: Vec<Arc<ApiService>>,
}

/// An APIService.
pub(crate) struct ApiService {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// Who serves it; none: this server.
    pub remote: Option<Remote>,
    revision: i64,
}

fn prefix() -> &'static str {
    let kind = table::find(GROUP, "v1", "apiservices");
    kind.expect("invariant: the table of kinds holds APIService").storage_prefix.as_str()
}

/// Whose a path is: below `/api` everything is v1's.
fn group_version(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next()? {
        "api" => Some(("", "v1")),
        "apis" => Some((parts.next()?, parts.next()?)),
        _ => None,
    }
}

impl Aggregation {
    /// # Errors
    /// The proxy's certificate cannot be used.
    pub fn new(
        storage: &Storage,
        identity: Option<ProxyClient>,
        settings: AggregationConfig,
    ) -> Result<Self, String> {
        let services = Derived::new(storage, [KeyRange::prefix(prefix())], ApiServices::read);
        Ok(Self {
            services,
            identity: Identity::new(identity)?,
            settings,
            discovery: discovery::Documents::default(),
            openapi: openapi::Documents::default(),
            followed: Mutex::default(),
        })
    }

    /// The APIService that a path belongs to.
    pub fn of_path(&self, view: &View, path: &str) -> Option<Arc<ApiService>> {
        if let Some((group, version)) = group_version(path) {
            return self.services.at(view).of(group, version).cloned();
        }
        // Its document of OpenAPI is its server's too.
        let (group, version) = group_version(path.strip_prefix("/openapi/v3")?)?;
        let found = self.services.at(view).of(group, version).cloned()?;
        (found.remote.is_some() && self.openapi.has_v3(&found.name)).then_some(found)
    }

    /// The names of all APIServices, and whether each is available.
    pub fn availability(&self, view: &View) -> Vec<(String, bool)> {
        let all = self.services.at(view);
        let is_available = |service: &ApiService| service.remote.as_ref().is_none_or(|one| one.is_available);
        all.list.iter().map(|service| (service.name.clone(), is_available(service))).collect()
    }

    /// The APIServices that others serve.
    fn remotes(&self, view: &View) -> Vec<Arc<ApiService>> {
        self.services.at(view).list.iter().filter(|service| service.remote.is_some()).cloned().collect()
    }
}

impl ApiServices {
    fn read(view: &View, old: &Self) -> Option<Self> {
        let mut list = Vec::new();
        for kv in storage::each(view, &KeyRange::prefix(prefix())) {
            let kv = kv.ok()?;
            let name = String::from_utf8_lossy(&kv.key[prefix().len()..]).into_owned();
            let known = old.find(&name);
            list.extend(match known.filter(|known| known.revision == kv.mod_revision) {
                Some(known) => Some(known.clone()),
                None => ApiService::read(&kv, known.map(Arc::as_ref)).map(Arc::new),
            });
        }
        Some(Self { list })
    }

    /// Of a group and version: its name is `<version>.<group>`.
    fn of(&self, group: &str, version: &str) -> Option<&Arc<ApiService>> {
        let name = || version.bytes().chain(*b".").chain(group.bytes());
        let at = self.list.binary_search_by(|service| service.name.bytes().cmp(name())).ok()?;
        self.list.get(at)
    }

    /// They lie in the order of their names.
    fn find(&self, name: &str) -> Option<&Arc<ApiService>> {
        let at = self.list.binary_search_by(|service| service.name.as_str().cmp(name)).ok()?;
        self.list.get(at)
    }
}

impl ApiService {
    /// Reads a stored APIService. `old`: as it was, whose connector may still do.
    fn read(kv: &KeyValue, old: Option<&Self>) -> Option<Self> {
        let value = codec::from_stored(&kv.value, kv.mod_revision).ok()?;
        let old = old.and_then(|old| old.remote.as_ref()).map(|remote| &remote.trust);
        Some(Self::of(&value, kv.mod_revision, old))
    }

    fn of(value: &Value, revision: i64, trust: Option<&Arc<Trust>>) -> Self {
        let spec = value.at("spec");
        Self {
            name: meta::name(value).to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            group_priority: spec.int("groupPriorityMinimum"),
            version_priority: spec.int("versionPriority"),
            remote: spec.has("service").then(|| remote_of(value, trust)),
            revision,
        }
    }

    /// Where it is served.
    fn path(&self) -> String {
        format!("/{}", api_types::openapi::path_of(&self.group, &self.version))
    }
}

fn remote_of(value: &Value, trust: Option<&Arc<Trust>>) -> Remote {
    let spec = value.at("spec");
    let service = spec.at("service");
    let bundle = STANDARD.decode(spec.text("caBundle")).unwrap_or_default();
    let trust = match trust.filter(|old| old.is(&bundle, spec.flag("insecureSkipTLSVerify"))) {
        Some(old) => old.clone(),
        None => Arc::new(Trust::new(bundle, spec.flag("insecureSkipTLSVerify"))),
    };
    let port = service["port"].as_u64().unwrap_or(DEFAULT_PORT);
    Remote {
        namespace: service.text("namespace").to_owned(),
        service: service.text("name").to_owned(),
        port: u16::try_from(port).unwrap_or_default(),
        is_available: is_available(value),
        trust,
    }
}

fn is_available(service: &Value) -> bool {
    let mut conditions = service.items("status.conditions").iter();
    conditions.any(|one| one.text("type") == "Available" && one.text("status") == "True")
}

/// The order of versions in a group: by priority, then as `v2`, `v1`, `v1beta1` (upstream: `ByVersionPriority`).
pub(crate) fn by_version_priority(a: (i64, &str), b: (i64, &str)) -> Ordering {
    b.0.cmp(&a.0).then_with(|| compare_versions(a.1, b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_belong_to_groups_and_versions() {
        assert_eq!(group_version("/apis/metrics.k8s.io/v1/nodes"), Some(("metrics.k8s.io", "v1")));
        assert_eq!(group_version("/apis/metrics.k8s.io/v1/"), Some(("metrics.k8s.io", "v1")));
        assert_eq!(group_version("/api/v1/pods"), Some(("", "v1")));
        for path in ["/apis/metrics.k8s.io", "/apis", "/healthz", "/"] {
            assert_eq!(group_version(path), None, "{path}");
        }
    }

    #[test]
    fn an_api_service_says_who_serves() {
        let mut value = json!({"metadata": {"name": "v1.metrics.k8s.io"}, "spec": {"group": "metrics.k8s.io", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10}});
        let local = ApiService::of(&value, 1, None);
        assert!(local.remote.is_none());
        assert_eq!((local.path().as_str(), local.group_priority), ("/apis/metrics.k8s.io/v1", 100));
        value["spec"]["service"] = json!({"namespace": "a", "name": "b"});
        let first = ApiService::of(&value, 2, None).remote.unwrap();
        assert_eq!((first.port, first.server().as_str(), first.is_available), (443, "b.a.svc", false));
        value["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
        let second = ApiService::of(&value, 3, Some(&first.trust)).remote.unwrap();
        assert!(second.is_available && Arc::ptr_eq(&first.trust, &second.trust));
        value["spec"]["insecureSkipTLSVerify"] = json!(true);
        let third = ApiService::of(&value, 4, Some(&second.trust)).remote.unwrap();
        assert!(!Arc::ptr_eq(&second.trust, &third.trust));
    }
}

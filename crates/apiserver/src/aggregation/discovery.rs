//! What aggregated servers serve: each is asked again and again, and what it said last is what discovery lists. Of one
//! that cannot be asked its group and version are listed, marked stale (upstream: `handler_discovery.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api_rules::look::Look;
use api_types::{Value, codec, schema};
use http::header;
use parking_lot::Mutex;
use serde_json::{Map, json};

use super::probe::aggregator;
use super::remote::Question;
use super::{Aggregation, ApiService, Remote};
use crate::api::Api;
use crate::negotiate;
use crate::storage::View;
use crate::user::UserInfo;

const GROUP: &str = "apidiscovery.k8s.io";
const KIND: &str = "APIGroupDiscoveryList";
/// How long an answer may take (upstream's).
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most.
const MAX_BYTES: usize = 4 << 20;

/// What is known of the servers, by the names of their APIServices.
#[derive(Default)]
pub(super) struct Documents {
    known: Mutex<HashMap<String, Known>>,
    /// Rises when something of it changes.
    generation: AtomicU64,
}

/// What one server said last.
#[derive(Clone, Default, PartialEq)]
struct Known {
    /// An `APIVersionDiscovery` without its freshness; none when the server did not say it.
    document: Option<Arc<Value>>,
    etag: String,
}

/// A group and version that another server serves, as discovery lists it.
pub(crate) struct RemoteVersion {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// An `APIVersionDiscovery`.
    pub document: Value,
}

impl Documents {
    pub fn forget(&self, name: &str) {
        self.set(name, None);
    }

    fn set(&self, name: &str, known: Option<Known>) {
        let mut all = self.known.lock();
        let changed = match known {
            Some(known) if all.get(name) == Some(&known) => false,
            Some(known) => {
                all.insert(name.to_owned(), known);
                true
            }
            None => all.remove(name).is_some(),
        };
        if changed {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn get(&self, name: &str) -> Known {
        self.known.lock().get(name).cloned().unwrap_or_default()
    }
}

impl Aggregation {
    /// What tells that which discovery lists of other servers from what it lists otherwise.
    pub fn fingerprint(&self, view: &View) -> String {
        let generation = self.discovery.generation.load(Ordering::Relaxed);
        let each = |service: &Arc<ApiService>| {
            format!("{}@{}.{};", service.name, service.group_priority, service.version_priority)
        };
        let all: String = self.remotes(view).iter().map(each).collect();
        if all.is_empty() { all } else { format!("{generation};{all}") }
    }

    /// The groups and versions that other servers serve.
    pub fn versions(&self, view: &View) -> Vec<RemoteVersion> {
        let listed = |service: Arc<ApiService>| {
            let known = self.discovery.get(&service.name).document;
            let mut document =
                known.as_deref().cloned().unwrap_or_else(|| json!({"version": service.version}));
            document["freshness"] = if known.is_some() { "Current" } else { "Stale" }.into();
            RemoteVersion {
                group: service.group.clone(),
                version: service.version.clone(),
                group_priority: service.group_priority,
                version_priority: service.version_priority,
                document,
            }
        };
        self.remotes(view).into_iter().map(listed).collect()
    }
}

/// Asks the server of an APIService, and notes what it says; whether it said it.
pub(super) async fn refresh(api: &Api, service: &ApiService, remote: &Remote) -> bool {
    let found = ask(api, service, remote).await;
    if let Err(error) = &found {
        tracing::debug!(service = service.name, error, "an aggregated server does not say what it serves");
    }
    let is_known = found.is_ok();
    api.aggregation.discovery.set(&service.name, Some(found.unwrap_or_default()));
    is_known
}

/// What a server serves of an APIService's group and version.
async fn ask(api: &Api, service: &ApiService, remote: &Remote) -> Result<Known, String> {
    let old = api.aggregation.discovery.get(&service.name);
    let user = aggregator();
    let question = Question {
        path: "/apis",
        accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        known: &old.etag,
        user: &user,
        timeout: TIMEOUT,
        limit: MAX_BYTES,
    };
    let answer = remote.get(api, &question).await?;
    match answer.code {
        304 if old.document.is_some() => Ok(old),
        503 => Err("the service returned non-success response code: 503".to_owned()),
        200 if is_aggregated(answer.header(header::CONTENT_TYPE)) => {
            let all: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            let document = find(&all, &service.group, &service.version)?;
            Ok(Known { document: Some(document.into()), etag: answer.header(header::ETAG).to_owned() })
        }
        _ => ask_as_before(api, service, remote).await,
    }
}

/// The same of a server that knows discovery only as it always was.
async fn ask_as_before(api: &Api, service: &ApiService, remote: &Remote) -> Result<Known, String> {
    let user = UserInfo { name: aggregator().name, ..UserInfo::default() };
    let path = service.path();
    let question = Question {
        path: &path,
        accept: negotiate::JSON,
        known: "",
        user: &user,
        timeout: TIMEOUT,
        limit: MAX_BYTES,
    };
    let answer = remote.get(api, &question).await?;
    if answer.code != 200 {
        return Err(format!("failed to download legacy discovery for {path}: {}", answer.code));
    }
    let list: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let document = checked(&json!({"items": [{"versions": [converted(&list, service)]}]}))?;
    let document = document["items"][0]["versions"][0].clone();
    Ok(Known { document: Some(document.into()), etag: String::new() })
}

fn is_aggregated(content_type: &str) -> bool {
    let has = |wanted: &str| content_type.split(';').any(|part| part.trim() == wanted);
    negotiate::media_type(content_type) == negotiate::JSON
        && has("g=apidiscovery.k8s.io")
        && has("v=v2")
        && has("as=APIGroupDiscoveryList")
}

/// A document of the form that it must have, without what does not belong into it.
fn checked(document: &Value) -> Result<Value, String> {
    if codec::is_too_deep(document) {
        return Err(codec::CodecError::TooDeep.to_string());
    }
    let message = schema::lookup(GROUP, "v2", KIND).ok_or_else(|| format!("no message {KIND}"))?;
    codec::normalize(message, document).map_err(|error| error.to_string())
}

/// What a document says of a group and version. One that it leaves out has nothing.
fn find(document: &Value, group: &str, version: &str) -> Result<Value, String> {
    let document = checked(document)?;
    let groups = document.items("items").iter().filter(|one| one.text("metadata.name") == group);
    let mut versions =
        groups.flat_map(|one| one.items("versions")).filter(|one| one.text("version") == version);
    let mut found = versions.next().cloned().unwrap_or_else(|| json!({"version": version}));
    if let Some(map) = found.as_object_mut() {
        map.remove("freshness");
    }
    for resource in api_rules::look::items_mut(&mut found, "resources").into_iter().flatten() {
        with_kind(resource);
        for sub in api_rules::look::items_mut(resource, "subresources").into_iter().flatten() {
            with_kind(sub);
        }
    }
    Ok(found)
}

/// Older clients cannot bear that there is none.
fn with_kind(resource: &mut Value) {
    if !resource.has("responseKind") {
        resource["responseKind"] = json!({"group": "", "version": "", "kind": ""});
    }
}

/// An `APIResourceList` as an `APIVersionDiscovery` (upstream: `ConvertGroupVersionIntoToDiscovery`).
fn converted(list: &Value, service: &ApiService) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    for given in list.items("resources") {
        let name = given.text("name");
        let (parent, sub) = name.split_once('/').unwrap_or((name, ""));
        let at = resources.iter().position(|known| known.text("resource") == parent);
        let at = at.unwrap_or_else(|| {
            let scope = if given.flag("namespaced") { "Namespaced" } else { "Cluster" };
            resources.push(json!({"resource": parent, "scope": scope, "responseKind": kind_of(&Value::Null, service), "verbs": []}));
            resources.len() - 1
        });
        let entry = &mut resources[at];
        match sub {
            "" => fill(entry, given, service),
            sub => {
                let value = json!({"subresource": sub, "responseKind": kind_of(given, service), "verbs": given["verbs"]});
                match api_rules::look::items_mut(entry, "subresources") {
                    Some(list) => list.push(value),
                    None => entry["subresources"] = json!([value]),
                }
            }
        }
    }
    json!({"version": service.version, "resources": resources})
}

fn kind_of(given: &Value, service: &ApiService) -> Value {
    let or = |field: &str, other: &str| match given.text(field) {
        "" => other.to_owned(),
        own => own.to_owned(),
    };
    json!({"group": or("group", &service.group), "version": or("version", &service.version), "kind": given.text("kind")})
}

fn fill(entry: &mut Value, given: &Value, service: &ApiService) {
    let Some(map): Option<&mut Map<String, Value>> = entry.as_object_mut() else { return };
    map.insert("scope".into(), if given.flag("namespaced") { "Namespaced" } else { "Cluster" }.into());
    map.insert("responseKind".into(), kind_of(given, service));
    for (ours, theirs) in [
        ("singularResource", "singularName"),
        ("verbs", "verbs"),
        ("shortNames", "shortNames"),
        ("categories", "categories"),
    ] {
        if given.has(theirs) {
            map.insert(ours.into(), given[theirs].clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ApiService {
        let value = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1"}});
        ApiService::of(&value, 1, None)
    }

    #[test]
    fn older_servers_are_understood() {
        let list = json!({"groupVersion": "a.b/v1", "resources": [
            {"name": "things/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"], "shortNames": ["th"]},
        ]});
        assert_eq!(
            converted(&list, &service()),
            json!({"version": "v1", "resources": [{
                "resource": "things", "singularResource": "thing", "scope": "Namespaced", "verbs": ["get", "list"],
                "shortNames": ["th"], "responseKind": {"group": "a.b", "version": "v1", "kind": "Thing"},
                "subresources": [{"subresource": "scale", "verbs": ["get"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
            }]})
        );
        assert_eq!(converted(&json!({"resources": 5}), &service())["resources"], json!([]));
    }

    #[test]
    fn what_a_server_says_is_checked() {
        let resource = json!({"resource": "things", "scope": "Namespaced", "verbs": ["get"], "extra": 1});
        let document = json!({"items": [{"metadata": {"name": "a.b"}, "versions": [
            {"version": "v1", "resources": [resource], "freshness": "Stale"}, {"version": "v2"}]}]});
        let found = find(&document, "a.b", "v1").unwrap();
        assert_eq!(found["resources"][0]["responseKind"]["kind"], "");
        assert!(found["resources"][0].get("extra").is_none() && found.get("freshness").is_none());
        assert_eq!(find(&document, "a.b", "v3").unwrap(), json!({"version": "v3"}));
        for bad in [json!({"items": 5}), json!({"items": [{"versions": [{"version": {}}]}]}), json!([])] {
            assert!(find(&bad, "a.b", "v1").is_err(), "{bad}");
        }
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json"));
    }
}

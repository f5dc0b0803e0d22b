//! Who may do what: `system:masters` everything, nodes what their pods need, everyone else what RBAC grants.
//!
//! The policy is decoded from the stored roles and bindings, and brought up to the view's revision before each
//! decision that follows a change.

mod node;
mod policy;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::storage::{Storage, View, Watcher};
use api_types::selector::FieldSelector;
use api_types::status::Status;
use arc_swap::ArcSwap;
use bytes::Bytes;
use mvcc::{EventKind, KeyRange};
use parking_lot::Mutex;
use store::WatchRequest;

pub(crate) use policy::{Policy, Rule};

use crate::info::{Query, RequestInfo};
use crate::storage;
use crate::user::{MASTERS, UserInfo};

/// What is to be decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Set for what is no resource.
    pub path: Option<&'a str>,
    pub fields: FieldSelector,
}

impl<'a> Ask<'a> {
    /// What a request must be allowed to do.
    pub fn of(info: &'a RequestInfo, query: &Query) -> Self {
        if !info.is_resource {
            return Self { verb: info.verb, path: Some(&info.path), ..Self::default() };
        }
        Self {
            verb: info.verb,
            group: &info.group,

            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: None,
            fields: FieldSelector::parse(query.get("fieldSelector")).unwrap_or_default(),
        }
    }

    /// `pods/log`.
    pub fn full_resource(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }

    /// 403 in upstream's words.
    pub fn forbidden(&self, user: &UserInfo) -> Status {
        let name = api_types::field::quote(&user.name);
        if let Some(path) = self.path {
            let why = format!("User {name} cannot {} path {}", self.verb, api_types::field::quote(path));
            return Status::forbidden("", "", "", &why);
        }
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let why = format!(
            "User {name} cannot {} resource \"{}\" in API group \"{}\" {place}",
            self.verb,
            self.full_resource(),
            self.group
        );
        Status::forbidden(self.group, self.resource, self.name, &why)
    }
}

/// Decides, from stored policy.
pub(crate) struct Authorizer {
    storage: Storage,
    policy: ArcSwap<Policy>,
    seen: AtomicI64,
    watchers: Mutex<Vec<Watcher>>,
}

/// Keys of cluster roles and their bindings, and of roles and theirs, are neighbours.
const RANGES: [(&str, &str); 2] = [
    ("/registry/clusterrolebindings/", "/registry/clusterroles0"),
    ("/registry/rolebindings/", "/registry/roles0"),
];

fn ranges() -> impl Iterator<Item = KeyRange> {
    RANGES.into_iter().map(|(start, end)| KeyRange::Interval {
        start: Bytes::from_static(start.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
    })
}

impl Authorizer {
    pub fn new(storage: &Storage) -> Self {
        Self {
            storage: storage.clone(),
            policy: ArcSwap::default(),
            seen: AtomicI64::new(-1),
            watchers: Mutex::default(),
        }
    }

    /// Whether `user` may do what is asked.
    pub fn allows(&self, view: &View, user: &UserInfo, ask: &Ask<'_>) -> bool {
        if user.is_in(MASTERS) {
            return true;
        }
        let policy = self.policy(view);
        if let Some(name) = user.node()
            && node::allows(view, &policy, name, ask)
        {
            return true;
        }
        policy.allows(user, ask)
    }

    /// Why a user may do what is asked, for the audit log; nothing where upstream says nothing.
    pub fn reason(&self, view: &View, user: &UserInfo, ask: &Ask<'_>) -> String {
        if user.is_in(MASTERS) {
            return String::new();
        }
        let policy = self.policy(view);
        match user.node().is_some_and(|name| node::allows(view, &policy, name, ask)) {
            true => String::new(),
            false => policy.reason(user, ask).map(|by| format!("RBAC: allowed by {by}")).unwrap_or_default(),
        }
    }

    /// The policy at the view's revision or newer.
    pub fn policy(&self, view: &View) -> Arc<Policy> {
        if self.seen.load(Ordering::Acquire) < view.revision() {
            self.catch_up();
        }
        self.policy.load_full()
    }

    fn catch_up(&self) {
        let mut watchers = self.watchers.lock();
        let mut changes = Vec::new();
        let mut broken = watchers.is_empty();
        let mut reached = i64::MAX;
        for watcher in watchers.iter_mut() {
            match watcher.poll() {
                Ok(batch) => changes.extend(batch.events),
                Err(_) => broken = true,
            }
            reached = reached.min(watcher.progress());
        }
        if broken {
            reached = self.reload(&mut watchers);
        } else if !changes.is_empty() {
            let mut policy = Policy::clone(&self.policy.load());
            for event in changes {
                let value = (event.kind == EventKind::Put).then_some(&event.kv.value);
                policy.apply(&event.kv.key, value.map(Bytes::as_ref));
            }
            self.policy.store(Arc::new(policy));
        }
        self.seen.store(reached, Ordering::Release);
    }

    fn reload(&self, watchers: &mut Vec<Watcher>) -> i64 {
        let view = self.storage.view();
        let mut policy = Policy::default();
        for range in ranges() {
            for kv in storage::each(&view, &range) {
                // The policy stays as it was, until this one can be read.
                let Ok(kv) = kv else { return -1 };
                policy.apply(&kv.key, Some(&kv.value));
            }
        }
        self.policy.store(Arc::new(policy));
        let start_revision = view.revision() + 1;
        *watchers =
            ranges().map(|range| self.storage.watch(WatchRequest { range, start_revision })).collect();
        view.revision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = UserInfo::new("jane", &[]);
        let ask = Ask { verb: "list", resource: "secrets", namespace: "accept", ..Ask::default() };
        assert_eq!(
            ask.forbidden(&user).message,
            "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"accept\""
        );
        let ask = Ask { verb: "get", path: Some("/metrics"), ..Ask::default() };
        assert_eq!(ask.forbidden(&user).message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}

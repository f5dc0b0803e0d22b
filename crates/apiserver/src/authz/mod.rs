//! Who may do what: `system:masters` everything, and everyone what those say who are asked one after the other until one
//! decides: nodes may do what their pods need, RBAC grants, a server that is asked allows or denies.
//!
//! The policy is decoded from the stored roles and bindings, and brought up to the view's revision before each
//! decision that follows a change.

mod abac;
mod config;
mod node;
mod policy;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_types::selector::{FieldSelector, LabelSelector};
use api_types::status::Status;
use arc_swap::ArcSwap;
use bytes::Bytes;
use env::TaskGroup;
use metrics::{Counter, counter};
use mvcc::{EventKind, KeyRange};
use store::SharedEvent;
use tokio::runtime::{Handle, RuntimeFlavor};

pub use config::AuthorizationConfig;
pub(crate) use policy::{Policy, Rule};

use crate::api::Api;
use crate::config_file;
use crate::derived::Derived;
use crate::info::{Query, RequestInfo};
use crate::storage::{self, Storage, View};
use crate::user::{MASTERS, UserInfo};

/// What is to be decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Set for what is no resource.
    pub path: Option<&'a str>,
    /// Which objects are asked for, as far as it can be read: what cannot be counts as all of them.
    pub fields: FieldSelector,
    pub labels: LabelSelector,
}

impl<'a> Ask<'a> {
    /// What a request must be allowed to do.
    pub fn of(info: &'a RequestInfo, query: &Query) -> Self {
        if !info.is_resource {
            return Self { verb: info.verb, path: Some(&info.path), ..Self::default() };
        }
        let selects = matches!(info.verb, "list" | "watch" | "deletecollection");
        let selector = |name: &str| if selects { query.get(name).to_owned() } else { String::new() };
        Self {
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: None,
            fields: FieldSelector::parse(&selector("fieldSelector")).unwrap_or_default(),
            labels: LabelSelector::parse(&selector("labelSelector")).unwrap_or_default(),
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
    pub fn forbidden(&self, user: &UserInfo, reason: &str) -> Status {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let name = api_types::field::quote(&user.name);
        if let Some(path) = self.path {
            let path = api_types::field::quote(path);
            let why = format!("User {name} cannot {} path {path}{reason}", self.verb);
            return Status::forbidden("", "", "", &why);
        }
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let why = format!(
            "User {name} cannot {} resource \"{}\" in API group \"{}\" {place}{reason}",
            self.verb,
            self.full_resource(),
            self.group
        );
        Status::forbidden(self.group, self.resource, self.name, &why)
    }
}

/// What one says to a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Deny,
    /// Others may say; if nobody does, it is refused.
    #[default]
    NoOpinion,
}

/// What was decided, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    pub verdict: Verdict,
    pub reason: String,
    /// What went wrong; it counts unless the verdict is to allow.
    pub error: Option<String>,
    /// RBAC allowed it, and can tell by which binding.
    by_rbac: bool,
}

impl Decision {
    pub fn allow() -> Self {
        Self { verdict: Verdict::Allow, ..Self::default() }
    }

    pub fn allows(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// How upstream counts it.
    pub fn result(&self) -> &'static str {
        match (self.verdict, &self.error) {
            (Verdict::Allow, _) => "allowed",
            (_, Some(_)) => "error",
            (Verdict::Deny, None) => "denied",
            (Verdict::NoOpinion, None) => "no-opinion",
        }
    }

    /// # Errors
    /// 403 in upstream's words, whatever kept somebody from saying yes.
    pub fn check(&self, ask: &Ask<'_>, user: &UserInfo) -> Result<(), Status> {
        if self.allows() { Ok(()) } else { Err(ask.forbidden(user, &self.reason)) }
    }
}

/// Decides: by stored policy, and by asking others.
pub(crate) struct Authorizer {
    storage: Storage,
    policy: Derived<Policy>,
    chain: ArcSwap<Chain>,
    /// What the chain is read from, and kinds of it that were there at the start.
    file: Option<PathBuf>,
    from_start: Vec<&'static str>,
    policies: Option<Arc<abac::Policies>>,
    /// Before the second try to ask a server.
    wait: Duration,
    tasks: TaskGroup,
}

/// Those who are asked, in their order.
struct Chain {
    /// The file's.
    text: Vec<u8>,
    links: Vec<(String, Link, Decisions)>,
}

/// How often one decided (upstream: `apiserver/pkg/authorization/metrics`).
struct Decisions {
    allowed: Counter,
    denied: Counter,
}

impl Decisions {
    fn of(kind: &str, name: &str) -> Self {
        let count = |decision: &'static str| {
            counter!(
                "apiserver_authorization_decisions_total",
                "type" => kind.to_owned(), "name" => name.to_owned(), "decision" => decision
            )
        };
        Self { allowed: count("allowed"), denied: count("denied") }
    }

    fn note(&self, verdict: Verdict) {
        match verdict {
            Verdict::Allow => self.allowed.increment(1),
            Verdict::Deny => self.denied.increment(1),
            Verdict::NoOpinion => {}
        }
    }
}

enum Link {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Abac(Arc<abac::Policies>),
    Webhook(Box<webhook::Webhook>),
}

/// What was said so far.
#[derive(Default)]
struct Said {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Said {
    /// The decision, once one has decided.
    fn take(&mut self, name: &str, decision: Decision) -> Option<Decision> {
        if decision.verdict != Verdict::NoOpinion {
            return Some(decision);
        }
        if !decision.reason.is_empty() {
            self.reasons.push(format!("{name}: {}", decision.reason));
        }
        self.errors.extend(decision.error);
        None
    }

    /// Nobody has decided.
    fn end(self) -> Decision {
        let error = match self.errors.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("[{}]", many.join(", "))),
        };
        Decision { reason: self.reasons.join("\n"), error, ..Decision::default() }
    }
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

fn read(view: &View, _: &Policy) -> Option<Policy> {
    let mut policy = Policy::default();
    for range in ranges() {
        for kv in storage::each(view, &range) {
            let kv = kv.ok()?;
            policy.apply(&kv.key, Some(&kv.value));
        }
    }
    Some(policy)
}

fn step(policy: &Policy, events: &[Arc<SharedEvent>]) -> Policy {
    let mut policy = policy.clone();
    for event in events {
        let value = (event.kind == EventKind::Put).then_some(&event.kv.value);
        policy.apply(&event.kv.key, value.map(Bytes::as_ref));
    }
    policy
}

impl Authorizer {
    /// `wait`: before the second try to ask a server; `tasks` get the connections.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(
        storage: &Storage,
        config: &AuthorizationConfig,
        wait: Duration,
        tasks: &TaskGroup,
    ) -> Result<Self, String> {
        let (named, text) = config.read()?;
        let by_policies = named.iter().any(|one| matches!(one.kind, config::Kind::Abac));
        let file = config.policy_file.clone().unwrap_or_default();
        let policies = by_policies.then(|| abac::Policies::load(&file).map(Arc::new)).transpose()?;
        let authorizer = Self {
            storage: storage.clone(),
            policy: Derived::new(storage, ranges(), read).stepping(step),
            chain: ArcSwap::from_pointee(Chain { text: Vec::new(), links: Vec::new() }),
            file: config.file.clone(),
            from_start: named.iter().map(|one| one.kind.text()).filter(|kind| *kind != "Webhook").collect(),
            policies,
            wait,
            tasks: tasks.clone(),
        };
        authorizer.chain.store(Arc::new(authorizer.build(named, text)?));
        Ok(authorizer)
    }

    fn build(&self, named: Vec<config::Named>, text: Vec<u8>) -> Result<Chain, String> {
        let env = &self.storage.env;
        let link = |one: config::Named| {
            let decisions = Decisions::of(one.kind.text(), &one.name);
            let link = match one.kind {
                config::Kind::Node => Link::Node,
                config::Kind::Rbac => Link::Rbac,
                config::Kind::AlwaysAllow => Link::AlwaysAllow,
                config::Kind::AlwaysDeny => Link::AlwaysDeny,
                config::Kind::Abac => Link::Abac(self.policies.clone().ok_or_else(|| late("ABAC"))?),
                config::Kind::Webhook(settings) => {
                    let webhook = webhook::Webhook::new(settings, self.wait, env, &self.tasks)?;
                    Link::Webhook(Box::new(webhook))
                }
            };
            Ok((one.name, link, decisions))
        };
        Ok(Chain { text, links: named.into_iter().map(link).collect::<Result<_, String>>()? })
    }

    /// Follows the file: what it says when it can be used replaces what was.
    pub async fn keep(&self, api: &Api, interval: Duration) {
        let Some(file) = &self.file else { return };
        let is_known = |text: &[u8]| text == self.chain.load().text;
        let take = |text: Vec<u8>| {
            let named = config::read(&text)?;
            self.check_kinds(&named)?;
            self.chain.store(Arc::new(self.build(named, text)?));
            Ok(())
        };
        config_file::follow(&api.storage.env.clock, "authorization", file, interval, is_known, take).await;
    }

    /// Webhooks come and go; everyone else stays, and nobody who needs what only a start makes comes.
    fn check_kinds(&self, named: &[config::Named]) -> Result<(), String> {
        let kinds: Vec<&str> = named.iter().map(|one| one.kind.text()).collect();
        let mut missing: Vec<&str> =
            self.from_start.iter().copied().filter(|kind| !kinds.contains(kind)).collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        let is_late = |kind: &&&str| matches!(**kind, "Node" | "RBAC") && !self.from_start.contains(*kind);
        kinds.iter().find(is_late).map_or(Ok(()), |kind| Err(late(kind)))
    }

    /// What is decided.
    pub async fn decide(&self, view: &View, user: &UserInfo, ask: &Ask<'_>) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::allow();
        }
        let (chain, mut said) = (self.chain.load_full(), Said::default());
        for (name, link, decisions) in &chain.links {
            let decision = match link {
                Link::Webhook(webhook) => webhook.decide(user, ask).await,
                local => self.by_itself(local, view, user, ask),
            };
            decisions.note(decision.verdict);
            if let Some(decided) = said.take(name, decision) {
                return decided;
            }
        }
        said.end()
    }

    /// The same without waiting; none when a server must be asked.
    fn decide_now(&self, view: &View, user: &UserInfo, ask: &Ask<'_>) -> Option<Decision> {
        if user.is_in(MASTERS) {
            return Some(Decision::allow());
        }
        let (chain, mut said) = (self.chain.load_full(), Said::default());
        for (name, link, decisions) in &chain.links {
            let decision = match link {
                Link::Webhook(webhook) => webhook.decide_now(user, ask)?,
                local => self.by_itself(local, view, user, ask),
            };
            decisions.note(decision.verdict);
            if let Some(decided) = said.take(name, decision) {
                return Some(decided);
            }
        }
        Some(said.end())
    }

    /// Whether `user` may do what is asked, for those who cannot wait: admission, and expressions. If a server must be
    /// asked, this thread waits for it, and its other tasks go on elsewhere.
    pub fn allows(&self, view: &View, user: &UserInfo, ask: &Ask<'_>) -> bool {
        if let Some(decision) = self.decide_now(view, user, ask) {
            return decision.allows();
        }
        match Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() != RuntimeFlavor::CurrentThread => {
                tokio::task::block_in_place(|| handle.block_on(self.decide(view, user, ask)).allows())
            }
            _ => {
                tracing::error!("nobody can wait here for the server that decides: it counts as no");
                false
            }
        }
    }

    /// What one says who asks nobody.
    fn by_itself(&self, link: &Link, view: &View, user: &UserInfo, ask: &Ask<'_>) -> Decision {
        match link {
            Link::Node => match user.node() {
                Some(name) if node::allows(view, &self.policy(view), name, ask) => Decision::allow(),
                _ => Decision::default(),
            },
            Link::Rbac if self.policy(view).allows(user, ask) => {
                Decision { by_rbac: true, ..Decision::allow() }
            }
            Link::AlwaysAllow => Decision::allow(),
            Link::AlwaysDeny => {
                Decision { reason: "Everything is forbidden.".to_owned(), ..Decision::default() }
            }
            Link::Abac(policies) if policies.allows(user, ask) => Decision::allow(),
            Link::Abac(_) => Decision { reason: "No policy matched.".to_owned(), ..Decision::default() },
            Link::Rbac | Link::Webhook(_) => Decision::default(),
        }
    }

    /// Why it was decided so, as the audit log and reviews say it.
    pub fn reason(&self, view: &View, user: &UserInfo, ask: &Ask<'_>, decision: &Decision) -> String {
        if !decision.by_rbac {
            return decision.reason.clone();
        }
        self.policy(view).reason(user, ask).map(|by| format!("RBAC: allowed by {by}")).unwrap_or_default()
    }

    /// Everything that a user may do in a namespace, as far as those who decide can tell, and what the others say.
    pub fn rules(&self, view: &View, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<&'static str>) {
        let (chain, mut rules, mut silent) = (self.chain.load_full(), Vec::new(), Vec::new());
        if user.is_in(MASTERS) {
            return (vec![Rule::everything()], silent);
        }
        for (_, link, _) in &chain.links {
            match link {
                Link::Rbac => {
                    rules.extend(self.policy(view).rules_for(user, namespace).into_iter().cloned());
                }
                Link::AlwaysAllow => rules.push(Rule::everything()),
                Link::Abac(policies) => rules.extend(policies.rules(user, namespace)),
                Link::Node if user.node().is_some() => {
                    silent.push("node authorizer does not support user rule resolution");
                }
                Link::Webhook(_) => silent.push("webhook authorizer does not support user rule resolution"),
                Link::Node | Link::AlwaysDeny => {}
            }
        }
        (rules, silent)
    }

    /// The policy at the view's revision or newer.
    pub fn policy(&self, view: &View) -> Arc<Policy> {
        self.policy.at(view)
    }
}

/// What is said of a kind that only a start makes.
fn late(kind: &str) -> String {
    format!("authorizer type {kind} is not allowed if it was not enabled at initial server startup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = UserInfo::new("jane", &[]);
        let ask = Ask { verb: "list", resource: "secrets", namespace: "accept", ..Ask::default() };
        assert_eq!(
            ask.forbidden(&user, "").message,
            "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"accept\""
        );
        assert!(
            ask.forbidden(&user, "webhook: never")
                .message
                .ends_with("in the namespace \"accept\": webhook: never")
        );
        let ask = Ask { verb: "get", path: Some("/metrics"), ..Ask::default() };
        assert_eq!(ask.forbidden(&user, "").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}

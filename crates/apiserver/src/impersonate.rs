//! `Impersonate-*` headers: who may act as whom is a question of authorization. Whoever has the verb `impersonate` may
//! do all that the other may; the constrained verbs (KEP-5284) allow it for kinds of users, and for what is done in
//! their name: `impersonate:MODE` the user, and `impersonate-on:MODE:VERB` the request (upstream:
//! `apiserver/pkg/endpoints/filters/impersonation`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use api_rules::format;
use api_types::field::{FieldError, Path, aggregate, quote};
use api_types::status::Status;
use env::Rng;
use http::{HeaderMap, HeaderValue};

use crate::api::Api;
use crate::authz::Ask;
use crate::cache::Cache;
use crate::info::{Query, RequestInfo, unescape};
use crate::storage::View;
use crate::user::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODE_PREFIX, NODES, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, UserInfo,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Group of the parts of users that have none of their own.
const GROUP_OF_PARTS: &str = "authentication.k8s.io";
/// Of a service account whose token is bound to a pod: the pod's node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// In place of everything that such an account's token says, where it acts as its node: what is said of it.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups or values on it is asked first whether all are allowed (upstream:
/// `manyAuthorizationChecksInLoop`).
const MANY: usize = 4;
/// Users whose last mode is known.
const REMEMBERED: usize = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Metrics of attempts, and of what is asked for them: how many, and how long they took.
const ATTEMPTS: [&str; 2] =
    ["apiserver_impersonation_attempts_total", "apiserver_impersonation_attempts_duration_seconds"];
const QUESTIONS: [&str; 2] = [
    "apiserver_impersonation_authorization_attempts_total",
    "apiserver_impersonation_authorization_attempts_duration_seconds",
];

fn count([total, seconds]: [&'static str; 2], mode: &'static str, allowed: bool, took: Duration) {
    let decision = if allowed { "allowed" } else { "denied" };
    metrics::counter!(total, "mode" => mode, "decision" => decision).increment(1);
    metrics::histogram!(seconds, "mode" => mode, "decision" => decision).record(took.as_secs_f64());
}

/// All values of a header, as they were sent. What is no text names nobody: it must not be overlooked, or the request
/// would go on in the name of who sent it, and that is often a proxy that may do more than the user it names.
fn all(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).ok();
    let found: Option<Vec<String>> = headers.get_all(name).iter().map(text).collect();
    found.ok_or_else(|| Status::bad_request(format!("header {name} is not valid UTF-8")))
}

/// Whom the headers name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// None: nobody is impersonated.
fn wanted(headers: &HeaderMap) -> Result<Option<Wanted>, Status> {
    let first = |name| all(headers, name).map(|all| all.into_iter().next().unwrap_or_default());
    let mut wanted = Wanted { name: first(USER)?, uid: first(UID)?, ..Wanted::default() };
    wanted.groups = all(headers, GROUP)?;
    for name in headers.keys().filter(|name| name.as_str().starts_with(EXTRA_PREFIX)) {
        // Bytes that no header may have are percent-encoded.
        let key = unescape(&name.as_str()[EXTRA_PREFIX.len()..]);
        wanted.extra.entry(key).or_default().extend(all(headers, name.as_str())?);
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    match wanted == Wanted::default() {
        true => Ok(None),
        false => Err(Status::bad_request(format!(
            "requested {} without impersonating a user name",
            wanted.in_gos_words()
        ))),
    }
}

impl Wanted {
    /// As upstream's error shows it (`%#v` of its `user.DefaultInfo`).
    fn in_gos_words(&self) -> String {
        let list = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(|text| quote(text)).collect();
            format!("[]string{{{}}}", texts.join(", "))
        };
        let groups = if self.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&self.groups) };
        let extra: Vec<String> =
            self.extra.iter().map(|(key, texts)| format!("{}:{}", quote(key), list(texts))).collect();
        let extra = match extra.is_empty() {
            true => "map[string][]string(nil)".to_owned(),
            false => format!("map[string][]string{{{}}}", extra.join(", ")),
        };
        let (name, uid) = (quote(&self.name), quote(&self.uid));
        format!("&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{groups}, Extra:{extra}}}")
    }
}

/// Namespace and name, if a user name is one of a service account (upstream's `serviceaccount.SplitUsername`).
fn account(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let good = format::dns1123_label(namespace).is_empty() && format::dns1123_subdomain(account).is_empty();
    good.then_some((namespace, account))
}

/// The node's name, if a user name is one of a node.
fn node(name: &str) -> Option<&str> {
    name.strip_prefix(NODE_PREFIX).filter(|name| format::dns1123_subdomain(name).is_empty())
}

/// In which way somebody acts as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node of its pod.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Users that are neither nodes nor service accounts.
    UserInfo,
    /// By the verb `impersonate`: anybody, and anything in their name.
    Unconstrained,
}

/// In the order in which they are tried.
const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Unconstrained];

impl Mode {
    /// As verbs and metrics name it.
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Unconstrained => "legacy",
        }
    }

    fn is_constrained(self) -> bool {
        self != Self::Unconstrained
    }

    fn verb(self) -> String {
        match self.is_constrained() {
            true => format!("impersonate:{}", self.name()),
            false => "impersonate".to_owned(),
        }
    }

    /// Group of what stands for names and groups.
    fn group(self) -> &'static str {
        if self.is_constrained() { GROUP_OF_PARTS } else { "" }
    }

    /// Whether such users are acted as in this way.
    fn fits(self, wanted: &Wanted, requestor: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node(&wanted.name), account(&wanted.name));
        match self {
            Self::AssociatedNode => only_name && node.is_some() && node == node_of(requestor),
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Unconstrained => true,
        }
    }
}

/// The node of the pod that a service account's token is bound to.
fn node_of(user: &UserInfo) -> Option<&str> {
    account(&user.name)?;
    match user.extra.get(NODE_NAME)?.as_slice() {
        [node] => Some(node),
        _ => None,
    }
}

/// In which mode each user had success last: that is tried first, so that who has the verb `impersonate` alone is not
/// asked about more each time. Each master has its own.
pub(crate) struct Modes(Cache<Mode>);

impl Modes {
    pub fn new(rng: &Rng) -> Self {
        Self(Cache::new(REMEMBERED, rng))
    }
}

/// Who a request acts as.
pub(crate) struct Acting {
    pub user: UserInfo,
    /// The constrained verb that allowed it; empty for any other way.
    pub constraint: String,
}

/// The user that a request acts as: the one it came from, unless its headers name another.
pub(crate) async fn user(
    api: &Api,
    headers: &HeaderMap,
    (info, query): (&RequestInfo, &Query),
    user: UserInfo,
) -> Result<Acting, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(Acting { user, constraint: String::new() }) };
    let request = Ask::of(info, query);
    Box::pin(act(api, &user, &wanted, &request)).await
}

/// Tries one mode after the other. If none allows it, it is refused with the words of the first.
async fn act(api: &Api, user: &UserInfo, wanted: &Wanted, request: &Ask<'_>) -> Result<Acting, Status> {
    let (view, modes) = (api.storage.view(), &api.impersonations.0);
    let (key, clock) = (modes.key([user.name.as_str()]), &api.storage.env.clock);
    let now = clock.monotonic();
    let last = modes.get(&key, now);
    let others = MODES.into_iter().filter(|mode| Some(*mode) != last);
    let mut refused = None;
    for mode in last.into_iter().chain(others).filter(|mode| mode.fits(wanted, user)) {
        match Attempt::new(api, &view, user, wanted, mode).run(request).await {
            Ok(acting) => {
                count(ATTEMPTS, mode.name(), true, clock.monotonic().duration_since(now));
                if last != Some(mode) {
                    modes.put(key, mode, now, REMEMBERED_FOR);
                }
                return Ok(acting);
            }
            Err(status) => {
                refused.get_or_insert(status);
            }
        }
    }
    count(ATTEMPTS, "", false, clock.monotonic().duration_since(now));
    Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// One mode is tried.
struct Attempt<'a> {
    api: &'a Api,
    view: &'a View,
    /// Who asks, as those who decide see it.
    requestor: Cow<'a, UserInfo>,
    wanted: &'a Wanted,
    mode: Mode,
    verb: String,
}

impl<'a> Attempt<'a> {
    fn new(api: &'a Api, view: &'a View, user: &'a UserInfo, wanted: &'a Wanted, mode: Mode) -> Self {
        let requestor = match mode {
            // That the node is its own is known already; the rest differs from pod to pod.
            Mode::AssociatedNode => {
                let keys = user.extra.keys().cloned().collect();
                Cow::Owned(UserInfo { extra: BTreeMap::from([(NODE_KEYS.to_owned(), keys)]), ..user.clone() })
            }
            _ => Cow::Borrowed(user),
        };
        Self { api, view, requestor, wanted, mode, verb: mode.verb() }
    }

    async fn run(&self, request: &Ask<'_>) -> Result<Acting, Status> {
        if self.mode.is_constrained() {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), request.verb);
            self.check(&Ask { verb: &verb, ..request.clone() }).await?;
        }
        self.check_name().await?;
        if !self.wanted.uid.is_empty() {
            self.check(&self.part(GROUP_OF_PARTS, "uids", &self.wanted.uid)).await?;
        }
        self.check_groups().await?;
        self.check_extra().await?;
        let constraint = if self.mode.is_constrained() { self.verb.clone() } else { String::new() };
        Ok(Acting { user: self.acting(), constraint })
    }

    /// The question whether the user may act with a part of what another is.
    fn part<'b>(&'b self, group: &'b str, resource: &'b str, name: &'b str) -> Ask<'b> {
        Ask { verb: &self.verb, group, version: "v1", resource, name, ..Ask::default() }
    }

    async fn check(&self, ask: &Ask<'_>) -> Result<(), Status> {
        let (clock, authorizer) = (&self.api.storage.env.clock, &self.api.authorizer);
        let begun = clock.monotonic();
        let decision = authorizer.decide(self.view, &self.requestor, ask).await;
        let took = clock.monotonic().duration_since(begun);
        count(QUESTIONS, self.mode.name(), decision.allows(), took);
        if decision.allows() {
            return Ok(());
        }
        let why = match &decision.error {
            None => decision.reason.clone(),
            Some(error) if decision.reason.is_empty() => error.clone(),
            Some(error) => format!("{error}: {}", decision.reason),
        };
        self.refuse(ask, &why)
    }

    fn refuse(&self, ask: &Ask<'_>, why: &str) -> Result<(), Status> {
        Err(ask.forbidden(&self.requestor, why))
    }

    async fn check_name(&self) -> Result<(), Status> {
        let (name, group) = (self.wanted.name.as_str(), self.mode.group());
        let ask = match (account(name), node(name).filter(|_| self.mode.is_constrained())) {
            (Some((namespace, account)), _) => {
                Ask { namespace, ..self.part(group, "serviceaccounts", account) }
            }
            // Its own node, whichever it is.
            (None, Some(_)) if self.mode == Mode::AssociatedNode => self.part(group, "nodes", "*"),
            (None, Some(node)) => self.part(group, "nodes", node),
            (None, None) => self.part(group, "users", name),
        };
        self.check(&ask).await
    }

    async fn check_groups(&self) -> Result<(), Status> {
        let (groups, group) = (&self.wanted.groups, self.mode.group());
        let ask = |name| self.part(group, "groups", name);
        if self.mode.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return self.refuse(&ask(""), "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|name| name == MASTERS) {
                let why = "impersonating the system:masters group is not allowed";
                return self.refuse(&ask(MASTERS), why);
            }
            if groups.len() >= MANY && self.check(&ask("*")).await.is_ok() {
                return Ok(());
            }
        }
        for name in groups {
            self.check(&ask(name)).await?;
        }
        Ok(())
    }

    async fn check_extra(&self) -> Result<(), Status> {
        let extra = &self.wanted.extra;
        if self.mode.is_constrained() && !extra.is_empty() {
            let whole = self.part(GROUP_OF_PARTS, "userextras", "");
            if let Some(why) = extra_fault(extra) {
                return self.refuse(&whole, &why);
            }
            let all = Ask { subresource: "*", name: "*", ..whole };
            let values: usize = extra.values().map(Vec::len).sum();
            if extra.len().max(values) >= MANY && self.check(&all).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                let ask = Ask { subresource: key, ..self.part(GROUP_OF_PARTS, "userextras", value) };
                self.check(&ask).await?;
            }
        }
        Ok(())
    }

    /// Who the request acts as then. Nodes and service accounts have groups that are known.
    fn acting(&self) -> UserInfo {
        let Wanted { name, mut groups, uid, extra } = self.wanted.clone();
        if groups.is_empty() {
            match account(&name) {
                Some((namespace, account)) => {
                    let own = UserInfo::service_account(namespace, account, "");
                    groups.extend(own.groups.into_iter().filter(|group| group != AUTHENTICATED));
                }
                None if self.mode.is_constrained() && node(&name).is_some() => groups.push(NODES.to_owned()),
                None => {}
            }
        }
        let is_in = |name: &str| groups.iter().any(|group| group == name);
        let added = match name.as_str() {
            ANONYMOUS if is_in(UNAUTHENTICATED) => None,
            ANONYMOUS => Some(UNAUTHENTICATED),
            _ if is_in(AUTHENTICATED) || is_in(UNAUTHENTICATED) => None,
            _ => Some(AUTHENTICATED),
        };
        groups.extend(added.map(str::to_owned));
        UserInfo { name, uid, groups, extra }
    }
}

/// What constrained modes allow nobody.
fn extra_fault(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    extra.iter().find_map(|(key, values)| {
        let faults = key_faults(key);
        if key.is_empty() {
            Some("impersonating the empty string key in extra is not allowed".to_owned())
        } else if !faults.is_empty() {
            let why = aggregate(&faults);
            Some(format!("impersonating an invalid key in extra is not allowed: {why}"))
        } else if *key != key.to_lowercase() {
            let key = quote(key);
            Some(format!("impersonating a non-lowercase key in extra is not allowed: {key}"))
        } else if values.is_empty() {
            Some("impersonating empty values in extra is not allowed".to_owned())
        } else if values.iter().any(String::is_empty) {
            Some("impersonating the empty string value in extra is not allowed".to_owned())
        } else {
            None
        }
    })
}

/// What keeps a key from being a path below a domain. Upstream shows the part that is wrong.
fn key_faults(key: &str) -> Vec<FieldError> {
    let (at, (host, path)) = (Path::new("extra").child("key"), key.split_once('/').unwrap_or((key, "")));
    let problems = format::domain_prefixed_path(key);
    let fault = |problem: &String| match problem.strip_prefix("prefix part ") {
        Some(of_host) => FieldError::invalid(&at, host, of_host),
        None if problem.starts_with("Invalid path") => FieldError::invalid(&at, path, problem.as_str()),
        None => FieldError::invalid(&at, key, problem.as_str()),
    };
    problems.iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sent: &[(&'static str, &[u8])]) -> Result<Option<Wanted>, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        wanted(&headers)
    }

    #[test]
    fn headers_name_a_user_in_any_letters() {
        assert_eq!(of(&[("accept", b"*/*")]).unwrap(), None);
        let found = of(&[
            (USER, "jürgen".as_bytes()),
            (GROUP, "Köln".as_bytes()),
            (GROUP, b"b"),
            (UID, b"u"),
            ("impersonate-extra-acme.com%2fproject", b"x"),
            ("impersonate-extra-scopes", b"s"),
            ("impersonate-extra-scopes", b"t"),
            ("impersonate-extra-100%", b"odd"),
        ]);
        let found = found.unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("jürgen", "u"));
        assert_eq!(found.groups, ["Köln", "b"]);
        let keys: Vec<&str> = found.extra.keys().map(String::as_str).collect();
        assert_eq!(keys, ["100%", "acme.com/project", "scopes"]);
        assert_eq!(found.extra["scopes"], ["s", "t"]);
    }

    #[test]
    fn headers_that_name_nobody_are_refused() {
        for header in [USER, GROUP, UID, "impersonate-extra-a"] {
            let refused = of(&[(USER, b"jane"), (header, b"\xff\xfe")]);
            assert_eq!(refused.unwrap_err().code, 400, "{header}");
        }
        assert_eq!(
            of(&[(GROUP, b"a"), ("impersonate-extra-k", b"v")]).unwrap_err().message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string{\"k\":[]string{\"v\"}}} without impersonating a user name"
        );
        assert!(of(&[(USER, b""), (UID, b"u")]).is_err());
    }

    #[test]
    fn only_what_can_be_an_account_is_one() {
        assert_eq!(account("system:serviceaccount:n:a.b"), Some(("n", "a.b")));
        for user in [
            "jane",
            "system:serviceaccount:n",
            "system:serviceaccount:n:a:b",
            "system:serviceaccount::a",
            "system:serviceaccount:n:",
            "system:serviceaccount:N:a",
            "system:serviceaccount:n:A",
        ] {
            assert_eq!(account(user), None, "{user}");
        }
    }

    #[test]
    fn each_mode_is_for_users_of_its_kind() {
        let fit = |name: &str, group: &str, requestor: &UserInfo| -> Vec<Mode> {
            let groups = [group].into_iter().filter(|group| !group.is_empty()).map(str::to_owned).collect();
            let wanted = Wanted { name: name.to_owned(), groups, ..Wanted::default() };
            MODES.into_iter().filter(|mode| mode.fits(&wanted, requestor)).collect()
        };
        let jane = UserInfo::new("jane", &[]);
        assert_eq!(fit("joe", "", &jane), [Mode::UserInfo, Mode::Unconstrained]);
        assert_eq!(fit("joe", "g", &jane), [Mode::UserInfo, Mode::Unconstrained]);
        let account = "system:serviceaccount:n:a";
        assert_eq!(fit(account, "", &jane), [Mode::ServiceAccount, Mode::Unconstrained]);
        assert_eq!(fit(account, "g", &jane), [Mode::Unconstrained]);
        assert_eq!(fit("system:node:n1", "", &jane), [Mode::ArbitraryNode, Mode::Unconstrained]);
        assert_eq!(fit("system:node:N1", "", &jane), [Mode::UserInfo, Mode::Unconstrained]);
        // A pod's account acts as the pod's node, and not as another.
        let mut agent = UserInfo::service_account("n", "a", "u");
        agent.extra.insert(NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        let all = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Unconstrained];
        assert_eq!(fit("system:node:n1", "", &agent), all);
        assert_eq!(fit("system:node:n2", "", &agent), all[1..]);
        let liar = UserInfo { name: "jane".to_owned(), ..agent };
        assert_eq!(fit("system:node:n1", "", &liar), all[1..]);
    }

    #[test]
    fn extras_are_checked_as_upstream_checks_them() {
        let fault = |key: &str, value: &str| {
            extra_fault(&BTreeMap::from([(key.to_owned(), vec![value.to_owned()])])).unwrap_or_default()
        };
        assert_eq!(fault("acme.com/project", "x"), "");
        assert_eq!(fault("", "x"), "impersonating the empty string key in extra is not allowed");
        assert_eq!(
            fault("scopes", "x"),
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"scopes\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        );
        let host = fault("-/a", "x");
        assert!(host.contains("extra.key: Invalid value: \"-\": a lowercase RFC 1123 subdomain"), "{host}");
        assert_eq!(
            fault("acme.com/Project", "x"),
            "impersonating a non-lowercase key in extra is not allowed: \"acme.com/Project\""
        );
        assert_eq!(fault("a.b/c", ""), "impersonating the empty string value in extra is not allowed");
    }
}

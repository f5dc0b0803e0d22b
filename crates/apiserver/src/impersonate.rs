//! `Impersonate-*` headers: who may act as whom is a question of authorization (verb `impersonate`).

use std::collections::BTreeMap;

use api_rules::format;
use api_types::field::quote;
use api_types::status::Status;
use http::{HeaderMap, HeaderValue};

use crate::api::Api;
use crate::authz::Ask;
use crate::info::unescape;
use crate::storage::View;
use crate::user::{ANONYMOUS, AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// All values of a header, as they were sent. What is no text names nobody: it must not be overlooked, or the request
/// would go on in the name of who sent it, and that is often a proxy that may do more than the user it names.
fn all(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).ok();
    let found: Option<Vec<String>> = headers.get_all(name).iter().map(text).collect();
    found.ok_or_else(|| Status::bad_request(format!("header {name} is not valid UTF-8")))
}

/// Whom the headers name.
#[derive(Debug, Default, PartialEq, Eq)]
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

/// The user that a request acts as: the one it came from, unless its headers name another.
pub(crate) async fn user(api: &Api, headers: &HeaderMap, user: UserInfo) -> Result<UserInfo, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let view = api.storage.view();
    let check =
        |group: &'static str, resource: &'static str, subresource: &str, namespace: &str, name: &str| {
            let texts = [subresource, namespace, name].map(str::to_owned);
            may(api, &view, &user, (group, resource), texts)
        };
    let mut groups = wanted.groups.clone();
    match account(&wanted.name) {
        Some((namespace, account)) => {
            check("", "serviceaccounts", "", namespace, account).await?;
            if groups.is_empty() {
                let own = UserInfo::service_account(namespace, account, "");
                groups = own.groups.into_iter().filter(|group| group != AUTHENTICATED).collect();
            }
        }
        None => check("", "users", "", "", &wanted.name).await?,
    }
    if !wanted.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wanted.uid).await?;
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group).await?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value).await?;
        }
    }
    let is_in = |name: &str| groups.iter().any(|group| group == name);
    let added = match wanted.name.as_str() {
        ANONYMOUS if is_in(UNAUTHENTICATED) => None,
        ANONYMOUS => Some(UNAUTHENTICATED),
        _ if is_in(AUTHENTICATED) || is_in(UNAUTHENTICATED) => None,
        _ => Some(AUTHENTICATED),
    };
    groups.extend(added.map(str::to_owned));
    Ok(UserInfo { name: wanted.name, uid: wanted.uid, groups, extra: wanted.extra })
}

/// Whether a user may act as another, or with a part of what it is: subresource, namespace and name of the part.
async fn may(
    api: &Api,
    view: &View,
    user: &UserInfo,
    (group, resource): (&'static str, &'static str),
    [subresource, namespace, name]: [String; 3],
) -> Result<(), Status> {
    let ask = Ask {
        verb: "impersonate",
        group,
        resource,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        ..Ask::default()
    };
    api.authorizer.decide(view, user, &ask).await.check(&ask, user)
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
}

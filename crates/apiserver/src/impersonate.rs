//! `Impersonate-*` headers: who may act as whom is a question of authorization (verb `impersonate`).

use api_types::status::Status;
use http::HeaderMap;

use crate::api::Api;
use crate::authz::Ask;
use crate::storage::View;
use crate::user::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user that a request acts as: the one it came from, unless its headers name another.
pub(crate) async fn user(api: &Api, headers: &HeaderMap, user: UserInfo) -> Result<UserInfo, Status> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    let (names, groups, uids) = (all(USER), all(GROUP), all(UID));
    let extras: Vec<(String, Vec<String>)> = headers
        .keys()
        .filter_map(|name| {
            name.as_str().strip_prefix(EXTRA_PREFIX).map(|key| (key.to_owned(), all(name.as_str())))
        })
        .collect();
    let Some(name) = names.first().filter(|name| !name.is_empty()) else {
        if groups.is_empty() && uids.is_empty() && extras.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request("requested groups, uids or extra without impersonating a user"));
    };
    let view = api.storage.view();
    let check =
        |group: &'static str, resource: &'static str, subresource: &str, namespace: &str, name: &str| {
            let texts = [subresource, namespace, name].map(str::to_owned);
            may(api, &view, &user, (group, resource), texts)
        };
    let mut acting = UserInfo { name: name.clone(), ..UserInfo::default() };
    match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            check("", "serviceaccounts", "", namespace, account).await?;
            if groups.is_empty() {
                acting = UserInfo::service_account(namespace, account, "");
            }
        }
        None => check("", "users", "", "", name).await?,
    }
    for group in &groups {
        check("", "groups", "", "", group).await?;
        acting.groups.push(group.clone());
    }
    for uid in &uids {
        check("authentication.k8s.io", "uids", "", "", uid).await?;
        acting.uid.clone_from(uid);
    }
    for (key, values) in extras {
        for value in &values {
            check("authentication.k8s.io", "userextras", &key, "", value).await?;
        }
        acting.extra.insert(key, values);
    }
    let group = if acting.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !acting.is_in(group) {
        acting.groups.push(group.to_owned());
    }
    Ok(acting)
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

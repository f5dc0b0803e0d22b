//! Who asks.

use std::collections::BTreeMap;

use api_rules::look::Look;
use serde_json::{Map, Value, json};

/// The group of everyone who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user that everyone is who is not known.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that is above authorization.
pub const MASTERS: &str = "system:masters";
/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// What user names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
pub const NODE_PREFIX: &str = "system:node:";

/// A user as authentication found it (`authentication.k8s.io/v1 UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Unique name.
    pub name: String,
    /// Tells users apart that have the same name at different times; empty for none.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// Anything else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A known user in these groups and `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        let groups = vec![UNAUTHENTICATED.to_owned()];
        Self { name: ANONYMOUS.to_owned(), groups, ..Self::default() }
    }

    /// Whether this is nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS || self.is_in(UNAUTHENTICATED)
    }

    /// The server itself: above authorization.
    pub fn loopback() -> Self {
        Self::new("system:apiserver", &[MASTERS])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let group = format!("system:serviceaccounts:{namespace}");
        let mut user = Self::new(
            format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            &["system:serviceaccounts", &group],
        );
        user.uid = uid.to_owned();
        user
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose agent this is.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|_| self.is_in(NODES))
    }

    /// (namespace, name) of a service account.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
    }

    /// The `UserInfo` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("username".into(), self.name.as_str().into());
        if !self.uid.is_empty() {
            object.insert("uid".into(), self.uid.as_str().into());
        }
        object.insert("groups".into(), json!(self.groups));
        if !self.extra.is_empty() {
            object.insert("extra".into(), json!(self.extra));
        }
        Value::Object(object)
    }

    /// Reads `spec` of a SubjectAccessReview.
    pub(crate) fn from_review(spec: &Value) -> Self {
        let texts = |value: &Value, field: &str| value.texts(field).map(str::to_owned).collect();
        let extra = spec["extra"].as_object().into_iter().flatten();
        Self {
            name: spec["user"].as_str().unwrap_or_default().to_owned(),
            uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
            groups: texts(spec, "groups"),
            extra: extra.map(|(key, list)| (key.clone(), texts(list, ""))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_the_user_is() {
        let account = UserInfo::service_account("ns", "default", "u");
        assert_eq!(account.as_service_account(), Some(("ns", "default")));
        assert!(account.is_in("system:serviceaccounts:ns") && account.is_in(AUTHENTICATED));
        assert_eq!(UserInfo::new("system:node:a", &[NODES]).node(), Some("a"));
        assert_eq!(UserInfo::new("system:node:a", &[]).node(), None);
    }
}

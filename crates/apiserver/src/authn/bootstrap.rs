//! Bootstrap tokens: `<id>.<secret>`, kept in a Secret of kube-system, for machines that join
//! (upstream: `plugin/pkg/auth/authenticator/token/bootstrap`).

use api_rules::look::Look;
use api_types::{codec, meta, table, time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::storage::{self, View};
use crate::user::UserInfo;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
/// Characters of the two parts of a token.
const ID: usize = 6;
const SECRET: usize = 16;
/// Characters that may follow `system:bootstrappers:`, at most.
const MAX_GROUP: usize = 256;

/// The two parts of what looks like a bootstrap token.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (fits(id, ID) && fits(secret, SECRET)).then_some((id, secret))
}

/// The user of a bootstrap token; none when it is not good.
pub(crate) fn verify(view: &View, token: &str, now: i64) -> Option<UserInfo> {
    let (id, secret) = parts(token)?;
    let key = table::find("", "v1", "secrets")?.key(NAMESPACE, &format!("bootstrap-token-{id}"));
    let kv = storage::get(view, key.as_bytes()).ok()??;
    user(&codec::from_stored(&kv.value, 0).ok()?, id, secret, now)
}

fn user(stored: &Value, id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    let data = |name: &str| {
        let bytes = STANDARD.decode(stored.at("data").key(name).as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    if meta::is_being_deleted(stored)
        || stored["type"] != TYPE
        || data("token-id")? != id
        || digest(&data("token-secret")?) != digest(secret)
        || data("usage-bootstrap-authentication")? != "true"
    {
        return None;
    }
    if let Some(text) = data("expiration").filter(|text| !text.is_empty())
        && time::to_millis(&text).is_none_or(|end| end <= now)
    {
        return None;
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let mut groups = vec![GROUP];
    groups.extend(extra.split(',').map(str::trim).filter(|group| !group.is_empty()));
    if !groups[1..].iter().all(|group| is_group(group)) {
        return None;
    }
    groups.sort_unstable();
    groups.dedup();
    Some(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// Whether a group is one that tokens may give.
fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= MAX_GROUP
        && rest.bytes().all(|byte| letter(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_good_as_its_secret_says() {
        let stored = |changes: &[(&str, &str)]| {
            let mut data = json!({});
            let all = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
            ];
            for (name, value) in all.iter().chain(changes) {
                data[*name] = STANDARD.encode(value).into();
            }
            json!({"type": TYPE, "data": data})
        };
        let of = |changes: &[(&str, &str)]| user(&stored(changes), "abcdef", "0123456789abcdef", 1000);
        let good = of(&[("auth-extra-groups", "system:bootstrappers:nodes")]).unwrap();
        assert_eq!(good.name, "system:bootstrap:abcdef");
        assert_eq!(
            good.groups,
            ["system:bootstrappers", "system:bootstrappers:nodes", "system:authenticated"]
        );
        assert!(of(&[("expiration", "2030-01-01T00:00:00Z")]).is_some());
        for bad in [
            ("expiration", "1970-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("token-secret", "0123456789abcdeg"),
            ("token-id", "abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert!(of(&[bad]).is_none(), "{bad:?}");
        }
        assert!(user(&json!({"type": "Opaque"}), "abcdef", "0123456789abcdef", 0).is_none());
    }

    #[test]
    fn tokens_have_two_parts() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in
            ["abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}

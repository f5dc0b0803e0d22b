//! Requests that a proxy passes on: it shows a certificate of its own, and says in headers whose they are (upstream:
//! `apiserver/pkg/authentication/request/headerrequest`).

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tls;
use crate::user::UserInfo;

/// Headers that nobody but this server reads, whatever its flags say.
const STANDARD: [&str; 3] = ["x-remote-user", "x-remote-uid", "x-remote-group"];
/// What the standard headers of extra fields begin with.
const STANDARD_EXTRA: &str = "x-remote-extra-";

/// Which proxies are believed, and which of their headers (upstream's `--requestheader-*`).
#[derive(Clone, Debug, Default)]
pub struct RequestHeaderConfig {
    /// Authorities of the proxies' certificates; without it no proxy is believed. It is read again when it changes.
    pub client_ca_file: Option<PathBuf>,
    /// Common names that a proxy's certificate may have; any without.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's UID; the first that is there counts.
    pub uid_headers: Vec<String>,
    /// Headers with groups; all count.
    pub group_headers: Vec<String>,
    /// What headers with anything else begin with.
    pub extra_headers_prefix: Vec<String>,
}

impl RequestHeaderConfig {
    /// What is wrong with the flags, in upstream's words (`RequestHeaderAuthenticationOptions.Validate`). Both authorities
    /// are PEM.
    pub(crate) fn check(&self, users: &[u8], proxies: Option<&[u8]>) -> Result<(), String> {
        let mut faults = Vec::new();
        for (flag, values) in [
            ("requestheader-username-headers", &self.username_headers),
            ("requestheader-group-headers", &self.group_headers),
            ("requestheader-extra-headers-prefix", &self.extra_headers_prefix),
            ("requestheader-allowed-names", &self.allowed_names),
            ("requestheader-uid-headers", &self.uid_headers),
        ] {
            if values.iter().any(|value| value.trim().is_empty()) {
                faults.push(format!("empty value in {flag:?}"));
            }
        }
        for (flag, values, standard, what) in [
            ("username-headers", &self.username_headers, "X-Remote-User", "header"),
            ("group-headers", &self.group_headers, "X-Remote-Group", "header"),
            ("extra-headers-prefix", &self.extra_headers_prefix, "X-Remote-Extra-", "header prefix"),
        ] {
            if lacks(values, standard) {
                tracing::warn!(
                    "--requestheader-{flag} is set without specifying the standard {standard} {what} - API aggregation will not work"
                );
            }
        }
        if lacks(&self.uid_headers, "X-Remote-Uid") {
            faults.push("--requestheader-uid-headers is set without specifying the standard X-Remote-Uid header - API aggregation will not work".to_owned());
        }
        if self.allowed_names.is_empty() && proxies.is_some_and(|proxies| overlap(users, proxies)) {
            faults.push("--requestheader-client-ca-file and --client-ca-file contain overlapping certificates; --requestheader-allowed-names must be specified to ensure regular client certificates cannot set authenticating proxy headers for arbitrary users".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(super::told(faults)) }
    }

    /// Whose request it is by its headers, if a proxy with a certificate of this name says so.
    ///
    /// # Errors
    /// The name is not one that proxies may have.
    pub(crate) fn user(&self, headers: &HeaderMap, common_name: &str) -> Result<Option<UserInfo>, String> {
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|name| name == common_name) {
            return Err(format!("x509: subject with cn={common_name} is not in the allowed list"));
        }
        let name = first(headers, &self.username_headers);
        if name.is_empty() {
            return Ok(None);
        }
        let groups =
            self.group_headers.iter().flat_map(|group| all(headers, group)).filter(|group| !group.is_empty());
        let mut user = UserInfo {
            name,
            uid: first(headers, &self.uid_headers),
            groups: groups.collect(),
            ..UserInfo::default()
        };
        for prefix in &self.extra_headers_prefix {
            for header in headers.keys() {
                let Some(key) = after(header, prefix) else { continue };
                let key = unescaped(key).unwrap_or_else(|| key.to_owned());
                user.extra.entry(key).or_default().extend(all(headers, header.as_str()));
            }
        }
        Ok(Some(user))
    }

    /// Takes everything away that says who asks: it has been read, and is nothing to whoever gets the request next.
    pub(crate) fn clear(&self, headers: &mut HeaderMap) {
        let named = [&self.username_headers, &self.uid_headers, &self.group_headers];
        let named: Vec<&str> = named.into_iter().flatten().map(String::as_str).chain(STANDARD).collect();
        let prefixes: Vec<&str> =
            self.extra_headers_prefix.iter().map(String::as_str).chain([STANDARD_EXTRA]).collect();
        let is_ours = |header: &HeaderName| {
            named.iter().any(|name| header.as_str().eq_ignore_ascii_case(name.trim()))
                || prefixes.iter().any(|prefix| after(header, prefix).is_some())
        };
        let ours: Vec<HeaderName> = headers.keys().filter(|header| is_ours(header)).cloned().collect();
        ours.iter().for_each(|header| drop(headers.remove(header)));
    }
}

fn lacks(values: &[String], standard: &str) -> bool {
    !values.is_empty() && !values.iter().any(|value| value.eq_ignore_ascii_case(standard))
}

fn overlap(users: &[u8], proxies: &[u8]) -> bool {
    let (Ok(users), Ok(proxies)) = (tls::certificates(users), tls::certificates(proxies)) else {
        return false;
    };
    users.iter().any(|one| proxies.contains(one))
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// All values of a header.
fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    match HeaderName::from_bytes(name.trim().as_bytes()) {
        Ok(name) => headers.get_all(name).iter().map(text).collect(),
        Err(_) => Vec::new(),
    }
}

/// The first value of the first header that has one which is not empty.
fn first(headers: &HeaderMap, names: &[String]) -> String {
    let firsts = names.iter().filter_map(|name| all(headers, name).into_iter().next());
    firsts.into_iter().find(|value| !value.is_empty()).unwrap_or_default()
}

/// What follows a prefix, in small letters as all names of headers.
fn after<'a>(header: &'a HeaderName, prefix: &str) -> Option<&'a str> {
    let (head, rest) = header.as_str().split_at_checked(prefix.trim().len())?;
    head.eq_ignore_ascii_case(prefix.trim()).then_some(rest)
}

/// Go's `url.PathUnescape`; none when there is something wrong.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(more.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        rest = &more[2..];
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn config() -> RequestHeaderConfig {
        RequestHeaderConfig {
            allowed_names: list(&["proxy"]),
            username_headers: list(&["X-Other", "X-Remote-User"]),
            uid_headers: list(&["X-Remote-Uid"]),
            group_headers: list(&["X-Remote-Group", "X-More"]),
            extra_headers_prefix: list(&["X-Remote-Extra-", "X-Too-"]),
            ..RequestHeaderConfig::default()
        }
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_say_whose_a_request_is() {
        let headers = headers(&[
            ("x-other", ""),
            ("x-remote-user", "ann"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", ""),
            ("x-remote-group", "b"),
            ("x-more", "c"),
            ("x-remote-extra-example.com%2fscopes", "one"),
            ("x-remote-extra-example.com%2fscopes", "two"),
            ("x-too-50%", "x"),
        ]);
        let user = config().user(&headers, "proxy").unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["a", "b", "c"]);
        assert_eq!(user.extra["example.com/scopes"], ["one", "two"]);
        assert_eq!(user.extra["50%"], ["x"]);
        assert_eq!(
            config().user(&headers, "ann").unwrap_err(),
            "x509: subject with cn=ann is not in the allowed list"
        );
        assert_eq!(config().user(&HeaderMap::new(), "proxy"), Ok(None));
    }

    #[test]
    fn nothing_of_it_is_passed_on() {
        let mut headers = headers(&[
            ("x-other", "a"),
            ("x-remote-user", "a"),
            ("x-remote-uid", "a"),
            ("x-remote-group", "a"),
            ("x-remote-extra-a", "a"),
            ("x-too-much", "a"),
            ("x-remote-users", "stays"),
        ]);
        let mut standard = headers.clone();
        config().clear(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-remote-users"]);
        RequestHeaderConfig::default().clear(&mut standard);
        assert_eq!(standard.len(), 3, "{standard:?}");
    }

    #[test]
    fn flags_are_checked_in_upstreams_words() {
        let fault = |change: fn(&mut RequestHeaderConfig)| {
            let mut config = config();
            change(&mut config);
            config.check(b"", None).unwrap_err()
        };
        assert_eq!(config().check(b"", None), Ok(()));
        assert_eq!(
            fault(|config| config.group_headers = list(&["X-Remote-Group", " "])),
            "empty value in \"requestheader-group-headers\""
        );
        let many = fault(|config| {
            config.allowed_names = list(&[""]);
            config.uid_headers = list(&["X-Uid"]);
        });
        assert_eq!(
            many,
            "[empty value in \"requestheader-allowed-names\", --requestheader-uid-headers is set without specifying the standard X-Remote-Uid header - API aggregation will not work]"
        );
    }
}

//! What a request is about: verb, resource and name, read from method, path and query as upstream's request info
//! does (`apiserver/pkg/endpoints/request/requestinfo.go`).

use api_types::field::quote;
use api_types::status::Status;
use http::Method;

/// The query of a request, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; empty when it is not given.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Upstream's reading of a boolean parameter: everything but `0` and `false` is true. None when it is not given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let value = self.get(name);
        self.has(name).then(|| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A boolean parameter that is false when it is not given.
    pub fn flag(&self, name: &str) -> bool {
        self.switch(name).unwrap_or_default()
    }

    /// A number, with Go's words for what is none.
    ///
    /// # Errors
    /// 400 for everything that is given and is no number of 64 bits.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        if !self.has(name) {
            return Ok(None);
        }
        let text = self.get(name);
        text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
            let fault = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing {}: {fault}", quote(text)))
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub is_resource: bool,
    /// The path, its escapes read: what is asked for and what is decided on are the same text.
    pub path: String,
    /// The path as it was written, for those who pass it on.
    pub raw: String,
    /// `get`, `list`, `watch`, `create`, …; for paths that are no resource the method in small letters.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// What follows a subresource (`proxy/a/b`).
    pub rest: String,
    /// Whether the path asks for a watch (`/api/v1/watch/…`), whatever the method.
    pub by_watch_path: bool,
}

/// Subresources of a namespace; anything else behind its name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let (path, raw) = (unescape(path), path.to_owned());
        let mut info = Self { path: path.clone(), raw, verb: plain_verb(method), ..Self::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = resource_verb(method);
        if rest[0] == "watch" && rest.len() > 1 {
            info.by_watch_path = true;
            info.verb = "watch";
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            rest[1].clone_into(&mut info.namespace);
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        info.resource = rest[0].to_owned();
        info.name = rest.get(1).map(|name| (*name).to_owned()).unwrap_or_default();
        info.subresource = rest.get(2).map(|name| (*name).to_owned()).unwrap_or_default();
        info.rest = rest.get(3..).map(|rest| rest.join("/")).unwrap_or_default();
        info.settle_verb(query);
        info
    }

    fn settle_verb(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection";
        }
        if !self.name.is_empty() || self.verb != "get" {
            return;
        }
        self.verb = if query.flag("watch") { "watch" } else { "list" };
        if let Ok(fields) = api_types::selector::FieldSelector::parse(query.get("fieldSelector"))
            && let Some(name) = fields.exact("metadata.name")
            && !matches!(name, "." | "..")
            && !name.contains(['/', '%'])
        {
            name.clone_into(&mut self.name);
        }
    }

    /// Whether the path leads into a namespace.
    pub fn is_in_namespace(&self) -> bool {
        let is_namespace = self.group.is_empty() && self.resource == "namespaces";
        !self.namespace.is_empty() && !is_namespace
    }

    /// Whether the request is for a connection to something in the cluster; its body goes there unread.
    pub fn is_connection(&self) -> bool {
        self.is_resource && matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
    }

    /// Whether the request may last: it has no deadline and does not hold up a stop.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

/// Whether each percent sign of a path begins the number of a byte (RFC 3986, 2.1).
pub(crate) fn is_escaped_well(path: &str) -> bool {
    let mut escapes = path.split('%').skip(1);
    escapes.all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// A text whose bytes may be percent-encoded; one that is encoded wrongly stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'%', ..) => return text.to_owned(),
            (byte, ..) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// A path as a URI has it (RFC 3986, 3.3).
pub(crate) fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            _ if b"/-._~!$&'()*+,;=:@".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> RequestInfo {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    fn brief(method: Method, path: &str) -> String {
        let i = parse(method, path);
        format!("{} {}/{} {}/{}/{}", i.verb, i.group, i.version, i.namespace, i.resource, i.name)
            + if i.subresource.is_empty() { "" } else { "/" }
            + &i.subresource
    }

    #[test]
    fn paths_say_what_is_asked() {
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/pods"), "list /v1 n/pods/");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/pods/p/log"), "get /v1 n/pods/p/log");
        assert_eq!(brief(Method::GET, "/apis/apps/v1/deployments?watch=1"), "watch apps/v1 /deployments/");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n"), "get /v1 n/namespaces/n");
        assert_eq!(brief(Method::PUT, "/api/v1/namespaces/n/finalize"), "update /v1 n/namespaces/n/finalize");
        assert_eq!(brief(Method::DELETE, "/api/v1/nodes"), "deletecollection /v1 /nodes/");
        assert_eq!(brief(Method::GET, "/api/v1/watch/pods"), "watch /v1 /pods/");
        assert_eq!(brief(Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Da"), "list /v1 /nodes/a");
    }

    #[test]
    fn an_escaped_path_is_the_path_that_it_says() {
        assert_eq!(brief(Method::GET, "/api/v1/%70ods"), "list /v1 /pods/");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n%2Fpods%2fp/log"), "get /v1 n/pods/p/log");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/secrets/a%2F..%2Fb"), "get /v1 n/secrets/a/..");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/secrets/a+b%20c"), "get /v1 n/secrets/a+b c");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/../pods"), "list /v1 ../pods/");
        let info = parse(Method::GET, "/%68ealthz");
        assert_eq!((info.path.as_str(), info.raw.as_str()), ("/healthz", "/%68ealthz"));
        for odd in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescape(odd), odd);
        }
        assert_eq!(escape(&unescape("/a%2Fb%20%c3%bc%3f/c:d+e@")), "/a/b%20%C3%BC%3F/c:d+e@");
    }

    #[test]
    fn empty_steps_count() {
        assert_eq!(brief(Method::GET, "/api//v1/pods"), "get / /v1/pods");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces//pods"), "list /v1 /pods/");
        assert_eq!(brief(Method::GET, "//api/v1/pods/"), "list /v1 /pods/");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/pods//log"), "list /v1 n/pods//log");
    }

    #[test]
    fn other_paths_are_no_resources() {
        assert_eq!(brief(Method::POST, "/api/v1/watch/pods"), "watch /v1 /pods/");
        assert_eq!(brief(Method::GET, "/api/v1/namespaces/n/pods/p?watch=1"), "get /v1 n/pods/p");
        assert_eq!(
            brief(Method::DELETE, "/api/v1/nodes?fieldSelector=metadata.name%3Da"),
            "deletecollection /v1 /nodes/"
        );
        for path in ["/", "/api", "/api/v1", "/apis/apps/v1", "/healthz"] {
            assert!(!parse(Method::GET, path).is_resource, "{path}");
        }
    }
}

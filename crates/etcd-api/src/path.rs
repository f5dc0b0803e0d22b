//! Paths of requests as Go's servers read them.

use http::Uri;
use http::uri::PathAndQuery;

/// The gateway's name once, and its name.
const OLD_GATEWAY: (&str, &str) = ("/v3beta/", "/v3/");

/// Undoes escapes that a path need not have, and takes the gateway's old name for its name.
pub(crate) fn read(uri: &mut Uri) {
    let path = uri.path();
    let escaped = path.contains('%').then(|| unescaped(path)).flatten();
    let plain = escaped.as_deref().unwrap_or(path);
    let renamed = plain.strip_prefix(OLD_GATEWAY.0).map(|rest| format!("{}{rest}", OLD_GATEWAY.1));
    if let Some(path) = renamed.or(escaped) {
        set(uri, &path);
    }
}

/// Where a path leads that has empty steps, or steps to itself or back; none if it has not.
pub(crate) fn cleaned(uri: &Uri) -> Option<String> {
    let path = uri.path();
    if !path.starts_with('/') || !(path.contains("//") || path.contains("/.")) {
        return None;
    }
    let mut steps = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let end = if path.ends_with('/') && !steps.is_empty() { "/" } else { "" };
    let cleaned = format!("/{}{end}", steps.join("/"));
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (cleaned != path).then(|| cleaned + &query)
}

/// A path without its escapes, if it can be said without them.
fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, next @ ..] = rest {
        rest = next;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, next) = rest.split_at_checked(2)?;
        let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        // What would end the path stays escaped, and so means nothing.
        if matches!(byte, b'?' | b'#' | b'%') || !byte.is_ascii_graphic() {
            return None;
        }
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8(bytes).ok()
}

/// Changes the path. What is no path stays as it was.
fn set(uri: &mut Uri, path: &str) {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(path) = PathAndQuery::try_from(format!("{path}{query}")) else { return };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).expect("invariant: it had a path before");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_without_escapes_and_old_names() {
        for (given, expected) in [
            ("/v3/kv/%72ange?a=%72", "/v3/kv/range?a=%72"),
            ("/v3beta/kv/range", "/v3/kv/range"),
            ("http://h:1/%763beta/watch?x", "http://h:1/v3/watch?x"),
            ("/v3beta", "/v3beta"),
            ("/x/v3beta/", "/x/v3beta/"),
            ("/%7", "/%7"),
            ("/%zz", "/%zz"),
            ("/%+1", "/%+1"),
            ("/a%3Fb", "/a%3Fb"),
            ("/a%00", "/a%00"),
            ("/%2fversion", "//version"),
        ] {
            let mut uri = given.parse().expect("a URI");
            read(&mut uri);
            assert_eq!(uri, expected, "{given}");
        }
        let mut all = Uri::from_static("*");
        read(&mut all);
        assert_eq!(all, "*");
    }

    #[test]
    fn paths_lead_where_their_steps_lead() {
        for (given, expected) in [
            ("//version", Some("/version")),
            ("/v3//kv/./range?x=1", Some("/v3/kv/range?x=1")),
            ("/v3/kv/../kv/range/", Some("/v3/kv/range/")),
            ("/a/../../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/..//", Some("/")),
            ("/version", None),
            ("/.well-known", None),
            ("/", None),
        ] {
            let uri: Uri = given.parse().expect("a URI");
            assert_eq!(cleaned(&uri).as_deref(), expected, "{given}");
        }
    }
}

//! How a webhook is called: a URL, or a Service with a path and a port, and the certificates that are believed (upstream:
//! `apiserver/pkg/util/webhook`).

use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use api_types::field::quote;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;

const FORM: &str = "; desired format: https://host[/path]";

/// Exactly one of `url` and `service`, and that one in its form.
pub(super) fn validate(client: &Value, at: At<'_>, errors: &mut Errors) {
    match (client.at("url").as_str(), client.at("service")) {
        (Some(text), Value::Null) => url(text, at.at("url"), errors),
        (None, service @ Value::Object(_)) => self::service(service, at.at("service"), errors),
        _ => errors.required(at, "exactly one of url or service is required"),
    }
}

fn url(text: &str, at: At<'_>, errors: &mut Errors) {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return errors.required(at, format!("url must be a valid URL: {error}{FORM}")),
    };
    if url.scheme != "https" {
        errors.invalid(at, url.scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        errors.invalid(at, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user {
        errors.invalid(at, user, "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        errors.invalid(at, url.fragment, "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        errors.invalid(at, url.query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, at: At<'_>, errors: &mut Errors) {
    // As upstream, which names the one field when the other is empty.
    for (empty, named) in [("namespace", "name"), ("name", "namespace")] {
        if service.text(empty).is_empty() {
            errors.required(at.at(named), "");
        }
    }
    let port = service.int("port");
    let problems = format::port_number(port);
    if !problems.is_empty() {
        errors.invalid(at.at("port"), port, format!("port is not valid: {}", problems.join(", ")));
    }
    path(service.text("path"), at.at("path"), errors);
}

fn path(path: &str, at: At<'_>, errors: &mut Errors) {
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return errors.invalid(at, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(at, path, "must start with a '/'");
    }
    // As upstream, whatever the first byte is.
    let rest = path.get(1..).unwrap_or_default();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (i, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(at, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in format::dns1123_subdomain(segment) {
            errors.invalid(at, path, format!("segment[{i}]: {problem}"));
        }
    }
}

/// Why no certificate can be read from `bundle` (base64 of PEM blocks), in upstream's words; none when one can, or when
/// it is empty.
pub(super) fn bundle_problem(bundle: &str) -> Option<String> {
    if bundle.is_empty() {
        return None;
    }
    let why = unreadable(&STANDARD.decode(bundle).unwrap_or_default())?;
    Some(format!("unable to load root certificates: {why}"))
}

fn unreadable(bundle: &[u8]) -> Option<String> {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(bundle).map_while(Result::ok).collect();
    let mut why = match blocks.is_empty() {
        true => "unable to parse bytes as PEM block",
        false => "no valid certificate authority data seen",
    };
    for block in blocks.iter().filter(|block| block.label == "CERTIFICATE") {
        match block.parse_x509() {
            Ok(_) => return None,
            Err(_) => why = "failed to parse certificate: x509: malformed certificate",
        }
    }
    Some(why.to_owned())
}

/// The parts of a URL that are looked at, as Go's `url.Parse` tells them apart.
#[derive(Debug, Default)]
struct Url<'a> {
    /// In small letters.
    scheme: String,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    /// # Errors
    /// Go's words for what is no URL.
    fn parse(text: &'a str) -> Result<Self, String> {
        let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
        let failed = |why: String| format!("parse {}: {why}", quote(whole));
        let url = Self::parse_whole(whole).map_err(failed)?;
        escapes(fragment).map_err(|why| format!("parse {}: {why}", quote(text)))?;
        Ok(Self { fragment, ..url })
    }

    fn parse_whole(text: &'a str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = split_scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let url = Self { scheme: scheme.to_lowercase(), query, ..Self::default() };
        if !rest.starts_with('/') {
            let first = rest.split('/').next().unwrap_or_default();
            if scheme.is_empty() && first.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
            return if scheme.is_empty() { escapes(rest).map(|()| url) } else { Ok(url) };
        }
        let behind = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        let Some(behind) = behind else { return escapes(rest).map(|()| url) };
        let (authority, path) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        check_host(host)?;
        let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
        if user.is_some_and(|user| !user.bytes().all(is_user)) {
            return Err("net/url: invalid userinfo".to_owned());
        }
        escapes(user.unwrap_or_default())?;
        escapes(path)?;
        Ok(Self { user, host, ..url })
    }
}

/// The scheme, empty when there is none, and what follows it.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    let is_scheme = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || at > 0 && (byte.is_ascii_digit() || b"+-.".contains(&byte))
    };
    match text.bytes().enumerate().find(|pair| !is_scheme(*pair)) {
        Some((0, b':')) => Err("missing protocol scheme".to_owned()),
        Some((at, b':')) => Ok((&text[..at], &text[at + 1..])),
        _ => Ok(("", text)),
    }
}

/// Each percent sign is followed by two digits.
fn escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {}", quote(&shown)));
        }
    }
    Ok(())
}

fn check_host(text: &str) -> Result<(), String> {
    let literal = text.rfind('[').map(|at| &text[at..]);
    let port = match literal {
        Some(literal) => match literal.rfind(']') {
            Some(end) => &literal[end + 1..],
            None => return Err("missing ']' in host".to_owned()),
        },
        None => text.find(':').map_or("", |at| &text[at..]),
    };
    let is_port = port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !port.is_empty() && !is_port {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    let is_host = |letter: char| {
        !letter.is_ascii() || letter.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(letter)
    };
    if let Some(odd) = text.chars().find(|letter| !is_host(*letter)) {
        return Err(format!("invalid character {} in host name", quote(&odd.to_string())));
    }
    escapes(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(client: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(client, At::root("c"), &mut errors);
        errors.done().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn urls_are_plain_and_secure() {
        for good in ["https://a", "https://a:443/b/c", "https://[::1]:8443/x", "HTTPS://a.b"] {
            assert_eq!(faults(&json!({"url": good})), Vec::<String>::new(), "{good}");
        }
        assert_eq!(
            faults(&json!({"url": "http://u:p@/x?y#z"})),
            [
                "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                "c.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                "c.url: Invalid value: \"z\": fragments are not permitted in the URL",
                "c.url: Invalid value: \"y\": query parameters are not permitted in the URL",
            ]
        );
    }

    #[test]
    fn what_is_no_url_is_said_as_by_go() {
        for (url, why) in [
            ("https://a b/", "invalid character \" \" in host name"),
            ("https://a/%zz", "invalid URL escape \"%zz\""),
            ("https://a:port/", "invalid port \":port\" after host"),
            ("https://[::1/", "missing ']' in host"),
            (":a", "missing protocol scheme"),
            ("a:b@c", ""),
            ("1:b", "first path segment in URL cannot contain colon"),
            ("https://a\u{1}", "net/url: invalid control character in URL"),
        ] {
            let found = Url::parse(url);
            match why {
                "" => assert!(found.is_ok(), "{url}"),
                why => assert_eq!(found.unwrap_err(), format!("parse {}: {why}", quote(url))),
            }
        }
        assert_eq!(
            faults(&json!({"url": "https://a b"})),
            [
                "c.url: Required value: url must be a valid URL: parse \"https://a b\": invalid character \" \" in host name; desired format: https://host[/path]"
            ]
        );
    }

    #[test]
    fn services_have_a_name_a_port_and_a_path() {
        let of = |path: &str| {
            faults(&json!({"service": {"name": "a", "namespace": "b", "port": 443, "path": path}}))
        };
        for good in ["", "/", "/a/b.c/", "/a"] {
            assert_eq!(of(good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(of("//"), ["c.service.path: Invalid value: \"//\": segment[0] may not be empty"]);
        let found = of("a//b_/");
        assert_eq!(
            found[..3],
            [
                "c.service.path: Invalid value: \"a//b_/\": must start with a '/'",
                "c.service.path: Invalid value: \"a//b_/\": segment[0] may not be empty",
                "c.service.path: Invalid value: \"a//b_/\": segment[1] may not be empty",
            ]
        );
        assert!(found[3].contains("segment[2]: a lowercase RFC 1123 subdomain"), "{found:?}");
        assert_eq!(
            faults(&json!({"service": {"port": 70000}})),
            [
                "c.service.name: Required value",
                "c.service.namespace: Required value",
                "c.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
            ]
        );
        assert_eq!(
            faults(&json!({"service": {"name": "a", "port": 1}})),
            ["c.service.name: Required value"],
            "upstream names the other field"
        );
        for client in [json!({}), json!({"url": "https://a", "service": {"name": "a"}})] {
            assert_eq!(faults(&client), ["c: Required value: exactly one of url or service is required"]);
        }
    }

    #[test]
    fn bundles_hold_certificates() {
        let of = |text: &str| bundle_problem(&STANDARD.encode(text));
        let whole = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem();
        assert_eq!((of(""), of(&whole)), (None, None));
        let why = |text: &str| of(text).unwrap();
        assert_eq!(why("x"), "unable to load root certificates: unable to parse bytes as PEM block");
        let key = whole.replace("CERTIFICATE", "KEY");
        assert_eq!(why(&key), "unable to load root certificates: no valid certificate authority data seen");
    }
}

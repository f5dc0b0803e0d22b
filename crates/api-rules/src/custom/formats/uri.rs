//! URIs as Go's `url.ParseRequestURI` takes them (Go 1.26).

use std::net::Ipv6Addr;

use super::are_digits;

/// A URI with a scheme, or an absolute path, as Go's `url.ParseRequestURI` takes it.
pub(super) fn is_of_request(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = split_scheme(text) else { return false };
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(behind) if !scheme.is_empty() => behind.split_at(behind.find('/').unwrap_or(behind.len())),
        _ => ("", rest),
    };
    is_authority(scheme, authority) && is_escaped(path)
}

/// The scheme, empty if there is none, and what follows it; none when it is missing before its colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let is_letter = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || at > 0 && (byte.is_ascii_digit() || b"+-.".contains(&byte))
    };
    let end = text.bytes().enumerate().find(|pair| !is_letter(*pair));
    match end {
        Some((0, b':')) => None,
        Some((at, b':')) => Some((&text[..at], &text[at + 1..])),
        _ => Some(("", text)),
    }
}

/// Whether each percent sign is followed by two digits.
fn is_escaped(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|part| part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

fn is_authority(scheme: &str, text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    user.is_none_or(|user| user.bytes().all(is_user) && is_escaped(user)) && is_host(scheme, host)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(are_digits)
}

fn is_host(scheme: &str, text: &str) -> bool {
    if let Some((before, rest)) = text.rsplit_once('[') {
        let ends = rest.rsplit_once(']');
        return before.is_empty() && ends.is_some_and(|(address, port)| is_literal(address) && is_port(port));
    }
    // Lists of hosts have several ports, but not in these schemes.
    let is_strict = ["http", "https"].iter().any(|strict| scheme.eq_ignore_ascii_case(strict));
    let port = if is_strict { text.find(':') } else { text.rfind(':') };
    let (name, port) = text.split_at(port.unwrap_or(text.len()));
    is_port(port) && is_name(name)
}

/// An address of version 6, which may have a zone.
fn is_literal(text: &str) -> bool {
    match text.split_once("%25") {
        Some((address, zone)) => {
            address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && is_escaped(zone) && are_of_host(zone)
        }
        None => text.parse::<Ipv6Addr>().is_ok(),
    }
}

/// Of ASCII only a percent sign is escaped in a host's name.
fn is_name(text: &str) -> bool {
    let may_escape = |part: &str| part.as_bytes()[0] >= b'8' || part.starts_with("25");
    is_escaped(text) && text.split('%').skip(1).all(may_escape) && are_of_host(text)
}

fn are_of_host(text: &str) -> bool {
    let is_known = |byte: u8| {
        !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&byte)
    };
    text.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn uris_are_those_of_requests() {
        check(
            "uri",
            &[
                "https://example.org/a?b=c#d",
                "http://user:pass@[::1]:8080/",
                "/a/path",
                "//a",
                "mailto:ann@example.org",
                "urn:a:b",
                "http://",
                "http://h%C3%BC",
                "*",
                "http://[fe80::1%25en0]:80",
                "postgres://a:1,b:2/",
            ],
            &[
                "",
                "example.org",
                "a/b",
                ":a",
                "http://a b/",
                "http://a:port/",
                "http://[::1/",
                "http://[1.2.3.4]/",
                "http://a[::1]/",
                "http://::1/",
                "HTTP://a:80:80/",
                "/a%zz",
                "http://a%41/",
                "a\n",
            ],
        );
    }
}

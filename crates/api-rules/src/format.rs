//! Text formats of names, labels, ports and addresses with the messages upstream gives for them
//! (`k8s.io/apimachinery/pkg/util/validation`, RFC 1123, RFC 1035, RFC 6335).
//!
//! Each check returns the messages, none when the value is good.

use std::net::IpAddr;

/// Messages of a format check.
pub type Problems = Vec<String>;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const ANY_CASE_TEXT: &str = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'Example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_TEXT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const REASON_TEXT: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const IDENTIFIER_TEXT: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && lower_alnum(b[0])
        && lower_alnum(b[b.len() - 1])
        && b.iter().all(|&c| lower_alnum(c) || c == b'-')
}

fn is_subdomain(s: &str) -> bool {
    !s.is_empty() && s.split('.').all(is_label)
}

/// RFC 1123 label, at most 63 characters.
pub fn dns1123_label(s: &str) -> Problems {
    label(s, max_characters)
}

/// [`dns1123_label`] in the words of `+k8s:format=k8s-short-name`.
pub fn short_name(s: &str) -> Problems {
    label(s, max_bytes)
}

fn label(s: &str, too_long: fn(usize) -> String) -> Problems {
    let mut out = Problems::new();
    if s.len() > LABEL_MAX {
        out.push(too_long(LABEL_MAX));
    }
    if is_subdomain(s) && s.contains('.') {
        out.push("must not contain dots".into());
    } else if !is_label(s) {
        out.push(LABEL_TEXT.into());
    }
    out
}

/// RFC 1123 subdomain, at most 253 characters.
pub fn dns1123_subdomain(s: &str) -> Problems {
    subdomain(s, max_characters)
}

/// [`dns1123_subdomain`] in the words of `+k8s:format=k8s-long-name`.
pub fn long_name(s: &str) -> Problems {
    subdomain(s, max_bytes)
}

fn subdomain(s: &str, too_long: fn(usize) -> String) -> Problems {
    let mut out = Problems::new();
    if s.len() > SUBDOMAIN_MAX {
        out.push(too_long(SUBDOMAIN_MAX));
    }
    if !is_subdomain(s) {
        out.push(SUBDOMAIN_TEXT.into());
    }
    out
}

/// RFC 1123 subdomain with letters of any case, at most 253 characters.
pub fn subdomain_of_any_case(s: &str) -> Problems {
    let mut out = Problems::new();
    if s.len() > SUBDOMAIN_MAX {
        out.push(max_bytes(SUBDOMAIN_MAX));
    }
    if !is_subdomain(&s.to_ascii_lowercase()) {
        out.push(ANY_CASE_TEXT.into());
    }
    out
}

/// `*.` and an RFC 1123 subdomain.
pub fn wildcard_subdomain(s: &str) -> Problems {
    let mut out = Problems::new();
    if s.len() > SUBDOMAIN_MAX {
        out.push(max_characters(SUBDOMAIN_MAX));
    }
    if !s.strip_prefix("*.").is_some_and(is_subdomain) {
        out.push(WILDCARD_TEXT.into());
    }
    out
}

/// RFC 1035 label: as RFC 1123 but starting with a letter.
pub fn dns1035_label(s: &str) -> Problems {
    let mut out = Problems::new();
    if s.len() > LABEL_MAX {
        out.push(max_characters(LABEL_MAX));
    }
    if !(is_label(s) && s.as_bytes()[0].is_ascii_lowercase()) {
        out.push(LABEL_1035_TEXT.into());
    }
    out
}

fn is_qualified(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// A label key or other qualified name: `[prefix/]name`.
pub fn qualified_name(s: &str) -> Problems {
    let mut out = Problems::new();
    let name = match s.split_once('/') {
        None => s,
        Some((_, rest)) if rest.contains('/') => {
            out.push(format!(
                "a qualified name {QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return out;
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        out.push(format!("name part {}", max_bytes(LABEL_MAX)));
    }
    if !is_qualified(name) {
        out.push(format!("name part {QUALIFIED_TEXT}"));
    }
    out
}

/// A label value: empty, or at most 63 bytes of the qualified alphabet.
pub fn label_value(s: &str) -> Problems {
    let mut out = Problems::new();
    if s.len() > LABEL_MAX {
        out.push(max_bytes(LABEL_MAX));
    }
    if !s.is_empty() && !is_qualified(s) {
        out.push(LABEL_VALUE_TEXT.into());
    }
    out
}

/// A key of a ConfigMap or Secret: also a file name.
pub fn config_map_key(s: &str) -> Problems {
    let mut out = Problems::new();
    if s.len() > SUBDOMAIN_MAX {
        out.push(max_characters(SUBDOMAIN_MAX));
    }
    if s.is_empty() || !s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        out.push(CONFIG_KEY_TEXT.into());
    }
    match s {
        "." => out.push("must not be '.'".into()),
        ".." => out.push("must not be '..'".into()),
        _ if s.starts_with("..") => out.push("must not start with '..'".into()),
        _ => {}
    }
    out
}

/// The reason of a condition (`metav1.Condition`): a word, or some with commas and colons between them.
pub fn condition_reason(s: &str) -> Problems {
    let b = s.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = b.first().is_some_and(u8::is_ascii_alphabetic)
        && b.last().is_some_and(|b| word(*b))
        && b.iter().all(|b| word(*b) || matches!(b, b',' | b':'));
    if good { Problems::new() } else { vec![REASON_TEXT.into()] }
}

/// A C identifier.
pub fn c_identifier(s: &str) -> Problems {
    let b = s.as_bytes();
    let good = b.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && b.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if good { Problems::new() } else { vec![IDENTIFIER_TEXT.into()] }
}

/// The relaxed environment variable name: printable ASCII without `=`.
pub fn env_var_name(s: &str) -> Problems {
    let good = !s.is_empty() && s.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=');
    if good {
        Problems::new()
    } else {
        vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
    }
}

/// A port number in 1..=65535.
pub fn port_number(n: i64) -> Problems {
    in_range(n, 1, 65_535)
}

/// An integer between two bounds, both inclusive.
pub fn in_range(n: i64, lo: i64, hi: i64) -> Problems {
    if (lo..=hi).contains(&n) {
        Problems::new()
    } else {
        vec![format!("must be between {lo} and {hi}, inclusive")]
    }
}

/// An IANA service name (RFC 6335 section 5.1): at most 15 characters, at least one letter.
pub fn port_name(s: &str) -> Problems {
    const MAX: usize = 15;
    let mut out = Problems::new();
    if s.len() > MAX {
        out.push(max_characters(MAX));
    }
    if s.is_empty() || !s.bytes().all(|c| lower_alnum(c) || c == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

/// One segment of a URL path: not `.` or `..`, no `/`, no `%`.
pub fn path_segment(s: &str) -> Problems {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    ["/", "%"].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// An HTTP header name.
pub fn http_header_name(s: &str) -> Problems {
    if !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Problems::new();
    }
    vec!["a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')".into()]
}

/// A name under a domain: `example.com/path`.
pub fn domain_prefixed_path(s: &str) -> Problems {
    if s.is_empty() {
        return vec!["must not be empty".into()];
    }
    let Some((domain, path)) = s.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty()) else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".into()];
    };
    let mut out: Problems =
        dns1123_subdomain(domain).into_iter().map(|m| format!("prefix part {m}")).collect();
    if !path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/%-._~:@!$&'()*+,;=".contains(&c)) {
        out.push("Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')".into());
    }
    out
}

/// An IPv4 or IPv6 address; IPv4 octets may have leading zeros, as the legacy fields accept.
pub fn parse_ip(s: &str) -> Option<IpAddr> {
    if let Ok(ip) = s.parse::<IpAddr>() {
        return Some(ip);
    }
    let octets: Vec<&str> = s.split('.').collect();
    if octets.len() != 4 || octets.iter().any(|o| o.is_empty() || !o.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let trimmed: Vec<String> = octets
        .iter()
        .map(|o| o.trim_start_matches('0'))
        .map(|o| if o.is_empty() { "0".into() } else { o.to_string() })
        .collect();
    trimmed.join(".").parse().ok()
}

/// An IP address.
pub fn ip(s: &str) -> Problems {
    match parse_ip(s) {
        Some(_) => Problems::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// A network in CIDR notation.
pub fn cidr(s: &str) -> Problems {
    match s.parse::<ipnet::IpNet>() {
        Ok(_) => Problems::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()],
    }
}

/// A network in CIDR notation, with leading zeros too, as the legacy fields accept.
pub fn parse_cidr(s: &str) -> Option<ipnet::IpNet> {
    let (address, bits) = s.split_once('/')?;
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    ipnet::IpNet::new(parse_ip(address)?, bits.parse().ok().filter(|_| digits)?).ok()
}

/// An address of an interface with the size of its network.
pub fn interface_address(s: &str) -> Problems {
    let Some(net) = parse_cidr(s) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".into()];
    };
    let canonical = match net.addr() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let bits = net.prefix_len();
            format!("{}/{}", v6.to_canonical(), if bits > 32 { bits.saturating_sub(96) } else { bits })
        }
        _ => net.to_string(),
    };
    if canonical == s {
        Problems::new()
    } else {
        vec![format!("must be in canonical form (\"{canonical}\")")]
    }
}

/// A network in CIDR notation as it is written nowadays: without leading zeros, in its one form.
pub fn strict_cidr(s: &str) -> Problems {
    let (Some(net), Some((address, bits))) = (parse_cidr(s), s.split_once('/')) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()];
    };
    let mapped = matches!(net.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let text = if address.parse::<IpAddr>().is_err() || (bits.len() > 1 && bits.starts_with('0')) {
        "must not have leading 0s in IP or prefix length".to_owned()
    } else if mapped {
        "must not have an IPv4-mapped IPv6 address".to_owned()
    } else if net.trunc() != net {
        "must not have bits set beyond the prefix length".to_owned()
    } else if net.to_string() != s {
        format!("must be in canonical form (\"{net}\")")
    } else {
        return Problems::new();
    };
    vec![text]
}

/// An address that endpoints and external addresses may not have: unspecified, loopback, link-local.
pub fn non_special_ip(s: &str) -> Problems {
    let Some(address) = parse_ip(s) else { return vec!["must be a valid IP address".into()] };
    let mut out = Problems::new();
    if address.is_unspecified() {
        out.push(format!("may not be unspecified ({s})"));
    }
    if address.is_loopback() {
        out.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        out.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if link_local_multicast {
        out.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        assert!(dns1123_label("a-1").is_empty());
        assert_eq!(dns1123_label("a_b"), vec![LABEL_TEXT.to_string()]);
        assert_eq!(dns1123_label("a.b"), vec!["must not contain dots".to_string()]);
        assert_eq!(dns1123_label(&"a".repeat(64)), vec!["must be no more than 63 characters".to_string()]);
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        for bad in ["", "A", "a..b", "-a", "a-", "a_b"] {
            assert_eq!(dns1123_subdomain(bad).len(), 1, "{bad}");
        }
        assert!(!dns1035_label("1a").is_empty());
        assert!(wildcard_subdomain("*.a.b").is_empty() && !wildcard_subdomain("a.b").is_empty());
    }

    #[test]
    fn qualified_names_name_the_bad_part() {
        assert!(qualified_name("app.kubernetes.io/Name_1").is_empty());
        assert!(qualified_name("Not/Good")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
        assert_eq!(qualified_name("a/")[0], "name part must be non-empty");
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist"));
        assert_eq!(label_value(&"x".repeat(64))[0], "must be no more than 63 bytes");
    }

    #[test]
    fn ports_and_addresses() {
        assert_eq!(port_number(0), vec!["must be between 1 and 65535, inclusive".to_string()]);
        assert!(port_name("http-1").is_empty());
        assert_eq!(port_name("80"), vec!["must contain at least one letter (a-z)".to_string()]);
        assert!(ip("010.0.0.1").is_empty() && ip("::1").is_empty() && !ip("1.2.3").is_empty());
        assert_eq!(
            non_special_ip("127.0.0.1"),
            vec!["may not be in the loopback range (127.0.0.0/8, ::1/128)".to_string()]
        );
        assert_eq!(
            path_segment("a/b%"),
            vec!["may not contain '/'".to_string(), "may not contain '%'".to_string()]
        );
    }
}

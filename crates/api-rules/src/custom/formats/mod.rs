//! `format` of texts in schemas of definitions (upstream: `kube-openapi/pkg/validation/strfmt`, and
//! `apiextensions-apiserver/pkg/apiserver/validation/formats.go` for which there are).

mod uri;

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use regex::Regex;

/// Bytes of a host's name, and of each part of it, at most.
const MAX_HOST: usize = 255;
const MAX_LABEL: usize = 63;

/// What parts of a host's name are made of besides dashes, and the last of several.
static PART: LazyLock<Regex> = LazyLock::new(|| regex(r"^[a-zA-Z0-9\p{S}\p{L}]*$"));
static LAST: LazyLock<Regex> = LazyLock::new(|| regex(r"^[a-zA-Z\p{L}]*$"));
static COLOR: LazyLock<Regex> = LazyLock::new(|| {
    let byte = r"[\t\n\f\r ]*(?:0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])[\t\n\f\r ]*";
    regex(&format!(r"^rgb\({byte},{byte},{byte}\)$"))
});
static CARD: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
    )
});
/// Base64 with its padding; not of nothing.
static BASE64: LazyLock<Regex> = LazyLock::new(|| {
    regex("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$")
});
/// A time of the day with its zone.
static TIME: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(?:.[0-9]+)?(?:z|[+-][0-9]{2}:[0-9]{2})$"));
/// A number with a unit, anywhere in a text.
static MEASURE: LazyLock<Regex> = LazyLock::new(|| regex(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)"));

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("invariant: a regular expression")
}

/// Whether upstream knows a format of values of a type.
pub(crate) fn is_known(kind: &str, form: &str) -> bool {
    const OF_TEXTS: [&str; 26] = [
        "bsonobjectid",
        "byte",
        "cidr",
        "creditcard",
        "date",
        "datetime",
        "duration",
        "email",
        "hexcolor",
        "hostname",
        "ipv4",
        "ipv6",
        "isbn",
        "isbn10",
        "isbn13",
        "k8slongname",
        "k8sshortname",
        "mac",
        "password",
        "rgbcolor",
        "ssn",
        "uri",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
    ];
    match kind {
        "" | "string" => OF_TEXTS.contains(&form.replace('-', "").as_str()),
        "integer" => matches!(form, "int32" | "int64"),
        "number" => matches!(form, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has a format; formats that upstream does not know are not checked, and neither is `email`. Dashes in
/// the name of a format do not count.
pub(super) fn has(form: &str, text: &str) -> bool {
    match form.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "ipv4" => is_ipv4(text),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "byte" => BASE64.is_match(text),
        "uri" => uri::is_of_request(text),
        "hostname" => is_hostname(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_card(text),
        "ssn" => is_social_security_number(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && are_hex(digits)
        }
        "rgbcolor" => COLOR.is_match(text),
        "bsonobjectid" => text.len() == 24 && are_hex(text),
        "k8sshortname" => crate::format::short_name(text).is_empty(),
        "k8slongname" => crate::format::long_name(text).is_empty(),
        _ => true,
    }
}

fn are_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn are_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A day as `2006-01-02`.
fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// A day and a time with its zone (RFC 3339). Upstream looks at nothing behind another `t`.
fn is_date_time(text: &str) -> bool {
    let text = text.to_lowercase();
    let mut parts = text.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let in_range = |parts: regex::Captures<'_>| {
        let [hour, minute, second] = [1, 2, 3].map(|at| parts.get(at).map_or("", |part| part.as_str()));
        hour <= "23" && minute <= "59" && second <= "59"
    };
    is_date(date) && TIME.captures(time).is_some_and(in_range)
}

/// A duration as Go writes it, or numbers with units in Scala's manner, like `2 weeks`.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 11] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk"];
    const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    if api_types::time::parse_duration(text).is_some() {
        return true;
    }
    let (mut is_one, mut is_small) = (false, true);
    for measure in MEASURE.captures_iter(text) {
        let [number, unit] = [1, 2].map(|at| measure.get(at).map_or("", |part| part.as_str()));
        let unit = unit.to_lowercase();
        is_small &= number.parse::<i64>().is_ok();
        is_one |= UNITS.contains(&unit.as_str()) || BEGINNINGS.iter().any(|one| unit.starts_with(one));
    }
    is_one && is_small
}

/// Four bytes in decimal digits; there may be zeros before them, as before Go 1.17.
fn are_four_bytes(text: &str) -> bool {
    let is_byte = |part: &str| {
        let digits = part.trim_start_matches('0');
        !part.is_empty() && are_digits(part) && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    text.split('.').count() == 4 && text.split('.').all(is_byte)
}

/// An address of version 4, also one that is written as one of version 6.
fn is_ipv4(text: &str) -> bool {
    are_four_bytes(text) || text.contains('.') && text.parse::<Ipv6Addr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match () {
        () if are_four_bytes(address) => 32,
        () if address.parse::<Ipv6Addr>().is_ok() => 128,
        () => return false,
    };
    !bits.is_empty() && are_digits(bits) && bits.parse::<u32>().is_ok_and(|bits| bits <= most)
}

/// A host's name: one part, or several with inner dashes, the last of letters.
fn is_hostname(text: &str) -> bool {
    let is_short = |part: &str| !part.is_empty() && part.len() <= MAX_LABEL;
    if text.len() > MAX_HOST || !text.split('.').all(is_short) {
        return false;
    }
    match text.rsplit_once('.') {
        Some((parts, last)) => {
            let is_part = |part: &str| {
                !part.starts_with('-') && !part.ends_with('-') && PART.is_match(&part.replace('-', ""))
            };
            parts.split('.').all(is_part) && last.chars().count() >= 2 && LAST.is_match(last)
        }
        None => {
            // One alone may have a dash behind its first letter only.
            let first = text.chars().next().map_or(0, char::len_utf8);
            let (head, rest) = text.split_at(first);
            PART.is_match(head) && PART.is_match(rest.strip_prefix('-').unwrap_or(rest))
        }
    }
}

/// Six or eight bytes: pairs of digits between colons or dashes, or four digits between dots (Go's `net.ParseMAC`).
fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize, counts: &[usize]| {
        let all: Vec<&str> = text.split(separator).collect();
        counts.contains(&all.len()) && all.iter().all(|group| group.len() == digits && are_hex(group))
    };
    // Twenty bytes are an address of InfiniBand.
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

/// 32 digits, between whose groups may be dashes. `version`: what stands at the version's place; versions 4 and 5 have
/// one of four digits at the variant's.
fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let mut digits = Vec::with_capacity(32);
    for byte in text.bytes() {
        match byte {
            b'-' if matches!(digits.len(), 8 | 12 | 16 | 20) => {}
            byte if byte.is_ascii_hexdigit() => digits.push(byte.to_ascii_lowercase()),
            _ => return false,
        }
    }
    let has_variant =
        !matches!(version, Some(b'4' | b'5')) || matches!(digits.get(16), Some(b'8' | b'9' | b'a' | b'b'));
    digits.len() == 32
        && !text.contains("--")
        && version.is_none_or(|wanted| digits[12] == wanted)
        && has_variant
}

/// What is left without blanks and dashes.
fn joined(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_ascii_whitespace() && *letter != '-').collect()
}

fn digit(byte: u8) -> u32 {
    u32::from(byte.wrapping_sub(b'0'))
}

fn is_isbn10(text: &str) -> bool {
    let text = joined(text);
    if text.len() != 10
        || !text.is_ascii()
        || !are_digits(&text[..9])
        || !matches!(text.as_bytes()[9], b'0'..=b'9' | b'X')
    {
        return false;
    }
    let weighted = text.bytes().zip(1..).map(|(byte, weight)| match byte {
        b'X' => 10 * weight,
        byte => digit(byte) * weight,
    });
    weighted.sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let text = joined(text);
    let weighted = text.bytes().zip([1, 3].into_iter().cycle()).map(|(byte, weight)| digit(byte) * weight);
    text.len() == 13 && are_digits(&text) && weighted.sum::<u32>() % 10 == 0
}

/// A number of a card with its check digit (Luhn's).
fn is_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let sum = digits.bytes().rev().zip([1, 2].into_iter().cycle()).map(|(byte, weight)| {
        let product = digit(byte) * weight;
        product / 10 + product % 10
    });
    CARD.is_match(&digits) && sum.sum::<u32>() % 10 == 0
}

/// `123-45-6789`, with blanks or dashes.
fn is_social_security_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_separator = |at: usize| matches!(bytes[at], b'-' | b' ');
    let is_digit = |at: usize| bytes[at].is_ascii_digit();
    bytes.len() == 11 && (0..11).all(|at| if matches!(at, 3 | 6) { is_separator(at) } else { is_digit(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that have a format, and texts that do not.
    pub(super) fn check(form: &str, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(has(form, text), "{form}: {text:?}");
        }
        for text in bad {
            assert!(!has(form, text), "{form}: {text:?}");
        }
    }

    #[test]
    fn names_of_hosts() {
        check(
            "hostname",
            &["a", "example.org", "a-b.example.org", "1a.example.org", "localhost", "a-b"],
            &["", "a_b.org", "-a.org", "a..org", "a.b1", "ab-c"],
        );
        check(
            "mac",
            &["01:23:45:67:89:ab", "01-23-45-67-89-AB", "0123.4567.89ab"],
            &["", "01:23", "01:23:45:67:89:xy"],
        );
        check("k8s-short-name", &["a-b"], &["a.b", "A"]);
        check("k8s-long-name", &["a.b"], &["A.b"]);
    }

    #[test]
    fn times() {
        check("date", &["2020-02-29"], &["", "2021-02-29", "20200229", "2020-02-29T00:00:00"]);
        let good = ["2020-02-29T10:00:00Z", "2020-02-29t10:00:00.123+01:00"];
        let bad = ["2020-02-29", "2020-02-29 10:00:00Z", "2020-02-29T24:00:00Z", "2020-02-29T10:00:00"];
        check("date-time", &good, &bad);
        check("datetime", &good, &bad);
        let good = ["1h30m", "0", "1 week", "45 weeekks and 2 Days", "3wk", "1  µs"];
        check(
            "duration",
            &good,
            &["", "yada", "12 parsecs", "12 y", "three weeks", "99999999999999999999 d"],
        );
    }

    #[test]
    fn addresses() {
        check("ipv4", &["10.0.0.1", "010.0.00.1", "::ffff:1.2.3.4"], &["", "10.0.0", "256.0.0.1", "::1"]);
        check("ipv6", &["::1", "fe80::1", "::ffff:1.2.3.4"], &["", "10.0.0.1", "fe80::1%eth0"]);
        check("cidr", &["10.0.0.1/8", "010.0.0.0/08", "::/0"], &["", "10.0.0.0", "10.0.0.0/33", "::/129"]);
        check("byte", &["YQ==", "YR==", "YWFh"], &["", "YQ", "YQ=", "Y-E="]);
    }

    #[test]
    fn numbers_with_their_rules() {
        let version_4 = "11111111-2222-4333-8444-555555555555";
        check(
            "uuid",
            &[version_4, "11111111222243338444555555555555"],
            &["", "1", "g1111111-2222-4333-8444-555555555555"],
        );
        check(
            "uuid4",
            &[version_4],
            &["11111111-2222-3333-8444-555555555555", "11111111-2222-4333-1444-555555555555"],
        );
        check("uuid3", &["11111111-2222-3333-1444-555555555555"], &[version_4]);
        check("isbn", &["0321751043", "978-0321751041"], &["0321751044", "978-0321751042", "x"]);
        check("isbn10", &["0-8044-2957-X"], &["978-0321751041"]);
        check("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112", "1"]);
        check("ssn", &["111-11-1111", "111 11 1111"], &["111111111", "111-11-111a"]);
        check("hexcolor", &["#FFFFFF", "abc"], &["#ff", "#xyzxyz"]);
        check("rgbcolor", &["rgb(1, 255,0)"], &["rgb(1,2)", "rgb(256,0,0)"]);
        check("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f1f77"]);
        check("anything", &["whatever"], &[]);
    }
}

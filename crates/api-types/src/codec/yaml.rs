//! Trees as YAML, for clients that ask for `application/yaml`.

use serde_json::Value;
use std::fmt::Write;

/// YAML of a tree: block style, sorted keys, two spaces a level, lists at the level of their key, as upstream writes.
pub fn encode_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0),
        Value::Array(list) if !list.is_empty() => block(&mut out, value, 0),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, level: usize) {
    for _ in 0..level {
        out.push_str("  ");
    }
}

/// A collection that is not empty, from the start of a line.
fn block(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    indent(out, level);
                }
                if key.contains('\n') {
                    out.push_str(&Value::from(key.as_str()).to_string());
                } else {
                    text(out, key, level);
                }
                out.push(':');
                member(out, item, level);
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    indent(out, level);
                }
                out.push_str("- ");
                entry(out, item, level);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

/// The value behind `key:`.
fn member(out: &mut String, value: &Value, level: usize) {
    if is_empty(value) {
        out.push(' ');
        scalar(out, value, level + 1);
        out.push('\n');
        return;
    }
    let level = if value.is_array() { level } else { level + 1 };
    out.push('\n');
    indent(out, level);
    block(out, value, level);
}

/// The value behind `- `.
fn entry(out: &mut String, value: &Value, level: usize) {
    if is_empty(value) {
        scalar(out, value, level + 1);
        out.push('\n');
    } else {
        block(out, value, level + 1);
    }
}

fn scalar(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::String(string) => text(out, string, level),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => write!(out, "{other}").expect("writing to a string"),
    }
}

/// Plain where nothing else could be read from it, a literal block for several lines, else quoted.
fn text(out: &mut String, string: &str, level: usize) {
    let printable = |c: char| c == '\n' || c == '\t' || !c.is_control();
    let literal = string.contains('\n')
        && string.chars().all(printable)
        && !string.starts_with([' ', '\n', '\t'])
        && !string.lines().any(|l| l.ends_with(' '));
    if is_plain(string) && !reads_as_other(string) {
        out.push_str(string);
    } else if literal {
        literal_block(out, string, level);
    } else if string.chars().any(is_special) {
        out.push_str(&Value::from(string).to_string());
    } else if reads_as_other(string) {
        write!(out, "\"{string}\"").expect("writing to a string");
    } else {
        write!(out, "'{}'", string.replace('\'', "''")).expect("writing to a string");
    }
}

fn literal_block(out: &mut String, string: &str, level: usize) {
    let body = string.trim_end_matches('\n');
    let chomping = match string.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    };
    out.push_str(chomping);
    for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, level.max(1));
            out.push_str(line);
        }
    }
}

/// Characters that only stand in double quotes, escaped.
fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

/// Whether the bare text is a scalar by its characters.
fn is_plain(string: &str) -> bool {
    const INDICATORS: &str = ",[]{}#&*!|>'\"%@` ";
    let starts_entry =
        matches!(string, "-" | "?" | ":") || ["- ", "? ", ": "].iter().any(|s| string.starts_with(s));
    !string.is_empty()
        && !starts_entry
        && !string.starts_with(|c| INDICATORS.contains(c))
        && !["---", "..."].iter().any(|s| string.starts_with(s))
        && !string.ends_with([' ', ':'])
        && !string.contains(": ")
        && !string.contains(" #")
        && !string.contains(is_special)
}

/// Whether some reader of YAML 1.1 or 1.2 takes the bare text for something else than a string: null, a boolean, a
/// number, a time, base 60. Errs on the side of quotes.
fn reads_as_other(string: &str) -> bool {
    const WORDS: [&str; 15] =
        ["", "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "=", "<<", ".nan", ".inf"];
    let lower = string.to_ascii_lowercase();
    let signless = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    let digit = signless.strip_prefix('.').unwrap_or(signless).starts_with(|c: char| c.is_ascii_digit());
    let number = digit && lower.chars().all(|c| c.is_ascii_hexdigit() || "+-._:xotz ".contains(c));
    WORDS.contains(&signless) || number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode_yaml;
    use serde_json::json;

    #[test]
    fn blocks_have_upstreams_shape() {
        let value =
            json!({"a": {"b": [1, {"c": "x", "d": []}], "e": {}}, "f": "1", "g": "two\nlines\n", "h": null});
        let expected =
            "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  e: {}\nf: \"1\"\ng: |\n  two\n  lines\nh: null\n";
        assert_eq!(encode_yaml(&value), expected);
    }

    #[test]
    fn every_text_reads_back() {
        for text in [
            "",
            "a",
            "1",
            "1.5",
            "0x1f",
            "true",
            "No",
            "~",
            "null",
            "a: b",
            "a:",
            "#x",
            "x #y",
            " x",
            "x ",
            "- a",
            "-",
            "'",
            "it's",
            "\"q\"",
            "a\nb",
            "a\n",
            "a\n\n",
            "\na",
            "  a\nb",
            "a \nb",
            "\t",
            "é",
            "\u{1}",
            "2026-01-02T03:04:05Z",
            "12:30",
            "1e3",
            ".5",
            "+1",
            "10.0.0.0/8",
            "%x",
            "@x",
            "[a]",
            "{a}",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "a,b",
            "0777",
            "1_000",
            "a\\b",
            "a\u{2028}b",
            "500m",
            "=",
            "<<",
            "a\n  b\n c",
        ] {
            for value in [
                json!(text),
                json!({"k": text}),
                json!([[text], {"a": {text: 1}}]),
                json!({"k": [{"x": text}]}),
            ] {
                let yaml = encode_yaml(&value);
                assert_eq!(decode_yaml(yaml.as_bytes()).map(|d| d.value), Ok(value), "{text:?} as {yaml}");
            }
        }
    }
}

//! Paths to fields of a schema (`.spec.replicas`, `.spec['a.b']`), of which rules and field selectors speak (upstream:
//! `ValidFieldPath`).

use crate::look::Look;
use serde_json::Value;

/// Where a path leads to.
pub(super) struct Target<'a> {
    /// Names on the way.
    pub steps: Vec<String>,
    /// The schema there; none where values may be anything.
    pub schema: Option<&'a Value>,
}

/// Follows a path through a schema.
///
/// # Errors
/// Upstream's words for a path that leads nowhere.
pub(super) fn follow<'a>(path: &str, schema: &'a Value, brackets: bool) -> Result<Target<'a>, String> {
    const END: &str = "unexpected end of JSON path";
    let mut rest = path;
    let mut target = Target { steps: Vec::new(), schema: Some(schema) };
    while let Some(token) = next(&mut rest) {
        match token {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = next(&mut rest).ok_or(END)?;
                let inner = quoted.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\''));
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                target.step(unescape(inner)?)?;
                match next(&mut rest).ok_or(END)? {
                    "]" => {}
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => target.step(next(&mut rest).ok_or(END)?.to_owned())?,
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(target)
}

impl Target<'_> {
    fn step(&mut self, name: String) -> Result<(), String> {
        let nowhere = || "does not refer to a valid field".to_owned();
        let schema = self.schema.ok_or_else(nowhere)?;
        let more = schema.at("additionalProperties");
        let properties = schema.entries("properties").next().map(|_| schema.at("properties"));
        self.schema = match properties {
            Some(properties) => Some(properties.get(&name).ok_or_else(nowhere)?),
            None if more.is_null() => return Err(nowhere()),
            None => Some(more).filter(|more| more.is_object()),
        };
        self.steps.push(name);
        Ok(())
    }
}

/// A delimiter, a quoted text, or what stands before a delimiter.
fn next<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = *rest;
    let end = match text.chars().next()? {
        '.' | '[' | ']' => 1,
        '\'' => {
            let closes = |at: &usize| *at > 0 && text.as_bytes()[at - 1] != b'\\';
            text.match_indices('\'').map(|(at, _)| at).find(closes).map_or(text.len(), |at| at + 1)
        }
        _ => text.find(['.', '[', ']']).unwrap_or(text.len()),
    };
    let (token, behind) = text.split_at(end);
    *rest = behind;
    Some(token)
}

fn unescape(text: &str) -> Result<String, String> {
    let (mut out, mut letters) = (String::new(), text.chars());
    while let Some(letter) = letters.next() {
        let escaped = if letter == '\\' { letters.next() } else { None };
        out.push(match (letter, escaped) {
            ('\\', Some('a')) => '\u{7}',
            ('\\', Some('b')) => '\u{8}',
            ('\\', Some('f')) => '\u{c}',
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some('v')) => '\u{b}',
            ('\\', Some(plain @ ('\'' | '\\'))) => plain,
            ('\\', Some(other)) => {
                return Err(format!("invalid string literal: invalid escape char \\{other}"));
            }
            (plain, _) => plain,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_fields() {
        let schema = json!({"properties": {"a": {"type": "string"}, "x.y": {"properties": {"z": {"type": "integer"}}},
            "m": {"additionalProperties": {"type": "boolean"}}, "free": {"additionalProperties": true}}});
        let kind = |path: &str| {
            follow(path, &schema, true).map(|found| found.schema.map(|schema| schema.text("type").to_owned()))
        };
        for (path, wanted) in [
            (".a", Some("string")),
            ("['x.y'].z", Some("integer")),
            (".m['k']", Some("boolean")),
            (".m.k", Some("boolean")),
            (".m['it\\'s']", Some("boolean")),
            (".free.x", None),
        ] {
            assert_eq!(kind(path), Ok(wanted.map(str::to_owned)), "{path}");
        }
        for (path, why) in [
            (".b", "does not refer to a valid field"),
            (".a.b", "does not refer to a valid field"),
            (".free.x.y", "does not refer to a valid field"),
            ("a", "expected [ or . but got: a"),
            (".", "unexpected end of JSON path"),
            (".m[", "unexpected end of JSON path"),
            (".m[\"k\"]", "expected single quoted string but got \"k\""),
            (".m['k'", "unexpected end of JSON path"),
            (".m['k'x]", "expected ] but got x"),
            (".m['\\q']", "invalid string literal: invalid escape char \\q"),
        ] {
            assert_eq!(kind(path), Err(why.to_owned()), "{path}");
        }
        assert_eq!(follow("['a']", &schema, false).err(), Some("array notation is not allowed".to_owned()));
        assert_eq!(
            follow("['x.y'].z", &schema, true).map(|found| found.steps),
            Ok(vec!["x.y".into(), "z".into()])
        );
    }
}

//! Field selectors.

use super::SelectorError;
use std::fmt;

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field label as the client gave it: `spec.nodeName`.
    pub field: String,
    /// `!=` instead of `=`.
    pub negated: bool,
    pub value: String,
}

/// A conjunction of field conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses the text of `fieldSelector=`: `a=b,c!=d`, with `\\`, `\,` and `\=` in values.
    ///
    /// # Errors
    /// A term without an operator, or a bad escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text).into_iter().filter(|t| !t.is_empty()) {
            requirements.push(field_requirement(text, term)?);
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// `value_of` gives the value that a field label stands for; an unknown one compares as empty.
    pub fn matches(&self, mut value_of: impl FnMut(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|r| (value_of(&r.field).unwrap_or_default() == r.value) != r.negated)
    }

    /// The value that `field` must equal, when the selector asks for one: lets an index be used.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{}{value}", r.field, if r.negated { "!=" } else { "=" })?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn field_requirement(selector: &str, term: &str) -> Result<FieldRequirement, SelectorError> {
    for (at, _) in term.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = term[at..].strip_prefix(operator) {
                let value = unescape(value)?;
                return Ok(FieldRequirement { field: term[..at].to_owned(), negated, value });
            }
        }
    }
    Err(SelectorError(format!("invalid selector: '{selector}'; can't understand '{term}'")))
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let bad: String = other.into_iter().collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: \\{bad}"
                    )));
                }
            },
            (',' | '=', _) => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            (plain, _) => out.push(plain),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("spec.nodeName=a,status.phase!=Failed").unwrap();
        let value = |phase: &'static str| {
            move |f: &str| Some(if f == "spec.nodeName" { "a".into() } else { phase.to_owned() })
        };
        assert!(selector.matches(value("Running")));
        assert!(!selector.matches(value("Failed")));
        assert_eq!(selector.exact("spec.nodeName"), Some("a"));
        assert_eq!(FieldSelector::parse(r"a=x\,y").unwrap().requirements[0].value, "x,y");
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}

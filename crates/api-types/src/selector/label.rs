//! Label selectors.

use super::SelectorError;
use super::names::{MAX_NAME, VALUE_RULE, is_label_value, label_key_fault};
use crate::codec::peek::Peek;
use crate::field::{FieldError, Path, aggregate, quote};
use serde_json::{Map, Value};
use std::fmt;

/// Operators of the text form; `In` with one value prints as `=` when parsed from `=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted.
    pub values: Vec<String>,
}

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort();
        values.dedup();
        Self { key: key.into(), operator, values }
    }

    /// Whether the label with this value (none: no such label) fulfils the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value).is_some_and(|(a, b)| a > b),
            Operator::LessThan => self.compare(value).is_some_and(|(a, b)| a < b),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, first) = (&self.key, self.values.first().map_or("", String::as_str));
        match self.operator {
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::DoubleEquals => write!(f, "{key}=={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", self.values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", self.values.join(",")),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

/// A conjunction of label conditions; without any it matches everything (unless made by [`Self::nothing`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Self { requirements: vec![], nothing: true }
    }

    /// Parses the text of `labelSelector=`.
    ///
    /// # Errors
    /// The text does not follow the grammar, or a key or value is not a valid label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let mut requirements = parser.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `meta/v1 LabelSelector` object. Null (no selector) matches nothing, an empty one everything.
    ///
    /// # Errors
    /// An operator that is not known, or values that do not fit it.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let Some(object) = value.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        if let Some(labels) = object.get("matchLabels").and_then(Value::as_object) {
            requirements.extend(equal_to(labels));
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// The selector of a plain map (`spec.selector` of a Service): every label must be equal.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        Self { requirements: equal_to(labels).collect(), nothing: false }
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// `value_of` gives a label's value.
    pub fn matches<S: AsRef<str>>(&self, value_of: impl Fn(&str) -> Option<S>) -> bool {
        let fits = |each: &Requirement| each.matches(value_of(&each.key).as_ref().map(AsRef::as_ref));
        !self.nothing && self.requirements.iter().all(fits)
    }

    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(|key| labels?.get(key)?.as_str())
    }

    /// Matches the labels of an object that is not read whole.
    pub fn matches_peek(&self, object: &Peek<'_>) -> bool {
        self.matches(|key| object.label(key))
    }

    /// Matches the labels of an object's metadata.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches_labels(crate::meta::labels(object))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

fn equal_to(labels: &Map<String, Value>) -> impl Iterator<Item = Requirement> {
    labels
        .iter()
        .map(|(k, v)| Requirement::new(k, Operator::Equals, vec![v.as_str().unwrap_or_default().into()]))
}

fn expression_requirement(expression: &Value) -> Result<Requirement, SelectorError> {
    let text = |key: &str| expression[key].as_str().unwrap_or_default();
    let values: Vec<String> = expression["values"]
        .as_array()
        .map(|v| v.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
    };
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values == values.is_empty() {
        let rule = if wants_values { "must be non-empty for" } else { "must be empty for" };
        return Err(SelectorError(format!(
            "values: Invalid value: {values:?}: {rule} operator {:?}",
            text("operator")
        )));
    }
    Ok(Requirement::new(text("key"), operator, values))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

fn tokens(text: &str) -> Result<Vec<Token>, SelectorError> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "!", "=", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(symbol));
            rest = rest[symbol.len()..].trim_start();
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace() || "!=(),><".contains(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(SelectorError(format!("unexpected character in {text:?}")));
        }
        tokens.push(Token::Word(rest[..end].to_owned()));
        rest = rest[end..].trim_start();
    }
    tokens.push(Token::End);
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut found = Vec::new();
        if *self.peek() == Token::End {
            return Ok(found);
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
            return Err(unexpected(self.peek(), "!, identifier, or 'end of string'"));
        }
        loop {
            let requirement = self.requirement();
            let told = |e| SelectorError(format!("unable to parse requirement: {e}"));
            found.push(requirement.map_err(told)?);
            match self.next() {
                Token::End => return Ok(found),
                Token::Symbol(",") => {}
                other => return Err(unexpected(&other, "',' or 'end of string'")),
            }
            if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
                return Err(unexpected(self.peek(), "identifier after ','"));
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if *self.peek() == Token::Symbol("!") {
            self.next();
            let key = self.key()?;
            return Ok(Requirement::new(&key, Operator::DoesNotExist, vec![]));
        }
        let key = self.key()?;
        let operator = match self.peek() {
            Token::End | Token::Symbol(",") => return Ok(Requirement::new(&key, Operator::Exists, vec![])),
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            Token::Word(w) if w == "in" => Operator::In,
            Token::Word(w) if w == "notin" => Operator::NotIn,
            other => return Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        self.next();
        let values = match operator {
            Operator::In | Operator::NotIn => self.value_list()?,
            _ => vec![self.value()?],
        };
        let requirement = Requirement::new(&key, operator, values);
        check_values(&requirement)?;
        Ok(requirement)
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        match self.next() {
            Token::Word(key) => {
                check_key(&key)?;
                Ok(key)
            }
            other => Err(unexpected(&other, "identifier")),
        }
    }

    /// A value may be empty (`a=`).
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek().clone() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.next();
                Ok(value)
            }
            other => Err(unexpected(&other, "identifier")),
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(SelectorError(format!("found '{}' expected: '('", other.text()))),
        }
        let mut values = Vec::new();
        // What was read before: a value, a comma, or none of them yet.
        let (mut after_value, mut after_comma) = (false, false);
        loop {
            let expected = match (after_value, after_comma) {
                (true, _) => "',' or ')'",
                (_, true) => "',', or identifier",
                _ => "',', ')' or identifier",
            };
            match self.next() {
                Token::Word(word) if !after_value => {
                    values.push(word);
                    (after_value, after_comma) = (true, false);
                }
                Token::Symbol(symbol @ ("," | ")")) => {
                    if !after_value {
                        values.push(String::new());
                    }
                    if symbol == ")" {
                        return Ok(values);
                    }
                    (after_value, after_comma) = (false, true);
                }
                other => return Err(unexpected(&other, expected)),
            }
        }
    }
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

fn unexpected(token: &Token, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", token.text()))
}

fn check_values(requirement: &Requirement) -> Result<(), SelectorError> {
    let mut errors = Vec::new();
    let path = |index| Path::new("values").index(index);
    if matches!(requirement.operator, Operator::GreaterThan | Operator::LessThan) {
        let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
        let bad = requirement.values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err());
        errors.extend(bad.map(|(index, value)| FieldError::invalid(&path(index), value.as_str(), rule)));
    }
    for (index, value) in requirement.values.iter().enumerate().filter(|(_, value)| !is_label_value(value)) {
        let rule = if value.len() > MAX_NAME { "must be no more than 63 bytes" } else { VALUE_RULE };
        errors.push(FieldError::invalid(&path(index).key(&requirement.key), value.as_str(), rule));
    }
    if errors.is_empty() { Ok(()) } else { Err(SelectorError(aggregate(&errors))) }
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    match label_key_fault(key) {
        None => Ok(()),
        Some(rule) => Err(SelectorError(format!("<nil>: Invalid value: {}: {rule}", quote(key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
        move |key| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    #[test]
    fn label_selectors_match() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=db", true),
            ("app in (web, api)", true),
            ("app notin (web)", false),
            ("missing notin (a)", true),
            ("missing!=a", true),
            ("!app", false),
            ("app", true),
            ("n>3", true),
            ("n<3", false),
            ("empty=", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(labels(&[("app", "web"), ("n", "5")])), expected, "{text}");
        }
    }

    #[test]
    fn bad_label_selectors_are_refused() {
        for text in ["a=b=c", "a in b", "a in (b", "=b", "a,,b", "-a=b", "a=b c", "x/y/z=1"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let rule = "a valid label must be an empty string or consist of alphanumeric characters";
        for (text, expected) in [
            ("((((", "found '(', expected: !, identifier, or 'end of string'"),
            ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b,", "unable to parse requirement: found '', expected: ',', or identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("!!a", "unable to parse requirement: found '!', expected: identifier"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let all = LabelSelector::parse("a in (y_,-x)").unwrap_err().to_string();
        let begin = "unable to parse requirement: [values[0][a]: Invalid value: \"-x\": ";
        assert!(all.starts_with(begin) && all.matches(rule).count() == 2, "{all}");
    }

    #[test]
    fn object_form() {
        let value =
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
        let selector = LabelSelector::from_value(&value).unwrap();
        assert_eq!(selector.to_string(), "a=b,c");
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(labels(&[])));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(labels(&[])));
        assert!(
            LabelSelector::from_value(&json!({"matchExpressions": [{"key": "c", "operator": "In"}]}))
                .is_err()
        );
    }
}

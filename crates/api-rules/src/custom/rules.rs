//! CEL rules of a structural schema (`x-kubernetes-validations`, KEP-2876, KEP-4008): compiled once, and run where they
//! stand. All rules of one object pay from one budget (upstream: `apiextensions-apiserver/pkg/apiserver/schema/cel`).

use std::sync::Arc;

use api_types::field::{ErrorType, FieldError, OMITTED};
use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value;

use super::rule_types::escape;
use crate::cel::{self, Budget, Names, Rule as Program};
use crate::errors::At;
use crate::look::Look;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    own: Vec<Rule>,
    /// Schemas that the whole value must fit too.
    all_of: Vec<(usize, Rules)>,
    properties: Vec<(String, Rules)>,
    items: Option<Box<Rules>>,
    more: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    program: Result<Program, String>,
    source: String,
    message: String,
    message_program: Option<Program>,
    reason: ErrorType,
    /// Which part of the value is at fault, as a path below it.
    field: String,
    /// Whether it also runs when there is nothing to compare with.
    optional_old: bool,
    transition: bool,
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let program = cel::Rule::compile(rule.text("rule"));
        let message = rule.text("messageExpression");
        Self {
            transition: program.as_ref().is_ok_and(|program| program.mentions("oldSelf")),
            program,
            source: rule.text("rule").trim().to_owned(),
            message: rule.text("message").trim().to_owned(),
            message_program: Some(message)
                .filter(|text| !text.is_empty())
                .and_then(|text| Program::compile(text).ok()),
            reason: match rule.text("reason") {
                "FieldValueForbidden" => ErrorType::Forbidden,
                "FieldValueRequired" => ErrorType::Required,
                "FieldValueDuplicate" => ErrorType::Duplicate,
                _ => ErrorType::Invalid,
            },
            field: rule.text("fieldPath").to_owned(),
            optional_old: rule.flag("optionalOldSelf"),
        }
    }

    /// What an error calls the rule.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }
}

impl Rules {
    /// The rules of a schema; none when there is no rule in it.
    pub fn new(schema: &Value) -> Option<Self> {
        let below = |part: &Value| part.is_object().then(|| Self::new(part)).flatten().map(Box::new);
        let parts = schema.items("allOf").iter().enumerate();
        let properties = schema.entries("properties");
        let rules = Self {
            own: schema.items("x-kubernetes-validations").iter().map(Rule::new).collect(),
            all_of: parts.filter_map(|(at, part)| Some((at, Self::new(part)?))).collect(),
            properties: properties
                .filter_map(|(name, part)| Some((name.to_owned(), Self::new(part)?)))
                .collect(),
            items: below(schema.at("items")),
            more: below(schema.at("additionalProperties")),
        };
        let empty = rules.own.is_empty() && rules.all_of.is_empty() && rules.properties.is_empty();
        (!empty || rules.items.is_some() || rules.more.is_some()).then_some(rules)
    }

    /// Errors of a whole object, and of the change from `old` where rules speak of it.
    pub fn validate(&self, schema: &Value, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut run = Run { budget: Budget::default(), errors: Vec::new(), root: true };
        run.walk(self, schema, At::root(""), object, old);
        run.errors
    }
}

/// The rules of one object at work.
struct Run {
    budget: Budget,
    errors: Vec<FieldError>,
    /// Whether the value is the whole object, which has metadata whatever its schema says.
    root: bool,
}

impl Run {
    fn walk(&mut self, rules: &Rules, schema: &Value, at: At<'_>, value: &Value, old: Option<&Value>) {
        if value.is_null() || self.budget.is_spent() {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        self.evaluate(rules, schema, at, value, old);
        for (part, rules) in &rules.all_of {
            self.walk(rules, &schema.items("allOf")[*part], at, value, old);
        }
        self.root = false;
        match value {
            Value::Object(map) => {
                // Atomic maps are not compared by their keys.
                let old = old.filter(|_| schema.text("x-kubernetes-map-type") != "atomic");
                let before = |name: &str| old.and_then(|old| old.get(name));
                for (name, rules) in &rules.properties {
                    if let Some(child) = map.get(name) {
                        let inner = schema.at("properties").key(name);
                        self.walk(rules, inner, at.at(name), child, before(name));
                    }
                }
                let Some(rules) = &rules.more else { return };
                let named = schema.at("properties");
                for (name, child) in map.iter().filter(|(name, _)| named.get(name).is_none()) {
                    self.walk(rules, schema.at("additionalProperties"), at.key(name), child, before(name));
                }
            }
            Value::Array(items) => {
                let Some(rules) = &rules.items else { return };
                let before = Keyed::of(schema, old);
                for (index, item) in items.iter().enumerate() {
                    self.walk(rules, schema.at("items"), at.index(index), item, before.find(item));
                }
            }
            _ => {}
        }
    }

    fn evaluate(&mut self, rules: &Rules, schema: &Value, at: At<'_>, value: &Value, old: Option<&Value>) {
        let skipped = |rule: &&Rule| rule.transition && old.is_none() && !rule.optional_old;
        let mut due = rules.own.iter().filter(|rule| !skipped(rule)).peekable();
        if due.peek().is_none() {
            return;
        }
        let own = to_cel(value, schema, self.root);
        let before = old.map(|old| to_cel(old, schema, self.root));
        let optional = cel::optional(before.clone());
        for rule in due {
            let mut names: Names<'_> = vec![("self", own.clone())];
            match (rule.optional_old, &before) {
                (true, _) => names.push(("oldSelf", optional.clone())),
                (false, Some(before)) => names.push(("oldSelf", before.clone())),
                (false, None) => {}
            }
            if let Some(error) = self.judge(rule, &names, schema, at, value) {
                self.errors.push(error);
            }
            if self.budget.is_spent() {
                return;
            }
        }
    }

    fn judge(
        &self,
        rule: &Rule,
        names: &Names<'_>,
        schema: &Value,
        at: At<'_>,
        value: &Value,
    ) -> Option<FieldError> {
        let fault = |detail: String| {
            let ty = ErrorType::Invalid;
            Some(FieldError {
                field: path(at, ""),
                ty,
                bad_value: schema.text("type").into(),
                detail,
                origin: "",
            })
        };
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return fault(format!("rule compile error: {error}")),
        };
        match program.run(names, &self.budget) {
            Ok(Cel::Bool(true)) => return None,
            Ok(_) => {}
            Err(_) if self.budget.is_spent() => return fault(OUT_OF_BUDGET.to_owned()),
            Err(error) if error.starts_with("no such overload") => {
                return fault(format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    rule.shown()
                ));
            }
            Err(error) => return fault(format!("{error} evaluating rule: {}", rule.shown())),
        }
        let made = rule.message_program.as_ref().and_then(|program| match program.run(names, &self.budget) {
            Ok(Cel::String(text)) => Some(text.trim().to_owned()).filter(|text| is_message(text)),
            _ => None,
        });
        let detail = made.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.source),
            message => message.to_owned(),
        });
        let shown = match value {
            Value::Object(_) | Value::Array(_) => OMITTED.into(),
            value => value.clone(),
        };
        let detail = if rule.reason == ErrorType::Duplicate { String::new() } else { detail };
        Some(FieldError {
            field: path(at, &rule.field),
            ty: rule.reason,
            bad_value: shown,
            detail,
            origin: "",
        })
    }
}

/// Whether a text that an expression made may stand in for the message (upstream: `evalMessageExpression`).
fn is_message(text: &str) -> bool {
    const MAX: usize = 5 * 1024;
    !text.is_empty() && text.len() <= MAX && !text.contains('\n')
}

/// The path of a value with a path below it.
fn path(at: At<'_>, below: &str) -> String {
    let own = at.to_string();
    let below = if own.is_empty() { below.trim_start_matches('.') } else { below };
    match own + below {
        path if path.is_empty() => "<nil>".to_owned(),
        path => path,
    }
}

/// The elements of an old list by their keys; lists of other types are not compared by element.
struct Keyed<'a> {
    keys: Vec<&'a str>,
    items: &'a [Value],
}

impl<'a> Keyed<'a> {
    fn of(schema: &'a Value, old: Option<&'a Value>) -> Self {
        let map = schema.text("x-kubernetes-list-type") == "map";
        let keys = schema.items("x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
        Self { keys, items: old.filter(|_| map).map_or(&[], |old| old.items("")) }
    }

    fn find(&self, item: &Value) -> Option<&'a Value> {
        let same = |other: &&Value| self.keys.iter().all(|key| other.get(key) == item.get(key));
        self.items.iter().filter(|_| !self.keys.is_empty()).find(same)
    }
}

/// A value as rules see it: times, durations and bytes by their formats, names of fields escaped.
fn to_cel(value: &Value, schema: &Value, whole: bool) -> Cel {
    match value {
        Value::String(text) if !schema.flag("x-kubernetes-int-or-string") => {
            cel::text_of_format(text, schema.text("format"))
        }
        Value::Number(number) if schema.text("type") == "number" => {
            Cel::Float(number.as_f64().unwrap_or_default())
        }
        Value::Array(items) => {
            Cel::List(Arc::new(items.iter().map(|item| to_cel(item, schema.at("items"), false)).collect()))
        }
        Value::Object(map) => {
            let whole = whole || schema.flag("x-kubernetes-embedded-resource");
            let (properties, more) = (schema.at("properties"), schema.at("additionalProperties"));
            // Keys of maps are the user's own.
            let free = more.is_object() || *more == Value::Bool(true);
            let named = |name: &str| whole && matches!(name, "apiVersion" | "kind" | "metadata");
            let entries = map.iter().filter_map(|(name, child)| {
                let inner = properties.get(name).unwrap_or(more);
                let known = inner.is_object()
                    || free
                    || named(name)
                    || schema.flag("x-kubernetes-preserve-unknown-fields");
                let key = if free { name.clone() } else { escape(name)? };
                known.then(|| (Key::String(Arc::new(key)), to_cel(child, inner, false)))
            });
            Cel::Map(Map { map: Arc::new(entries.collect()) })
        }
        other => cel::to_cel(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
        let rules = Rules::new(schema).unwrap();
        rules.validate(schema, object, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_run_where_they_stand() {
        let schema = json!({"type": "object", "properties": {
            "sizes": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}},
            "x-y": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "size(self) < 3", "messageExpression": "'not ' + self"}]}},
            "when": {"type": "string", "format": "date-time",
                "x-kubernetes-validations": [{"rule": "self.getFullYear() > 2000", "message": "too old"}]}},
            "x-kubernetes-validations": [{"rule": "has(self.x__dash__y)", "fieldPath": ".x-y", "reason": "FieldValueRequired"}]});
        let good = json!({"sizes": [1], "x-y": {"a": "b"}, "when": "2026-01-01T00:00:00Z"});
        assert_eq!(faults(&schema, &good, None), Vec::<String>::new());
        assert_eq!(
            faults(&schema, &json!({"sizes": [1, 0], "when": "1999-01-01T00:00:00Z"}), None),
            [
                "x-y: Required value: failed rule: has(self.x__dash__y)",
                "sizes[1]: Invalid value: 0: failed rule: self > 0",
                "when: Invalid value: \"1999-01-01T00:00:00Z\": too old",
            ]
        );
        assert_eq!(
            faults(&schema, &json!({"x-y": {"a": "long"}}), None),
            ["x-y[a]: Invalid value: \"long\": not long"]
        );
    }

    #[test]
    fn changes_are_judged_by_what_can_be_compared() {
        let schema = json!({"type": "object", "properties": {
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "may not fall"}]}}}},
            "plain": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}},
            "first": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": true, "message": "begins with 1"}]}}});
        let of =
            |n: i64, m: i64| json!({"list": [{"name": "b", "n": m}, {"name": "a", "n": n}], "plain": [n]});
        let old = json!({"list": [{"name": "a", "n": 5}], "plain": [9]});
        assert_eq!(faults(&schema, &of(5, 0), Some(&old)), Vec::<String>::new());
        assert_eq!(faults(&schema, &of(4, 0), Some(&old)), ["list[1].n: Invalid value: 4: may not fall"]);
        assert_eq!(faults(&schema, &json!({"first": 2}), None), ["first: Invalid value: 2: begins with 1"]);
        assert_eq!(faults(&schema, &json!({"first": 2}), Some(&json!({"first": 1}))), Vec::<String>::new());
    }

    #[test]
    fn a_rule_that_never_ends_is_ended() {
        let all = (0..400).collect::<Vec<i32>>();
        let rule = "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))";
        let schema = json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [{"rule": rule}, {"rule": "true"}]});
        let found = faults(&schema, &json!(all), None);
        assert_eq!(found, [format!("<nil>: Invalid value: \"array\": {OUT_OF_BUDGET}")]);
    }

    #[test]
    fn a_text_that_doubles_is_ended() {
        let doubled = "[self]".to_owned() + &".map(x, x + x)".repeat(60) + "[0] != ''";
        let schema = json!({"type": "string", "x-kubernetes-validations": [{"rule": doubled}]});
        let found = faults(&schema, &json!("a".repeat(1000)), None);
        assert_eq!(found, [format!("<nil>: Invalid value: \"string\": {OUT_OF_BUDGET}")]);
        let long = "a".repeat(20_000);
        for rule in [
            "self.replace('a', self) != ''",
            "self.replace('', self) != ''",
            "lists.range(1000000000).size() > 0",
            "self.split('').join(self) != ''",
            "'%s%s'.format([self.split('').map(c, self), self.split('').map(c, self)]) != ''",
        ] {
            let schema = json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]});
            let found = faults(&schema, &json!(long), None);
            assert!(found.len() == 1 && found[0].contains("budget"), "{rule}: {found:?}");
        }
    }
}

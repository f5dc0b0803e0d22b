//! CEL rules of a structural schema (`x-kubernetes-validations`, KEP-2876, KEP-4008): compiled once, and run where they
//! stand. All rules of one object pay from one budget (upstream: `apiextensions-apiserver/pkg/apiserver/schema/cel`).

use std::sync::Arc;

use api_types::field::{ErrorType, FieldError, OMITTED, quote};
use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value;

use super::rule_names::escape;
use crate::cel::{self, BUDGET, Names, OUT_OF_BUDGET, Rule as Program};
use crate::errors::At;
use crate::look::Look;

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
    message_source: String,
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
            message_source: message.to_owned(),
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
        let mut run = Run { left: BUDGET, errors: Vec::new(), root: true };
        run.walk(self, schema, At::root(""), object, old);
        run.errors
    }
}

/// The rules of one object at work.
struct Run {
    /// What the rules of the object may still cost; below zero, nothing else is run.
    left: i64,
    errors: Vec<FieldError>,
    /// Whether the value is the whole object, which has metadata whatever its schema says.
    root: bool,
}

impl Run {
    fn walk(&mut self, rules: &Rules, schema: &Value, at: At<'_>, value: &Value, old: Option<&Value>) {
        if value.is_null() || self.left < 0 {
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
        let place = Place { at, ty: schema.text("type"), value };
        if self.left == 0 {
            return self.end(place.fault(OUT_OF_BUDGET.to_owned()));
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
            self.judge(rule, &names, &place);
            if self.left < 0 {
                return;
            }
        }
    }

    /// Notes what is wrong, and that nothing else is run.
    fn end(&mut self, error: FieldError) {
        self.errors.push(error);
        self.left = -1;
    }

    /// Takes from the budget; whether there was enough.
    fn pay(&mut self, cost: u64) -> bool {
        let left = i64::try_from(cost).ok().and_then(|cost| self.left.checked_sub(cost));
        self.left = left.unwrap_or(-1);
        self.left >= 0
    }

    fn judge(&mut self, rule: &Rule, names: &Names<'_>, place: &Place<'_>) {
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return self.errors.push(place.fault(format!("rule compile error: {error}"))),
        };
        let outcome = program.run(names);
        if !self.pay(outcome.cost) {
            return self.end(place.fault(OUT_OF_BUDGET.to_owned()));
        }
        let cancelled = outcome.is_cancelled();
        match outcome.result {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => self.refuse(rule, names, place),
            Err(error) if cancelled => self.end(place.fault(format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                rule.shown()
            ))),
            Err(error) if error.starts_with("no such overload") => self.errors.push(place.fault(format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                rule.shown()
            ))),
            Err(error) => self.errors.push(place.fault(format!("{error} evaluating rule: {}", rule.shown()))),
        }
    }

    /// Notes that a rule does not hold, with what its message expression makes.
    fn refuse(&mut self, rule: &Rule, names: &Names<'_>, place: &Place<'_>) {
        let made = match &rule.message_program {
            None => None,
            Some(program) => match self.message(program, rule, names) {
                Ok(made) => made,
                Err(text) => {
                    return self.end(FieldError { field: path(place.at, &rule.field), ..place.fault(text) });
                }
            },
        };
        let detail = made.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.source),
            message => message.to_owned(),
        });
        let shown = match place.value {
            Value::Object(_) | Value::Array(_) => OMITTED.into(),
            value => value.clone(),
        };
        let detail = if rule.reason == ErrorType::Duplicate { String::new() } else { detail };
        let field = path(place.at, &rule.field);
        self.errors.push(FieldError { field, ty: rule.reason, bad_value: shown, detail, origin: "" });
    }

    /// The message that an expression makes; none when it makes none that may stand in. The error is that it costs too
    /// much (upstream: `evalMessageExpression`).
    fn message(
        &mut self,
        program: &Program,
        rule: &Rule,
        names: &Names<'_>,
    ) -> Result<Option<String>, String> {
        let outcome = program.run(names);
        if !self.pay(outcome.cost) {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            );
        }
        if outcome.is_cancelled() {
            return Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                quote(&rule.message_source)
            ));
        }
        Ok(match outcome.result {
            Ok(Cel::String(text)) => Some(text.trim().to_owned()).filter(|text| is_message(text)),
            _ => None,
        })
    }
}

/// A value that rules are run on.
struct Place<'a> {
    at: At<'a>,
    /// The type that its schema names.
    ty: &'a str,
    value: &'a Value,
}

impl Place<'_> {
    fn fault(&self, detail: String) -> FieldError {
        let bad_value = self.ty.into();
        FieldError { field: path(self.at, ""), ty: ErrorType::Invalid, bad_value, detail, origin: "" }
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
        let keys = schema.texts("x-kubernetes-list-map-keys").collect();
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
    fn fields_of_atomic_maps_are_compared() {
        let schema = json!({"type": "object", "properties": {"m": {"type": "object", "x-kubernetes-map-type": "atomic",
            "properties": {"n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "may not fall"}]}}}}});
        let of = |n: i64| json!({"m": {"n": n}});
        assert_eq!(faults(&schema, &of(2), Some(&of(1))), Vec::<String>::new());
        assert_eq!(faults(&schema, &of(1), Some(&of(2))), ["m.n: Invalid value: 1: may not fall"]);
    }

    fn integers(rules: &[&str], count: i64) -> Vec<String> {
        let rules: Vec<Value> = rules.iter().map(|rule| json!({"rule": rule})).collect();
        let schema =
            json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rules});
        faults(&schema, &json!((0..count).collect::<Vec<i64>>()), None)
    }

    /// Costs 3n² + 5n + 2.
    const PAIRS: &str = "self.all(x, self.all(y, true))";

    #[test]
    fn one_evaluation_has_a_limit() {
        let cancelled = |rule: &str| {
            format!(
                "<nil>: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {rule}"
            )
        };
        assert_eq!(integers(&[PAIRS, "false"], 576), ["<nil>: Invalid value: failed rule: false"]);
        assert_eq!(integers(&[PAIRS, "false"], 577), [cancelled(PAIRS)]);
        let triples = "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))";
        assert_eq!(integers(&[triples, "true"], 400), [cancelled(triples)]);
    }

    #[test]
    fn an_object_has_a_budget() {
        // Each costs 998,210.
        assert!(integers(&[PAIRS; 10], 576).is_empty());
        let spent = format!("<nil>: Invalid value: \"array\": {OUT_OF_BUDGET}");
        assert_eq!(integers(&[PAIRS; 11], 576), [spent.as_str()]);
        assert_eq!(integers(&[PAIRS; 13], 576), [spent]);
    }

    #[test]
    fn messages_have_limits_too() {
        let of = |rules: usize, count: i64| {
            let message = format!("{PAIRS} ? 'made' : ''");
            let mut all = vec![json!({"rule": PAIRS}); rules];
            all.push(json!({"rule": "false", "messageExpression": message}));
            let schema =
                json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": all});
            faults(&schema, &json!((0..count).collect::<Vec<i64>>()), None)
        };
        assert_eq!(of(0, 576), ["<nil>: Invalid value: made"]);
        assert_eq!(
            of(0, 577),
            [
                "<nil>: Invalid value: \"array\": no further validation rules will be run due to call cost exceeds limit for messageExpression: \"self.all(x, self.all(y, true)) ? 'made' : ''\""
            ]
        );
        assert_eq!(
            of(10, 576),
            [
                "<nil>: Invalid value: \"array\": messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
            ]
        );
    }

    #[test]
    fn a_text_that_doubles_is_ended() {
        let ended = |rule: &str, own: &str| {
            let schema = json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]});
            let found = faults(&schema, &json!(own), None);
            assert!(found.len() == 1 && found[0].contains("actual cost limit exceeded"), "{rule}: {found:?}");
        };
        ended(&("[self]".to_owned() + &".map(x, x + x)".repeat(60) + "[0] != ''"), &"a".repeat(1000));
        ended(&("[[self]]".to_owned() + &".map(x, x + x)".repeat(60) + "[0] != []"), "a");
        let long = "a".repeat(20_000);
        for rule in [
            "self.replace('a', self) != ''",
            "self.replace('', self) != ''",
            "lists.range(1000000000).size() > 0",
            "self.split('').join(self) != ''",
            "'%s%s'.format([self.split('').map(c, self), self.split('').map(c, self)]) != ''",
        ] {
            ended(rule, &long);
        }
    }
}

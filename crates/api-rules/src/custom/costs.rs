//! Whether the rules of a definition may cost too much (upstream:
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`, `cel_validation.go` beside it).

use api_types::field::{ErrorType, FieldError};
use serde_json::Value;

use super::declared::Declared;
use super::estimate::{Estimator, Type};
use crate::cel;
use crate::errors::{At, Errors};
use crate::look::Look;

/// What one expression may cost in one object, at most.
const PER_EXPRESSION: u64 = 10_000_000;
/// What all expressions of a schema may.
const PER_SCHEMA: u64 = 100_000_000;
/// Expressions that are named when all together cost too much.
const NAMED: usize = 4;

/// Errors of the rules of a version's schema, which is structural. Single expressions of an `unchanged` schema are not
/// judged.
pub(crate) fn check(schema: &Value, at: At<'_>, unchanged: bool, errors: &mut Errors) {
    let mut run = Run { unchanged, total: 0, most: Vec::new(), errors };
    run.walk(schema, at, true, Some(1));
    if run.total <= PER_SCHEMA {
        return;
    }
    let expensive = run.most.into_iter().map(|(_, field)| FieldError {
        field,
        ty: ErrorType::Forbidden,
        bad_value: Value::Null,
        detail: "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            .to_owned(),
        origin: "",
    });
    let expensive = expensive.collect();
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    let text = exceeds(what, run.total, PER_SCHEMA);
    errors.extend(expensive);
    errors.forbidden(at, text);
}

struct Run<'e> {
    unchanged: bool,
    total: u64,
    /// The most expensive expressions, the first the most: what they cost and where they stand.
    most: Vec<(u64, String)>,
    errors: &'e mut Errors,
}

impl Run<'_> {
    /// `times`: how often the value may stand in an object; none when its schema does not bound that.
    fn walk(&mut self, schema: &Value, at: At<'_>, root: bool, times: Option<u64>) {
        let below = times.and_then(|times| Some(times.saturating_mul(elements(schema)?)));
        let more = schema.at("additionalProperties");
        if more.is_object() {
            self.walk(more, at.at("additionalProperties"), false, below);
        }
        let properties = at.at("properties");
        for (name, child) in schema.entries("properties") {
            self.walk(child, properties.key(name), false, below);
        }
        if schema.at("items").is_object() {
            self.walk(schema.at("items"), at.at("items"), false, below);
        }
        let rules = schema.items("x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let whole = root || schema.flag("x-kubernetes-embedded-resource");
        let Some(declared) = Declared::of(schema, whole) else { return };
        let times = times.unwrap_or_else(|| declared.cardinality());
        let list = at.at("x-kubernetes-validations");
        for (place, rule) in rules.iter().enumerate() {
            self.rule(rule, list.index(place), &declared, times);
        }
    }

    fn rule(&mut self, rule: &Value, at: At<'_>, declared: &Declared, times: u64) {
        let mut estimator = Estimator::new(declared, rule.flag("optionalOldSelf"));
        let (text, message) = (rule.text("rule"), rule.text("messageExpression"));
        let Ok(program) = cel::parse(text) else { return };
        let found = estimator.estimate(&program);
        self.observe("estimated rule cost", found.cost.saturating_mul(times), at.at("rule"));
        if !matches!(found.ty, Type::Bool | Type::Dyn | Type::Open) {
            return self.errors.invalid(at.at("rule"), text, "cel expression must evaluate to a bool");
        }
        if message.is_empty() {
            return;
        }
        let at = at.at("messageExpression");
        match cel::parse(message) {
            Err(error) => {
                self.errors.invalid(at, message, format!("messageExpression compilation failed: {error}"))
            }
            Ok(program) => {
                let found = estimator.estimate(&program);
                if matches!(found.ty, Type::Text | Type::Dyn | Type::Open) {
                    self.observe("estimated messageExpression cost", found.cost, at);
                } else {
                    self.errors.invalid(at, message, "messageExpression must evaluate to a string");
                }
            }
        }
    }

    /// Notes what an expression may cost.
    fn observe(&mut self, what: &str, cost: u64, at: At<'_>) {
        if cost > PER_EXPRESSION && !self.unchanged {
            self.errors.forbidden(at, exceeds(what, cost, PER_EXPRESSION));
        }
        self.total = self.total.saturating_add(cost);
        // What contributes less than a hundredth is not named.
        if cost >= PER_SCHEMA / 100 {
            let place = self.most.partition_point(|(other, _)| *other >= cost);
            self.most.insert(place, (cost, at.to_string()));
            self.most.truncate(NAMED);
        }
    }
}

/// How many children of each kind a value may have; none when its schema does not say.
fn elements(schema: &Value) -> Option<u64> {
    let limit = |name: &str| schema.int_opt(name).map(|limit| u64::try_from(limit).unwrap_or(0));
    match schema.text("type") {
        "object" if schema.has("additionalProperties") => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a factor of a few digits")]
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests;

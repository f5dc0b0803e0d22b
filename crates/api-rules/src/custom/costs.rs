//! Whether the rules of a definition may cost too much (upstream:
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`, `cel_validation.go` beside it).

use api_types::field::{ErrorType, FieldError};
use kube_cel::cel::common::ast::IdedExpr;
use serde_json::Value;

use super::check::{self, Type as Checked};
use super::declared::Declared;
use super::estimate::Estimator;
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
/// judged by their costs, and rules at and above what has `faults` not at all.
pub(crate) fn check(schema: &Value, at: At<'_>, unchanged: bool, faults: &[FieldError], errors: &mut Errors) {
    let mut run = Run { unchanged, faults, total: 0, most: Vec::new(), errors };
    run.walk(schema, at, true, Reach { times: Some(1), apart: None });
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
    faults: &'e [FieldError],
    total: u64,
    /// The most expensive expressions, the first the most: what they cost and where they stand.
    most: Vec<(u64, String)>,
    errors: &'e mut Errors,
}

/// What the schemas around a schema say of its values.
#[derive(Clone)]
struct Reach {
    /// How often a value may stand in an object; none when nothing bounds that.
    times: Option<u64>,
    /// The outermost list whose elements cannot be told apart in a change.
    apart: Option<String>,
}

impl Reach {
    fn apart(&self, at: At<'_>) -> Self {
        Self { apart: self.apart.clone().or_else(|| Some(at.to_string())), ..self.clone() }
    }
}

/// An expression that was read and checked.
struct Compiled {
    program: IdedExpr,
    /// Whether it speaks of what the value was.
    is_of_change: bool,
}

/// Why an expression cannot stand where it does.
enum Problem {
    /// It has mistakes, in upstream's words.
    Mistakes(String),
    /// It gives something else than is wanted.
    Result,
}

fn compile(
    text: &str,
    declared: &Declared,
    optional_old: bool,
    wanted: &Checked<'_>,
) -> Result<Compiled, Problem> {
    let program = cel::parse(text).map_err(Problem::Mistakes)?;
    let found = check::check(text, &program, declared, optional_old);
    if !found.issues.is_empty() {
        return Err(Problem::Mistakes(found.issues.join("\n")));
    }
    if found.gives.is_some_and(|gives| gives != *wanted) {
        return Err(Problem::Result);
    }
    let is_of_change = found.is_of_change;
    Ok(Compiled { program, is_of_change })
}

/// Whether a field is that at a path, or below it.
fn is_below(field: &str, path: &str) -> bool {
    field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Run<'_> {
    fn walk(&mut self, schema: &Value, at: At<'_>, root: bool, reach: Reach) {
        let times = reach.times.and_then(|times| Some(times.saturating_mul(elements(schema)?)));
        let below = Reach { times, ..reach.clone() };
        let more = schema.at("additionalProperties");
        if more.is_object() {
            self.walk(more, at.at("additionalProperties"), false, below.clone());
        }
        let properties = at.at("properties");
        for (name, child) in schema.entries("properties") {
            self.walk(child, properties.key(name), false, below.clone());
        }
        if schema.at("items").is_object() {
            let is_apart = schema.text("x-kubernetes-list-type") != "map";
            let below = if is_apart { below.apart(at) } else { below };
            self.walk(schema.at("items"), at.at("items"), false, below);
        }
        if !schema.items("x-kubernetes-validations").is_empty() {
            self.rules(schema, at, root, &reach);
        }
    }

    fn rules(&mut self, schema: &Value, at: At<'_>, root: bool, reach: &Reach) {
        let path = at.to_string();
        if self.faults.iter().any(|fault| is_below(&fault.field, &path)) {
            return;
        }
        let list = at.at("x-kubernetes-validations");
        let whole = root || schema.flag("x-kubernetes-embedded-resource");
        let Some(declared) = Declared::of(schema, whole) else {
            let text = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            return self.errors.internal(list, text);
        };
        let times = reach.times.unwrap_or_else(|| declared.cardinality());
        for (place, rule) in schema.items("x-kubernetes-validations").iter().enumerate() {
            let at = list.index(place);
            let is_of_change = self.rule(rule, at, &declared, times);
            match (&reach.apart, is_of_change) {
                (Some(path), true) => {
                    let text = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {path}"
                    );
                    self.errors.invalid(at.at("rule"), rule.text("rule"), text);
                }
                (_, false) if rule.has("optionalOldSelf") => {
                    let text = "may not be set if oldSelf is not used in rule";
                    self.errors.invalid(at.at("optionalOldSelf"), rule.flag("optionalOldSelf"), text);
                }
                _ => {}
            }
        }
    }

    /// Gives whether the rule speaks of what a value was.
    fn rule(&mut self, rule: &Value, at: At<'_>, declared: &Declared, times: u64) -> bool {
        let text = rule.text("rule");
        let optional_old = rule.flag("optionalOldSelf");
        let mut estimator = Estimator::new(declared, optional_old);
        let compiled = compile(text, declared, optional_old, &Checked::Bool);
        let found = match compiled {
            Ok(found) => found,
            Err(problem) => {
                let text = match problem {
                    Problem::Mistakes(problem) => format!("compilation failed: {problem}"),
                    Problem::Result => "cel expression must evaluate to a bool".to_owned(),
                };
                self.errors.invalid(at.at("rule"), rule.clone(), text);
                return false;
            }
        };
        let cost = estimator.estimate(&found.program).cost;
        self.observe("estimated rule cost", cost.saturating_mul(times), at.at("rule"));
        self.message(rule, at.at("messageExpression"), declared, &mut estimator);
        found.is_of_change
    }

    fn message<'d>(
        &mut self,
        rule: &Value,
        at: At<'_>,
        declared: &'d Declared,
        estimator: &mut Estimator<'d>,
    ) {
        let message = rule.text("messageExpression");
        if message.is_empty() {
            return;
        }
        let text = match compile(message, declared, rule.flag("optionalOldSelf"), &Checked::String) {
            Ok(found) => {
                let cost = estimator.estimate(&found.program).cost;
                return self.observe("estimated messageExpression cost", cost, at);
            }
            Err(Problem::Mistakes(problem)) => format!("messageExpression compilation failed: {problem}"),
            Err(Problem::Result) => "messageExpression must evaluate to a string".to_owned(),
        };
        self.errors.invalid(at, rule.clone(), text);
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

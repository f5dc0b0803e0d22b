//! CEL expressions of admission: match conditions, policies, their variables, messages and mutations (upstream:
//! `apiserver/pkg/admission/plugin/cel`). Parsing is the `cel` crate's, the Kubernetes libraries are `kube-cel`'s; what is
//! parsed is run here ([`eval`]), with upstream's costs ([`cost`]).
//!
//! [`Expression::compile`] once, then [`evaluate`] with the inputs of a request.

mod authorizer;
mod check;
pub(crate) mod cost;
mod eval;
mod policies;
mod rule;
mod tokens;

pub use authorizer::{Authorize, Question};
pub(crate) use check::issue;
pub use check::{Kind, Schema, warnings};
pub use cost::{BUDGET, MATCH_CONDITIONS};
pub use policies::{Warning, check_policy};
pub(crate) use rule::text_of_format;
pub use rule::{Names, Outcome, Rule};
pub(crate) use tokens::Tokens;

use std::cell::Cell;
use std::sync::Arc;

use eval::{CANCELLED, Lazy, Machine, REQUEST_RESOURCE};
use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::IdedExpr;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::parser::Parser;
use kube_cel::cel::{Context, ExecutionError, Value as Cel};
use serde_json::Value;

/// Mistakes of one expression that are told, at most.
pub(crate) const MAX_ERRORS: usize = 8;
/// What is said when a budget is spent.
pub const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What an expression may speak of besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub params: bool,
    pub authorizer: bool,
    /// The variables that stand before it, with what they are.
    pub variables: Vec<(String, Kind)>,
    /// Whether there is `variables`, also where none stands before it.
    pub composed: bool,
    /// Whether `Object{…}` and `JSONPatch{…}` may be built.
    pub patches: bool,
    /// Speaks of a `device`, and of nothing else (upstream: `dynamic-resource-allocation/cel`).
    pub device: bool,
}

/// An expression that was parsed and checked.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: IdedExpr,
    kind: Kind,
    /// What is wrong with the names of its object literals; upstream finds it when it runs.
    misplaced: Option<String>,
}

/// Named expressions, each of which may read those before it.
pub type Variables = Arc<Vec<(String, Expression)>>;

/// What a request gives to its expressions.
#[derive(Clone, Default)]
pub struct Inputs<'a> {
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub request: Option<&'a Value>,
    pub params: Option<&'a Value>,
    pub namespace: Option<&'a Value>,
    pub authorizer: Option<Arc<dyn Authorize>>,
    /// What `authorizer.requestResource` asks about.
    pub question: Question,
}

impl Expression {
    /// Parses and checks an expression; the error is upstream's text for it.
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, String> {
        let parsed = parse(source).map_err(|error| format!("compilation failed: {error}"))?;
        let check::Checked { kind, issues, misplaced } =
            check::check(source, &parsed, scope, &Schema::default());
        if !issues.is_empty() {
            return Err(format!("compilation failed: {}", issues.join("\n")));
        }
        Ok(Self { source: source.to_owned(), program: parsed, kind, misplaced })
    }

    /// The same, for an expression that must have one of some results.
    pub fn compile_as(source: &str, scope: &Scope, wanted: &[Kind]) -> Result<Self, String> {
        let compiled = Self::compile(source, scope)?;
        if compiled.kind == Kind::Unknown || wanted.contains(&compiled.kind) {
            return Ok(compiled);
        }
        let named = |kind: &Kind| if *kind == Kind::Null { "null_type".to_owned() } else { kind.to_string() };
        let names: Vec<String> = wanted.iter().map(named).collect();
        let found = named(&compiled.kind);
        Err(match names.as_slice() {
            [one] => format!("must evaluate to {one} but got {found}"),
            many => format!("must evaluate to one of [{}] but got {found}", many.join(" ")),
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it gives, as far as that is known before it runs.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

/// Reads an expression.
pub(crate) fn parse(source: &str) -> Result<IdedExpr, String> {
    crate::expression::read(source, || {
        let parser = Parser::new().enable_optional_syntax(true);
        parser.parse(&tokens::without_double_negation(source)).map_err(|errors| {
            let texts = errors.errors.iter().take(MAX_ERRORS).map(|error| {
                let (line, column) = error.pos;
                check::issue(source, line.max(1), column.max(1), &error.msg)
            });
            texts.collect::<Vec<_>>().join("\n")
        })
    })
}

/// Whether functions are called by a name with this in front, as `sets.contains`.
pub(crate) fn is_namespace(name: &str) -> bool {
    check::NAMESPACES.contains(&name)
}

/// Runs what the crates do, whose panics must not end a request.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|_| "internal error".to_owned())
}

thread_local! {
    /// Has all functions; contexts with variables are its children.
    static BASE: Context<'static> = base();
}

fn base() -> Context<'static> {
    let mut context = Context::default().with_all();
    authorizer::register(&mut context);
    context
}

/// One evaluation: its expressions see the same inputs and pay from the same budget.
pub struct Evaluation<'a> {
    functions: &'a Context<'static>,
    names: &'a Names<'a>,
    variables: &'a Lazy,
    left: Cell<i64>,
}

/// Runs expressions over the inputs of a request, which may cost `budget` together. The expressions are pure: nothing
/// waits.
pub fn evaluate<T>(
    inputs: &Inputs<'_>,
    variables: &Variables,
    budget: i64,
    run: impl FnOnce(&Evaluation<'_>) -> T,
) -> T {
    let value = |given: Option<&Value>| given.map_or(Cel::Null, to_cel);
    let mut names: Names<'_> = vec![
        ("object", value(inputs.object)),
        ("oldObject", value(inputs.old)),
        ("request", value(inputs.request)),
        ("params", value(inputs.params)),
        ("namespaceObject", value(inputs.namespace)),
    ];
    if let Some(authorizer) = &inputs.authorizer {
        let (all, own) = authorizer::values(authorizer, &inputs.question);
        names.extend([("authorizer", all), (REQUEST_RESOURCE, own)]);
    }
    let variables = Lazy::new(variables.clone());
    BASE.with(|functions| {
        run(&Evaluation { functions, names: &names, variables: &variables, left: Cell::new(budget) })
    })
}

impl Evaluation<'_> {
    fn run(&self, expression: &Expression) -> Result<Cel, String> {
        let mut machine = Machine::new(self.functions, self.names, self.variables);
        let found = guarded(|| machine.run(&expression.program))?;
        self.pay(self.variables.take_spent())?;
        self.pay(machine.cost)?;
        found.map_err(|error| {
            format!("expression '{}' resulted in error: {}", expression.source, text_of(&error))
        })
    }

    fn pay(&self, cost: u64) -> Result<(), String> {
        match i64::try_from(cost) {
            Ok(cost) if cost <= self.left.get() => {
                self.left.set(self.left.get() - cost);
                Ok(())
            }
            _ => {
                self.left.set(-1);
                Err(OUT_OF_BUDGET.to_owned())
            }
        }
    }

    /// Whether more was asked for than the budget allowed: nothing else is run then.
    pub fn is_spent(&self) -> bool {
        self.left.get() < 0
    }

    /// Begins a new budget, for expressions that do not pay from that of those before.
    pub fn renew(&self, budget: i64) {
        self.left.set(budget);
    }

    /// The result of an expression as JSON.
    pub fn value(&self, expression: &Expression) -> Result<Value, String> {
        let found = self.run(expression)?;
        if let Some(misplaced) = &expression.misplaced {
            return Err(format!("type mismatch: {misplaced}"));
        }
        to_json(&found)
            .ok_or_else(|| format!("expression '{}' resulted in a value that is no JSON", expression.source))
    }

    /// Whether an expression holds.
    pub fn holds(&self, expression: &Expression) -> Result<bool, String> {
        Ok(matches!(self.run(expression)?, Cel::Bool(true)))
    }
}

/// Upstream's words for what can go wrong.
fn text_of(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnsupportedUnaryOperator(..)
        | ExecutionError::ValuesNotComparable(..) => "no such overload".to_owned(),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(Cel::Int(index)) => format!("index out of bounds: {index}"),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// An optional value.
pub(crate) fn optional(value: Option<Cel>) -> Cel {
    Cel::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// A value as expressions see it, without a schema.
pub(crate) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (Key::String(Arc::new(key.clone())), to_cel(value)));
            Cel::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}

/// JSON of a value; none when it has none.
fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(flag) => (*flag).into(),
        Cel::Int(number) => (*number).into(),
        Cel::UInt(number) => (*number).into(),
        Cel::Float(number) => (*number).into(),
        Cel::String(text) => text.as_str().into(),
        Cel::Bytes(bytes) => {
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes.as_slice()).into()
        }
        Cel::List(items) => Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| {
                let key = match key {
                    Key::String(text) => text.to_string(),
                    other => other.to_string(),
                };
                Some((key, to_json(value)?))
            });
            Value::Object(entries.collect::<Option<_>>()?)
        }
        Cel::Opaque(value) => match value.downcast_ref::<OptionalValue>() {
            Some(inner) => inner.value().map_or(Some(Value::Null), to_json)?,
            None => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests;

//! CEL expressions of admission: match conditions, policies, their variables, messages and mutations (upstream:
//! `apiserver/pkg/admission/plugin/cel`). Parsing and evaluation are the `cel` crate's, the Kubernetes libraries
//! `kube-cel`'s. What they lack is added here by rewriting the tree before it runs: object literals, optional fields
//! that are not there, variables that are evaluated when they are read, a bound on the work of loops.
//!
//! [`Expression::compile`] once, then [`evaluate`] with the inputs of a request.

mod authorizer;
mod bounded;
mod check;
mod policies;
mod rewrite;
mod rule;

pub use authorizer::{Authorize, Question};
pub use check::{Kind, Schema, warnings};
pub use policies::{Warning, check_policy};
pub(crate) use rule::text_of_format;
pub use rule::{Budget, Names, Rule};

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{Expr, IdedExpr};
use kube_cel::cel::objects::{Key, Map, Opaque, OptionalValue};
use kube_cel::cel::parser::Parser;
use kube_cel::cel::{Context, ExecutionError, FunctionContext, Value as Cel};
use serde_json::Value;

/// Mistakes of one expression that are told, at most.
const MAX_ERRORS: usize = 8;
/// Steps of all loops of one evaluation, at most, and kilobytes that are added and joined (upstream counts costs, up to
/// 10,000,000).
const MAX_STEPS: i64 = 250_000;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What an expression may speak of besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub params: bool,
    pub authorizer: bool,
    /// The variables that stand before it, with what they are.
    pub variables: Vec<(String, Kind)>,
    /// Whether `Object{…}` and `JSONPatch{…}` may be built.
    pub patches: bool,
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
        let mut program = parsed;
        rewrite::rewrite(&mut program);
        Ok(Self { source: source.to_owned(), program, kind, misplaced })
    }

    /// The same, for an expression that must have one of some results.
    pub fn compile_as(source: &str, scope: &Scope, wanted: &[Kind]) -> Result<Self, String> {
        let compiled = Self::compile(source, scope)?;
        if compiled.kind == Kind::Unknown || wanted.contains(&compiled.kind) {
            return Ok(compiled);
        }
        let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        Err(match names.as_slice() {
            [one] => format!("must evaluate to {one}"),
            many => format!("must evaluate to one of [{}]", many.join(" ")),
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
fn parse(source: &str) -> Result<IdedExpr, String> {
    crate::expression::read(source, || {
        let parser = Parser::new().enable_optional_syntax(true);
        parser.parse(source).map_err(|errors| {
            let texts = errors.errors.iter().take(MAX_ERRORS).map(|error| {
                let (line, column) = error.pos;
                check::issue(source, line.max(1), column.max(1), &format!("Syntax error: {}", error.msg))
            });
            texts.collect::<Vec<_>>().join("\n")
        })
    })
}

/// Runs what the crates do, whose panics must not end a request.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|_| "internal error".to_owned())
}

/// What the functions of one evaluation share.
struct Shared {
    variables: Variables,
    known: Mutex<HashMap<String, Result<Cel, ExecutionError>>>,
    left: AtomicI64,
}

impl Shared {
    fn new(variables: Variables) -> Self {
        Self { variables, known: Mutex::default(), left: MAX_STEPS.into() }
    }
}

/// Gives a context its evaluation's state.
fn carry(context: &mut Context<'_>, shared: Arc<Shared>) {
    let carrier: Arc<dyn Opaque> = Arc::new(Carrier(shared));
    context.add_variable_from_value(rewrite::SHARED, Cel::Opaque(carrier));
}

/// Carries [`Shared`] through the context of an expression.
#[derive(Clone)]
struct Carrier(Arc<Shared>);

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("variables")
    }
}

impl PartialEq for Carrier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Carrier {}

impl Opaque for Carrier {
    fn runtime_type_name(&self) -> &str {
        "trierarch.Variables"
    }
}

thread_local! {
    /// Has all functions; contexts with variables are its children.
    static BASE: Context<'static> = base();
}

fn base() -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_function(rewrite::VARIABLE, variable);
    context.add_function(rewrite::STEP, step);
    context.add_function(rewrite::OPTIONAL, optional_field);
    context.add_function("optMap", opt_map);
    context.add_function("optFlatMap", opt_flat_map);
    context.add_function("type", type_of);
    bounded::register(&mut context);
    authorizer::register(&mut context);
    context
}

/// One evaluation: its expressions see the same inputs and pay from the same budget.
pub struct Evaluation<'a> {
    context: &'a Context<'a>,
}

/// Runs expressions over the inputs of a request. The expressions are pure: nothing waits.
pub fn evaluate<T>(inputs: &Inputs<'_>, variables: &Variables, run: impl FnOnce(&Evaluation<'_>) -> T) -> T {
    BASE.with(|base| {
        let mut context = base.new_inner_scope();
        let value = |given: Option<&Value>| given.map_or(Cel::Null, to_cel);
        context.add_variable_from_value("object", value(inputs.object));
        context.add_variable_from_value("oldObject", value(inputs.old));
        context.add_variable_from_value("request", value(inputs.request));
        context.add_variable_from_value("params", value(inputs.params));
        context.add_variable_from_value("namespaceObject", value(inputs.namespace));
        carry(&mut context, Arc::new(Shared::new(variables.clone())));
        if let Some(authorizer) = &inputs.authorizer {
            let (all, own) = authorizer::values(authorizer, &inputs.question);
            context.add_variable_from_value("authorizer", all);
            context.add_variable_from_value(rewrite::REQUEST_RESOURCE, own);
        }
        run(&Evaluation { context: &context })
    })
}

impl Evaluation<'_> {
    fn run(&self, expression: &Expression) -> Result<Cel, String> {
        guarded(|| self.context.resolve(&expression.program))?.map_err(|error| match &error {
            ExecutionError::FunctionError { message, .. } if message == OUT_OF_BUDGET => message.clone(),
            _ => format!("expression '{}' resulted in error: {}", expression.source, text_of(&error)),
        })
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
        ExecutionError::IndexOutOfBounds(Cel::Int(index)) => format!("index out of bounds: {index}"),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

fn shared(ftx: &FunctionContext<'_, '_>) -> Result<Arc<Shared>, ExecutionError> {
    let missing = || ftx.error("no variables are known");
    let found = ftx.ptx.get_variable(rewrite::SHARED).ok_or_else(missing)?;
    match Cel::try_from(&*found)? {
        Cel::Opaque(value) => {
            value.downcast_ref::<Carrier>().map(|carrier| carrier.0.clone()).ok_or_else(missing)
        }
        _ => Err(missing()),
    }
}

/// The text of a function's argument.
fn argument(ftx: &FunctionContext<'_, '_>, at: usize) -> Result<Cel, ExecutionError> {
    let given = ftx.args.get(at);
    ftx.ptx.resolve(given.ok_or_else(|| ExecutionError::invalid_argument_count(at + 1, ftx.args.len()))?)
}

/// `variables.NAME`, evaluated when it is first read.
fn variable(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    let Cel::String(name) = argument(ftx, 0)? else { return Err(ftx.error("no name")) };
    let shared = shared(ftx)?;
    if let Some(known) = shared.known.lock().ok().and_then(|known| known.get(name.as_str()).cloned()) {
        return known;
    }
    let found = shared.variables.iter().find(|(own, _)| *own == *name);
    let (_, expression) = found.ok_or_else(|| ExecutionError::no_such_key(&name))?;
    let result = ftx.ptx.resolve(&expression.program);
    if let Ok(mut known) = shared.known.lock() {
        known.insert(name.to_string(), result.clone());
    }
    result
}

/// Pays for one step of a loop.
fn step(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    pay(&*shared(ftx)?, 1)?;
    Ok(Cel::Bool(true))
}

/// Takes from the budget.
fn pay(shared: &Shared, steps: i64) -> Result<(), ExecutionError> {
    match shared.left.fetch_sub(steps, Ordering::Relaxed) >= steps {
        true => Ok(()),
        false => Err(ExecutionError::function_error(rewrite::STEP, OUT_OF_BUDGET)),
    }
}

/// An optional value.
pub(crate) fn optional(value: Option<Cel>) -> Cel {
    Cel::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// `operand.?field`.
fn optional_field(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    let Cel::String(field) = argument(ftx, 1)? else { return Err(ftx.error("no name")) };
    let of = |value: &Cel| match value {
        Cel::Map(map) => optional(map.map.get(&Key::String(field.clone())).cloned()),
        _ => optional(None),
    };
    Ok(match argument(ftx, 0)? {
        Cel::Opaque(value) => match value.downcast_ref::<OptionalValue>() {
            Some(inner) => inner.value().map_or_else(|| optional(None), of),
            None => optional(None),
        },
        other => of(&other),
    })
}

fn opt_map(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    optional_map(ftx, true)
}

fn opt_flat_map(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    optional_map(ftx, false)
}

/// `optMap` and `optFlatMap`: what an expression makes of a value that may be missing.
fn optional_map(ftx: &FunctionContext<'_, '_>, wrap: bool) -> Result<Cel, ExecutionError> {
    let Some(Cel::Opaque(target)) = &ftx.this else { return Err(ExecutionError::NoSuchOverload) };
    let Some(target) = target.downcast_ref::<OptionalValue>() else {
        return Err(ExecutionError::NoSuchOverload);
    };
    let [IdedExpr { expr: Expr::Ident(name), .. }, body] = ftx.args else {
        return Err(ExecutionError::invalid_argument_count(2, ftx.args.len()));
    };
    let Some(value) = target.value() else { return Ok(optional(None)) };
    let mut inner = ftx.ptx.new_inner_scope();
    inner.add_variable_from_value(name.as_str(), value.clone());
    let result = inner.resolve(body)?;
    Ok(if wrap { optional(Some(result)) } else { result })
}

fn type_of(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    let name = match argument(ftx, 0)? {
        Cel::Null => "null_type".to_owned(),
        Cel::Float(_) => "double".to_owned(),
        Cel::Opaque(value) => value.runtime_type_name().to_owned(),
        other => other.type_of().to_string(),
    };
    Ok(Cel::String(Arc::new(name)))
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

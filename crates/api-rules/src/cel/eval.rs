//! Runs a tree and counts what it costs as cel-go does (`interpreter/runtimecost.go`): each value of a list is visited in
//! place, and lists that grow are not copied. Functions that are not here are the crates' ([`Machine::foreign`]).
//!
//! Costs are counted by what upstream plans, not by the tree: fields and indexes that follow each other are one attribute,
//! of which a branch of `?:` is not charged the beginning; what consists of constants is made before it runs.

mod functions;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue,
    SelectExpr, operators,
};
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, ExecutionError, Value as Cel};

use super::check::{NAMESPACES, TYPES};
use super::{Variables, cost, optional};
use values::{as_optional, is_true, literal, weight};

/// What is said when one evaluation costs too much (cel-go).
pub(super) const CANCELLED: &str = "operation cancelled: actual cost limit exceeded";
/// Where `authorizer.requestResource` stands among the names.
pub(super) const REQUEST_RESOURCE: &str = "@requestResource";
/// Where a comprehension collects its result.
const ACCUMULATOR: &str = "@result";
/// Bytes that one evaluation may copy: upstream adds lists without copying them, and does not charge for it.
const MAX_COPIED: usize = 128 << 20;

type Outcome = Result<Cel, ExecutionError>;

/// Named expressions that run when they are first read.
#[derive(Default)]
pub(super) struct Lazy {
    list: Variables,
    known: RefCell<HashMap<String, Outcome>>,
    spent: Cell<u64>,
}

impl Lazy {
    pub fn new(list: Variables) -> Self {
        Self { list, ..Self::default() }
    }

    /// What variables cost since this was last asked.
    pub fn take_spent(&self) -> u64 {
        self.spent.take()
    }

    fn read(&self, name: &str, functions: &Context<'_>, globals: &[(&str, Cel)]) -> Outcome {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        let found = self.list.iter().find(|(own, _)| own == name);
        let (_, expression) = found.ok_or_else(|| ExecutionError::no_such_key(name))?;
        let mut machine = Machine::new(functions, globals, self);
        let result = machine.run(&expression.program);
        self.spent.set(self.spent.get().saturating_add(machine.cost));
        self.known.borrow_mut().insert(name.to_owned(), result.clone());
        result
    }
}

/// One evaluation.
pub(super) struct Machine<'a, 'p> {
    functions: &'a Context<'a>,
    globals: &'a [(&'a str, Cel)],
    variables: &'a Lazy,
    /// Variables of the comprehensions around the current step, the innermost last. What is collected may be an error,
    /// which an element further on can make good.
    locals: Vec<(&'p str, Outcome)>,
    /// Units so far.
    pub cost: u64,
    copied: usize,
}

impl<'a, 'p> Machine<'a, 'p> {
    pub fn new(functions: &'a Context<'a>, globals: &'a [(&'a str, Cel)], variables: &'a Lazy) -> Self {
        Self { functions, globals, variables, locals: Vec::new(), cost: 0, copied: 0 }
    }

    pub fn run(&mut self, program: &'p IdedExpr) -> Outcome {
        let found = self.eval(program);
        if self.is_spent() { Err(cancelled()) } else { found }
    }

    fn is_spent(&self) -> bool {
        self.cost > cost::PER_CALL || self.copied > MAX_COPIED
    }

    fn pay(&mut self, units: u64) -> Result<(), ExecutionError> {
        self.cost = self.cost.saturating_add(units);
        if self.is_spent() { Err(cancelled()) } else { Ok(()) }
    }

    /// Notes bytes that are about to be copied.
    fn copy(&mut self, bytes: usize) -> Result<(), ExecutionError> {
        self.copied = self.copied.saturating_add(bytes);
        self.pay(0)
    }

    fn eval(&mut self, at: &'p IdedExpr) -> Outcome {
        match &at.expr {
            Expr::Unspecified => Err(ExecutionError::NoSuchOverload),
            Expr::Literal(value) => Ok(literal(value)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(&map.entries, if is_constant(at) { 0 } else { cost::MAP }),
            Expr::Struct(object) => self.map(&object.entries, cost::STRUCT),
            Expr::Comprehension(own) => {
                let depth = self.locals.len();
                let result = self.comprehension(own);
                self.locals.truncate(depth);
                result
            }
        }
    }

    fn global(&self, name: &str) -> Option<&Cel> {
        self.globals.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    fn local(&self, name: &str) -> Option<&Outcome> {
        self.locals.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    fn is_known(&self, name: &str) -> bool {
        self.local(name).is_some() || self.global(name).is_some()
    }

    fn ident(&mut self, name: &str) -> Outcome {
        let found = self.local(name).cloned().or_else(|| self.global(name).cloned().map(Ok));
        match found {
            Some(value) => {
                self.pay(cost::SELECT)?;
                value
            }
            None if TYPES.contains(&name) => Ok(Cel::String(Arc::new(name.to_owned()))),
            None => Err(ExecutionError::undeclared_reference(name)),
        }
    }

    fn select(&mut self, select: &'p SelectExpr) -> Outcome {
        if let Some(found) = self.special(select)? {
            return Ok(found);
        }
        let operand = self.eval(&select.operand)?;
        let begins = u64::from(!is_attribute(&select.operand));
        if select.test {
            self.pay(begins)?;
            return Ok(Cel::Bool(values::field(&operand, &select.field).is_some()));
        }
        self.pay(begins + cost::SELECT)?;
        if let Some(inner) = as_optional(&operand) {
            return Ok(optional(inner.and_then(|inner| values::field(inner, &select.field))));
        }
        values::field(&operand, &select.field).ok_or_else(|| ExecutionError::no_such_key(&select.field))
    }

    /// `variables.NAME`, `authorizer.requestResource` and names of types with a dot.
    fn special(&mut self, select: &'p SelectExpr) -> Result<Option<Cel>, ExecutionError> {
        let of = match &select.operand.expr {
            Expr::Ident(name) if !self.is_known(name) || name == "authorizer" => name.as_str(),
            Expr::Select(SelectExpr { operand, field, .. })
                if field == "protobuf" && matches!(&operand.expr, Expr::Ident(name) if name == "google") =>
            {
                return Ok(Some(Cel::String(Arc::new(format!("google.protobuf.{}", select.field)))));
            }
            _ => return Ok(None),
        };
        match (of, select.field.as_str()) {
            ("variables", name) => {
                self.pay(2 * cost::SELECT)?;
                let found = self.variables.read(name, self.functions, self.globals);
                if select.test { Ok(Some(Cel::Bool(found.is_ok()))) } else { found.map(Some) }
            }
            ("authorizer", "requestResource") => {
                self.pay(2 * cost::SELECT)?;
                Ok(self.global(REQUEST_RESOURCE).cloned())
            }
            _ => Ok(None),
        }
    }

    fn list(&mut self, list: &'p ListExpr) -> Outcome {
        let mut items = Vec::with_capacity(list.elements.len());
        for (at, element) in list.elements.iter().enumerate() {
            let value = self.eval(element)?;
            match as_optional(&value) {
                Some(inner) if list.optional_indices.contains(&at) => items.extend(inner.cloned()),
                _ => items.push(value),
            }
        }
        self.pay(if list.elements.iter().all(is_constant) { 0 } else { cost::LIST })?;
        Ok(Cel::List(Arc::new(items)))
    }

    fn map(&mut self, entries: &'p [IdedEntryExpr], units: u64) -> Outcome {
        let mut made = HashMap::with_capacity(entries.len());
        for entry in entries {
            let (key, value, may_lack) = match &entry.expr {
                EntryExpr::StructField(field) => {
                    (Key::String(Arc::new(field.field.clone())), &field.value, field.optional)
                }
                EntryExpr::MapEntry(entry) => {
                    (values::key(self.eval(&entry.key)?)?, &entry.value, entry.optional)
                }
            };
            let value = self.eval(value)?;
            match as_optional(&value) {
                Some(None) if may_lack => {}
                Some(Some(inner)) if may_lack => drop(made.insert(key, inner.clone())),
                _ => drop(made.insert(key, value)),
            }
        }
        self.pay(units)?;
        Ok(Cel::Map(Map { map: Arc::new(made) }))
    }

    fn comprehension(&mut self, own: &'p ComprehensionExpr) -> Outcome {
        let range = self.eval(&own.iter_range)?;
        let start = self.eval(&own.accu_init)?;
        let accumulator = self.locals.len();
        self.locals.push((own.accu_var.as_str(), Ok(start)));
        self.locals.push((own.iter_var.as_str(), Ok(Cel::Null)));
        for item in values::elements(&range)? {
            self.locals[accumulator + 1].1 = Ok(item);
            if !is_true(&self.eval(&own.loop_cond)?) {
                break;
            }
            let step = self.eval(&own.loop_step);
            if self.is_spent() {
                return step;
            }
            self.locals[accumulator].1 = step;
        }
        self.locals.truncate(accumulator + 1);
        self.eval(&own.result)
    }

    fn call(&mut self, call: &'p CallExpr) -> Outcome {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::CONDITIONAL, [condition, yes, no]) => self.choose(condition, yes, no),
            (operators::LOGICAL_AND, [a, b]) => self.logic(a, b, false),
            (operators::LOGICAL_OR, [a, b]) => self.logic(a, b, true),
            (operators::NOT_STRICTLY_FALSE, [one]) => {
                let found = self.eval(one);
                self.pay(1)?;
                Ok(Cel::Bool(found.map_or(true, |value| !matches!(value, Cel::Bool(false)))))
            }
            (operators::LOGICAL_NOT, [one]) => {
                let value = self.eval(one)?;
                self.pay(1)?;
                if let Cel::Bool(value) = value {
                    Ok(Cel::Bool(!value))
                } else {
                    Err(ExecutionError::NoSuchOverload)
                }
            }
            (operators::NEGATE, [one]) => {
                let value = self.eval(one)?;
                self.pay(u64::from(!is_constant(one)))?;
                values::negate(value)
            }
            (operators::INDEX, [operand, key]) => self.index(operand, key, false),
            (operators::OPT_INDEX, [operand, key]) => self.index(operand, key, true),
            (operators::OPT_SELECT, [operand, field]) => self.optional_field(operand, field),
            (operators::ADD, [a, b]) => self.add(a, b),
            (operators::IN, [a, b]) => self.is_in(a, b),
            (name, [a, b]) if name.starts_with('_') => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.pay(cost::operator(name, &a, &b))?;
                values::binary(name, a, b)
            }
            ("optMap", [IdedExpr { expr: Expr::Ident(name), .. }, body]) => {
                self.opt_map(call, name, body, true)
            }
            ("optFlatMap", [IdedExpr { expr: Expr::Ident(name), .. }, body]) => {
                self.opt_map(call, name, body, false)
            }
            _ => self.function(call),
        }
    }

    /// `condition ? yes : no`: no cost of its own, and none for where the branch's attribute begins.
    fn choose(&mut self, condition: &'p IdedExpr, yes: &'p IdedExpr, no: &'p IdedExpr) -> Outcome {
        let branch = match self.eval(condition)? {
            Cel::Bool(true) => yes,
            Cel::Bool(false) => no,
            _ => return Err(ExecutionError::NoSuchOverload),
        };
        let before = self.cost;
        let found = self.eval(branch);
        if is_attribute(branch) && self.cost > before && !self.is_spent() {
            self.cost -= cost::SELECT;
        }
        found
    }

    /// `&&` and `||`: the value that decides counts more than an error beside it, and a budget that is spent more than
    /// either.
    fn logic(&mut self, a: &'p IdedExpr, b: &'p IdedExpr, decides: bool) -> Outcome {
        let a = self.eval(a);
        if matches!(a, Ok(Cel::Bool(value)) if value == decides) || self.is_spent() {
            return a;
        }
        let b = self.eval(b);
        match (a, b) {
            (_, Ok(Cel::Bool(value))) if value == decides => Ok(Cel::Bool(decides)),
            (Ok(Cel::Bool(_)), Ok(Cel::Bool(_))) => Ok(Cel::Bool(!decides)),
            (_, Err(error)) if self.is_spent() => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(ExecutionError::NoSuchOverload),
        }
    }

    /// What a key costs besides the place that it names.
    fn key(&mut self, operand: &IdedExpr, key: &'p IdedExpr) -> Outcome {
        let value = self.eval(key)?;
        self.pay(u64::from(!is_attribute(operand)) + u64::from(!is_attribute(key)))?;
        Ok(value)
    }

    fn index(&mut self, operand: &'p IdedExpr, key: &'p IdedExpr, may_lack: bool) -> Outcome {
        let of = self.eval(operand)?;
        let key = self.key(operand, key)?;
        match as_optional(&of) {
            Some(inner) => Ok(optional(inner.and_then(|inner| values::index(inner, &key).ok()))),
            None if may_lack => Ok(optional(values::index(&of, &key).ok())),
            None => values::index(&of, &key),
        }
    }

    fn optional_field(&mut self, operand: &'p IdedExpr, field: &'p IdedExpr) -> Outcome {
        let of = self.eval(operand)?;
        let Cel::String(name) = self.eval(field)? else { return Err(ExecutionError::NoSuchOverload) };
        let found = match as_optional(&of) {
            Some(inner) => inner.and_then(|inner| values::field(inner, &name)),
            None => values::field(&of, &name),
        };
        self.pay(u64::from(!is_attribute(operand)) + u64::from(found.is_some()))?;
        Ok(optional(found))
    }

    fn add(&mut self, a: &'p IdedExpr, b: &'p IdedExpr) -> Outcome {
        if let (Expr::Ident(name), Expr::List(_)) = (&a.expr, &b.expr)
            && name == ACCUMULATOR
        {
            return self.collect(b);
        }
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        self.pay(cost::operator(operators::ADD, &a, &b))?;
        if let (Cel::List(own), Cel::List(other)) = (&a, &b) {
            self.copy(size_of::<Cel>() * (own.len() + other.len()))?;
        }
        values::add(a, b)
    }

    /// `@result + [element]`, in place: nobody else holds the list.
    fn collect(&mut self, element: &'p IdedExpr) -> Outcome {
        let Cel::List(more) = self.eval(element)? else { return Err(ExecutionError::NoSuchOverload) };
        self.pay(cost::SELECT + 1)?;
        let own = self.locals.iter_mut().rev().find(|(name, _)| *name == ACCUMULATOR);
        let (_, own) = own.ok_or(ExecutionError::NoSuchOverload)?;
        let mut list = match std::mem::replace(own, Ok(Cel::Null))? {
            Cel::List(list) => list,
            _ => return Err(ExecutionError::NoSuchOverload),
        };
        Arc::make_mut(&mut list).extend(more.iter().cloned());
        Ok(Cel::List(list))
    }

    fn is_in(&mut self, a: &'p IdedExpr, b: &'p IdedExpr) -> Outcome {
        // Membership of a constant list is looked up, not searched.
        let looked_up = matches!(b.expr, Expr::List(_)) && is_constant(b);
        if looked_up && matches!(&b.expr, Expr::List(list) if list.elements.is_empty()) {
            return Ok(Cel::Bool(false));
        }
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        self.pay(if looked_up { 0 } else { cost::operator(operators::IN, &a, &b) })?;
        values::contains(&b, a)
    }

    /// `target.optMap(name, body)`: upstream's macro asks the target twice.
    fn opt_map(&mut self, call: &'p CallExpr, name: &'p str, body: &'p IdedExpr, wrap: bool) -> Outcome {
        let target = call.target.as_deref().ok_or(ExecutionError::MissingArgumentOrTarget)?;
        let before = self.cost;
        let target = self.eval(target)?;
        let again = self.cost - before;
        self.pay(1)?;
        let Some(inner) = as_optional(&target) else { return Err(ExecutionError::NoSuchOverload) };
        let Some(inner) = inner.cloned() else { return Ok(optional(None)) };
        self.pay(again + 1 + u64::from(wrap))?;
        let depth = self.locals.len();
        self.locals.push((name, Ok(inner)));
        let result = self.eval(body);
        self.locals.truncate(depth);
        Ok(if wrap { optional(Some(result?)) } else { result? })
    }

    fn function(&mut self, call: &'p CallExpr) -> Outcome {
        let mut name = call.func_name.as_str().to_owned();
        let mut target = None;
        match call.target.as_deref() {
            Some(IdedExpr { expr: Expr::Ident(space), .. })
                if NAMESPACES.contains(&space.as_str()) && !self.is_known(space) =>
            {
                name = format!("{space}.{name}");
            }
            Some(other) => target = Some(self.eval(other)?),
            None => {}
        }
        let is_method = target.is_some();
        let mut arguments: Vec<Cel> = target.into_iter().collect();
        if name == "orValue" || name == "or" {
            // What stands in is not made when it is not needed.
            if let Some(Some(inner)) = arguments.first().and_then(as_optional) {
                return Ok(if name == "or" { optional(Some(inner.clone())) } else { inner.clone() });
            }
        }
        for argument in &call.args {
            arguments.push(self.eval(argument)?);
        }
        let is_folded = !is_method && is_conversion(&name) && call.args.iter().all(is_constant);
        let result = self.apply(&name, is_method, &arguments)?;
        self.pay(if is_folded { 0 } else { cost::call(&name, &arguments, &result) })?;
        Ok(result)
    }

    /// Calls a function of the crates.
    fn foreign(&mut self, name: &str, is_method: bool, arguments: &[Cel]) -> Outcome {
        self.copy(arguments.iter().map(weight).sum())?;
        let mut scope = self.functions.new_inner_scope();
        let mut names = Vec::with_capacity(arguments.len());
        for (at, value) in arguments.iter().enumerate() {
            let name = format!("@{at}");
            scope.add_variable_from_value(name.as_str(), value.clone());
            names.push(IdedExpr { id: 0, expr: Expr::Ident(name) });
        }
        let target = is_method.then(|| Box::new(names.remove(0)));
        let call = Expr::Call(CallExpr { func_name: name.to_owned(), target, args: names });
        scope.resolve(&IdedExpr { id: 0, expr: call })
    }
}

fn cancelled() -> ExecutionError {
    ExecutionError::function_error("cost", CANCELLED)
}

/// Whether an expression is planned as a place: a name, and fields and indexes of one.
fn is_attribute(at: &IdedExpr) -> bool {
    match &at.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => !select.test,
        Expr::Call(call) => {
            matches!(call.func_name.as_str(), operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT)
        }
        _ => false,
    }
}

/// Functions that turn a constant into a constant.
fn is_conversion(name: &str) -> bool {
    matches!(
        name,
        "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint"
    )
}

/// Whether a value is known before the expression runs.
fn is_constant(at: &IdedExpr) -> bool {
    match &at.expr {
        Expr::Literal(_) => true,
        Expr::List(list) => list.elements.iter().all(is_constant),
        Expr::Map(map) => map.entries.iter().all(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => is_constant(&entry.key) && is_constant(&entry.value),
            EntryExpr::StructField(_) => false,
        }),
        Expr::Call(call) if call.func_name == operators::NEGATE => {
            let number = |one: &IdedExpr| {
                matches!(one.expr, Expr::Literal(LiteralValue::Int(_) | LiteralValue::Double(_)))
            };
            call.args.iter().all(number)
        }
        Expr::Call(call) => {
            call.target.is_none()
                && call.args.len() == 1
                && is_conversion(&call.func_name)
                && call.args.iter().all(is_constant)
        }
        _ => false,
    }
}

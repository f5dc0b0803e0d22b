//! What a rule may cost at most, told from the schema that it stands at (upstream: cel-go's `checker/cost.go`, `ext/lists.go`,
//! `ext/sets.go`, and `apiserver/pkg/cel/library/cost.go`). Numbers that are too large are the largest number.
//!
//! Upstream's peculiarities are kept, since what is accepted depends on them: a value that no path leads to is
//! taken for as large as the value that the rule stands at, when it is looked into.

mod calls;
mod types;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, SelectExpr,
    operators,
};

use super::declared::{Declared, KEY, Shape};
use crate::cel::cost;
pub(super) use types::{Size, Type};

/// Where a value is declared.
#[derive(Clone, Copy, Debug)]
enum Place<'d> {
    /// No path leads to it.
    Nowhere,
    At(&'d Declared),
    /// A path leads to it that the schema does not know.
    Lost,
}

/// Sizes of what a list or a map holds.
#[derive(Clone, Copy, Debug)]
struct Entries {
    is_list: bool,
    key: Size,
    value: Size,
}

impl Entries {
    fn union(own: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (own, other) = (own?, other?);
        Some(Self {
            is_list: own.is_list,
            key: own.key.union(other.key),
            value: own.value.union(other.value),
        })
    }
}

/// What is known of a part of a rule.
#[derive(Clone, Debug)]
pub(super) struct Node<'d> {
    /// Units that evaluating it costs at most.
    pub cost: u64,
    pub ty: Type<'d>,
    place: Place<'d>,
    size: Option<Size>,
    entries: Option<Entries>,
}

impl<'d> Node<'d> {
    /// A value that no path leads to.
    fn made(cost: u64, ty: Type<'d>) -> Self {
        let size = ty.size();
        Self { cost, ty, place: Place::Nowhere, size, entries: None }
    }

    fn sized(self, size: Option<Size>) -> Self {
        let size = size.or(self.size);
        Self { size, ..self }
    }

    /// A value at a place, which tells its size before its type does.
    fn placed(cost: u64, ty: Type<'d>, place: Place<'d>, otherwise: Option<Size>) -> Self {
        let size = match place {
            Place::At(declared) => Some(Size { min: 0, max: declared.most }),
            _ => ty.size().or(otherwise),
        };
        Self { cost, ty, place, size, entries: None }
    }

    fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }
}

/// A variable of a comprehension.
struct Local<'d> {
    name: String,
    node: Node<'d>,
}

/// Estimates rules that stand at one schema.
pub(super) struct Estimator<'d> {
    root: &'d Declared,
    /// Whether `oldSelf` may be missing.
    optional_old: bool,
    locals: Vec<Local<'d>>,
}

impl<'d> Estimator<'d> {
    pub fn new(root: &'d Declared, optional_old: bool) -> Self {
        Self { root, optional_old, locals: Vec::new() }
    }

    /// What a rule costs at most, and what it gives.
    pub fn estimate(&mut self, rule: &IdedExpr) -> Node<'d> {
        match &rule.expr {
            Expr::Unspecified => Node::made(0, Type::Dyn),
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let elements: Vec<Node<'d>> = list.elements.iter().map(|one| self.estimate(one)).collect();
                let cost = elements.iter().map(|one| one.cost).fold(cost::LIST, u64::saturating_add);
                let value = Size::of_all(elements.iter().map(Node::size));
                let size = Some(Size::exactly(elements.len()));
                let ty = Type::join_all(elements.into_iter().map(|one| one.ty));
                let entries = Some(Entries { is_list: true, key: Size::ONE, value });
                Node { entries, ..Node::made(cost, Type::List(Box::new(ty))).sized(size) }
            }
            Expr::Map(map) => self.map(&map.entries),
            Expr::Struct(object) => {
                let values = object.entries.iter().filter_map(|entry| match &entry.expr {
                    EntryExpr::StructField(field) => Some(&field.value),
                    EntryExpr::MapEntry(_) => None,
                });
                let costs: Vec<u64> = values.map(|value| self.estimate(value).cost).collect();
                Node::made(costs.into_iter().fold(cost::STRUCT, u64::saturating_add), Type::Dyn)
            }
            Expr::Comprehension(own) => {
                let depth = self.locals.len();
                let found = self.comprehension(own);
                self.locals.truncate(depth);
                found
            }
        }
    }

    /// The place below another one; what no path leads to is looked for where the rule stands.
    fn step(&self, place: Place<'d>, down: impl FnOnce(&'d Declared) -> Option<&'d Declared>) -> Place<'d> {
        match place {
            Place::Nowhere => Place::At(self.root),
            Place::At(declared) => down(declared).map_or(Place::Lost, Place::At),
            Place::Lost => Place::Lost,
        }
    }

    fn ident(&self, name: &str) -> Node<'d> {
        if let Some(local) = self.locals.iter().rev().find(|local| local.name == name) {
            return Node { cost: cost::SELECT, ..local.node.clone() };
        }
        let ty = match name {
            "self" => Type::of(self.root),
            "oldSelf" if self.optional_old => Type::Optional(Box::new(Type::of(self.root))),
            "oldSelf" => Type::of(self.root),
            _ => Type::Named,
        };
        Node::placed(cost::SELECT, ty, Place::At(self.root), None)
    }

    fn select(&mut self, select: &SelectExpr) -> Node<'d> {
        let operand = self.estimate(&select.operand);
        if select.test {
            return Node::made(operand.cost, Type::Bool);
        }
        let own = if operand.ty.has_fields() { cost::SELECT } else { 0 };
        let place = self.step(operand.place, |declared| field(declared, &select.field));
        Node::placed(operand.cost.saturating_add(own), operand.ty.field(&select.field), place, None)
    }

    fn map(&mut self, entries: &[IdedEntryExpr]) -> Node<'d> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for entry in entries {
            if let EntryExpr::MapEntry(entry) = &entry.expr {
                keys.push(self.estimate(&entry.key));
                values.push(self.estimate(&entry.value));
            }
        }
        let all = keys.iter().chain(&values).map(|one| one.cost);
        let cost = all.fold(cost::MAP, u64::saturating_add);
        let held = Entries {
            is_list: false,
            key: Size::of_all(keys.iter().map(Node::size)),
            value: Size::of_all(values.iter().map(Node::size)),
        };
        let size = Some(Size::exactly(keys.len()));
        let ty = Type::Map(Box::new(Type::join_all(values.into_iter().map(|one| one.ty))));
        Node { entries: Some(held), ..Node::made(cost, ty).sized(size) }
    }

    fn push(&mut self, name: &str, node: Node<'d>) {
        self.locals.push(Local { name: name.to_owned(), node });
    }

    /// The variable that goes through a range: elements of a list, keys of anything else.
    fn iteration(&self, range: &Node<'d>) -> Node<'d> {
        let is_list = range.entries.map_or(matches!(range.ty, Type::List(_)), |entries| entries.is_list);
        let otherwise = range.entries.map(|entries| if is_list { entries.value } else { entries.key });
        let place = match is_list {
            true => self.step(range.place, element),
            false => {
                self.step(range.place, |declared| matches!(declared.shape, Shape::Map(_)).then_some(&KEY))
            }
        };
        let ty = match &range.ty {
            Type::List(of) => of.as_ref().clone(),
            Type::Map(_) | Type::Object(_) => Type::Text,
            _ => Type::Dyn,
        };
        Node::placed(0, ty, place, otherwise)
    }

    fn comprehension(&mut self, own: &ComprehensionExpr) -> Node<'d> {
        let range = self.estimate(&own.iter_range);
        let start = self.estimate(&own.accu_init);
        self.push(&own.accu_var, start.clone());
        let variable = self.iteration(&range);
        self.push(&own.iter_var, variable);
        let condition = self.estimate(&own.loop_cond).cost;
        let step = self.estimate(&own.loop_step);
        self.locals.pop();
        let collected = start.ty.clone().refine(step.ty);
        if let Some(local) = self.locals.last_mut() {
            local.node.ty = collected;
        }
        let result = self.estimate(&own.result);
        let loops = range.size().max.saturating_mul(step.cost.saturating_add(condition));
        let cost = [start.cost, result.cost, loops].into_iter().fold(range.cost, u64::saturating_add);
        let found = Node::made(cost, result.ty);
        match &own.accu_init.expr {
            Expr::Literal(_) => found.sized(start.size),
            Expr::List(_) | Expr::Map(_) => Node { size: Some(range.size()), entries: step.entries, ..found },
            _ => found,
        }
    }

    fn call(&mut self, call: &CallExpr) -> Node<'d> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            // A negative number is a literal.
            (operators::NEGATE, [IdedExpr { expr: Expr::Literal(value), .. }]) => return literal(value),
            ("optMap", [IdedExpr { expr: Expr::Ident(name), .. }, body]) => {
                return self.opt_map(call, name, body, true);
            }
            ("optFlatMap", [IdedExpr { expr: Expr::Ident(name), .. }, body]) => {
                return self.opt_map(call, name, body, false);
            }
            _ => {}
        }
        let arguments: Vec<Node<'d>> = call.args.iter().map(|argument| self.estimate(argument)).collect();
        let (space, target) = match call.target.as_deref() {
            Some(IdedExpr { expr: Expr::Ident(name), .. })
                if crate::cel::is_namespace(name) && !self.locals.iter().any(|local| local.name == *name) =>
            {
                (Some(name.as_str()), None)
            }
            Some(other) => (None, Some(self.estimate(other))),
            None => (None, None),
        };
        let name =
            space.map_or_else(|| call.func_name.clone(), |space| format!("{space}.{}", call.func_name));
        calls::Call { name: &name, target, arguments, source: &call.args, estimator: self }.estimate()
    }

    /// `target.optMap(name, body)` is `target.hasValue() ? optional.of(bind(name, target.value(), body)) :
    /// optional.none()`, and a binding costs as much as an empty list.
    fn opt_map(&mut self, call: &CallExpr, name: &str, body: &IdedExpr, wrap: bool) -> Node<'d> {
        let target = match call.target.as_deref() {
            Some(target) => self.estimate(target),
            None => Node::made(0, Type::Dyn),
        };
        let inner = Node::made(target.cost.saturating_add(1), target.ty.inner());
        let depth = self.locals.len();
        self.push(name, inner.clone());
        let result = self.estimate(body);
        self.locals.truncate(depth);
        let some =
            [inner.cost, result.cost, u64::from(wrap)].into_iter().fold(cost::LIST, u64::saturating_add);
        let cost = target.cost.saturating_add(1).saturating_add(some);
        let ty = if wrap { Type::Optional(Box::new(result.ty)) } else { result.ty };
        Node::made(cost, ty)
    }
}

fn field<'d>(declared: &'d Declared, name: &str) -> Option<&'d Declared> {
    match &declared.shape {
        Shape::Object(fields) => fields.get(name),
        _ => None,
    }
}

fn element(declared: &Declared) -> Option<&Declared> {
    match &declared.shape {
        Shape::List(of) | Shape::Map(of) => Some(of),
        _ => None,
    }
}

fn literal<'d>(value: &LiteralValue) -> Node<'d> {
    let (ty, size) = match value {
        LiteralValue::Boolean(_) => (Type::Bool, 1),
        LiteralValue::Bytes(bytes) => (Type::Bytes, bytes.inner().len()),
        LiteralValue::Double(_) => (Type::Double, 1),
        LiteralValue::Int(_) => (Type::Int, 1),
        LiteralValue::Null => (Type::Null, 1),
        LiteralValue::String(text) => (Type::Text, text.inner().chars().count()),
        LiteralValue::UInt(_) => (Type::Uint, 1),
    };
    Node::made(0, ty).sized(Some(Size::exactly(size)))
}

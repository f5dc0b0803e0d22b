//! What a rule of a definition gives, and what is wrong with it before it runs: names that nobody declared, fields that
//! there are not, functions that take something else (upstream: cel-go's `checker/checker.go` and `cel/validator.go`).
//!
//! Macros that the parser does not know are followed here; what they give is then not held against a rule.

mod table;
mod types;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr,
    StructExpr, operators,
};

use super::declared::{Declared, Shape};
use super::pattern;
use super::rule_names::escape;
use crate::cel::{MAX_ERRORS, Tokens, issue};
use types::Known;
pub(super) use types::Type;

/// Stands for the name of the type of `self`, which upstream makes up anew each time.
const SELF: &str = "selfType";

/// What a check found.
pub(super) struct Checked<'d> {
    /// What the expression gives; none when that is not sure.
    pub gives: Option<Type<'d>>,
    /// Upstream's words for each mistake.
    pub issues: Vec<String>,
    /// Whether it speaks of what the value was.
    pub is_of_change: bool,
}

/// Checks an expression about a declared value. `optional_old`: whether `oldSelf` may be missing.
pub(super) fn check<'d>(
    source: &str,
    parsed: &IdedExpr,
    declared: &'d Declared,
    optional_old: bool,
) -> Checked<'d> {
    let own = Type::of(declared, SELF);
    let old = if optional_old { Type::optional(own.clone()) } else { own.clone() };
    let mut checker = Checker {
        tokens: Tokens::of(source),
        known: Known::default(),
        locals: Vec::new(),
        own,
        old,
        is_of_change: false,
        is_sure: true,
        formats: 0,
        issues: Vec::new(),
        doubts: Vec::new(),
    };
    let gives = checker.infer(parsed);
    let gives = checker.known.resolve(&gives, true);
    let issues = if checker.issues.is_empty() { checker.doubts } else { checker.issues };
    Checked {
        gives: Some(gives).filter(|gives| checker.is_sure || !gives.is_open()),
        issues: shown(source, issues),
        is_of_change: checker.is_of_change,
    }
}

fn shown(source: &str, mut issues: Vec<(usize, String)>) -> Vec<String> {
    issues.sort_by_key(|(at, _)| *at);
    let as_number = |count: usize| isize::try_from(count + 1).unwrap_or(1);
    let places = issues.into_iter().take(MAX_ERRORS).map(|(at, text)| {
        let before = &source[..at];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[start..].chars().count();
        issue(source, as_number(before.matches('\n').count()), as_number(column), &text)
    });
    places.collect()
}

/// A name that is declared in the expression itself.
struct Local<'d> {
    name: String,
    ty: Type<'d>,
}

struct Checker<'s, 'd> {
    tokens: Tokens<'s>,
    known: Known<'d>,
    locals: Vec<Local<'d>>,
    own: Type<'d>,
    old: Type<'d>,
    is_of_change: bool,
    /// Whether everything was followed.
    is_sure: bool,
    /// Calls of `format` around, whose lists may hold anything.
    formats: usize,
    /// Mistakes with the bytes before them.
    issues: Vec<(usize, String)>,
    /// Literals that mean nothing; they count when there is no other mistake.
    doubts: Vec<(usize, String)>,
}

impl<'d> Checker<'_, 'd> {
    fn report(&mut self, at: usize, text: String) -> Type<'d> {
        if !self.issues.iter().any(|known| *known == (at, text.clone())) {
            self.issues.push((at, text));
        }
        Type::Error
    }

    fn undeclared(&mut self, at: usize, name: &str) -> Type<'d> {
        self.report(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn mismatch(&mut self, at: usize, wanted: &Type<'d>, found: &Type<'d>) {
        self.report(at, format!("expected type '{wanted}' but found '{found}'"));
    }

    /// Where a token stands that is next in the text.
    fn place(&mut self, text: &str) -> usize {
        self.tokens.pass(text).unwrap_or(0)
    }

    fn infer(&mut self, part: &IdedExpr) -> Type<'d> {
        self.infer_at(part).0
    }

    /// The type of a part, and where it stands.
    fn infer_at(&mut self, part: &IdedExpr) -> (Type<'d>, usize) {
        match &part.expr {
            Expr::Unspecified => (Type::Dyn, 0),
            Expr::Literal(value) => self.literal(value),
            Expr::Ident(name) => {
                let at = self.place(name);
                (self.ident(name, at), at)
            }
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(object) => self.object(object),
            Expr::Comprehension(own) => self.comprehension(own),
        }
    }

    fn literal(&mut self, value: &LiteralValue) -> (Type<'d>, usize) {
        let at = match value {
            LiteralValue::Boolean(_) => self.tokens.pass_bool(),
            LiteralValue::Bytes(_) | LiteralValue::String(_) => self.tokens.pass_text(),
            LiteralValue::Double(number) if *number.inner() < 0.0 => self.negative(),
            LiteralValue::Int(number) if *number.inner() < 0 => self.negative(),
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => {
                self.tokens.pass_number()
            }
            LiteralValue::Null => self.tokens.pass("null"),
        };
        (literal_type(value), at.unwrap_or(0))
    }

    fn negative(&mut self) -> Option<usize> {
        let at = self.tokens.pass("-");
        self.tokens.pass_number();
        at
    }

    fn ident(&mut self, name: &str, at: usize) -> Type<'d> {
        if let Some(local) = self.locals.iter().rev().find(|local| local.name == name) {
            return local.ty.clone();
        }
        let of = |ty: Type<'d>| Type::Meta(Box::new(ty));
        match name {
            "self" => self.own.clone(),
            "oldSelf" => {
                self.is_of_change = true;
                self.old.clone()
            }
            "bool" => of(Type::Bool),
            "int" => of(Type::Int),
            "uint" => of(Type::Uint),
            "double" => of(Type::Double),
            "string" => of(Type::String),
            "bytes" => of(Type::Bytes),
            "null_type" => of(Type::Null),
            "list" | "map" | "type" | "optional_type" => of(Type::Dyn),
            _ => self.undeclared(at, name),
        }
    }

    fn select(&mut self, select: &SelectExpr) -> (Type<'d>, usize) {
        let tested = select.test.then(|| {
            self.place("has");
            self.place("(")
        });
        if let Some(at) = self.named_type(&select.operand, &select.field) {
            return (Type::Meta(Box::new(Type::Dyn)), at);
        }
        let operand = self.infer(&select.operand);
        let at = self.place(".");
        self.tokens.pass(&select.field);
        let at = tested.unwrap_or(at);
        let field = self.field(&operand, &select.field, at);
        (if select.test { Type::Bool } else { field }, at)
    }

    /// Passes the name of a type, as `google.protobuf.Timestamp`, and gives where it stands.
    fn named_type(&mut self, operand: &IdedExpr, field: &str) -> Option<usize> {
        let path = qualified(operand)?;
        let first = path.split('.').next().unwrap_or_default();
        let is_local = self.locals.iter().any(|local| local.name == first);
        if is_local || !["google", "kubernetes", "net"].contains(&first) {
            return None;
        }
        self.is_sure = false;
        let at = self.place(first);
        self.tokens.pass(field);
        Some(at)
    }

    /// The type of a field; that of what may be missing has fields that may be missing.
    fn field(&mut self, operand: &Type<'d>, name: &str, at: usize) -> Type<'d> {
        match self.known.resolve(operand, false) {
            Type::Optional(of) => Type::optional(self.field(&of, name, at)),
            Type::Map(of) => of.1,
            Type::Object(path, declared) => {
                let Shape::Object(fields) = &declared.shape else { return Type::Dyn };
                // Words of the language may be written as they are here.
                let reserved = || fields.get(&escape(name)?);
                match fields.get(name).or_else(reserved) {
                    Some(field) => Type::of(field, &format!("{path}.{name}")),
                    None => self.report(at, format!("undefined field '{name}'")),
                }
            }
            Type::Dyn | Type::Error | Type::Var(_) => Type::Dyn,
            other => {
                self.report(at, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        }
    }

    fn list(&mut self, list: &ListExpr) -> (Type<'d>, usize) {
        let at = self.place("[");
        let mut of = None;
        let mut first = None;
        for (i, element) in list.elements.iter().enumerate() {
            let (mut ty, place) = self.infer_at(element);
            if list.optional_indices.contains(&i) {
                ty = self.unwrapped(ty, place);
            }
            self.alike(&mut first, &ty, place);
            of = Some(self.joined(of, ty));
        }
        let of = of.unwrap_or_else(|| self.known.fresh());
        (Type::list(of), at)
    }

    /// What an optional element holds.
    fn unwrapped(&mut self, ty: Type<'d>, at: usize) -> Type<'d> {
        match self.known.resolve(&ty, false) {
            Type::Optional(inner) => *inner,
            Type::Dyn => Type::Dyn,
            other => {
                self.mismatch(at, &Type::optional(other.clone()), &other);
                other
            }
        }
    }

    /// The elements of a literal are of one type.
    fn alike(&mut self, first: &mut Option<Type<'d>>, ty: &Type<'d>, at: usize) {
        let ty = self.known.resolve(ty, false);
        match first {
            None => *first = Some(ty),
            Some(first) if self.formats == 0 && first.is_settled() && ty.is_settled() && *first != ty => {
                self.doubts.push((at, format!("expected type '{first}' but found '{ty}'")));
            }
            Some(_) => {}
        }
    }

    fn joined(&mut self, before: Option<Type<'d>>, ty: Type<'d>) -> Type<'d> {
        match before {
            None => ty,
            Some(before) => self.known.join(&before, &ty).unwrap_or(Type::Dyn),
        }
    }

    fn map(&mut self, map: &MapExpr) -> (Type<'d>, usize) {
        let at = self.place("{");
        let (mut of, mut first_key, mut first_value) = (None, None, None);
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let (key, key_at) = self.infer_at(&entry.key);
            self.alike(&mut first_key, &key, key_at);
            self.tokens.pass(":");
            let (mut value, value_at) = self.infer_at(&entry.value);
            if entry.optional {
                value = self.unwrapped(value, value_at);
            }
            self.alike(&mut first_value, &value, value_at);
            let (keys, values): (Option<Type<'d>>, Option<Type<'d>>) = of.unzip();
            of = Some((self.joined(keys, key), self.joined(values, value)));
        }
        let (key, value) = of.unwrap_or_else(|| (self.known.fresh(), self.known.fresh()));
        (Type::map(key, value), at)
    }

    fn object(&mut self, object: &StructExpr) -> (Type<'d>, usize) {
        let name = object.type_name.as_str();
        let at = self.place("{");
        let ty = if name.contains('.') {
            self.is_sure = false;
            Type::Dyn
        } else {
            self.undeclared(at, name)
        };
        for entry in &object.entries {
            if let EntryExpr::StructField(field) = &entry.expr {
                self.tokens.pass(":");
                self.infer(&field.value);
            }
        }
        (ty, at)
    }

    fn call(&mut self, call: &CallExpr) -> (Type<'d>, usize) {
        let (name, args) = (call.func_name.as_str(), call.args.as_slice());
        match (name, args, &call.target) {
            (operators::OPT_SELECT, [operand, field], None) => {
                let operand = self.infer(operand);
                let at = self.place(".?");
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else { return (Type::Dyn, at) };
                self.tokens.pass(field.inner());
                let of = self.known.resolve(&operand, false);
                let of = if let Type::Optional(of) = of { *of } else { of };
                (Type::optional(self.field(&of, field.inner(), at)), at)
            }
            (operators::CONDITIONAL, [condition, yes, no], None) => {
                let condition = self.infer_at(condition);
                let at = self.place("?");
                let yes = self.infer_at(yes);
                self.tokens.pass(":");
                let no = self.infer_at(no);
                (self.apply(name, at, None, &[condition, yes, no]), at)
            }
            (operators::LOGICAL_NOT | operators::NEGATE, [operand], None) => {
                let at = self.place(name.trim_end_matches('_'));
                let operand = self.infer_at(operand);
                (self.apply(name, at, None, &[operand]), at)
            }
            (_, [a, b], None) if symbol(name).is_some() => {
                let a = self.infer_at(a);
                let at = self.place(symbol(name).unwrap_or_default());
                let b = self.infer_at(b);
                (self.apply(name, at, None, &[a, b]), at)
            }
            (_, _, Some(target)) if is_macro(name, args) => self.unread_macro(name, target, args),
            _ => self.function(call),
        }
    }

    fn function(&mut self, call: &CallExpr) -> (Type<'d>, usize) {
        let mut name = call.func_name.clone();
        let mut target = None;
        if let Some(own) = &call.target {
            match qualified(own).map(|path| format!("{path}.{name}")) {
                Some(whole) if table::overloads(&whole).is_some() => name = whole,
                _ => target = Some(self.infer(own)),
            }
        }
        self.tokens.pass(&call.func_name);
        let at = self.place("(");
        let is_format = call.func_name == "format";
        self.formats += usize::from(is_format);
        let args: Vec<(Type<'d>, usize)> = call.args.iter().map(|arg| self.infer_at(arg)).collect();
        self.formats -= usize::from(is_format);
        if let (Some(Expr::Literal(LiteralValue::String(text))), Some((_, at))) =
            (call.args.first().map(|arg| &arg.expr), args.first())
            && !means_something(&name, text.inner())
        {
            self.doubts.push((*at, format!("invalid {name} argument")));
        }
        (self.apply(&name, at, target, &args), at)
    }

    /// What a function gives for arguments; the first overload that takes them tells, unless others do too.
    fn apply(
        &mut self,
        name: &str,
        at: usize,
        target: Option<Type<'d>>,
        args: &[(Type<'d>, usize)],
    ) -> Type<'d> {
        let Some(overloads) = table::overloads(name) else { return self.undeclared(at, name) };
        if matches!(name, operators::LOGICAL_AND | operators::LOGICAL_OR) {
            return self.logical(args);
        }
        let is_method = target.is_some();
        let given: Vec<Type<'d>> = target.into_iter().chain(args.iter().map(|(ty, _)| ty.clone())).collect();
        let mut result: Option<Type<'d>> = None;
        for overload in overloads.iter().filter(|overload| overload.is_method == is_method) {
            let first = self.known.reserve(overload.open);
            let wanted: Vec<Type<'d>> = overload.arguments.iter().map(|ty| ty.shifted(first)).collect();
            if !self.known.fits(&given, &wanted) {
                continue;
            }
            let gives = self.known.resolve(&overload.result.shifted(first), false);
            result = Some(match result {
                Some(before) if before != gives => Type::Dyn,
                _ => gives,
            });
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> =
                given.iter().map(|ty| self.known.resolve(ty, true).to_string()).collect();
            let signature = match shown.split_first() {
                Some((target, rest)) if is_method => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.report(at, format!("found no matching overload for '{name}' applied to '{signature}'"))
        })
    }

    fn logical(&mut self, args: &[(Type<'d>, usize)]) -> Type<'d> {
        let mut is_good = true;
        for (ty, at) in args {
            if !self.known.fits(std::slice::from_ref(ty), &[Type::Bool]) {
                self.mismatch(*at, &Type::Bool, ty);
                is_good = false;
            }
        }
        if is_good { Type::Bool } else { Type::Error }
    }

    fn declare(&mut self, name: &str, ty: Type<'d>) {
        self.locals.push(Local { name: name.to_owned(), ty });
    }

    /// What two variables that go through a range are.
    fn pairs(&mut self, range: &Type<'d>, at: usize) -> (Type<'d>, Type<'d>) {
        match self.known.resolve(range, false) {
            Type::List(of) => (Type::Int, *of),
            Type::Map(of) => *of,
            Type::Dyn | Type::Error | Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(at, text);
                (Type::Error, Type::Error)
            }
        }
    }

    fn comprehension(&mut self, own: &ComprehensionExpr) -> (Type<'d>, usize) {
        let (range, range_at) = self.infer_at(&own.iter_range);
        let at = self.place("(");
        self.tokens.pass(&own.iter_var);
        self.tokens.pass(",");
        let start = self.generated(&own.accu_init, at, "");
        let (key, value) = self.pairs(&range, range_at);
        let is_list = matches!(self.known.resolve(&range, false), Type::List(_));
        let depth = self.locals.len();
        self.declare(&own.accu_var, start.clone());
        self.declare(&own.iter_var, if is_list { value } else { key });
        let step = self.generated(&own.loop_step, at, &own.accu_var);
        if !self.known.fits(std::slice::from_ref(&start), std::slice::from_ref(&step)) {
            self.mismatch(at, &start, &step);
        }
        self.locals.truncate(depth + 1);
        let result = self.generated(&own.result, at, &own.accu_var);
        self.locals.truncate(depth);
        (self.known.resolve(&result, false), at)
    }

    /// What a macro was read as: only parts of it stand in the text. `accu`: what it collects in.
    fn generated(&mut self, part: &IdedExpr, at: usize, accu: &str) -> Type<'d> {
        let is_accu = |part: &IdedExpr| matches!(&part.expr, Expr::Ident(name) if name == accu);
        match &part.expr {
            Expr::Literal(value) => literal_type(value),
            Expr::Ident(name) => self.ident(name, at),
            Expr::List(list) if accu.is_empty() && list.elements.is_empty() => Type::list(self.known.fresh()),
            Expr::Call(call) if call.args.iter().any(is_accu) => {
                let is_counted = matches!(call.func_name.as_str(), operators::ADD | operators::EQUALS);
                let args = call.args.iter().map(|arg| self.collected(arg, is_counted, at, accu));
                let args: Vec<(Type<'d>, usize)> = args.collect();
                self.apply(&call.func_name, at, None, &args)
            }
            _ => self.infer(part),
        }
    }

    /// An argument of what a macro was read as. `is_counted`: a literal in it is no part of the text.
    fn collected(&mut self, part: &IdedExpr, is_counted: bool, at: usize, accu: &str) -> (Type<'d>, usize) {
        match &part.expr {
            Expr::Literal(value) if is_counted => (literal_type(value), at),
            Expr::Ident(name) if name == accu => (self.ident(name, at), at),
            Expr::List(list) => {
                let mut of = Type::Dyn;
                for element in &list.elements {
                    // What is kept by `filter` is not written again.
                    of = match &element.expr {
                        Expr::Ident(name) if self.tokens.is_next(")") => self.ident(name, at),
                        _ => self.infer(element),
                    };
                }
                (Type::list(of), at)
            }
            Expr::Call(call)
                if call.args.iter().any(|arg| matches!(&arg.expr, Expr::Ident(name) if name == accu)) =>
            {
                (self.generated(part, at, accu), at)
            }
            _ => self.infer_at(part),
        }
    }

    /// A macro that the parser left as a call.
    fn unread_macro(&mut self, name: &str, target: &IdedExpr, args: &[IdedExpr]) -> (Type<'d>, usize) {
        let (target, target_at) = self.infer_at(target);
        self.tokens.pass(name);
        let at = self.place("(");
        let target = self.known.resolve(&target, false);
        let names: Vec<&str> = args.iter().map_while(name_of).take(variables(name)).collect();
        names.iter().for_each(|name| {
            self.tokens.pass(name);
        });
        let depth = self.locals.len();
        let mut keys = Type::Dyn;
        match names.as_slice() {
            [one] if name == "sortBy" => {
                let (_, element) = self.pairs(&target, target_at);
                self.declare(one, element);
            }
            [one] => {
                self.apply("hasValue", at, Some(target.clone()), &[]);
                let held = self.apply("value", at, Some(target.clone()), &[]);
                self.declare(one, held);
            }
            [key, value] => {
                let (own, values) = self.pairs(&target, target_at);
                keys = own.clone();
                self.declare(key, own);
                self.declare(value, values);
            }
            _ => {}
        }
        let mut last = Type::Dyn;
        for body in &args[names.len()..] {
            last = self.infer(body);
        }
        self.locals.truncate(depth);
        let gives = match name {
            "optMap" => Type::optional(last),
            "optFlatMap" => last,
            "sortBy" => target,
            "transformList" => Type::list(last),
            "transformMap" => Type::map(keys, last),
            "all" | "exists" | "existsOne" | "exists_one" => Type::Bool,
            _ => {
                self.is_sure = false;
                Type::Dyn
            }
        };
        (gives, at)
    }
}

fn literal_type<'d>(value: &LiteralValue) -> Type<'d> {
    match value {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::String(_) => Type::String,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::UInt(_) => Type::Uint,
        LiteralValue::Null => Type::Null,
    }
}

fn name_of(part: &IdedExpr) -> Option<&str> {
    match &part.expr {
        Expr::Ident(name) => Some(name),
        _ => None,
    }
}

/// `a.b.c` of an expression that is only names.
fn qualified(part: &IdedExpr) -> Option<String> {
    match &part.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", qualified(&select.operand)?, select.field))
        }
        _ => None,
    }
}

/// How an operator between two parts is written.
fn symbol(name: &str) -> Option<&str> {
    match name {
        operators::IN => Some("in"),
        operators::INDEX | operators::OPT_INDEX => Some("["),
        other => {
            other.strip_prefix('_').and_then(|rest| rest.strip_suffix('_')).filter(|text| !text.is_empty())
        }
    }
}

/// How many names a macro makes at most that the parser does not know.
fn variables(name: &str) -> usize {
    match name {
        "optMap" | "optFlatMap" | "sortBy" => 1,
        "transformList" | "transformMap" | "transformMapEntry" | "all" | "exists" | "existsOne"
        | "exists_one" => 2,
        _ => 0,
    }
}

fn is_macro(name: &str, args: &[IdedExpr]) -> bool {
    let count = variables(name);
    let bodies = if name.starts_with("transform") { 1..=2 } else { 1..=1 };
    count > 0
        && args.len().checked_sub(count).is_some_and(|left| bodies.contains(&left))
        && args[..count].iter().all(|arg| name_of(arg).is_some())
}

/// Whether a literal is what a function reads.
fn means_something(function: &str, text: &str) -> bool {
    match function {
        "duration" => api_types::time::parse_duration(text).is_some(),
        "timestamp" => text.parse::<jiff::Timestamp>().is_ok(),
        "matches" => pattern::problem(text).is_none(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;

//! What is made of a tree before it runs.

use kube_cel::cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr,
    operators,
};

/// Reads a variable by its name.
pub(super) const VARIABLE: &str = "@variable";
/// Pays for a step of a loop.
pub(super) const STEP: &str = "@step";
/// Reads a field that may be missing.
pub(super) const OPTIONAL: &str = "@optional";
/// Adds, and pays for how much there is to add.
pub(super) const ADD: &str = "@add";
/// Pays for a value and all that is in it.
pub(super) const WEIGH: &str = "@weigh";
/// Where the evaluation's state stands.
pub(super) const SHARED: &str = "@shared";
/// `authorizer.requestResource`.
pub(super) const REQUEST_RESOURCE: &str = "@requestResource";

/// A call of a function.
pub(super) fn call(func_name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: func_name.to_owned(), target: None, args })
}

fn text(value: &str) -> IdedExpr {
    IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::String(value.into())) }
}

fn is_ident(expr: &IdedExpr, name: &str) -> bool {
    matches!(&expr.expr, Expr::Ident(own) if own == name)
}

pub(super) fn rewrite(at: &mut IdedExpr) {
    match &mut at.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Call(own) => {
            own.target.iter_mut().for_each(|target| rewrite(target));
            own.args.iter_mut().for_each(rewrite);
            match own.func_name.as_str() {
                operators::OPT_SELECT => own.func_name = OPTIONAL.to_owned(),
                operators::ADD => own.func_name = ADD.to_owned(),
                // What they make may be far larger than what they are given.
                "format" | "join" | "flatten" => own.target.iter_mut().for_each(|target| weigh(target)),
                _ => {}
            }
            if own.func_name == "format" {
                own.args.iter_mut().for_each(weigh);
            }
        }
        Expr::Comprehension(own) => {
            for part in [
                &mut own.iter_range,
                &mut own.accu_init,
                &mut own.loop_cond,
                &mut own.loop_step,
                &mut own.result,
            ] {
                rewrite(part);
            }
            let condition = std::mem::take(&mut own.loop_cond);
            let paid = IdedExpr { id: 0, expr: call(STEP, Vec::new()) };
            own.loop_cond =
                IdedExpr { id: 0, expr: call(operators::CONDITIONAL, vec![paid.clone(), condition, paid]) };
        }
        Expr::List(ListExpr { elements, .. }) => elements.iter_mut().for_each(rewrite),
        Expr::Map(map) => entries(&mut map.entries),
        Expr::Struct(own) => {
            entries(&mut own.entries);
            let fields = std::mem::take(&mut own.entries);
            at.expr = Expr::Map(MapExpr { entries: fields.into_iter().map(as_entry).collect() });
        }
        Expr::Select(own) => {
            if is_ident(&own.operand, "variables") && !own.test {
                at.expr = call(VARIABLE, vec![text(&own.field)]);
            } else if is_ident(&own.operand, "authorizer") && own.field == "requestResource" {
                at.expr = Expr::Ident(REQUEST_RESOURCE.to_owned());
            } else {
                rewrite(&mut own.operand);
            }
        }
    }
}

fn weigh(at: &mut IdedExpr) {
    let inner = std::mem::take(at);
    *at = IdedExpr { id: 0, expr: call(WEIGH, vec![inner]) };
}

fn entries(list: &mut [IdedEntryExpr]) {
    for entry in list {
        match &mut entry.expr {
            EntryExpr::StructField(field) => rewrite(&mut field.value),
            EntryExpr::MapEntry(entry) => {
                rewrite(&mut entry.key);
                rewrite(&mut entry.value);
            }
        }
    }
}

/// A field of an object as an entry of a map.
fn as_entry(entry: IdedEntryExpr) -> IdedEntryExpr {
    let expr = match entry.expr {
        EntryExpr::StructField(field) => EntryExpr::MapEntry(MapEntryExpr {
            key: text(&field.field),
            value: field.value,
            optional: field.optional,
        }),
        other => other,
    };
    IdedEntryExpr { id: entry.id, expr }
}

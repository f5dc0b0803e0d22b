//! What can be told of a CEL rule from the schema that it stands at: names that are not there, fields that an object
//! does not have.

use crate::expression;
use crate::look::Look;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::Value;

/// Names that a rule may use without having made them.
const ROOTS: &[&str] = &["self", "oldSelf"];

/// Why a rule does not compile against the schema that it stands at, in the words of cel-go.
pub fn problem(rule: &str, schema: &Value, root: bool) -> Option<String> {
    let program = match expression::compile(rule) {
        Ok(program) => program,
        Err(problem) => return Some(problem),
    };
    let mut checker = Checker { schema, root, bound: Vec::new(), problem: None };
    checker.visit(&program);
    checker.problem
}

struct Checker<'a> {
    schema: &'a Value,
    /// Whether the schema is that of a whole object, which has metadata.
    root: bool,
    /// Variables of comprehensions around the expression.
    bound: Vec<String>,
    problem: Option<String>,
}

/// What is known of an expression's type.
#[derive(Clone, Copy)]
enum Known<'a> {
    Schema(&'a Value, bool),
    Nothing,
}

impl<'a> Checker<'a> {
    fn fail(&mut self, text: String) {
        self.problem.get_or_insert(text);
    }

    fn visit(&mut self, expr: &IdedExpr) -> Known<'a> {
        match &expr.expr {
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => {
                let operand = self.visit(&select.operand);
                self.select(operand, &select.field)
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.visit(target);
                }
                let args: Vec<Known<'a>> = call.args.iter().map(|arg| self.visit(arg)).collect();
                match (call.func_name.as_str(), args.first()) {
                    ("_[_]", Some(Known::Schema(list, _))) => element(list),
                    _ => Known::Nothing,
                }
            }
            Expr::Comprehension(all) => {
                self.visit(&all.iter_range);
                self.visit(&all.accu_init);
                let before = self.bound.len();
                self.bound.push(all.iter_var.clone());
                self.bound.extend(all.iter_var2.clone());
                self.bound.push(all.accu_var.clone());
                for part in [&all.loop_cond, &all.loop_step, &all.result] {
                    self.visit(part);
                }
                self.bound.truncate(before);
                Known::Nothing
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element);
                }
                Known::Nothing
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.key);
                        self.visit(&entry.value);
                    }
                }
                Known::Nothing
            }
            _ => Known::Nothing,
        }
    }

    fn ident(&mut self, name: &str) -> Known<'a> {
        if self.bound.iter().any(|bound| bound == name) || name.starts_with('@') {
            return Known::Nothing;
        }
        if ROOTS.contains(&name) {
            return Known::Schema(self.schema, self.root);
        }
        Known::Nothing
    }

    fn select(&mut self, operand: Known<'a>, field: &str) -> Known<'a> {
        let Known::Schema(schema, whole) = operand else { return Known::Nothing };
        let whole = whole || schema.flag("x-kubernetes-embedded-resource");
        if whole && ["apiVersion", "kind", "metadata"].contains(&field) {
            return Known::Nothing;
        }
        let name = unescape(field);
        if let Some(property) = schema.at("properties").get(&name) {
            return Known::Schema(property, false);
        }
        let more = schema.at("additionalProperties");
        if more.is_object() {
            return Known::Schema(more, false);
        }
        let typed = matches!(schema.text("type"), "object" | "string" | "integer" | "number" | "boolean");
        if typed && more != &Value::Bool(true) {
            self.fail(format!("ERROR: <input>:1:1: undefined field '{field}'"));
        }
        Known::Nothing
    }
}

fn element(list: &Value) -> Known<'_> {
    match (list.at("items"), list.at("additionalProperties")) {
        (items @ Value::Object(_), _) => Known::Schema(items, false),
        (_, more @ Value::Object(_)) => Known::Schema(more, false),
        _ => Known::Nothing,
    }
}

/// Words that are no names of fields in rules.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a property in rules; none when rules cannot name it.
pub(super) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.bytes().next()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    if first.is_ascii_digit() || !name.bytes().all(fits) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__");
    Some(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

/// The property that an escaped name of a rule stands for.
fn unescape(name: &str) -> String {
    let plain = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"));
    if let Some(keyword) = plain.filter(|k| k.bytes().all(|b| b.is_ascii_lowercase()) && !k.is_empty()) {
        return keyword.to_owned();
    }
    let mut out = name.to_owned();
    for (from, to) in [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")] {
        out = out.replace(from, to);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_escaped_and_back() {
        for (name, escaped) in [
            ("a", "a"),
            ("if", "__if__"),
            ("x-y/z.a", "x__dash__y__slash__z__dot__a"),
            ("a__b", "a__underscores__b"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped), name);
        }
        assert_eq!((escape("1a"), escape("a b"), escape("")), (None, None, None));
    }

    #[test]
    fn fields_that_are_not_there_are_found() {
        let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}, "x-y": {"type": "string"},
            "free": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}}});
        let of = |rule: &str| problem(rule, &schema, false);
        for good in [
            "self.size <= 3",
            "!has(oldSelf.size) || self.size == oldSelf.size",
            "self.free.anything == 'x'",
            "self.list.all(e, e.n > 0)",
            "self.list[0].n > 0",
            "self.x__dash__y == 'a'",
            "self.?size.orValue(1) > 0 && self.?free.?x.hasValue()",
        ] {
            assert_eq!(of(good), None, "{good}");
        }
        assert_eq!(of("self.size <= self.nope").unwrap(), "ERROR: <input>:1:1: undefined field 'nope'");
        assert!(of("self.list[0].m > 0").unwrap().contains("'m'"));
        assert!(of("self.size <").is_some());
        assert!(problem("self.metadata.name == 'x'", &schema, true).is_none());
        assert!(problem("self.metadata.name == 'x'", &schema, false).is_some());
    }
}

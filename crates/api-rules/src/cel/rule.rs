//! Expressions over names that whoever runs them gives: rules of definitions, which share one budget for a whole object,
//! and claims of tokens.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube_cel::cel::Value as Cel;
use kube_cel::cel::common::ast::{Expr, IdedExpr};
use serde_json::Value;

use super::{BASE, Shared, Variables, carry, guarded, parse, rewrite, text_of, to_cel, to_json};

/// The names that a rule sees.
pub type Names<'a> = Vec<(&'a str, Cel)>;

/// What is left for the rules of one object.
pub struct Budget(Arc<Shared>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Shared::new(Variables::default())))
    }
}

impl Budget {
    /// Whether no more rules are run.
    pub fn is_spent(&self) -> bool {
        self.0.left.load(Ordering::Relaxed) <= 0
    }
}

/// A rule that was parsed. Its types are not checked.
#[derive(Debug)]
pub struct Rule {
    program: IdedExpr,
    source: String,
}

impl Rule {
    /// # Errors
    /// Upstream's text for what cannot be read.
    pub fn compile(source: &str) -> Result<Self, String> {
        let mut program = parse(source)?;
        rewrite::rewrite(&mut program);
        Ok(Self { program, source: source.to_owned() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The result over JSON values, with a budget of its own.
    ///
    /// # Errors
    /// Upstream's text for what went wrong.
    pub fn value(&self, names: &[(&str, &Value)]) -> Result<Value, String> {
        let names = names.iter().map(|(name, value)| (*name, to_cel(value))).collect();
        let found = self.run(&names, &Budget::default())?;
        to_json(&found).ok_or_else(|| "the result is no JSON".to_owned())
    }

    /// Whether a name stands in the rule.
    pub fn mentions(&self, name: &str) -> bool {
        let is_part =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        self.source.match_indices(name).any(|(at, _)| {
            let text = self.source.as_bytes();
            let before = at.checked_sub(1).and_then(|at| text.get(at));
            !is_part(before.copied()) && !is_part(text.get(at + name.len()).copied())
        })
    }

    /// # Errors
    /// Upstream's text for what went wrong.
    pub fn run(&self, names: &Names<'_>, budget: &Budget) -> Result<Cel, String> {
        BASE.with(|base| {
            let mut context = base.new_inner_scope();
            for (name, value) in names {
                context.add_variable_from_value(*name, value.clone());
            }
            carry(&mut context, budget.0.clone());
            guarded(|| context.resolve(&self.program))?.map_err(|error| text_of(&error))
        })
    }
}

/// A text as rules see it: as what its format says, or as it is.
pub(crate) fn text_of_format(text: &str, format: &str) -> Cel {
    let read = |name: &str| {
        BASE.with(|base| {
            let mut context = base.new_inner_scope();
            context.add_variable_from_value("text", Cel::String(Arc::new(text.to_owned())));
            let argument = IdedExpr { id: 0, expr: Expr::Ident("text".to_owned()) };
            let call = IdedExpr { id: 0, expr: rewrite::call(name, vec![argument]) };
            context.resolve(&call).ok()
        })
    };
    let found = match format {
        "date-time" => read("timestamp"),
        "date" => read("timestamp").or_else(|| {
            let midnight = format!("{text}T00:00:00Z");
            Some(text_of_format(&midnight, "date-time")).filter(|found| !matches!(found, Cel::String(_)))
        }),
        "duration" => read("duration"),
        "byte" => STANDARD.decode(text).ok().map(|bytes| Cel::Bytes(Arc::new(bytes))),
        _ => None,
    };
    found.unwrap_or_else(|| Cel::String(Arc::new(text.to_owned())))
}

//! Expressions over names that whoever runs them gives: rules of definitions, and claims of tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube_cel::cel::Value as Cel;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use serde_json::Value;

use super::{BASE, Lazy, Machine, guarded, parse, text_of, to_cel, to_json};

/// The names that a rule sees.
pub type Names<'a> = Vec<(&'a str, Cel)>;

/// What running a rule gave.
pub struct Outcome {
    /// The result, or upstream's text for what went wrong.
    pub result: Result<Cel, String>,
    /// What it cost, also when it went wrong.
    pub cost: u64,
}

impl Outcome {
    /// Whether it was ended for costing too much.
    pub fn is_cancelled(&self) -> bool {
        matches!(&self.result, Err(error) if error == super::CANCELLED)
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
        Ok(Self { program: parse(source)?, source: source.to_owned() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The result over JSON values.
    ///
    /// # Errors
    /// Upstream's text for what went wrong.
    pub fn value(&self, names: &[(&str, &Value)]) -> Result<Value, String> {
        let names = names.iter().map(|(name, value)| (*name, to_cel(value))).collect();
        let found = self.run(&names).result?;
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

    /// Runs it once.
    pub fn run(&self, names: &Names<'_>) -> Outcome {
        let variables = Lazy::default();
        BASE.with(|functions| {
            let mut machine = Machine::new(functions, names, &variables);
            let found = guarded(|| machine.run(&self.program));
            let result = found.and_then(|found| found.map_err(|error| text_of(&error)));
            Outcome { result, cost: machine.cost }
        })
    }
}

/// A text as rules see it: as what its format says, or as it is.
pub(crate) fn text_of_format(text: &str, format: &str) -> Cel {
    let read = |name: &str| {
        let argument = Expr::Literal(LiteralValue::String(text.into()));
        let args = vec![IdedExpr { id: 0, expr: argument }];
        let call = Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args });
        BASE.with(|functions| functions.resolve(&IdedExpr { id: 0, expr: call }).ok())
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

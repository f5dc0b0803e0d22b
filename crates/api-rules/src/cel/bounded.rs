//! Functions whose result may be far larger than what they are given pay for it before they make it.

use std::sync::Arc;

use kube_cel::cel::{Context, ExecutionError, FunctionContext, ResolveResult, Value as Cel};

use super::{Shared, argument, pay, rewrite, shared};

/// Bytes for a step of the budget.
const BYTES_PER_STEP: usize = 1024;
/// Bytes that a value takes besides its text or its parts.
const VALUE_BYTES: usize = 16;

pub(super) fn register(context: &mut Context<'_>) {
    context.add_function(rewrite::ADD, add);
    context.add_function(rewrite::WEIGH, weigh);
    context.add_function("replace", replace);
    context.add_function("join", join);
    context.add_function("lists.range", range);
}

fn pay_for(shared: &Shared, bytes: usize) -> Result<(), ExecutionError> {
    pay(shared, i64::try_from(bytes / BYTES_PER_STEP).unwrap_or(i64::MAX / 2))
}

/// Bytes that are copied with a value: the crate copies lists and maps with all that is in them.
fn weight(value: &Cel) -> usize {
    VALUE_BYTES
        + match value {
            Cel::String(text) => text.len(),
            Cel::Bytes(bytes) => bytes.len(),
            Cel::List(items) => items.iter().map(weight).sum(),
            Cel::Map(map) => map.map.values().map(weight).sum(),
            _ => 0,
        }
}

fn add(ftx: &FunctionContext<'_, '_>) -> ResolveResult {
    let (left, right) = (argument(ftx, 0)?, argument(ftx, 1)?);
    if !matches!(left, Cel::Int(_) | Cel::UInt(_) | Cel::Float(_)) {
        pay_for(&*shared(ftx)?, weight(&left) + weight(&right))?;
    }
    left + right
}

/// A value, whose every part is paid for as often as it stands there.
fn weigh(ftx: &FunctionContext<'_, '_>) -> ResolveResult {
    let value = argument(ftx, 0)?;
    pay_for(&*shared(ftx)?, weight(&value))?;
    Ok(value)
}

fn this(ftx: &FunctionContext<'_, '_>) -> Result<Cel, ExecutionError> {
    ftx.this.clone().ok_or(ExecutionError::NoSuchOverload)
}

/// `text.replace(old, new)`, `text.replace(old, new, at most)`.
fn replace(ftx: &FunctionContext<'_, '_>) -> ResolveResult {
    let (Cel::String(text), Cel::String(old), Cel::String(new)) =
        (this(ftx)?, argument(ftx, 0)?, argument(ftx, 1)?)
    else {
        return Err(ExecutionError::NoSuchOverload);
    };
    let most = match ftx.args.len() {
        2 => -1,
        _ => match argument(ftx, 2)? {
            Cel::Int(most) => most,
            _ => return Err(ExecutionError::NoSuchOverload),
        },
    };
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old.as_str()).count() };
    let places = usize::try_from(most).map_or(places, |most| most.min(places));
    pay_for(&*shared(ftx)?, text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(Cel::String(Arc::new(text.replacen(old.as_str(), &new, places))))
}

/// `list.join()`, `list.join(separator)`.
fn join(ftx: &FunctionContext<'_, '_>) -> ResolveResult {
    let Cel::List(items) = this(ftx)? else { return Err(ExecutionError::NoSuchOverload) };
    let separator = match ftx.args.is_empty() {
        true => Arc::new(String::new()),
        false => match argument(ftx, 0)? {
            Cel::String(text) => text,
            _ => return Err(ExecutionError::NoSuchOverload),
        },
    };
    pay_for(&*shared(ftx)?, items.len().saturating_mul(separator.len()))?;
    let mut joined = String::new();
    for (at, item) in items.iter().enumerate() {
        let Cel::String(text) = item else { return Err(ExecutionError::NoSuchOverload) };
        if at > 0 {
            joined.push_str(&separator);
        }
        joined.push_str(text);
    }
    Ok(Cel::String(Arc::new(joined)))
}

/// `lists.range(n)`: the numbers below n.
fn range(ftx: &FunctionContext<'_, '_>) -> ResolveResult {
    let Cel::Int(end) = argument(ftx, 0)? else { return Err(ExecutionError::NoSuchOverload) };
    pay(&*shared(ftx)?, end.max(0))?;
    Ok(Cel::List(Arc::new((0..end).map(Cel::Int).collect())))
}

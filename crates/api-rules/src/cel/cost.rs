//! What the steps of an expression cost when it runs, in upstream's units (cel-go: `common/cost.go`,
//! `interpreter/runtimecost.go`, `ext/lists.go`, `ext/sets.go`; Kubernetes: `apiserver/pkg/cel/library/cost.go`, limits of
//! `apiserver/pkg/apis/cel/config.go`). A unit is about 50 ns of upstream's evaluation.

use kube_cel::cel::Value as Cel;
use kube_cel::cel::common::ast::operators;
use kube_cel::cel::objects::{Key, OptionalValue};

/// What one evaluation of one expression may cost.
pub const PER_CALL: u64 = 1_000_000;
/// What all evaluations for one object, or for one binding of a policy, may cost.
pub const BUDGET: i64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost.
pub const MATCH_CONDITIONS: i64 = 2_500_000;

pub(crate) const SELECT: u64 = 1;
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
/// Of a character that is looked at.
pub(crate) const CHARACTER: f64 = 0.1;
/// Of a character of a pattern, for a text of ten characters.
pub(crate) const PATTERN: f64 = 0.25;
/// A question to the authorizer: two are possible in one expression.
pub(crate) const AUTHORIZATION: u64 = 350_000;
/// Characters that the pattern of a named format has at most.
pub(crate) const FORMAT_PATTERN: f64 = 128.0;

/// A size times a factor, rounded up; what is too large is the largest number.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts to integers saturate, and upstream counts in floats too"
)]
pub(crate) fn times(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn count(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// The size of a value: what `size()` gives, and 1 for what has none.
pub(super) fn size(value: &Cel) -> u64 {
    count(match value {
        Cel::String(text) => text.chars().count(),
        Cel::Bytes(bytes) => bytes.len(),
        Cel::List(items) => items.len(),
        Cel::Map(map) => map.map.len(),
        Cel::Opaque(value) => match value.downcast_ref::<OptionalValue>().and_then(OptionalValue::value) {
            Some(inner) => return size(inner),
            None => 1,
        },
        _ => 1,
    })
}

/// What looking at all parts of a value costs.
fn traversal(value: &Cel) -> u64 {
    match value {
        Cel::String(text) => count(text.len()) / 10,
        Cel::Bytes(bytes) => count(bytes.len()) / 10,
        Cel::List(items) => items.iter().map(traversal).fold(0, u64::saturating_add),
        Cel::Map(map) => {
            let of = |(key, value): (&Key, &Cel)| {
                let key = if let Key::String(text) = key { count(text.len()) / 10 } else { 1 };
                key.saturating_add(traversal(value))
            };
            map.map.iter().map(of).fold(0, u64::saturating_add)
        }
        _ => 1,
    }
}

/// What applying a pattern to a text costs; the text counts one character more than it has.
fn matching(text: u64, pattern: u64) -> u64 {
    times(text.saturating_add(1), CHARACTER).saturating_mul(times(pattern, PATTERN))
}

/// A call that makes a list of some elements.
fn listing(elements: u64, factor: f64) -> u64 {
    times(elements, factor).saturating_add(1 + LIST)
}

/// A call that compares all elements of a list with each other.
fn comparing(list: &Cel) -> u64 {
    let Cel::List(items) = list else { return 1 + LIST };
    let factor = match items.first() {
        Some(Cel::String(_) | Cel::Bytes(_)) => 2.0 + CHARACTER,
        _ => 2.0,
    };
    let elements = count(items.len());
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates"
    )]
    let cost = (elements.saturating_mul(elements) as f64 * factor) as u64;
    cost.saturating_add(1 + LIST)
}

/// What an operator between two values costs.
pub(super) fn operator(name: &str, a: &Cel, b: &Cel) -> u64 {
    let smaller = || times(size(a).min(size(b)), CHARACTER);
    match name {
        operators::EQUALS | operators::NOT_EQUALS => smaller(),
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
            match a {
                Cel::String(_) | Cel::Bytes(_) => smaller(),
                _ => 1,
            }
        }
        operators::ADD => match a {
            Cel::String(_) | Cel::Bytes(_) => times(size(a).saturating_add(size(b)), CHARACTER),
            _ => 1,
        },
        operators::IN => match b {
            Cel::List(_) => size(b),
            _ => 1,
        },
        _ => 1,
    }
}

/// What a call of a function costs; the arguments begin with what it is called on.
pub(super) fn call(name: &str, arguments: &[Cel], result: &Cel) -> u64 {
    let sized = |at: usize| arguments.get(at).map_or(1, size);
    let scan = |at: usize, factor: f64| times(sized(at), factor * CHARACTER);
    match name {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" => {
            LIST.saturating_add(scan(1, 1.0)).saturating_add(times(times(sized(1), 0.5), 50.0))
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            arguments.first().map_or(0, traversal)
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver"
        | "format"
        | "strings.quote" => scan(0, 1.0),
        "replace" | "split" | "ip.isCanonical" => scan(0, 2.0),
        "join" => times(size(result), 2.0 * CHARACTER),
        "find" | "findAll" | "matches" => matching(sized(0), sized(1)),
        "validate" => matching(sized(1), 128),
        "startsWith" | "endsWith" => scan(1, 1.0),
        "contains" => scan(0, 1.0).saturating_mul(scan(1, 1.0)),
        "ip" if matches!(arguments.first(), Some(Cel::String(_))) => scan(0, 1.0),
        "containsIP" | "containsCIDR" => containing(name, arguments.get(1)),
        "bytes" if matches!(arguments.first(), Some(Cel::String(_))) => scan(0, 1.0),
        "string" if matches!(arguments.first(), Some(Cel::Bytes(_))) => scan(0, 1.0),
        "slice" | "lists.range" => listing(size(result), 1.0),
        "reverse" if matches!(result, Cel::List(_)) => listing(size(result), 1.0),
        "flatten" => listing(sized(0), flattened(arguments.get(1))),
        "distinct" | "sort" => arguments.first().map_or(1, comparing),
        "sets.contains" | "sets.intersects" => sized(0).saturating_mul(sized(1)).saturating_add(1),
        "sets.equivalent" => sized(0).saturating_mul(sized(1)).saturating_mul(2).saturating_add(1),
        // Upstream plans these as steps of their own, which cost nothing.
        "or" | "orValue" => 0,
        _ => 1,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a depth is small")]
fn flattened(depth: Option<&Cel>) -> f64 {
    match depth {
        Some(Cel::Int(depth)) if *depth >= 0 => *depth as f64,
        _ => 1.0,
    }
}

/// Whether a network holds an address or another network: both are four bytes or sixteen, counted as four.
fn containing(name: &str, other: Option<&Cel>) -> u64 {
    let own = if name == "containsCIDR" { 3 } else { 1 };
    match other {
        Some(text @ Cel::String(_)) => own + times(size(text), CHARACTER),
        _ => own,
    }
}

//! What calls of operators and functions cost at most.

use kube_cel::cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::{Entries, Estimator, Node, Place, Size, Type, element};
use crate::cel::cost;

/// A call whose parts are known.
pub(super) struct Call<'c, 'd> {
    pub name: &'c str,
    pub target: Option<Node<'d>>,
    pub arguments: Vec<Node<'d>>,
    pub source: &'c [IdedExpr],
    pub estimator: &'c Estimator<'d>,
}

/// What a call costs besides its parts, and how large its result is.
struct Own<'d> {
    cost: u64,
    size: Option<Size>,
    entries: Option<Entries>,
    place: Place<'d>,
}

impl<'d> Own<'d> {
    fn new(cost: u64) -> Self {
        Self { cost, size: None, entries: None, place: Place::Nowhere }
    }

    fn sized(cost: u64, size: Size) -> Self {
        Self { size: Some(size), ..Self::new(cost) }
    }
}

/// A call that makes a list of a size.
fn listing<'d>(factor: f64, size: Size) -> Own<'d> {
    Own::sized(size.times(factor).saturating_add(1 + cost::LIST), size)
}

fn matching(text: Size, pattern: Size) -> u64 {
    text.add(Size::ONE).times(cost::CHARACTER).saturating_mul(pattern.times(cost::PATTERN))
}

impl<'d> Call<'_, 'd> {
    pub fn estimate(self) -> Node<'d> {
        let parts = || self.target.iter().chain(&self.arguments).map(|one| one.cost);
        let parts = match (self.name, self.arguments.as_slice()) {
            (operators::CONDITIONAL, [condition, yes, no]) => {
                condition.cost.saturating_add(yes.cost.max(no.cost))
            }
            _ => parts().fold(0, u64::saturating_add),
        };
        let own = self.own();
        let cost = own.cost.saturating_add(parts);
        let ty = self.result();
        match own.place {
            Place::Nowhere => Node { entries: own.entries, ..Node::made(cost, ty).sized(own.size) },
            place => Node { entries: own.entries, ..Node::placed(cost, ty, place, None).sized(own.size) },
        }
    }

    fn argument(&self, at: usize) -> Size {
        self.arguments.get(at).map_or(Size::UNKNOWN, Node::size)
    }

    fn scan(&self, at: usize, factor: f64) -> u64 {
        self.argument(at).times(factor * cost::CHARACTER)
    }

    fn own(&self) -> Own<'d> {
        match self.arguments.as_slice() {
            [a, b] if self.target.is_none() => self.binary(a, b),
            [_, yes, no] if self.name == operators::CONDITIONAL => Own {
                entries: Entries::union(yes.entries, no.entries),
                ..Own::sized(0, yes.size().union(no.size()))
            },
            _ => match &self.target {
                Some(target) => self.method(target),
                None => self.global(),
            },
        }
    }

    fn binary(&self, a: &Node<'d>, b: &Node<'d>) -> Own<'d> {
        let smaller = || Size { min: 0, max: a.size().max.min(b.size().max) }.times(cost::CHARACTER);
        let known = if a.ty.is_dyn() { &b.ty } else { &a.ty };
        match self.name {
            operators::LOGICAL_AND | operators::LOGICAL_OR => Own::new(0),
            operators::EQUALS => match (&a.ty, &b.ty) {
                (Type::Library("format"), Type::Library("format")) => Own::new(7),
                (Type::Library(a), Type::Library(b)) if a == b => Own::new(1),
                _ => Own::new(smaller()),
            },
            operators::NOT_EQUALS => Own::new(smaller()),
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
                Own::new(match known {
                    known if known.is_text() => smaller(),
                    Type::Dyn | Type::Open => smaller().max(1),
                    _ => 1,
                })
            }
            operators::ADD => self.add(a, b, known),
            operators::IN => Own::new(match &b.ty {
                Type::List(_) => b.size().max,
                Type::Dyn | Type::Open => b.size().max.max(1),
                _ => 1,
            }),
            operators::INDEX => Own {
                size: a.entries.map(|entries| entries.value),
                place: match a.ty {
                    Type::List(_) | Type::Map(_) | Type::Dyn | Type::Open => {
                        self.estimator.step(a.place, element)
                    }
                    _ => Place::Nowhere,
                },
                ..Own::new(1)
            },
            "sets.contains" | "sets.intersects" => {
                Own::new(a.size().multiply(b.size()).max.saturating_add(1))
            }
            "sets.equivalent" => Own::new(a.size().multiply(b.size()).times(2.0).saturating_add(1)),
            "matches" => Own::new(matching(a.size(), b.size())),
            _ => self.global(),
        }
    }

    fn add(&self, a: &Node<'d>, b: &Node<'d>, known: &Type<'d>) -> Own<'d> {
        let size = a.size().add(b.size());
        let texts = size.times(cost::CHARACTER);
        let cost = match known {
            Type::List(_) => 1,
            known if known.is_text() => texts,
            Type::Dyn | Type::Open => texts.max(1),
            _ => return Own::new(1),
        };
        Own { entries: Entries::union(a.entries, b.entries), ..Own::sized(cost, size) }
    }

    /// Functions that are called on nothing.
    fn global(&self) -> Own<'d> {
        let first = self.argument(0);
        match self.name {
            "dyn" => {
                let inner = self.arguments.first();
                Own {
                    size: inner.and_then(|inner| inner.size),
                    entries: inner.and_then(|inner| inner.entries),
                    ..Own::new(1)
                }
            }
            "url" | "jsonpatch.escapeKey" => Own::sized(self.scan(0, 1.0), first),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                Own::new(self.scan(0, 1.0))
            }
            "ip.isCanonical" => Own::new(self.scan(0, 2.0)),
            "strings.quote" => {
                let most = first.max.saturating_mul(2).saturating_add(2);
                Own::sized(self.scan(0, 1.0), Size { min: first.min.saturating_add(2), max: most })
            }
            "bytes" if self.takes(&[Type::Text, Type::Dyn]) => {
                Own::sized(self.scan(0, 1.0), Size { min: first.min, max: first.max.saturating_mul(4) })
            }
            "string" if self.takes(&[Type::Bytes, Type::Dyn]) => {
                Own::sized(self.scan(0, 1.0).max(1), Size { min: first.min / 4, max: first.max })
            }
            "lists.range" => {
                let count = self.constant(0).unwrap_or(u64::MAX);
                listing(1.0, Size { min: count, max: count })
            }
            _ => Own::new(1),
        }
    }

    fn takes(&self, wanted: &[Type<'d>]) -> bool {
        let own = self.arguments.first().map(|one| std::mem::discriminant(&one.ty));
        wanted.iter().any(|wanted| Some(std::mem::discriminant(wanted)) == own)
    }

    /// An argument that is a number.
    fn constant(&self, at: usize) -> Option<u64> {
        match &self.source.get(at)?.expr {
            Expr::Literal(LiteralValue::Int(number)) => Some(u64::try_from(*number.inner()).unwrap_or(0)),
            _ => None,
        }
    }

    /// Functions that are called on something.
    fn method(&self, target: &Node<'d>) -> Own<'d> {
        let size = target.size();
        let scan = |factor: f64| size.times(factor * cost::CHARACTER);
        match self.name {
            "check" => Own::new(cost::AUTHORIZATION),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                Own::new(self.traversal(target))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => Own::sized(scan(1.0), size),
            "replace" => Own::sized(scan(2.0), self.replaced(size)),
            "split" => {
                let max = self.constant(1).unwrap_or(size.max);
                Own::sized(scan(2.0), Size { min: 0, max })
            }
            "join" => self.joined(target),
            "find" | "findAll" => {
                Own::sized(matching(size, self.argument(0)), Size { min: 0, max: size.max })
            }
            "matches" => Own::new(matching(size, self.argument(0))),
            "format" => Own::new(scan(1.0)),
            "startsWith" | "endsWith" => Own::new(self.scan(0, 1.0)),
            "contains" => Own::new(scan(1.0).saturating_mul(self.scan(0, 1.0))),
            "containsIP" | "containsCIDR" => {
                let own = if self.name == "containsIP" { 4 } else { 7 };
                let text = if self.takes(&[Type::Text, Type::Dyn]) { self.scan(0, 1.0) } else { 0 };
                Own::new(text.saturating_add(own))
            }
            "validate" => Own::new(cost::times(self.scan(0, 1.0), cost::FORMAT_PATTERN * cost::PATTERN)),
            "slice" => {
                let start = self.constant(0).unwrap_or(0);
                let count = self.constant(1).unwrap_or(size.max).saturating_sub(start);
                listing(1.0, Size { min: count, max: count })
            }
            "reverse" => listing(1.0, size),
            "flatten" => {
                let depth = if self.arguments.is_empty() { 1 } else { self.constant(0).unwrap_or(u64::MAX) };
                #[expect(clippy::cast_precision_loss, reason = "upstream counts in floats too")]
                listing(depth as f64, size)
            }
            "distinct" => listing(2.0, size.multiply(size)),
            "sort" => {
                let texts = if target.ty.inner().is_text() { cost::CHARACTER } else { 0.0 };
                listing(2.0 + texts, size.multiply(size))
            }
            _ => Own::new(1),
        }
    }

    /// Going through all elements, and through their characters.
    fn traversal(&self, target: &Node<'d>) -> u64 {
        let size = target.size();
        let Type::List(of) = &target.ty else {
            return if self.name == "includes" { size.max } else { size.times(cost::CHARACTER) };
        };
        let element = match of.is_text() {
            true => self.element(target).times(cost::CHARACTER).saturating_add(1),
            false => 1,
        };
        size.max.saturating_mul(element)
    }

    /// The size of a list's elements, which only a path tells.
    fn element(&self, list: &Node<'d>) -> Size {
        match list.place {
            Place::Nowhere => Size::UNKNOWN,
            place => match self.estimator.step(place, element) {
                Place::At(declared) => Size { min: 0, max: declared.most },
                _ => Size::UNKNOWN,
            },
        }
    }

    fn replaced(&self, size: Size) -> Size {
        let (old, new) = (self.argument(0), self.argument(1));
        let divided = |count: u64, by: u64| count.div_ceil(by.max(1));
        let (count_max, kept_max) = match () {
            () if old.min == 0 => (size.max.saturating_add(1), size.max),
            () if new.max <= old.min => (0, size.max),
            () => (divided(size.max, old.min), 0),
        };
        let (count_min, kept_min) = match () {
            () if old.max == 0 => (size.min.saturating_add(1), size.min),
            () if old.max <= new.min => (0, size.min),
            () => (divided(size.min, old.max), 0),
        };
        Size { min: count_min, max: count_max }.multiply(new).add(Size { min: kept_min, max: kept_max })
    }

    fn joined(&self, target: &Node<'d>) -> Own<'d> {
        let list = target.size();
        let mut size = list.multiply(self.element(target));
        if !self.arguments.is_empty() {
            let between = Size { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
            size = size.add(self.argument(0).multiply(between));
        }
        Own::sized(size.times(cost::CHARACTER), size)
    }

    /// The type of the result.
    fn result(&self) -> Type<'d> {
        let first = || self.arguments.first().map_or(Type::Dyn, |one| one.ty.clone());
        let on = || self.target.as_ref().map_or(Type::Dyn, |one| one.ty.clone());
        let list = |of: Type<'d>| Type::List(Box::new(of));
        let maybe = |of: Type<'d>| Type::Optional(Box::new(of));
        match self.name {
            operators::CONDITIONAL => {
                let branches = self.arguments.iter().skip(1).map(|one| one.ty.clone());
                Type::join_all(branches)
            }
            operators::ADD | operators::SUBSTRACT => self.arithmetic(),
            operators::MULTIPLY | operators::DIVIDE | operators::MODULO | operators::NEGATE => {
                self.arithmetic()
            }
            operators::INDEX => first().inner(),
            operators::OPT_INDEX => maybe(first().inner()),
            operators::OPT_SELECT => match (&first(), self.source.get(1).map(|field| &field.expr)) {
                (ty, Some(Expr::Literal(LiteralValue::String(name)))) => match ty.field(name.inner()) {
                    found @ Type::Optional(_) => found,
                    found => maybe(found),
                },
                _ => maybe(Type::Dyn),
            },
            "size" | "int" | "indexOf" | "lastIndexOf" | "sign" | "asInteger" | "compareTo" | "major"
            | "minor" | "patch" | "prefixLength" | "family" => Type::Int,
            "uint" => Type::Uint,
            "double" | "asApproximateFloat" => Type::Double,
            "bytes" | "base64.decode" => Type::Bytes,
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            "type" => Type::Named,
            "string"
            | "charAt"
            | "lowerAscii"
            | "upperAscii"
            | "replace"
            | "substring"
            | "trim"
            | "join"
            | "find"
            | "format"
            | "strings.quote"
            | "jsonpatch.escapeKey"
            | "getScheme"
            | "getHost"
            | "getHostname"
            | "getPort"
            | "getEscapedPath"
            | "base64.encode" => Type::Text,
            "split" | "findAll" => list(Type::Text),
            "getQuery" => Type::Map(Box::new(list(Type::Text))),
            "lists.range" => list(Type::Int),
            "min" | "max" | "sum" | "flatten" => on().inner(),
            "first" | "last" => maybe(on().inner()),
            "slice" | "sort" | "distinct" | "reverse" | "or" => on(),
            "value" | "orValue" => on().inner(),
            "optional.of" | "optional.ofNonZeroValue" => maybe(first()),
            "optional.none" => maybe(Type::Dyn),
            "dyn" | "math.greatest" | "math.least" => Type::Dyn,
            "quantity" | "add" | "sub" => Type::Library("quantity"),
            "url" => Type::Library("url"),
            "ip" => Type::Library("ip"),
            "cidr" | "masked" => Type::Library("cidr"),
            "semver" => Type::Library("semver"),
            "validate" => maybe(list(Type::Text)),
            name if name.starts_with("get") => Type::Int,
            name if name.starts_with("is") || name.starts_with("sets.") || PREDICATES.contains(&name) => {
                Type::Bool
            }
            name if name.starts_with("format.") => Type::Library("format"),
            _ => Type::Dyn,
        }
    }

    fn arithmetic(&self) -> Type<'d> {
        let known = self.arguments.iter().map(|one| &one.ty).find(|ty| !ty.is_dyn());
        let is_time = |ty: &&Type<'d>| matches!(ty, Type::Timestamp);
        let times = self.arguments.iter().map(|one| &one.ty).filter(is_time).count();
        match (self.name, times) {
            (operators::SUBSTRACT, 2) => Type::Duration,
            (_, 1) => Type::Timestamp,
            _ => {
                match (self.arguments.first().map(|one| &one.ty), self.arguments.get(1).map(|one| &one.ty)) {
                    (Some(Type::List(a)), Some(Type::List(b))) if a.is_dyn() => Type::List(b.clone()),
                    _ => known.cloned().unwrap_or(Type::Dyn),
                }
            }
        }
    }
}

/// Operators and functions that tell whether something holds.
const PREDICATES: &[&str] = &[
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
    "bool",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "containsIP",
    "containsCIDR",
    "hasValue",
    "allowed",
    "errored",
];

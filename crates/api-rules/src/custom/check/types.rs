//! Types of expressions, and which values may stand where (upstream: cel-go's `checker/types.go`).

use std::fmt;

use super::super::declared::{Declared, Shape};

/// The type of a part of an expression.
#[derive(Clone, Debug)]
pub(in crate::custom) enum Type<'d> {
    Dyn,
    /// That of what is wrong; it fits everywhere, so that one mistake is told once.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Self>),
    Map(Box<(Self, Self)>),
    Optional(Box<Self>),
    /// The type of a type.
    Meta(Box<Self>),
    /// A value of one of the libraries, by its name.
    Named(String),
    /// A value with fields, by the path to it.
    Object(String, &'d Declared),
    /// Not known yet.
    Var(usize),
}

impl PartialEq for Type<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b))
            | (Self::Optional(a), Self::Optional(b))
            | (Self::Meta(a), Self::Meta(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Named(a), Self::Named(b)) | (Self::Object(a, _), Self::Object(b, _)) => a == b,
            (Self::Var(a), Self::Var(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl<'d> Type<'d> {
    /// The type of a declared value at a path.
    pub fn of(declared: &'d Declared, path: &str) -> Self {
        match &declared.shape {
            Shape::Dyn => Self::Dyn,
            Shape::Bool => Self::Bool,
            Shape::Int => Self::Int,
            Shape::Double => Self::Double,
            Shape::Text => Self::String,
            Shape::Bytes => Self::Bytes,
            Shape::Duration => Self::Duration,
            Shape::Timestamp => Self::Timestamp,
            Shape::List(of) => Self::list(Self::of(of, &format!("{path}.@idx"))),
            Shape::Map(of) => Self::map(Self::String, Self::of(of, &format!("{path}.@elem"))),
            Shape::Object(_) => Self::Object(path.to_owned(), declared),
        }
    }

    pub fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Box::new((key, value)))
    }

    pub fn optional(of: Self) -> Self {
        Self::Optional(Box::new(of))
    }

    pub fn is_open(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Whether nothing in it is left to be known.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Var(_) => false,
            other => other.parts().into_iter().all(Self::is_settled),
        }
    }

    fn parts(&self) -> Vec<&Self> {
        match self {
            Self::List(of) | Self::Optional(of) | Self::Meta(of) => vec![of],
            Self::Map(of) => vec![&of.0, &of.1],
            _ => Vec::new(),
        }
    }

    fn with_parts(&self, change: &mut impl FnMut(&Self) -> Self) -> Self {
        match self {
            Self::List(of) => Self::list(change(of)),
            Self::Optional(of) => Self::optional(change(of)),
            Self::Meta(of) => Self::Meta(Box::new(change(of))),
            Self::Map(of) => Self::map(change(&of.0), change(&of.1)),
            other => other.clone(),
        }
    }

    /// Another type with every unknown type moved up by `count`.
    pub fn shifted(&self, count: usize) -> Self {
        match self {
            Self::Var(number) => Self::Var(number + count),
            other => other.with_parts(&mut |part| part.shifted(count)),
        }
    }

    fn takes_null(&self) -> bool {
        matches!(
            self,
            Self::Null
                | Self::Optional(_)
                | Self::Named(_)
                | Self::Object(..)
                | Self::Duration
                | Self::Timestamp
        )
    }

    /// Whether it says the same as another one, or less.
    fn is_no_more_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn | Self::Var(_), _) => true,
            (_, Self::Dyn | Self::Var(_)) => false,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.is_no_more_than(b),
            (Self::Map(a), Self::Map(b)) => a.0.is_no_more_than(&b.0) && a.1.is_no_more_than(&b.1),
            (Self::Meta(_), Self::Meta(_)) => true,
            (a, b) => a == b,
        }
    }
}

/// As errors show it.
impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Meta(of) => write!(f, "type({of})"),
            Self::Named(name) | Self::Object(name, _) => f.write_str(name),
            Self::Var(number) => write!(f, "_var{number}"),
        }
    }
}

/// What is known of the types that were unknown.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<'d> {
    types: Vec<Option<Type<'d>>>,
}

impl<'d> Known<'d> {
    /// A type that is not known yet.
    pub fn fresh(&mut self) -> Type<'d> {
        Type::Var(self.reserve(1))
    }

    /// Room for several of them; gives the number of the first.
    pub fn reserve(&mut self, count: usize) -> usize {
        let first = self.types.len();
        self.types.resize(first + count, None);
        first
    }

    fn find(&self, of: &Type<'d>) -> Option<&Type<'d>> {
        match of {
            Type::Var(number) => self.types.get(*number)?.as_ref(),
            _ => None,
        }
    }

    fn set(&mut self, of: &Type<'d>, found: Type<'d>) {
        if let Type::Var(number) = of {
            self.types[*number] = Some(found);
        }
    }

    /// A type with what is known put in, and anything for what is not if `settled`.
    pub fn resolve(&self, of: &Type<'d>, settled: bool) -> Type<'d> {
        match (self.find(of), of) {
            (Some(found), _) => self.resolve(found, settled),
            (None, Type::Var(_)) if settled => Type::Dyn,
            (None, other) => other.with_parts(&mut |part| self.resolve(part, settled)),
        }
    }

    /// Whether values of one type may stand where another is wanted; what that says of unknown types is kept.
    pub fn fits(&mut self, given: &[Type<'d>], wanted: &[Type<'d>]) -> bool {
        let mut trial = self.clone();
        let fits = given.len() == wanted.len()
            && given.iter().zip(wanted).all(|(given, wanted)| trial.assign(given, wanted));
        if fits {
            *self = trial;
        }
        fits
    }

    fn assign(&mut self, a: &Type<'d>, b: &Type<'d>) -> bool {
        if matches!(b, Type::Var(_)) {
            match self.stand_for(a, b) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if matches!(a, Type::Var(_)) {
            return self.stand_for(b, a).0;
        }
        match (a, b) {
            _ if a.is_open() || b.is_open() => true,
            (Type::Null, other) | (other, Type::Null) => other.takes_null(),
            (Type::Meta(_), Type::Meta(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (a, b) => a == b,
        }
    }

    /// Whether a type may stand for an unknown one, and whether something was known of that.
    fn stand_for(&mut self, of: &Type<'d>, unknown: &Type<'d>) -> (bool, bool) {
        if of == unknown {
            return (true, true);
        }
        if let Some(found) = self.find(unknown).cloned() {
            if *of == found {
                return (true, true);
            }
            if !self.assign(of, &found) {
                return (false, true);
            }
            let general = if of.is_no_more_than(&found) { of.clone() } else { found };
            if self.is_free_of(unknown, &general) {
                self.set(unknown, general);
            }
            return (true, true);
        }
        let free = self.is_free_of(unknown, of);
        if free {
            self.set(unknown, of.clone());
        }
        (free, false)
    }

    fn is_free_of(&self, unknown: &Type<'d>, within: &Type<'d>) -> bool {
        if unknown == within {
            return false;
        }
        match within {
            Type::Var(_) => self.find(within).is_none_or(|found| self.is_free_of(unknown, found)),
            other => other.parts().into_iter().all(|part| self.is_free_of(unknown, part)),
        }
    }

    /// The type of what is one or the other; none when they do not fit together.
    pub fn join(&mut self, a: &Type<'d>, b: &Type<'d>) -> Option<Type<'d>> {
        let (a, b) = (std::slice::from_ref(a), std::slice::from_ref(b));
        let fits = self.fits(a, b);
        fits.then(|| if a[0].is_no_more_than(&b[0]) { a[0].clone() } else { b[0].clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_become_known() {
        let mut known = Known::default();
        let one = known.fresh();
        assert!(known.fits(&[Type::list(Type::Int)], &[Type::list(one.clone())]));
        assert_eq!(known.resolve(&one, false), Type::Int);
        assert!(!known.fits(&[Type::String], std::slice::from_ref(&one)));
        assert!(known.fits(&[Type::Dyn], &[one]));
        let other = known.fresh();
        assert_eq!(known.resolve(&Type::optional(other.clone()), true), Type::optional(Type::Dyn));
        assert!(!known.fits(&[Type::list(other.clone())], &[other]), "it would hold itself");
    }

    #[test]
    fn null_stands_for_what_may_be_missing() {
        let mut known = Known::default();
        assert!(known.fits(&[Type::Null], &[Type::Timestamp]));
        assert!(!known.fits(&[Type::Null], &[Type::String]));
        assert!(!known.fits(&[Type::Int], &[Type::Double]));
    }
}

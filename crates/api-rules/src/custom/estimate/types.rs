//! Sizes, and types as far as costs depend on them.

use super::super::declared::{Declared, Shape};
use crate::cel::cost;

/// Fewest and most characters, elements or entries of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::custom) struct Size {
    pub min: u64,
    pub max: u64,
}

impl Size {
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };
    pub const ONE: Self = Self { min: 1, max: 1 };

    pub fn exactly(count: usize) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Self { min: count, max: count }
    }

    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// The size of any of several values; that of none is 0.
    pub fn of_all(sizes: impl Iterator<Item = Self>) -> Self {
        sizes.reduce(Self::union).unwrap_or(Self { min: 0, max: 0 })
    }

    pub fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn multiply(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// What going through it costs.
    pub fn times(self, factor: f64) -> u64 {
        cost::times(self.max, factor)
    }
}

/// The type of a value.
#[derive(Clone, Debug)]
pub(in crate::custom) enum Type<'d> {
    /// Not known before it runs.
    Dyn,
    /// Whatever stands beside it: what an empty list holds.
    Open,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    /// A type, by its name.
    Named,
    List(Box<Self>),
    /// With texts for keys.
    Map(Box<Self>),
    Object(&'d Declared),
    Optional(Box<Self>),
    /// A value of one of the libraries: `quantity`, `ip`, `format`.
    Library(&'static str),
}

impl<'d> Type<'d> {
    pub fn of(declared: &'d Declared) -> Self {
        match &declared.shape {
            Shape::Dyn => Self::Dyn,
            Shape::Bool => Self::Bool,
            Shape::Int => Self::Int,
            Shape::Double => Self::Double,
            Shape::Text => Self::Text,
            Shape::Bytes => Self::Bytes,
            Shape::Duration => Self::Duration,
            Shape::Timestamp => Self::Timestamp,
            Shape::List(of) => Self::List(Box::new(Self::of(of))),
            Shape::Map(of) => Self::Map(Box::new(Self::of(of))),
            Shape::Object(_) => Self::Object(declared),
        }
    }

    /// The size of what is always as large.
    pub fn size(&self) -> Option<Size> {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => {
                Some(Size::ONE)
            }
            Self::Optional(of) => of.size(),
            _ => None,
        }
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Open)
    }

    /// Whether comparing and adding go through its characters.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Bytes)
    }

    /// Whether a field of it is selected as such.
    pub fn has_fields(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Object(_))
    }

    pub fn field(&self, name: &str) -> Self {
        match self {
            Self::Object(declared) => super::field(declared, name).map_or(Self::Dyn, Self::of),
            Self::Map(of) => of.as_ref().clone(),
            Self::Optional(of) => Self::Optional(Box::new(of.field(name))),
            _ => Self::Dyn,
        }
    }

    /// What a list or a map holds, and what an optional value may hold.
    pub fn inner(&self) -> Self {
        match self {
            Self::List(of) | Self::Map(of) | Self::Optional(of) => of.as_ref().clone(),
            _ => Self::Dyn,
        }
    }

    /// What is known of a value that is one or the other.
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Map(a), Self::Map(b)) => Self::Map(Box::new(a.join(*b))),
            (Self::Optional(a), Self::Optional(b)) => Self::Optional(Box::new(a.join(*b))),
            (Self::Object(a), Self::Object(b)) if std::ptr::eq(a, b) => Self::Object(a),
            (Self::Null | Self::Open, other) | (other, Self::Null | Self::Open) => other,
            (a, b)
                if std::mem::discriminant(&a) == std::mem::discriminant(&b)
                    && !matches!(a, Self::Object(_)) =>
            {
                a
            }
            _ => Self::Dyn,
        }
    }

    pub fn join_all(types: impl Iterator<Item = Self>) -> Self {
        types.reduce(Self::join).unwrap_or(Self::Open)
    }

    /// The type of what is collected, of which the beginning may be an empty list.
    pub fn refine(self, step: Self) -> Self {
        match (self, step) {
            (Self::List(start), step @ Self::List(_)) if start.is_dyn() => step,
            (Self::Dyn | Self::Open, step) => step,
            (start, _) => start,
        }
    }
}

//! How much of a device may be asked for, where several may have a part of it.

use crate::errors::{At, Errors, NON_NEGATIVE};
use crate::look::{Look, quantity};
use api_types::quantity::{Format, Quantity};
use serde_json::Value;

/// Amounts that may be asked for, at most.
const MAX_VALUES: usize = 10;

/// A capacity of a device; `shared` tells whether it may be given to several.
pub(super) fn capacity(capacity: &Value, shared: bool, at: At<'_>, errors: &mut Errors) {
    let policy = capacity.at("requestPolicy");
    let at = at.at("requestPolicy");
    if policy.is_null() {
        return;
    }
    if !shared {
        return errors.forbidden(at, "allowMultipleAllocations must be true");
    }
    let all = quantity(capacity.at("value")).unwrap_or(Quantity::ZERO);
    let default = quantity(policy.at("default"));
    let (values, range) = (policy.items("validValues"), policy.at("validRange"));
    if !values.is_empty() && !range.is_null() {
        let text = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.forbidden(at, text);
    }
    match (default, values.is_empty(), range.is_null()) {
        (_, true, true) => {}
        (None, false, _) => errors.required(at.at("default"), "required when validValues is defined"),
        (None, true, false) => errors.required(at.at("default"), "required when validRange is defined"),
        (Some(default), false, _) => valid_values(values, default, all, at.at("validValues"), errors),
        (Some(default), true, false) => {
            Range::of(range, default).check(all, at.at("validRange"), errors);
        }
    }
}

/// Ascending amounts, each once, none more than there is, the default among them.
fn valid_values(values: &[Value], default: Quantity, all: Quantity, at: At<'_>, errors: &mut Errors) {
    let values: Vec<Quantity> =
        values.iter().map(|value| quantity(value).unwrap_or(Quantity::ZERO)).collect();
    for (i, pair) in values.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        errors.invalid(at.index(i + 1), pair[1].to_string(), "values must be sorted in ascending order");
    }
    if values.len() > MAX_VALUES {
        errors.too_many(at, values.len(), MAX_VALUES);
    } else {
        for (i, value) in values.iter().enumerate().filter(|(_, value)| **value > all) {
            let text = format!("option is larger than capacity value: {all}");
            errors.invalid(at.index(i), value.to_string(), text);
        }
        for (i, value) in values.iter().enumerate().filter(|(i, value)| values[..*i].contains(value)) {
            errors.duplicate(at.index(i), plain(*value));
        }
    }
    if values.len() > MAX_VALUES || !values.contains(&default) {
        errors.invalid(at, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

/// The number without suffixes, as upstream tells amounts apart.
fn plain(value: Quantity) -> String {
    let whole = value.value();
    if Quantity::from_units(whole, Format::DecimalSi) == value {
        return whole.to_string();
    }
    let (millis, sign) = (value.milli_value().unsigned_abs(), if value.is_negative() { "-" } else { "" });
    let text = format!("{sign}{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').to_owned()
}

/// Amounts between two bounds, in steps.
struct Range {
    default: Quantity,
    min: Option<Quantity>,
    max: Option<Quantity>,
    step: Option<Quantity>,
}

impl Range {
    fn of(range: &Value, default: Quantity) -> Range {
        let [min, max, step] = ["min", "max", "step"].map(|field| quantity(range.at(field)));
        Range { default, min, max, step }
    }

    fn check(&self, all: Quantity, at: At<'_>, errors: &mut Errors) {
        let Some(min) = self.min else {
            return errors.required(at.at("min"), "required when validRange is defined");
        };
        self.bounds(min, all, at, errors);
        let is_whole = |q: Quantity| Quantity::from_units(q.value(), Format::DecimalSi) == q || q > most();
        let millis = self.named(min).any(|(_, q)| !is_whole(q));
        if millis
            && !self.fits(min, at, errors, |q| {
                (Quantity::from_millis(q.milli_value()) != q)
                    .then_some("value cannot be represented as a milli value")
            })
        {
            return;
        }
        let Some(step) = self.step else { return };
        if step <= Quantity::ZERO {
            return errors.invalid(at.at("step"), step.to_string(), "must be greater than zero");
        }
        let first = min + step;
        if first > all {
            let text = format!("one step {first} is larger than capacity value: {all}");
            errors.invalid(at.at("step"), step.to_string(), text);
        }
        let usable = millis
            || self.fits(min, at, errors, |q| {
                let large = (q > most()).then_some("must not be larger than 9223372036854775807");
                if q.is_negative() { Some(NON_NEGATIVE) } else { large }
            });
        if usable {
            let number = |q: Quantity| i128::from(if millis { q.milli_value() } else { q.value() });
            for value in [Some(self.default), self.max].into_iter().flatten() {
                if (number(value) - number(min)) % number(step) != 0 {
                    let text = format!("value is not a multiple of a given step ({step}) from ({min})");
                    errors.invalid(at.at("step"), value.to_string(), text);
                }
            }
        }
    }

    fn bounds(&self, min: Quantity, all: Quantity, at: At<'_>, errors: &mut Errors) {
        let default = self.default;
        let mut wrong = |field: &str, value: Quantity, text: String| {
            errors.invalid(at.at(field), value.to_string(), text);
        };
        if min > all {
            wrong("min", min, format!("min is larger than capacity value: {all}"));
        }
        if default < min {
            wrong("default", default, format!("default is less than min: {min}"));
        }
        let Some(max) = self.max else { return };
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > all {
            wrong("max", max, format!("max is larger than capacity value: {all}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }

    /// What the range says, in the order in which it is looked at.
    fn named(&self, min: Quantity) -> impl Iterator<Item = (&'static str, Quantity)> {
        let all =
            [("default", Some(self.default)), ("min", Some(min)), ("max", self.max), ("step", self.step)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// Whether there is nothing to be said of any part.
    fn fits(
        &self,
        min: Quantity,
        at: At<'_>,
        errors: &mut Errors,
        problem: impl Fn(Quantity) -> Option<&'static str>,
    ) -> bool {
        let mut fits = true;
        for (name, value) in self.named(min) {
            if let Some(text) = problem(value) {
                errors.invalid(at.at(name), value.to_string(), text);
                fits = false;
            }
        }
        fits
    }
}

/// The largest whole number that can be reckoned with.
fn most() -> Quantity {
    Quantity::from_units(i64::MAX, Format::DecimalSi)
}

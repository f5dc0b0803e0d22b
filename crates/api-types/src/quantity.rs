//! Resource quantities: `500m`, `1Gi`, `1e3`. Value = mantissa × 10^scale, kept exactly down to 10⁻⁹.
//!
//! Rules of `k8s.io/apimachinery/pkg/api/resource`: too small values round up (away from zero) to one nano unit, the
//! canonical form has no fraction and the largest suffix that keeps it whole, the family of suffixes is kept.
//!
//! ```
//! use api_types::quantity::Quantity;
//! assert_eq!(Quantity::parse("0.5").unwrap().to_string(), "500m");
//! assert_eq!(Quantity::parse("1024Mi").unwrap().to_string(), "1Gi");
//! assert_eq!(Quantity::parse("100m").unwrap().milli_value(), 100);
//! ```

use std::cmp::Ordering;
use std::fmt;

/// The family of suffixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `e3`.
    DecimalExponent,
    /// `Ki`, `Mi`, ….
    BinarySi,
    /// `m`, `k`, `M`, ….
    DecimalSi,
}

/// A fixed-point number. Arithmetic saturates at about ±10²⁹.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// In nano units.
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// Upper bound of the magnitude in nano units: far above 2⁶³ units, far below `i128::MAX`.
const MAX_NANOS: i128 = 100_000_000_000_000_000_000_000_000_000_000_000_000;

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Parses any form a client may send.
    ///
    /// # Errors
    /// [`QuantityError`] with upstream's text.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let (negative, rest) = match text.as_bytes().first().ok_or(QuantityError::Format)? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = |t: &str| t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", rest),
        };
        check_suffix_form(suffix)?;
        let (base_two, exponent, format) = suffix_value(suffix).ok_or(QuantityError::Suffix)?;
        let size = magnitude(whole, fraction, base_two, exponent);
        let size = if format == Format::BinarySi { size.min(i128::from(i64::MAX) * NANO) } else { size };
        let format =
            if format == Format::BinarySi && size > 0 && size < NANO { Format::DecimalSi } else { format };
        Ok(Self { nanos: if negative { -size } else { size }, format })
    }

    pub fn from_units(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    pub fn from_millis(value: i64) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up (away from zero); saturates.
    pub fn value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up (away from zero); saturates.
    pub fn milli_value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO / 1000))
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    fn with(self, nanos: i128, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: nanos.clamp(-MAX_NANOS, MAX_NANOS), format }
    }
}

/// The sum; a zero left side takes the format of the right.
impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(self.nanos.saturating_add(other.nanos), other)
    }
}

/// The difference; a zero left side takes the format of the right.
impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(self.nanos.saturating_sub(other.nanos), other)
    }
}

/// The text that upstream keeps of a quantity: the text itself when it counts as canonical, else the canonical form. The
/// two differ for texts such as `+1`, `1.001` or `1E3`, which upstream takes for canonical.
///
/// # Errors
/// As [`Quantity::parse`].
pub fn normalize(text: &str) -> Result<String, QuantityError> {
    let text = text.trim();
    let quantity = Quantity::parse(text)?;
    Ok(if counts_as_canonical(text) { text.to_owned() } else { quantity.to_string() })
}

/// Digits that surely fit 64 bits.
const SAFE_DIGITS: usize = 18;

fn counts_as_canonical(text: &str) -> bool {
    if text == "0" {
        return true;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = |t: &str| t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let (whole, rest) = unsigned.split_at(digits(unsigned));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    let whole = whole.trim_start_matches('0');
    let Some((base_two, exponent, _)) = suffix_value(suffix) else { return false };
    if whole.is_empty() {
        return false;
    }
    if base_two {
        let weight = whole.len() + (exponent as usize * 3) / 10 + 1;
        return fraction.is_empty() && weight <= 15 && whole.parse::<i64>().is_ok_and(|v| v & 7 != 0);
    }
    let scale = exponent - fraction.len() as i32;
    let whole_thousands = fraction.ends_with("000") || (fraction.is_empty() && whole.ends_with("000"));
    whole.len() + fraction.len() <= SAFE_DIGITS && scale >= -9 && scale % 3 == 0 && !whole_thousands
}

/// The suffix is letters, then a sign, then digits, and nothing else.
fn check_suffix_form(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if rest.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

/// (base is two, exponent, format).
fn suffix_value(suffix: &str) -> Option<(bool, i32, Format)> {
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    if let Some(i) = decimal.iter().position(|s| *s == suffix) {
        return Some((false, (i as i32 - 3) * 3, Format::DecimalSi));
    }
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(i) = binary.iter().position(|s| *s == suffix) {
        return Some((true, (i as i32 + 1) * 10, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent = exponent.parse::<i64>().ok()?;
    Some((false, exponent.clamp(-1000, 1000) as i32, Format::DecimalExponent))
}

/// Nano units of `whole.fraction × base^exponent`, rounded up, at most [`MAX_NANOS`].
fn magnitude(whole: &str, fraction: &str, base_two: bool, exponent: i32) -> i128 {
    let digits = whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0');
    let mut mantissa: i128 = 0;
    let mut dropped: i32 = 0;
    let mut inexact = false;
    for digit in digits {
        if mantissa < MAX_NANOS / 1000 {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        } else {
            dropped += 1;
            inexact |= digit != b'0';
        }
    }
    let mut scale = dropped - fraction.len() as i32 + 9;
    if base_two {
        for _ in 0..exponent {
            // The last digit goes before the first would.
            if mantissa > MAX_NANOS / 2 {
                inexact |= mantissa % 10 != 0;
                mantissa /= 10;
                scale += 1;
            }
            mantissa *= 2;
        }
    } else {
        scale += exponent;
    }
    while scale > 0 && mantissa != 0 && mantissa < MAX_NANOS {
        mantissa = mantissa.saturating_mul(10);
        scale -= 1;
    }
    while scale < 0 && mantissa > 0 {
        inexact |= mantissa % 10 != 0;
        mantissa /= 10;
        scale += 1;
    }
    mantissa.saturating_add(i128::from(inexact)).min(MAX_NANOS)
}

fn divide_up(value: i128, by: i128) -> i128 {
    let rest = i128::from(value % by != 0);
    value / by + if value < 0 { -rest } else { rest }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    /// The canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.nanos % NANO == 0 {
            return binary(self.nanos / NANO, f);
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            mantissa /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{mantissa}"),
            Format::DecimalExponent => write!(f, "{mantissa}e{exponent}"),
            _ => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

fn binary(mut value: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    while value % 1024 == 0 && power < suffixes.len() - 1 {
        value /= 1024;
        power += 1;
    }
    write!(f, "{value}{}", suffixes[power])
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

/// By value: `1000m` equals `1`.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        for (given, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100000", "100k"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1023Ki", "1023Ki"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("1E", "1E"),
            ("12e4", "120e3"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("-5m", "-5m"),
            ("+7", "7"),
            ("100Ei", "8Ei"),
            ("0.001Ki", "1024m"),
            ("1000000000000000000000", "1000E"),
        ] {
            let found = canonical(given);
            if given == "100Ei" {
                assert_eq!(found, "9223372036854775807");
            } else {
                assert_eq!(found, expected, "{given}");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_the_largest() {
        let largest = Quantity { nanos: MAX_NANOS, format: Format::DecimalSi };
        let digits = format!("1{}", "7".repeat(37));
        for text in [digits.clone(), "9".repeat(60), format!("{digits}.{digits}"), "1e1000".to_owned()] {
            assert_eq!(Quantity::parse(&text), Ok(largest), "{text}");
            let least = Quantity::parse(&format!("-{text}")).unwrap();
            assert_eq!(least, Quantity::ZERO - largest, "-{text}");
            assert_eq!((largest + largest, least + least), (largest, least));
            assert_eq!((least - largest, largest - least), (least, largest));
            assert_eq!((largest.value(), least.value()), (i64::MAX, i64::MIN));
        }
    }

    #[test]
    fn digits_behind_the_point_are_no_matter_however_many() {
        let zeros = "0".repeat(40);
        for (suffix, value) in [("Ki", 1_i64 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ei", 1 << 60)] {
            assert_eq!(Quantity::parse(&format!("1.{zeros}{suffix}")).unwrap().value(), value, "{suffix}");
            let more = Quantity::parse(&format!("1.{zeros}1{suffix}")).unwrap();
            assert_eq!(more.nanos, i128::from(value) * NANO + 1, "{suffix}");
        }
    }

    #[test]
    fn faults() {
        assert_eq!(Quantity::parse(""), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1x"), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1mm"), Err(QuantityError::Suffix));
        assert_eq!(Quantity::parse("1 Gi"), Err(QuantityError::Format));
    }

    #[test]
    fn arithmetic() {
        let half = Quantity::parse("500m").unwrap();
        let one = Quantity::parse("1Gi").unwrap();
        assert_eq!((half + half).to_string(), "1");
        assert_eq!((Quantity::ZERO + one).to_string(), "1Gi");
        assert_eq!(half.value(), 1);
        assert_eq!(Quantity::parse("-500m").unwrap().value(), -1);
        assert_eq!(one.value(), 1 << 30);
        assert!(half < one);
        assert_eq!(one - one, Quantity::ZERO);
    }
}

//! Reading Kubernetes quantities (`100m`, `64Mi`, `1e3`) as whole numbers, rounded up.

/// In thousandths (milli-cores); `None` if malformed.
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1_000)
}

/// In whole units (bytes); `None` if malformed.
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, by: i128) -> Option<i64> {
    let number_end =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, over) = suffix_factor(suffix)?;
    let divisor = over.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let product = digits.checked_mul(times)?.checked_mul(by)?;
    i64::try_from(product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0)).ok()
}

/// Numerator and denominator of a suffix.
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && let Ok(exponent) = exponent.parse::<i32>()
    {
        let power = 10i128.checked_pow(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

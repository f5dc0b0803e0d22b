//! Time as text: RFC 3339 as Go writes it, and Go durations. Nothing here reads a clock.
//!
//! ```
//! use api_types::time;
//! assert_eq!(time::from_seconds(0), "1970-01-01T00:00:00Z");
//! assert_eq!(time::parse("1970-01-01T01:00:00.5+01:00").unwrap().nanos, 500_000_000);
//! assert_eq!(time::format_duration(90_000_000_000), "1m30s");
//! ```

use std::fmt::Write;

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// A moment: seconds since 1970 UTC and nanoseconds of that second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    pub seconds: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}

impl Moment {
    pub fn from_millis(millis: i64) -> Self {
        Self { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as u32 }
    }

    /// Milliseconds since 1970, rounded down.
    pub fn millis(self) -> i64 {
        self.seconds * 1000 + i64::from(self.nanos / 1_000_000)
    }
}

/// The text is not RFC 3339. The text is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parsing time {value:?} as {layout:?}: cannot parse {rest:?} as {expected:?}")]
pub struct TimeError {
    pub value: String,
    pub layout: &'static str,
    pub rest: String,
    pub expected: &'static str,
}

/// Layout of `metav1.Time` in Go.
pub const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// Layout of `metav1.MicroTime` in Go.
pub const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Parses RFC 3339 with an optional fraction and any offset.
///
/// # Errors
/// Go's text for the first part that does not fit.
pub fn parse(text: &str) -> Result<Moment, TimeError> {
    Parser { text, at: 0, layout: LAYOUT }.moment()
}

/// Parses the form of `metav1.MicroTime`: a fraction of exactly six digits.
///
/// # Errors
/// Go's text for the first part that does not fit.
pub fn parse_micro(text: &str) -> Result<Moment, TimeError> {
    Parser { text, at: 0, layout: MICRO_LAYOUT }.moment()
}

/// `2006-01-02T15:04:05Z`: `metav1.Time`.
pub fn from_seconds(seconds: i64) -> String {
    let mut out = String::with_capacity(20);
    write_moment(&mut out, seconds);
    out.push('Z');
    out
}

/// `Mon, 02 Jan 2006 15:04:05 GMT`: the form of HTTP headers.
pub fn http_date(millis: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = millis.div_euclid(1000);
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = clock(seconds);
    let (weekday, month) = (DAYS[days.rem_euclid(7) as usize], MONTHS[(month - 1) as usize]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `2006-01-02T15:04:05.000000Z`: `metav1.MicroTime`.
pub fn micro(seconds: i64, nanos: u32) -> String {
    let mut out = String::with_capacity(27);
    write_moment(&mut out, seconds);
    write!(out, ".{:06}Z", nanos / 1000).expect("writing to a string");
    out
}

/// Milliseconds since 1970 as `metav1.Time` text.
pub fn from_millis(millis: i64) -> String {
    from_seconds(millis.div_euclid(1000))
}

/// Milliseconds since 1970 as `metav1.MicroTime` text.
pub fn micro_from_millis(millis: i64) -> String {
    let moment = Moment::from_millis(millis);
    micro(moment.seconds, moment.nanos)
}

/// Milliseconds since 1970 of an RFC 3339 text; none when it does not parse.
pub fn to_millis(text: &str) -> Option<i64> {
    parse(text).ok().map(Moment::millis)
}

/// Everything before the fraction.
fn write_moment(out: &mut String, seconds: i64) {
    if let Some(text) = ascii(seconds) {
        return out.extend(text[..text.len() - 1].iter().copied().map(char::from));
    }
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let (hour, minute, second) = clock(seconds);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
        .expect("writing to a string");
}

/// [`from_seconds`] where the year has four digits.
pub(crate) fn ascii(seconds: i64) -> Option<[u8; 20]> {
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let (hour, minute, second) = clock(seconds);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let mut text = *b"0000-00-00T00:00:00Z";
    let pairs =
        [(0, year / 100), (2, year % 100), (5, month), (8, day), (11, hour), (14, minute), (17, second)];
    for (at, number) in pairs {
        text[at] += (number / 10) as u8;
        text[at + 1] += (number % 10) as u8;
    }
    Some(text)
}

/// Hour, minute and second of the day.
fn clock(seconds: i64) -> (i64, i64, i64) {
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    (second / 3600, second / 60 % 60, second % 60)
}

/// Year, month, day of a day number since 1970 (proleptic Gregorian; eras of 400 years that start in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    layout: &'static str,
}

impl Parser<'_> {
    fn moment(mut self) -> Result<Moment, TimeError> {
        let year = self.number(4, "2006", 0, 9999)?;
        self.literal("-")?;
        let month = self.number(2, "01", 1, 12)?;
        self.literal("-")?;
        let day = self.number(2, "02", 1, days_in_month(year, month))?;
        self.literal("T")?;
        let hour = self.number(2, "15", 0, 23)?;
        self.literal(":")?;
        let minute = self.number(2, "04", 0, 59)?;
        self.literal(":")?;
        let second = self.number(2, "05", 0, 59)?;
        let nanos = self.fraction()?;
        let offset = self.offset()?;
        if self.at != self.text.len() {
            return Err(self.fault(""));
        }
        let local = day_number(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
        Ok(Moment { seconds: local - offset, nanos })
    }

    fn fault(&self, expected: &'static str) -> TimeError {
        let rest = self.text.get(self.at..).unwrap_or_default().to_owned();
        TimeError { value: self.text.to_owned(), layout: self.layout, rest, expected }
    }

    fn number(&mut self, width: usize, expected: &'static str, min: i64, max: i64) -> Result<i64, TimeError> {
        let digits =
            self.text.get(self.at..self.at + width).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let value = digits.and_then(|d| d.parse().ok()).ok_or_else(|| self.fault(expected))?;
        if value < min || value > max {
            return Err(self.fault(expected));
        }
        self.at += width;
        Ok(value)
    }

    fn literal(&mut self, expected: &'static str) -> Result<(), TimeError> {
        if !self.text[self.at..].starts_with(expected) {
            return Err(self.fault(expected));
        }
        self.at += expected.len();
        Ok(())
    }

    fn fraction(&mut self) -> Result<u32, TimeError> {
        if self.layout == MICRO_LAYOUT {
            self.literal(".").map_err(|e| TimeError { expected: ".000000", ..e })?;
            return self.number(6, ".000000", 0, 999_999).map(|micros| micros as u32 * 1000);
        }
        if !self.text[self.at..].starts_with('.') {
            return Ok(0);
        }
        let digits: String = self.text[self.at + 1..].chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() {
            return Err(self.fault("Z07:00"));
        }
        self.at += 1 + digits.len();
        let nanos = format!("{digits:0<9}");
        Ok(nanos[..9].parse().expect("nine digits"))
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i64, TimeError> {
        let sign = match self.text.as_bytes().get(self.at) {
            Some(b'Z') => {
                self.at += 1;
                return Ok(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.fault("Z07:00")),
        };
        self.at += 1;
        let hours = self.number(2, "Z07:00", 0, 24)?;
        self.literal(":")?;
        let minutes = self.number(2, "Z07:00", 0, 60)?;
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

/// Nanoseconds as Go's `time.Duration` prints them: `1h2m3.5s`, `15ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let size = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = |value: u64, unit: u64| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match size {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{size}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(size, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(size, 1_000_000)),
        _ => {
            let minutes = size / 60_000_000_000;
            let seconds = fraction(size % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// Parses a Go duration (`1h30m`, `1.5s`, `-2ms`) to nanoseconds; none when it is not one.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = &rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len())];
        rest = &rest[number.len()..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len())];
        rest = &rest[unit.len()..];
        total += duration_part(number, unit_nanos(unit)?)?;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn duration_part(number: &str, unit: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |t: &str| if t.is_empty() { Some(0) } else { t.parse::<i64>().ok() };
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(
        i128::from(digits(whole)?) * i128::from(unit)
            + i128::from(digits(fraction)?) * i128::from(unit) / scale,
    )
}

fn unit_nanos(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_their_own_form() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_825_906_999), "Tue, 29 Feb 2000 12:05:06 GMT");
        assert_eq!(http_date(1_767_225_599_000), "Wed, 31 Dec 2025 23:59:59 GMT");
    }

    #[test]
    fn seconds_round_trip() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(from_seconds(seconds), text);
            assert_eq!(parse(text), Ok(Moment { seconds, nanos: 0 }));
        }
    }

    #[test]
    fn offsets_and_fractions() {
        let moment = parse("2000-02-29T02:30:00.123456789+02:30").unwrap();
        assert_eq!(moment, Moment { seconds: 951_782_400, nanos: 123_456_789 });
        assert_eq!(micro(moment.seconds, moment.nanos), "2000-02-29T00:00:00.123456Z");
    }

    #[test]
    fn faults_have_gos_text() {
        let fault = parse("tomorrow").unwrap_err();
        assert_eq!(
            fault.to_string(),
            "parsing time \"tomorrow\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"tomorrow\" as \"2006\""
        );
        assert!(parse("2001-02-29T00:00:00Z").is_err());
        assert!(parse("2001-02-28T00:00:00").is_err());
        assert!(parse("2001-02-28T00:00:00Zx").is_err());
    }

    #[test]
    fn durations() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (15_000_000, "15ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_500_000_000, "-1.5s"),
        ] {
            assert_eq!(format_duration(nanos), text);
            assert_eq!(parse_duration(text), Some(nanos));
        }
        assert_eq!(parse_duration("1.5h"), Some(5_400_000_000_000));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration(""), None);
        assert_eq!(parse_duration("s"), None);
    }
}

//! The grammar of cron schedules, as the library that upstream uses reads it: five fields, `@macro`, `@every <duration>`.

/// Bounds and names of a field.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field {
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];
const MACROS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks a schedule.
///
/// # Errors
/// The parser's text.
pub fn check(schedule: &str) -> Result<(), String> {
    let schedule = without_zone(schedule)?;
    if let Some(duration) = schedule.strip_prefix("@every ") {
        return api_types::time::parse_duration(duration).map(drop).ok_or_else(|| {
            format!("failed to parse duration {schedule}: time: invalid duration \"{duration}\"")
        });
    }
    if schedule.starts_with('@') {
        return if MACROS.contains(&schedule) {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {schedule}"))
        };
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    parts
        .iter()
        .zip(&FIELDS)
        .try_for_each(|(text, field)| text.split(',').try_for_each(|range| field.range(range)))
}

fn without_zone(schedule: &str) -> Result<&str, String> {
    let Some(rest) = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) else {
        return Ok(schedule);
    };
    let (zone, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match jiff::tz::TimeZone::get(zone) {
        Ok(_) => Ok(rest.trim()),
        Err(_) => Err(format!("provided bad location {zone}: unknown time zone {zone}")),
    }
}

impl Field {
    fn range(&self, text: &str) -> Result<(), String> {
        let mut halves = text.split('/');
        let (span, step, more) = (halves.next().unwrap_or(""), halves.next(), halves.next());
        let mut ends = span.split('-');
        let (first, last, extra) = (ends.next().unwrap_or(""), ends.next(), ends.next());
        let (start, mut end) = if matches!(first, "*" | "?") {
            (self.low, self.high)
        } else {
            let start = self.number(first)?;
            let end = match (last, extra) {
                (None, _) => start,
                (Some(last), None) => self.number(last)?,
                _ => return Err(format!("too many hyphens: {text}")),
            };
            (start, end)
        };
        match (step, more) {
            (None, _) => {}
            (Some(step), None) => {
                let size: u32 = parse(step)?;
                if last.is_none() {
                    end = self.high;
                }
                if size == 0 {
                    return Err(format!("step of range should be a positive number: {text}"));
                }
            }
            _ => return Err(format!("too many slashes: {text}")),
        }
        self.bounds(start, end, text)
    }

    fn bounds(&self, start: u32, end: u32, text: &str) -> Result<(), String> {
        if start < self.low {
            return Err(format!("beginning of range ({start}) below minimum ({}): {text}", self.low));
        }
        if end > self.high {
            return Err(format!("end of range ({end}) above maximum ({}): {text}", self.high));
        }
        if start > end {
            return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
        }
        Ok(())
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match self.names.iter().position(|n| *n == lower) {
            Some(index) => Ok(index as u32 + if self.high == 12 { 1 } else { 0 }),
            None => parse(text),
        }
    }
}

fn parse(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => u32::try_from(n).map_err(|_| format!("failed to parse int from {text}: value out of range")),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn good_schedules() {
        for text in [
            "* * * * *",
            "*/5 0-12/2 1,15 jan-MAR mon",
            "@daily",
            "@every 1h30m",
            "0 0 ? * 0",
            "TZ=UTC 0 0 * * *",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_schedules_say_why() {
        for (text, want) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(check(text).unwrap_err(), want);
        }
    }
}

//! Ages as people read them, with the steps of `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.

/// A span of milliseconds as `5d3h`, `12m`, `45s`; `<invalid>` when it lies more than a second in the future.
pub fn human(milliseconds: i64) -> String {
    let seconds = milliseconds / 1_000;
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    let days = hours / 24;
    let years = days / 365;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        two(years, 'y', days % 365, 'd')
    } else {
        format!("{years}y")
    }
}

fn two(big: i64, big_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

/// Milliseconds since the epoch of an RFC 3339 time, `None` when it is empty or malformed.
pub fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// The age of a time, `none` when there is no time.
pub fn since(time: &str, now: i64, none: &str) -> String {
    millis(time).map_or_else(|| none.to_owned(), |then| human(now - then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_durations_as_upstream() {
        const S: i64 = 1_000;
        const M: i64 = 60 * S;
        const H: i64 = 60 * M;
        const D: i64 = 24 * H;
        for (span, text) in [
            (-2 * S, "<invalid>"),
            (-S, "0s"),
            (0, "0s"),
            (119 * S, "119s"),
            (120 * S, "2m"),
            (130 * S, "2m10s"),
            (9 * M + 59 * S, "9m59s"),
            (10 * M + 59 * S, "10m"),
            (179 * M, "179m"),
            (3 * H, "3h"),
            (3 * H + 5 * M, "3h5m"),
            (8 * H + 5 * M, "8h"),
            (47 * H, "47h"),
            (48 * H, "2d"),
            (49 * H, "2d1h"),
            (8 * D, "8d"),
            (729 * D, "729d"),
            (730 * D, "2y"),
            (800 * D, "2y70d"),
            (8 * 365 * D, "8y"),
        ] {
            assert_eq!(human(span), text, "{span}");
        }
        assert_eq!(since("", 0, "<unknown>"), "<unknown>");
        assert_eq!(since("1970-01-01T00:00:00Z", 5 * S, "<unknown>"), "5s");
    }
}

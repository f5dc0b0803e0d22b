//! How long a call may take, as its client says.

use std::time::Duration;

use env::Clock;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

const TIMEOUT: &str = "grpc-timeout";

/// When a call has to be over.
#[derive(Clone)]
pub(crate) struct Deadline {
    clock: Clock,
    at: Option<Instant>,
}

impl Deadline {
    /// The client's, if it has one.
    ///
    /// # Errors
    /// It is no time.
    pub fn of(headers: &HeaderMap, clock: &Clock) -> Result<Self, Status> {
        let Some(text) = headers.get(TIMEOUT).filter(|text| !text.is_empty()) else {
            return Ok(Self::none(clock));
        };
        let text = String::from_utf8_lossy(text.as_bytes());
        let time = timeout(&text)
            .ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
        let at = time.and_then(|time| clock.monotonic().checked_add(time));
        Ok(Self { clock: clock.clone(), at })
    }

    /// No end.
    pub fn none(clock: &Clock) -> Self {
        Self { clock: clock.clone(), at: None }
    }

    /// Does something, as long as there is time.
    ///
    /// # Errors
    /// There is none any more.
    pub async fn bound<T>(&self, work: impl Future<Output = T>) -> Result<T, Status> {
        let Some(at) = self.at else { return Ok(work.await) };
        let late = || Status::deadline_exceeded("context deadline exceeded");
        if self.clock.monotonic() >= at {
            return Err(late());
        }
        tokio::time::timeout_at(at, work).await.map_err(|_| late())
    }
}

/// A number and its unit; none at all if that is no time, and no end if it is zero. Time before now is none that is left.
fn timeout(text: &str) -> Option<Option<Duration>> {
    let unit = text.chars().last()?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    let nanos: u64 = match unit {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1_000,
        'n' => 1,
        _ => return None,
    };
    let left = u64::try_from(number).unwrap_or(0).saturating_mul(nanos);
    Some((number != 0).then(|| Duration::from_nanos(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let left = |text| timeout(text).flatten();
        assert_eq!(left("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(left("3M"), Some(Duration::from_secs(180)));
        assert_eq!(left("4S"), Some(Duration::from_secs(4)));
        assert_eq!(left("5m"), Some(Duration::from_millis(5)));
        assert_eq!(left("6u"), Some(Duration::from_micros(6)));
        assert_eq!(left("+7n"), Some(Duration::from_nanos(7)));
        assert_eq!(left("-1S"), Some(Duration::ZERO), "it is over");
        assert_eq!(timeout("0n"), Some(None), "there is no end");
        assert_eq!(left("9223372036854775807H"), Some(Duration::from_nanos(u64::MAX)));
        for text in ["", "S", "1", "abc", "1s", "1.5S", "1é", "99999999999999999999S"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}

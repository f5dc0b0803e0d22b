//! What the headers of a request say of its call, as grpc-gateway reads them (`runtime/context.go`).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use env::Clock;
use tokio::time::Instant;
use tonic::Status;

/// What stands before the names of metadata.
const METADATA: &str = "grpc-metadata-";
/// Metadata that say how a call is carried: who carries it decides.
const RESERVED: &[&str] = &["content-type", "content-length", "te", "user-agent", "connection", "host"];
const TIMEOUT: &str = "grpc-timeout";

/// The metadata of the call: the token, and whatever is said to be metadata and is text.
pub(super) fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let key = match name.as_str().strip_prefix(METADATA) {
            Some(key) => key,
            None if name == header::AUTHORIZATION => name.as_str(),
            None => continue,
        };
        let carries = RESERVED.contains(&key) || key.starts_with("grpc-");
        let is_text =
            !key.ends_with("-bin") && value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
        if let Ok(key) = HeaderName::try_from(key)
            && is_text
            && !carries
        {
            metadata.append(key, value.clone());
        }
    }
    metadata
}

/// When a call has to be over.
#[derive(Clone)]
pub(super) struct Deadline {
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
            return Ok(Self { clock: clock.clone(), at: None });
        };
        let text = String::from_utf8_lossy(text.as_bytes());
        let time = timeout(&text)
            .ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
        let at = time.and_then(|time| clock.monotonic().checked_add(time));
        Ok(Self { clock: clock.clone(), at })
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

    #[test]
    fn metadata_are_what_is_said_to_be() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "a"),
            ("grpc-metadata-token", "t"),
            ("grpc-metadata-token", "u"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-content-type", "text/plain"),
            ("grpc-metadata-x-bin", "AA=="),
            ("grpc-metadata-", "x"),
            ("accept", "x"),
            ("token", "x"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        headers.append("grpc-metadata-name", "é".parse().expect("a value"));
        let metadata = metadata(&headers);
        let mut found: Vec<_> =
            metadata.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        found.sort_unstable();
        assert_eq!(found, [("authorization", &b"a"[..]), ("token", b"t"), ("token", b"u")]);
    }
}

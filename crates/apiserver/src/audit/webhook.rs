//! Events sent to a server that a kubeconfig names, as `audit.k8s.io/v1 EventList`s, again and again until it takes them
//! or the tries are used up. Driver.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use env::{Backoff, Env, TaskGroup};

use crate::remote::Remote;

/// How long one try may take (upstream's `defaultRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of a batch (upstream's).
const TRIES: usize = 5;
/// Each wait is so much longer than the one before it (upstream's).
const FACTOR: f64 = 1.5;
/// The part of a wait that is added at random, at most (upstream's).
const JITTER: f64 = 0.2;
/// Bytes of an answer, which nobody reads.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A server that takes events.
pub(super) struct Webhook {
    server: Remote,
    initial_backoff: Duration,
    env: Env,
}

impl Webhook {
    /// Reads the kubeconfig.
    pub fn load(
        path: &Path,
        initial_backoff: Duration,
        env: &Env,
        tasks: &TaskGroup,
    ) -> Result<Self, String> {
        let server = Remote::load(path, TIMEOUT, tasks)?;
        Ok(Self { server, initial_backoff, env: env.clone() })
    }

    /// Sends events, each as JSON; the last error when no try succeeded.
    pub async fn send(&self, events: &[Vec<u8>]) -> Result<(), String> {
        let body = list(events);
        let mut backoff = Backoff::new(self.initial_backoff, FACTOR, Duration::MAX, JITTER);
        let mut tries = 1;
        loop {
            let sent = self.server.post(body.clone(), MAX_ANSWER_BYTES).await.map_err(|refusal| refusal.text);
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if tries == TRIES => return Err(error),
                Err(error) => tracing::debug!(error, "audit events were not taken"),
            }
            tries += 1;
            self.env.clock.sleep(backoff.next(&self.env.rng)).await;
        }
    }
}

fn list(events: &[Vec<u8>]) -> Bytes {
    let mut body = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    body.extend_from_slice(&events.join(&b','));
    body.extend_from_slice(b"]}");
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_as_a_list() {
        let body = list(&[b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"a":1},{"b":2}]}"#
        );
    }
}

//! Events sent to a server that a kubeconfig names, as `audit.k8s.io/v1 EventList`s, again and again until it takes them
//! or the tries are used up. Driver.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, TaskGroup};

use crate::remote::Remote;

/// How long one try may take (upstream's `defaultRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(30);
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
        let sent =
            self.server.insist(&self.env, list(events), MAX_ANSWER_BYTES, self.initial_backoff, |_| true);
        sent.await.map(drop)
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

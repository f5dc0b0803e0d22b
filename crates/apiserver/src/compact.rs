//! Forgets the store's history once it is older than an interval, as upstream's API servers do: a watch or a list at a
//! revision before is told 410 and begins anew.

use std::sync::Arc;
use std::time::Duration;

use mvcc::Command;

use crate::api::Api;

/// Runs until shutdown. Every replica remembers where the store was an interval ago; the one that leads compacts.
pub(crate) async fn run(api: Arc<Api>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    loop {
        let revision = api.storage.view().revision();
        tokio::select! {
            () = api.storage.env.clock.sleep(interval) => {}
            () = api.shutdown.wait() => return,
        }
        let leads = api.storage.store.leadership().borrow().is_leader;
        if !leads || revision <= api.storage.view().compact_revision() {
            continue;
        }
        match api.storage.store.propose(Command::Compact { revision }).await {
            Ok(_) => tracing::debug!(revision, "history compacted"),
            Err(error) => tracing::warn!(%error, revision, "history was not compacted"),
        }
    }
}

//! Objects that the server itself makes, and keeps as they should be.

use std::future::Future;
use std::time::Duration;

use api_types::status::Status;
use futures::future::select_all;
use mvcc::KeyRange;
use store::WatchRequest;

use crate::api::Api;

/// Between two looks, if nothing changes.
const INTERVAL: Duration = Duration::from_secs(60);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Brings objects into shape until shutdown: at once, when something in `ranges` changes, and every now and then. `what`
/// is not possible, as the log says, when `once` fails.
pub(crate) async fn keep<F>(api: &Api, ranges: &[KeyRange], what: &'static str, once: impl Fn() -> F + Send)
where
    F: Future<Output = Result<(), Status>> + Send,
{
    loop {
        let start_revision = api.storage.view().revision() + 1;
        let watch =
            |range: &KeyRange| api.storage.watch(WatchRequest { range: range.clone(), start_revision });
        let mut watchers: Vec<_> = ranges.iter().map(watch).collect();
        if let Err(error) = once().await {
            tracing::debug!(%error, what, "not possible");
            tokio::select! {
                () = api.storage.env.clock.sleep(RETRY) => continue,
                () = api.shutdown.wait() => return,
            }
        }
        // A watch that breaks is begun anew.
        let changed = select_all(watchers.iter_mut().map(|watcher| Box::pin(watcher.next())));
        tokio::select! {
            _ = changed => {}
            () = api.storage.env.clock.sleep(INTERVAL) => {}
            () = api.shutdown.wait() => return,
        }
    }
}

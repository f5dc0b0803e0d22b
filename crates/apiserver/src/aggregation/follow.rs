//! Follows the servers of all APIServices: a task for each, so that one that hangs keeps nobody from the others.

use std::sync::Arc;
use std::time::Duration;

use env::Backoff;
use mvcc::KeyRange;
use store::WatchRequest;
use tokio::sync::watch;

use super::{Aggregation, ApiService, discovery, openapi, prefix};
use crate::api::Api;
use crate::storage::View;

/// Before the stored APIServices are looked at again after their watch broke.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// What a server is asked for.
#[derive(Clone, Copy)]
enum Part {
    Discovery,
    OpenApi,
}

/// Until shutdown.
pub(crate) async fn keep(api: Arc<Api>) {
    let (changed, changes) = watch::channel(());
    loop {
        let view = api.storage.view();
        let range = KeyRange::prefix(prefix());
        let mut watcher = api.storage.watch(WatchRequest { range, start_revision: view.revision() + 1 });
        changed.send_replace(());
        for service in api.aggregation.remotes(&view) {
            if api.aggregation.followed.lock().insert(service.name.clone()) {
                let followed = follow(api.clone(), service.name.clone(), changes.clone());
                api.tasks.spawn_detached("aggregated-server", followed);
            }
        }
        drop(view);
        let broken = tokio::select! {
            change = watcher.next() => change.is_err(),
            () = api.shutdown.wait() => return,
        };
        if broken {
            api.storage.env.clock.sleep(WATCH_PAUSE).await;
        }
    }
}

/// Follows the server of one APIService until there is none any more.
async fn follow(api: Arc<Api>, name: String, changes: watch::Receiver<()>) {
    let all = async {
        loop {
            let discovery = again_and_again(&api, &name, changes.clone(), Part::Discovery);
            let openapi = again_and_again(&api, &name, changes.clone(), Part::OpenApi);
            tokio::join!(discovery, openapi);
            if api.aggregation.let_go(&api.storage.view(), &name) {
                return;
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = api.shutdown.wait() => {}
    }
}

async fn again_and_again(api: &Api, name: &str, mut changes: watch::Receiver<()>, part: Part) {
    let settings = &api.aggregation.settings;
    let mut backoff = Backoff::new(settings.retry, 2.0, settings.refresh, 0.1);
    loop {
        changes.mark_unchanged();
        let Some(service) = api.aggregation.remote_named(&api.storage.view(), name) else { return };
        let Some(remote) = &service.remote else { return };
        let done = match part {
            Part::Discovery => discovery::refresh(api, &service, remote).await,
            Part::OpenApi => openapi::refresh(api, &service, remote).await,
        };
        let pause = match done {
            true => {
                backoff.reset();
                settings.refresh
            }
            false => backoff.next(&api.storage.env.rng),
        };
        tokio::select! {
            () = api.storage.env.clock.sleep(pause) => {}
            _ = changes.changed() => {}
        }
    }
}

impl Aggregation {
    /// An APIService that another server serves.
    fn remote_named(&self, view: &View, name: &str) -> Option<Arc<ApiService>> {
        self.services.at(view).find(name).filter(|service| service.remote.is_some()).cloned()
    }

    /// Forgets an APIService, unless it is there again: who adds it finds it followed, or follows it anew.
    fn let_go(&self, view: &View, name: &str) -> bool {
        let mut followed = self.followed.lock();
        if self.remote_named(view, name).is_some() {
            return false;
        }
        followed.remove(name);
        self.discovery.forget(name);
        self.openapi.forget(name);
        true
    }
}

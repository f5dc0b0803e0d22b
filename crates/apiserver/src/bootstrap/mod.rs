//! What every cluster has from its first start: namespaces, roles, priority classes, Service `kubernetes`, APIServices.
//! Whichever replica comes first makes it; what is there already is left alone, but for what a release says anew.

mod api_services;
mod endpoints;
mod objects;
mod roles;
mod trust;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_types::status::Status;
use api_types::{Value, meta, table};
use env::Backoff;

use crate::api::Api;
use crate::call::Call;
use crate::registry::Target;

pub(crate) use endpoints::reconcile;
pub(crate) use trust::keep as keep_trust;

/// Makes what is missing, again and again until the store took it all.
pub(crate) async fn ensure(api: Arc<Api>, port: u16) {
    let mut backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(2), 0.2);
    loop {
        match ensure_once(&api, port).await {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, "the cluster's first objects cannot be made yet"),
        }
        let pause = backoff.next(&api.storage.env.rng);
        tokio::select! {
            () = api.storage.env.clock.sleep(pause) => {}
            () = api.shutdown.wait() => return,
        }
    }
    api.health.bootstrapped.store(true, Ordering::Release);
    tracing::info!("the API server is ready");
}

async fn ensure_once(api: &Api, port: u16) -> Result<(), Status> {
    api.storage.fresh().await?;
    for name in objects::NAMESPACES {
        create(api, objects::namespace(name)).await?;
    }
    for object in roles::all() {
        create(api, object).await?;
    }
    for object in objects::all(api, port) {
        create(api, object).await?;
    }
    trust::publish(api).await?;
    api_services::ensure(api).await
}

/// Creates an object unless it is there.
async fn create(api: &Api, object: Value) -> Result<(), Status> {
    let resource = table::by_api_version(meta::api_version(&object), meta::kind(&object))
        .ok_or_else(|| Status::internal(format_args!("{} is not a kind", meta::kind(&object))))?;
    let target = Target::new(resource, meta::namespace(&object), meta::name(&object));
    if api.storage.view().contains(&target.key()) {
        return Ok(());
    }
    match api.create(&Call::internal(), &target, object, false).await {
        Err(status) if status.is("AlreadyExists") => Ok(()),
        other => other.map(|_| ()),
    }
}

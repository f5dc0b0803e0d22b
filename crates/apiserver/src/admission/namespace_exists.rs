//! NamespaceExists: nothing is written or deleted in a namespace that is missing. NamespaceLifecycle sees to creations
//! already.

use api_types::status::Status;

use super::lookup::{self, NAMESPACES};
use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Never,
    check: Check::Waits(|api, attributes, _| {
        let namespace = attributes.target.namespace.as_str();
        let connects = attributes.operation == Operation::Connect;
        match connects || namespace.is_empty() || is_there(api, namespace) {
            true => None,
            false => Some(Box::pin(check(api, attributes))),
        }
    }),
};

fn is_there(api: &Api, namespace: &str) -> bool {
    lookup::is_there(&api.storage.view(), NAMESPACES, "", namespace)
}

/// Looks again behind the other masters' writes.
async fn check(api: &Api, attributes: &Attributes<'_>) -> Result<(), Status> {
    let namespace = &attributes.target.namespace;
    match lookup::is_there(&*api.storage.fresh().await?, NAMESPACES, "", namespace) {
        true => Ok(()),
        false => Err(Status::not_found("", "namespaces", namespace)),
    }
}

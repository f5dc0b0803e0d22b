//! NamespaceLifecycle: nothing is created in a namespace that is missing or being deleted, and the system's own
//! namespaces stay.

use api_types::codec::peek;
use api_types::status::Status;
use api_types::table;
use mvcc::View;

use super::{Attributes, Operation};
use crate::api::Api;
use crate::storage;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// A namespace, as far as it matters here.
enum State {
    Missing,
    Terminating,
    Active,
}

fn state(view: &View, namespace: &str) -> Result<State, Status> {
    let Some(namespaces) = table::find("", "v1", "namespaces") else { return Ok(State::Missing) };
    Ok(match storage::get(view, namespaces.key("", namespace).as_bytes())? {
        None => State::Missing,
        Some(kv) => match peek::open(&kv.value).ok().and_then(|object| object.deletion_timestamp()) {
            Some(_) => State::Terminating,
            None => State::Active,
        },
    })
}

impl Api {
    pub(super) async fn admit_lifecycle(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let target = attributes.target;
        if attributes.operation == Operation::Delete && attributes.is("", "namespaces") {
            return match IMMORTAL.contains(&target.name.as_str()) {
                true => Err(target.forbidden("this namespace may not be deleted")),
                false => Ok(()),
            };
        }
        if attributes.operation != Operation::Create || !target.resource.namespaced {
            return Ok(());
        }
        let mut found = state(&self.storage.view(), &target.namespace)?;
        if matches!(found, State::Missing) {
            // This replica may be behind.
            found = state(&*self.storage.fresh().await?, &target.namespace)?;
        }
        match found {
            State::Active => Ok(()),
            State::Missing => Err(Status::not_found("", "namespaces", &target.namespace)),
            State::Terminating => Err(terminating(attributes)),
        }
    }
}

fn terminating(attributes: &Attributes<'_>) -> Status {
    let namespace = &attributes.target.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let message = format!("namespace {namespace} is being terminated");
    attributes.target.forbidden(&why).with_cause("NamespaceTerminating", &message, "metadata.namespace")
}

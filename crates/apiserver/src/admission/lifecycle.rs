//! NamespaceLifecycle: nothing is created in a namespace that is missing or being deleted, and the system's own
//! namespaces stay.

use api_types::codec::peek;
use api_types::status::Status;
use api_types::table;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::storage::{self, View};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, _| match api.admit_lifecycle(attributes) {
        Ok(true) => None,
        Ok(false) => Some(Box::pin(api.admit_lifecycle_fresh(attributes))),
        Err(status) => Some(Box::pin(std::future::ready(Err(status)))),
    }),
    check: Check::Never,
};

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
    /// Whether the request may pass; false when this replica may be behind.
    fn admit_lifecycle(&self, attributes: &Attributes<'_>) -> Result<bool, Status> {
        let target = attributes.target;
        if attributes.operation == Operation::Delete && attributes.is("", "namespaces") {
            return match IMMORTAL.contains(&target.name.as_str()) {
                true => Err(target.forbidden("this namespace may not be deleted")),
                false => Ok(true),
            };
        }
        let review = target.resource.resource == "localsubjectaccessreviews";
        if attributes.operation != Operation::Create || !target.resource.namespaced || review {
            return Ok(true);
        }
        match state(&self.storage.view(), &target.namespace)? {
            State::Active => Ok(true),
            State::Missing => Ok(false),
            State::Terminating => Err(terminating(attributes)),
        }
    }

    async fn admit_lifecycle_fresh(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let namespace = &attributes.target.namespace;
        match state(&*self.storage.fresh().await?, namespace)? {
            State::Active => Ok(()),
            State::Missing => Err(Status::not_found("", "namespaces", namespace)),
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

//! NamespaceAutoProvision: the namespace of a new object is made if it is missing, in the server's own name.

use api_types::status::Status;
use serde_json::json;

use super::lookup::{self, NAMESPACES};
use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::call::Call;
use crate::registry::Target;

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, _| {
        let namespace = attributes.target.namespace.as_str();
        let creates = attributes.operation == Operation::Create && !attributes.dry_run;
        let is_there = || lookup::is_there(&api.storage.view(), NAMESPACES, "", namespace);
        match !creates || namespace.is_empty() || is_there() {
            true => None,
            false => Some(Box::pin(provision(api, attributes))),
        }
    }),
    check: Check::Never,
};

async fn provision(api: &Api, attributes: &Attributes<'_>) -> Result<(), Status> {
    let name = attributes.target.namespace.as_str();
    let target = Target::new(lookup::resource(NAMESPACES), "", name);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let call = Call::internal();
    match api.create(&call, &target, namespace, false).await {
        Ok(_) => Ok(()),
        // Another master has it, or somebody was faster.
        Err(status) if status.is("AlreadyExists") => Ok(()),
        Err(status) if status.is("Forbidden") => Err(status),
        Err(status) => Err(attributes.target.forbidden(&status.message)),
    }
}

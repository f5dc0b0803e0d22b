//! Admission: what the cluster's policies make of a write. The plugins run in upstream's order, those that change the
//! object first.

mod escalation;
mod lifecycle;
mod limit_ranger;
mod node;
mod pod_security;
mod pods;
mod quota;
mod service_account;

pub(crate) use quota::{Charged, Turns};

use api_types::Value;
use api_types::status::Status;

use crate::api::Api;
use crate::call::Call;
use crate::registry::Target;
use crate::user::UserInfo;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// A write, as the plugins see it.
pub(crate) struct Attributes<'a> {
    pub operation: Operation,
    pub target: &'a Target,
    pub subresource: &'a str,
    pub user: &'a UserInfo,
    /// The request itself; it takes the warnings.
    pub call: &'a Call,
    pub old: Option<&'a Value>,
}

/// What the cluster's operator decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Seconds that pods tolerate a node that is not ready.
    pub not_ready_toleration_seconds: i64,
    /// Seconds that pods tolerate a node that is not reachable.
    pub unreachable_toleration_seconds: i64,
}

impl<'a> Attributes<'a> {
    pub fn new(operation: Operation, target: &'a Target, call: &'a Call) -> Self {
        Self { operation, target, subresource: "", user: &call.user, call, old: None }
    }

    /// Whether this is about the objects of a resource themselves.
    fn is(&self, group: &str, resource: &str) -> bool {
        let own = &self.target.resource;
        self.subresource.is_empty() && own.group == group && own.resource == resource
    }

    fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource)
    }
}

impl Api {
    /// Lets the plugins change an object before it is checked.
    pub(crate) async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        self.admit_lifecycle(attributes).await?;
        let view = self.storage.view();
        limit_ranger::admit(&view, attributes, object)?;
        service_account::admit(self, &view, attributes, object).await?;
        node::restrict(&view, attributes, object)?;
        node::taint(attributes, object);
        pods::admit_priority(&view, attributes, object)?;
        pods::admit_tolerations(&self.admission, attributes, object);
        pods::admit_storage_protection(attributes, object);
        Ok(())
    }

    /// Lets the plugins refuse an object that was checked; for a deletion it is null.
    pub(crate) async fn validate_admission(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), Status> {
        if attributes.operation == Operation::Delete {
            self.admit_lifecycle(attributes).await?;
            return node::restrict(&self.storage.view(), attributes, &Value::Null);
        }
        limit_ranger::check(&self.storage.view(), attributes, object)?;
        pod_security::check(self, attributes, object)?;
        escalation::check(self, attributes, object)
    }
}

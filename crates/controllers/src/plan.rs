//! What a controller wants done.

use std::sync::Arc;
use std::time::Duration;

use api_types::{Resource, ResourceRef};
use client::{DeleteParams, EventType, Patch};
use serde_json::Value;

/// Actions in order; the first that fails ends the plan, and the key is tried again later.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to do.
    pub actions: Vec<Action>,
    /// When to look again even if nothing changes.
    pub recheck_after: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// One action.
    pub fn of(action: Action) -> Self {
        Self { actions: vec![action], recheck_after: None }
    }
}

/// One write.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make an object; one that is there already is no failure.
    Create(&'static Resource, Value),
    /// Make a pod for its owner, whose events tell of it.
    CreatePod(Arc<Value>, Value),
    /// Replace an object at its version.
    Update(&'static Resource, Value),
    /// Replace an object's status at its version.
    UpdateStatus(&'static Resource, Value),
    /// Change an object; one that is gone is no failure.
    Patch(ResourceRef, Arc<Value>, Patch),
    /// Delete an object, exactly this one; one that is gone is no failure.
    Delete(ResourceRef, Arc<Value>, DeleteParams),
    /// Delete everything of a kind in a namespace.
    DeleteCollection(ResourceRef, String),
    /// Delete all objects of a definition's kind, and let the definition go when the API shows none any more.
    FinalizeDefinition(ResourceRef, Arc<Value>),
    /// Delete a dependent whose owners are all gone, if the API confirms that they are.
    Collect(ResourceRef, Arc<Value>),
    /// Go on if the API confirms that nothing of a kind is left in a namespace; else the namespace says what is.
    AwaitNone(ResourceRef, Arc<Value>),
    /// Let a namespace go, if the API confirms that nothing is left in it; else it says what is.
    FinalizeNamespace(Arc<Value>),
    /// Write what is used of a quota, by what the API shows of these kinds (`resource.group`) and the informers of others.
    CountQuota(Arc<Value>, Vec<String>),
    /// Ask the server of an APIService whether it serves it, and write that into the status.
    ProbeApiService(Arc<Value>),
    /// Tell people.
    Event(Arc<Value>, EventType, &'static str, String),
}

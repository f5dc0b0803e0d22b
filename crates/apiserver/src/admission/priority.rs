//! Priority: the number of a pod's class.

use std::sync::Arc;

use api_types::status::Status;
use api_types::{Value, meta};

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::storage::View;

const CLASSES: Name = ("scheduling.k8s.io", "v1", "priorityclasses");
const PREEMPT: &str = "PreemptLowerPriority";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let view = api.storage.view();
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let class = match name {
        "" => default_class(&view)?,
        name => {
            let found = lookup::get(&view, CLASSES, "", name)?;
            let why = || format!("no PriorityClass with name {name} was found");
            Some(found.ok_or_else(|| attributes.target.forbidden(&why()))?)
        }
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy =
        class.as_ref().and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or(PREEMPT).to_owned();
    if pod["spec"]["priority"].as_i64().is_some_and(|given| given != value) {
        let given = &pod["spec"]["priority"];
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(attributes.target.forbidden(&why));
    }
    let spec = meta::child_mut(pod, &["spec"]);
    if let Some(class) = &class {
        spec.insert("priorityClassName".into(), meta::name(class).into());
    }
    spec.insert("priority".into(), value.into());
    spec.entry("preemptionPolicy").or_insert_with(|| policy.into());
    Ok(())
}

fn default_class(view: &View) -> Result<Option<Arc<Value>>, Status> {
    let classes = lookup::list(view, CLASSES)?.into_iter();
    Ok(classes.filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64()))
}

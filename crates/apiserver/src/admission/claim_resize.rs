//! PersistentVolumeClaimResize: a claim grows when it is bound, and its class allows it.

use api_types::quantity::Quantity;
use api_types::status::Status;
use api_types::{Value, meta};

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

const CLASSES: Name = ("storage.k8s.io", "v1", "storageclasses");
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, claim: &Value) -> Result<(), Status> {
    let (Operation::Update, Some(old)) = (attributes.operation, attributes.old) else { return Ok(()) };
    if !attributes.is("", "persistentvolumeclaims") || size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(attributes.target.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let (class, before) = (class_of(claim), class_of(old));
    let found = match class == before && !class.is_empty() {
        true => lookup::get(&api.storage.view(), CLASSES, "", class)?,
        false => None,
    };
    match found.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        true => Ok(()),
        false => Err(attributes.target.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )),
    }
}

fn size(claim: &Value) -> Option<Quantity> {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
    text.and_then(|text| Quantity::parse(text).ok())
}

fn class_of(claim: &Value) -> &str {
    let field = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
    meta::annotation(claim, CLASS).unwrap_or(field)
}

//! PersistentVolumeClaims: how many and how large, in all and by their storage class.

use api_types::meta;
use api_types::quantity::{Format, Quantity};
use serde_json::Value;

use super::{Amounts, Scope, one};
use crate::look::{Look, quantity};

const NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn tracks(name: &str) -> bool {
    let own = name.split_once(CLASS_SUFFIX).map_or(name, |(_, own)| own);
    NAMES.contains(&own)
}

pub(super) fn usage(claim: &Value, usage: &mut Amounts) {
    let class =
        meta::annotation(claim, CLASS_ANNOTATION).unwrap_or_else(|| claim.text("spec.storageClassName"));
    let mut count = |name: &str, amount: Quantity| {
        usage.insert(name.to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{CLASS_SUFFIX}{name}"), amount);
        }
    };
    count("persistentvolumeclaims", one());
    if let Some(size) = size(claim) {
        count("requests.storage", size);
    }
}

/// What is asked for, or what was given while that is more; in whole bytes.
fn size(claim: &Value) -> Option<Quantity> {
    let asked = whole(quantity(claim.at("spec.resources.requests").key("storage"))?);
    let given = quantity(claim.at("status.allocatedResources").key("storage")).map(whole);
    Some(given.filter(|given| *given > asked).unwrap_or(asked))
}

fn whole(size: Quantity) -> Quantity {
    let rounded = Quantity::from_units(size.value(), Format::DecimalSi);
    if rounded == size { size } else { rounded }
}

pub(super) fn in_scope(scope: &Scope<'_>, claim: &Value) -> bool {
    if scope.name != "VolumeAttributesClass" {
        return false;
    }
    let paths = [
        "spec.volumeAttributesClassName",
        "status.currentVolumeAttributesClassName",
        "status.modifyVolumeStatus.targetVolumeAttributesClassName",
    ];
    let classes: Vec<&str> =
        paths.iter().map(|path| claim.text(path)).filter(|class| !class.is_empty()).collect();
    match classes.as_slice() {
        [] => scope.fits(None),
        classes => classes.iter().any(|class| scope.fits(Some(class))),
    }
}

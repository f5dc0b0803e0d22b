//! StorageObjectInUseProtection: volumes, claims and classes of their attributes do not go before what uses them.

use api_types::status::Status;
use api_types::{Value, meta};

use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(_: &Api, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    let finalizer = if attributes.creates("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if attributes.creates("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else if attributes.creates("storage.k8s.io", "volumeattributesclasses") {
        "kubernetes.io/vac-protection"
    } else {
        return Ok(());
    };
    if !meta::has_finalizer(object, finalizer) {
        let list = meta::finalizers(object).map(str::to_owned).chain([finalizer.to_owned()]).collect();
        meta::set_finalizers(object, list);
    }
    Ok(())
}

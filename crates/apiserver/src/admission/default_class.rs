//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one that is marked as the default.

use std::borrow::Borrow;

use api_types::status::Status;
use api_types::{Value, meta};

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

const STORAGE: Name = ("storage.k8s.io", "v1", "storageclasses");
const STORAGE_MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Names a claim's class as it was done once.
const CLAIM_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

const INGRESS: Name = ("networking.k8s.io", "v1", "ingressclasses");
const INGRESS_MARKS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// Names an ingress's class as it was done once.
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

pub(super) const OF_CLAIMS: Plugin = Plugin { admit: Admit::Now(claim), check: Check::Never };
pub(super) const OF_INGRESSES: Plugin = Plugin { admit: Admit::Now(ingress), check: Check::Never };

fn claim(api: &Api, attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), Status> {
    match attributes.creates("", "persistentvolumeclaims") {
        true => fill(api, claim, "storageClassName", CLAIM_CLASS, STORAGE, &STORAGE_MARKS),
        false => Ok(()),
    }
}

fn ingress(api: &Api, attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), Status> {
    match attributes.creates("networking.k8s.io", "ingresses") {
        true => fill(api, ingress, "ingressClassName", INGRESS_CLASS, INGRESS, &INGRESS_MARKS),
        false => Ok(()),
    }
}

fn fill(
    api: &Api,
    object: &mut Value,
    field: &str,
    annotation: &str,
    classes: Name,
    marks: &[&str],
) -> Result<(), Status> {
    if object["spec"][field].is_string() || meta::annotation(object, annotation).is_some() {
        return Ok(());
    }
    if let Some(name) = newest(&lookup::list(&api.storage.view(), classes)?, marks) {
        meta::child_mut(object, &["spec"]).insert(field.to_owned(), name.into());
    }
    Ok(())
}

/// The default that was made last; of those of one second the first by name.
fn newest(classes: &[impl Borrow<Value>], marks: &[&str]) -> Option<String> {
    let marked = |class: &&Value| marks.iter().any(|mark| meta::annotation(class, mark) == Some("true"));
    let all = classes.iter().map(|class| -> &Value { class.borrow() });
    let found = all.filter(marked).max_by(|a, b| {
        let made = meta::creation_timestamp(a).cmp(meta::creation_timestamp(b));
        made.then_with(|| meta::name(b).cmp(meta::name(a)))
    });
    found.map(|class| meta::name(class).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, made: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {STORAGE_MARKS[0]: mark}}});
        let early = "2026-01-01T00:00:00Z";
        let late = "2026-01-02T00:00:00Z";
        let classes = [
            class("a", early, "true"),
            class("c", late, "true"),
            class("b", late, "true"),
            class("d", late, "false"),
        ];
        assert_eq!(newest(&classes, &STORAGE_MARKS).as_deref(), Some("b"));
        assert_eq!(newest(&classes[3..], &STORAGE_MARKS), None);
    }
}

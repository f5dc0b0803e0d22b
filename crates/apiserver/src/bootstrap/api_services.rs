//! The APIServices of what is built in: made, brought up to date, or taken away once, when a replica starts (upstream:
//! `kube-aggregator/pkg/controllers/autoregister`, what it manages `onstart`). Whoever changes one later may.

use api_types::status::Status;
use api_types::{Resource, Value, codec, meta, table};
use mvcc::KeyRange;
use serde_json::json;

use crate::aggregation::GROUP;
use crate::api::Api;
use crate::call::Call;
use crate::options::DeleteOptions;
use crate::registry::{Target, Update, UpdateKind, gone_is_fine};
use crate::storage;

/// Says how an APIService is kept: `onstart`, or `true` for those of definitions, which a controller keeps.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";

fn resource() -> &'static Resource {
    table::find(GROUP, "v1", "apiservices").expect("invariant: the table of kinds holds APIService")
}

/// The APIServices of all served built-in groups and versions.
fn wanted() -> Vec<Value> {
    let groups = table::groups().iter().filter(|group| group.name != GROUP);
    let each = groups.flat_map(|group| {
        let versions = group.versions.iter().filter(|version| version.served_by_default);
        versions.map(move |version| {
            let mut spec = json!({
                "version": version.version,
                "groupPriorityMinimum": group.priority,
                "versionPriority": version.priority,
            });
            // As it is stored: nothing that is empty.
            if !group.name.is_empty() {
                spec["group"] = group.name.into();
            }
            json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": format!("{}.{}", version.version, group.name), "labels": {MANAGED: ON_START}},
                "spec": spec,
            })
        })
    });
    each.collect()
}

/// The stored ones that are managed.
fn managed(api: &Api) -> Result<Vec<Value>, Status> {
    let view = api.storage.view();
    let mut found = Vec::new();
    for kv in storage::each(&view, &KeyRange::prefix(resource().storage_prefix.as_str())) {
        let kv = kv?;
        found.extend(codec::from_stored(&kv.value, kv.mod_revision));
    }
    found.retain(|one| matches!(meta::label(one, MANAGED), Some(ON_START | "true")));
    Ok(found)
}

pub(super) async fn ensure(api: &Api) -> Result<(), Status> {
    let (wanted, managed) = (wanted(), managed(api)?);
    for object in &wanted {
        let stored = managed.iter().find(|one| meta::name(one) == meta::name(object));
        match stored {
            None => super::create(api, object.clone()).await?,
            Some(stored) if stored["spec"] != object["spec"] => restore(api, object).await?,
            Some(_) => {}
        }
    }
    let is_wanted = |one: &Value| wanted.iter().any(|object| meta::name(object) == meta::name(one));
    let others = managed.iter().filter(|one| meta::label(one, MANAGED) == Some(ON_START));
    for other in others.filter(|one| !is_wanted(one)) {
        let target = Target::new(resource(), "", meta::name(other));
        gone_is_fine(api.delete(&Call::internal(), &target, &DeleteOptions::default()).await.map(|_| ()))?;
    }
    Ok(())
}

async fn restore(api: &Api, wanted: &Value) -> Result<(), Status> {
    let target = Target::new(resource(), "", meta::name(wanted));
    let update = Update { kind: UpdateKind::Main, dry_run: false };
    let mut change = |old: &Value| {
        let mut new = old.clone();
        new["spec"] = wanted["spec"].clone();
        Ok(new)
    };
    gone_is_fine(api.update(&Call::internal(), &target, update, &mut change).await.map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_and_version_is_registered_as_upstream_does() {
        let all = wanted();
        let find = |name: &str| all.iter().find(|one| meta::name(one) == name).unwrap();
        assert_eq!(
            find("v1.apps")["spec"],
            json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
        );
        assert_eq!(
            find("v1.")["spec"],
            json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})
        );
        assert_eq!(meta::label(find("v2.autoscaling"), MANAGED), Some("onstart"));
        assert!(all.iter().all(|one| one["spec"]["group"] != GROUP));
        for object in &all {
            let mut object = object.clone();
            (api_rules::rules(resource()).default)(&mut object);
            assert_eq!((api_rules::rules(resource()).validate)(&object), [], "{}", meta::name(&object));
        }
    }
}

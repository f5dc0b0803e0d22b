//! Delete: preconditions, grace, finalizers, and what happens to dependents.

use api_rules::strategy::DefaultDeletion;
use api_types::status::{Details, Status};
use api_types::{Value, meta, time};
use bytes::Bytes;
use http::Response;
use mvcc::KeyValue;
use serde_json::json;

use super::Target;
use super::read::page_of;
use super::update::{CHANGE_TIMEOUT, is_finished, too_late};
use crate::admission::{Attributes, Operation};
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::options::{self, DeleteOptions, ListOptions};
use crate::storage::{Outcome, Write};

const ORPHAN: &str = "orphan";
/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose deletion answers with the object instead of a Status.
const RETURN_OBJECT: [&str; 11] = [
    "Pod",
    "PodTemplate",
    "ServiceAccount",
    "Service",
    "ResourceQuota",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "StorageClass",
    "VolumeAttachment",
    "CSINode",
    "CSIDriver",
];

impl DeleteOptions {
    /// The finalizers that the policy leaves an object with.
    fn finalizers(&self, target: &Target, object: &Value) -> Vec<String> {
        let mut list: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
        let has = |name: &str| meta::has_finalizer(object, name);
        let (orphan, foreground) = match (self.policy.as_str(), self.orphan_dependents) {
            ("Orphan", _) | ("", Some(true)) => (true, false),
            ("Foreground", _) => (false, true),
            ("Background", _) | ("", Some(false)) => (false, false),
            _ if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
            _ => (target.resource.default_deletion() == DefaultDeletion::Orphan, false),
        };
        list.retain(|name| name != ORPHAN && name != FOREGROUND);
        if orphan {
            list.push(ORPHAN.to_owned());
        }
        if foreground {
            list.push(FOREGROUND.to_owned());
        }
        list
    }
}

/// How a deletion ended.
pub(crate) struct Deleted {
    /// The object as it was last.
    pub kv: KeyValue,
    /// Whether it is gone, and not only marked.
    pub gone: bool,
}

/// 409 when the client meant another object of this name, or an older one; upstream names the kind.
fn check_preconditions(
    target: &Target,
    options: &DeleteOptions,
    uid: &str,
    revision: i64,
) -> Result<(), Status> {
    let (wanted, version) = (options.resource_version.as_str(), revision.to_string());
    let why = if !options.uid.is_empty() && options.uid != uid {
        format!(
            "the UID in the precondition ({}) does not match the UID in record ({uid}). The object might have been deleted and then recreated",
            options.uid
        )
    } else if !wanted.is_empty() && wanted != version {
        format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        )
    } else {
        return Ok(());
    };
    Err(Status::conflict(&target.resource.group, &target.resource.kind, &target.name, &why))
}

enum Step {
    Done(Box<Deleted>),
    Again,
}

impl Api {
    pub(crate) async fn delete_request(
        &self,
        call: &Call,
        target: &Target,
    ) -> Result<Response<Body>, Status> {
        call.writer(&target.resource, self.now())?;
        let options = DeleteOptions::parse(call)?;
        let deleted = self.delete(call, target, &options).await?;
        if deleted.gone && !RETURN_OBJECT.contains(&target.resource.kind.as_str()) {
            let object = self.read(&target.resource, &deleted.kv).await?;
            let details = Details {
                name: target.name.clone(),
                group: String::from(&target.resource.group),
                kind: String::from(&target.resource.resource),
                uid: meta::uid(&object).to_owned(),
                ..Details::default()
            };
            return Ok(call.status(&Status::success(Some(details))));
        }
        let accepted = !deleted.gone && options.orphan_dependents == Some(false);
        self.respond(call, target, if accepted { 202 } else { 200 }, deleted.kv).await
    }

    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        target: &Target,
    ) -> Result<Response<Body>, Status> {
        let writer = call.writer(&target.resource, self.now())?;
        let list = ListOptions::parse(&target.resource, &call.query, &call.info.name)?;
        let options = DeleteOptions::parse(call)?;
        if options.even_unreadable {
            return Err(options::not_of_a_collection());
        }
        page_of(&target.prefix(), &list)?;
        let view = self.view_for(list.revision()?.filter(|revision| *revision > 0)).await?;
        let mut deleted = Vec::new();
        for kv in self.select(&view, target, &list.selection)? {
            let Some(kv) = self.selected(&list.selection, &kv).await? else { continue };
            let object = self.read(&target.resource, &kv).await?;
            let one = Target::new(&target.resource, meta::namespace(&object), meta::name(&object));
            match self.delete(call, &one, &options).await {
                Ok(result) => deleted.push(result.kv),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let revision = json!({"resourceVersion": view.revision().to_string()});
        let mut response = body::response(200, writer.content_type(), Bytes::new());
        self.bring_to(&target.resource, &mut deleted).await?;
        *response.body_mut() = writer.list(&revision, deleted)?;
        Ok(response)
    }

    /// Deletes an object, or marks it when something must happen before.
    pub(crate) async fn delete(
        &self,
        call: &Call,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let mut fresh = false;
        let clock = &self.storage.env.clock;
        let started = clock.monotonic();
        while clock.monotonic().duration_since(started) < CHANGE_TIMEOUT {
            let view = self.storage.view();
            let result = match self.find(&view, target) {
                Ok(kv) => self.try_delete(call, target, options, &kv).await,
                Err(status) => Err(status),
            };
            match result {
                Ok(Step::Done(deleted)) => return Ok(*deleted),
                Ok(Step::Again) => {
                    self.storage.fresh().await?;
                    fresh = true;
                }
                Err(status) if !fresh && matches!(status.code, 404 | 409) => {
                    if self.storage.fresh().await?.revision() == view.revision() {
                        return Err(status);
                    }
                    fresh = true;
                }
                Err(status) => return Err(status),
            }
        }
        Err(too_late())
    }

    async fn try_delete(
        &self,
        call: &Call,
        target: &Target,
        options: &DeleteOptions,
        kv: &KeyValue,
    ) -> Result<Step, Status> {
        let old = self.read(&target.resource, kv).await?;
        check_preconditions(target, options, meta::uid(&old), kv.mod_revision)?;
        if options.even_unreadable {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            return Err(target.conflict(&format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage"
            )));
        }
        let attributes = Attributes {
            old: Some(&old),
            dry_run: options.dry_run,
            ..Attributes::new(Operation::Delete, target, call)
        };
        if !options.admitted {
            self.admit_whole(&attributes, &mut Value::Null).await?;
        }
        let mut new = old.clone();
        self.mark(target, options, &mut new);
        let gone = is_finished(target, &new);
        if !gone && new == old {
            return Ok(Step::Done(Box::new(Deleted { kv: kv.clone(), gone: false })));
        }
        let value = self.to_stored(&target.resource, &new).await?;
        let mut after = KeyValue { value: value.clone(), ..kv.clone() };
        if options.dry_run {
            return Ok(Step::Done(Box::new(Deleted { kv: after, gone })));
        }
        let write = Write {
            key: kv.key.clone(),
            expected: kv.mod_revision,
            value: (!gone).then_some(value),
            lease: kv.lease,
            fence: call.fence()?,
            extra: if gone { self.after_delete(target, &old) } else { Vec::new() },
        };
        match self.commit(&target.resource, write).await? {
            Outcome::Done(revision) => {
                after.mod_revision = revision;
                Ok(Step::Done(Box::new(Deleted { kv: after, gone })))
            }
            Outcome::Changed | Outcome::Taken => Ok(Step::Again),
        }
    }

    /// Marks an object as being deleted: since when, with which grace, and who must still agree.
    fn mark(&self, target: &Target, options: &DeleteOptions, object: &mut Value) {
        let finalizers = options.finalizers(target, object);
        meta::set_finalizers(object, finalizers);
        let grace = target.resource.grace(object, options.grace_seconds);
        let now = self.now();
        if meta::is_being_deleted(object) {
            let left = meta::deletion_grace_period_seconds(object).unwrap_or(0);
            // The time may only become shorter.
            if options.grace_seconds.is_some() && grace < left {
                let began =
                    time::to_millis(meta::deletion_timestamp(object)).map_or(now, |end| end - left * 1000);
                let text = time::from_millis((began + grace * 1000).max(now));
                meta::set_deletion_timestamp(object, &text);
                meta::set_deletion_grace_period_seconds(object, Some(grace));
            }
        } else {
            meta::set_deletion_timestamp(object, &time::from_millis(now + grace * 1000));
            meta::set_deletion_grace_period_seconds(object, Some(grace));
            let generation = meta::generation(object);
            if generation > 0 {
                meta::set_generation(object, generation + 1);
            }
        }
        if target.resource.kind == "CustomResourceDefinition" && target.resource.message.is_some() {
            hold_definition(object, &time::from_millis(now));
        }
        if target.resource.kind == "Namespace" && target.resource.group.is_empty() {
            meta::child_mut(object, &["status"]).insert("phase".into(), "Terminating".into());
            meta::set_deletion_grace_period_seconds(object, None);
        }
    }
}

/// A definition goes when its objects are gone, which a controller sees to.
fn hold_definition(definition: &mut Value, now: &str) {
    let held: Vec<String> = meta::finalizers(definition).map(str::to_owned).collect();
    let terminating = api_types::definition::has_condition(definition, "Terminating");
    if held.iter().any(|name| name == CLEANUP) || terminating {
        return;
    }
    meta::set_finalizers(definition, held.into_iter().chain([CLEANUP.to_owned()]).collect());
    let condition = json!({
        "type": "Terminating",
        "status": "True",
        "lastTransitionTime": now,
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    });
    let status = meta::child_mut(definition, &["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|known| known["type"] != "Terminating");
        list.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;

    #[test]
    fn the_policy_becomes_a_finalizer() {
        let target = Target::new(table::find("apps", "v1", "deployments").unwrap(), "n", "a");
        let object = json!({"metadata": {"finalizers": ["a/b", "orphan"]}});
        let with = |policy: &str, orphan| {
            let options =
                DeleteOptions { policy: policy.to_owned(), orphan_dependents: orphan, ..Default::default() };
            options.finalizers(&target, &object)
        };
        assert_eq!(with("Foreground", None), ["a/b", "foregroundDeletion"]);
        assert_eq!(with("Background", None), ["a/b"]);
        assert_eq!(with("", None), ["a/b", "orphan"]);
        assert_eq!(with("", Some(false)), ["a/b"]);
    }
}

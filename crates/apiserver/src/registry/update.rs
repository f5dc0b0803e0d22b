//! Update: read, change, check, write, and again when someone else was faster.

use std::time::Duration;

use api_types::field::FieldError;
use api_types::status::Status;
use api_types::{Value, meta};
use http::Response;
use mvcc::KeyValue;

use super::{Target, Written};
use crate::admission::{Attributes, Charged, Operation};
use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::Kind;
use crate::convert;
use crate::decode::{self, Expected};
use crate::options;
use crate::registry::write::settle_namespace;
use crate::storage::{Outcome, Write};
use crate::subresources::scale;

/// How long a change that names no revision is made again and again to whatever stands there, with admission and its
/// webhooks each time: as long as upstream lets any write take (`requestTimeoutUpperBound`), or less if the client says
/// so. One that names a revision is told of the conflict at once.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(34);

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateKind {
    /// The object itself.
    Main,
    /// Subresource `status`.
    Status,
    /// Subresource `finalize` of a namespace.
    Finalize,
    /// Subresource `approval` of a certificate signing request.
    Approval,
    /// Subresource `ephemeralcontainers` of a pod.
    EphemeralContainers,
    /// Subresource `resize` of a pod.
    Resize,
    /// Subresource `binding` of a pod: the server makes the change itself.
    Binding,
    /// Subresource `scale`: the object itself, by its number of replicas.
    Scale,
}

impl UpdateKind {
    /// The kind that a subresource's name stands for; empty is the object itself.
    pub fn of(subresource: &str) -> Option<Self> {
        Some(match subresource {
            "" => Self::Main,
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            "approval" => Self::Approval,
            "ephemeralcontainers" => Self::EphemeralContainers,
            "resize" => Self::Resize,
            _ => return None,
        })
    }

    fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Binding => "binding",
            Self::Scale => "scale",
        }
    }

    /// Brings the new object to what this update may change.
    fn prepare(self, target: &Target, new: &mut Value, old: &Value) {
        match self {
            Self::Main | Self::Scale => target.resource.prepare_update(new, old),
            Self::Status => target.resource.prepare_status_update(new, old),
            Self::Finalize => keep_only(new, old, &["spec", "finalizers"]),
            Self::Approval => {
                target.resource.prepare_status_update(new, old);
                let metadata = new["metadata"].take();
                keep_only(new, old, &["status", "conditions"]);
                new["metadata"] = metadata;
            }
            Self::EphemeralContainers => {
                keep_only(new, old, &["spec", "ephemeralContainers"]);
                raise_generation(new, old);
            }
            Self::Resize => {
                resize(new, old);
                raise_generation(new, old);
            }
            Self::Binding => {}
        }
    }

    pub(super) fn validate(self, target: &Target, new: &Value, old: &Value) -> Vec<FieldError> {
        match self {
            Self::Main | Self::Scale => target.resource.validate_update(new, old),
            Self::Status | Self::Approval => target.resource.validate_status_update(new, old),
            Self::EphemeralContainers => api_rules::validate_ephemeral_containers_update(new, old),
            Self::Resize => api_rules::validate_resize(new, old),
            Self::Finalize | Self::Binding => Vec::new(),
        }
    }
}

/// The old object with one field (and the revision) of the new one.
fn keep_only(new: &mut Value, old: &Value, path: &[&str; 2]) {
    let field = new[path[0]][path[1]].clone();
    let version = meta::resource_version(new).to_owned();
    *new = old.clone();
    meta::set_resource_version(new, &version);
    let parent = meta::child_mut(new, &path[..1]);
    match field.is_null() {
        true => parent.remove(path[1]),
        false => parent.insert(path[1].to_owned(), field),
    };
}

/// The old pod with the new resources of its containers.
fn resize(new: &mut Value, old: &Value) {
    let mut result = old.clone();
    meta::set_resource_version(&mut result, meta::resource_version(new));
    for list in ["containers", "initContainers"] {
        let wanted = new["spec"][list].as_array().cloned().unwrap_or_default();
        let Some(containers) =
            meta::child_mut(&mut result, &["spec"]).get_mut(list).and_then(Value::as_array_mut)
        else {
            continue;
        };
        for container in containers {
            let Some(from) = wanted.iter().find(|other| other["name"] == container["name"]) else { continue };
            for field in ["resources", "resizePolicy"] {
                if let (Some(value), Some(object)) = (from.get(field), container.as_object_mut()) {
                    object.insert(field.to_owned(), value.clone());
                }
            }
        }
    }
    *new = result;
}

fn raise_generation(new: &mut Value, old: &Value) {
    if new["spec"] != old["spec"] {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

/// How an update is made.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    pub kind: UpdateKind,
    pub dry_run: bool,
}

/// Makes the new object of the old one.
pub(crate) type Change<'a> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'a;

/// One try.
enum Try {
    Done(Box<Written>),
    Again,
}

impl Api {
    pub(crate) async fn update_request(
        &self,
        call: &Call,
        target: &Target,
        kind: UpdateKind,
    ) -> Result<Response<Body>, Status> {
        let api_version = target.resource.api_version();
        let expected = Expected::of(&target.resource, &api_version);
        let dry_run = options::of_write(call)?;
        let mut object = decode::body(call, expected)?;
        settle_namespace(&mut object, target)?;
        check_name(&object, target)?;
        let update = Update { kind, dry_run };
        let written = match self.update(call, target, update, &mut |_| Ok(object.clone())).await {
            Err(status) if status.code == 404 && self.creates_on_update(target, kind, &object) => {
                self.create(call, target, object, dry_run).await?
            }
            other => other?,
        };
        let code = if written.created { 201 } else { 200 };
        self.respond(call, target, code, written.kv).await
    }

    fn creates_on_update(&self, target: &Target, kind: UpdateKind, object: &Value) -> bool {
        kind == UpdateKind::Main
            && target.resource.allows_create_on_update()
            && meta::resource_version(object).is_empty()
            && meta::uid(object).is_empty()
    }

    /// Changes an object. `change` makes the new object of the old one, and may run more than once.
    pub(crate) async fn update(
        &self,
        call: &Call,
        target: &Target,
        update: Update,
        change: &mut Change<'_>,
    ) -> Result<Written, Status> {
        let mut fresh = false;
        let clock = &self.storage.env.clock;
        let started = clock.monotonic();
        while clock.monotonic().duration_since(started) < CHANGE_TIMEOUT {
            let view = self.storage.view();
            let result = match self.find(&view, target) {
                Ok(kv) => self.try_update(call, target, update, &kv, change).await,
                Err(status) => Err(status),
            };
            match result {
                Ok(Try::Done(written)) => return Ok(*written),
                Ok(Try::Again) => {
                    self.storage.fresh().await?;
                    fresh = true;
                }
                // This replica may be behind: what it finds missing or changed is looked at again.
                Err(status) if !fresh && matches!(status.code, 404 | 409 | 422) => {
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

    async fn try_update(
        &self,
        call: &Call,
        target: &Target,
        update: Update,
        kv: &KeyValue,
        change: &mut Change<'_>,
    ) -> Result<Try, Status> {
        let old = match &target.resource {
            Kind::BuiltIn(resource) => convert::decode_for_update(resource, kv)?,
            custom @ Kind::Custom(_) => self.read(custom, kv).await?,
        };
        let mut new = change(&old)?;
        check_name(&new, target)?;
        settle_namespace(&mut new, target)?;
        // A patch may not change it; who replaces an object says which one.
        if call.method == http::Method::PUT {
            target.check_updated_uid(meta::uid(&new), meta::uid(&old))?;
        }
        self.check_revision(target, &mut new, kv)?;
        self.fill_defaults(target, &mut new, Some(&old));
        self.keep_allocated(target, &mut new, &old);
        self.track(call, target, Some(&old), &mut new);
        let old_scale = (update.kind == UpdateKind::Scale).then(|| scale::scale_of(&target.resource, &old));
        let attributes = Attributes {
            subresource: update.kind.subresource(),
            old: Some(old_scale.as_ref().unwrap_or(&old)),
            dry_run: update.dry_run,
            ..Attributes::new(Operation::Update, target, call)
        };
        match update.kind {
            // It was admitted as itself.
            UpdateKind::Binding => {}
            UpdateKind::Scale => {
                let mut scale = scale::scale_of(&target.resource, &new);
                self.admit(&attributes, &mut scale).await?;
                new = scale::apply(target, &new, &scale)?;
            }
            _ => self.admit(&attributes, &mut new).await?,
        }
        update.kind.prepare(target, &mut new, &old);
        // A write that changes nothing but the time at which somebody owns a field is none.
        api_rules::patch::apply::keep_times(&mut new, &old);
        let errors = self.errors_of_update(call, target, update.kind, &new, &old).await?;
        if !errors.is_empty() {
            return Err(target.invalid(&errors));
        }
        if matches!(update.kind, UpdateKind::Main | UpdateKind::Scale) {
            target.resource.warnings(&new, Some(&old)).into_iter().for_each(|text| call.warn(text));
        }
        match update.kind {
            UpdateKind::Binding => {}
            UpdateKind::Scale => {
                let scale = scale::scale_of(&target.resource, &new);
                self.validate_admission(&attributes, &scale).await?;
            }
            _ => self.validate_admission(&attributes, &new).await?,
        }
        self.store_update(call, target, update, kv, &old, new).await
    }

    fn check_revision(&self, target: &Target, new: &mut Value, kv: &KeyValue) -> Result<(), Status> {
        let current = kv.mod_revision.to_string();
        match meta::resource_version(new) {
            "" | "0" if target.resource.allows_unconditional_update() => {}
            "" | "0" => return Err(version_required(target)),
            version if version == current => return Ok(()),
            version if version.parse::<u64>().is_err() => {
                let version = api_types::field::quote(version);
                return Err(Status::unknown(format!("strconv.ParseUint: parsing {version}: invalid syntax")));
            }
            _ => return Err(target.modified()),
        }
        meta::set_resource_version(new, &current);
        Ok(())
    }

    async fn store_update(
        &self,
        call: &Call,
        target: &Target,
        update: Update,
        kv: &KeyValue,
        old: &Value,
        mut new: Value,
    ) -> Result<Try, Status> {
        let gone = is_finished(target, &new);
        let subresource = update.kind.subresource();
        let _turn = self.quota_turn(target, subresource, true).await?;
        let view = self.storage.view();
        let extra = match gone {
            true => self.after_delete(target, old),
            false => {
                let mut extra = self.before_write(&view, target, Some(old), &mut new)?;
                let charged = Charged { target, subresource, old: Some(old), new: &new };
                extra.extend(self.charge_quota(&view, &charged).await?);
                extra
            }
        };
        let value = self.to_stored(&target.resource, &new).await?;
        let mut after = KeyValue { value: value.clone(), ..kv.clone() };
        let unchanged = !gone && value == kv.value && !view.is_stale(&kv.key);
        if update.dry_run || unchanged {
            return Ok(Try::Done(Box::new(Written { kv: after, created: false })));
        }
        let write = Write {
            key: kv.key.clone(),
            expected: kv.mod_revision,
            value: (!gone).then_some(value),
            lease: kv.lease,
            fence: call.fence()?,
            extra,
        };
        match self.commit(&target.resource, write).await? {
            Outcome::Done(revision) => {
                after.mod_revision = revision;
                Ok(Try::Done(Box::new(Written { kv: after, created: false })))
            }
            Outcome::Changed | Outcome::Taken => Ok(Try::Again),
        }
    }
}

/// 504 of a change that others were always faster than.
pub(super) fn too_late() -> Status {
    Status::timeout("request did not complete within requested timeout - context deadline exceeded", 0)
}

/// Whether nothing holds an object back any more that is being deleted.
pub(crate) fn is_finished(target: &Target, object: &Value) -> bool {
    let held = meta::finalizers(object).next().is_some();
    let namespace_held = target.resource.kind == "Namespace"
        && target.resource.group.is_empty()
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    let graceful = meta::deletion_grace_period_seconds(object).unwrap_or(0) > 0;
    meta::is_being_deleted(object) && !held && !namespace_held && !graceful
}

/// An object is that of its URL.
pub(crate) fn check_name(object: &Value, target: &Target) -> Result<(), Status> {
    let (name, wanted) = (meta::name(object), &target.name);
    let text = match name {
        name if name == wanted => return Ok(()),
        "" => format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        ),
        _ => format!("the name of the object ({name}) does not match the name on the URL ({wanted})"),
    };
    Err(Status::bad_request(text))
}

/// 422 of an update without a revision for a kind that needs one; upstream names the resource, not the kind.
fn version_required(target: &Target) -> Status {
    let path = api_types::field::Path::new("metadata").child("resourceVersion");
    let error = FieldError::invalid(&path, 0, "must be specified for an update");
    Status::invalid(&target.resource.group, &target.resource.resource, &target.name, &[error])
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;
    use serde_json::json;

    #[test]
    fn an_update_without_a_revision_is_refused_in_upstreams_words() {
        let target = Target::new(table::find("", "v1", "namespaces").unwrap(), "", "a");
        assert_eq!(
            version_required(&target).message,
            "namespaces \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        );
    }

    #[test]
    fn finalizers_and_grace_hold_an_object() {
        let pods = Target::new(table::find("", "v1", "pods").unwrap(), "n", "a");
        let mut pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}});
        assert!(!is_finished(&pods, &pod));
        meta::set_deletion_grace_period_seconds(&mut pod, Some(0));
        assert!(is_finished(&pods, &pod));
        meta::set_finalizers(&mut pod, vec!["a/b".into()]);
        assert!(!is_finished(&pods, &pod));
        let namespaces = Target::new(table::find("", "v1", "namespaces").unwrap(), "", "a");
        let mut namespace = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes"]}});
        assert!(!is_finished(&namespaces, &namespace));
        namespace["spec"] = json!({});
        assert!(is_finished(&namespaces, &namespace));
    }
}

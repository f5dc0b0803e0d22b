//! Create, and what all writes share.

use api_rules::meta as meta_rules;
use api_types::status::Status;
use api_types::{Value, meta};
use http::Response;
use mvcc::KeyValue;

use super::Target;
use crate::admission::{Attributes, Charged, Operation};
use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::Kind;
use crate::counters;
use crate::decode::{self, Expected};
use crate::options;
use crate::storage::{Outcome, Write};

/// Names that `generateName` tries (upstream's RetryGenerateName).
const MAX_NAMES: usize = 8;
/// Letters of a generated name's end.
const SUFFIX: usize = 5;
/// Tries of a write whose addresses, or whose room in a quota, were taken in between.
const MAX_TAKEN: usize = 64;

/// A stored object after a write.
pub(crate) struct Written {
    /// As it is stored now; for a dry run, as it would be, without a revision.
    pub kv: KeyValue,
    /// Whether the write created it.
    pub created: bool,
}

impl Api {
    pub(crate) async fn create_request(
        &self,
        call: &Call,
        target: &Target,
    ) -> Result<Response<Body>, Status> {
        let api_version = target.resource.api_version();
        let expected = Expected::of(&target.resource, &api_version);
        let dry_run = options::of_write(call)?;
        let mut object = decode::body(call, expected)?;
        settle_namespace(&mut object, target)?;
        refuse_while_terminating(target)?;
        let written = self.create(call, target, object, dry_run).await?;
        self.respond(call, target, 201, written.kv).await
    }

    /// Creates an object, with a generated name if it asks for one.
    pub(crate) async fn create(
        &self,
        call: &Call,
        target: &Target,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Written, Status> {
        self.fill_defaults(target, &mut object, None);
        let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut candidate = if generated { object.clone() } else { object.take() };
            let suffix = self.storage.env.rng.suffix(SUFFIX);
            meta_rules::fill_system_fields(&mut candidate, &self.now_text(), &self.new_uid(), &suffix);
            let named = Target::new(&target.resource, &target.namespace, meta::name(&candidate));
            match self.create_named(call, &named, candidate, dry_run).await {
                Err(status) if generated && status.is("AlreadyExists") => {
                    if tries >= MAX_NAMES {
                        let (group, resource) = (&target.resource.group, &target.resource.resource);
                        return Err(Status::generate_name_conflict(group, resource, &named.name));
                    }
                }
                other => return other,
            }
        }
    }

    async fn create_named(
        &self,
        call: &Call,
        target: &Target,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Written, Status> {
        let attributes = Attributes { dry_run, ..Attributes::new(Operation::Create, target, call) };
        self.track(call, target, None, &mut object);
        self.admit(&attributes, &mut object).await?;
        let (uid, created) = (meta::uid(&object).to_owned(), meta::creation_timestamp(&object).to_owned());
        target.resource.prepare_create(&mut object);
        note_requester(call, target, &mut object);
        meta::set_uid(&mut object, &uid);
        meta::set_creation_timestamp(&mut object, &created);
        let version = meta::resource_version(&object).parse::<u64>().unwrap_or(0);
        meta::set_resource_version(&mut object, "");
        let errors = self.errors_of_new(target, &object).await?;
        if !errors.is_empty() {
            return Err(target.invalid(&errors));
        }
        target.resource.warnings(&object, None).into_iter().for_each(|text| call.warn(text));
        self.validate_admission(&attributes, &object).await?;
        if version != 0 && !dry_run {
            return Err(Status::unknown("resourceVersion should not be set on objects to be created"));
        }
        self.store_new(call, target, object, dry_run).await
    }

    async fn store_new(
        &self,
        call: &Call,
        target: &Target,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Written, Status> {
        let key = target.key();
        let lease = if dry_run { 0 } else { self.event_lease(&target.resource).await? };
        let _turn = self.quota_turn(target, "", false).await?;
        for _ in 0..MAX_TAKEN {
            let view = self.storage.view();
            let mut completed;
            let candidate = match Api::completes(&target.resource) {
                true => {
                    completed = object.clone();
                    &mut completed
                }
                false => &mut object,
            };
            let mut extra = self.before_write(&view, target, None, candidate)?;
            let charged = Charged { target, subresource: "", old: None, new: candidate };
            extra.extend(self.charge_quota(&view, &charged).await?);
            let value = self.to_stored(&target.resource, candidate).await?;
            if dry_run {
                if view.contains(&key) {
                    return Err(target.already_exists());
                }
                return Ok(Written { kv: KeyValue { key, value, ..KeyValue::default() }, created: true });
            }
            let write = Write {
                key: key.clone(),
                expected: 0,
                value: Some(value.clone()),
                lease,
                fence: call.fence()?,
                extra,
            };
            match self.commit(&target.resource, write).await? {
                Outcome::Done(revision) => {
                    let kv = KeyValue { key, value, mod_revision: revision, ..KeyValue::default() };
                    return Ok(Written { kv, created: true });
                }
                Outcome::Changed => return Err(target.already_exists()),
                Outcome::Taken => {}
            }
        }
        Err(Status::conflict(
            &target.resource.group,
            &target.resource.resource,
            &target.name,
            "what it needs was taken again and again; please try again",
        ))
    }

    /// Makes a change of an object of a kind; see [`crate::storage::Storage::commit`].
    pub(super) async fn commit(&self, kind: &Kind, write: Write) -> Result<Outcome, Status> {
        let clock = &self.storage.env.clock;
        let (operation, since) = (counters::operation(&write), clock.monotonic());
        let outcome = self.storage.commit(write).await;
        let took = clock.monotonic().saturating_duration_since(since);
        self.counts.of(kind).written(kind, operation, outcome.is_err(), took);
        outcome
    }
}

/// Who asks for a certificate is noted by the server, whatever the client says: signers and approvers go by it (upstream:
/// `csrStrategy`).
fn note_requester(call: &Call, target: &Target, object: &mut Value) {
    let own = &target.resource;
    if own.group != "certificates.k8s.io" || own.resource != "certificatesigningrequests" {
        return;
    }
    let spec = meta::child_mut(object, &["spec"]);
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if let Value::Object(user) = call.user.to_value() {
        spec.extend(user);
    }
}

/// Nothing is made of a kind whose definition is being deleted.
fn refuse_while_terminating(target: &Target) -> Result<(), Status> {
    if target.resource.custom().is_some_and(|kind| kind.terminating) {
        let text = "create not allowed while custom resource definition is terminating";
        return Err(Status::failure(405, "MethodNotAllowed", text));
    }
    Ok(())
}

/// An object lies in the namespace of its URL.
pub(crate) fn settle_namespace(object: &mut Value, target: &Target) -> Result<(), Status> {
    match meta::namespace(object) {
        "" => {}
        _ if !target.resource.namespaced => meta::set_namespace(object, ""),
        namespace if namespace == target.namespace => return Ok(()),
        _ => {
            let text =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(text));
        }
    }
    if target.resource.namespaced {
        meta::set_namespace(object, &target.namespace);
    }
    Ok(())
}

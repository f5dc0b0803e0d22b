//! What a write of some kinds needs besides being good: rights of its writer, a label of its namespace, the right time
//! (upstream: `registry/resource/utils.go`, `podCertificateRequestStrategy`). In upstream strategies find it, together
//! with what is wrong with the object.

use api_rules::{devices, pod_certificates};
use api_types::field::{ErrorType, FieldError};
use api_types::status::Status;
use api_types::{Value, meta};

use super::{Target, UpdateKind};
use crate::admission::{lookup, may_use_signer};
use crate::api::Api;
use crate::authz::Ask;
use crate::call::Call;

/// Namespaces with this label, set to `true`, have access to devices that others use.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
/// What tokens of pods say in their user's `extra`.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

fn is(target: &Target, group: &str, resource: &str) -> bool {
    target.resource.group == group && target.resource.resource == resource
}

fn is_claim(target: &Target) -> bool {
    is(target, "resource.k8s.io", "resourceclaims")
}

fn forbidden(field: &str, detail: String) -> FieldError {
    FieldError {
        field: field.to_owned(),
        ty: ErrorType::Forbidden,
        bad_value: Value::Null,
        detail,
        origin: "",
    }
}

impl Api {
    /// Defaults of a new or changed object, those among them that the clock gives.
    pub(super) fn fill_defaults(&self, target: &Target, object: &mut Value, old: Option<&Value>) {
        target.resource.default(object);
        if is(target, "resource.k8s.io", "devicetaintrules")
            || is(target, "resource.k8s.io", "resourceslices")
        {
            devices::note_taint_times(object, old, &self.now_text());
        }
    }

    /// What is wrong with a new object.
    pub(super) async fn errors_of_new(
        &self,
        target: &Target,
        object: &Value,
    ) -> Result<Vec<FieldError>, Status> {
        let mut errors = Vec::new();
        if is_claim(target) || is(target, "resource.k8s.io", "resourceclaimtemplates") {
            errors.extend(self.admin_access(target, devices::admin_access(object)).await?);
        }
        errors.extend(target.resource.validate(object));
        Ok(errors)
    }

    /// What is wrong with a changed object.
    pub(super) async fn errors_of_update(
        &self,
        call: &Call,
        target: &Target,
        kind: UpdateKind,
        new: &Value,
        old: &Value,
    ) -> Result<Vec<FieldError>, Status> {
        let mut errors = Vec::new();
        let is_status = kind == UpdateKind::Status;
        if is_status && is_claim(target) {
            errors.extend(self.admin_access(target, devices::admin_access_granted(new, old)).await?);
            errors.extend(self.may_bind(call, new, old).await);
            errors.extend(self.may_tell(call, target, new, old).await);
        }
        errors.extend(kind.validate(target, new, old));
        if is_status && errors.is_empty() && is(target, "certificates.k8s.io", "podcertificaterequests") {
            errors.extend(pod_certificates::validate_issued_at(new, old, self.now() / 1000));
            if errors.is_empty() {
                errors.extend(self.may_sign(call, new, old));
            }
        }
        Ok(errors)
    }

    /// Access of administrators, asked for at `path`, is for namespaces that are labelled so.
    async fn admin_access(
        &self,
        target: &Target,
        path: Option<String>,
    ) -> Result<Option<FieldError>, Status> {
        let Some(path) = path else { return Ok(None) };
        let Some(namespace) = lookup::get_fresh(self, lookup::NAMESPACES, "", &target.namespace).await?
        else {
            let name = api_types::field::quote(&target.namespace);
            let detail =
                format!("could not retrieve namespace to verify admin access: namespaces {name} not found");
            return Ok(Some(FieldError { ty: ErrorType::InternalError, ..forbidden(&path, detail) }));
        };
        let is_admin = meta::label(&namespace, ADMIN_LABEL) == Some("true");
        let detail = format!(
            "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
        );
        Ok((!is_admin).then(|| forbidden(&path, detail)))
    }

    /// Whoever gives devices to a claim, or the claim to pods, may bind claims anywhere.
    async fn may_bind(&self, call: &Call, new: &Value, old: &Value) -> Option<FieldError> {
        if !devices::changes_binding(new, old) {
            return None;
        }
        let verb = call.info.verb;
        let whole = Ask::of(&call.info, &call.query);
        let ask = Ask { subresource: "binding", namespace: "", name: "", ..whole };
        let refused = self.refusal(call, &ask).await?;
        let detail = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {refused}"
        );
        Some(forbidden("status.allocation", detail))
    }

    /// Whoever tells of devices of a driver may do so, for all nodes or for its own.
    async fn may_tell(&self, call: &Call, target: &Target, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut verbs = vec![format!("arbitrary-node:{}", call.info.verb)];
        if devices::node_of(new).is_some_and(|node| is_on(call, node)) {
            verbs.insert(0, format!("associated-node:{}", call.info.verb));
        }
        let mut errors = Vec::new();
        for driver in devices::changed_drivers(new, old) {
            let mut first = None;
            for verb in &verbs {
                let whole = Ask::of(&call.info, &call.query);
                let ask =
                    Ask { verb, subresource: "driver", namespace: &target.namespace, name: &driver, ..whole };
                let Some(refused) = self.refusal(call, &ask).await else {
                    first = None;
                    break;
                };
                first.get_or_insert(refused);
            }
            let verbs = verbs.join(" ");
            errors.extend(first.map(|refused| {
                let detail = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: {refused}"
                );
                forbidden("status.devices", detail)
            }));
        }
        errors
    }

    /// Why somebody may not, if so.
    async fn refusal(&self, call: &Call, ask: &Ask<'_>) -> Option<String> {
        let view = self.storage.view();
        let decision = self.authorizer.decide(&view, &call.user, ask).await;
        decision.check(ask, &call.user).err().map(|status| status.message)
    }

    /// Whoever changes the status of a request may sign for its signer.
    fn may_sign(&self, call: &Call, new: &Value, old: &Value) -> Option<FieldError> {
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        let changed = !api_rules::look::same(&new["status"], &old["status"]);
        (changed && !may_use_signer(self, &call.user, "sign", signer))
            .then(|| pod_certificates::not_permitted_to_sign(&call.user.name, signer))
    }
}

/// Whether the caller is a pod's service account on this node.
fn is_on(call: &Call, node: &str) -> bool {
    let is_account = call.user.name.starts_with("system:serviceaccount:");
    is_account && call.user.extra.get(NODE_NAME).is_some_and(|nodes| nodes.as_slice() == [node])
}

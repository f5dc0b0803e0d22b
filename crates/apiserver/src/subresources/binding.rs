//! Binding: the scheduler's word that a pod runs on a node.

use api_types::field::aggregate;
use api_types::status::{Details, Status};
use api_types::{Subresource, Value, condition, meta};
use http::Response;
use serde_json::json;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::decode::{self, Expected};
use crate::options;
use crate::registry::{Target, Update, UpdateKind};

impl Api {
    pub(super) async fn bind(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let api_version = sub.api_version();
        let mut binding = decode::body(call, Expected::sub(sub, &api_version))?;
        if meta::name(&binding) != target.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        self.admit_created(call, target, sub.name, &mut binding).await?;
        self.bind_pod(call, target, &binding).await
    }

    /// `POST …/bindings`: the body names the pod.
    pub(crate) async fn bind_by_body(
        &self,
        call: &Call,
        target: &Target,
        mut binding: Value,
    ) -> Result<Response<Body>, Status> {
        if target.namespace.is_empty() {
            return Err(Status::method_not_allowed());
        }
        let pod = Target::new(super::pods(), &target.namespace, meta::name(&binding));
        self.admit_created(call, target, "", &mut binding).await?;
        self.bind_pod(call, &pod, &binding).await
    }

    async fn bind_pod(
        &self,
        call: &Call,
        target: &Target,
        binding: &Value,
    ) -> Result<Response<Body>, Status> {
        let errors = api_rules::validate_binding(binding);
        if !errors.is_empty() {
            return Err(Status::unknown(aggregate(&errors)));
        }
        let update = Update { kind: UpdateKind::Binding, dry_run: options::of_write(call)? };
        let now = self.now_text();
        self.update(call, target, update, &mut |pod| assign(target, pod, binding, &now)).await?;
        let status = Status { code: 201, ..Status::success(None::<Details>) };
        Ok(call.status(&status))
    }
}

/// The pod on its node.
fn assign(target: &Target, pod: &Value, binding: &Value, now: &str) -> Result<Value, Status> {
    let conflict = |why: String| {
        let mut status = Status::conflict("", "pods/binding", &target.name, &why);
        status.details.get_or_insert_default().kind = "pods/binding".to_owned();
        status
    };
    target.check_uid(meta::uid(binding), meta::uid(pod))?;
    if meta::is_being_deleted(pod) {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", target.name)));
    }
    let assigned = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node {assigned:?}", target.name)));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", target.name)));
    }
    let mut pod = pod.clone();
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    meta::child_mut(&mut pod, &["spec"]).insert("nodeName".into(), node.into());
    for (key, value) in meta::annotations(binding).into_iter().flatten() {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    for (key, value) in meta::labels(binding).into_iter().flatten() {
        meta::set_label(&mut pod, key, value.as_str().unwrap_or_default());
    }
    condition::set(&mut pod["status"], json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;

    #[test]
    fn a_pod_is_bound_once() {
        let target = Target::new(table::find("", "v1", "pods").unwrap(), "n", "p");
        let binding = json!({"metadata": {"name": "p", "labels": {"zone": "z"}}, "target": {"kind": "Node", "name": "a"}});
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let bound = assign(&target, &pod, &binding, "t").unwrap();
        assert_eq!(
            (&bound["spec"]["nodeName"], &bound["metadata"]["labels"]["zone"]),
            (&json!("a"), &json!("z"))
        );
        assert_eq!(
            bound["status"]["conditions"],
            json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "t"}])
        );
        let again = assign(&target, &bound, &binding, "t").unwrap_err();
        assert_eq!(
            (again.code, again.message.as_str()),
            (
                409,
                "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"a\""
            )
        );
    }
}

use k8s_openapi::api::core::v1::Pod;

/// The gates that still keep a pod from being considered (KEP-3521); empty when it may be scheduled.
pub fn gated_by(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.into_iter().flatten().map(|gate| gate.name.as_str()).collect()
}

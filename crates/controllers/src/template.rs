//! Pods from templates, and what makes one template differ from another.

use api_types::codec::peek::{self, Peek};
use api_types::meta;
use serde_json::{Value, json};

/// Whether two templates make the same pods; the hash label does not count.
pub fn same(one: &Value, other: &Value) -> bool {
    let plain = |template: &Value| {
        let mut plain = template.clone();
        if let Some(labels) = plain["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH_LABEL);
        }
        plain
    };
    plain(one) == plain(other)
}

/// The label that tells the pods of a Deployment's ReplicaSets apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Characters of a hash label: no vowels, so that no words come out (upstream's `SafeEncodeString`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A template's hash label: FNV-1a over its canonical JSON, as upstream's 32-bit hash is spelled. The value differs
/// from upstream's, which hashes Go's own dump of the struct.
pub fn hash(template: &Value, collisions: i64) -> String {
    let mut hash = 0x811c_9dc5_u32;
    let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
    for byte in template.to_string().bytes().chain(salt.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let spelled = hash.to_string();
    spelled.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// A pod of a template, owned by `owner`.
pub fn pod(template: &Value, owner: &Value, generate_name: &str) -> Value {
    let mut metadata = json!({
        "generateName": generate_name,
        "namespace": meta::namespace(owner),
        "ownerReferences": [meta::OwnerReference::controller_of(owner).to_value()],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

/// What a pod says of one of its conditions, `True` for instance.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    condition_of(&object["status"]["conditions"], kind)
}

/// One of some conditions.
pub fn condition_of<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    says_ready(&pod["status"]["conditions"])
}

/// Whether the conditions of a pod say that it is ready.
pub fn says_ready(conditions: &Value) -> bool {
    condition_of(conditions, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// Whether a pod has been ready for so many seconds.
pub fn is_available(pod: &Value, min_ready_seconds: i64, now_millis: i64) -> bool {
    if !is_ready(pod) {
        return false;
    }
    let since = condition(pod, "Ready").and_then(|ready| ready["lastTransitionTime"].as_str());
    let since = since.and_then(api_types::time::to_millis);
    min_ready_seconds == 0 || since.is_some_and(|since| since + min_ready_seconds * 1000 <= now_millis)
}

/// Whether a pod has ended.
pub fn is_over(pod: &Value) -> bool {
    has_ended(&peek::of_tree(pod))
}

/// Whether a pod that is not read whole has ended.
pub fn has_ended(pod: &Peek<'_>) -> bool {
    matches!(pod.scalar(&["status", "phase"]).as_deref(), Some("Succeeded" | "Failed"))
}

/// A pod whose status says why it is about to be disrupted (upstream's `DisruptionTarget` condition).
pub fn disrupted(pod: &Value, reason: &str, message: &str, now_millis: i64) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": api_types::time::from_millis(now_millis),
    });
    let mut disrupted = pod.clone();
    let status = meta::child_mut(&mut disrupted, &["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        conditions.push(condition);
    }
    disrupted
}

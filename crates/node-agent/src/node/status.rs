//! The Node object and its status, from what is known of the machine and the runtime. Pure.

use std::net::IpAddr;

use api_types::time;
use env::Timestamp;
use protos::cri;
use serde_json::{Value, json};

use super::machine::{Machine, architecture};
use super::pressure::Pressure;
use crate::context::Capacity;

/// Kept for the system: memory in bytes.
const RESERVED_MEMORY_BYTES: i64 = 100 << 20;
/// Images a status lists (the kubelet's nodeStatusMaxImages).
const MAX_IMAGES: usize = 50;
/// Names of one image that a status lists.
const MAX_NAMES: usize = 5;

/// Everything that a status is made from.
pub(crate) struct NodeFacts<'a> {
    pub name: &'a str,
    pub addresses: &'a [IpAddr],
    pub port: u16,
    pub capacity: Capacity,
    pub machine: &'a Machine,
    pub runtime_name: &'a str,
    /// The runtime's conditions, or why it does not answer.
    pub runtime: Result<Vec<cri::RuntimeCondition>, String>,
    pub images: Vec<cri::Image>,
    pub pressure: Pressure,
    pub now: Timestamp,
}

/// The object as it is registered.
pub(crate) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels(name)},
    })
}

/// Labels that every node carries.
pub(crate) fn labels(name: &str) -> Value {
    json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": architecture(),
    })
}

/// The status; transition times come from the `old` one.
pub(crate) fn status(facts: &NodeFacts<'_>, old: &Value) -> Value {
    let mut addresses: Vec<Value> =
        facts.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": facts.name}));
    json!({
        "addresses": addresses,
        "capacity": resources(facts.capacity, 0),
        "allocatable": resources(facts.capacity, RESERVED_MEMORY_BYTES),
        "conditions": conditions(facts, old),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.port}},
        "images": images(&facts.images),
        "nodeInfo": node_info(facts),
    })
}

fn resources(capacity: Capacity, reserved: i64) -> Value {
    let memory = (capacity.memory_bytes - reserved).max(0) / 1024;
    let cpu = match capacity.cpu_milli % 1000 {
        0 => (capacity.cpu_milli / 1000).to_string(),
        _ => format!("{}m", capacity.cpu_milli),
    };
    json!({
        "cpu": cpu,
        "memory": format!("{memory}Ki"),
        "ephemeral-storage": format!("{}Ki", capacity.disk_bytes / 1024),
        "pods": capacity.pods.to_string(),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    })
}

fn node_info(facts: &NodeFacts<'_>) -> Value {
    let Machine { machine_id, system_uuid, boot_id, kernel, os_image } = facts.machine;
    json!({
        "architecture": architecture(),
        "bootID": boot_id,
        "containerRuntimeVersion": facts.runtime_name,
        "kernelVersion": kernel,
        "kubeProxyVersion": "",
        "kubeletVersion": api_types::RELEASE,
        "machineID": machine_id,
        "operatingSystem": "linux",
        "osImage": os_image,
        "systemUUID": system_uuid,
    })
}

/// The largest images first.
fn images(images: &[cri::Image]) -> Vec<Value> {
    let mut sorted: Vec<&cri::Image> = images.iter().filter(|image| !image.repo_tags.is_empty()).collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.repo_tags.cmp(&b.repo_tags)));
    let shown = sorted.into_iter().filter(|image| !is_pause(image)).take(MAX_IMAGES);
    shown
        .map(|image| {
            let names: Vec<&String> =
                image.repo_tags.iter().chain(&image.repo_digests).take(MAX_NAMES).collect();
            json!({"names": names, "sizeBytes": image.size})
        })
        .collect()
}

/// The sandbox's own image is not something to run.
fn is_pause(image: &cri::Image) -> bool {
    image.repo_tags.iter().any(|tag| tag.contains("/pause:"))
}

fn conditions(facts: &NodeFacts<'_>, old: &Value) -> Vec<Value> {
    let Pressure { memory, disk, pid } = facts.pressure;
    let short = [
        match memory {
            false => ("MemoryPressure", false, "HasSufficientMemory", "has sufficient memory available"),
            true => ("MemoryPressure", true, "HasInsufficientMemory", "has insufficient memory available"),
        },
        match disk {
            false => ("DiskPressure", false, "HasNoDiskPressure", "has no disk pressure"),
            true => ("DiskPressure", true, "HasDiskPressure", "has disk pressure"),
        },
        match pid {
            false => ("PIDPressure", false, "HasSufficientPID", "has sufficient PID available"),
            true => ("PIDPressure", true, "HasInsufficientPID", "has insufficient PID available"),
        },
    ];
    let mut all: Vec<Value> = short
        .into_iter()
        .map(|(name, short, reason, message)| {
            let status = if short { "True" } else { "False" };
            condition(facts, old, name, status, &format!("Kubelet{reason}"), &format!("kubelet {message}"))
        })
        .collect();
    all.push(match not_ready(facts) {
        None => condition(facts, old, "Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Some(why) => condition(facts, old, "Ready", "False", "KubeletNotReady", &why),
    });
    all
}

/// Why pods cannot run here.
fn not_ready(facts: &NodeFacts<'_>) -> Option<String> {
    let conditions = match &facts.runtime {
        Ok(conditions) => conditions,
        Err(why) => return Some(format!("container runtime is down: {why}")),
    };
    let bad = conditions.iter().find(|condition| !condition.status)?;
    let what = if bad.r#type == "NetworkReady" {
        "container runtime network not ready"
    } else {
        "container runtime not ready"
    };
    Some(format!("{what}: {}=false reason:{} message:{}", bad.r#type, bad.reason, bad.message))
}

fn condition(
    facts: &NodeFacts<'_>,
    old: &Value,
    name: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> Value {
    let now = time::from_millis(facts.now.millis());
    let listed = old["conditions"].as_array().into_iter().flatten();
    let mut before = listed.filter(|condition| condition["type"] == name && condition["status"] == status);
    let since = before.next().and_then(|condition| condition["lastTransitionTime"].as_str()).unwrap_or(&now);
    json!({
        "type": name, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since,
    })
}

/// Whether two statuses say the same, heartbeats apart.
pub(crate) fn same(old: &Value, new: &Value) -> bool {
    let plain = |status: &Value| {
        let mut status = status.clone();
        let mut kept: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
        kept.retain(|condition| condition["type"] != "NetworkUnavailable");
        for condition in &mut kept {
            condition["lastHeartbeatTime"] = Value::Null;
        }
        kept.sort_by_key(|condition| condition["type"].as_str().unwrap_or_default().to_owned());
        status["conditions"] = Value::Array(kept);
        status
    };
    let (old, new) = (plain(old), plain(new));
    new.as_object().is_some_and(|fields| fields.iter().all(|(field, value)| old.get(field) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(runtime: Result<Vec<cri::RuntimeCondition>, String>, now: i64) -> Value {
        let machine = Machine::default();
        let image = cri::Image { repo_tags: vec!["lab.local/app:1".into()], size: 7, ..Default::default() };
        let facts = NodeFacts {
            name: "n1",
            addresses: &["10.0.0.1".parse().expect("an address")],
            port: 10250,
            capacity: Capacity { cpu_milli: 2000, memory_bytes: 1 << 30, disk_bytes: 1 << 30, pods: 110 },
            machine: &machine,
            runtime_name: "containerd://1.6",
            runtime,
            images: vec![image],
            pressure: Pressure { memory: true, ..Pressure::default() },
            now: Timestamp::from_millis(now),
        };
        status(&facts, &Value::Null)
    }

    #[test]
    fn a_node_is_ready_when_its_runtime_and_network_are() {
        let good = facts(Ok(Vec::new()), 0);
        assert_eq!(good["conditions"][3]["status"], "True");
        let said = |index: usize| {
            let condition = &good["conditions"][index];
            [&condition["type"], &condition["status"], &condition["reason"], &condition["message"]]
        };
        let memory = "kubelet has insufficient memory available";
        assert_eq!(said(0), ["MemoryPressure", "True", "KubeletHasInsufficientMemory", memory]);
        let disk = "kubelet has no disk pressure";
        assert_eq!(said(1), ["DiskPressure", "False", "KubeletHasNoDiskPressure", disk]);
        assert_eq!(good["images"][0]["names"][0], "lab.local/app:1");
        assert_eq!(good["capacity"]["cpu"], "2");
        let network = cri::RuntimeCondition { r#type: "NetworkReady".into(), ..Default::default() };
        let bad = facts(Ok(vec![network]), 0);
        assert_eq!(bad["conditions"][3]["status"], "False");
        assert!(
            bad["conditions"][3]["message"].as_str().is_some_and(|text| text.contains("NetworkReady=false"))
        );
        assert_eq!(facts(Err("gone".into()), 0)["conditions"][3]["reason"], "KubeletNotReady");
    }

    #[test]
    fn heartbeats_alone_are_no_change() {
        let (mut first, mut second) = (facts(Ok(Vec::new()), 0), facts(Ok(Vec::new()), 60_000));
        assert!(!same(&first, &second), "the transition times differ");
        for status in [&mut first, &mut second] {
            for condition in status["conditions"].as_array_mut().expect("conditions") {
                condition["lastTransitionTime"] = json!("x");
            }
        }
        assert!(same(&first, &second));
    }
}

//! Quality of service, control groups and limits of a pod. Pure; `drivers::cgroups` writes them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use protos::cri;

use super::lifecycle;
use super::quantity;

/// CFS period in microseconds (upstream's default).
const CPU_PERIOD_MICROS: i64 = 100_000;
/// The kernel refuses shorter quotas.
const CPU_QUOTA_MIN_MICROS: i64 = 1_000;
/// The kernel's smallest and largest weights.
const CPU_SHARES_MIN: i64 = 2;
const CPU_SHARES_MAX: i64 = 262_144;

/// Quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits of cpu and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

type List = BTreeMap<String, Quantity>;

fn listed(list: Option<&List>, name: &str) -> Option<i64> {
    let value = list?.get(name)?;
    let amount = if name == "cpu" { quantity::milli(&value.0) } else { quantity::value(&value.0) };
    amount.filter(|amount| *amount > 0)
}

/// A request (the limit stands in for it) in milli-cores or bytes.
pub fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    let resources = resources?;
    listed(resources.requests.as_ref(), name).or_else(|| listed(resources.limits.as_ref(), name))
}

/// A limit in milli-cores or bytes.
pub fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    listed(resources?.limits.as_ref(), name)
}

/// The class of a pod, by upstream's rule.
pub fn qos_class(spec: &PodSpec) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec.resources.as_ref();
    let of_containers = lifecycle::containers(spec).map(|(_, container)| container.resources.as_ref());
    let considered: Vec<_> = if pod_level.is_some() { vec![pod_level] } else { of_containers.collect() };
    for resources in considered {
        for name in ["cpu", "memory"] {
            let (request, limit) = (request(resources, name), limit(resources, name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
        _ => Qos::BestEffort,
    }
}

/// Milli-cores as cgroup v1 shares.
pub fn cpu_shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// Milli-cores as microseconds per period.
pub fn cpu_quota(milli: i64) -> i64 {
    (milli * CPU_PERIOD_MICROS / 1000).max(CPU_QUOTA_MIN_MICROS)
}

/// Shares as cgroup v2 weight (runc's mapping of 2..262144 to 1..10000).
pub fn cpu_weight(shares: i64) -> i64 {
    1 + ((shares - CPU_SHARES_MIN) * 9999) / (CPU_SHARES_MAX - CPU_SHARES_MIN)
}

/// Limits of one container as CRI has them.
pub fn container_resources(
    spec: &PodSpec,
    container: &Container,
    node_memory_bytes: i64,
) -> cri::LinuxContainerResources {
    let resources = container.resources.as_ref();
    let quota = limit(resources, "cpu").map_or(0, cpu_quota);
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD_MICROS,
        cpu_quota: quota,
        cpu_shares: cpu_shares(request(resources, "cpu").unwrap_or(0)),
        memory_limit_in_bytes: limit(resources, "memory").unwrap_or(0),
        oom_score_adj: oom_score_adj(spec, container, node_memory_bytes),
        ..Default::default()
    }
}

/// How early the kernel kills a container when memory runs out (upstream's formula).
///
/// Guaranteed pods get -997; a runtime that may not lower the score uses 0.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> i64 {
    match qos_class(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = request(container.resources.as_ref(), "memory").unwrap_or(0);
            let part = (i128::from(asked) * 1000 / i128::from(node_memory_bytes.max(1))).min(1000);
            (1000 - i64::try_from(part).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

/// The pod's control group and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Path below the cgroup root, starting with `/`.
    pub path: String,
    /// cgroup v1 shares.
    pub cpu_shares: i64,
    /// Microseconds per period of 100 ms; absent where a container has no limit.
    pub cpu_quota: Option<i64>,
    /// Bytes; absent where a container has no limit.
    pub memory_limit: Option<i64>,
}

/// Where the pod's processes live, below `root`, and what they may use together.
pub fn pod_cgroup(root: &str, pod: &Pod) -> PodCgroup {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let class = match qos_class(spec) {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    let limit_of = |name| pod_limit(spec, name);
    PodCgroup {
        path: format!("{}/kubepods{class}/pod{uid}", root.trim_end_matches('/')),
        cpu_shares: cpu_shares(pod_request(spec, "cpu")),
        cpu_quota: limit_of("cpu").map(cpu_quota),
        memory_limit: limit_of("memory"),
    }
}

/// What a pod asks of a node: the larger of its main containers together (with sidecars) and each init container.
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    let overhead = listed(spec.overhead.as_ref(), name).unwrap_or(0);
    if let Some(pod_level) = request(spec.resources.as_ref(), name) {
        return pod_level + overhead;
    }
    let of = |container: &Container| request(container.resources.as_ref(), name).unwrap_or(0);
    let mut sidecars = 0;
    let mut peak = 0;
    for (kind, container) in lifecycle::containers(spec) {
        match kind {
            lifecycle::Kind::Sidecar => {
                sidecars += of(container);
                peak = peak.max(sidecars);
            }
            lifecycle::Kind::Init => peak = peak.max(sidecars + of(container)),
            lifecycle::Kind::Main | lifecycle::Kind::Ephemeral => {}
        }
    }
    let main: i64 = spec.containers.iter().map(of).sum();
    peak.max(main + sidecars) + overhead
}

/// The pod's limit, if every container has one.
fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    if let Some(pod_level) = limit(spec.resources.as_ref(), name) {
        return Some(pod_level);
    }
    let of = |container: &Container| limit(container.resources.as_ref(), name);
    let main: i64 = spec.containers.iter().map(of).sum::<Option<i64>>()?;
    let mut sidecars = 0;
    let mut peak = 0;
    for container in spec.init_containers.iter().flatten() {
        let limit = of(container)?;
        if lifecycle::init_kind(container) == lifecycle::Kind::Sidecar {
            sidecars += limit;
        } else {
            peak = peak.max(sidecars + limit);
        }
    }
    Some(peak.max(main + sidecars))
}

//! Amounts of what a node has and a pod asks for.

use std::collections::BTreeMap;

use api_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// What scoring takes for a container that asks for no processor time: 100 millicores (upstream's
/// `DefaultMilliCPURequest`), so that pods without requests still spread.
const DEFAULT_MILLI_CPU: i64 = 100;
/// The same for memory, bytes: 200 MiB (upstream's `DefaultMemoryRequest`).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource. Processor time is in millicores, the rest in bytes or pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// How many pods (meant for nodes).
    pub pods: i64,
    /// Everything else by its name: huge pages, devices.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// From a resource list. Amounts that do not parse count as nothing; the API refuses them.
    pub fn from_list(list: &Amounts) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                _ => drop(resources.other.insert(name.clone(), quantity.value())),
            }
        }
        resources
    }

    /// Adds `more`.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, |have, more| have.saturating_add(more));
    }

    /// Takes `less` away.
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, |have, less| have.saturating_sub(less));
    }

    /// Keeps the larger of each amount.
    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, with: &Self, operation: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, with.milli_cpu);
        self.memory = operation(self.memory, with.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, with.ephemeral_storage);
        self.pods = operation(self.pods, with.pods);
        for (name, &amount) in &with.other {
            let have = self.other.entry(name.clone()).or_default();
            *have = operation(*have, amount);
        }
    }
}

/// What a pod asks for: the sum of its containers and restartable init containers, or the largest moment while its
/// other init containers run, whichever is more, and its overhead (KEP-753 and "Init containers: resource sharing").
pub fn requests(pod: &Pod) -> Resources {
    requests_with(pod, container_requests)
}

/// As [`requests`], with small defaults in place of absent requests: what scoring goes by.
pub fn requests_for_scoring(pod: &Pod) -> Resources {
    requests_with(pod, |container| {
        let mut resources = container_requests(container);
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asks = |name| asked.is_some_and(|asked| asked.contains_key(name));
        if !asks("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    })
}

fn container_requests(container: &Container) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.map(Resources::from_list).unwrap_or_default()
}

fn requests_with(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let (restartable, peak) = init_requests(spec, of);
    total.add(&restartable);
    total.raise_to(&peak);
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
    total.pods = 1;
    total
}

/// What restartable init containers hold for good, and the most that is held while init containers run.
fn init_requests(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> (Resources, Resources) {
    let (mut restartable, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            restartable.add(&moment);
            moment = restartable.clone();
        } else {
            moment.add(&restartable);
        }
        peak.raise_to(&moment);
    }
    (restartable, peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": value})).expect("a pod")
    }

    fn asks(name: &str, cpu: &str) -> serde_json::Value {
        serde_json::json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_at_their_peak() {
        let pod = pod(serde_json::json!({
            "initContainers": [asks("a", "2"), asks("b", "1")],
            "containers": [asks("c", "500m"), asks("d", "700m")],
            "overhead": {"cpu": "50m", "memory": "1Mi"},
        }));
        let requests = requests(&pod);
        assert_eq!((requests.milli_cpu, requests.memory, requests.pods), (2050, 1 << 20, 1));
    }

    #[test]
    fn restartable_init_containers_stay() {
        let mut sidecar = asks("s", "1");
        sidecar["restartPolicy"] = "Always".into();
        let pod = pod(serde_json::json!({
            "initContainers": [sidecar, asks("b", "1500m")],
            "containers": [asks("c", "1")],
        }));
        assert_eq!(requests(&pod).milli_cpu, 2500);
    }

    #[test]
    fn scoring_takes_defaults_for_what_is_not_asked() {
        let pod = pod(serde_json::json!({"containers": [{"name": "c"}, asks("d", "0")]}));
        let scored = requests_for_scoring(&pod);
        assert_eq!((scored.milli_cpu, scored.memory), (100, 2 * DEFAULT_MEMORY));
        assert_eq!(requests(&pod).milli_cpu, 0);
    }
}

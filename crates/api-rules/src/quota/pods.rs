//! Pods: how many that have not ended, and what their containers ask for and may use.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{meta, time};
use serde_json::Value;

use super::{Amounts, Scope, add, amounts, one, raise};
use crate::look::Look;

const NAMES: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Names that every container of a pod must name itself where a quota limits them.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const REQUESTS: &str = "requests.";
const LIMITS: &str = "limits.";
const HUGE_PAGES: &str = "hugepages-";
/// Resources that can be set for a pod as a whole.
const WHOLE: [&str; 2] = ["cpu", "memory"];

pub(super) fn tracks(name: &str) -> bool {
    let requested = name.strip_prefix(REQUESTS);
    NAMES.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || requested.is_some_and(|name| name.starts_with(HUGE_PAGES) || is_extended(name))
}

/// Whether a resource is of a domain of its own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// A pod that has ended counts as an object only.
pub(super) fn usage(pod: &Value, now: i64, usage: &mut Amounts) {
    if is_over(pod, now) {
        return;
    }
    let summed = |field: &str| sum(pod, field);
    add(usage, &named(&summed("requests"), &summed("limits")));
}

/// A pod is over when it says so, and when it should have been gone for as long as it had to end: a lost node must not
/// keep its owner from having it elsewhere.
fn is_over(pod: &Value, now: i64) -> bool {
    if matches!(pod.text("status.phase"), "Failed" | "Succeeded") {
        return true;
    }
    let Some(grace) = meta::deletion_grace_period_seconds(pod) else { return false };
    time::to_millis(meta::deletion_timestamp(pod)).is_some_and(|end| now > end + grace.saturating_mul(1000))
}

/// Requests and limits under the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut named = Amounts::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let basic = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if basic || name.starts_with(HUGE_PAGES) {
            named.insert(name.clone(), *amount);
        }
        if basic || name.starts_with(HUGE_PAGES) || is_extended(name) {
            named.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            named.insert(format!("{LIMITS}{name}"), *amount);
        }
    }
    named
}

/// The requests or limits of a whole pod: what its containers and its restartable init containers have together, or the
/// most that it has while an init container runs; in place of that what is set for the pod; and the overhead (KEP-753,
/// KEP-2837, KEP-688).
pub(super) fn sum(pod: &Value, field: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in pod.items("spec.containers") {
        add(&mut total, &of(pod, container, "containerStatuses", field));
    }
    let (mut restartable, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod.items("spec.initContainers") {
        let mut moment = of(pod, container, "initContainerStatuses", field);
        if container.text("restartPolicy") == "Always" {
            add(&mut restartable, &moment);
            moment = restartable.clone();
        } else {
            add(&mut moment, &restartable);
        }
        raise(&mut peak, &moment);
    }
    add(&mut total, &restartable);
    raise(&mut total, &peak);
    for (name, amount) in amounts(pod.at("spec.resources").key(field)) {
        if WHOLE.contains(&name.as_str()) || name.starts_with(HUGE_PAGES) {
            total.insert(name, amount);
        }
    }
    let overhead = amounts(pod.at("spec.overhead"));
    match field {
        "requests" => add(&mut total, &overhead),
        // Overhead does not make a limit where there is none.
        _ => {
            for (name, amount) in &mut total {
                if let Some(more) = overhead.get(name).filter(|_| !amount.is_zero()) {
                    *amount = *amount + *more;
                }
            }
        }
    }
    total
}

/// A container's requests or limits: while a change of them is under way, the larger of what is asked and what it has.
fn of(pod: &Value, container: &Value, statuses: &str, field: &str) -> Amounts {
    let asked = amounts(container.at("resources").key(field));
    let status =
        pod.at("status").items(statuses).iter().find(|status| status.key("name") == container.key("name"));
    let Some(status) = status else { return asked };
    let mut has = amounts(status.at("resources").key(field));
    if field == "requests" {
        raise(&mut has, &amounts(status.key("allocatedResources")));
    }
    if has.is_empty() {
        return asked;
    }
    let refused = pod.items("status.conditions").iter().any(|condition| {
        condition.text("type") == "PodResizePending" && condition.text("reason") == "Infeasible"
    });
    if refused {
        return has;
    }
    raise(&mut has, &asked);
    has
}

/// Refuses pods with containers that leave open what a quota limits.
pub(super) fn constraints(names: &[&str], pod: &Value) -> Result<(), String> {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in pod.items("spec.containers").iter().chain(pod.items("spec.initContainers")) {
        let of = |field: &str| amounts(container.at("resources").key(field));
        let has = named(&of("requests"), &of("limits"));
        for name in names.iter().filter(|name| REQUIRED.contains(name) && !has.contains_key(**name)) {
            missing.entry(name).or_default().insert(container.text("name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
    let parts: Vec<String> =
        missing.iter().map(|(name, containers)| format!("{name} for: {}", list(containers))).collect();
    Err(format!("must specify {}", parts.join("; ")))
}

pub(super) fn in_scope(scope: &Scope<'_>, pod: &Value) -> bool {
    let terminating = || pod.int_opt("spec.activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    let best_effort = || crate::qos::class(pod) == "BestEffort";
    match scope.name {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            scope.fits(Some(pod.text("spec.priorityClassName")).filter(|class| !class.is_empty()))
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether an affinity of the pod looks at pods of other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !term.items("namespaces").is_empty() || term.has("namespaceSelector");
    ["spec.affinity.podAffinity", "spec.affinity.podAntiAffinity"].iter().any(|path| {
        let affinity = pod.at(path);
        let required = affinity.items("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = affinity.items("preferredDuringSchedulingIgnoredDuringExecution");
        required.iter().any(crosses) || preferred.iter().any(|term| crosses(term.key("podAffinityTerm")))
    })
}

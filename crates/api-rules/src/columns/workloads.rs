//! Columns of pods and what makes them, of services and what routes to them.

use super::{
    AGE, Cell, Column, KindColumns, NAME, count, duration, first_few, is_true, number, plain, text, wide,
};
use crate::look::Look;
use serde_json::Value;

pub(super) static KINDS: &[KindColumns] = &[
    ("", "Pod", super::pod::POD),
    (
        "",
        "PodTemplate",
        &[
            NAME,
            text("Containers", Cell::Each("template.spec.containers", "name")),
            text("Images", Cell::Each("template.spec.containers", "image")),
            text("Pod Labels", Cell::Labels("template.metadata.labels")),
        ],
    ),
    (
        "",
        "ReplicationController",
        &[
            NAME,
            number("Desired", "spec.replicas"),
            number("Current", "status.replicas"),
            number("Ready", "status.readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            wide("Selector", Cell::Labels("spec.selector")),
        ],
    ),
    (
        "apps",
        "ReplicaSet",
        &[
            NAME,
            number("Desired", "spec.replicas"),
            number("Current", "status.replicas"),
            number("Ready", "status.readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "Deployment",
        &[
            NAME,
            text("Ready", Cell::Of(ready_of_replicas)),
            text("Up-to-date", Cell::Int("status.updatedReplicas")),
            text("Available", Cell::Int("status.availableReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            wide("Selector", Cell::Selector("spec.selector", "")),
        ],
    ),
    (
        "apps",
        "DaemonSet",
        &[
            NAME,
            number("Desired", "status.desiredNumberScheduled"),
            number("Current", "status.currentNumberScheduled"),
            number("Ready", "status.numberReady"),
            number("Up-to-date", "status.updatedNumberScheduled"),
            number("Available", "status.numberAvailable"),
            text("Node Selector", Cell::Labels("spec.template.spec.nodeSelector")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    ("apps", "StatefulSet", &[NAME, text("Ready", Cell::Of(ready_of_replicas)), AGE, CONTAINERS, IMAGES]),
    (
        "apps",
        "ControllerRevision",
        &[NAME, text("Controller", Cell::Of(controller)), text("Revision", Cell::Int("revision")), AGE],
    ),
    (
        "batch",
        "Job",
        &[
            NAME,
            text("Status", Cell::Of(job_status)),
            text("Completions", Cell::Of(completions)),
            text("Duration", Cell::Of(job_duration)),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "batch",
        "CronJob",
        &[
            NAME,
            text("Schedule", Cell::Text("spec.schedule", "")),
            text("Timezone", Cell::Text("spec.timeZone", "<none>")),
            Column {
                name: "Suspend",
                type_: "boolean",
                format: "",
                priority: 0,
                description: "",
                cell: Cell::Of(suspend),
            },
            Column {
                name: "Active",
                type_: "integer",
                format: "",
                priority: 0,
                description: "",
                cell: Cell::Count("status.active"),
            },
            text("Last Schedule", Cell::Since("status.lastScheduleTime", "<none>")),
            AGE,
            wide("Containers", Cell::Each("spec.jobTemplate.spec.template.spec.containers", "name")),
            wide("Images", Cell::Each("spec.jobTemplate.spec.template.spec.containers", "image")),
            wide("Selector", Cell::Selector("spec.jobTemplate.spec.selector", "<none>")),
        ],
    ),
    (
        "autoscaling",
        "HorizontalPodAutoscaler",
        &[
            NAME,
            text(
                "Reference",
                Cell::Of(|o, _| {
                    format!("{}/{}", o.text("spec.scaleTargetRef.kind"), o.text("spec.scaleTargetRef.name"))
                        .into()
                }),
            ),
            text("Targets", Cell::Of(targets)),
            text("MinPods", Cell::Text("spec.minReplicas", "<unset>")),
            text("MaxPods", Cell::Int("spec.maxReplicas")),
            text("Replicas", Cell::Int("status.currentReplicas")),
            AGE,
        ],
    ),
    (
        "policy",
        "PodDisruptionBudget",
        &[
            NAME,
            text("Min Available", Cell::Text("spec.minAvailable", "N/A")),
            text("Max Unavailable", Cell::Text("spec.maxUnavailable", "N/A")),
            number("Allowed Disruptions", "status.disruptionsAllowed"),
            AGE,
        ],
    ),
    (
        "",
        "Service",
        &[
            NAME,
            text("Type", Cell::Text("spec.type", "")),
            text(
                "Cluster-IP",
                Cell::Of(|o, _| {
                    o.items("spec.clusterIPs")
                        .first()
                        .map_or_else(|| "<none>".into(), |ip| plain(ip, "<none>"))
                        .into()
                }),
            ),
            text("External-IP", Cell::Of(external_ip)),
            text("Port(s)", Cell::Of(ports)),
            AGE,
            wide("Selector", Cell::Labels("spec.selector")),
        ],
    ),
    (
        "networking.k8s.io",
        "Ingress",
        &[
            NAME,
            text("Class", Cell::Text("spec.ingressClassName", "<none>")),
            text("Hosts", Cell::Of(hosts)),
            text("Address", Cell::Of(|o, _| load_balancer(o).join(",").into())),
            text(
                "Ports",
                Cell::Of(|o, _| if o.items("spec.tls").is_empty() { "80" } else { "80, 443" }.into()),
            ),
            AGE,
        ],
    ),
    ("", "Endpoints", &[NAME, text("Endpoints", Cell::Of(endpoints)), AGE]),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        &[
            NAME,
            text("AddressType", Cell::Text("addressType", "")),
            text("Ports", Cell::Of(slice_ports)),
            text("Endpoints", Cell::Of(slice_endpoints)),
            AGE,
        ],
    ),
];

const CONTAINERS: Column = wide("Containers", Cell::Each("spec.template.spec.containers", "name"));
const IMAGES: Column = wide("Images", Cell::Each("spec.template.spec.containers", "image"));
const SELECTOR: Column = wide("Selector", Cell::Selector("spec.selector", "<none>"));

fn ready_of_replicas(object: &Value, _: i64) -> Value {
    format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas")).into()
}

fn controller(object: &Value, _: i64) -> Value {
    let owner = object.items("metadata.ownerReferences").iter().find(|o| o.flag("controller"));
    let Some(owner) = owner else { return "<none>".into() };
    let kind = match owner.text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{}.{group}", owner.text("kind")),
        None => owner.text("kind").to_owned(),
    };
    format!("{}/{}", kind.to_lowercase(), owner.text("name")).into()
}

fn job_status(job: &Value, _: i64) -> Value {
    let first = |types: &[&'static str]| types.iter().copied().find(|t| is_true(job, t));
    if let Some(done) = first(&["Complete", "Failed"]) {
        done.into()
    } else if job.has("metadata.deletionTimestamp") {
        "Terminating".into()
    } else {
        first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running").into()
    }
}

fn completions(job: &Value, _: i64) -> Value {
    let succeeded = job.int("status.succeeded");
    if let Some(wanted) = job.int_opt("spec.completions") {
        return format!("{succeeded}/{wanted}").into();
    }
    match job.int("spec.parallelism") {
        n if n > 1 => format!("{succeeded}/1 of {n}").into(),
        _ => format!("{succeeded}/1").into(),
    }
}

fn job_duration(job: &Value, now: i64) -> Value {
    let Some(start) = duration::millis(job.text("status.startTime")) else { return "".into() };
    let end = duration::millis(job.text("status.completionTime")).unwrap_or(now);
    duration::human(end - start).into()
}

fn suspend(job: &Value, _: i64) -> Value {
    match job.at("spec.suspend").as_bool() {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }
}

/// Sorted addresses (or host names) of the load balancer.
fn load_balancer(object: &Value) -> Vec<String> {
    let mut all: Vec<String> = object
        .items("status.loadBalancer.ingress")
        .iter()
        .map(|i| if i.text("ip").is_empty() { i.text("hostname") } else { i.text("ip") })
        .filter(|a| !a.is_empty())
        .map(str::to_owned)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn external_ip(service: &Value, _: i64) -> Value {
    let external = || service.texts("spec.externalIPs").map(str::to_owned);
    let (all, none): (Vec<String>, &str) = match service.text("spec.type") {
        "ClusterIP" | "NodePort" => (external().collect(), "<none>"),
        "LoadBalancer" => (load_balancer(service).into_iter().chain(external()).collect(), "<pending>"),
        "ExternalName" => return service.text("spec.externalName").into(),
        _ => (Vec::new(), "<unknown>"),
    };
    super::or(all.join(","), none).into()
}

fn ports(service: &Value, _: i64) -> Value {
    let all: Vec<String> = service
        .items("spec.ports")
        .iter()
        .map(|p| match p.int("nodePort") {
            0 => format!("{}/{}", p.int("port"), p.text("protocol")),
            node => format!("{}:{node}/{}", p.int("port"), p.text("protocol")),
        })
        .collect();
    super::or(all.join(","), "<none>").into()
}

fn hosts(ingress: &Value, _: i64) -> Value {
    const SHOWN: usize = 3;
    let rules = ingress.items("spec.rules");
    let mut listed: Vec<&str> = Vec::new();
    for rule in rules {
        if listed.len() == SHOWN {
            return format!("{} + {} more...", listed.join(","), rules.len() - SHOWN).into();
        }
        if !rule.text("host").is_empty() {
            listed.push(rule.text("host"));
        }
    }
    super::or(listed.join(","), "*").into()
}

fn endpoints(object: &Value, _: i64) -> Value {
    const SHOWN: usize = 3;
    let mut all = Vec::new();
    for subset in object.items("subsets") {
        let addresses = subset.items("addresses");
        if subset.items("ports").is_empty() {
            all.extend(addresses.iter().map(|a| a.text("ip").to_owned()));
        }
        for port in subset.items("ports") {
            all.extend(addresses.iter().map(|a| host_port(a.text("ip"), port.int("port"))));
        }
    }
    if object.items("subsets").is_empty() { "<none>".into() } else { first_few(&all, SHOWN, ",").into() }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn slice_ports(slice: &Value, _: i64) -> Value {
    let all: Vec<String> = slice
        .items("ports")
        .iter()
        .map(|p| match p.int_opt("port") {
            Some(n) => n.to_string(),
            None => plain(p.at("name"), "*"),
        })
        .collect();
    super::or(first_few(&all, 3, ","), "<unset>").into()
}

fn slice_endpoints(slice: &Value, _: i64) -> Value {
    let all: Vec<String> = slice
        .items("endpoints")
        .iter()
        .flat_map(|e| e.items("addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    super::or(first_few(&all, 3, ","), "<unset>").into()
}

fn targets(hpa: &Value, _: i64) -> Value {
    const SHOWN: usize = 2;
    // Version 1 has one metric, in fields of its own.
    if let Some(percent) = hpa.int_opt("spec.targetCPUUtilizationPercentage") {
        let current = hpa.int_opt("status.currentCPUUtilizationPercentage");
        let current = current.map_or_else(|| "<unknown>".to_owned(), |now| format!("{now}%"));
        return format!("cpu: {current}/{percent}%").into();
    }
    let current = hpa.items("status.currentMetrics");
    let all: Vec<String> = hpa
        .items("spec.metrics")
        .iter()
        .enumerate()
        .map(|(i, spec)| target(spec, current.get(i).unwrap_or(&Value::Null)))
        .collect();
    if count(hpa.at("spec.metrics")) == 0 { "<none>".into() } else { first_few(&all, SHOWN, ", ").into() }
}

fn target(spec: &Value, current: &Value) -> String {
    let (source, known) = match spec.text("type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", true),
        "Object" => ("object", true),
        "External" => ("external", true),
        _ => ("", false),
    };
    if !known {
        return "<unknown type>".into();
    }
    let (want, have) = (spec.at(source).at("target"), current.at(source).at("current"));
    let amount = |v: &Value| crate::look::quantity(v).map(|q| q.to_string());
    let now = |field: &str| amount(have.at(field)).unwrap_or_else(|| "<unknown>".into());
    let average = amount(want.at("averageValue"));
    match source {
        "resource" | "containerResource" => {
            let name = spec.at(source).text("name");
            match average {
                Some(a) => format!("{name}: {}/{a}", now("averageValue")),
                None => {
                    let have = have
                        .int_opt("averageUtilization")
                        .map_or_else(|| "<unknown>".into(), |n| format!("{n}%"));
                    let want = want
                        .int_opt("averageUtilization")
                        .map_or_else(|| "<auto>".into(), |n| format!("{n}%"));
                    format!("{name}: {have}/{want}")
                }
            }
        }
        "pods" => format!("{}/{}", now("averageValue"), average.unwrap_or_default()),
        _ => match average {
            Some(a) => format!("{}/{a} (avg)", now("averageValue")),
            None => format!("{}/{}", now("value"), amount(want.at("value")).unwrap_or_default()),
        },
    }
}

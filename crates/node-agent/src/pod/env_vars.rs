//! A container's environment: literals, references, whole ConfigMaps and Secrets, services, downward fields. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret,
    Service,
};

use super::quantity;

/// Everything that an environment may be made from, fetched beforehand.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By name, in the pod's namespace; absent means that it does not exist.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// By name, in the pod's namespace; absent means that it does not exist.
    pub secrets: BTreeMap<String, Secret>,
    /// Services whose addresses are announced: those of the namespace and `default/kubernetes`.
    pub services: Vec<Service>,
    /// Addresses of the pod, primary first.
    pub pod_ips: Vec<String>,
    /// Addresses of the node, primary first.
    pub host_ips: Vec<String>,
    /// The node's allocatable milli-cores: what an unset cpu limit means.
    pub node_cpu_milli: i64,
    /// The node's allocatable bytes: what an unset memory limit means.
    pub node_memory_bytes: i64,
}

/// Why an environment cannot be made: the container waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret is not there.
    #[error("{kind} \"{name}\" not found")]
    ObjectMissing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object is there, the key is not.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyMissing {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object.
        name: String,
        /// The key asked for.
        key: String,
    },
    /// A field path that the downward API does not have.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A resource that the downward API does not have.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// A source that this agent does not read.
    #[error("environment variable {0} has a source that is not supported")]
    Source(String),
}

/// The names of ConfigMaps and Secrets that a container's environment needs.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let mut config_maps = Vec::new();
    let mut secrets = Vec::new();
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

/// The environment of `container`: services first, then `envFrom`, then `env`; a later name wins.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut found: BTreeMap<String, String> = service_variables(namespace, links, &sources.services);
    found.extend(env_from(container, sources)?);
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => from_source(pod, container, variable, source, sources)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &found)),
        };
        if let Some(value) = value {
            found.insert(variable.name.clone(), value);
        }
    }
    Ok(found.into_iter().collect())
}

fn env_from(container: &Container, sources: &Sources) -> Result<BTreeMap<String, String>, EnvError> {
    let mut found = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => found.extend(
                    map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone())),
                ),
                None if reference.optional == Some(true) => {}
                None => return Err(missing("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => found.extend(secret.data.iter().flatten().map(|(key, value)| {
                    (format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned())
                })),
                None if reference.optional == Some(true) => {}
                None => return Err(missing("secret", &reference.name)),
            }
        }
    }
    Ok(found)
}

fn missing(kind: &'static str, name: &str) -> EnvError {
    EnvError::ObjectMissing { kind, name: name.to_owned() }
}

/// The value of a `valueFrom`; `None` where an optional reference leads nowhere.
fn from_source(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let no_key = |kind, name: &str, key: &str| EnvError::KeyMissing {
        kind,
        namespace: namespace.clone(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_maps.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(missing("configmap", &reference.name)) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            None if !optional => Err(no_key("ConfigMap", &reference.name, &reference.key)),
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secrets.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(missing("secret", &reference.name)) };
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        return match value.map(|value| String::from_utf8_lossy(&value.0).into_owned()) {
            None if !optional => Err(no_key("Secret", &reference.name, &reference.key)),
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.field_ref {
        return field(pod, reference, &sources.pod_ips, &sources.host_ips).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(pod, container, reference, sources).map(Some);
    }
    Err(EnvError::Source(variable.name.clone()))
}

/// A field of the pod, as the downward API names it.
pub fn field(
    pod: &Pod,
    reference: &ObjectFieldSelector,
    pod_ips: &[String],
    host_ips: &[String],
) -> Result<String, EnvError> {
    let path = reference.field_path.as_str();
    let metadata = &pod.metadata;
    let spec = pod.spec.clone().unwrap_or_default();
    let keyed = |map: &Option<BTreeMap<String, String>>, rest: &str| {
        let key = rest.trim_start_matches("['").trim_end_matches("']");
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(rest) = path.strip_prefix("metadata.labels[") {
        return Ok(keyed(&metadata.labels, &format!("[{rest}")));
    }
    if let Some(rest) = path.strip_prefix("metadata.annotations[") {
        return Ok(keyed(&metadata.annotations, &format!("[{rest}")));
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => listing(&metadata.labels),
        "metadata.annotations" => listing(&metadata.annotations),
        "spec.nodeName" => spec.node_name.unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.hostIP" => host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        other => return Err(EnvError::Field(other.to_owned())),
    })
}

/// `key="value"` lines, sorted by key, quoted as Go's %q does for plain text.
fn listing(map: &Option<BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A resource of a container, as the downward API names it, divided and rounded up.
pub fn resource(
    pod: &Pod,
    container: &Container,
    reference: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, EnvError> {
    let spec = pod.spec.as_ref();
    let named = reference.container_name.as_deref().filter(|name| !name.is_empty());
    let target = named
        .and_then(|name| super::lifecycle::find(spec?, name).map(|(_, container)| container))
        .unwrap_or(container);
    let unknown = || EnvError::Resource(reference.resource.clone());
    let (list, name) = reference.resource.split_once('.').ok_or_else(unknown)?;
    let resources = target.resources.as_ref();
    let chosen = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let text = chosen.and_then(|list| list.get(name)).map(|quantity| quantity.0.as_str());
    let default = match (list, name) {
        ("limits", "cpu") => sources.node_cpu_milli,
        ("limits", "memory") => sources.node_memory_bytes.saturating_mul(1000),
        _ => 0,
    };
    let amount = text.and_then(quantity::milli).unwrap_or(default);
    let divisor = reference.divisor.as_ref().and_then(|divisor| quantity::milli(&divisor.0));
    let divisor = divisor.filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

/// Replaces `$(NAME)` by its value; `$$` is a literal `$`; an unknown name stays as it is written.
pub fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// `<NAME>_SERVICE_HOST` and the rest of the variables that announce services (Docker's link form included).
fn service_variables(namespace: &str, links: bool, services: &[Service]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let at = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_master = at == "default" && name == "kubernetes";
        if is_master || (links && at == namespace) {
            add_service(&mut found, name, service);
        }
    }
    found
}

fn add_service(found: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = service.spec.as_ref() else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.clone().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    found.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    found.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in &ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            found.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        let stem = format!("{prefix}_PORT_{}_{protocol}", port.port);
        found.entry(format!("{prefix}_PORT")).or_insert_with(|| url.clone());
        found.insert(format!("{stem}_PROTO"), lower);
        found.insert(format!("{stem}_PORT"), port.port.to_string());
        found.insert(format!("{stem}_ADDR"), ip.to_owned());
        found.insert(stem, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde_json::{from_value, json};

    fn pod() -> Pod {
        from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        }))
        .expect("a pod")
    }

    fn container(env: k8s_openapi::serde_json::Value) -> Container {
        from_value(json!({
            "name": "c", "env": env,
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}},
        }))
        .expect("a container")
    }

    fn sources() -> Sources {
        let map = from_value(json!({"data": {"k": "from-map"}})).expect("a map");
        let service = from_value(json!({
            "metadata": {"name": "my-svc", "namespace": "ns"},
            "spec": {"clusterIP": "10.0.0.5", "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]},
        }))
        .expect("a service");
        Sources {
            config_maps: [("c1".to_owned(), map)].into(),
            services: vec![service],
            pod_ips: vec!["10.244.1.5".to_owned()],
            node_memory_bytes: 1 << 30,
            ..Sources::default()
        }
    }

    fn value_of(env: k8s_openapi::serde_json::Value, name: &str) -> Result<Option<String>, EnvError> {
        let all = environment(&pod(), &container(env), &sources())?;
        Ok(all.into_iter().find(|(key, _)| key == name).map(|(_, value)| value))
    }

    #[test]
    fn variables_come_from_literals_references_and_fields() {
        let env = json!([
            {"name": "A", "value": "lit"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "D", "value": "$(A)-$(B)-$$(A)-$(NO)"},
            {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}},
            {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            {"name": "H", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
        ]);
        let expected = [
            ("A", "lit"),
            ("B", "from-map"),
            ("C", "p"),
            ("D", "lit-from-map-$(A)-$(NO)"),
            ("E", "2"),
            ("F", "64"),
            ("G", "1073741824"),
            ("H", "1"),
            ("MY_SVC_SERVICE_HOST", "10.0.0.5"),
            ("MY_SVC_PORT_80_TCP", "tcp://10.0.0.5:80"),
        ];
        for (name, value) in expected {
            assert_eq!(value_of(env.clone(), name), Ok(Some(value.to_owned())), "{name}");
        }
    }

    #[test]
    fn a_missing_reference_is_an_error_unless_optional() {
        let of = |name: &str, key: &str, optional: bool| json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}}]);
        let error = value_of(of("nope", "k", false), "A").expect_err("no such map");
        assert_eq!(error.to_string(), "configmap \"nope\" not found");
        let error = value_of(of("c1", "x", false), "A").expect_err("no such key");
        assert_eq!(error.to_string(), "couldn't find key x in ConfigMap ns/c1");
        assert_eq!(value_of(of("nope", "k", true), "A"), Ok(None));
    }
}

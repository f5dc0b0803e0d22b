//! ServiceAccount: a pod runs as an account that exists, finds the account's token in a volume, and refers to no other
//! secrets than the account does, if the account says so.

use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

const ACCOUNTS: Name = ("", "v1", "serviceaccounts");
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Asks for an hour; the seven seconds tell such tokens apart (upstream does the same).
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Fields of a pod's spec that name a Secret.
const SECRETS: [&str; 5] = ["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef", "azureFile"];
/// On an account: its pods may refer to no other secrets than it does.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, pod| {
        match attributes.creates("", "pods") && meta::annotation(pod, MIRROR).is_none() {
            true => Some(Box::pin(admit(api, attributes, pod))),
            false => None,
        }
    }),
    check: Check::Waits(|api, attributes, pod| match what(attributes) {
        Some(what) => Some(Box::pin(check(api, attributes, pod, what))),
        None => None,
    }),
};

/// What is looked at before it is stored.
#[derive(Clone, Copy)]
enum What {
    Pod,
    EphemeralContainers,
}

fn what(attributes: &Attributes<'_>) -> Option<What> {
    let kind = &attributes.target.resource;
    let pods = kind.group.is_empty() && kind.resource == "pods";
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") if pods => Some(What::Pod),
        (Operation::Update, "ephemeralcontainers") if pods => Some(What::EphemeralContainers),
        _ => None,
    }
}

async fn check(api: &Api, attributes: &Attributes<'_>, pod: &Value, what: What) -> Result<(), Status> {
    let (target, creates) = (attributes.target, matches!(what, What::Pod));
    if creates && meta::annotation(pod, MIRROR).is_some() {
        return mirror_fault(pod).map_or(Ok(()), |why| Err(target.forbidden(why)));
    }
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if name.is_empty() {
        let (namespace, pod) = (&target.namespace, meta::name(pod));
        return Err(target.forbidden(&format!("no service account specified for pod {namespace}/{pod}")));
    }
    let account = lookup::get_fresh(api, ACCOUNTS, &target.namespace, name).await?;
    let account = account.ok_or_else(|| missing(attributes, name))?;
    if !meta::annotation(&account, ENFORCE).is_some_and(is_true) {
        return Ok(());
    }
    let fault = match creates {
        true => reference_fault(&account, pod),
        false => container_fault(&account, pod, "ephemeralContainers", "ephemeral container"),
    };
    fault.map_or(Ok(()), |why| Err(target.forbidden(&why)))
}

/// As Go reads a boolean.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

/// What a pod that stands for one of a node's files must not have.
fn mirror_fault(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let projects = |volume: &Value| {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        sources.into_iter().any(|source| !source["serviceAccountToken"].is_null())
    };
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    if spec["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty()) || has(spec, &SECRETS) {
        return Some("a mirror pod may not reference secrets");
    }
    let mut volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.any(projects).then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// Whether one of these fields stands anywhere in a value.
fn has(value: &Value, fields: &[&str]) -> bool {
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| fields.contains(&key.as_str()) && value.is_object() || has(value, fields)),
        Value::Array(list) => list.iter().any(|value| has(value, fields)),
        _ => false,
    }
}

fn names<'a>(account: &'a Value, field: &str) -> Vec<&'a str> {
    let list = account[field].as_array().into_iter().flatten();
    list.filter_map(|reference| reference["name"].as_str()).collect()
}

/// What a pod refers to and its account does not (`kubernetes.io/enforce-mountable-secrets`).
fn reference_fault(account: &Value, pod: &Value) -> Option<String> {
    let (secrets, name) = (names(account, "secrets"), meta::name(account));
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    for volume in volumes.filter(|volume| !volume["secret"].is_null()) {
        let secret = volume["secret"]["secretName"].as_str().unwrap_or_default();
        if !secrets.contains(&secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    let containers = container_fault(account, pod, "initContainers", "init container")
        .or_else(|| container_fault(account, pod, "containers", "container"));
    containers.or_else(|| {
        let pulls = names(account, "imagePullSecrets");
        let wanted = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten();
        let wanted = wanted.map(|secret| secret["name"].as_str().unwrap_or_default());
        let (index, secret) = wanted.enumerate().find(|(_, secret)| !pulls.contains(secret))?;
        Some(format!("imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"))
    })
}

/// The same of the environments of one list of containers.
fn container_fault(account: &Value, pod: &Value, list: &str, what: &str) -> Option<String> {
    let (secrets, owner) = (names(account, "secrets"), meta::name(account));
    let fault = |container: &Value, how: &str, secret: &Value| {
        let secret = secret["name"].as_str().unwrap_or_default();
        let name = container["name"].as_str().unwrap_or_default();
        (!secrets.contains(&secret)).then(|| format!("{what} {name} with {how} referencing secret.secretName=\"{secret}\" is not allowed because service account {owner} does not reference that secret"))
    };
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    items(&pod["spec"][list]).iter().find_map(|container| {
        let of_variable = |variable: &Value| {
            let secret = &variable["valueFrom"]["secretKeyRef"];
            let how = format!("envVar {}", variable["name"].as_str().unwrap_or_default());
            (!secret.is_null()).then(|| fault(container, &how, secret)).flatten()
        };
        let of_source = |source: &Value| {
            let secret = &source["secretRef"];
            (!secret.is_null()).then(|| fault(container, "envFrom", secret)).flatten()
        };
        let variables = items(&container["env"]).iter().find_map(of_variable);
        variables.or_else(|| items(&container["envFrom"]).iter().find_map(of_source))
    })
}

async fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let name =
        pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
    let name = name.to_owned();
    let spec = meta::child_mut(pod, &["spec"]);
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.as_str().into());
    let account = lookup::get_fresh(api, ACCOUNTS, &attributes.target.namespace, &name).await?;
    let account = account.ok_or_else(|| missing(attributes, &name))?;
    if mounts_token(&account, pod) {
        mount(pod, &api.storage.env.rng.suffix(5));
    }
    let secrets = account["imagePullSecrets"].as_array().cloned().unwrap_or_default();
    let spec = meta::child_mut(pod, &["spec"]);
    let own = spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !own && !secrets.is_empty() {
        spec.insert("imagePullSecrets".into(), secrets.into());
    }
    Ok(())
}

fn missing(attributes: &Attributes<'_>, name: &str) -> Status {
    let namespace = &attributes.target.namespace;
    let why = format!(
        "error looking up service account {namespace}/{name}: serviceaccount {} not found",
        api_types::field::quote(name)
    );
    attributes.target.forbidden(&why)
}

fn mounts_token(account: &Value, pod: &Value) -> bool {
    let said = |value: &Value| value["automountServiceAccountToken"].as_bool();
    said(&pod["spec"]).or_else(|| said(account)).unwrap_or(true)
}

/// Mounts the token's volume into every container that has nothing there.
fn mount(pod: &mut Value, suffix: &str) {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let existing =
        volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, add) = match existing {
        Some(name) => (name.to_owned(), false),
        None => (format!("{VOLUME_PREFIX}{suffix}"), true),
    };
    let spec = meta::child_mut(pod, &["spec"]);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mut mounts = mounts;
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            if let Some(container) = container.as_object_mut() {
                container.insert("volumeMounts".into(), mounts.into());
            }
        }
    }
    if needed && add {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(volume(&name));
        }
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_the_token_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        mount(&mut pod, "abcde");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount(&mut pod, "fghij");
        assert_eq!(pod, before);
    }

    #[test]
    fn an_account_may_limit_the_secrets_of_its_pods() {
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]});
        let with = |spec: Value| reference_fault(&account, &json!({"spec": spec})).unwrap_or_default();
        let own = json!({
            "volumes": [{"name": "v", "secret": {"secretName": "own"}}, {"name": "c", "configMap": {"name": "x"}}],
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "own", "key": "k"}}}, {"name": "F", "value": "x"}],
                "envFrom": [{"secretRef": {"name": "own"}}, {"configMapRef": {"name": "x"}}]}],
            "imagePullSecrets": [{"name": "pull"}]});
        assert_eq!(with(own), "");
        let end = "is not allowed because service account sa does not reference that";
        assert_eq!(
            with(json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]})),
            format!("volume with secret.secretName=\"x\" {end} secret")
        );
        let env =
            json!([{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]);
        assert_eq!(
            with(json!({"initContainers": env})),
            format!("init container c with envVar E referencing secret.secretName=\"x\" {end} secret")
        );
        let from = json!([{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]);
        assert_eq!(
            with(json!({"containers": from})),
            format!("container c with envFrom referencing secret.secretName=\"x\" {end} secret")
        );
        assert_eq!(
            with(json!({"imagePullSecrets": [{"name": "pull"}, {"name": "x"}]})),
            format!("imagePullSecrets[1].name=\"x\" {end} imagePullSecret")
        );
        assert!(is_true("t") && !is_true("yes"));
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let off = json!({"automountServiceAccountToken": false});
        assert!(mounts_token(&json!({}), &json!({"spec": {}})));
        assert!(!mounts_token(&off, &json!({"spec": {}})));
        assert!(mounts_token(&off, &json!({"spec": {"automountServiceAccountToken": true}})));
    }
}

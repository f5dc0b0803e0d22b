//! ServiceAccount: a pod runs as an account that exists, and finds the account's token in a volume.

use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

const ACCOUNTS: Name = ("", "v1", "serviceaccounts");
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Asks for an hour; the seven seconds tell such tokens apart (upstream does the same).
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, pod| {
        match attributes.creates("", "pods") && meta::annotation(pod, MIRROR).is_none() {
            true => Some(Box::pin(admit(api, attributes, pod))),
            false => None,
        }
    }),
    check: Check::Never,
};

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
    fn the_pod_decides_before_the_account() {
        let off = json!({"automountServiceAccountToken": false});
        assert!(mounts_token(&json!({}), &json!({"spec": {}})));
        assert!(!mounts_token(&off, &json!({"spec": {}})));
        assert!(mounts_token(&off, &json!({"spec": {"automountServiceAccountToken": true}})));
    }
}

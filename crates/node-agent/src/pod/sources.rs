//! Fetches what a pod's environment and volumes refer to. Driver.

use std::collections::BTreeMap;

use client::ClientError;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::env_vars::Sources;
use crate::context::{Context, core};
use crate::volumes::plan::{TokenWant, VolumeSources, Wants};

/// Everything in `wants`, and the services and addresses of the moment; what does not exist is left out.
pub(crate) async fn fetch(
    context: &Context,
    pod: &Pod,
    wants: &Wants,
    pod_ips: Vec<String>,
) -> Result<VolumeSources, ClientError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut env = surroundings(context, pod_ips);
    for name in &wants.config_maps {
        if let Some(map) = optional(context, "configmaps", &namespace, name).await? {
            env.config_maps.insert(name.clone(), map);
        }
    }
    for name in &wants.secrets {
        if let Some(secret) = optional(context, "secrets", &namespace, name).await? {
            env.secrets.insert(name.clone(), secret);
        }
    }
    let mut tokens = BTreeMap::new();
    for want in &wants.tokens {
        let token = token(context, pod, want).await.map_err(|error| error.to_string());
        tokens.insert(want.clone(), token);
    }
    Ok(VolumeSources { env, tokens })
}

fn surroundings(context: &Context, pod_ips: Vec<String>) -> Sources {
    let typed = |object: &Value| serde_json::from_value::<Service>(object.clone()).ok();
    Sources {
        services: context.services.all().iter().filter_map(|service| typed(service)).collect(),
        pod_ips,
        host_ips: context.host_ips.iter().map(ToString::to_string).collect(),
        node_cpu_milli: context.capacity.cpu_milli,
        node_memory_bytes: context.capacity.memory_bytes,
        ..Sources::default()
    }
}

async fn optional<T: DeserializeOwned>(
    context: &Context,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>, ClientError> {
    match context.client.namespaced(core(resource), namespace).get(name).await {
        Ok(value) => {
            serde_json::from_value(value).map(Some).map_err(|error| ClientError::Decode(error.to_string()))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A token of the pod's service account, bound to the pod (TokenRequest).
async fn token(context: &Context, pod: &Pod, want: &TokenWant) -> Result<String, ClientError> {
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let audiences: Vec<&str> =
        Some(want.audience.as_str()).filter(|text| !text.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": want.expiration_seconds,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid,
            },
        },
    });
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api = context.client.namespaced(core("serviceaccounts"), namespace);
    let answer = api.post(account, "token", &body).await?;
    Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
}

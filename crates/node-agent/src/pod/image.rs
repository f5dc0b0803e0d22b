//! Image names, pull policies and registry credentials. Pure.

use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Secret};
use protos::cri;
use serde::Deserialize;

/// The registry of names without a host.
const DEFAULT_REGISTRY: &str = "docker.io";

/// A full reference: `busybox` is `docker.io/library/busybox:latest`.
pub fn normalize(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let has_host = first.contains(['.', ':']) || first == "localhost";
    let named = match (first, has_host) {
        (_, true) => image.to_owned(),
        ("", false) => format!("{DEFAULT_REGISTRY}/library/{image}"),
        _ => format!("{DEFAULT_REGISTRY}/{first}/{rest}"),
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { named } else { format!("{named}:latest") }
}

/// The registry's host in a full reference.
pub fn registry(reference: &str) -> &str {
    reference.split('/').next().unwrap_or_default()
}

/// When to ask the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time a container starts.
    Always,
    /// Only if the image is absent.
    IfNotPresent,
    /// Never: an absent image is an error.
    Never,
}

/// The container's policy; unset means Always for the tag `latest`, else IfNotPresent.
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ if normalize(container.image.as_deref().unwrap_or_default()).ends_with(":latest") => {
            PullPolicy::Always
        }
        _ => PullPolicy::IfNotPresent,
    }
}

/// What to do about a container's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageDecision {
    /// It is there.
    Use,
    /// Ask the registry.
    Pull,
    /// It is not there and must not be fetched.
    NeverPull,
}

/// Decides by policy and presence; runtimes ask the registry at every pull, even for what they have.
pub fn decide(policy: PullPolicy, present: bool) -> ImageDecision {
    match (policy, present) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => ImageDecision::Pull,
        (_, true) => ImageDecision::Use,
        (PullPolicy::Never, false) => ImageDecision::NeverPull,
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// Credentials for the registry of `reference` from the pod's pull secrets, the first that fits.
pub fn credentials(reference: &str, secrets: &[&Secret]) -> Option<cri::AuthConfig> {
    let host = registry(reference);
    secrets.iter().find_map(|secret| {
        let raw = secret.data.as_ref()?.get(".dockerconfigjson")?;
        let config: DockerConfig = serde_json::from_slice(&raw.0).ok()?;
        config.auths.into_iter().find_map(|(server, auth)| {
            let server_host = server.trim_start_matches("https://").trim_start_matches("http://");
            let fits = server_host.split('/').next() == Some(host)
                || (host == DEFAULT_REGISTRY && server_host.starts_with("index.docker.io"));
            fits.then(|| auth_config(server, auth))
        })
    })
}

fn auth_config(server: String, auth: DockerAuth) -> cri::AuthConfig {
    let mut config = cri::AuthConfig {
        username: auth.username,
        password: auth.password,
        server_address: server,
        identity_token: auth.identitytoken,
        ..Default::default()
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, password)) = text.as_deref().and_then(|text| text.split_once(':'))
        && config.username.is_empty()
    {
        config.username = user.to_owned();
        config.password = password.to_owned();
    }
    config
}

/// runAsNonRoot: the reason why the container may not start, if so.
pub fn violates_non_root(
    container: &Container,
    pod_context: Option<&k8s_openapi::api::core::v1::PodSecurityContext>,
    image: Option<&cri::Image>,
) -> Option<String> {
    let own = container.security_context.as_ref();
    let required =
        own.and_then(|own| own.run_as_non_root).or(pod_context.and_then(|context| context.run_as_non_root));
    if required != Some(true) {
        return None;
    }
    let user = own.and_then(|own| own.run_as_user).or(pod_context.and_then(|context| context.run_as_user));
    let image_user = image.and_then(|image| image.uid.as_ref()).map(|uid| uid.value);
    let named = image.map(|image| image.username.as_str()).filter(|name| !name.is_empty());
    match (user, image_user, named) {
        (Some(0), _, _) => Some("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _, _) => None,
        (None, _, Some(name)) => Some(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        )),
        (None, Some(0) | None, None) => {
            Some("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, Some(_), None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("org/app", "docker.io/org/app:latest"),
            ("lab.local/app:1", "lab.local/app:1"),
            ("localhost/app", "localhost/app:latest"),
            ("host:5000/app", "host:5000/app:latest"),
            ("host:5000/app@sha256:00", "host:5000/app@sha256:00"),
        ];
        for (given, full) in cases {
            assert_eq!(normalize(given), full);
        }
    }

    #[test]
    fn policies_decide_by_presence() {
        assert_eq!(decide(PullPolicy::Always, true), ImageDecision::Pull);
        assert_eq!(decide(PullPolicy::IfNotPresent, true), ImageDecision::Use);
        assert_eq!(decide(PullPolicy::IfNotPresent, false), ImageDecision::Pull);
        assert_eq!(decide(PullPolicy::Never, false), ImageDecision::NeverPull);
        assert_eq!(decide(PullPolicy::Never, true), ImageDecision::Use);
    }
}

//! What each volume of a pod consists of. Pure: ConfigMaps, Secrets and tokens are fetched beforehand.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};

use crate::pod::env_vars::{self, Sources};
use crate::pod::lifecycle;

/// Mode of projected files when nobody says.
const DEFAULT_MODE: u32 = 0o644;
/// Lifetime of a projected token when nobody says, in seconds.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// A service account token that a volume needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWant {
    /// Audience; empty for the API server's own.
    pub audience: String,
    /// Lifetime in seconds.
    pub expiration_seconds: i64,
}

/// What has to be fetched before a pod's containers and volumes can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// ConfigMap names.
    pub config_maps: BTreeSet<String>,
    /// Secret names, pull secrets included.
    pub secrets: BTreeSet<String>,
    /// Tokens of the pod's service account.
    pub tokens: BTreeSet<TokenWant>,
}

/// Everything that a pod's environment and volumes refer to.
pub fn wants(pod: &Pod) -> Wants {
    let mut wants = Wants::default();
    let Some(spec) = pod.spec.as_ref() else { return wants };
    let ephemeral = lifecycle::ephemeral(spec);
    for container in lifecycle::containers(spec).map(|(_, container)| container).chain(&ephemeral) {
        let (config_maps, secrets) = env_vars::references(container);
        wants.config_maps.extend(config_maps);
        wants.secrets.extend(secrets);
    }
    wants.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    for volume in spec.volumes.iter().flatten() {
        wants.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        wants.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for projection in volume.projected.iter().filter_map(|source| source.sources.as_ref()).flatten() {
            wants.config_maps.extend(projection.config_map.iter().map(|source| source.name.clone()));
            wants.secrets.extend(projection.secret.iter().map(|source| source.name.clone()));
            wants.tokens.extend(token_want(projection));
        }
    }
    wants
}

fn token_want(projection: &VolumeProjection) -> Option<TokenWant> {
    projection.service_account_token.as_ref().map(|token| TokenWant {
        audience: token.audience.clone().unwrap_or_default(),
        expiration_seconds: token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
    })
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative to the volume.
    pub path: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// An empty directory, on disk or in memory.
    EmptyDir {
        /// In memory (tmpfs).
        memory: bool,
        /// Largest size in bytes, for memory.
        size_limit: Option<i64>,
    },
    /// Files that change all at once.
    Files {
        /// Upstream's name of the plugin, part of the path.
        plugin: &'static str,
        /// The files.
        files: Vec<File>,
    },
    /// A path of the node.
    HostPath {
        /// The path.
        path: String,
        /// Upstream's type: `""`, `Directory`, `DirectoryOrCreate`, `File`, `FileOrCreate`, ...
        kind: String,
    },
}

/// Why a volume cannot be made (now): the FailedMount event's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret is not there.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {kind} \"{name}\" not found")]
    Missing {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object is there, a key is not.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : references non-existent {kind} key: {key}")]
    MissingKey {
        /// The volume.
        volume: String,
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A source of another kind.
    #[error("volume \"{0}\" is of a type that this node does not support")]
    Unsupported(String),
    /// A downward field that does not exist.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    Downward {
        /// The volume.
        volume: String,
        /// Why.
        cause: String,
    },
    /// A token was refused.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : failed to fetch token: {cause}")]
    Token {
        /// The volume.
        volume: String,
        /// Why.
        cause: String,
    },
}

/// Everything fetched for a pod.
#[derive(Clone, Debug, Default)]
pub struct VolumeSources {
    /// ConfigMaps, Secrets, addresses.
    pub env: Sources,
    /// Tokens, or why there is none.
    pub tokens: BTreeMap<TokenWant, Result<String, String>>,
}

/// What `volume` of `pod` consists of.
pub fn plan(pod: &Pod, volume: &Volume, sources: &VolumeSources) -> Result<VolumePlan, VolumeError> {
    let maker = Maker { pod, volume: &volume.name, sources };
    if let Some(empty) = &volume.empty_dir {
        let memory = empty.medium.as_deref() == Some("Memory");
        let size_limit = empty.size_limit.as_ref().and_then(|q| crate::pod::quantity::value(&q.0));
        return Ok(VolumePlan::EmptyDir { memory, size_limit });
    }
    if let Some(host) = &volume.host_path {
        let kind = host.type_.clone().unwrap_or_default();
        return Ok(VolumePlan::HostPath { path: host.path.clone(), kind });
    }
    if let Some(map) = &volume.config_map {
        let mode = mode(map.default_mode, None);
        let files = maker.config_map(&map.name, map.items.as_deref(), map.optional, mode)?;
        return Ok(VolumePlan::Files { plugin: "configmap", files });
    }
    if let Some(secret) = &volume.secret {
        let mode = mode(secret.default_mode, None);
        let name = secret.secret_name.clone().unwrap_or_default();
        let files = maker.secret(&name, secret.items.as_deref(), secret.optional, mode)?;
        return Ok(VolumePlan::Files { plugin: "secret", files });
    }
    if let Some(downward) = &volume.downward_api {
        let items = downward.items.as_deref().unwrap_or_default();
        let files = maker.downward(items, mode(downward.default_mode, None))?;
        return Ok(VolumePlan::Files { plugin: "downward-api", files });
    }
    if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode, None);
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        for projection in projected.sources.iter().flatten() {
            let made = maker.projection(projection, mode)?;
            files.extend(made.into_iter().map(|file| (file.path.clone(), file)));
        }
        return Ok(VolumePlan::Files { plugin: "projected", files: files.into_values().collect() });
    }
    if volume == &(Volume { name: volume.name.clone(), ..Volume::default() }) {
        return Ok(VolumePlan::EmptyDir { memory: false, size_limit: None });
    }
    Err(VolumeError::Unsupported(volume.name.clone()))
}

fn mode(default: Option<i32>, own: Option<i32>) -> u32 {
    own.or(default).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

struct Maker<'a> {
    pod: &'a Pod,
    volume: &'a str,
    sources: &'a VolumeSources,
}

impl Maker<'_> {
    fn missing(&self, kind: &'static str, name: &str) -> VolumeError {
        VolumeError::Missing { volume: self.volume.to_owned(), kind, name: name.to_owned() }
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<Vec<File>, VolumeError> {
        let Some(map) = self.sources.env.config_maps.get(name) else {
            return if optional == Some(true) {
                Ok(Vec::new())
            } else {
                Err(self.missing("configmap", name))
            };
        };
        self.pick(config_map_data(map), items, optional, mode, "config")
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<Vec<File>, VolumeError> {
        let Some(secret) = self.sources.env.secrets.get(name) else {
            return if optional == Some(true) { Ok(Vec::new()) } else { Err(self.missing("secret", name)) };
        };
        self.pick(secret_data(secret), items, optional, mode, "secret")
    }

    fn pick(
        &self,
        data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        default: u32,
        kind: &'static str,
    ) -> Result<Vec<File>, VolumeError> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return Ok(data
                .into_iter()
                .map(|(path, content)| File { path, content, mode: default })
                .collect());
        };
        let mut files = Vec::new();
        for item in items {
            let Some(content) = data.get(&item.key) else {
                if optional == Some(true) {
                    continue;
                }
                let volume = self.volume.to_owned();
                return Err(VolumeError::MissingKey { volume, kind, key: item.key.clone() });
            };
            let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default);
            files.push(File { path: item.path.clone(), content: content.clone(), mode });
        }
        Ok(files)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], default: u32) -> Result<Vec<File>, VolumeError> {
        let env = &self.sources.env;
        let failed = |cause: env_vars::EnvError| VolumeError::Downward {
            volume: self.volume.to_owned(),
            cause: cause.to_string(),
        };
        let mut files = Vec::new();
        for item in items {
            let text = if let Some(reference) = &item.field_ref {
                env_vars::field(self.pod, reference, &env.pod_ips, &env.host_ips).map_err(failed)?
            } else if let Some(reference) = &item.resource_field_ref {
                let empty = Default::default();
                env_vars::resource(self.pod, &empty, reference, env).map_err(failed)?
            } else {
                String::new()
            };
            let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default);
            files.push(File { path: item.path.clone(), content: text.into_bytes(), mode });
        }
        Ok(files)
    }

    fn projection(&self, projection: &VolumeProjection, mode: u32) -> Result<Vec<File>, VolumeError> {
        if let Some(map) = &projection.config_map {
            return self.config_map(&map.name, map.items.as_deref(), map.optional, mode);
        }
        if let Some(secret) = &projection.secret {
            return self.secret(&secret.name, secret.items.as_deref(), secret.optional, mode);
        }
        if let Some(downward) = &projection.downward_api {
            return self.downward(downward.items.as_deref().unwrap_or_default(), mode);
        }
        let (Some(source), Some(want)) = (&projection.service_account_token, token_want(projection)) else {
            return Err(VolumeError::Unsupported(self.volume.to_owned()));
        };
        let volume = self.volume.to_owned();
        match self.sources.tokens.get(&want) {
            Some(Ok(token)) => {
                Ok(vec![File { path: source.path.clone(), content: token.clone().into_bytes(), mode }])
            }
            Some(Err(cause)) => Err(VolumeError::Token { volume, cause: cause.clone() }),
            None => Err(VolumeError::Token { volume, cause: "not fetched".to_owned() }),
        }
    }
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde_json::{Value, from_value, json};

    fn made(volume: Value) -> Result<VolumePlan, VolumeError> {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).expect("a pod");
        let volume: Volume = from_value(volume).expect("a volume");
        let mut sources = VolumeSources::default();
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AwQ="}});
        sources.env.config_maps.insert("m".to_owned(), from_value(map).expect("a map"));
        let want = TokenWant { audience: String::new(), expiration_seconds: 3607 };
        sources.tokens.insert(want, Ok("t0ken".to_owned()));
        plan(&pod, &volume, &sources)
    }

    fn listing(plan: VolumePlan) -> Vec<(String, String, u32)> {
        let VolumePlan::Files { files, .. } = plan else { panic!("not files: {plan:?}") };
        let text = |file: File| String::from_utf8_lossy(&file.content).into_owned();
        files.into_iter().map(|file| (file.path.clone(), text(file.clone()), file.mode)).collect()
    }

    #[test]
    fn a_config_map_gives_all_keys_or_the_chosen_ones() {
        let all = listing(made(json!({"name": "v", "configMap": {"name": "m"}})).expect("made"));
        assert_eq!(all.iter().map(|(path, ..)| path.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let chosen = json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o400,
            "items": [{"key": "b", "path": "x/y", "mode": 0o600}, {"key": "a", "path": "z"}]}});
        let expected = [("x/y".to_owned(), "2".to_owned(), 0o600), ("z".to_owned(), "1".to_owned(), 0o400)];
        assert_eq!(listing(made(chosen).expect("made")), expected);
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        let error = made(json!({"name": "v", "configMap": {"name": "no"}})).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"no\" not found"
        );
        assert!(made(json!({"name": "v", "configMap": {"name": "no", "optional": true}})).is_ok());
        assert!(made(json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).is_err());
    }

    #[test]
    fn the_api_access_volume_has_token_root_and_namespace() {
        let volume = json!({"name": "kube-api-access", "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}});
        let files = listing(made(volume).expect("made"));
        let pairs: Vec<(&str, &str)> = files.iter().map(|(p, t, _)| (p.as_str(), t.as_str())).collect();
        assert_eq!(pairs, [("ca.crt", "1"), ("namespace", "ns"), ("token", "t0ken")]);
    }
}

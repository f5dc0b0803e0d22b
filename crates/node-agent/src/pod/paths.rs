//! Where the agent keeps a pod's files, in the kubelet's layout below the agent's own root.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

const VOLUMES: &str = "volumes";
const PARTS: &str = "volume-subpaths";

/// Files of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    /// `<root>/pods/<uid>`: everything that goes with the pod.
    pub dir: PathBuf,
    /// `<root>/logs/pods/<namespace>_<name>_<uid>`: logs of its containers.
    pub logs: PathBuf,
}

impl PodPaths {
    /// Paths of `pod` below the agent's root.
    pub fn new(root: &Path, pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let metadata = &pod.metadata;
        Self::of(root, &text(&metadata.namespace), &text(&metadata.name), &text(&metadata.uid))
    }

    /// Paths of a pod of which only the names are known.
    pub fn of(root: &Path, namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            dir: root.join("pods").join(uid),
            logs: root.join("logs/pods").join(format!("{namespace}_{name}_{uid}")),
        }
    }

    /// The hosts file that all containers of the pod share.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("etc-hosts")
    }

    /// A volume's directory.
    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.dir.join(VOLUMES).join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// The directories of all volumes and their parts.
    pub fn volumes(&self) -> [PathBuf; 2] {
        [VOLUMES, PARTS].map(|name| self.dir.join(name))
    }

    /// Where the part of a volume is mounted that a container's mount of this number shows.
    pub fn part(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.dir.join(PARTS).join(volume).join(container).join(index.to_string())
    }

    /// The termination message of one attempt.
    pub fn message(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir.join("containers").join(container).join(attempt.to_string())
    }

    /// The log of one attempt.
    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(super::config::log_path(container, attempt))
    }
}

//! Makes and removes volumes on disk: directories, tmpfs mounts, ownership. Driver.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use nix::mount::{MsFlags, mount};
use protos::cri;

use super::atomic;
use super::plan::{VolumePlan, VolumeSources, plan};
use super::sub_path;
use crate::pod::config;
use crate::pod::env_vars;
use crate::pod::paths::PodPaths;

/// Where each volume of a pod is on this node.
pub type Mounted = BTreeMap<String, PathBuf>;

/// Makes all volumes of `pod`, or brings their files up to date; the error is the FailedMount event's text.
pub fn mount_all(
    pod: &Pod,
    paths: &PodPaths,
    sources: &VolumeSources,
    stamp: &str,
) -> Result<Mounted, String> {
    let spec = pod.spec.as_ref();
    let group = spec.and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    let mut mounted = Mounted::new();
    for volume in spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let planned = plan(pod, volume, sources).map_err(|error| error.to_string())?;
        let path = make(paths, &volume.name, &planned, group, stamp)
            .map_err(|error| format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name))?;
        mounted.insert(volume.name.clone(), path);
    }
    Ok(mounted)
}

fn make(
    paths: &PodPaths,
    name: &str,
    planned: &VolumePlan,
    group: Option<u32>,
    stamp: &str,
) -> io::Result<PathBuf> {
    match planned {
        VolumePlan::EmptyDir { memory, size_limit } => {
            let dir = paths.volume("empty-dir", name);
            let fresh = !dir.exists();
            fs::create_dir_all(&dir)?;
            if *memory && !is_mount_point(&dir) {
                mount_tmpfs(&dir, *size_limit)?;
            }
            if fresh {
                share(&dir, group)?;
            }
            Ok(dir)
        }
        VolumePlan::Files { plugin, files } => {
            let dir = paths.volume(plugin, name);
            atomic::write(&dir, files, group, stamp)?;
            Ok(dir)
        }
        VolumePlan::HostPath { path, kind } => {
            check_host_path(Path::new(path), kind)?;
            Ok(PathBuf::from(path))
        }
    }
}

/// Writable by every container of the pod, whatever user it runs as; set-group-id where the pod has a group.
fn share(dir: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        chown(dir, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn mount_tmpfs(dir: &Path, size_limit: Option<i64>) -> io::Result<()> {
    let options = size_limit.map(|bytes| format!("size={bytes}"));
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options.as_deref()).map_err(io::Error::from)
}

/// A directory on another device than its parent.
fn is_mount_point(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    dir.parent().is_some_and(|parent| device(dir) != device(parent))
}

/// Runtimes create a missing source as a directory, so its type is checked (and made) here.
fn check_host_path(path: &Path, kind: &str) -> io::Result<()> {
    let wrong = |what: &str| {
        Err(io::Error::other(format!("hostPath type check failed: {} is not a {what}", path.display())))
    };
    let kind_of = fs::metadata(path).map(|metadata| metadata.file_type());
    match kind {
        "DirectoryOrCreate" if kind_of.is_err() => fs::create_dir_all(path),
        "FileOrCreate" if kind_of.is_err() => fs::write(path, b""),
        "Directory" | "DirectoryOrCreate" if !kind_of.as_ref().is_ok_and(|kind| kind.is_dir()) => {
            wrong("directory")
        }
        "File" | "FileOrCreate" if !kind_of.as_ref().is_ok_and(|kind| kind.is_file()) => wrong("file"),
        "Socket" if !kind_of.as_ref().is_ok_and(|kind| kind.is_socket()) => wrong("socket file"),
        "CharDevice" if !kind_of.as_ref().is_ok_and(|kind| kind.is_char_device()) => {
            wrong("character device")
        }
        "BlockDevice" if !kind_of.as_ref().is_ok_and(|kind| kind.is_block_device()) => wrong("block device"),
        _ => Ok(()),
    }
}

/// Bind mounts of a container's `volumeMounts`; the error makes the container wait with CreateContainerConfigError.
pub fn container_mounts(
    container: &Container,
    paths: &PodPaths,
    mounted: &Mounted,
    environment: &[(String, String)],
) -> Result<Vec<cri::Mount>, String> {
    let values = environment.iter().cloned().collect();
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let source = mounted.get(&wanted.name).ok_or_else(|| {
            format!("volume {} of the mount {} is not there", wanted.name, wanted.mount_path)
        })?;
        let source = match sub_path(wanted, &values) {
            None => source.clone(),
            Some(relative) => {
                let place = paths.part(&wanted.name, &container.name, index);
                sub_path::provide(source, &relative, &place).map_err(|error| {
                    format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                        wanted.name, container.name
                    )
                })?;
                place
            }
        };
        let mut mount = config::mount(&wanted.mount_path, source, wanted.read_only == Some(true));
        mount.propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer as i32,
            Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional as i32,
            _ => cri::MountPropagation::PropagationPrivate as i32,
        };
        mounts.push(mount);
    }
    Ok(mounts)
}

/// The path of the part of a volume that a mount shows; none: all of it.
fn sub_path(wanted: &VolumeMount, values: &BTreeMap<String, String>) -> Option<String> {
    let expanded = wanted.sub_path_expr.as_ref().map(|text| env_vars::expand(text, values));
    expanded.or_else(|| wanted.sub_path.clone()).filter(|path| !path.is_empty())
}

/// Unmounts what is mounted below the pod's directory and removes its volumes. Parts of volumes are mounted there: nothing
/// is removed while one still is.
pub fn remove_volumes(paths: &PodPaths) -> io::Result<()> {
    sub_path::unmount_below(&paths.dir)?;
    paths.volumes().iter().try_for_each(|dir| remove(dir))
}

/// The same, and removes everything else that is below the pod's directory.
pub fn remove_all(paths: &PodPaths) -> io::Result<()> {
    sub_path::unmount_below(&paths.dir)?;
    remove(&paths.dir)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

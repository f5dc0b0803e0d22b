//! Volumes of a pod: names, one source each, and the rules of the sources that are in use today.

use super::super::{shared, storage};
use super::env;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, quantity};
use serde_json::Value;
use std::collections::HashSet;

/// Volume sources in upstream's order; the first one set counts, the others are errors.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "configMap",
    "azureFile",
    "flexVolume",
    "vsphereVolume",
    "quobyte",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "scaleIO",
    "projected",
    "csi",
    "ephemeral",
    "image",
];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const FIELD_PATHS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const MAX_MODE: i64 = 0o777;
/// Shortest life of a projected token in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
/// Longest name of a CSI driver in bytes.
const MAX_DRIVER_NAME: usize = 63;

/// The volumes of a pod by name, for the checks of mounts.
pub(super) struct Volumes<'a>(&'a [Value]);

impl Volumes<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|v| v.text("name") == name)
    }

    pub(super) fn is(&self, name: &str, source: &str) -> bool {
        self.0.iter().any(|v| v.text("name") == name && v.has(source))
    }

    /// Whether the volume can be a block device.
    pub(super) fn is_block(&self, name: &str) -> bool {
        self.is(name, "persistentVolumeClaim") || self.is(name, "ephemeral")
    }
}

/// Checks all volumes of a spec.
pub(super) fn validate<'a>(spec: &'a Value, at: At<'_>, errors: &mut Errors) -> Volumes<'a> {
    let volumes = spec.items("volumes");
    let mut names: HashSet<&str> = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = at.index(i);
        let name = volume.text("name");
        source(volume, at, errors);
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else {
            errors.format(at.at("name"), name, format::dns1123_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(at.at("name"), name);
        }
    }
    Volumes(volumes)
}

fn source(volume: &Value, at: At<'_>, errors: &mut Errors) {
    let mut found = false;
    for kind in SOURCES.iter().filter(|kind| volume.at(kind).is_object()) {
        if found {
            let shown = if *kind == "downwardAPI" { "downwarAPI" } else { kind };
            errors.forbidden(at.at(shown), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        one(kind, volume.at(kind), at.at(kind), errors);
    }
    if !found {
        errors.required(at, "must specify a volume type");
    }
}

fn one(kind: &str, source: &Value, at: At<'_>, errors: &mut Errors) {
    let required = |field: &'static str, errors: &mut Errors| {
        if source.text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    };
    match kind {
        "emptyDir" if quantity(source.at("sizeLimit")).is_some_and(|q| q.is_negative()) => {
            errors.forbidden(at.at("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "hostPath" => host_path(source, at, errors),
        "gitRepo" => required("repository", errors),
        "secret" => {
            required("secretName", errors);
            keyed(source, at, errors);
        }
        "configMap" => {
            required("name", errors);
            keyed(source, at, errors);
        }
        "nfs" => nfs(source, at, errors),
        "persistentVolumeClaim" => required("claimName", errors),
        "downwardAPI" => downward(source, at, errors),
        "projected" => projected(source, at, errors),
        "csi" => driver_name(source.text("driver"), at.at("driver"), errors),
        "ephemeral" => ephemeral(source, at, errors),
        "image" => {
            required("reference", errors);
            errors.optional_of(
                at.at("pullPolicy"),
                source.text("pullPolicy"),
                &["Always", "IfNotPresent", "Never"],
            );
        }
        _ => {}
    }
}

fn host_path(source: &Value, at: At<'_>, errors: &mut Errors) {
    let path = source.text("path");
    if path.is_empty() {
        errors.required(at.at("path"), "");
    } else {
        no_back_steps(path, at.at("path"), errors);
    }
    let kind = source.text("type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(at.at("type"), kind, HOST_PATH_TYPES);
    }
}

fn nfs(source: &Value, at: At<'_>, errors: &mut Errors) {
    let path = source.text("path");
    if source.text("server").is_empty() {
        errors.required(at.at("server"), "");
    }
    if path.is_empty() {
        errors.required(at.at("path"), "");
    } else if !path.starts_with('/') {
        errors.invalid(at.at("path"), path, "must be an absolute path");
    }
}

/// A file mode between 0 and 0777.
fn validate_mode(mode: Option<i64>, at: At<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=MAX_MODE).contains(m)) {
        errors.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// Mode and items of a Secret or ConfigMap source.
fn keyed(source: &Value, at: At<'_>, errors: &mut Errors) {
    validate_mode(source.int_opt("defaultMode"), at.at("defaultMode"), errors);
    items(source, at, errors);
}

fn items(source: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("items");
    for (i, item) in source.items("items").iter().enumerate() {
        let at = list.index(i);
        if item.text("key").is_empty() {
            errors.required(at.at("key"), "");
        }
        file_path(item.text("path"), at.at("path"), errors);
        validate_mode(item.int_opt("mode"), at.at("mode"), errors);
    }
}

fn file_path(path: &str, at: At<'_>, errors: &mut Errors) {
    if path.is_empty() {
        errors.required(at, "");
    } else {
        not_reserved(path, at, errors);
    }
}

/// A relative path that stays below its root.
pub(super) fn descending(path: &str, at: At<'_>, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.invalid(at, path, "must be a relative path");
    }
    no_back_steps(path, at, errors);
}

/// A [`descending`] path that does not begin with the prefix that the node keeps for itself.
pub(super) fn not_reserved(path: &str, at: At<'_>, errors: &mut Errors) {
    descending(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.invalid(at, path, "must not start with '..'");
    }
}

fn no_back_steps(path: &str, at: At<'_>, errors: &mut Errors) {
    if path.split('/').any(|step| step == "..") {
        errors.invalid(at, path, "must not contain '..'");
    }
}

fn downward(source: &Value, at: At<'_>, errors: &mut Errors) {
    validate_mode(source.int_opt("defaultMode"), at.at("defaultMode"), errors);
    downward_items(source, at, errors);
}

fn downward_items(source: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("items");
    for (i, item) in source.items("items").iter().enumerate() {
        let at = list.index(i);
        file_path(item.text("path"), at.at("path"), errors);
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (true, both) => {
                env::field_ref(item.at("fieldRef"), FIELD_PATHS, at.at("fieldRef"), errors);
                if both {
                    let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.invalid(at, "resource", text);
                }
            }
            (false, true) => {
                env::resource_ref(item.at("resourceFieldRef"), true, at.at("resourceFieldRef"), errors);
            }
            (false, false) => errors.required(at, "one of fieldRef and resourceFieldRef is required"),
        }
        validate_mode(item.int_opt("mode"), at.at("mode"), errors);
    }
}

fn projected(source: &Value, at: At<'_>, errors: &mut Errors) {
    validate_mode(source.int_opt("defaultMode"), at.at("defaultMode"), errors);
    let list = at.at("sources");
    let mut paths: HashSet<&str> = HashSet::new();
    for (i, source) in source.items("sources").iter().enumerate() {
        let at = list.index(i);
        let mut found = false;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            if !source.at(kind).is_object() {
                continue;
            }
            if found {
                errors.forbidden(at, "may not specify more than 1 volume type per source");
            }
            found = true;
            projection(kind, source.at(kind), at.at(kind), errors);
            for path in projected_paths(kind, source.at(kind)) {
                if !path.is_empty() && !paths.insert(path) {
                    errors.invalid(list, path, "conflicting duplicate paths");
                }
            }
        }
    }
}

fn projected_paths<'a>(kind: &str, source: &'a Value) -> Vec<&'a str> {
    match kind {
        "secret" | "configMap" | "downwardAPI" => {
            source.items("items").iter().map(|i| i.text("path")).collect()
        }
        "podCertificate" => {
            ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|f| source.text(f)).to_vec()
        }
        _ => vec![source.text("path")],
    }
}

fn projection(kind: &str, source: &Value, at: At<'_>, errors: &mut Errors) {
    match kind {
        "secret" | "configMap" => {
            if source.text("name").is_empty() {
                errors.required(at.at("name"), "");
            }
            items(source, at, errors);
        }
        "downwardAPI" => downward_items(source, at, errors),
        "serviceAccountToken" => token(source, at, errors),
        "clusterTrustBundle" => trust_bundle(source, at, errors),
        "podCertificate" => {
            let none = projected_paths(kind, source).iter().all(|p| p.is_empty());
            if none {
                errors.required(
                    at,
                    "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
                );
            }
        }
        _ => {}
    }
}

fn token(source: &Value, at: At<'_>, errors: &mut Errors) {
    let at_seconds = at.at("expirationSeconds");
    match source.int_opt("expirationSeconds") {
        None => errors.required(at_seconds, ""),
        Some(n) if n < MIN_TOKEN_SECONDS => {
            errors.invalid(at_seconds, n, "may not specify a duration less than 10 minutes");
        }
        Some(n) if n > MAX_TOKEN_SECONDS => {
            errors.invalid(at_seconds, n, "may not specify a duration larger than 2^32 seconds");
        }
        Some(_) => {}
    }
    file_path(source.text("path"), at.at("path"), errors);
}

fn trust_bundle(source: &Value, at: At<'_>, errors: &mut Errors) {
    match (source.has("name"), source.has("signerName")) {
        (true, true) => errors.invalid(at, source.clone(), "only one of name and signerName may be used"),
        (false, false) => errors.required(at, "either name or signerName must be specified"),
        (true, false) if source.text("name").is_empty() => {
            errors.required(at.at("name"), "must be a valid object name");
        }
        (false, true) if source.text("signerName").is_empty() => {
            errors.required(at.at("signerName"), "must be a valid signer name");
        }
        _ => {}
    }
    file_path(source.text("path"), at.at("path"), errors);
}

/// The name of a CSI driver.
pub(in crate::kinds) fn driver_name(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
    }
    if name.len() > MAX_DRIVER_NAME {
        errors.too_long(at, MAX_DRIVER_NAME);
    }
    if !name.is_empty() {
        let lower = name.to_lowercase();
        errors.format(at, name, format::dns1123_subdomain(&lower));
    }
}

fn ephemeral(source: &Value, at: At<'_>, errors: &mut Errors) {
    let template = source.at("volumeClaimTemplate");
    let at = at.at("volumeClaimTemplate");
    if !template.is_object() {
        errors.required(at, "");
        return;
    }
    super::template_metadata(template, at, errors);
    storage::claim_spec(template.at("spec"), at.at("spec"), errors);
    let class = template.text("spec.storageClassName");
    if !class.is_empty() && errors.is_empty() {
        shared::required_subdomain(class, at.at("spec.storageClassName"), errors);
    }
}

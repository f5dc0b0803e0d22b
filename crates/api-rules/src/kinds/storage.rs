//! PersistentVolume, PersistentVolumeClaim, StorageClass, VolumeAttributesClass: what volumes are, and of which class.

use super::shared::{difference, repeated};
use super::{Kind, declared, pod, selector};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, quantity, remove, same, set};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "storage.k8s.io";
const SPEC: At<'static> = At::root("spec");
const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Fields of a PersistentVolume's spec that are no volume source.
const NO_SOURCE: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
/// Volume sources, in the order in which they are looked at.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// Secrets that a CSI driver is given, in the order in which they are looked at.
const CSI_SECRETS: &[&str] = &[
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];
const MAX_PARAMETERS: usize = 512;
/// Most bytes of all parameters together.
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

pub(super) static KINDS: &[Kind] = &[
    Kind {
        prepare_create: |claim| set(claim, "status", json!({"phase": "Pending"})),
        ..Kind::new("", "PersistentVolumeClaim").create(claim).update(claim_update)
    },
    Kind {
        prepare_create: |volume| {
            let now = volume.at("metadata.creationTimestamp").clone();
            set(volume, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
        },
        ..Kind::new("", "PersistentVolume").create(volume).update(volume_update)
    },
    Kind::new(GROUP, "StorageClass").create(class).update(class_update),
    Kind::new(GROUP, "VolumeAttributesClass").create(attributes).update(attributes_update),
];

fn claim(object: &Value, errors: &mut Errors) {
    claim_spec(object.at("spec"), SPEC, errors);
}

/// The spec of a claim, also in templates.
pub(super) fn claim_spec(spec: &Value, at: At<'_>, errors: &mut Errors) {
    access_modes(spec, at, errors);
    if spec.has("selector") {
        selector::validate(spec.at("selector"), at.at("selector"), errors);
    }
    let resources = at.at("resources");
    let storage = resources.key("storage");
    match quantity(spec.at("resources.requests").key("storage")) {
        None => errors.required(storage, ""),
        Some(amount) if amount.is_zero() || amount.is_negative() => {
            errors.invalid(storage, amount.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.format(at.at(field), name, format::dns1123_subdomain(name));
        }
    }
    errors.optional_of(at.at("volumeMode"), spec.text("volumeMode"), &["Block", "Filesystem"]);
    for field in ["dataSource", "dataSourceRef"] {
        if spec.has(field) {
            data_source(spec.at(field), at.at(field), errors);
        }
    }
    if spec.has("dataSource") && spec.has("dataSourceRef") {
        if !spec.text("dataSourceRef.namespace").is_empty() {
            let text = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(at, "dataSource", text);
        } else if !same(spec.at("dataSource"), spec.at("dataSourceRef")) {
            errors.invalid(at, "dataSource", "must match dataSourceRef");
        }
    }
}

fn access_modes(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("accessModes");
    let modes: Vec<&str> = spec.texts("accessModes").collect();
    if modes.is_empty() {
        errors.required(list, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter(|m| !MODES.contains(m)) {
        errors.not_supported(list, *mode, MODES);
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        errors.forbidden(list, "may not use ReadWriteOncePod with other access modes");
    }
}

fn data_source(source: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["name", "kind"] {
        if source.text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    let group = source.text("apiGroup");
    if group.is_empty() && source.text("kind") != "PersistentVolumeClaim" {
        let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(at, source.text("kind"), text);
    } else if !group.is_empty() {
        errors.format(at.at("apiGroup"), group, format::dns1123_subdomain(group));
    }
}

fn claim_update(new: &Value, old: &Value, errors: &mut Errors) {
    claim(new, errors);
    let (mut now, mut before) = (new.at("spec").clone(), old.at("spec").clone());
    let bound = old.text("status.phase") == "Bound";
    if before.text("volumeName").is_empty() {
        for spec in [&mut now, &mut before] {
            remove(spec, "volumeName");
        }
    }
    if bound {
        set(&mut now, "resources.requests", before.at("resources.requests").clone());
        set(&mut now, "volumeAttributesClassName", before.at("volumeAttributesClassName").clone());
    }
    // The controller assigns the default class once to claims without one.
    if !before.has("storageClassName") && now.has("storageClassName") {
        remove(&mut now, "storageClassName");
    }
    if !same(&now, &before) {
        let diff = difference(&before, &now);
        let text = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}"
        );
        errors.forbidden(SPEC, text);
    }
    shrunk(new, old, errors);
    errors.immutable(At::root("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    attributes_class(new, old, errors);
}

fn shrunk(new: &Value, old: &Value, errors: &mut Errors) {
    let of = |o: &Value| quantity(o.at("spec.resources.requests.storage"));
    let (Some(now), Some(before)) = (of(new), of(old)) else { return };
    let capacity = quantity(old.at("status.capacity.storage"));
    if now < before && capacity.is_none_or(|c| now <= c) {
        let text = "field can not be less than status.capacity";
        errors.forbidden(SPEC.at("resources.requests.storage"), text);
    }
}

fn attributes_class(new: &Value, old: &Value, errors: &mut Errors) {
    let current = old.has("status.currentVolumeAttributesClassName");
    let word = match new.at("spec.volumeAttributesClassName").as_str() {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return,
    };
    if current && old.has("spec.volumeAttributesClassName") {
        let text =
            format!("update to {word} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden(SPEC.at("volumeAttributesClassName"), text);
    }
}

fn sources(spec: &Value) -> Vec<(&str, &Value)> {
    spec.entries("").filter(|(key, value)| !NO_SOURCE.contains(key) && value.is_object()).collect()
}

fn volume(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    modes_of_volume(spec, SPEC, errors);
    capacity(spec, errors);
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let known = ["Delete", "Recycle", "Retain"];
    errors.optional_of(SPEC.at("persistentVolumeReclaimPolicy"), policy, &known);
    node_affinity(spec, errors);
    volume_sources(spec, SPEC, errors);
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.format(SPEC.at("storageClassName"), class, format::dns1123_subdomain(class));
    }
    errors.optional_of(SPEC.at("volumeMode"), spec.text("volumeMode"), &["Block", "Filesystem"]);
    attributes_class_of_volume(spec, SPEC, errors);
}

/// The spec of a volume that stands in a VolumeAttachment (upstream: `ValidatePersistentVolumeSpec`).
pub(super) fn inline_volume(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let text = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity"] {
        if spec.has(field) {
            errors.forbidden(at.at(field), text);
        }
    }
    if !spec.has("csi") {
        errors.required(at.at("csi"), "has to be specified in the context of inline volumes");
    }
    modes_of_volume(spec, at, errors);
    if !matches!(spec.text("persistentVolumeReclaimPolicy"), "" | "Retain") {
        let text = "may only be Retain in the context of inline volumes";
        errors.forbidden(at.at("persistentVolumeReclaimPolicy"), text);
    }
    if spec.has("nodeAffinity") {
        errors.forbidden(at.at("nodeAffinity"), text);
    }
    volume_sources(spec, at, errors);
    if !spec.text("storageClassName").is_empty() {
        errors.forbidden(at.at("storageClassName"), text);
    }
    if spec.has("volumeMode") && spec.text("volumeMode") != "Filesystem" {
        let text = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(at.at("volumeMode"), text);
    }
    attributes_class_of_volume(spec, at, errors);
}

fn modes_of_volume(spec: &Value, at: At<'_>, errors: &mut Errors) {
    if spec.items("accessModes").is_empty() {
        errors.required(at.at("accessModes"), "");
    } else {
        access_modes(spec, at, errors);
    }
}

fn attributes_class_of_volume(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let field = at.at("volumeAttributesClassName");
    match spec.at("volumeAttributesClassName").as_str() {
        None => return,
        Some("") => errors.required(field, "an empty string is disallowed"),
        Some(name) => errors.format(field, name, format::dns1123_subdomain(name)),
    }
    if !spec.has("csi") {
        errors.required(at.at("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

fn capacity(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("capacity");
    let mut entries = spec.entries("capacity").peekable();
    if entries.peek().is_none() {
        errors.required(at, "");
    }
    for (name, amount) in entries {
        if name != "storage" {
            errors.not_supported(at, name, &["storage"]);
        }
        let Some(amount) = quantity(amount) else { continue };
        if amount.is_zero() || amount.is_negative() {
            errors.invalid(at.key(name), amount.to_string(), "must be greater than zero");
        }
    }
}

/// What the volume is made of: one thing.
fn volume_sources(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let mut all = sources(spec);
    all.sort_by_key(|(name, _)| SOURCES.iter().position(|known| known == name));
    match all.first() {
        Some((name, source)) => volume_source(name, source, spec, at, errors),
        None => errors.required(at, "must specify a volume type"),
    }
    for (name, _) in all.iter().skip(1) {
        errors.forbidden(at.at(name), "may not specify more than 1 volume type");
    }
    if spec.text("hostPath.path") == "/" && spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        let text = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(at.at("persistentVolumeReclaimPolicy"), text);
    }
}

fn volume_source(name: &str, source: &Value, spec: &Value, spec_at: At<'_>, errors: &mut Errors) {
    let at = spec_at.at(name);
    let required: &[&str] = match name {
        "nfs" => &["server", "path"],
        "hostPath" | "local" => &["path"],
        "csi" => return csi_source(source, at, errors),
        _ => &[],
    };
    required_texts(source, required, at, errors);
    if name == "local" && !spec.has("nodeAffinity") {
        errors.required(spec_at.at("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn required_texts(object: &Value, fields: &[&str], at: At<'_>, errors: &mut Errors) {
    for field in fields.iter().filter(|field| object.text(field).is_empty()) {
        errors.required(at.at(field), "");
    }
}

fn csi_source(source: &Value, at: At<'_>, errors: &mut Errors) {
    pod::driver_name(source.text("driver"), at.at("driver"), errors);
    required_texts(source, &["volumeHandle"], at, errors);
    for secret in CSI_SECRETS.iter().filter(|secret| source.has(secret)) {
        required_texts(source.at(secret), &["name", "namespace"], at.at(secret), errors);
    }
}

fn node_affinity(spec: &Value, errors: &mut Errors) {
    if !spec.has("nodeAffinity") {
        return;
    }
    let at = SPEC.at("nodeAffinity");
    if spec.has("nodeAffinity.required") {
        pod::node_selector(spec.at("nodeAffinity.required"), at.at("required"), errors);
    } else {
        errors.required(at.at("required"), "must specify required node constraints");
    }
}

fn volume_update(new: &Value, old: &Value, errors: &mut Errors) {
    volume(new, errors);
    let (now, before) = (sources(new.at("spec")), sources(old.at("spec")));
    let kept =
        now.len() == before.len() && now.iter().zip(&before).all(|(a, b)| a.0 == b.0 && same(a.1, b.1));
    if !kept {
        let diff = difference(old.at("spec"), new.at("spec"));
        let text = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.forbidden(SPEC.at("persistentvolumesource"), text);
    }
    errors.immutable(At::root("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    let (now, before) = (new.at("spec.nodeAffinity"), old.at("spec.nodeAffinity"));
    if !before.is_null() && !same(now, before) {
        let text = "field is immutable, except for updating from beta label to GA";
        errors.invalid(At::root("nodeAffinity"), now.clone(), text);
    }
}

fn class(object: &Value, errors: &mut Errors) {
    declared::required(object.at("provisioner"), At::root("provisioner"), errors);
    provisioner(object.text("provisioner"), At::root("provisioner"), errors);
    parameters(object, errors);
    errors.optional_of(At::root("reclaimPolicy"), object.text("reclaimPolicy"), &["Delete", "Retain"]);
    let mode = object.text("volumeBindingMode");
    errors.one_of(At::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]);
    topologies(object.items("allowedTopologies"), errors);
}

fn provisioner(name: &str, at: At<'_>, errors: &mut Errors) {
    if !name.is_empty() {
        let lower = name.to_lowercase();
        errors.format(at, &lower, format::qualified_name(&lower));
    }
}

fn parameters(object: &Value, errors: &mut Errors) {
    let at = At::root("parameters");
    if object.entries("parameters").count() > MAX_PARAMETERS {
        return errors.too_long(at, MAX_PARAMETERS);
    }
    let mut total = 0;
    for (key, value) in object.entries("parameters") {
        if key.is_empty() {
            errors.invalid(at, key, "field can not be empty.");
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > MAX_PARAMETER_BYTES {
        errors.too_long(at, MAX_PARAMETER_BYTES);
    }
}

/// Where volumes of a class may be: terms that differ, of keys that differ.
fn topologies(terms: &[Value], errors: &mut Errors) {
    let list = At::root("allowedTopologies");
    let again = repeated(terms.iter().map(selected));
    for (i, term) in terms.iter().enumerate() {
        let at = list.index(i);
        let expressions_at = at.at("matchLabelExpressions");
        let expressions = term.items("matchLabelExpressions");
        let keys = repeated(expressions.iter().map(|expression| expression.text("key")));
        for (j, expression) in expressions.iter().enumerate() {
            topology(expression, keys[j], expressions_at.index(j), errors);
        }
        if again[i] {
            errors.duplicate(expressions_at, "");
        }
    }
}

/// What a term selects, in whatever order it says it.
fn selected(term: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    fn values(expression: &Value) -> BTreeSet<&str> {
        expression.texts("values").collect()
    }
    let expressions = term.items("matchLabelExpressions").iter();
    expressions.map(|expression| (expression.text("key"), values(expression))).collect()
}

fn topology(expression: &Value, again: bool, at: At<'_>, errors: &mut Errors) {
    let values = expression.items("values");
    let list = at.at("values");
    if values.is_empty() {
        errors.required(list, "");
    }
    let repeats = repeated(values.iter().map(Value::as_str));
    for (i, value) in values.iter().enumerate().filter(|(i, _)| repeats[*i]) {
        errors.duplicate(list.index(i), value.clone());
    }
    let key = expression.text("key");
    errors.format(at.at("key"), key, format::qualified_name(key));
    if again {
        errors.duplicate(at.at("key"), key);
    }
}

fn class_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fields = ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"];
    declared::unchanged(new, old, &fields, At::root(""), errors);
}

fn attributes(object: &Value, errors: &mut Errors) {
    let name = object.text("driverName");
    if name.is_empty() {
        errors.required(At::root("driverName"), "");
    }
    provisioner(name, At::root("driverName"), errors);
    parameters(object, errors);
    if object.entries("parameters").next().is_none() {
        errors.required(At::root("parameters"), "must contain at least one key/value pair");
    }
}

fn attributes_update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["driverName", "parameters"] {
        if !same(new.at(field), old.at(field)) {
            errors.forbidden(At::root(field), format!("updates to {field} are forbidden."));
        }
    }
    attributes(new, errors);
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> Value {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a", "namespace": "b"},
            "spec": spec});
        (rules_of("", "v1", "PersistentVolumeClaim").unwrap().default)(&mut claim);
        claim
    }

    #[test]
    fn claims() {
        let rules = rules_of("", "v1", "PersistentVolumeClaim").unwrap();
        let good =
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}));
        assert!((rules.validate)(&good).is_empty());
        let bad = claim(json!({"accessModes": ["Odd"], "resources": {"requests": {"storage": "0"}}}));
        let found: Vec<String> = (rules.validate)(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.accessModes: Unsupported value: \"Odd\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ]
        );
        let grown =
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}));
        let found = (rules.validate_update)(&grown, &good);
        assert!(found[0].detail.starts_with("spec is immutable after creation except"), "{found:?}");
        let mut bound = good.clone();
        bound["status"]["phase"] = json!("Bound");
        assert!((rules.validate_update)(&grown, &bound).is_empty());
    }

    #[test]
    fn classes_do_not_change() {
        let rules = rules_of("storage.k8s.io", "v1", "StorageClass").unwrap();
        let mut old = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "a"}, "provisioner": "p.io/x"});
        (rules.default)(&mut old);
        assert!((rules.validate)(&old).is_empty());
        let mut new = old.clone();
        new["provisioner"] = json!("q.io/x");
        let found: Vec<String> =
            (rules.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["provisioner: Invalid value: null: field is immutable"]);
    }
}

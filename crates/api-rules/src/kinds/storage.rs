//! PersistentVolume, PersistentVolumeClaim, StorageClass and the other storage kinds.

use super::shared::{difference, unchanged};
use super::{Kind, pod, selector};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, quantity, remove, same, set};
use crate::meta::NameFormat;
use serde_json::{Value, json};

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
    Kind::new(GROUP, "CSIDriver").names(NameFormat::Own).create(|o, errors| {
        pod::driver_name(o.text("metadata.name"), At::root("metadata.name"), errors);
    }),
    Kind::new(GROUP, "VolumeAttributesClass").update(|new, old, errors| {
        unchanged(new, old, &["driverName", "parameters"], At::root(""), errors);
    }),
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
    let modes: Vec<&str> = spec.items("accessModes").iter().filter_map(Value::as_str).collect();
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
    let modes = SPEC.at("accessModes");
    if spec.items("accessModes").is_empty() {
        errors.required(modes, "");
    } else {
        access_modes(spec, SPEC, errors);
    }
    capacity(spec, errors);
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let known = ["Delete", "Recycle", "Retain"];
    errors.optional_of(SPEC.at("persistentVolumeReclaimPolicy"), policy, &known);
    let all = sources(spec);
    if all.is_empty() {
        errors.required(SPEC, "must specify a volume type");
    }
    for (name, _) in all.iter().skip(1) {
        errors.forbidden(SPEC.at(name), "may not specify more than 1 volume type");
    }
    for (name, source) in &all {
        volume_source(name, source, spec, errors);
    }
    if spec.text("hostPath.path") == "/" && policy == "Recycle" {
        let text = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(SPEC.at("persistentVolumeReclaimPolicy"), text);
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.format(SPEC.at("storageClassName"), class, format::dns1123_subdomain(class));
    }
    errors.optional_of(SPEC.at("volumeMode"), spec.text("volumeMode"), &["Block", "Filesystem"]);
    node_affinity(spec, errors);
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

fn volume_source(name: &str, source: &Value, spec: &Value, errors: &mut Errors) {
    let at = SPEC.at(name);
    let required: &[&str] = match name {
        "nfs" => &["server", "path"],
        "hostPath" | "local" => &["path"],
        "csi" => &["volumeHandle"],
        _ => &[],
    };
    for field in required {
        if source.text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    if name == "csi" {
        pod::driver_name(source.text("driver"), at.at("driver"), errors);
    }
    if name == "local" && !spec.has("nodeAffinity") {
        errors.required(SPEC.at("nodeAffinity"), "Local volume requires node affinity");
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
    let provisioner = object.text("provisioner");
    if provisioner.is_empty() {
        errors.required(At::root("provisioner"), "");
    } else {
        let lower = provisioner.to_lowercase();
        errors.format(At::root("provisioner"), provisioner, format::qualified_name(&lower));
    }
    let at = At::root("parameters");
    let (mut count, mut total) = (0, 0);
    for (key, value) in object.entries("parameters") {
        if key.is_empty() {
            errors.invalid(at, key, "field can not be empty.");
        }
        count += 1;
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if count > MAX_PARAMETERS {
        errors.too_long(at, MAX_PARAMETERS);
    } else if total > MAX_PARAMETER_BYTES {
        errors.too_long(at, MAX_PARAMETER_BYTES);
    }
    let mode = object.text("volumeBindingMode");
    errors.one_of(At::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]);
    errors.optional_of(At::root("reclaimPolicy"), object.text("reclaimPolicy"), &["Delete", "Retain"]);
}

fn class_update(new: &Value, old: &Value, errors: &mut Errors) {
    unchanged(
        new,
        old,
        &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"],
        At::root(""),
        errors,
    );
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
        assert_eq!(found, ["provisioner: Invalid value: \"q.io/x\": field is immutable"]);
    }
}

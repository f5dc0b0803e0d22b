//! Label and field selectors, evaluated on stored bytes without decoding the object.

use api_rules::rules;
use api_types::codec::peek::{self, Peek};
use api_types::selector::{FieldSelector, LabelSelector};
use api_types::status::Status;
use api_types::table;
use mvcc::KeyValue;

use crate::catalog::{CustomKind, Kind};
use crate::info::Query;

/// Which objects of a kind are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    resource: Kind,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`. Whether the kind knows the fields says [`Self::check`].
    pub fn read(resource: &Kind, query: &Query) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.get("fieldSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self { resource: resource.clone(), labels, fields })
    }

    /// Whether the kind knows all the fields that are asked for.
    pub fn check(&self) -> Result<(), Status> {
        let mut fields = self.fields.requirements.iter();
        fields.try_for_each(|requirement| check_label(&self.resource, &requirement.field))
    }

    /// Whether fields are asked for, and the name is not this one.
    pub fn names_another(&self, name: &str) -> bool {
        !self.fields.is_empty() && self.name() != Some(name)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.matches_everything() && self.fields.is_empty()
    }

    /// The only name that can match, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The only namespace that can match, if there is one.
    pub fn namespace(&self) -> Option<&str> {
        self.fields.exact("metadata.namespace")
    }

    /// The kind, in the version that fields are asked for in.
    pub fn kind(&self) -> &Kind {
        &self.resource
    }

    /// Whether there are objects that [`Self::matches`] cannot judge before they are in the version of the kind, which
    /// takes a webhook.
    pub fn needs_version(&self) -> bool {
        let own = |field: &str| !matches!(field, "metadata.name" | "metadata.namespace");
        let mut fields = self.fields.requirements.iter();
        self.resource.is_converted() && fields.any(|requirement| own(&requirement.field))
    }

    /// Whether a stored object is wanted; one that cannot be read is, so that its error is seen, and one whose fields
    /// can be read in another version only, if its labels do ([`Self::needs_version`]).
    pub fn matches(&self, kv: &KeyValue) -> bool {
        if self.is_everything() {
            return true;
        }
        let Ok(object) = peek::open(&kv.value) else { return true };
        self.match_labels(&object)
            && (self.is_in_other_version(&object)
                || self.fields.matches(|label| field(&self.resource, &object, label)))
    }

    fn is_in_other_version(&self, object: &Peek<'_>) -> bool {
        let is_other = |kind: &CustomKind| kind.resource.api_version() != object.api_version();
        self.needs_version() && self.resource.custom().is_some_and(|kind| is_other(kind))
    }

    fn match_labels(&self, object: &Peek<'_>) -> bool {
        if self.labels.matches_everything() {
            return true;
        }
        let labels = object.labels();
        self.labels.matches(|key| labels.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_ref()))
    }
}

/// Whether the kind knows a field label; otherwise the 400 that its conversion gives upstream.
fn check_label(kind: &Kind, label: &str) -> Result<(), Status> {
    let resource = match kind {
        Kind::BuiltIn(resource) => resource,
        Kind::Custom(custom) => return check_custom_label(custom, label),
    };
    let supported = rules(resource).supported_field_labels;
    if supported.contains(&label) || matches!(label, "metadata.name") {
        return Ok(());
    }
    let plain = supported.iter().all(|label| matches!(*label, "metadata.name" | "metadata.namespace"));
    if label == "metadata.namespace" && plain {
        return Ok(());
    }
    Err(Status::bad_request(match (resource.group.as_str(), resource.kind.as_str()) {
        ("batch", "Job") => format!("field label \"{label}\" not supported for Job"),
        ("resource.k8s.io", "ResourceSlice") => {
            let api_version = table::api_version(&resource.group, &resource.version);
            format!("field label not supported for {api_version}, Kind=ResourceSlice: {label}")
        }
        ("", "Namespace") => format!("field label not supported: {label}"),
        _ if plain => {
            format!(
                "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        }
        _ => format!("field label not supported: {label}"),
    }))
}

fn check_custom_label(kind: &CustomKind, label: &str) -> Result<(), Status> {
    let own = ["metadata.name", "metadata.namespace"];
    if own.contains(&label) || kind.rules.selectable().any(|field| field == label) {
        return Ok(());
    }
    Err(Status::bad_request(format!("field label not supported: {label}")))
}

/// The value that a field label stands for in a stored object.
fn field(kind: &Kind, object: &Peek<'_>, label: &str) -> Option<String> {
    let resource = match kind {
        Kind::BuiltIn(resource) => resource,
        Kind::Custom(_) => return custom_field(object, label),
    };
    let scalar = |path: &str| {
        let path: Vec<&str> = path.split('.').collect();
        object.scalar(&path).map(|text| text.into_owned())
    };
    let or = |path: &str, absent: &str| Some(scalar(path).unwrap_or_else(|| absent.to_owned()));
    match (resource.kind.as_str(), label) {
        (_, "metadata.name") => Some(object.name().into_owned()),
        (_, "metadata.namespace") => Some(object.namespace().into_owned()),
        ("Pod", "spec.host") => scalar("spec.nodeName"),
        ("Pod", "status.podIPs") => None,
        ("Pod", "spec.hostNetwork") => or("spec.hostNetwork", "false"),
        ("Node", "spec.unschedulable") => or("spec.unschedulable", "false"),
        ("ReplicationController", "status.replicas") => or("status.replicas", "0"),
        ("Job", "status.successful") => or("status.succeeded", "0"),
        ("Event", "source") => scalar("source.component")
            .filter(|text| !text.is_empty())
            .or_else(|| scalar("reportingComponent")),
        ("Event", "reportingController") => scalar("reportingComponent"),
        ("Event", label) => scalar(&label.replacen("regarding.", "involvedObject.", 1)),
        (_, label) => scalar(label),
    }
}

/// Selectable fields are plain paths.
fn custom_field(object: &Peek<'_>, label: &str) -> Option<String> {
    match label {
        "metadata.name" => Some(object.name().into_owned()),
        "metadata.namespace" => Some(object.namespace().into_owned()),
        path => object.scalar(&path.split('.').collect::<Vec<_>>()).map(|text| text.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert;
    use api_types::Resource;
    use serde_json::json;

    fn select(resource: &'static Resource, query: &str) -> Result<Selection, Status> {
        let selection = Selection::read(&Kind::from(resource), &Query::parse(query))?;
        selection.check().map(|()| selection)
    }

    fn pod() -> KeyValue {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"}});
        let value = convert::encode(table::find("", "v1", "pods").unwrap(), &pod).unwrap();
        KeyValue { value: value.into(), ..KeyValue::default() }
    }

    #[test]
    fn selectors_read_stored_bytes() {
        let pods = table::find("", "v1", "pods").unwrap();
        for (query, wanted) in [
            ("labelSelector=app%3Dweb", true),
            ("labelSelector=app+in+(x,y)", false),
            ("fieldSelector=spec.nodeName%3Da", true),
            ("fieldSelector=spec.nodeName!%3Da", false),
            ("fieldSelector=status.phase%3DRunning,metadata.name%3Dp", true),
            ("fieldSelector=spec.hostNetwork%3Dfalse", true),
        ] {
            assert_eq!(select(pods, query).unwrap().matches(&pod()), wanted, "{query}");
        }
    }

    #[test]
    fn unknown_labels_are_refused_in_upstreams_words() {
        let text = |resource, query| select(resource, query).unwrap_err().message;
        let pods = table::find("", "v1", "pods").unwrap();
        assert_eq!(text(pods, "fieldSelector=spec.foo%3Da"), "field label not supported: spec.foo");
        let maps = table::find("", "v1", "configmaps").unwrap();
        assert_eq!(
            text(maps, "fieldSelector=data.k%3Da"),
            "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert!(text(pods, "labelSelector=%2C%2C").starts_with("found ',', expected: "));
    }
}

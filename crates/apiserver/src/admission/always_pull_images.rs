//! AlwaysPullImages: nobody runs an image that a node has because somebody else may pull it: every start of a container
//! asks the image's registry again.

use api_rules::look::{Look, items_mut};
use api_types::Value;
use api_types::field::{FieldError, Path};
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

const ALWAYS: &str = "Always";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Now(check) };

fn admit(_: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if is_meant(attributes, pod) {
        pull_always(pod);
    }
    Ok(())
}

fn check(_: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !is_meant(attributes, pod) {
        return Ok(());
    }
    let refused = |fault: &FieldError| attributes.target.forbidden(&fault.to_string()).message;
    // Upstream's refusals lose their code when they are put together.
    match faults(pod).iter().map(refused).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        [one] => Err(Status::unknown(one.clone())),
        many => Err(Status::unknown(format!("[{}]", many.join(", ")))),
    }
}

/// Whether the request is about pods, and may bring new images.
fn is_meant(attributes: &Attributes<'_>, pod: &Value) -> bool {
    attributes.is("", "pods")
        && match attributes.operation {
            Operation::Create => true,
            Operation::Update => attributes.old.is_none_or(|old| has_new_image(pod, old)),
            Operation::Delete | Operation::Connect => false,
        }
}

fn images(pod: &Value) -> Vec<&str> {
    let spec = pod.at("spec");
    LISTS.iter().flat_map(|list| spec.items(list)).map(|container| container.text("image")).collect()
}

fn has_new_image(pod: &Value, old: &Value) -> bool {
    let known = images(old);
    images(pod).iter().any(|image| !known.contains(image))
}

fn pull_always(pod: &mut Value) {
    for list in LISTS {
        for container in items_mut(pod, &format!("spec.{list}")).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.insert("imagePullPolicy".to_owned(), ALWAYS.into());
            }
        }
    }
    for volume in items_mut(pod, "spec.volumes").into_iter().flatten() {
        if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
            image.insert("pullPolicy".to_owned(), ALWAYS.into());
        }
    }
}

/// What is not always pulled.
fn faults(pod: &Value) -> Vec<FieldError> {
    let (spec, path) = (pod.at("spec"), Path::new("spec"));
    let mut faults = Vec::new();
    let mut check = |path: Path, policy: &str| {
        if policy != ALWAYS {
            faults.push(FieldError::not_supported(&path, policy, &[ALWAYS]));
        }
    };
    for list in LISTS {
        for (index, container) in spec.items(list).iter().enumerate() {
            let path = path.child(list).index(index).child("imagePullPolicy");
            check(path, container.text("imagePullPolicy"));
        }
    }
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        if volume.has("image") {
            let path = path.child("volumes").index(index).child("image").child("pullPolicy");
            check(path, volume.text("image.pullPolicy"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_image_is_pulled_at_every_start() {
        let mut pod = json!({"spec": {
            "containers": [{"image": "a", "imagePullPolicy": "IfNotPresent"}, {"image": "b"}],
            "initContainers": [{"image": "c", "imagePullPolicy": "Never"}],
            "ephemeralContainers": [{"image": "d"}],
            "volumes": [{"emptyDir": {}}, {"image": {"reference": "e", "pullPolicy": "Never"}}]}});
        let told: Vec<String> = faults(&pod).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 5);
        assert_eq!(
            told[0],
            "spec.initContainers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
        assert_eq!(
            told[4],
            "spec.volumes[1].image.pullPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
        pull_always(&mut pod);
        assert!(faults(&pod).is_empty());
        assert_eq!(pod["spec"]["volumes"][0], json!({"emptyDir": {}}));
    }

    #[test]
    fn an_update_without_new_images_is_left_alone() {
        let pod = |images: &[&str]| {
            let containers: Vec<Value> = images.iter().map(|image| json!({"image": image})).collect();
            json!({"spec": {"containers": containers}})
        };
        assert!(!has_new_image(&pod(&["b", "a"]), &pod(&["a", "b", "c"])));
        assert!(has_new_image(&pod(&["a", "d"]), &pod(&["a", "b"])));
    }
}

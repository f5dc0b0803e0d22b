//! PodTopologyLabels: a pod on a node has the labels that say in which zone and region the node is (KEP-4742).

use api_types::status::Status;
use api_types::{Value, meta};

use super::{Admit, Attributes, Check, Operation, Plugin, lookup};
use crate::api::Api;
use crate::storage::View;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(api: &Api, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    let own = &attributes.target.resource;
    let pods = own.group.is_empty() && own.resource == "pods";
    if !pods || attributes.operation != Operation::Create {
        return Ok(());
    }
    let node = match attributes.subresource {
        "" => &object["spec"]["nodeName"],
        "binding" if object["target"]["kind"] == "Node" => &object["target"]["name"],
        _ => return Ok(()),
    };
    match node.as_str().unwrap_or_default().to_owned().as_str() {
        "" => Ok(()),
        node => label(&api.storage.view(), object, node),
    }
}

fn label(view: &View, object: &mut Value, node: &str) -> Result<(), Status> {
    let Some(node) = lookup::get(view, lookup::NODES, "", node)? else { return Ok(()) };
    for key in LABELS {
        if let Some(value) = meta::label(&node, key) {
            meta::set_label(object, key, value);
        }
    }
    Ok(())
}

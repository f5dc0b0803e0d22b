//! The CNI configuration of the node: a bridge with addresses of its pod networks, and host ports.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Value, json};

/// Named so that it comes first in the directory.
const FILE: &str = "10-trierarch.conflist";
/// The bridge that pods hang on.
pub(crate) const BRIDGE: &str = "cni0";

/// `spec.podCIDRs` of a node.
pub(crate) fn pod_networks(node: &Value) -> Vec<IpNet> {
    let many = node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let found: Vec<IpNet> = many.filter_map(|text| text.parse().ok()).collect();
    if found.is_empty() {
        return node["spec"]["podCIDR"].as_str().and_then(|text| text.parse().ok()).into_iter().collect();
    }
    found
}

/// The configuration as CNI 0.4 has it. The bridge plugin adds the default route by itself: a second one is an error.
fn conflist(root: &Path, networks: &[IpNet]) -> Value {
    let ranges: Vec<Value> =
        networks.iter().map(|network| json!([{"subnet": network.to_string()}])).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "trierarch",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
                "ipam": {"type": "host-local", "dataDir": root.join("cni-leases"), "ranges": ranges},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Writes the configuration if it is not there yet; the runtime reads it at once or never in parts.
pub(crate) fn write(dir: &Path, root: &Path, networks: &[IpNet]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let text = conflist(root, networks).to_string();
    let file = dir.join(FILE);
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let staged = dir.join(format!(".{FILE}"));
    fs::write(&staged, text)?;
    fs::rename(staged, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_pod_networks() {
        let node = json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]}});
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), Path::new("/r"), &pod_networks(&node)).expect("written");
        let text = fs::read_to_string(dir.path().join(FILE)).expect("the file");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["plugins"][0]["ipam"]["ranges"][1][0]["subnet"], "fd00::/64");
        assert_eq!(value["plugins"][0]["ipam"]["dataDir"], "/r/cni-leases");
    }
}

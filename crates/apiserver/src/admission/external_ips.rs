//! DenyServiceExternalIPs: a Service gets no external addresses that it does not have yet: whoever may make Services
//! could take over the traffic to any address with them (CVE-2020-8554).

use api_rules::look::Look;
use api_types::Value;
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(_: &Api, attributes: &Attributes<'_>, service: &Value) -> Result<(), Status> {
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !written || !attributes.is("", "services") || !has_new(service, attributes.old) {
        return Ok(());
    }
    Err(attributes.target.forbidden("Use of external IPs is denied by admission control"))
}

/// Whether a Service has an address that the old one does not have.
fn has_new(service: &Value, old: Option<&Value>) -> bool {
    let known = old.map(|old| old.items("spec.externalIPs")).unwrap_or_default();
    service.items("spec.externalIPs").iter().any(|address| !known.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_may_stay_and_go() {
        let service = |addresses: &[&str]| json!({"spec": {"externalIPs": addresses}});
        assert!(!has_new(&json!({"spec": {}}), None));
        assert!(has_new(&service(&["192.0.2.1"]), None));
        let old = service(&["192.0.2.1", "192.0.2.2"]);
        assert!(!has_new(&service(&["192.0.2.2"]), Some(&old)));
        assert!(has_new(&service(&["192.0.2.2", "192.0.2.3"]), Some(&old)));
        assert!(has_new(&service(&["192.0.2.1"]), Some(&json!({"spec": {}}))));
    }
}

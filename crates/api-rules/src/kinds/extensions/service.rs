//! APIService: groups and versions that other servers answer for.

use crate::errors::{At, Errors};
use crate::format;
use crate::kinds::Kind;
use crate::look::Look;
use crate::meta::NameFormat;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const SPEC: At<'static> = At::root("spec");

pub(super) const KIND: Kind = Kind::new("apiregistration.k8s.io", "APIService")
    .names(NameFormat::Own)
    .create(api_service)
    .update(|new, _, errors| api_service(new, errors))
    .status(api_service_status);

fn api_service(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let wanted = format!("{version}.{group}");
    let name = object.text("metadata.name");
    let problems = format::path_segment(name);
    each(name, &problems, At::root("metadata.name"), errors);
    if problems.is_empty() && name != wanted {
        let text = format!("must be `spec.version+\".\"+spec.group`: {}", api_types::field::quote(&wanted));
        errors.invalid(At::root("metadata.name"), name, text);
    }
    if group.is_empty() && version != "v1" {
        errors.required(SPEC.at("group"), "only v1 may have an empty group and it better be legacy kube");
    } else if !group.is_empty() {
        each(group, &format::dns1123_subdomain(group), SPEC.at("group"), errors);
    }
    each(version, &format::dns1035_label(version), SPEC.at("version"), errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let value = spec.int(field);
        if value <= 0 || value > most {
            errors.invalid(SPEC.at(field), value, format!("must be positive and less than {most}"));
        }
    }
    if !spec.has("service") {
        local_service(spec, errors);
        return;
    }
    let at = SPEC.at("service");
    for field in ["namespace", "name"] {
        if spec.at("service").text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    let port = spec.int("service.port");
    let problems = format::port_number(port);
    if !problems.is_empty() {
        errors.invalid(at.at("port"), port, format!("port is not valid: {}", problems.join(", ")));
    }
    if spec.flag("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
        errors.invalid(SPEC.at("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

/// An error for each problem.
fn each(value: &str, problems: &[String], at: At<'_>, errors: &mut Errors) {
    problems.iter().for_each(|problem| errors.invalid(at, value, problem.clone()));
}

fn api_service_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = At::root("status.conditions");
    for (i, condition) in new.items("status.conditions").iter().enumerate() {
        let status = condition.text("status");
        if !["True", "False", "Unknown"].contains(&status) {
            let at = at.index(i);
            errors.not_supported(at.at("status"), status, &["False", "True", "Unknown"]);
        }
    }
}

fn local_service(spec: &Value, errors: &mut Errors) {
    if !spec.text("caBundle").is_empty() {
        let text = "local APIServices may not have a caBundle";
        let bytes = STANDARD.decode(spec.text("caBundle")).map_or(0, |bundle| bundle.len());
        errors.invalid(SPEC.at("caBundle"), format!("{bytes} bytes"), text);
    }
    if spec.flag("insecureSkipTLSVerify") {
        let text = "local APIServices may not have insecureSkipTLSVerify";
        errors.invalid(SPEC.at("insecureSkipTLSVerify"), true, text);
    }
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::json;

    #[test]
    fn statuses_of_api_services() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let of = |status: &str| {
            let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b", "resourceVersion": "1"},
                "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100},
                "status": {"conditions": [{"type": "Available", "status": status}]}});
            (rules.validate_status_update)(&service, &service)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(of("True").is_empty() && of("Unknown").is_empty());
        assert_eq!(
            of("Maybe"),
            [
                "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\""
            ]
        );
    }

    #[test]
    fn local_api_services_trust_nobody() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b"},
            "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": "YWJj"}});
        let found: Vec<String> = (rules.validate)(&service).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle"]
        );
    }

    #[test]
    fn api_services() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let of = |name: &str| {
            let mut service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
                "spec": {"group": "metrics.k8s.io", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "service": {"namespace": "a", "name": "b"}}});
            (rules.default)(&mut service);
            (rules.validate)(&service).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(of("v1.metrics.k8s.io").is_empty());
        assert_eq!(
            of("x"),
            [
                "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.metrics.k8s.io\""
            ]
        );
    }
}

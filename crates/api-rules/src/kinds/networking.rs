//! Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR.

use super::shared::unchanged;
use super::{Kind, declared, selector};
use crate::errors::{At, Errors, IMMUTABLE};
use crate::format;
use crate::look::Look;
use crate::meta::NameFormat;
use serde_json::{Value, json};

const GROUP: &str = "networking.k8s.io";
const SPEC: At<'static> = At::root("spec");
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: &[&str] = &["/..", "/."];
/// Longest name of an ingress controller in bytes.
const MAX_CONTROLLER: usize = 250;

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "Ingress").create(ingress_create).update(|new, _, errors| ingress(new, errors)),
    Kind::new(GROUP, "IngressClass").create(class).update(class_update),
    Kind::new(GROUP, "NetworkPolicy").create(policy).update(|new, _, errors| policy(new, errors)),
    Kind::new(GROUP, "IPAddress").names(NameFormat::Own).create(ip_address).update(|new, old, errors| {
        declared::unchanged(new.at("spec"), old.at("spec"), &["parentRef"], SPEC, errors);
    }),
    Kind::new(GROUP, "ServiceCIDR").create(service_cidr).update(service_cidr_update),
];

fn ingress_create(object: &Value, errors: &mut Errors) {
    let old = object.at("metadata.annotations").key(CLASS_ANNOTATION).as_str();
    let new = object.at("spec.ingressClassName").as_str();
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let at = At::root("metadata.annotations");
        errors.invalid(
            at.key(CLASS_ANNOTATION),
            old,
            "must match `ingressClassName` when both are specified",
        );
    }
    ingress(object, errors);
}

fn ingress(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let list = SPEC.at("rules");
    let rules = spec.items("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        errors.invalid(SPEC, spec.clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(spec.at("defaultBackend"), SPEC.at("defaultBackend"), errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        host(rule.text("host"), at.at("host"), errors);
        let http = at.at("http");
        let paths_at = http.at("paths");
        let paths = rule.items("http.paths");
        if rule.has("http") && paths.is_empty() {
            errors.required(paths_at, "");
        }
        for (j, one) in paths.iter().enumerate() {
            path(one, paths_at.index(j), errors);
        }
    }
    let list = SPEC.at("tls");
    for (i, tls) in spec.items("tls").iter().enumerate() {
        let at = list.index(i);
        let hosts = at.at("hosts");
        for (j, name) in tls.items("hosts").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            errors.format(hosts.index(j), name, host_problems(name));
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() {
            errors.format(at.at("secretName"), secret, format::dns1123_subdomain(secret));
        }
    }
    let class = spec.text("ingressClassName");
    if spec.has("ingressClassName") {
        errors.format(SPEC.at("ingressClassName"), class, format::dns1123_subdomain(class));
    }
}

fn host_problems(name: &str) -> format::Problems {
    if name.contains('*') { format::wildcard_subdomain(name) } else { format::dns1123_subdomain(name) }
}

fn host(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return;
    }
    if format::parse_ip(name).is_some() {
        errors.invalid(at, name, "must be a DNS name, not an IP address");
    }
    errors.format(at, name, host_problems(name));
}

fn path(path: &Value, at: At<'_>, errors: &mut Errors) {
    let text = path.text("path");
    let path_at = at.at("path");
    match path.text("pathType") {
        "" => errors.required(at.at("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(path_at, text, "must be an absolute path");
            }
            for sequence in BAD_SEQUENCES.iter().filter(|s| text.contains(**s)) {
                errors.invalid(path_at, text, format!("must not contain '{sequence}'"));
            }
            for suffix in BAD_SUFFIXES.iter().filter(|s| text.ends_with(**s)) {
                errors.invalid(path_at, text, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(path_at, text, "must be an absolute path");
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.not_supported(at.at("pathType"), other, &known);
        }
    }
    backend(path.at("backend"), at.at("backend"), errors);
}

fn backend(backend: &Value, at: At<'_>, errors: &mut Errors) {
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    match (service.is_object(), resource.is_object()) {
        (true, true) => return errors.invalid(at, "", "cannot set both resource and service backends"),
        (false, false) => return errors.required(at, "resource or service backend is required"),
        (false, true) => {
            for field in ["kind", "name"] {
                if resource.text(field).is_empty() {
                    errors.required(at.at("resource").at(field), "");
                }
            }
            return;
        }
        (true, false) => {}
    }
    let service_at = at.at("service");
    let name = service.text("name");
    if name.is_empty() {
        errors.required(service_at.at("name"), "");
    } else {
        errors.format(service_at.at("name"), name, format::dns1123_label(name));
    }
    let (port, number) = (service.text("port.name"), service.int("port.number"));
    let port_at = service_at.at("port");
    match (port.is_empty(), number) {
        (true, 0) => errors.required(service_at, "port name or number is required"),
        (true, n) => {
            for problem in format::port_number(n) {
                errors.invalid(port_at.at("number"), n, problem);
            }
        }
        (false, 0) => errors.format(port_at.at("name"), port, format::port_name(port)),
        (false, _) => errors.invalid(service_at, "", "cannot set both port name & port number"),
    }
}

fn class(object: &Value, errors: &mut Errors) {
    let controller = object.text("spec.controller");
    let at = SPEC.at("controller");
    if controller.len() > MAX_CONTROLLER {
        errors.too_long(at, MAX_CONTROLLER);
    }
    errors.format(at, controller, format::domain_prefixed_path(controller));
    let parameters = object.at("spec.parameters");
    if !parameters.is_object() {
        return;
    }
    let at = SPEC.at("parameters");
    for field in ["kind", "name"] {
        if parameters.text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    let scope = parameters.text("scope");
    errors.one_of(at.at("scope"), scope, &["Cluster", "Namespace"]);
    match (scope, parameters.has("namespace")) {
        ("Namespace", false) => {
            errors.required(at.at("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        ("Cluster", true) => errors.forbidden(at.at("namespace"), "`parameters.scope` is set to 'Cluster'"),
        _ => {}
    }
}

fn class_update(new: &Value, old: &Value, errors: &mut Errors) {
    class(new, errors);
    unchanged(new.at("spec"), old.at("spec"), &["controller"], SPEC, errors);
}

fn policy(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    selector::validate(spec.at("podSelector"), SPEC.at("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = SPEC.at(direction);
        for (i, rule) in spec.items(direction).iter().enumerate() {
            let at = list.index(i);
            let ports = at.at("ports");
            for (j, port) in rule.items("ports").iter().enumerate() {
                policy_port(port, ports.index(j), errors);
            }
            let peers_at = at.at(peers);
            for (j, one) in rule.items(peers).iter().enumerate() {
                peer(one, peers_at.index(j), errors);
            }
        }
    }
    let types = spec.items("policyTypes");
    let at = SPEC.at("policyTypes");
    if types.len() > 2 {
        errors.invalid(at, Value::Array(types.to_vec()), "may not specify more than two policyTypes");
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            errors.not_supported(at.index(i), kind.clone(), &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(port: &Value, at: At<'_>, errors: &mut Errors) {
    errors.optional_of(at.at("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    let number = port.at("port");
    let end = port.int_opt("endPort");
    match (number, end) {
        (Value::Null, Some(n)) => {
            errors.invalid(at.at("endPort"), n, "may not be specified when `port` is not specified");
        }
        (Value::Null, None) => {}
        (Value::String(_), end) => {
            if let Some(n) = end {
                errors.invalid(at.at("endPort"), n, "may not be specified when `port` is non-numeric");
            }
            super::pod::port_number_or_name(number, at.at("port"), errors);
        }
        (number, end) => {
            super::pod::port_number_or_name(number, at.at("port"), errors);
            let Some(n) = end else { return };
            if n < number.as_i64().unwrap_or(0) {
                errors.invalid(at.at("endPort"), n, "must be greater than or equal to `port`");
            }
            for problem in format::port_number(n) {
                errors.invalid(at.at("endPort"), n, problem);
            }
        }
    }
}

fn peer(peer: &Value, at: At<'_>, errors: &mut Errors) {
    let mut set = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            set += 1;
            selector::validate(peer.at(field), at.at(field), errors);
        }
    }
    if peer.has("ipBlock") {
        set += 1;
        ip_block(peer.at("ipBlock"), at.at("ipBlock"), errors);
    }
    if set == 0 {
        errors.required(at, "must specify a peer");
    } else if set > 1 && peer.has("ipBlock") {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Value, at: At<'_>, errors: &mut Errors) {
    let whole = block.text("cidr");
    if whole.is_empty() {
        errors.required(at.at("cidr"), "");
        return;
    }
    let problems = format::cidr(whole);
    let good = problems.is_empty();
    errors.format(at.at("cidr"), whole, problems);
    let list = at.at("except");
    for (i, part) in block.items("except").iter().enumerate() {
        let part = part.as_str().unwrap_or("");
        let problems = format::cidr(part);
        let inside = || {
            let (whole, part) = (whole.parse::<ipnet::IpNet>(), part.parse::<ipnet::IpNet>());
            matches!((whole, part), (Ok(w), Ok(p)) if w.contains(&p) && p.prefix_len() > w.prefix_len())
        };
        if good && problems.is_empty() && !inside() {
            errors.invalid(list.index(i), part, "must be a strict subset of `cidr`");
        }
        errors.format(list.index(i), part, problems);
    }
}

fn ip_address(object: &Value, errors: &mut Errors) {
    let name = object.text("metadata.name");
    let canonical = name.parse::<std::net::IpAddr>().map(|ip| ip.to_string());
    match canonical {
        Err(_) => errors.invalid(
            At::root("metadata.name"),
            name,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        Ok(text) if text != name => {
            errors.invalid(
                At::root("metadata.name"),
                name,
                format!("must be in canonical form (\"{text}\")"),
            );
        }
        Ok(_) => {}
    }
    let (at, parent) = (SPEC.at("parentRef"), object.at("spec.parentRef"));
    if !declared::required(parent, at, errors) {
        return;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        errors.format(at.at("group"), group, format::dns1123_subdomain(group));
    }
    for field in ["resource", "name"] {
        declared::required(parent.at(field), at.at(field), errors);
    }
    for field in ["resource", "name", "namespace"] {
        let name = parent.text(field);
        errors.format(at.at(field), name, format::path_segment(name));
    }
}

fn service_cidr(object: &Value, errors: &mut Errors) {
    ranges(object.items("spec.cidrs"), errors);
}

/// One range, or one of each family.
fn ranges(ranges: &[Value], errors: &mut Errors) {
    let at = SPEC.at("cidrs");
    if ranges.is_empty() {
        return errors.required(at, "at least one CIDR required");
    }
    if ranges.len() > 2 {
        return errors.invalid(at, json!({"CIDRs": ranges}), "may only hold up to 2 values");
    }
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or("");
        errors.format(at.index(i), range, format::strict_cidr(range));
    }
    let family = |range: &Value| format::parse_cidr(range.as_str()?).map(|net| net.addr().is_ipv4());
    if let [first, second] = ranges
        && family(first).is_some_and(|known| family(second) == Some(known))
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(at, Value::from(ranges), text);
    }
}

/// Ranges stay; one of the other family may be added.
fn service_cidr_update(new: &Value, old: &Value, errors: &mut Errors) {
    let at = SPEC.at("cidrs");
    let (new, old) = (new.items("spec.cidrs"), old.items("spec.cidrs"));
    let added = old.len() == 1 && new.len() == 2;
    if new.len() != old.len() && !added {
        return errors.invalid(at, Value::from(new), IMMUTABLE);
    }
    for (i, (now, _)) in new.iter().zip(old).enumerate().filter(|(_, (now, before))| now != before) {
        errors.invalid(at.index(i), now.clone(), IMMUTABLE);
    }
    if added {
        ranges(new, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{check_created, check_updated, defaulted};
    use crate::rules_of;
    use serde_json::{Value, json};

    fn check(kind: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": kind, "metadata": {"name": "a", "namespace": "b"}, "spec": spec});
        if kind == "IngressClass" {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        let rules = rules_of("networking.k8s.io", "v1", kind).unwrap();
        (rules.default)(&mut object);
        (rules.validate)(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ingresses() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let of =
            |path: Value| check("Ingress", json!({"rules": [{"host": "a.b", "http": {"paths": [path]}}]}));
        assert!(of(json!({"path": "/x", "pathType": "Prefix", "backend": backend})).is_empty());
        assert_eq!(
            of(json!({"path": "x//y", "pathType": "Exact", "backend": {}})),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must not contain '//'",
                "spec.rules[0].http.paths[0].backend: Required value: resource or service backend is required",
            ]
        );
        assert_eq!(
            check("Ingress", json!({"rules": [{"host": "1.2.3.4"}]})),
            ["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"]
        );
    }

    #[test]
    fn network_policies() {
        assert!(check("NetworkPolicy", json!({"podSelector": {}})).is_empty());
        let rule = json!({"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}], "ports": [{"endPort": 5}]});
        assert_eq!(
            check("NetworkPolicy", json!({"podSelector": {}, "ingress": [rule]})),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/8\": must be a strict subset of `cidr`",
            ]
        );
    }

    #[test]
    fn classes() {
        assert_eq!(
            check(
                "IngressClass",
                json!({"controller": "x.y/z", "parameters": {"kind": "K", "name": "n", "namespace": "q"}})
            ),
            ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]
        );
    }

    #[test]
    fn addresses_have_an_owner_that_stays() {
        let parent = json!({"group": "", "resource": "services", "namespace": "n", "name": "s"});
        let good = defaulted(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}));
        let segment = "may not contain '/'";
        let bad = format!("spec.parentRef.name: Invalid value: \"a/b\": {segment}");
        check_created(
            &good,
            &[
                ("/spec", json!({}), &["spec.parentRef: Required value"]),
                (
                    "/spec/parentRef",
                    json!({"namespace": ".."}),
                    &[
                        "spec.parentRef.namespace: Invalid value: \"..\": may not be '..'",
                        "spec.parentRef.resource: Required value",
                        "spec.parentRef.name: Required value",
                    ],
                ),
                ("/spec/parentRef/name", json!("a/b"), &[&bad]),
            ],
        );
        let wanted = &["spec.parentRef: Invalid value: null: field is immutable"];
        check_updated(&good, &[("/spec/parentRef/name", json!("t"), wanted)]);
    }

    fn ranges(cidrs: Value) -> Value {
        defaulted(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "a"}, "spec": {"cidrs": cidrs}}))
    }

    #[test]
    fn ranges_of_services() {
        let invalid = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        let cidrs = "/spec/cidrs";
        let mut cases: Vec<(Value, String)> = [
            ("10.0.0.0", invalid),
            ("10.0.0.0/33", invalid),
            ("10.0.0.0/x", invalid),
            ("10.00.0.0/24", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/112", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.1/24", "must not have bits set beyond the prefix length"),
            ("2001:DB8::/64", "must be in canonical form (\"2001:db8::/64\")"),
        ]
        .into_iter()
        .map(|(bad, text)| (json!([bad]), format!("spec.cidrs[0]: Invalid value: {bad:?}: {text}")))
        .collect();
        let family =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        let both = "[\"10.0.0.0/8\",\"11.0.0.0/8\"]";
        cases.push((json!([]), "spec.cidrs: Required value: at least one CIDR required".into()));
        cases.push((
            json!(["a", "b", "c"]),
            "spec.cidrs: Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2 values".into(),
        ));
        cases.push((
            json!(["10.0.0.0/8", "11.0.0.0/8"]),
            format!("spec.cidrs: Invalid value: {both}: {family}"),
        ));
        for (bad, wanted) in &cases {
            check_created(
                &ranges(json!(["10.0.0.0/24", "2001:db8::/64"])),
                &[(cidrs, bad.clone(), &[wanted])],
            );
        }
        let changed = &["spec.cidrs[0]: Invalid value: \"11.0.0.0/24\": field is immutable"];
        let bad = format!("spec.cidrs[1]: Invalid value: \"x\": {invalid}");
        check_updated(
            &ranges(json!(["10.0.0.0/24"])),
            &[
                (cidrs, json!(["11.0.0.0/24"]), changed),
                (cidrs, json!(["10.0.0.0/24", "2001:db8::/64"]), &[]),
                (cidrs, json!(["11.0.0.0/24", "2001:db8::/64"]), changed),
                (cidrs, json!(["10.0.0.0/24", "x"]), &[&bad]),
                (cidrs, json!([]), &["spec.cidrs: Invalid value: []: field is immutable"]),
            ],
        );
        let dual = ranges(json!(["10.0.0.0/24", "2001:db8::/64"]));
        let wanted = &["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"];
        check_updated(&dual, &[(cidrs, json!(["10.0.0.0/24"]), wanted)]);
    }
}

//! IP families of Services on a cluster whose addresses are all of one family (upstream:
//! `pkg/registry/core/service/storage/alloc.go`, `initIPFamilyFields`). Pure: shape and immutability were checked before.

use std::net::IpAddr;

use api_types::field::{FieldError, Path};
use api_types::{Value, meta};
use serde_json::json;

const SINGLE: &str = "SingleStack";
const REQUIRED: &str = "RequireDualStack";
/// What a client reads that wants two families at once, by the field that says so.
const TWO_ADDRESSES: &str =
    "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
const TWO_FAMILIES: &str =
    "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
/// What one reads that gives a second one up without saying that one is enough.
const ADDRESS_IS_KEPT: &str = "must be 'SingleStack' to release the secondary cluster IP";
const FAMILY_IS_KEPT: &str = "must be 'SingleStack' to release the secondary IP family";

/// The family of an address.
pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    service["spec"][field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn at(field: &str) -> Path {
    Path::new("spec").child(field)
}

/// Completes `ipFamilyPolicy` and `ipFamilies` of a Service that has addresses, where `own` is the family of the cluster.
///
/// # Errors
/// What the cluster cannot give.
pub(crate) fn settle(own: &'static str, old: Option<&Value>, new: &mut Value) -> Result<(), Vec<FieldError>> {
    if old.is_some_and(|old| is_same(old, new)) {
        return Ok(());
    }
    let is_free = new["spec"]["clusterIP"] == "None" && has_no_selector(new);
    if new["spec"]["ipFamilyPolicy"].is_null() {
        let policy = if is_free { REQUIRED } else { SINGLE };
        set(new, "ipFamilyPolicy", json!(policy));
    }
    let mut errors = old.map_or_else(Vec::new, |old| give_up(old, new));
    errors.extend(contradictions(new));
    errors.extend(infer(own, new));
    if !errors.is_empty() {
        return Err(errors);
    }
    if is_free {
        complete_free(own, new);
        return Ok(());
    }
    let errors = unavailable(own, new);
    if !errors.is_empty() {
        return Err(errors);
    }
    if texts(new, "ipFamilies").is_empty() {
        set(new, "ipFamilies", json!([own]));
    }
    Ok(())
}

fn set(service: &mut Value, field: &str, value: Value) {
    meta::child_mut(service, &["spec"]).insert(field.to_owned(), value);
}

fn policy(service: &Value) -> &str {
    service["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default()
}

/// What a Service was given stays, whatever the cluster gives to new ones.
fn is_same(old: &Value, new: &Value) -> bool {
    let fields = ["type", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    !new["spec"]["ipFamilyPolicy"].is_null()
        && fields.iter().all(|field| old["spec"][*field] == new["spec"][*field])
}

fn has_no_selector(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// An update that asks for one family takes the second back; any other may not leave it out.
fn give_up(old: &Value, new: &mut Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, why) in [("clusterIPs", ADDRESS_IS_KEPT), ("ipFamilies", FAMILY_IS_KEPT)] {
        let (before, now) = (texts(old, field), texts(new, field));
        if policy(new) != SINGLE {
            if !before.is_empty() && !now.is_empty() && now.len() < before.len() {
                errors.push(FieldError::invalid(&at("ipFamilyPolicy"), policy(new), why));
            }
        } else if before == now && now.len() > 1 {
            let first = json!([now[0]]);
            set(new, field, first);
        }
    }
    errors
}

fn contradictions(service: &Value) -> Vec<FieldError> {
    let fields = [("clusterIPs", TWO_ADDRESSES), ("ipFamilies", TWO_FAMILIES)];
    let are_two = |field: &str| policy(service) == SINGLE && texts(service, field).len() == 2;
    let errors = fields.into_iter().filter(|(field, _)| are_two(field));
    errors.map(|(_, why)| FieldError::invalid(&at("ipFamilyPolicy"), policy(service), why)).collect()
}

/// Families that follow from addresses.
fn infer(own: &str, service: &mut Value) -> Vec<FieldError> {
    let mut families: Vec<String> = texts(service, "ipFamilies").into_iter().map(str::to_owned).collect();
    let mut errors = Vec::new();
    for (index, address) in texts(service, "clusterIPs").into_iter().enumerate().skip(families.len()) {
        let Ok(address) = address.parse::<IpAddr>() else { break };
        let family = family(address);
        if family == own {
            families.push(family.to_owned());
        } else {
            let why = format!("{family} is not configured on this cluster");
            let all = service["spec"]["clusterIPs"].clone();
            errors.push(FieldError::invalid(&at("clusterIPs").index(index), all, why));
        }
    }
    if !families.is_empty() {
        set(service, "ipFamilies", json!(families));
    }
    errors
}

/// A Service without addresses and selector is of whatever families its owner gives endpoints of.
fn complete_free(own: &'static str, service: &mut Value) {
    let mut families: Vec<String> = texts(service, "ipFamilies").into_iter().map(str::to_owned).collect();
    if families.is_empty() {
        families.push(own.to_owned());
    }
    if families.len() < 2 && policy(service) != SINGLE {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    set(service, "ipFamilies", json!(families));
}

fn unavailable(own: &str, service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if policy(service) == REQUIRED {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&at("ipFamilyPolicy"), REQUIRED, why));
    }
    for (index, family) in texts(service, "ipFamilies").into_iter().enumerate() {
        if family != own {
            let at = at("ipFamilies").index(index);
            errors.push(FieldError::invalid(&at, family, "not configured on this cluster"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(old: Option<&Value>, spec: Value) -> Result<Value, Vec<String>> {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        match settle("IPv4", old, &mut service) {
            Ok(()) => Ok(service),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    fn families(spec: Value) -> [Value; 2] {
        let service = settled(None, spec).expect("no errors");
        [service["spec"]["ipFamilyPolicy"].clone(), service["spec"]["ipFamilies"].clone()]
    }

    #[test]
    fn one_family_is_what_there_is() {
        let selector = json!({"a": "b"});
        assert_eq!(families(json!({"selector": selector})), [json!(SINGLE), json!(["IPv4"])]);
        let prefers = json!({"ipFamilyPolicy": "PreferDualStack", "selector": selector});
        assert_eq!(families(prefers), [json!("PreferDualStack"), json!(["IPv4"])]);
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector});
        assert_eq!(families(headless), [json!(SINGLE), json!(["IPv4"])]);
        let of = |spec| settled(None, spec).expect_err("errors");
        assert_eq!(
            of(json!({"ipFamilyPolicy": REQUIRED})),
            [
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#
            ]
        );
        assert_eq!(
            of(json!({"ipFamilies": ["IPv6"]})),
            [r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#]
        );
        assert_eq!(
            of(json!({"clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]})),
            [r#"spec.clusterIPs[0]: Invalid value: ["fd00::9"]: IPv6 is not configured on this cluster"#]
        );
        assert_eq!(
            of(json!({"ipFamilies": ["IPv4", "IPv6"]})),
            [format!(r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": {TWO_FAMILIES}"#)]
        );
    }

    #[test]
    fn without_addresses_and_selector_both_will_do() {
        let free = |spec: Value| {
            let mut spec = spec;
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
            families(spec)
        };
        assert_eq!(free(json!({})), [json!(REQUIRED), json!(["IPv4", "IPv6"])]);
        assert_eq!(free(json!({"ipFamilies": ["IPv6"]})), [json!(REQUIRED), json!(["IPv6", "IPv4"])]);
        assert_eq!(free(json!({"ipFamilyPolicy": SINGLE})), [json!(SINGLE), json!(["IPv4"])]);
    }

    #[test]
    fn what_a_service_has_stays_until_it_gives_it_up() {
        let spec = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": REQUIRED});
        let old = json!({"metadata": {"name": "s"}, "spec": spec});
        let mut new = old["spec"].clone();
        new["selector"] = json!({"a": "b"});
        assert!(settled(Some(&old), new.clone()).is_ok(), "its families were not touched");
        new["ipFamilyPolicy"] = json!(SINGLE);
        assert_eq!(settled(Some(&old), new.clone()).expect("good")["spec"]["ipFamilies"], json!(["IPv4"]));
        new["ipFamilyPolicy"] = json!("PreferDualStack");
        new["ipFamilies"] = json!(["IPv4"]);
        let errors = settled(Some(&old), new).expect_err("errors");
        assert_eq!(
            errors,
            [format!(r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": {FAMILY_IS_KEPT}"#)]
        );
    }
}

//! What objects use of a ResourceQuota: which names of a quota a kind is counted under, how much one object uses, which
//! objects a quota's scopes select, what is used in all, and whether there is room for one more. The rules are those of
//! upstream's `pkg/quota/v1` and of its admission plugin ResourceQuota.
//!
//! The API server charges with [`charge`] before it writes an object, the controller counts anew with [`used`].

mod claims;
mod pods;
mod services;

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use api_types::meta;
use api_types::quantity::{Format, Quantity};
use serde_json::{Map, Value};

use crate::look::{Look, quantity};

/// How much of each resource, by the resource's name in a quota.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds that had a name in quotas before `count/…` was.
const OLD_NAMES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// Kinds that no quota counts.
const IGNORED: [&str; 2] = ["events", "events.events.k8s.io"];

/// The amounts of a map of quantities; what is no quantity is left out.
pub fn amounts(map: &Value) -> Amounts {
    map.entries("").filter_map(|(name, value)| Some((name.to_owned(), quantity(value)?))).collect()
}

/// A map of quantities, as it stands in an object.
pub fn to_value(amounts: &Amounts) -> Value {
    let entries = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// What a pod asks for in all (upstream: `component-helpers/resource.PodRequests`).
pub fn pod_requests(pod: &Value) -> Amounts {
    pods::sum(pod, "requests")
}

fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |before| *before + *amount);
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, to: &Amounts) {
    for (name, amount) in to {
        let larger = total.get(name).is_none_or(|before| before < amount);
        if larger {
            total.insert(name.clone(), *amount);
        }
    }
}

/// The name under which objects of a kind (`resource.group`) are counted, whatever they hold.
fn count_name(resource: &str) -> String {
    format!("count/{resource}")
}

/// Whether a quota's `name` counts something of a kind, given as `resource.group`.
pub fn tracks(resource: &str, name: &str) -> bool {
    if IGNORED.contains(&resource) {
        return false;
    }
    if name.strip_prefix("count/") == Some(resource) {
        return true;
    }
    match resource {
        "pods" => pods::tracks(name),
        "services" => services::NAMES.contains(&name),
        "persistentvolumeclaims" => claims::tracks(name),
        _ => OLD_NAMES.contains(&resource) && name == resource,
    }
}

/// What one object of a kind uses. `now`: milliseconds since 1970; a pod whose time to end is over uses nothing.
pub fn usage(resource: &str, object: &Value, now: i64) -> Amounts {
    let mut usage = Amounts::from([(count_name(resource), one())]);
    match resource {
        "pods" => pods::usage(object, now, &mut usage),
        "services" => services::usage(object, &mut usage),
        "persistentvolumeclaims" => claims::usage(object, &mut usage),
        _ if OLD_NAMES.contains(&resource) => drop(usage.insert(resource.to_owned(), one())),
        _ => {}
    }
    usage
}

/// One condition of a quota on objects.
#[derive(Clone, Debug)]
struct Scope<'a> {
    name: &'a str,
    operator: &'a str,
    values: Vec<&'a str>,
}

impl Scope<'_> {
    /// Whether the value that an object has, if any, fits the operator.
    fn fits(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.contains(&value));
        match self.operator {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

fn scopes(quota: &Value) -> Vec<Scope<'_>> {
    let names = quota.texts("spec.scopes");
    let plain = names.map(|name| Scope { name, operator: "Exists", values: Vec::new() });
    let selectors = quota.items("spec.scopeSelector.matchExpressions").iter().map(|term| Scope {
        name: term.text("scopeName"),
        operator: term.text("operator"),
        values: term.texts("values").collect(),
    });
    plain.chain(selectors).collect()
}

/// Whether a quota's scopes select an object of a kind. A kind without scopes is selected by quotas without scopes.
pub fn selects(resource: &str, quota: &Value, object: &Value) -> bool {
    scopes(quota).iter().all(|scope| match resource {
        "pods" => pods::in_scope(scope, object),
        "persistentvolumeclaims" => claims::in_scope(scope, object),
        _ => false,
    })
}

/// What is used of each resource that a quota limits and that one of `kinds` (`resource.group`) is counted under.
/// `list` gives the objects of a kind in the quota's namespace.
pub fn used<O: Borrow<Value>>(
    quota: &Value,
    kinds: &[String],
    now: i64,
    mut list: impl FnMut(&str) -> Vec<O>,
) -> Amounts {
    let names: Vec<&str> = quota.entries("spec.hard").map(|(name, _)| name).collect();
    let mut used = Amounts::new();
    for kind in kinds {
        let own: Vec<&str> = names.iter().copied().filter(|name| tracks(kind, name)).collect();
        if own.is_empty() {
            continue;
        }
        for name in &own {
            used.entry((*name).to_owned()).or_insert(Quantity::ZERO);
        }
        for object in list(kind) {
            let object = object.borrow();
            if selects(kind, quota, object) {
                let usage = usage(kind, object, now);
                add(&mut used, &only(&usage, |name| own.contains(&name)));
            }
        }
    }
    used
}

fn only(amounts: &Amounts, keep: impl Fn(&str) -> bool) -> Amounts {
    amounts.iter().filter(|(name, _)| keep(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// A write that may be charged.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The kind, as `resource.group`.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The object as it was, for an update.
    pub old: Option<&'a Value>,
    /// The object as it will be.
    pub new: &'a Value,
    /// Milliseconds since 1970.
    pub now: i64,
}

/// Whether writes to a kind (`resource.group`) and a subresource of it, empty for the object itself, can use anything more.
pub fn counts(resource: &str, subresource: &str, is_update: bool) -> bool {
    if IGNORED.contains(&resource) {
        return false;
    }
    matches!(
        (resource, subresource, is_update),
        (_, "", false)
            | ("pods", "resize", true)
            | ("services", "", true)
            | ("persistentvolumeclaims", "" | "status", true)
    )
}

impl Charge<'_> {
    /// What the write adds to a quota.
    fn more(&self, quota: &Value) -> Amounts {
        let mut usage = usage(self.resource, self.new, self.now);
        if let Some(old) = self.old
            && selects(self.resource, quota, old)
        {
            let before = self::usage(self.resource, old, self.now);
            for (name, amount) in &mut usage {
                if let Some(before) = before.get(name) {
                    *amount = *amount - *before;
                }
            }
        }
        usage.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
        usage
    }
}

/// Charges the quotas of a namespace for a write. Gives those that change, by their position, with what is used of them
/// then.
///
/// # Errors
/// Why a quota does not allow the write, in upstream's words.
pub fn charge(quotas: &[Value], charge: &Charge<'_>) -> Result<Vec<(usize, Amounts)>, String> {
    let mut concerned = Vec::new();
    for (position, quota) in quotas.iter().enumerate() {
        let hard = amounts(quota.at("status.hard"));
        let names: Vec<&str> =
            hard.keys().map(String::as_str).filter(|name| tracks(charge.resource, name)).collect();
        if names.is_empty() || !selects(charge.resource, quota, charge.new) {
            continue;
        }
        if charge.resource == "pods" {
            let refuse = |why| format!("failed quota: {}: {why}", meta::name(quota));
            pods::constraints(&names, charge.new).map_err(refuse)?;
        }
        let used = amounts(quota.at("status.used"));
        if names.iter().any(|name| !used.contains_key(*name)) {
            let (quota, names) = (meta::name(quota), names.join(","));
            return Err(format!("status unknown for quota: {quota}, resources: {names}"));
        }
        concerned.push((position, hard, used));
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let negative = usage(charge.resource, charge.new, charge.now);
    let negative: Vec<&String> =
        negative.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name).collect();
    if let [first, ..] = negative.as_slice() {
        return Err(format!("quota usage is negative for resource(s): {first}"));
    }
    let mut charged = Vec::new();
    for (position, hard, used) in concerned {
        let more = only(&charge.more(&quotas[position]), |name| hard.contains_key(name));
        if more.is_empty() {
            continue;
        }
        let mut sum = used.clone();
        add(&mut sum, &more);
        // What the agent reports is so; there is no refusing it.
        let over = |name: &str| hard.get(name) < sum.get(name) && more.contains_key(name);
        if charge.subresource != "status" && more.keys().any(|name| over(name)) {
            let show = |amounts: &Amounts| show(&only(amounts, over));
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                meta::name(&quotas[position]),
                show(&more),
                show(&used),
                show(&hard)
            ));
        }
        charged.push((position, sum));
    }
    Ok(charged)
}

fn show(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

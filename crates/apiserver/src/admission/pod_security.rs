//! PodSecurity: pods keep to the security standard that the labels of their namespace ask for; whoever makes pods in
//! other objects is warned (`k8s.io/pod-security-admission`). Without labels what the configuration says counts, which
//! exempts some too (`pod_security_config.rs`); without one everything is allowed.

use api_rules::pod_security::{Level, Policy, details, is_significant, violations, warn_of_pods};
use api_types::status::Status;
use api_types::{Value, codec, meta};
use mvcc::KeyRange;

use super::pod_security_config::PodSecurity;
use super::{Admit, Attributes, Check, Operation, Plugin, lookup};
use crate::api::Api;
use crate::audit;
use crate::storage::{self, View};

/// Subresources of pods that change nothing that matters here.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// What the audit log is told.
const ENFORCE_POLICY: &str = "pod-security.kubernetes.io/enforce-policy";
const AUDIT_VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";
const ERROR: &str = "pod-security.kubernetes.io/error";
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let (resource, view, settings) =
        (&attributes.target.resource, api.storage.view(), &api.plugins.pod_security);
    let exempt = || {
        let found = settings.exempt(&attributes.target.namespace, &attributes.user.name);
        found.inspect(|what| attributes.call.annotate(EXEMPT, *what)).is_some()
    };
    let exempt_pod = |pod: &Value| {
        let found = settings.exempt_pod(pod);
        found.inspect(|what| attributes.call.annotate(EXEMPT, *what)).is_some()
    };
    match (resource.group.as_str(), resource.resource.as_str(), attributes.subresource) {
        ("", "namespaces", "") => namespace(&view, settings, attributes, object),
        ("", "pods", subresource) if !IGNORED.contains(&subresource) => {
            match exempt() || exempt_pod(object) {
                true => Ok(()),
                false => pod(&view, settings, attributes, object),
            }
        }
        (group, resource, "") => match template(group, resource, object) {
            Some(template) if !exempt() && !exempt_pod(template) => {
                workload(&view, settings, attributes, template)
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// What an object makes pods of.
fn template<'a>(group: &str, resource: &str, object: &'a Value) -> Option<&'a Value> {
    let template = match (group, resource) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then_some(template)
}

fn policy(view: &View, settings: &PodSecurity, namespace: &str) -> Result<Policy, Status> {
    let missing = || Status::internal(format_args!("failed to lookup namespace \"{namespace}\""));
    let found = lookup::get(view, lookup::NAMESPACES, "", namespace)?.ok_or_else(missing)?;
    Ok(Policy::of(&found, &settings.defaults))
}

fn pod(view: &View, settings: &PodSecurity, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let policy = policy(view, settings, &attributes.target.namespace)?;
    let unchanged = attributes.old.is_some_and(|old| !is_significant(pod, old));
    let everything = policy.allows_everything();
    if everything || !unchanged {
        audit(attributes, &policy, pod, true);
    }
    if everything || unchanged {
        return Ok(());
    }
    let found = violations(policy.enforce, pod);
    if found.is_empty() {
        warn(attributes, &policy, pod);
        return Ok(());
    }
    let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&found));
    Err(attributes.target.forbidden(&why))
}

fn workload(
    view: &View,
    settings: &PodSecurity,
    attributes: &Attributes<'_>,
    template: &Value,
) -> Result<(), Status> {
    match policy(view, settings, &attributes.target.namespace) {
        Ok(policy) => {
            audit(attributes, &policy, template, false);
            warn(attributes, &policy, template);
        }
        Err(status) => attributes.call.annotate(ERROR, status.message),
    }
    Ok(())
}

/// Tells the audit log which standard is `enforced`, and what does not keep to the one that is only watched.
fn audit(attributes: &Attributes<'_>, policy: &Policy, pod: &Value, enforced: bool) {
    if attributes.call.audit_level() == audit::Level::None {
        return;
    }
    if enforced {
        attributes.call.annotate(ENFORCE_POLICY, policy.enforce.to_string());
    }
    if !policy.errors.is_empty() {
        let why = format!("Failed to parse policy: {}", api_types::field::aggregate(&policy.errors));
        attributes.call.annotate(ERROR, why);
    }
    let found = violations(policy.audit, pod);
    if !found.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&found));
        attributes.call.annotate(AUDIT_VIOLATIONS, text);
    }
}

fn warn(attributes: &Attributes<'_>, policy: &Policy, pod: &Value) {
    let found = violations(policy.warn, pod);
    if !found.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&found));
        attributes.call.warn(text);
    }
}

/// Labels must be readable; pods that do not keep to a stricter standard are told of.
fn namespace(
    view: &View,
    settings: &PodSecurity,
    attributes: &Attributes<'_>,
    namespace: &Value,
) -> Result<(), Status> {
    let new = Policy::of(namespace, &settings.defaults);
    let old = attributes.old.map(|old| Policy::of(old, &settings.defaults));
    let before = old.as_ref().map(|old| &old.errors);
    if !new.errors.is_empty() && before != Some(&new.errors) {
        return Err(attributes.target.invalid(&new.errors));
    }
    let name = meta::name(namespace);
    // Who asks is not looked at: the labels are for others too.
    let is_exempt = settings.exempt(name, "").is_some();
    let warn_exempt = || {
        let warning = settings.warning(namespace, &new).filter(|_| is_exempt);
        warning.into_iter().for_each(|text| attributes.call.warn(text));
    };
    let Some(old) = old else {
        warn_exempt();
        return Ok(());
    };
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    if is_exempt {
        warn_exempt();
        return Ok(());
    }
    let range = KeyRange::prefix(format!("/registry/pods/{name}/"));
    let stored: Vec<_> = storage::each(view, &range).collect::<Result<_, _>>()?;
    let pods: Vec<Value> =
        stored.iter().filter_map(|kv| codec::from_stored(&kv.value, kv.mod_revision).ok()).collect();
    warn_of_pods(name, new.enforce, &pods).into_iter().for_each(|text| attributes.call.warn(text));
    Ok(())
}

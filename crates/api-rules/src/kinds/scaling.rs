//! HorizontalPodAutoscaler, PodDisruptionBudget, and the `scale` subresource's body.

use super::shared::{at_most_all, int_or_percent, non_negative};
use super::{Kind, selector};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, quantity};
use serde_json::Value;

const SPEC: At<'static> = At::root("spec");
/// Metric sources: the name in `type` and the field that holds it.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
const SOURCE_NAMES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Longest windows of scaling rules in seconds.
const MAX_PERIOD: i64 = 1800;
const MAX_STABILIZATION: i64 = 3600;

pub(super) static KINDS: &[Kind] = &[
    Kind::new("autoscaling", "HorizontalPodAutoscaler")
        .create(autoscaler)
        .update(|new, _, errors| autoscaler(new, errors))
        .status(|new, _, errors| {
            let fields = ["currentReplicas", "desiredReplicas"];
            non_negative(new.at("status"), &fields, At::root("status"), errors);
        }),
    Kind::new("policy", "PodDisruptionBudget").create(budget).update(|new, _, errors| budget(new, errors)),
    Kind::new("autoscaling", "Scale")
        .create(|o, errors| non_negative(o.at("spec"), &["replicas"], SPEC, errors))
        .update(|o, _, errors| non_negative(o.at("spec"), &["replicas"], SPEC, errors)),
];

fn budget(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        errors.invalid(SPEC, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        int_or_percent(spec.at(field), SPEC.at(field), errors);
        at_most_all(spec.at(field), SPEC.at(field), errors);
    }
    selector::validate(spec.at("selector"), SPEC.at("selector"), errors);
    let policy = spec.text("unhealthyPodEvictionPolicy");
    errors.optional_of(SPEC.at("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
}

fn autoscaler(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    non_negative(spec, &["minReplicas"], SPEC, errors);
    let (least, most) = (spec.int("minReplicas"), spec.int("maxReplicas"));
    if most == 0 {
        errors.required(SPEC.at("maxReplicas"), "must be set and greater than 0");
    } else if most < 1 {
        errors.invalid(SPEC.at("maxReplicas"), most, "must be greater than or equal to 1");
    }
    if most < least {
        errors.invalid(SPEC.at("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let target = SPEC.at("scaleTargetRef");
    for field in ["kind", "name"] {
        let value = spec.at("scaleTargetRef").text(field);
        if value.is_empty() {
            errors.required(target.at(field), "");
        } else {
            errors.format(target.at(field), value, format::path_segment(value));
        }
    }
    metrics(spec, errors);
    let behavior = SPEC.at("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        if rules.is_object() {
            scaling_rules(rules, behavior.at(direction), errors);
        }
    }
}

fn metrics(spec: &Value, errors: &mut Errors) {
    let list = SPEC.at("metrics");
    let all = spec.items("metrics");
    for (i, metric) in all.iter().enumerate() {
        one_metric(metric, list.index(i), errors);
    }
    let outside = all.iter().any(|m| matches!(m.text("type"), "Object" | "External"));
    if spec.int_opt("minReplicas") == Some(0) && !outside {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(list, text);
    }
}

fn one_metric(metric: &Value, at: At<'_>, errors: &mut Errors) {
    let kind = metric.text("type");
    if kind.is_empty() {
        errors.required(at.at("type"), "must specify a metric source type");
    } else if !SOURCE_NAMES.contains(&kind) {
        errors.not_supported(at.at("type"), kind, SOURCE_NAMES);
    }
    for (name, field) in SOURCES {
        let source = metric.at(field);
        let set = source.is_object();
        if *name == kind && !set {
            errors.required(at.at(field), "must populate information for the given metric source");
        } else if *name != kind && set {
            errors.forbidden(at.at(field), "must populate the given metric source only");
        }
        if set {
            metric_source(name, source, at.at(field), errors);
        }
    }
}

fn metric_source(kind: &str, source: &Value, at: At<'_>, errors: &mut Errors) {
    let target = source.at("target");
    let target_at = at.at("target");
    metric_target(target, target_at, errors);
    let (value, average, utilization) =
        (target.has("value"), target.has("averageValue"), target.has("averageUtilization"));
    match kind {
        "Resource" | "ContainerResource" => {
            if source.text("name").is_empty() {
                errors.required(at.at("name"), "must specify a resource name");
            }
            if kind == "ContainerResource" && source.text("container").is_empty() {
                errors.required(at.at("container"), "must specify a container");
            }
            if !utilization && !average {
                let text = "must set either a target raw value or a target utilization";
                errors.required(target_at.at("averageUtilization"), text);
            } else if utilization && average {
                let text = "may not set both a target raw value and a target utilization";
                errors.forbidden(target_at.at("averageValue"), text);
            }
        }
        "Pods" => {
            metric_name(source, at, errors);
            if !average {
                errors.required(target_at.at("averageValue"), "must specify a positive target averageValue");
            }
        }
        "Object" => {
            metric_name(source, at, errors);
            if !value && !average {
                errors
                    .required(target_at.at("averageValue"), "must set either a target value or averageValue");
            }
        }
        _ => {
            metric_name(source, at, errors);
            if !value && !average {
                let text = "must set either a target value for metric or a per-pod target";
                errors.required(target_at.at("averageValue"), text);
            } else if value && average {
                let text = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(target_at.at("value"), text);
            }
        }
    }
}

fn metric_name(source: &Value, at: At<'_>, errors: &mut Errors) {
    let name = source.text("metric.name");
    let at = at.at("metric");
    if name.is_empty() {
        errors.required(at.at("name"), "must specify a metric name");
    } else {
        errors.format(at.at("name"), name, format::path_segment(name));
    }
}

fn metric_target(target: &Value, at: At<'_>, errors: &mut Errors) {
    match target.text("type") {
        "" => errors.required(at.at("type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        other => errors.invalid(at.at("type"), other, "must be either Utilization, Value, or AverageValue"),
    }
    for field in ["value", "averageValue"] {
        let Some(amount) = quantity(target.at(field)) else { continue };
        if amount.is_zero() || amount.is_negative() {
            errors.invalid(at.at(field), amount.to_string(), "must be positive");
        }
    }
    if let Some(n) = target.int_opt("averageUtilization").filter(|n| *n < 1) {
        errors.invalid(at.at("averageUtilization"), n, "must be greater than 0");
    }
}

fn scaling_rules(rules: &Value, at: At<'_>, errors: &mut Errors) {
    let window = at.at("stabilizationWindowSeconds");
    match rules.int_opt("stabilizationWindowSeconds") {
        Some(n) if n < 0 => errors.invalid(window, n, "must be greater than or equal to zero"),
        Some(n) if n > MAX_STABILIZATION => {
            errors.invalid(window, n, format!("must be less than or equal to {MAX_STABILIZATION}"));
        }
        _ => {}
    }
    let select = rules.text("selectPolicy");
    errors.optional_of(at.at("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    let list = at.at("policies");
    let policies = rules.items("policies");
    if policies.is_empty() {
        errors.required(list, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = list.index(i);
        let kind = policy.text("type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.not_supported(at.at("type"), kind, &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            if policy.int(field) <= 0 {
                errors.invalid(at.at(field), policy.int(field), "must be greater than zero");
            }
        }
        let period = policy.int("periodSeconds");
        if period > MAX_PERIOD {
            errors.invalid(
                at.at("periodSeconds"),
                period,
                format!("must be less than or equal to {MAX_PERIOD}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    fn check(group: &str, version: &str, kind: &str, spec: Value) -> Vec<String> {
        let rules = rules_of(group, version, kind).unwrap();
        let mut object = json!({"apiVersion": format!("{group}/{version}"), "kind": kind, "metadata": {"name": "a", "namespace": "b"}, "spec": spec});
        (rules.default)(&mut object);
        (rules.validate)(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn autoscalers() {
        let of = |spec| check("autoscaling", "v2", "HorizontalPodAutoscaler", spec);
        let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
        assert!(of(json!({"scaleTargetRef": target, "maxReplicas": 3})).is_empty());
        assert_eq!(
            of(json!({"scaleTargetRef": {"kind": "Deployment"}, "minReplicas": 4, "maxReplicas": 3})),
            [
                "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.name: Required value",
            ]
        );
        assert_eq!(
            of(json!({"scaleTargetRef": target, "maxReplicas": 3, "metrics": [{"type": "Resource"}]})),
            [
                "spec.metrics[0].resource: Required value: must populate information for the given metric source"
            ]
        );
    }

    #[test]
    fn budgets() {
        let of = |spec| check("policy", "v1", "PodDisruptionBudget", spec);
        assert!(of(json!({"minAvailable": "50%"})).is_empty());
        assert_eq!(
            of(json!({"maxUnavailable": "half"})),
            ["spec.maxUnavailable: Invalid value: \"half\": must be an integer or percentage (e.g '5%%')"]
        );
        assert_eq!(
            of(json!({"minAvailable": "101%"})),
            ["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
    }
}

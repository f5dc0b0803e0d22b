//! Job and CronJob.

use super::pod::template;
use super::shared::{non_negative, unchanged};
use super::{Kind, selector};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, object_mut, remove, same};
use serde_json::{Value, json};

const GROUP: &str = "batch";
const SPEC: At<'static> = At::root("spec");
const STATUS: At<'static> = At::root("status");
/// Labels that tie a Job's pods to it; the ones without a domain are for old readers.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const OLD_UID_LABEL: &str = "controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_NAME_LABEL: &str = "job-name";
const NUMBERS: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];
const MAX_PARALLELISM: i64 = 100_000;
const MAX_POLICY_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_MANAGER: usize = 63;
/// A CronJob's name leaves room for the 11 characters that its Jobs' names add.
const MAX_CRON_NAME: usize = 52;

pub(super) static KINDS: &[Kind] = &[
    Kind {
        prepare_create: job_create,
        ..Kind::new(GROUP, "Job").create(job).update(job_update).status(job_status)
    },
    Kind::new(GROUP, "CronJob").create(cron_job).update(|new, _, errors| cron_job_spec(new, errors)),
];

/// Gives the Job its selector and its pods the labels for it, unless the user manages them. Needs the uid.
fn job_create(job: &mut Value) {
    if job.flag("spec.manualSelector") {
        return;
    }
    let (uid, name) = (job.at("metadata.uid").clone(), job.at("metadata.name").clone());
    let labels = object_mut(job, "spec.template.metadata.labels");
    for (key, value) in
        [(NAME_LABEL, &name), (OLD_NAME_LABEL, &name), (UID_LABEL, &uid), (OLD_UID_LABEL, &uid)]
    {
        labels.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    let wanted = object_mut(job, "spec.selector.matchLabels");
    if !wanted.contains_key(UID_LABEL) {
        wanted.insert(UID_LABEL.to_owned(), uid);
    }
}

fn job(object: &Value, errors: &mut Errors) {
    generated_selector(object, errors);
    indexed_name(object, errors);
    job_spec(object, errors);
}

fn generated_selector(object: &Value, errors: &mut Errors) {
    if object.flag("spec.manualSelector") || !object.has("spec.selector") {
        return;
    }
    let uid = object.at("metadata.uid");
    let ours = |label: &str| same(object.at("spec.selector"), &json!({"matchLabels": {label: uid}}));
    if !ours(UID_LABEL) && !ours(OLD_UID_LABEL) {
        errors.invalid(
            SPEC.at("selector"),
            object.at("spec.selector").clone(),
            "`selector` not auto-generated",
        );
    }
}

/// The name of the last pod of an indexed Job must fit a host name.
fn indexed_name(object: &Value, errors: &mut Errors) {
    let completions = object.int("spec.completions");
    if object.text("spec.completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let name = object.text("metadata.name");
    let last = format!("{name}-{}", completions - 1);
    if !format::dns1123_label(&last).is_empty() {
        let text = format!("will not able to create pod with invalid DNS label: {last}");
        errors.invalid(At::root("metadata.name"), name, text);
    }
}

fn job_spec(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    spec_of_jobs(spec, SPEC, errors);
    if !spec.at("selector").is_object() {
        errors.required(SPEC.at("selector"), "");
        return;
    }
    selector::validate(spec.at("selector"), SPEC.at("selector"), errors);
    selector::matches_template(spec.at("selector"), spec.at("template"), SPEC.at("template"), errors);
}

/// The parts that a CronJob's template shares.
fn spec_of_jobs(spec: &Value, at: At<'_>, errors: &mut Errors) {
    non_negative(spec, NUMBERS, at, errors);
    if let Some(manager) = spec.at("managedBy").as_str() {
        errors.format(at.at("managedBy"), manager, format::domain_prefixed_path(manager));
        if manager.len() > MAX_MANAGER {
            errors.too_long(at.at("managedBy"), MAX_MANAGER);
        }
    }
    completion_mode(spec, at, errors);
    failure_policy(spec, at, errors);
    success_policy(spec, at, errors);
    let replacement = spec.text("podReplacementPolicy");
    if spec.has("podFailurePolicy") {
        errors.optional_of(at.at("podReplacementPolicy"), replacement, &["Failed"]);
    } else {
        errors.optional_of(at.at("podReplacementPolicy"), replacement, &["Failed", "TerminatingOrFailed"]);
    }
    let template_at = at.at("template");
    template(spec.at("template"), template_at, errors);
    restart_policy(spec, template_at.at("spec.restartPolicy"), errors);
}

fn restart_policy(spec: &Value, at: At<'_>, errors: &mut Errors) {
    match spec.text("template.spec.restartPolicy") {
        "" | "Always" => errors.required(at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(at, "OnFailure", "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(at, other, &["OnFailure", "Never"]),
    }
}

fn completion_mode(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let mode = spec.text("completionMode");
    if !matches!(mode, "" | "NonIndexed" | "Indexed") {
        errors.not_supported(at.at("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if !spec.has("completions") {
            errors.required(at.at("completions"), "when completion mode is Indexed");
        }
        let parallelism = spec.int("parallelism");
        if parallelism > MAX_PARALLELISM {
            let text =
                format!("must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed");
            errors.invalid(at.at("parallelism"), parallelism, text);
        }
        indexed_failures(spec, at, errors);
        return;
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if let Some(n) = spec.int_opt(field) {
            errors.invalid(at.at(field), n, "requires indexed completion mode");
        }
    }
    if spec.has("successPolicy") {
        errors.invalid(
            at.at("successPolicy"),
            spec.at("successPolicy").clone(),
            "requires indexed completion mode",
        );
    }
}

fn indexed_failures(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(most) = spec.int_opt("maxFailedIndexes") else { return };
    if !spec.has("backoffLimitPerIndex") {
        errors.required(at.at("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if most > spec.int("completions") {
        errors.invalid(at.at("maxFailedIndexes"), most, "must be less than or equal to completions");
    }
    if most > MAX_PARALLELISM {
        let text = format!("must be less than or equal to {MAX_PARALLELISM}");
        errors.invalid(at.at("maxFailedIndexes"), most, text);
    }
}

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

fn failure_policy(spec: &Value, at: At<'_>, errors: &mut Errors) {
    if !spec.has("podFailurePolicy") {
        return;
    }
    let policy = at.at("podFailurePolicy");
    let list = policy.at("rules");
    let rules = spec.items("podFailurePolicy.rules");
    if rules.len() > MAX_POLICY_RULES {
        errors.too_many(list, rules.len(), MAX_POLICY_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        let action = rule.text("action");
        match action {
            "" => errors.required(at.at("action"), format!("valid values: {}", quoted(ACTIONS))),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                errors.invalid(at.at("action"), action, "requires the backoffLimitPerIndex to be set");
            }
            other if !ACTIONS.contains(&other) => errors.not_supported(at.at("action"), other, ACTIONS),
            _ => {}
        }
        failure_rule(rule, spec, at, errors);
    }
}

fn quoted(values: &[&str]) -> String {
    values.iter().map(|v| api_types::field::quote(v)).collect::<Vec<_>>().join(", ")
}

fn failure_rule(rule: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let conditions = rule.items("onPodConditions");
    let text = match (rule.has("onExitCodes"), conditions.is_empty()) {
        (true, false) => Some("specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, true) => Some("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => None,
    };
    if rule.has("onExitCodes") {
        exit_codes(rule.at("onExitCodes"), spec, at.at("onExitCodes"), errors);
    }
    let list = at.at("onPodConditions");
    if conditions.len() > MAX_POLICY_RULES {
        errors.too_many(list, conditions.len(), MAX_POLICY_RULES);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let at = list.index(i);
        let kind = condition.text("type");
        errors.format(at.at("type"), kind, format::qualified_name(kind));
        let status = condition.text("status");
        if status.is_empty() {
            errors.required(at.at("status"), "valid values: \"False\", \"True\", \"Unknown\"");
        }
        errors.optional_of(at.at("status"), status, &["False", "True", "Unknown"]);
    }
    if let Some(text) = text {
        errors.invalid(at, rule.clone(), text);
    }
}

fn exit_codes(codes: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let operator = codes.text("operator");
    if operator.is_empty() {
        errors.required(at.at("operator"), "valid values: \"In\", \"NotIn\"");
    }
    errors.optional_of(at.at("operator"), operator, &["In", "NotIn"]);
    if let Some(name) = codes.at("containerName").as_str() {
        let known = ["template.spec.containers", "template.spec.initContainers"]
            .iter()
            .any(|list| spec.items(list).iter().any(|c| c.text("name") == name));
        if !known {
            let text = "must be one of the container or initContainer names in the pod template";
            errors.invalid(at.at("containerName"), name, text);
        }
    }
    let list = at.at("values");
    let values: Vec<i64> = codes.items("values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.invalid(list, codes.at("values").clone(), "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(list, values.len(), MAX_EXIT_CODES);
    }
    for (i, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(list.index(i), 0, "must not be 0 for the In operator");
        }
        if values[..i].contains(value) {
            errors.duplicate(list.index(i), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(list, json!(values), "must be ordered");
    }
}

fn success_policy(spec: &Value, at: At<'_>, errors: &mut Errors) {
    if !spec.has("successPolicy") {
        return;
    }
    let policy = at.at("successPolicy");
    let list = policy.at("rules");
    let rules = spec.items("successPolicy.rules");
    if rules.is_empty() {
        errors.required(list, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_POLICY_RULES {
        errors.too_many(list, rules.len(), MAX_POLICY_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
            errors.required(at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let Some(count) = rule.int_opt("succeededCount") else { continue };
        errors.non_negative(at.at("succeededCount"), count);
        let completions = spec.int("completions");
        if count > completions {
            let text =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(at.at("succeededCount"), count, text);
        }
    }
}

fn job_update(new: &Value, old: &Value, errors: &mut Errors) {
    job_spec(new, errors);
    let (now, before) = (new.at("spec"), old.at("spec"));
    unchanged(now, before, &["selector"], SPEC, errors);
    changed_template(new, old, errors);
    let fixed = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    unchanged(now, before, &fixed, SPEC, errors);
    let (wanted, was) = (now.at("completions"), before.at("completions"));
    if same(wanted, was) {
        return;
    }
    let indexed = before.text("completionMode") == "Indexed" && !wanted.is_null() && !was.is_null();
    if !indexed {
        errors.immutable(SPEC.at("completions"), wanted, was);
    } else if wanted != now.at("parallelism") {
        let text = "can only be modified in tandem with spec.parallelism";
        errors.invalid(SPEC.at("completions"), wanted.clone(), text);
    }
}

/// Only a suspended Job that runs nothing may change where and with what its pods run.
fn changed_template(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut now, mut before) = (new.at("spec.template").clone(), old.at("spec.template").clone());
    let held = old
        .items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let idle = old.int("status.active") == 0 && (!old.has("status.startTime") || held);
    if old.flag("spec.suspend") && idle {
        for template in [&mut now, &mut before] {
            for path in [
                "spec.affinity.nodeAffinity",
                "spec.nodeSelector",
                "spec.tolerations",
                "spec.schedulingGates",
                "metadata.labels",
                "metadata.annotations",
            ] {
                remove(template, path);
            }
            for list in ["spec.containers", "spec.initContainers"] {
                for container in crate::look::items_mut(template, list).into_iter().flatten() {
                    remove(container, "resources");
                }
            }
        }
    }
    if !same(&now, &before) {
        errors.immutable(SPEC.at("template"), new.at("spec.template"), old.at("spec.template"));
    }
}

fn holds(object: &Value, kind: &str) -> bool {
    object.items("status.conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True")
}

fn job_status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = new.at("status");
    non_negative(status, &["active", "succeeded", "failed", "ready", "terminating"], STATUS, errors);
    let conditions = STATUS.at("conditions");
    let shown = || status.at("conditions").clone();
    let (complete, failed) = (holds(new, "Complete"), holds(new, "Failed"));
    if complete && failed {
        errors.invalid(conditions, shown(), "cannot set Complete=True and Failed=true conditions");
    }
    for kind in ["Complete", "Failed"] {
        if holds(old, kind) && !holds(new, kind) {
            errors.invalid(conditions, shown(), format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for (field, word) in [("failed", "failed"), ("succeeded", "succeeded")] {
        let indexed_again = field == "succeeded" && new.text("spec.completionMode") == "Indexed";
        if status.int(field) < old.at("status").int(field) && !indexed_again {
            errors.invalid(
                STATUS.at(field),
                status.int(field),
                format!("cannot decrease the {word} counter"),
            );
        }
    }
    let (began, ended) = (status.has("startTime"), status.has("completionTime"));
    if (complete || failed) && !began {
        errors.required(STATUS.at("startTime"), "startTime is required for finished job");
    }
    if complete && !ended {
        errors.required(STATUS.at("completionTime"), "completionTime is required for Complete jobs");
    }
    if ended && !complete {
        let text = "cannot set completionTime when there is no Complete=True condition";
        errors.invalid(STATUS.at("completionTime"), status.at("completionTime").clone(), text);
    }
    if (complete || failed) && status.int("active") > 0 {
        errors.invalid(STATUS.at("active"), status.int("active"), "active>0 is invalid for finished job");
    }
}

fn cron_job(object: &Value, errors: &mut Errors) {
    let name = object.text("metadata.name");
    if name.len() > MAX_CRON_NAME {
        let text = format!("must be no more than {MAX_CRON_NAME} characters");
        errors.invalid(At::root("metadata.name"), name, text);
    }
    cron_job_spec(object, errors);
}

fn cron_job_spec(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let schedule = spec.text("schedule");
    let zone = spec.at("timeZone").as_str();
    if schedule.is_empty() {
        errors.required(SPEC.at("schedule"), "");
    } else {
        cron_schedule(schedule, zone.is_some(), errors);
    }
    match zone {
        Some("") => errors.invalid(SPEC.at("timeZone"), "", "timeZone must be nil or non-empty string"),
        Some(zone) if zone.eq_ignore_ascii_case("Local") => {
            let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.invalid(SPEC.at("timeZone"), zone, text);
        }
        Some(zone) if jiff::tz::TimeZone::get(zone).is_err() => {
            errors.invalid(SPEC.at("timeZone"), zone, format!("unknown time zone {zone}"));
        }
        _ => {}
    }
    let numbers = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    non_negative(spec, &numbers, SPEC, errors);
    let policy = spec.text("concurrencyPolicy");
    errors.one_of(SPEC.at("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    let template = SPEC.at("jobTemplate");
    let at = template.at("spec");
    let job = spec.at("jobTemplate.spec");
    spec_of_jobs(job, at, errors);
    if job.has("selector") {
        errors.invalid(at.at("selector"), job.at("selector").clone(), "`selector` will be auto-generated");
    }
    if job.flag("manualSelector") {
        errors.not_supported(at.at("manualSelector"), true, &["nil", "false"]);
    }
}

fn cron_schedule(schedule: &str, zoned: bool, errors: &mut Errors) {
    let at = SPEC.at("schedule");
    if let Err(problem) = crate::cron::check(schedule) {
        errors.invalid(at, schedule, problem);
    }
    if schedule.contains("TZ") && zoned {
        errors.invalid(at, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    } else if schedule.contains("TZ") {
        errors.invalid(at, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::set;
    use crate::rules_of;

    fn new_job(rest: Value) -> Value {
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n", "uid": "u1"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (path, value) in rest.as_object().unwrap() {
            set(&mut job, path, value.clone());
        }
        let rules = rules_of("batch", "v1", "Job").unwrap();
        (rules.default)(&mut job);
        (rules.prepare_create)(&mut job);
        job
    }

    fn check(job: &Value) -> Vec<String> {
        (rules_of("batch", "v1", "Job").unwrap().validate)(job).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selector_and_labels_are_generated() {
        let job = new_job(json!({}));
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {UID_LABEL: "u1"}}));
        assert_eq!(job.at("spec.template.metadata.labels").key(OLD_NAME_LABEL), "j");
        assert!(check(&job).is_empty(), "{:?}", check(&job));
    }

    #[test]
    fn faults_of_jobs() {
        assert_eq!(
            check(&new_job(json!({"spec.template.spec.restartPolicy": "Always"}))),
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
        assert_eq!(
            check(&new_job(json!({"spec.completionMode": "Indexed", "spec.parallelism": 1}))),
            ["spec.completions: Required value: when completion mode is Indexed"]
        );
        assert_eq!(
            check(&new_job(json!({"spec.parallelism": -1}))),
            ["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            check(&new_job(json!({"spec.selector": {"matchLabels": {"a": "b"}}})))
                .first()
                .map(|s| s.contains("`selector` not auto-generated")),
            Some(true)
        );
    }

    #[test]
    fn completed_jobs_keep_their_shape() {
        let old = new_job(json!({}));
        let mut new = old.clone();
        set(&mut new, "spec.completions", json!(7));
        set(
            &mut new,
            "spec.template.spec.containers",
            json!([{"name": "c", "image": "j", "imagePullPolicy": "Always",
            "terminationMessagePolicy": "File"}]),
        );
        let found: Vec<(String, String)> =
            (rules_of("batch", "v1", "Job").unwrap().validate_update)(&new, &old)
                .into_iter()
                .map(|e| (e.field, e.detail))
                .collect();
        assert_eq!(
            found,
            [
                ("spec.template".into(), "field is immutable".into()),
                ("spec.completions".to_owned(), "field is immutable".to_owned())
            ]
        );
    }

    #[test]
    fn cron_jobs() {
        let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x".repeat(53), "namespace": "n"},
            "spec": {"schedule": "TZ=UTC * * * * *", "timeZone": "Mars/Base",
                "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
        let rules = rules_of("batch", "v1", "CronJob").unwrap();
        (rules.default)(&mut cron);
        let found: Vec<String> = (rules.validate)(&cron).into_iter().map(|e| e.detail).collect();
        assert_eq!(
            found,
            [
                "must be no more than 52 characters",
                "cannot use both timeZone field and TZ or CRON_TZ in schedule",
                "unknown time zone Mars/Base"
            ]
        );
    }
}

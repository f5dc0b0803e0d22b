//! Probes and lifecycle handlers.

use super::super::shared::non_negative;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;

const NUMBERS: &[&str] =
    &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
const SIGNALS_ON_WINDOWS: &[&str] = &["SIGKILL", "SIGTERM"];

/// Lifecycle and probes of a container that keeps running.
pub(super) fn main_container(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let grace = spec.int("terminationGracePeriodSeconds");
    let lifecycle = at.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        let value = container.at("lifecycle").at(hook);
        if value.is_object() {
            handler(value, grace, lifecycle.at(hook), errors);
        }
    }
    stop_signal(container, spec, lifecycle.at("stopSignal"), errors);
    liveness(container.at("livenessProbe"), grace, at.at("livenessProbe"), errors);
    readiness(container.at("readinessProbe"), grace, at.at("readinessProbe"), errors);
    liveness(container.at("startupProbe"), grace, at.at("startupProbe"), errors);
}

fn stop_signal(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(signal) = container.at("lifecycle.stopSignal").as_str() else { return };
    match spec.text("os.name") {
        "" => errors.forbidden(at, "may not be set for containers with empty `spec.os.name`"),
        "windows" if !SIGNALS_ON_WINDOWS.contains(&signal) => {
            errors.not_supported(at, signal, SIGNALS_ON_WINDOWS)
        }
        _ => {}
    }
}

fn liveness(probe: &Value, grace: i64, at: At<'_>, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    common(probe, grace, at, errors);
    let successes = probe.int("successThreshold");
    if successes != 1 {
        errors.invalid(at.at("successThreshold"), successes, "must be 1");
    }
}

fn readiness(probe: &Value, grace: i64, at: At<'_>, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    common(probe, grace, at, errors);
    if let Some(seconds) = probe.int_opt("terminationGracePeriodSeconds") {
        errors.invalid(
            at.at("terminationGracePeriodSeconds"),
            seconds,
            "must not be set for readinessProbes",
        );
    }
}

fn common(probe: &Value, grace: i64, at: At<'_>, errors: &mut Errors) {
    handler(probe, grace, at, errors);
    non_negative(probe, NUMBERS, at, errors);
    if let Some(seconds) = probe.int_opt("terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        errors.invalid(at.at("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn handler(handler: &Value, grace: i64, at: At<'_>, errors: &mut Errors) {
    let mut found = false;
    for kind in HANDLERS {
        let action = handler.at(kind);
        if !action.is_object() {
            continue;
        }
        if found {
            errors.forbidden(at.at(kind), "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        let at = at.at(kind);
        match *kind {
            "exec" if action.items("command").is_empty() => errors.required(at.at("command"), ""),
            "httpGet" => http_get(action, at, errors),
            "tcpSocket" => port(action.at("port"), at.at("port"), errors),
            "grpc" => port(action.at("port"), at.at("port"), errors),
            "sleep" => sleep(action, grace, at, errors),
            _ => {}
        }
    }
    if !found {
        errors.required(at, "must specify a handler type");
    }
}

fn sleep(action: &Value, grace: i64, at: At<'_>, errors: &mut Errors) {
    let seconds = action.int("seconds");
    if seconds < 0 || seconds > grace {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(at, seconds, text);
    }
}

fn http_get(action: &Value, at: At<'_>, errors: &mut Errors) {
    if action.text("path").is_empty() {
        errors.required(at.at("path"), "");
    }
    port(action.at("port"), at.at("port"), errors);
    let scheme = action.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(at.at("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.items("httpHeaders") {
        let name = header.text("name");
        errors.format(at.at("httpHeaders"), name, format::http_header_name(name));
    }
}

/// A port number, or the name of a port.
pub(in crate::kinds) fn port(value: &Value, at: At<'_>, errors: &mut Errors) {
    match value.as_str() {
        Some(name) => errors.format(at, name, format::port_name(name)),
        None => {
            let number = value.as_i64().unwrap_or(0);
            for problem in format::port_number(number) {
                errors.invalid(at, number, problem);
            }
        }
    }
}

use serde_json::json;

use super::*;

const RESTRICTED_NOW: Standard = Standard { level: Level::Restricted, minor: None };
const BASELINE_NOW: Standard = Standard { level: Level::Baseline, minor: None };

fn told(standard: Standard, pod: &Value) -> String {
    details(&violations(standard, pod))
}

fn hardened() -> Value {
    json!({"spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }})
}

#[test]
fn a_plain_pod_violates_the_restricted_profile_in_upstreams_words() {
    let pod = json!({"spec": {"containers": [{"name": "c"}]}});
    assert_eq!(told(BASELINE_NOW, &pod), "");
    assert_eq!(
        told(RESTRICTED_NOW, &pod),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told(RESTRICTED_NOW, &hardened()), "");
}

#[test]
fn the_host_is_out_of_bounds() {
    let pod = json!({
        "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}},
        "spec": {
            "hostNetwork": true, "hostPID": true,
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn"}, {"name": "net.ipv4.tcp_rmem"}],
                "seLinuxOptions": {"type": "spc_t", "user": "u"}, "windowsOptions": {"hostProcess": true}},
            "initContainers": [{"name": "i", "securityContext": {"privileged": true, "procMount": "Unmasked"}}],
            "containers": [
                {"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}],
                 "securityContext": {"capabilities": {"add": ["NET_RAW", "CHOWN"]}, "seccompProfile": {"type": "Unconfined"}}},
                {"name": "b", "ports": [{"hostPort": 80}], "livenessProbe": {"httpGet": {"host": "h"}}},
            ],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
        },
    });
    let each: Vec<String> = violations(BASELINE_NOW, &pod)
        .iter()
        .map(|violation| format!("{}: {}", violation.reason, violation.detail))
        .collect();
    assert_eq!(
        each,
        [
            "forbidden AppArmor profile: annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\"",
            "non-default capabilities: container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add",
            "host namespaces: hostNetwork=true, hostPID=true",
            "hostPath volumes: volume \"v\"",
            "hostPort: containers \"a\", \"b\" use hostPorts 443, 80",
            "probe or lifecycle host: container \"b\" uses probe or lifecycle host \"h\"",
            "privileged: container \"i\" must not set securityContext.privileged=true",
            "procMount: container \"i\" must not set securityContext.procMount to \"Unmasked\"",
            "seLinuxOptions: pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set",
            "seccompProfile: container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\"",
            "forbidden sysctls: net.core.somaxconn",
            "hostProcess: pod must not set securityContext.windowsOptions.hostProcess=true",
        ]
    );
}

#[test]
fn restricted_checks_stand_for_their_baseline_ones() {
    let mut pod = hardened();
    pod["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]);
    pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]);
    assert_eq!(
        told(RESTRICTED_NOW, &pod),
        "unrestricted capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")"
    );
}

#[test]
fn a_version_knows_no_later_checks() {
    let pod = json!({"spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 0}}]}});
    let at = |minor| told(Standard { level: Level::Restricted, minor: Some(minor) }, &pod);
    assert!(!at(7).contains("allowPrivilegeEscalation") && at(8).contains("allowPrivilegeEscalation"));
    assert!(!at(18).contains("seccompProfile") && at(19).contains("seccompProfile"));
    assert!(!at(22).contains("runAsUser=0") && at(23).contains("runAsUser=0"));
    assert_eq!(at(99), at(37), "a version to come is the latest");
    let windows = json!({"spec": {"os": {"name": "windows"}, "containers": [{"name": "c"}]}});
    let at = |minor| told(Standard { level: Level::Restricted, minor: Some(minor) }, &windows);
    assert!(at(24).contains("capabilities") && !at(25).contains("capabilities"));
    let own = json!({"spec": {"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}});
    let at = |level, minor| told(Standard { level, minor: Some(minor) }, &own).contains("procMount");
    assert_eq!(
        [at(Level::Baseline, 34), at(Level::Baseline, 35), at(Level::Restricted, 35)],
        [true, false, true]
    );
}

#[test]
fn explicit_values_are_worse_than_none() {
    let mut pod = hardened();
    pod["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    pod["spec"]["securityContext"]["runAsUser"] = json!(0);
    pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(0);
    assert_eq!(
        told(RESTRICTED_NOW, &pod),
        "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod and container \"c\" must not set runAsUser=0)"
    );
}

fn policy(labels: Value) -> Policy {
    Policy::of(&json!({"metadata": {"labels": labels}}), &Defaults::default())
}

#[test]
fn labels_ask_for_levels() {
    assert!(policy(json!({"app": "x"})).allows_everything());
    let found = policy(json!({
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.20",
    }));
    assert_eq!(found.enforce.to_string(), "baseline:v1.20");
    assert_eq!(found.warn, found.enforce, "who is strict warns too");
    assert_eq!(found.audit.to_string(), "privileged:latest");
    let found = policy(json!({
        "pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn": "x",
        "pod-security.kubernetes.io/audit-version": "1.20",
    }));
    assert_eq!(found.enforce, RESTRICTED_NOW);
    assert_eq!(found.warn.level, Level::Privileged);
    let texts: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3);
    assert_eq!(
        texts[0],
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    assert!(policy(json!({"pod-security.kubernetes.io/enforce-version": "v1.05"})).errors.len() == 1);
}

#[test]
fn only_images_and_containers_are_significant() {
    let pod = |image: &str, label: &str| json!({"metadata": {"labels": {"a": label}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    assert!(!is_significant(&pod("a", "1"), &pod("a", "2")));
    assert!(is_significant(&pod("a", "1"), &pod("b", "1")));
    let mut debugged = pod("a", "1");
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "x"}]);
    assert!(is_significant(&debugged, &pod("a", "1")));
    assert!(!is_significant(&debugged, &debugged));
}

#[test]
fn pods_that_are_there_are_told_of() {
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"hostPID": true, "containers": []}});
    let mut other = pod("z");
    other["spec"] =
        json!({"hostIPC": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}]});
    let warnings = warn_of_pods("n", BASELINE_NOW, &[pod("c"), pod("a"), pod("b"), other]);
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
            "z: host namespaces, privileged",
        ]
    );
}

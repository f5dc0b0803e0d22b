//! Which plugins are on: those that upstream has on, NodeRestriction, and those that flags name (upstream:
//! `apiserver/pkg/server/options/admission.go`).

use std::collections::BTreeSet;
use std::path::PathBuf;

use api_types::Value;
use api_types::field::quote;
use env::Rng;

use super::config::Configurations;
use super::event_rate_limit::Limits;
use super::node_selector::Selectors;
use super::pod_security_config::PodSecurity;
use super::toleration_limits::Cluster;
use super::{CHAIN, Link};
use crate::counters::admission::Durations;

/// Charged in the transaction that writes an object, and not by the chain.
const QUOTA: &str = "ResourceQuota";
/// Those that upstream has on by default and that are not built: flags may name them, as upstream's do, and nothing
/// changes.
const WITHOUT_EFFECT: [&str; 2] = ["NodeDeclaredFeatureValidator", "PodGroupProtection"];
/// Those of upstream that are not built and may not be turned on.
const NOT_BUILT: [&str; 1] = ["ImagePolicyWebhook"];
/// Plugins whose configuration upstream reads and nobody reads here.
const NOT_CONFIGURED: [&str; 5] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    QUOTA,
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];
/// Plugins that upstream keeps for old flags only.
const DEPRECATED: [&str; 2] = ["AlwaysAdmit", "AlwaysDeny"];

/// Which plugins decide about writes (upstream's `--enable-admission-plugins` and the like).
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    /// Plugins that are on besides those that are on by default.
    pub enable: Vec<String>,
    /// Plugins that are off, although they are on by default.
    pub disable: Vec<String>,
    /// A file of kind `AdmissionConfiguration`: what plugins are configured with. It is read at the start.
    pub file: Option<PathBuf>,
}

/// The plugins that are on, and what they are configured with.
pub(crate) struct Enabled {
    /// Each with what is counted of it, if it has a name.
    pub(super) chain: Vec<(&'static Link, Option<Durations>)>,
    pub(super) charges_quotas: bool,
    pub(super) event_limits: Limits,
    pub(super) node_selectors: Selectors,
    pub(super) pod_security: PodSecurity,
    pub(super) tolerations: Cluster,
}

impl AdmissionConfig {
    fn is_on(&self, name: &str, is_default: bool) -> bool {
        let names = |list: &[String]| list.iter().any(|own| own == name);
        names(&self.enable) || is_default && !names(&self.disable)
    }

    /// Upstream's checks of the flags.
    fn check(&self) -> Result<(), String> {
        let mut faults = Vec::new();
        for (flag, list) in [("enable", &self.enable), ("disable", &self.disable)] {
            for name in list.iter().filter(|name| !is_known(name)) {
                faults.push(format!("{flag}-admission-plugins plugin {} is unknown", quote(name)));
            }
        }
        let both = self.enable.iter().filter(|name| self.disable.contains(name));
        let both: BTreeSet<&str> = both.map(String::as_str).collect();
        if !both.is_empty() {
            let both: Vec<&str> = both.into_iter().collect();
            faults.push(format!(
                "[{}] in enable-admission-plugins and disable-admission-plugins overlapped",
                both.join(" ")
            ));
        }
        for name in self.enable.iter().filter(|name| NOT_BUILT.contains(&name.as_str())) {
            faults.push(format!("admission plugin {} is not implemented", quote(name)));
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn configurations(&self) -> Result<Configurations, String> {
        let Some(file) = &self.file else { return Ok(Configurations::default()) };
        let found =
            Configurations::read(file).map_err(|why| format!("failed to read plugin config: {why}"))?;
        for name in NOT_CONFIGURED.iter().filter(|name| self.is_on(name, true)) {
            if found.of(name)?.is_some() {
                let name = quote(name);
                return Err(format!("the configuration of admission plugin {name} is not implemented"));
            }
        }
        Ok(found)
    }
}

fn is_known(name: &str) -> bool {
    let others = [QUOTA].into_iter().chain(WITHOUT_EFFECT).chain(NOT_BUILT);
    CHAIN.iter().map(|link| link.name).chain(others).any(|known| known == name && !name.is_empty())
}

impl Enabled {
    /// # Errors
    /// What is wrong with the flags or the file, in upstream's words.
    pub fn new(config: &AdmissionConfig, rng: &Rng) -> Result<Self, String> {
        config.check()?;
        let found = config.configurations()?;
        let is_on = |link: &&Link| link.name.is_empty() || config.is_on(link.name, link.is_default);
        let links: Vec<&'static Link> = CHAIN.iter().filter(is_on).collect();
        let is_linked = |name: &str| links.iter().any(|link| link.name == name);
        for name in DEPRECATED.into_iter().filter(|name| is_linked(name)) {
            tracing::warn!("the admission plugin {name} is deprecated: take it out of the flags");
        }
        Ok(Self {
            charges_quotas: config.is_on(QUOTA, true),
            node_selectors: configured(&found, "PodNodeSelector", is_linked, Selectors::read)?,
            pod_security: configured(&found, "PodSecurity", is_linked, PodSecurity::read)?,
            tolerations: configured(&found, "PodTolerationRestriction", is_linked, Cluster::read)?,
            event_limits: configured(&found, "EventRateLimit", is_linked, |document| {
                Limits::read(document, rng)
            })?,
            chain: links.into_iter().map(counted).collect(),
        })
    }
}

fn counted(link: &'static Link) -> (&'static Link, Option<Durations>) {
    (link, (!link.name.is_empty()).then(|| Durations::of_plugin(link.name)))
}

/// What a plugin is configured with, if it is on.
fn configured<T: Default>(
    found: &Configurations,
    name: &str,
    is_on: impl Fn(&str) -> bool,
    read: impl FnOnce(Option<&Value>) -> Result<T, String>,
) -> Result<T, String> {
    if !is_on(name) {
        return Ok(T::default());
    }
    let failed = |why: String| format!("couldn't init admission plugin {}: {why}", quote(name));
    let document = found.of(name)?;
    read(document.as_ref()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(enable: &[&str], disable: &[&str]) -> AdmissionConfig {
        let names = |list: &[&str]| -> Vec<String> { list.iter().map(|name| (*name).to_owned()).collect() };
        AdmissionConfig { enable: names(enable), disable: names(disable), file: None }
    }

    fn enabled(config: &AdmissionConfig) -> Result<Enabled, String> {
        Enabled::new(config, &Rng::seeded(1))
    }

    fn fault(enable: &[&str], disable: &[&str]) -> String {
        enabled(&config(enable, disable)).err().unwrap_or_default()
    }

    /// `pkg/kubeapiserver/options/plugins.go`, without what is not built or stands elsewhere, and with RBAC's guard.
    const ORDER: [&str; 36] = [
        "AlwaysAdmit",
        "NamespaceAutoProvision",
        "NamespaceLifecycle",
        "NamespaceExists",
        "LimitPodHardAntiAffinityTopology",
        "LimitRanger",
        "ServiceAccount",
        "NodeRestriction",
        "TaintNodesByCondition",
        "AlwaysPullImages",
        "PodSecurity",
        "PodNodeSelector",
        "Priority",
        "DefaultTolerationSeconds",
        "PodTolerationRestriction",
        "EventRateLimit",
        "ExtendedResourceToleration",
        "DefaultStorageClass",
        "StorageObjectInUseProtection",
        "OwnerReferencesPermissionEnforcement",
        "PersistentVolumeClaimResize",
        "RuntimeClass",
        "CertificateApproval",
        "CertificateSigning",
        "ClusterTrustBundleAttest",
        "CertificateSubjectRestriction",
        "DefaultIngressClass",
        "DenyServiceExternalIPs",
        "PodTopologyLabels",
        "PodResizeValidator",
        "",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionWebhook",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionWebhook",
        "AlwaysDeny",
    ];

    #[test]
    fn the_chain_is_in_upstreams_order() {
        let names: Vec<&str> = CHAIN.iter().map(|link| link.name).collect();
        assert_eq!(names, ORDER);
    }

    #[test]
    fn flags_turn_plugins_on_and_off() {
        let defaults = enabled(&AdmissionConfig::default()).ok().unwrap();
        let off = CHAIN.iter().filter(|link| !link.is_default).count();
        assert_eq!((defaults.chain.len(), off), (CHAIN.len() - 12, 12));
        assert!(defaults.charges_quotas);
        let config = config(
            &["AlwaysAdmit", "NamespaceLifecycle", "PodGroupProtection"],
            &["ResourceQuota", "LimitRanger", "AlwaysDeny"],
        );
        let changed = enabled(&config).ok().unwrap();
        assert_eq!(changed.chain.len(), defaults.chain.len());
        assert!(!changed.charges_quotas);
    }

    #[test]
    fn wrong_flags_are_told_as_upstream_tells_them() {
        assert_eq!(fault(&["Nothing"], &[]), "enable-admission-plugins plugin \"Nothing\" is unknown");
        assert_eq!(
            fault(&["A"], &["B", ""]),
            "[enable-admission-plugins plugin \"A\" is unknown, disable-admission-plugins plugin \"B\" is unknown, disable-admission-plugins plugin \"\" is unknown]"
        );
        assert_eq!(
            fault(&["PodSecurity", "LimitRanger"], &["LimitRanger", "PodSecurity"]),
            "[LimitRanger PodSecurity] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
        assert_eq!(
            fault(&["ImagePolicyWebhook"], &[]),
            "admission plugin \"ImagePolicyWebhook\" is not implemented"
        );
        assert_eq!(
            fault(&["EventRateLimit"], &[]),
            "couldn't init admission plugin \"EventRateLimit\": limits: Invalid value: null: must not be empty"
        );
    }
}

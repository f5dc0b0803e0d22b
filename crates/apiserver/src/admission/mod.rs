//! Admission: what the cluster's policies make of a write. One chain of plugins in upstream's order; each may first
//! change the object, and later refuse it when it was checked. They see creations, updates and deletions of objects
//! and of their subresources, and connections.

mod always_admit;
mod always_deny;
mod always_pull_images;
mod anti_affinity;
mod certificate_subject;
mod claim_resize;
mod config;
mod default_class;
mod dynamic;
mod enabled;
mod escalation;
mod event_rate_limit;
mod extended_resources;
mod external_ips;
mod lifecycle;
mod limit_ranger;
pub(crate) mod lookup;
mod namespace_exists;
mod namespace_provision;
mod node_restriction;
mod node_selector;
mod node_taint;
mod owner_references;
mod pod_resize;
mod pod_security;
mod pod_security_config;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod signers;
mod storage_protection;
mod timer;
mod toleration_limits;
mod tolerations;
mod topology_labels;

use std::future::Future;
use std::pin::Pin;

use api_types::Value;
use api_types::status::Status;
use parking_lot::Mutex;

pub(crate) use dynamic::Dynamic;
use dynamic::Rounds;
pub use enabled::AdmissionConfig;
pub(crate) use enabled::Enabled;
pub(crate) use quota::{Charged, Turns};
pub(crate) use signers::may_use_signer;

use crate::api::Api;
use crate::call::Call;
use crate::counters::admission::Phase;
use crate::registry::Target;
use crate::user::UserInfo;
use timer::Timer;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// Its name in rules, reviews and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request, as the plugins see it.
pub(crate) struct Attributes<'a> {
    pub operation: Operation,
    pub target: &'a Target,
    pub subresource: &'a str,
    pub user: &'a UserInfo,
    /// The request itself, for what it says beside the object; it also takes the warnings.
    pub call: &'a Call,
    /// The object as it is stored; none for a creation or a connection.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// What happened in the rounds of mutating admission.
    pub rounds: Mutex<Rounds>,
}

/// What the cluster's operator decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Seconds that pods tolerate a node that is not ready.
    pub not_ready_toleration_seconds: i64,
    /// Seconds that pods tolerate a node that is not reachable.
    pub unreachable_toleration_seconds: i64,
}

/// The end of a step that waits for something.
type Waiting<'a> = Pin<Box<dyn Future<Output = Result<(), Status>> + Send + 'a>>;

/// How a plugin changes an object. For a deletion the object is null.
enum Admit {
    Never,
    Now(fn(&Api, &Attributes<'_>, &mut Value) -> Result<(), Status>),
    /// None when there is nothing to wait for.
    Waits(for<'a> fn(&'a Api, &'a Attributes<'a>, &'a mut Value) -> Option<Waiting<'a>>),
}

/// How a plugin refuses an object. For a deletion the object is null.
enum Check {
    Never,
    Now(fn(&Api, &Attributes<'_>, &Value) -> Result<(), Status>),
    /// None when there is nothing to wait for.
    Waits(for<'a> fn(&'a Api, &'a Attributes<'a>, &'a Value) -> Option<Waiting<'a>>),
}

/// What one of the chain does. What it remembers is in [`Api`].
struct Plugin {
    admit: Admit,
    check: Check,
}

/// A plugin in its place.
struct Link {
    /// By which flags name it; what has no name is always on.
    name: &'static str,
    /// Whether it is on if no flag says otherwise.
    is_default: bool,
    plugin: Plugin,
}

const fn on(name: &'static str, plugin: Plugin) -> Link {
    Link { name, is_default: true, plugin }
}

const fn off(name: &'static str, plugin: Plugin) -> Link {
    Link { name, is_default: false, plugin }
}

/// The plugins in upstream's order (`pkg/kubeapiserver/options/plugins.go`). NodeRestriction is on besides those that
/// upstream has on. Quotas are charged in the transaction that writes the object.
static CHAIN: &[Link] = &[
    off("AlwaysAdmit", always_admit::PLUGIN),
    off("NamespaceAutoProvision", namespace_provision::PLUGIN),
    on("NamespaceLifecycle", lifecycle::PLUGIN),
    off("NamespaceExists", namespace_exists::PLUGIN),
    off("LimitPodHardAntiAffinityTopology", anti_affinity::PLUGIN),
    on("LimitRanger", limit_ranger::PLUGIN),
    on("ServiceAccount", service_account::PLUGIN),
    on("NodeRestriction", node_restriction::PLUGIN),
    on("TaintNodesByCondition", node_taint::PLUGIN),
    off("AlwaysPullImages", always_pull_images::PLUGIN),
    on("PodSecurity", pod_security::PLUGIN),
    off("PodNodeSelector", node_selector::PLUGIN),
    on("Priority", priority::PLUGIN),
    on("DefaultTolerationSeconds", tolerations::PLUGIN),
    off("PodTolerationRestriction", toleration_limits::PLUGIN),
    off("EventRateLimit", event_rate_limit::PLUGIN),
    off("ExtendedResourceToleration", extended_resources::PLUGIN),
    on("DefaultStorageClass", default_class::OF_CLAIMS),
    on("StorageObjectInUseProtection", storage_protection::PLUGIN),
    off("OwnerReferencesPermissionEnforcement", owner_references::PLUGIN),
    on("PersistentVolumeClaimResize", claim_resize::PLUGIN),
    on("RuntimeClass", runtime_class::PLUGIN),
    on("CertificateApproval", signers::APPROVAL),
    on("CertificateSigning", signers::SIGNING),
    on("ClusterTrustBundleAttest", signers::ATTEST),
    on("CertificateSubjectRestriction", certificate_subject::PLUGIN),
    on("DefaultIngressClass", default_class::OF_INGRESSES),
    off("DenyServiceExternalIPs", external_ips::PLUGIN),
    on("PodTopologyLabels", topology_labels::PLUGIN),
    on("PodResizeValidator", pod_resize::PLUGIN),
    on("", escalation::PLUGIN),
    on("MutatingAdmissionPolicy", dynamic::mutating::PLUGIN),
    on("MutatingAdmissionWebhook", dynamic::hooks::MUTATING),
    on("ValidatingAdmissionPolicy", dynamic::validating::PLUGIN),
    on("ValidatingAdmissionWebhook", dynamic::hooks::VALIDATING),
    off("AlwaysDeny", always_deny::PLUGIN),
];

impl<'a> Attributes<'a> {
    pub fn new(operation: Operation, target: &'a Target, call: &'a Call) -> Self {
        Self {
            operation,
            target,
            subresource: "",
            user: &call.user,
            call,
            old: None,
            dry_run: false,
            rounds: Mutex::default(),
        }
    }

    /// Whether this is about the objects of a resource themselves.
    fn is(&self, group: &str, resource: &str) -> bool {
        let own = &self.target.resource;
        self.subresource.is_empty() && own.group == group && own.resource == resource
    }

    fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource)
    }
}

impl Api {
    /// Lets the plugins change an object before it is checked.
    pub(crate) async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        let mut timer = Timer::start(self, attributes, Phase::Admit);
        let admitted = self.admit_rounds(attributes, object, &mut timer).await;
        timer.end(&admitted);
        admitted
    }

    async fn admit_rounds(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Value,
        timer: &mut Timer<'_>,
    ) -> Result<(), Status> {
        self.admit_once(attributes, object, timer).await?;
        {
            let mut rounds = attributes.rounds.lock();
            if !std::mem::take(&mut rounds.again) {
                return Ok(());
            }
            rounds.second = true;
        }
        // What webhooks and policies changed, the others see once more.
        self.admit_once(attributes, object, timer).await
    }

    async fn admit_once(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Value,
        timer: &mut Timer<'_>,
    ) -> Result<(), Status> {
        for (link, durations) in &self.plugins.chain {
            let admitted = match &link.plugin.admit {
                Admit::Never => continue,
                Admit::Now(admit) => admit(self, attributes, object),
                Admit::Waits(admit) => match admit(self, attributes, object) {
                    Some(step) => step.await,
                    None => Ok(()),
                },
            };
            timer.lap(durations.as_ref(), &admitted);
            admitted?;
        }
        Ok(())
    }

    /// Lets the plugins refuse an object that was checked.
    pub(crate) async fn validate_admission(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), Status> {
        let mut timer = Timer::start(self, attributes, Phase::Validate);
        let checked = self.check_all(attributes, object, &mut timer).await;
        timer.end(&checked);
        checked
    }

    async fn check_all(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
        timer: &mut Timer<'_>,
    ) -> Result<(), Status> {
        for (link, durations) in &self.plugins.chain {
            let checked = match &link.plugin.check {
                Check::Never => continue,
                Check::Now(check) => check(self, attributes, object),
                Check::Waits(check) => match check(self, attributes, object) {
                    Some(step) => step.await,
                    None => Ok(()),
                },
            };
            timer.lap(durations.as_ref(), &checked);
            checked?;
        }
        Ok(())
    }

    /// Both phases at once, for what is not stored in the form in which it is admitted: deletions, connections, and
    /// what is created below an object.
    pub(crate) async fn admit_whole(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), Status> {
        self.admit(attributes, object).await?;
        self.validate_admission(attributes, object).await
    }
}

//! The version that the whole cluster speaks: decided by the leader from what the members run, lowered for a downgrade
//! (etcd's `etcdserver/version`).

use std::time::Duration;

use mvcc::{Command, View};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use tonic::Status;

use crate::ETCD_VERSION;
use crate::context::Context;
use crate::files::STORAGE_VERSION;

/// How often the leader looks, and every member whether its storage follows.
const LOOK: Duration = Duration::from_millis(250);
/// How often while there is no version yet: clients may ask for it as soon as they are served.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// After this long a cluster that has members who told nothing gets the oldest version (etcd's `MinClusterVersion`).
const PATIENCE: Duration = Duration::from_secs(5);
const MIN_CLUSTER_VERSION: Version = Version { major: 3, minor: 0 };

/// A version without its patch, which says nothing about what is compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    /// Reads `major.minor.patch`; the patch may be missing, and may have what semantic versions have behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let (core, _) = text.split_once(['-', '+']).unwrap_or((text, ""));
        let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
        match numbers.as_slice() {
            [major, minor] if core == text => Some(Self { major: *major, minor: *minor }),
            [major, minor, _] => Some(Self { major: *major, minor: *minor }),
            _ => None,
        }
    }

    /// `major.minor`.
    fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    fn full(self) -> String {
        format!("{}.{}.0", self.major, self.minor)
    }

    /// One may go back one minor version.
    fn before(self) -> Option<Self> {
        self.minor.checked_sub(1).map(|minor| Self { minor, ..self })
    }
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What the leader knows when it looks.
#[derive(Clone, Debug)]
struct Known {
    cluster: Option<Version>,
    /// The oldest that a member runs; none while one has not told.
    oldest: Option<Version>,
    downgrade: Option<Version>,
    patient: bool,
}

/// The cluster's next version, if it is another one.
fn decide(known: &Known) -> Option<Version> {
    let Some(cluster) = known.cluster else {
        return known.oldest.or((!known.patient).then_some(MIN_CLUSTER_VERSION));
    };
    let oldest = known.oldest?;
    match known.downgrade {
        Some(target) if target == cluster => None,
        Some(target) if cluster.before() == Some(target) && oldest.before() == Some(target) => Some(target),
        Some(_) => None,
        None => (cluster.major == oldest.major && cluster < oldest).then_some(oldest),
    }
}

/// Whether every member runs what the cluster was to be brought back to.
fn is_downgraded(versions: &[Option<Version>], target: Version) -> bool {
    versions.iter().all(|version| *version == Some(target))
}

/// Keeps the cluster's version current while this member leads.
pub(crate) async fn keep(context: Context) {
    let mut led_since = None;
    let mut storage = context.storage_version();
    while !context.shutdown.is_triggered() {
        if context.store.is_leader() {
            let now = context.env.clock.monotonic();
            let since = *led_since.get_or_insert(now);
            look(&context, now.duration_since(since) < PATIENCE).await;
        } else {
            led_since = None;
        }
        let now = context.storage_version();
        if storage != now {
            tell_storage(&context, storage.as_deref(), now.as_deref());
            storage = now;
        }
        let decided = context.store.view().cluster_version().is_some();
        tokio::select! {
            () = context.env.clock.sleep(if decided { LOOK } else { FIRST_LOOK }) => {}
            () = context.shutdown.wait() => {}
        }
    }
}

fn tell_storage(context: &Context, before: Option<&str>, now: Option<&str>) {
    tracing::info!("storage-version" = before, "new-storage-version" = now, "updated storage version");
    if let Some(target) = context.store.view().downgrade_target() {
        tracing::info!(
            "target-version" = target,
            "server-version" = ETCD_VERSION,
            "The server is ready to downgrade"
        );
    }
}

async fn look(context: &Context, patient: bool) {
    let view = context.store.view();
    let members = context.store.members();
    let version = |id| view.member_version(id).and_then(Version::parse);
    let versions: Vec<_> = members.iter().map(|member| version(member.id)).collect();
    let target = view.downgrade_target().and_then(Version::parse);
    let known = Known {
        cluster: view.cluster_version().and_then(Version::parse),
        oldest: versions.iter().copied().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min()),
        downgrade: target,
        patient,
    };
    if let Some(next) = decide(&known) {
        tracing::info!(
            "cluster-version" = known.cluster.map(Version::short),
            "new-cluster-version" = next.short(),
            "updating cluster version"
        );
        propose(context, Command::ClusterVersion { version: next.full() }).await;
    } else if let Some(target) = target.filter(|target| is_downgraded(&versions, *target)) {
        tracing::info!("cluster-version" = target.short(), "the cluster has been downgraded");
        propose(context, Command::Downgrade { target: None }).await;
    }
}

/// What fails now is seen again at the next look.
async fn propose(context: &Context, command: Command) {
    if let Err(status) = context.propose_own(command).await {
        tracing::debug!(%status, "the cluster's version could not be changed yet");
    }
}

/// The version whose form the state has: it follows the cluster's once that is decided.
pub(crate) fn storage_version(view: &View) -> String {
    let cluster = view.cluster_version().and_then(Version::parse);
    cluster
        .filter(|cluster| *cluster != MIN_CLUSTER_VERSION)
        .map_or(STORAGE_VERSION.to_owned(), Version::full)
}

/// `Maintenance.Downgrade`: the cluster's version.
pub(crate) async fn downgrade(context: &Context, request: pb::DowngradeRequest) -> Result<String, Status> {
    let action = DowngradeAction::try_from(request.action);
    match action {
        Ok(DowngradeAction::Validate) => validate(context, &request.version).await.map(drop)?,
        Ok(DowngradeAction::Enable) => {
            let target = validate(context, &request.version).await;
            let target = target.inspect_err(|status| {
                tracing::warn!(error = status.message(), "reject downgrade request");
            })?;
            let target = Some(target.full());
            context.propose_own(Command::Downgrade { target }).await?;
        }
        Ok(DowngradeAction::Cancel) => cancel(context).await?,
        Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
    }
    let view = context.store.view();
    Ok(view.cluster_version().and_then(Version::parse).map(Version::short).unwrap_or_default())
}

async fn validate(context: &Context, text: &str) -> Result<Version, Status> {
    let target = Version::parse(text)
        .ok_or_else(|| Status::invalid_argument("etcdserver: wrong downgrade target version format"))?;
    context.barrier(false).await?;
    let view = context.store.view();
    let cluster = view.cluster_version().and_then(Version::parse).ok_or_else(|| {
        Status::failed_precondition("etcdserver: cluster version not found during downgrade")
    })?;
    if cluster.before() != Some(target) {
        return Err(Status::invalid_argument("etcdserver: invalid downgrade target version"));
    }
    if view.downgrade_target().is_some() {
        return Err(Status::failed_precondition("etcdserver: cluster has a downgrade job in progress"));
    }
    Ok(target)
}

/// As in etcd a job that is not there is told in the log only.
async fn cancel(context: &Context) -> Result<(), Status> {
    context.barrier(false).await?;
    if context.store.view().downgrade_target().is_none() {
        tracing::warn!(error = "etcdserver: no inflight downgrade job", "failed to cancel downgrade");
        return Ok(());
    }
    context.propose_own(Command::Downgrade { target: None }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect("a version")
    }

    #[test]
    fn versions_are_read_with_and_without_a_patch() {
        for text in ["3.7", "3.7.0", "3.7.12", "3.7.0-rc.1"] {
            assert_eq!(version(text).short(), "3.7", "{text}");
        }
        for wrong in ["", "3", "3.", "a.b", "3.7.0.0", "3.-7", "3.7-rc", "v3.7"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_cluster_speaks_what_its_oldest_member_understands() {
        let v = |text: &str| Some(version(text));
        let known = |cluster, oldest, downgrade| Known { cluster, oldest, downgrade, patient: true };
        assert_eq!(decide(&known(None, v("3.7.1"), None)), v("3.7"));
        assert_eq!(decide(&known(None, None, None)), None, "one has not told yet");
        assert_eq!(decide(&Known { patient: false, ..known(None, None, None) }), v("3.0"));
        assert_eq!(decide(&known(v("3.6"), v("3.7"), None)), v("3.7"));
        assert_eq!(decide(&known(v("3.7"), v("3.6"), None)), None, "never back by itself");
        assert_eq!(decide(&known(v("3.7"), v("3.7"), v("3.6"))), v("3.6"));
        assert_eq!(decide(&known(v("3.6"), v("3.7"), v("3.6"))), None, "it is there");
        assert_eq!(decide(&known(v("3.7"), v("3.8"), v("3.6"))), None);
        assert!(is_downgraded(&[v("3.6"), v("3.6")], version("3.6")));
        assert!(!is_downgraded(&[v("3.6"), None], version("3.6")));
    }
}

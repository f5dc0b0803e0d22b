//! Stops containers: their `preStop` hooks, then SIGTERM, then SIGKILL, in order and within one grace period. Driver.

use std::time::Duration;

use client::EventType;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use k8s_openapi::api::core::v1::{Container, Lifecycle};
use tokio::time::Instant;

use super::hooks::{self, Whose};
use super::lifecycle;
use super::observed::{ContainerView, Observed};
use super::worker::{Target, Worker};

/// From SIGTERM to SIGKILL a container has at least this long, whatever its hook used up (upstream's minimum).
const GRACE_MIN: Duration = Duration::from_secs(2);

/// Containers to stop.
pub(super) struct Stop<'a> {
    pub target: Option<&'a Target>,
    pub observed: &'a Observed,
    /// Ids; a group is told to stop when those before it have ended.
    pub groups: Vec<Vec<String>>,
    /// For all of it, hooks included, in seconds.
    pub grace: i64,
}

/// What is left of the grace period for the time between SIGTERM and SIGKILL.
fn rest(end: Instant, now: Instant) -> Duration {
    end.saturating_duration_since(now).max(GRACE_MIN)
}

impl Worker {
    /// All hooks at once; then each group in its turn (KEP-753).
    pub(super) async fn stop_containers(&self, stop: &Stop<'_>) {
        let grace = Duration::from_secs(u64::try_from(stop.grace).unwrap_or(0));
        let end = self.context.env.clock.monotonic() + grace;
        let mut turn: Shared<BoxFuture<'_, ()>> = futures::future::ready(()).boxed().shared();
        let mut all = Vec::new();
        for group in &stop.groups {
            let views = group.iter().filter_map(|id| stop.observed.containers.iter().find(|v| v.id == *id));
            let stops: Vec<_> = views.map(|view| self.stop_in_turn(stop, view, end, turn.clone())).collect();
            turn = join_all(stops).map(drop).boxed().shared();
            all.push(turn.clone());
        }
        join_all(all).await;
    }

    async fn stop_in_turn(
        &self,
        stop: &Stop<'_>,
        view: &ContainerView,
        end: Instant,
        turn: Shared<BoxFuture<'_, ()>>,
    ) {
        self.pre_stop(stop, view, end).await;
        turn.await;
        let left = rest(end, self.context.env.clock.monotonic());
        if let Err(error) = self.context.runtime.stop_container(view.id.clone(), left).await {
            tracing::warn!(uid = %self.uid, %error, "a container was not stopped");
        }
    }

    /// Runs the `preStop` hook within the grace period; one that ran to its end is not repeated.
    async fn pre_stop(&self, stop: &Stop<'_>, view: &ContainerView, end: Instant) {
        let container = container(stop.target, view);
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(hook) = hook else { return };
        let limit = end.saturating_duration_since(self.context.env.clock.monotonic());
        if limit.is_zero() || self.pre_stopped.lock().contains(&view.id) {
            return;
        }
        let ip = self.address(stop.observed);
        let whose = Whose { pod: &self.described(stop.target), ip: &ip, container: &container, id: &view.id };
        if let Err(text) = hooks::run(&self.context, &whose, hook, limit).await {
            tracing::debug!(uid = %self.uid, text, "a preStop hook failed");
            // The text may hold secrets (upstream leaves it out as well).
            if let Some(target) = stop.target {
                let kind = EventType::Warning;
                self.context.tell(&target.value, &view.name, kind, "FailedPreStopHook", "PreStopHook failed");
            }
        }
        self.pre_stopped.lock().insert(view.id.clone());
    }

    /// `name_namespace(uid)`, as upstream's texts name a pod.
    pub(super) fn described(&self, target: Option<&Target>) -> String {
        let metadata = target.map(|target| target.pod.metadata.clone()).unwrap_or_default();
        let (name, namespace) = (metadata.name.unwrap_or_default(), metadata.namespace.unwrap_or_default());
        format!("{name}_{namespace}({})", self.uid)
    }

    /// The pod's address; the node's own on the host's network.
    pub(super) fn address(&self, observed: &Observed) -> String {
        let own = observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
        own.unwrap_or_else(|| self.context.host_ips.first().map(ToString::to_string).unwrap_or_default())
    }
}

/// The spec of a container; of a pod whose object is gone, what the runtime's annotations tell of it.
fn container(target: Option<&Target>, view: &ContainerView) -> Container {
    let spec = target.and_then(|target| target.pod.spec.as_ref());
    if let Some((_, container)) = spec.and_then(|spec| lifecycle::find(spec, &view.name)) {
        return container.clone();
    }
    Container {
        name: view.name.clone(),
        ports: Some(view.ports.clone()),
        lifecycle: Some(Lifecycle { pre_stop: view.pre_stop.clone(), ..Lifecycle::default() }),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{ANNOTATION_PORTS, ANNOTATION_PRE_STOP};

    #[test]
    fn the_rest_of_the_grace_period_is_never_short() {
        let now = env::Env::real().clock.monotonic();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(rest(at(30), at(10)), Duration::from_secs(20));
        assert_eq!(rest(at(30), at(29)), GRACE_MIN);
        assert_eq!(rest(at(30), at(40)), GRACE_MIN, "a hook that overran");
    }

    #[test]
    fn a_pod_whose_object_is_gone_still_has_its_hook() {
        let pre_stop = r#"{"httpGet": {"path": "/bye", "port": "web"}}"#;
        let ports = r#"[{"name": "web", "containerPort": 80}]"#;
        let annotations = [(ANNOTATION_PRE_STOP, pre_stop), (ANNOTATION_PORTS, ports)];
        let status = protos::cri::ContainerStatus {
            annotations: annotations.map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
            ..Default::default()
        };
        let made = container(None, &ContainerView::from_cri("s", status));
        let hook = made.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let action = hook.and_then(|hook| hook.http_get.as_ref()).expect("a hook");
        assert_eq!(super::super::http_get::port(&made, &action.port), Ok(80));
    }
}

//! Eviction: a deletion that respects disruption budgets.

use api_rules::pod_disruption;
use api_types::selector::LabelSelector;
use api_types::status::Status;
use api_types::{Resource, Subresource, Value, meta, table};
use http::Response;
use serde_json::json;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::convert;
use crate::decode::{self, Expected};
use crate::info::Query;
use crate::options::{self, DeleteOptions};
use crate::registry::{Target, Update, UpdateKind};
use crate::select::Selection;

/// Tries of an eviction whose pod keeps changing (upstream's `EvictionsRetry`).
const MAX_TRIES: usize = 20;
/// Evictions that a budget's controller has not seen done yet, at most.
const MAX_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What lets a pod go.
enum Leave {
    /// No budget is asked: it has ended, or never ran. While it could still become ready it goes only as it is now.
    Free { as_it_is: bool },
    /// It is not ready, and its budget holds without it. It goes only as it is now.
    Unhealthy { budget: String },
    /// A budget was spent on it, or there is none.
    Paid,
}

impl Api {
    pub(super) async fn evict(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let api_version = sub.api_version();
        let mut eviction = decode::body(call, Expected::sub(sub, &api_version))?;
        if meta::name(&eviction) != target.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        self.admit_created(call, target, sub.name, &mut eviction).await?;
        let asked = &eviction["deleteOptions"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let options = DeleteOptions {
            grace_seconds: asked["gracePeriodSeconds"].as_i64(),
            uid: text(&asked["preconditions"]["uid"]),
            resource_version: text(&asked["preconditions"]["resourceVersion"]),
            dry_run: options::of_write(call)?
                || asked["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
            admitted: true,
            ..DeleteOptions::default()
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let view = self.storage.fresh().await?;
            let pod = target.resource.decode(&self.find(&view, target)?)?;
            target.check_uid(&options.uid, meta::uid(&pod))?;
            let leave = self.leave(call, target, &pod, options.dry_run).await?;
            match self.let_go(call, target, &pod, &options, &leave).await {
                Ok(()) => return Ok(call.status(&Status { code: 201, ..Status::success(None) })),
                Err(status) if status.code == 409 && options.resource_version.is_empty() => match leave {
                    Leave::Free { as_it_is: true } if tries < MAX_TRIES => {}
                    Leave::Unhealthy { budget } => return Err(busy(&budget)),
                    _ => return Err(status),
                },
                Err(status) => return Err(status),
            }
        }
    }

    /// Whether a pod may go, and why; spends its budget if need be.
    async fn leave(&self, call: &Call, target: &Target, pod: &Value, dry_run: bool) -> Result<Leave, Status> {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") || meta::is_being_deleted(pod) {
            return Ok(Leave::Free { as_it_is: false });
        }
        if phase == "Pending" {
            return Ok(Leave::Free { as_it_is: true });
        }
        let Some(budget) = self.budget_of(target, pod)? else { return Ok(Leave::Paid) };
        if !is_ready(pod) && goes_unhealthy(&budget) {
            return Ok(Leave::Unhealthy { budget: meta::name(&budget).to_owned() });
        }
        let (name, now) = (target.name.clone(), self.now_text());
        let update = Update { kind: UpdateKind::Status, dry_run };
        let budgets = Target::new(budgets(), &target.namespace, meta::name(&budget));
        self.update(call, &budgets, update, &mut |old| spend(old, &name, &now)).await?;
        Ok(Leave::Paid)
    }

    /// Says in the pod's status that it is evicted, and deletes it.
    async fn let_go(
        &self,
        call: &Call,
        target: &Target,
        pod: &Value,
        options: &DeleteOptions,
        leave: &Leave,
    ) -> Result<(), Status> {
        let mut options = options.clone();
        let as_it_is = matches!(leave, Leave::Free { as_it_is: true } | Leave::Unhealthy { .. });
        if as_it_is && options.resource_version.is_empty() {
            options.resource_version = meta::resource_version(pod).to_owned();
        }
        if !options.dry_run && !meta::is_being_deleted(pod) {
            let (wanted, now) = (options.resource_version.clone(), self.now_text());
            let update = Update { kind: UpdateKind::Status, dry_run: false };
            let written = self
                .update(call, target, update, &mut |old| {
                    let version = meta::resource_version(old);
                    if !wanted.is_empty() && version != wanted {
                        return Err(target.modified());
                    }
                    Ok(evicted(old, &now))
                })
                .await?;
            if !options.resource_version.is_empty() {
                options.resource_version = written.kv.mod_revision.to_string();
            }
        }
        self.delete(call, target, &options).await.map(|_| ())
    }

    /// The one budget that selects a pod, if any.
    fn budget_of(&self, target: &Target, pod: &Value) -> Result<Option<Value>, Status> {
        let all = Target::new(budgets(), &target.namespace, "");
        let everything = Selection::read(&all.resource, &Query::default())?;
        let found = self.select(&self.storage.view(), &all, &everything)?;
        let found = found.iter().filter_map(|kv| convert::decode(budgets(), kv).ok());
        let mut matching = found.filter(|budget| {
            LabelSelector::from_value(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches_labels(meta::labels(pod)))
        });
        let first = matching.next();
        if matching.next().is_some() {
            let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::failure(500, "", text));
        }
        Ok(first)
    }
}

fn budgets() -> &'static Resource {
    table::find("policy", "v1", "poddisruptionbudgets").expect("invariant: the table of kinds holds it")
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a budget lets pods go that are not ready (KEP-3017).
fn goes_unhealthy(budget: &Value) -> bool {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let wanted = number("desiredHealthy");
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || wanted > 0 && number("currentHealthy") >= wanted
}

/// The pod with the condition that says why it goes (KEP-3329).
fn evicted(pod: &Value, now: &str) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now,
    });
    let mut pod = pod.clone();
    let conditions = meta::child_mut(&mut pod, &["status"]).entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        match conditions.iter_mut().find(|condition| condition["type"] == "DisruptionTarget") {
            Some(before) if before["status"] == "True" => {}
            Some(before) => *before = condition,
            None => conditions.push(condition),
        }
    }
    pod
}

fn busy(budget: &str) -> Status {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    Status::too_many(REFUSED, 10).with_cause("DisruptionBudget", &cause, "")
}

/// The budget after one more disruption, or 429 when there is none left.
fn spend(budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let status = &budget["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if number("observedGeneration") < meta::generation(budget) {
        return Err(busy(meta::name(budget)));
    }
    let disrupted = status["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden("policy", "poddisruptionbudget", meta::name(budget), why));
    }
    let left = number("disruptionsAllowed") - 1;
    if left < 0 {
        let cause = format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            meta::name(budget),
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(Status::too_many(REFUSED, 0).with_cause("DisruptionBudget", &cause, ""));
    }
    let mut budget = budget.clone();
    let status = meta::child_mut(&mut budget, &["status"]);
    status.insert("disruptionsAllowed".into(), left.into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), now.into());
    }
    if left == 0 {
        pod_disruption::tell(&mut budget["status"], now);
    }
    Ok(budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let budget = json!({"metadata": {"name": "b"}, "status": {"disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let spent = spend(&budget, "p", "t").unwrap();
        assert_eq!(spent["status"]["disruptedPods"]["p"], "t");
        let refused = spend(&spent, "q", "t").unwrap_err();
        assert_eq!(refused.code, 429);
        assert_eq!(
            refused.details.unwrap().causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
    }

    #[test]
    fn pods_that_are_not_ready_go_while_enough_others_are() {
        let budget = |policy: &str, healthy: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"desiredHealthy": 2, "currentHealthy": healthy}});
        assert!(
            goes_unhealthy(&budget("IfHealthyBudget", 2)) && !goes_unhealthy(&budget("IfHealthyBudget", 1))
        );
        assert!(goes_unhealthy(&budget("AlwaysAllow", 0)));
    }

    #[test]
    fn a_pod_says_once_that_it_is_evicted() {
        let once = evicted(&json!({"status": {}}), "t1");
        assert_eq!(once["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
        assert_eq!(evicted(&once, "t2"), once);
    }
}

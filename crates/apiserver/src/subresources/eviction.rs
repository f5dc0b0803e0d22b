//! Eviction: a deletion that respects disruption budgets.

use api_types::selector::LabelSelector;
use api_types::status::Status;
use api_types::{Subresource, Value, meta, table};
use http::Response;
use serde_json::json;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::convert;
use crate::decode::{self, Expected};
use crate::info::Query;
use crate::registry::delete::DeleteOptions;
use crate::registry::{Target, Update, UpdateKind};
use crate::select::Selection;

impl Api {
    pub(super) async fn evict(
        &self,
        call: &Call,
        target: &Target,
        sub: &'static Subresource,
    ) -> Result<Response<Body>, Status> {
        let api_version = sub.api_version();
        let expected = Expected { message: sub.message, api_version: &api_version, kind: sub.kind };
        let eviction = decode::body(call, expected)?;
        let asked = &eviction["deleteOptions"];
        let options = DeleteOptions {
            grace_seconds: asked["gracePeriodSeconds"].as_i64(),
            uid: asked["preconditions"]["uid"].as_str().unwrap_or_default().to_owned(),
            dry_run: call.dry_run(Some(asked))?,
            ..DeleteOptions::default()
        };
        let view = self.storage.fresh().await?;
        let pod = convert::decode(target.resource, &self.find(&view, target)?)?;
        target.check_uid(&options.uid, meta::uid(&pod))?;
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
        if !ended && !meta::is_being_deleted(&pod) {
            self.spend_budget(call, target, &pod, options.dry_run).await?;
        }
        self.delete(call, target, &options).await?;
        Ok(call.status(&Status { code: 201, ..Status::success(None) }))
    }

    async fn spend_budget(
        &self,
        call: &Call,
        target: &Target,
        pod: &Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let Some(budgets) = table::find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
        let all = Target::new(budgets, &target.namespace, "");
        let everything = Selection::parse(budgets, &Query::default())?;
        let found = self.select(&self.storage.view(), &all, &everything)?;
        let found = found.iter().filter_map(|kv| convert::decode(budgets, kv).ok());
        let matching: Vec<Value> = found
            .filter(|budget| {
                LabelSelector::from_value(&budget["spec"]["selector"])
                    .is_ok_and(|selector| selector.matches_labels(meta::labels(pod)))
            })
            .collect();
        let budget = match matching.as_slice() {
            [] => return Ok(()),
            [one] => Target::new(budgets, &target.namespace, meta::name(one)),
            _ => {
                let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::internal(text));
            }
        };
        let (name, now) = (target.name.clone(), self.now_text());
        let update = Update { kind: UpdateKind::Status, dry_run };
        self.update(call, &budget, update, &mut |old| spend(old, &name, &now)).await?;
        Ok(())
    }
}

/// The budget after one more disruption, or 429 when there is none left.
fn spend(budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let status = &budget["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if number("observedGeneration") < meta::generation(budget) {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause =
            format!("The disruption budget {} is still being processed by the server.", meta::name(budget));
        return Err(Status::too_many(text, 10).with_cause("DisruptionBudget", &cause, ""));
    }
    if number("disruptionsAllowed") <= 0 {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause = format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            meta::name(budget),
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(Status::too_many(text, 0).with_cause("DisruptionBudget", &cause, ""));
    }
    let mut budget = budget.clone();
    let left = number("disruptionsAllowed") - 1;
    let status = meta::child_mut(&mut budget, &["status"]);
    status.insert("disruptionsAllowed".into(), left.into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), now.into());
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
}

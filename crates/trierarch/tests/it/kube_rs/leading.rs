//! Leader election over a Lease, as programs do that bring their own: what counts is that of several writes on condition
//! of one version one succeeds, whichever masters they go through.

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::{from, namespace, refused};

const NAMESPACE: &str = "rs-leading";
const CANDIDATES: usize = 8;
const TERMS: i32 = 5;

pub async fn play(one: Client, two: Client) {
    namespace(&one, NAMESPACE).await;
    let door = |index: usize| if index.is_multiple_of(2) { one.clone() } else { two.clone() };
    let candidates: Vec<Api<Lease>> =
        (0..CANDIDATES).map(|index| Api::namespaced(door(index), NAMESPACE)).collect();
    let params = PostParams::default();
    let first: Lease =
        from(json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 15, "leaseTransitions": 0}}));
    let made = join_all(candidates.iter().map(|api| api.create(&params, &first))).await;
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1, "one makes it");
    for term in 1..=TERMS {
        let seen = join_all(candidates.iter().map(|api| api.get("l"))).await;
        let taken = seen.into_iter().enumerate().map(|(index, lease)| {
            let mut lease = lease.expect("the lease");
            let spec = lease.spec.as_mut().expect("a spec");
            assert_eq!(spec.lease_transitions, Some(term - 1), "everyone sees the last term");
            (spec.holder_identity, spec.lease_transitions) = (Some(format!("c{index}")), Some(term));
            lease
        });
        let taken: Vec<Lease> = taken.collect();
        let tries = candidates.iter().zip(&taken).map(|(api, lease)| api.replace("l", &params, lease));
        let results = join_all(tries).await;
        let winners: Vec<usize> = (0..CANDIDATES).filter(|index| results[*index].is_ok()).collect();
        assert_eq!(winners.len(), 1, "one leads: {winners:?}");
        let mut held = None;
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(lease) => held = Some((index, lease)),
                lost => assert!(refused(lost).is_conflict()),
            }
        }
        let (winner, lease) = held.expect("a winner");
        let renewed = candidates[winner].replace("l", &params, &lease).await.expect("renewed");
        let holder = renewed.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        assert_eq!((holder, renewed.name_any()), (Some(format!("c{winner}")), "l".to_owned()));
    }
}

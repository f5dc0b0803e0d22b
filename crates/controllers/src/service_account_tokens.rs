//! Secrets of type `kubernetes.io/service-account-token` get a token that lasts as long as they do, and go with their
//! account (upstream: `pkg/controller/serviceaccount/tokens_controller.go`).

use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::DeleteParams;
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// How long a Secret waits for an account that the informers do not show.
const PATIENCE: Duration = Duration::from_secs(10);

/// Signs the token of an account in a Secret.
#[derive(Clone)]
pub struct TokenSigner(pub Arc<Sign>);

/// Makes the token of an account for a Secret.
pub type Sign = dyn Fn(&Value, &Value) -> Option<String> + Send + Sync;

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}

/// See the module.
pub struct ServiceAccountTokens {
    pub signer: TokenSigner,
    /// PEM.
    pub root_ca: String,
}

impl Controller for ServiceAccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: kind("", "v1", "secrets"),
                keys: |change, _| match change.object()["type"] == TYPE {
                    true => own_key("secrets", change),
                    false => Vec::new(),
                },
            },
            Watch {
                resource: kind("", "v1", "serviceaccounts"),
                keys: |change, listers| {
                    let account = change.object();
                    let all = listers.get("secrets").map(|lister| lister.all()).unwrap_or_default();
                    let own = all.iter().filter(|secret| {
                        secret["type"] == TYPE
                            && meta::namespace(secret) == meta::namespace(account)
                            && meta::annotation(secret, NAME) == Some(meta::name(account))
                    });
                    own.map(|secret| Key::of("secrets", secret)).collect()
                },
            },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(secret) = listers.object(key).filter(|secret| secret["type"] == TYPE) else {
            return Plan::nothing();
        };
        if meta::is_being_deleted(&secret) {
            return Plan::nothing();
        }
        let name = meta::annotation(&secret, NAME).unwrap_or_default();
        let account = listers.get("serviceaccounts").and_then(|lister| lister.get(&key.namespace, name));
        let uid = meta::annotation(&secret, UID).unwrap_or_default();
        match account.filter(|account| uid.is_empty() || uid == meta::uid(account)) {
            Some(account) => self.fill(&account, &secret),
            None => without_account(&secret, now),
        }
    }
}

/// A Secret whose account is gone goes too; a new one may be there before its account is seen.
fn without_account(secret: &Arc<Value>, now: Now) -> Plan {
    let made = time::to_millis(meta::creation_timestamp(secret)).unwrap_or(now.wall_millis);
    let patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    if now.wall_millis - made < patience {
        return Plan { actions: Vec::new(), recheck_after: Some(PATIENCE) };
    }
    Plan::of(Action::Delete(kind("", "v1", "secrets").into(), secret.clone(), DeleteParams::default()))
}

impl ServiceAccountTokens {
    fn fill(&self, account: &Value, secret: &Value) -> Plan {
        let mut changed = secret.clone();
        meta::set_annotation(&mut changed, UID, meta::uid(account));
        let encoded = |text: &str| STANDARD.encode(text);
        let data = meta::child_mut(&mut changed, &["data"]);
        data.insert("ca.crt".into(), encoded(&self.root_ca).into());
        data.insert("namespace".into(), encoded(meta::namespace(secret)).into());
        if data.get("token").and_then(Value::as_str).is_none_or(str::is_empty) {
            let Some(token) = (self.signer.0)(account, secret) else { return Plan::nothing() };
            data.insert("token".into(), json!(encoded(&token)));
        }
        match changed == *secret {
            true => Plan::nothing(),
            false => Plan::of(Action::Update(kind("", "v1", "secrets"), changed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn decide(objects: Vec<Value>, at: i64) -> Plan {
        let controller = ServiceAccountTokens {
            signer: TokenSigner(Arc::new(|account, _| Some(format!("for {}", meta::uid(account))))),
            root_ca: "ca".into(),
        };
        controller.reconcile(&listers(objects), &Key::new("secrets", "ns", "s"), Now::at(at))
    }

    fn secret() -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {"name": "s", "namespace": "ns",
            "creationTimestamp": "1970-01-01T00:00:00Z", "annotations": {NAME: "a"}}})
    }

    fn account(uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "ns", "uid": uid}})
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let plan = decide(vec![secret(), account("u")], 0);
        let [Action::Update(_, filled)] = plan.actions.as_slice() else { panic!("{plan:?}") };
        assert_eq!(filled["data"]["token"], STANDARD.encode("for u"));
        assert_eq!(filled["data"]["namespace"], STANDARD.encode("ns"));
        assert_eq!(meta::annotation(filled, UID), Some("u"));
        assert!(decide(vec![filled.clone(), account("u")], 0).actions.is_empty());
        assert_eq!(show(&decide(vec![filled.clone(), account("w")], 20_000)), ["delete secrets ns/s"]);
        assert!(decide(vec![secret()], 1000).recheck_after.is_some());
        assert_eq!(show(&decide(vec![secret()], 20_000)), ["delete secrets ns/s"]);
        let other = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "s", "namespace": "ns"}});
        assert!(decide(vec![other], 20_000).actions.is_empty());
    }
}

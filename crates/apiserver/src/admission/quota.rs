//! ResourceQuota: nothing is written that a quota of its namespace has no room for. What is used is written in the same
//! transaction as the object, on condition that no quota of the namespace has changed and none was made meanwhile: of
//! two masters that give out the same room only one succeeds, and a write that fails uses nothing.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use api_rules::quota::{self, Charge};
use api_types::status::Status;
use api_types::{Resource, Value, meta, table};
use mvcc::{Compare, CompareResult, CompareTarget, KeyRange, KeyValue};
use tokio::sync::{Mutex, MutexGuard};

use crate::api::Api;
use crate::convert;
use crate::registry::{Extra, Target};
use crate::storage::{self, View};

/// Writes that wait for each other's charges: namespaces share this many turns.
const TURNS: usize = 64;

/// Who may charge quotas on this master. Two masters find out by their transactions.
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..TURNS).map(|_| Mutex::default()).collect())
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(namespace);
        let turn = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        self.0[turn].lock().await
    }
}

/// A write, as quotas see it.
pub(crate) struct Charged<'a> {
    pub target: &'a Target,
    pub subresource: &'a str,
    pub old: Option<&'a Value>,
    pub new: &'a Value,
}

fn quotas() -> &'static Resource {
    table::find("", "v1", "resourcequotas").expect("invariant: the table of kinds holds ResourceQuota")
}

fn range(namespace: &str) -> KeyRange {
    KeyRange::prefix(format!("{}{namespace}/", quotas().storage_prefix))
}

fn stored(view: &View, namespace: &str) -> Result<Vec<(KeyValue, Value)>, Status> {
    let range = range(namespace);
    let each = storage::each(view, &range);
    each.map(|kv| kv.and_then(|kv| Ok((kv.clone(), convert::decode(quotas(), &kv)?)))).collect()
}

impl Api {
    /// Waits until no other write of this master charges the quotas of a namespace; not at all where none counts the
    /// kind.
    pub(crate) async fn quota_turn(
        &self,
        target: &Target,
        subresource: &str,
        is_update: bool,
    ) -> Result<Option<MutexGuard<'_, ()>>, Status> {
        let resource = target.resource.qualified();
        let charges = self.plugins.charges_quotas && target.resource.namespaced;
        if !charges || !quota::counts(&resource, subresource, is_update) {
            return Ok(None);
        }
        let tracks = |quota: &Value| {
            let mut names = quota["status"]["hard"].as_object().into_iter().flat_map(|hard| hard.keys());
            names.any(|name| quota::tracks(&resource, name))
        };
        let limited = stored(&self.storage.view(), &target.namespace)?.iter().any(|(_, quota)| tracks(quota));
        Ok(if limited { Some(self.turns.take(&target.namespace).await) } else { None })
    }

    /// What must go with a write so that the quotas of its namespace stay true.
    ///
    /// # Errors
    /// 403 with upstream's text when a quota does not allow it.
    pub(crate) async fn charge_quota(&self, view: &Arc<View>, write: &Charged<'_>) -> Result<Extra, Status> {
        let resource = write.target.resource.qualified();
        let charge = Charge {
            resource: &resource,
            subresource: write.subresource,
            old: write.old,
            new: write.new,
            now: self.now(),
        };
        let charges = self.plugins.charges_quotas && write.target.resource.namespaced;
        if !charges || !quota::counts(&resource, write.subresource, write.old.is_some()) {
            return Ok(Extra::new());
        }
        match charge_at(view, write.target, &charge)? {
            Ok(extra) => Ok(extra),
            // This replica may be behind what was given back.
            Err(_) => {
                let fresh = self.storage.fresh().await?;
                charge_at(&fresh, write.target, &charge)?.map_err(|why| write.target.forbidden(&why))
            }
        }
    }
}

fn charge_at(view: &View, target: &Target, charge: &Charge<'_>) -> Result<Result<Extra, String>, Status> {
    let namespace = &target.namespace;
    let (kvs, objects): (Vec<KeyValue>, Vec<Value>) = stored(view, namespace)?.into_iter().unzip();
    let charged = match quota::charge(&objects, charge) {
        Ok(charged) => charged,
        Err(why) => return Ok(Err(why)),
    };
    // None of them has changed since, and there is no other: what this replica does not show yet counts too.
    let unchanged = Compare {
        range: range(namespace),
        result: CompareResult::Less,
        target: CompareTarget::Mod(view.revision() + 1),
    };
    let mut extra: Extra = vec![(Some(unchanged), None)];
    for (position, used) in charged {
        let (kv, mut object) = (&kvs[position], objects[position].clone());
        meta::child_mut(&mut object, &["status"]).insert("used".into(), quota::to_value(&used));
        let value = convert::encode(quotas(), &object)?;
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        extra.push((None, Some(storage::put(key, value))));
    }
    Ok(Ok(extra))
}

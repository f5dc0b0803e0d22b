//! FlowSchemas and priority levels as they are stored, made into rules and shares of seats. What is broken does not
//! count; the schemas and levels that must be are there even if nobody stored them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::{Value, meta};

use super::defaults;
use super::rules::Schema;
use super::seats::{Queuing, Share};
use crate::info::RequestInfo;
use crate::user::UserInfo;

pub(super) const EXEMPT: &str = "exempt";
pub(super) const CATCH_ALL: &str = "catch-all";
/// Seats of one request, at most (upstream's `maximumSeats`).
const MAX_SEATS: u32 = 10;
/// The part of a level's seats that one request may take, in hundredths.
const MAX_PERCENT: u32 = 15;

/// A priority level.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub uid: String,
    shares: u64,
    lendable_percent: u64,
    borrowing_percent: Option<u64>,
    queuing: Option<Queuing>,
    exempt: bool,
    /// Of all levels together.
    all_shares: u64,
}

impl Level {
    /// None for a level that contradicts itself.
    fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let exempt = match spec["type"].as_str()? {
            "Exempt" => true,
            "Limited" => false,
            _ => return None,
        };
        let (own, other) = if exempt { ("exempt", "limited") } else { ("limited", "exempt") };
        if exempt != (meta::name(object) == EXEMPT) || !spec[own].is_object() || spec[other].is_object() {
            return None;
        }
        let own = &spec[own];
        let number = |value: &Value, default: u64| value.as_u64().unwrap_or(default);
        let queuing = &own["limitResponse"]["queuing"];
        let queuing = match own["limitResponse"]["type"].as_str() {
            Some("Queue") if queuing.is_object() => {
                let number = |field: &str| usize::try_from(number(&queuing[field], 1).max(1)).unwrap_or(1);
                let queues = number("queues");
                Some(Queuing {
                    queues,
                    hand: number("handSize").min(queues),
                    length: number("queueLengthLimit"),
                })
            }
            Some("Reject") => None,
            _ if exempt => None,
            _ => return None,
        };
        Some(Self {
            uid: meta::uid(object).to_owned(),
            shares: number(&own["nominalConcurrencyShares"], if exempt { 0 } else { 30 }),
            lendable_percent: number(&own["lendablePercent"], 0),
            borrowing_percent: own["borrowingLimitPercent"].as_u64(),
            queuing,
            exempt,
            all_shares: 0,
        })
    }

    pub fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Whether requests may wait for seats.
    pub fn has_queues(&self) -> bool {
        self.queuing.is_some()
    }

    /// The level's own seats, of `all`.
    fn nominal(&self, all: u32) -> u32 {
        let seats = (u64::from(all) * self.shares).div_ceil(self.all_shares.max(1));
        u32::try_from(seats).unwrap_or(u32::MAX)
    }

    /// Seats that one request may take.
    pub fn max_seats(&self, all: u32) -> u32 {
        let nominal = self.nominal(all);
        let hand = self.queuing.map_or(1, |queuing| u32::try_from(queuing.hand).unwrap_or(u32::MAX));
        (nominal * MAX_PERCENT).div_ceil(100).min(nominal / hand.max(1)).clamp(1, MAX_SEATS)
    }

    fn share(&self, all: u32) -> Share {
        let nominal = self.nominal(all);
        let part =
            |percent: u64| u32::try_from((u64::from(nominal) * percent + 50) / 100).unwrap_or(u32::MAX);
        Share {
            nominal,
            lendable: part(self.lendable_percent),
            most: nominal.saturating_add(self.borrowing_percent.map_or(all, part)),
            queuing: self.queuing,
        }
    }
}

/// The rules of the moment.
#[derive(Clone, Debug)]
pub(super) struct Config {
    schemas: Vec<Schema>,
    levels: BTreeMap<Arc<str>, Level>,
}

impl Config {
    pub fn of(schemas: &[Value], levels: &[Value]) -> Self {
        let defaults = defaults::all();
        let of_kind = |kind: &'static str| {
            let all = defaults.iter().filter(move |default| default.is_mandatory);
            all.map(|default| &default.object).filter(move |object| meta::kind(object) == kind)
        };
        let mut known: BTreeMap<Arc<str>, Level> = BTreeMap::new();
        for object in of_kind(defaults::LEVEL).chain(levels) {
            if let Some(level) = Level::of(object) {
                known.insert(meta::name(object).into(), level);
            }
        }
        let all_shares = known.values().map(|level| level.shares).sum();
        known.values_mut().for_each(|level| level.all_shares = all_shares);
        let mut by_name: BTreeMap<String, Schema> = BTreeMap::new();
        for object in of_kind(defaults::SCHEMA).chain(schemas) {
            let schema = Schema::of(object);
            if known.contains_key(&schema.level) {
                by_name.insert(schema.name.clone(), schema);
            }
        }
        let mut schemas: Vec<Schema> = by_name.into_values().collect();
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        Self { schemas, levels: known }
    }

    /// The schema of a request.
    pub fn classify(&self, info: &RequestInfo, user: &UserInfo) -> &Schema {
        let found = self.schemas.iter().find(|schema| schema.matches(info, user));
        let rest = || self.schemas.iter().find(|schema| schema.name == CATCH_ALL);
        found.or_else(rest).expect("invariant: the schema that catches all is always there")
    }

    /// The level of a schema.
    pub fn level(&self, name: &Arc<str>) -> &Level {
        self.levels.get(name).expect("invariant: schemas without a level were left out")
    }

    /// What each level but the exempt one has of `all` seats.
    pub fn shares(&self, all: u32) -> BTreeMap<Arc<str>, Share> {
        let limited = self.levels.iter().filter(|(_, level)| !level.exempt);
        limited.map(|(name, level)| (name.clone(), level.share(all))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaults_of(kind: &str) -> Vec<Value> {
        let all = defaults::all().into_iter().map(|default| default.object);
        all.filter(|object| meta::kind(object) == kind).collect()
    }

    fn config() -> Config {
        Config::of(&defaults_of(defaults::SCHEMA), &defaults_of(defaults::LEVEL))
    }

    fn info(verb: &'static str, group: &str, resource: &str, namespace: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb,
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn requests_are_classified_as_by_upstreams_defaults() {
        let config = config();
        let of = |info: &RequestInfo, user: &UserInfo| {
            let schema = config.classify(info, user);
            format!("{} {}", schema.name, schema.level)
        };
        let node = UserInfo::new("system:node:a", &["system:nodes"]);
        let manager = UserInfo::new("system:kube-controller-manager", &[]);
        let system = UserInfo::service_account("kube-system", "x", "");
        let lease = info("update", "coordination.k8s.io", "leases", "kube-node-lease");
        let pods = info("list", "", "pods", "default");
        assert_eq!(of(&pods, &UserInfo::new("root", &["system:masters"])), "exempt exempt");
        assert_eq!(of(&lease, &node), "system-node-high node-high");
        assert_eq!(of(&pods, &node), "system-nodes system");
        assert_eq!(of(&lease, &manager), "system-leader-election leader-election");
        assert_eq!(of(&pods, &manager), "kube-controller-manager workload-high");
        assert_eq!(of(&pods, &system), "kube-system-service-accounts workload-high");
        assert_eq!(of(&pods, &UserInfo::service_account("a", "x", "")), "service-accounts workload-low");
        assert_eq!(of(&pods, &UserInfo::new("jane", &[])), "global-default global-default");
        let live = RequestInfo { path: "/livez".into(), verb: "get", ..RequestInfo::default() };
        assert_eq!(of(&live, &UserInfo::anonymous()), "probes exempt");
    }

    #[test]
    fn what_must_be_is_there_without_objects() {
        let config = Config::of(&[], &[]);
        let schema = config.classify(&info("list", "", "pods", ""), &UserInfo::new("jane", &[]));
        assert_eq!((schema.name.as_str(), &*schema.level), (CATCH_ALL, CATCH_ALL));
        assert_eq!(config.shares(600).len(), 1);
    }

    #[test]
    fn seats_are_shared_as_upstream_does() {
        let shares = config().shares(600);
        let of = |name: &str| {
            let share = &shares[name];
            [share.nominal, share.lendable]
        };
        // 245 shares in all.
        assert_eq!(of("workload-low"), [245, 221]);
        assert_eq!(of("workload-high"), [98, 49]);
        assert_eq!(of("catch-all"), [13, 0]);
        assert_eq!(shares["system"].queuing, Some(Queuing { queues: 64, hand: 6, length: 50 }));
        assert_eq!(shares["catch-all"].queuing, None);
        assert_eq!(config().level(&"workload-low".into()).max_seats(600), 10);
        assert_eq!(config().level(&"leader-election".into()).max_seats(600), 4);
    }

    #[test]
    fn a_schema_without_its_level_and_a_broken_level_do_not_count() {
        let level = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
        let schema = json!({
            "metadata": {"name": "s"},
            "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 1, "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "*"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
            }]},
        });
        let name = |levels: &[Value]| {
            let config = Config::of(std::slice::from_ref(&schema), levels);
            config.classify(&info("get", "", "pods", "a"), &UserInfo::anonymous()).name.clone()
        };
        let good = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}});
        assert_eq!(name(&[level(good)]), "s");
        assert_eq!(name(&[level(json!({"type": "Exempt", "exempt": {}}))]), CATCH_ALL);
        assert_eq!(name(&[]), CATCH_ALL);
    }
}

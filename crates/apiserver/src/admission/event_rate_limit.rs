//! EventRateLimit: Events that come too fast are refused: all of this master's, those of a namespace, those of a user, or
//! those of one source about one object, whatever its configuration says.

use std::sync::Arc;
use std::time::Duration;

use api_rules::errors::{At, Errors};
use api_rules::look::Look;
use api_types::Value;
use api_types::status::Status;
use env::Rng;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::cache::Cache;
use crate::config_file;

const GROUP: &str = "eventratelimit.admission.k8s.io";
const LIMITS: At<'static> = At::root("limits");
const TYPES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];
/// Buckets of a limit, unless its configuration says otherwise.
const DEFAULT_BUCKETS: usize = 4096;
/// As long as a bucket is kept, unless others push it out: longer than any server runs.
const KEPT_FOR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, event: &Value) -> Result<(), Status> {
    let resource = &attributes.target.resource;
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    // Upstream knows those of `events.k8s.io` by another kind, and lets them pass.
    let meant = resource.group.is_empty() && resource.kind == "Event";
    if !written || !meant || attributes.dry_run {
        return Ok(());
    }
    let request = Request { namespace: &attributes.target.namespace, user: &attributes.user.name, event };
    api.plugins.event_limits.take(&request, api.storage.env.clock.monotonic())
}

/// What of a request the limits look at.
struct Request<'a> {
    namespace: &'a str,
    user: &'a str,
    event: &'a Value,
}

/// All limits. Each master has its own.
#[derive(Default)]
pub(super) struct Limits(Vec<Limit>);

/// One limit: a bucket for each key.
struct Limit {
    kind: String,
    rate: Rate,
    /// Which bucket was not asked for the longest time goes first, and is full again later.
    buckets: Cache<Arc<Mutex<Bucket>>>,
}

#[derive(Clone, Copy)]
struct Rate {
    /// Events a second.
    qps: f64,
    /// Events that a full bucket holds.
    burst: f64,
}

impl Limits {
    /// Reads the plugin's configuration.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn read(document: Option<&Value>, rng: &Rng) -> Result<Self, String> {
        let limits = match document {
            Some(document) => {
                config_file::check_kind(document, GROUP, "Configuration", &["v1alpha1"])?;
                document.at("limits")
            }
            None => &Value::Null,
        };
        let list = limits.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut errors = Errors::new();
        if list.is_empty() {
            errors.invalid(LIMITS, limits.clone(), "must not be empty");
        }
        for (index, limit) in list.iter().enumerate() {
            validate(limit, LIMITS.index(index), &mut errors);
        }
        config_file::told(errors)?;
        Ok(Self(list.iter().map(|limit| Limit::new(limit, rng)).collect()))
    }

    /// Takes a place in each bucket that the request belongs to, as far as there is one.
    ///
    /// # Errors
    /// 429 that names the empty ones.
    fn take(&self, request: &Request<'_>, now: Instant) -> Result<(), Status> {
        let refused: Vec<String> = self.0.iter().filter_map(|limit| limit.take(request, now)).collect();
        let why = match refused.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Err(Status::too_many(format!("Too many requests: {why}"), 0))
    }
}

fn validate(limit: &Value, at: At<'_>, errors: &mut Errors) {
    let kind = limit.text("type");
    if !TYPES.contains(&kind) {
        errors.not_supported(at.at("type"), kind, &TYPES);
    }
    for field in ["burst", "qps"] {
        if limit.int(field) <= 0 {
            errors.invalid(at.at(field), limit.int(field), "must be positive");
        }
    }
    if kind != "Server" && limit.int("cacheSize") < 0 {
        errors.invalid(at.at("cacheSize"), limit.int("cacheSize"), "must not be negative");
    }
}

impl Limit {
    fn new(limit: &Value, rng: &Rng) -> Self {
        let number = |field: &str| limit.int(field) as f64;
        let size = usize::try_from(limit.int("cacheSize")).unwrap_or(0);
        Self {
            kind: limit.text("type").to_owned(),
            rate: Rate { qps: number("qps"), burst: number("burst") },
            buckets: Cache::new(if size == 0 { DEFAULT_BUCKETS } else { size }, rng),
        }
    }

    /// Why the request is refused.
    fn take(&self, request: &Request<'_>, now: Instant) -> Option<String> {
        let key = self.key(request);
        let taken = self.bucket(&key, now).lock().take(now, self.rate);
        (!taken).then(|| format!("limit reached on type {} for key {key}", self.kind))
    }

    fn bucket(&self, key: &str, now: Instant) -> Arc<Mutex<Bucket>> {
        let digest = self.buckets.key([key]);
        self.buckets.get(&digest, now).unwrap_or_else(|| {
            let full = Arc::new(Mutex::new(Bucket { left: self.rate.burst, at: now }));
            self.buckets.put(digest, Arc::clone(&full), now, KEPT_FOR);
            full
        })
    }

    /// The bucket that a request belongs to.
    fn key(&self, request: &Request<'_>) -> String {
        match self.kind.as_str() {
            "Namespace" => request.namespace.to_owned(),
            "User" => request.user.to_owned(),
            "SourceAndObject" => {
                let source = request.event.at("source");
                let object = request.event.at("involvedObject");
                let fields = ["kind", "namespace", "name", "uid", "apiVersion"];
                let about = fields.map(|field| object.text(field));
                [source.text("component"), source.text("host")].into_iter().chain(about).collect()
            }
            _ => String::new(),
        }
    }
}

struct Bucket {
    /// Events that it still holds, at that time.
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * rate.qps;
        let left = (self.left + more).min(rate.burst);
        if left < 1.0 {
            return false;
        }
        (self.left, self.at) = (left - 1.0, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn limits(list: &Value) -> Result<Limits, String> {
        let document =
            json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Configuration", "limits": list});
        Limits::read(Some(&document), &Rng::seeded(1))
    }

    fn event(component: &str) -> Value {
        json!({"source": {"component": component, "host": "h"}, "involvedObject": {"kind": "Pod", "name": "p", "uid": "u"}})
    }

    #[test]
    fn a_bucket_fills_again_with_time() {
        let limits = limits(&json!([{"type": "User", "qps": 2, "burst": 3}])).unwrap();
        let start = env::Env::real().clock.monotonic();
        let take = |user: &str, millis: u64| {
            let request = Request { namespace: "n", user, event: &event("c") };
            limits.take(&request, start + Duration::from_millis(millis))
        };
        (0..3).for_each(|_| take("ann", 0).unwrap());
        let refused = take("ann", 499).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
        assert_eq!(refused.message, "Too many requests: limit reached on type User for key ann");
        take("ben", 499).unwrap();
        take("ann", 500).unwrap();
        take("ann", 500).unwrap_err();
        // It is never more than full.
        (0..3).for_each(|_| take("ann", 60_000).unwrap());
        take("ann", 60_000).unwrap_err();
    }

    #[test]
    fn all_limits_are_told_of_and_old_buckets_go() {
        let limits = limits(&json!([
            {"type": "Server", "qps": 1, "burst": 4, "cacheSize": -1},
            {"type": "SourceAndObject", "qps": 1, "burst": 1, "cacheSize": 1},
        ]))
        .unwrap();
        let now = env::Env::real().clock.monotonic();
        let take = |component: &str| {
            limits.take(&Request { namespace: "n", user: "u", event: &event(component) }, now)
        };
        take("a").unwrap();
        assert_eq!(
            take("a").unwrap_err().message,
            "Too many requests: limit reached on type SourceAndObject for key ahPodpu"
        );
        take("b").unwrap();
        // Its bucket was given up for that of `b`.
        take("a").unwrap();
        assert_eq!(
            take("a").unwrap_err().message,
            "Too many requests: [limit reached on type Server for key , limit reached on type SourceAndObject for key ahPodpu]"
        );
    }

    #[test]
    fn a_wrong_configuration_is_told_as_upstream_tells_it() {
        let none = Limits::read(None, &Rng::seeded(1)).err().unwrap();
        assert_eq!(none, "limits: Invalid value: null: must not be empty");
        assert_eq!(
            limits(&json!([{"type": "Pod", "qps": 0, "burst": 1, "cacheSize": -1}])).err().unwrap(),
            "[limits[0].type: Unsupported value: \"Pod\": supported values: \"Namespace\", \"Server\", \"SourceAndObject\", \"User\", limits[0].qps: Invalid value: 0: must be positive, limits[0].cacheSize: Invalid value: -1: must not be negative]"
        );
        let other = json!({"apiVersion": "v1", "kind": "Configuration", "limits": []});
        assert!(
            Limits::read(Some(&other), &Rng::seeded(1))
                .is_err_and(|why| why.starts_with("no kind \"Configuration\""))
        );
    }
}

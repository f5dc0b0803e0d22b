//! What is looked at when somebody asks for the metrics: how it is now, in the store and in this server. It is written
//! as it is found, so that what has gone is not shown any more.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use api_types::{Resource, table};
use mvcc::KeyRange;

use crate::api::Api;
use crate::storage::View;
use crate::{discovery, health};

/// Begins a metric that moves both ways.
fn begin(out: &mut String, name: &str, help: &str) {
    begin_as(out, "gauge", name, help);
}

fn begin_as(out: &mut String, kind: &str, name: &str, help: &str) {
    // Writing to a text cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
    let _ = writeln!(out, "{name}{{{}}} {value}", pairs.join(","));
}

impl Api {
    /// Adds what is to be seen now to a text of metrics.
    pub(crate) fn readings(&self, out: &mut String) {
        let view = self.storage.view();
        build(out);
        self.inflight(out);
        self.objects(&view, out);
        self.availability(&view, out);
    }

    fn inflight(&self, out: &mut String) {
        let name = "apiserver_current_inflight_requests";
        begin(
            out,
            name,
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        let requests = &self.counts.requests;
        for (kind, inflight) in [("mutating", &requests.mutating), ("readOnly", &requests.reading)] {
            line(out, name, &[("request_kind", kind)], inflight.most());
        }
    }

    /// How many objects there are of each kind.
    fn objects(&self, view: &View, out: &mut String) {
        let mut counts = BTreeMap::new();
        let mut count = |kind: &Resource| {
            let objects = || view.count(&KeyRange::prefix(kind.storage_prefix.as_str().to_owned()));
            let name = (kind.group.to_string(), kind.resource.to_string());
            counts.entry(name).or_insert_with(objects);
        };
        let served = |kind: &&Resource| {
            // Events of both groups lie in one place, and are the core group's.
            kind.is_stored()
                && kind.group == kind.storage_group
                && discovery::find(&kind.group, &kind.version, &kind.resource).is_some()
        };
        table::resources().iter().filter(served).for_each(&mut count);
        if let Ok(definitions) = self.catalog.all(view) {
            let kinds = definitions.list.iter().filter_map(|definition| definition.kinds.first());
            kinds.for_each(|kind| count(&kind.resource));
        }
        let name = "apiserver_storage_objects";
        begin(
            out,
            name,
            "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        );
        for ((group, resource), count) in &counts {
            let qualified = table::qualified(resource, group);
            line(out, name, &[("resource", qualified.as_str())], count);
        }
        let name = "apiserver_resource_objects";
        begin(
            out,
            name,
            "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        );
        for ((group, resource), count) in &counts {
            line(out, name, &[("group", group.as_str()), ("resource", resource.as_str())], count);
        }
        let name = "apiserver_storage_size_bytes";
        begin(out, name, "[STABLE] Size of the storage database file physically allocated in bytes.");
        line(out, name, &[("storage_cluster_id", "etcd-0")], view.total_bytes());
    }

    fn availability(&self, view: &View, out: &mut String) {
        let name = "aggregator_unavailable_apiservice";
        begin(
            out,
            name,
            "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.",
        );
        for (service, is_available) in self.aggregation.availability(view) {
            line(out, name, &[("name", service.as_str())], u8::from(!is_available));
        }
    }
}

/// What this program is.
fn build(out: &mut String) {
    let name = "kubernetes_build_info";
    begin(
        out,
        name,
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let (version, platform) = (health::git_version(), health::platform());
    let labels = [
        ("build_date", "1970-01-01T00:00:00Z"),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", "clean"),
        ("git_version", version.as_str()),
        ("go_version", ""),
        ("major", "1"),
        ("minor", "37"),
        ("platform", platform.as_str()),
    ];
    line(out, name, &labels, 1);
}

/// How health checks ended, by endpoint and name (KEP-3466).
pub(crate) fn of_health(results: &BTreeMap<(&'static str, &'static str), health::Results>) -> String {
    let (mut out, name) = (String::new(), "kubernetes_healthcheck");
    begin(&mut out, name, "[STABLE] This metric records the result of a single healthcheck.");
    for ((endpoint, check), results) in results {
        line(&mut out, name, &[("name", *check), ("type", *endpoint)], u8::from(results.is_good));
    }
    let name = "kubernetes_healthchecks_total";
    begin_as(&mut out, "counter", name, "[STABLE] This metric records the results of all healthcheck.");
    for ((endpoint, check), results) in results {
        for (status, times) in [("error", results.bad), ("success", results.good)] {
            if times > 0 {
                let labels = [("name", *check), ("status", status), ("type", *endpoint)];
                line(&mut out, name, &labels, times);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_as_it_is_and_was() {
        let results = health::Results { is_good: false, good: 2, bad: 1 };
        let text = of_health(&BTreeMap::from([(("livez", "ping"), results)]));
        for line in [
            "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 0\n",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"livez\"} 1\n",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn lines_are_as_prometheus_reads_them() {
        let mut out = String::new();
        begin(&mut out, "a", "What it is.");
        line(&mut out, "a", &[("b", "c\"d\\e"), ("f", "")], 7);
        assert_eq!(out, "# HELP a What it is.\n# TYPE a gauge\na{b=\"c\\\"d\\\\e\",f=\"\"} 7\n");
    }
}

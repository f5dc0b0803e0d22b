//! What is counted of each method, under the names of Go's interceptors.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use env::Metric;
use metrics::{Counter, Histogram, counter, histogram};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::Code;

/// The metrics of this module.
pub(crate) const METRICS: &[Metric] = &[
    Metric::counter("grpc_server_started_total", "Calls begun.").labelled(),
    Metric::counter("grpc_server_handled_total", "Calls ended, by code.").labelled(),
    Metric::counter("grpc_server_msg_received_total", "Messages received.").labelled(),
    Metric::counter("grpc_server_msg_sent_total", "Messages sent.").labelled(),
    Metric::histogram("grpc_server_handling_seconds", "How long calls took.", (0.0001, 2.0, 18)).labelled(),
    Metric::counter("etcd_network_client_grpc_received_bytes_total", "Bytes of messages from clients."),
    Metric::counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients."),
    Metric::counter("etcd_server_client_requests_total", "Calls by the version that the client speaks.")
        .labelled(),
];

/// Versions of clients that are told apart, at most: they come from outside.
const MAX_VERSIONS: usize = 16;

/// Go's names of the codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Which sides of a call are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Unary,
    ClientStream,
    ServerStream,
    BidiStream,
}

impl Shape {
    fn of(method: &MethodDescriptor) -> Self {
        match (method.is_client_streaming(), method.is_server_streaming()) {
            (false, false) => Self::Unary,
            (true, false) => Self::ClientStream,
            (false, true) => Self::ServerStream,
            (true, true) => Self::BidiStream,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

struct Method {
    path: String,
    shape: Shape,
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    took: Option<Histogram>,
}

impl Method {
    fn new(method: &MethodDescriptor, extensive: bool) -> Self {
        let shape = Shape::of(method);
        let service = method.parent_service().full_name().to_owned();
        let labels = [
            ("grpc_type", shape.name().to_owned()),
            ("grpc_service", service.clone()),
            ("grpc_method", method.name().to_owned()),
        ];
        let handled = CODES.map(|code| {
            let labels: Vec<_> = labels.iter().cloned().chain([("grpc_code", code.to_owned())]).collect();
            counter!("grpc_server_handled_total", &labels)
        });
        Self {
            path: format!("/{service}/{}", method.name()),
            shape,
            started: counter!("grpc_server_started_total", &labels),
            handled,
            received: counter!("grpc_server_msg_received_total", &labels),
            sent: counter!("grpc_server_msg_sent_total", &labels),
            took: extensive.then(|| histogram!("grpc_server_handling_seconds", &labels)),
        }
    }
}

/// All methods.
pub(super) struct Methods {
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
    received_bytes: Counter,
    sent_bytes: Counter,
}

impl Methods {
    pub fn new(extensive: bool) -> Self {
        let sets = [protos::ETCD_DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let pools = sets.map(|set| {
            DescriptorPool::decode(set).expect("invariant: the descriptors were made by a compiler")
        });
        let services = pools.iter().flat_map(DescriptorPool::services);
        let methods: Vec<Method> = services
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| Method::new(&method, extensive))
            .collect();
        let by_path =
            methods.iter().enumerate().map(|(place, method)| (method.path.clone(), place)).collect();
        Self {
            methods,
            by_path,
            received_bytes: counter!("etcd_network_client_grpc_received_bytes_total"),
            sent_bytes: counter!("etcd_network_client_grpc_sent_bytes_total"),
        }
    }

    pub fn find(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    pub fn path(&self, method: usize) -> &str {
        &self.methods[method].path
    }

    pub fn shape(&self, method: usize) -> Shape {
        self.methods[method].shape
    }

    pub fn started(&self, method: usize) {
        self.methods[method].started.increment(1);
    }

    pub fn received(&self, method: usize, messages: u64, bytes: u64) {
        self.methods[method].received.increment(messages);
        self.received_bytes.increment(bytes);
    }

    pub fn sent(&self, method: usize, messages: u64, bytes: u64) {
        self.methods[method].sent.increment(messages);
        self.sent_bytes.increment(bytes);
    }

    pub fn ended(&self, method: usize, code: Code, took: Duration) {
        let method = &self.methods[method];
        if let Some(handled) = method.handled.get(code as usize) {
            handled.increment(1);
        }
        if let Some(histogram) = &method.took {
            histogram.record(took);
        }
    }
}

/// Calls by the version of the API that clients say they speak.
pub(super) struct Versions(ArcSwap<Vec<(String, [Counter; 2])>>);

impl Versions {
    pub fn new() -> Self {
        Self(ArcSwap::from_pointee(vec![Self::entry("unknown")]))
    }

    fn entry(version: &str) -> (String, [Counter; 2]) {
        let counters = ["stream", "unary"].map(
            |kind| counter!("etcd_server_client_requests_total", "type" => kind, "client_api_version" => version.to_owned()),
        );
        (version.to_owned(), counters)
    }

    pub fn count(&self, unary: bool, version: &str) {
        let known = self.0.load();
        if let Some((_, counters)) = known.iter().find(|(known, _)| known == version) {
            return counters[usize::from(unary)].increment(1);
        }
        if known.len() >= MAX_VERSIONS {
            return known[0].1[usize::from(unary)].increment(1);
        }
        // Two that come at once both make one; the handles are of the same counter.
        let more = known.iter().cloned().chain([Self::entry(version)]).collect::<Vec<_>>();
        self.0.store(Arc::new(more));
        Self::entry(version).1[usize::from(unary)].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_their_paths() {
        let methods = Methods::new(true);
        let shape = |path: &str| methods.find(path).map(|method| methods.shape(method));
        assert_eq!(shape("/etcdserverpb.KV/Range"), Some(Shape::Unary));
        assert_eq!(shape("/etcdserverpb.Watch/Watch"), Some(Shape::BidiStream));
        assert_eq!(shape("/etcdserverpb.Maintenance/Snapshot"), Some(Shape::ServerStream));
        assert_eq!(shape("/grpc.health.v1.Health/Check"), Some(Shape::Unary));
        assert_eq!(shape("/metrics"), None);
    }

    #[test]
    fn clients_cannot_make_endless_versions() {
        let versions = Versions::new();
        (0..100).for_each(|number| versions.count(true, &number.to_string()));
        assert_eq!(versions.0.load().len(), MAX_VERSIONS);
    }
}

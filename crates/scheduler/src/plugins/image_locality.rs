use k8s_openapi::api::core::v1::Pod;

use super::{Candidate, MAX_SCORE, Plugin};
use crate::snapshot::NodeInfo;

/// Prefers nodes that have the pod's images.
pub struct ImageLocality;

/// Images smaller than this are not worth a preference (upstream's `minThreshold`), bytes.
const MIN_THRESHOLD: i64 = 23 * 1024 * 1024;
/// A container's images count up to this (upstream's `maxContainerThreshold`), bytes.
const MAX_THRESHOLD: i64 = 1000 * 1024 * 1024;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> i64 {
        let wanted: Vec<&str> = images(candidate.pod).collect();
        let most = MAX_THRESHOLD
            .saturating_mul(i64::try_from(wanted.len()).unwrap_or(i64::MAX))
            .max(MIN_THRESHOLD + 1);
        let present = wanted.iter().map(|image| size_on(node, image)).sum::<i64>().clamp(MIN_THRESHOLD, most);
        MAX_SCORE * (present - MIN_THRESHOLD) / (most - MIN_THRESHOLD)
    }

    fn weight(&self) -> i64 {
        1
    }
}

fn images(pod: &Pod) -> impl Iterator<Item = &str> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.filter_map(|container| container.image.as_deref())
}

fn size_on(node: &NodeInfo, image: &str) -> i64 {
    let status = node.node.as_ref().and_then(|node| node.status.as_ref());
    let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
    let mut named = images.filter(|known| known.names.iter().flatten().any(|name| name == image));
    named.next().and_then(|known| known.size_bytes).unwrap_or_default()
}

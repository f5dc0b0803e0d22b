//! How fast stored pods become what a list answers with, on one core: `cargo bench -p api-types`.
//!
//! A run writes as many pods as a list of them has, into pieces as the API server sends them. The best of the runs is
//! told, since whatever else the machine does only makes them slower.

#![allow(clippy::disallowed_methods, reason = "time is what is measured")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use api_types::codec::{self, CodecError};

type Write = fn(&codec::Unknown<'_>, &mut Vec<u8>, i64) -> Result<(), CodecError>;

const PODS: usize = 1000;
const RUNS: usize = 200;
const PIECE_BYTES: usize = 256 << 10;

fn main() {
    let pods = pods();
    let stored: usize = pods.iter().map(Vec::len).sum();
    println!("a stored pod: {} B", stored / PODS);
    report("JSON", &pods, |pod, out, revision| pod.to_json(out, revision, false));
    report("protobuf", &pods, |pod, out, revision| pod.to_proto_item(out, revision));
}

/// Pods that differ in their names, as they are stored.
fn pods() -> Vec<Vec<u8>> {
    let mut pod: codec::Decoded = codec::decode_json(include_bytes!("pod.json")).expect("a pod");
    let message = api_types::schema::lookup("", "v1", "Pod").expect("a known kind");
    let stored = |number: usize| {
        pod.value["metadata"]["name"] = format!("frontend-7d4b9c6f5d-{number:05}").into();
        codec::to_stored(message, "v1", "Pod", &pod.value).expect("a pod")
    };
    (0..PODS).map(stored).collect()
}

fn report(name: &str, pods: &[Vec<u8>], write: Write) {
    let (mut best, mut bytes) = (Duration::MAX, 0);
    for _ in 0..RUNS {
        let begun = Instant::now();
        bytes = list(pods, write);
        best = best.min(begun.elapsed());
    }
    let each = best.as_secs_f64() / PODS as f64;
    println!(
        "{name}: {} B a pod, {:.2} µs, {:.0} MB/s",
        bytes / PODS,
        each * 1e6,
        (bytes / PODS) as f64 / each / 1e6
    );
}

/// Writes a list piece by piece: its bytes.
fn list(pods: &[Vec<u8>], write: Write) -> usize {
    let (mut out, mut bytes) = (Vec::with_capacity(PIECE_BYTES * 2), 0);
    for (revision, pod) in (1_000_000..).zip(pods) {
        let pod = codec::unwrap_unknown(pod).expect("a stored pod");
        write(&pod, &mut out, revision).expect("a stored pod");
        if out.len() > PIECE_BYTES {
            bytes += black_box(&out).len();
            out.clear();
        }
    }
    bytes + out.len()
}

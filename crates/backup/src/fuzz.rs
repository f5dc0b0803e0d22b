//! What the fuzz target `backup` plays: whatever the bytes of a backup's files, an error and never a panic.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::manifest::Manifest;
use crate::segment;

/// Reads the bytes as a segment, as the records of one whose sum is right, and as a manifest.
///
/// # Panics
/// When what was read is not written as it was read.
pub fn backup(data: &[u8]) {
    drop(segment::read("fuzz", &Bytes::copy_from_slice(data)));
    records(data);
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        plan(manifest);
    }
}

/// The records of a segment that holds these bytes.
fn records(data: &[u8]) {
    let mut packed = GzEncoder::new(segment::NAME.to_vec(), Compression::fast());
    packed.write_all(data).expect("invariant: memory takes all");
    let packed = packed.finish().expect("invariant: memory takes all");
    let sum = Sha256::digest(&packed);
    let Ok(read) = segment::read("fuzz", &[&packed[..], &sum].concat().into()) else { return };
    let mut again = segment::Builder::new();
    for record in &read {
        again.push(record).expect("invariant: memory takes all");
        let versions = record.versions().count();
        assert_eq!(versions, record.events.len());
    }
    let (file, _) = again.finish().expect("invariant: memory takes all");
    assert_eq!(segment::read("fuzz", &file).expect("what was written is read"), read);
}

/// What is made of a manifest before a file that it names is looked at.
fn plan(mut manifest: Manifest) {
    for base in manifest.bases.clone() {
        assert!(manifest.covered(&base) >= base.last);
    }
    let before = manifest.bases.len() + manifest.segments.len();
    let gone = manifest.prune(1).len();
    assert_eq!(manifest.bases.len() + manifest.segments.len() + gone, before);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_fuzz_corpus_is_decoded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/backup");
        let mut inputs = 0;
        for file in std::fs::read_dir(folder).expect("corpus") {
            let data = std::fs::read(file.expect("a file").path()).expect("bytes");
            (0..=data.len()).for_each(|end| backup(&data[..end]));
            inputs += 1 + data.len();
        }
        writeln!(std::io::stderr(), "fuzz corpus backup: {inputs} inputs").expect("printed");
    }
}

//! What a backup holds, as the file that names it all.

use serde::{Deserialize, Serialize};

/// The manifest's name.
pub(crate) const NAME: &str = "manifest.json";
/// The format of the manifest and of what it names.
pub(crate) const FORMAT: u32 = 1;

/// A file of the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Where it lies.
    pub name: String,
    /// The first revision that it covers; of a base the one that it holds.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// When the first change was seen, in milliseconds since 1970; of a base when it was taken.
    pub first_time: i64,
    /// When the last one was.
    pub last_time: i64,
    /// Bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format.
    pub format: u32,
    /// Whose keys these are, in hexadecimal digits.
    pub cluster: String,
    /// Snapshots, oldest first.
    pub bases: Vec<Stored>,
    /// Changes, oldest first.
    pub segments: Vec<Stored>,
}

impl Manifest {
    /// Of nothing yet.
    pub fn new(cluster: String) -> Self {
        Self { format: FORMAT, cluster, bases: Vec::new(), segments: Vec::new() }
    }

    /// The revision up to which there is no gap behind a base; 0 without a base.
    pub fn covered(&self, base: &Stored) -> i64 {
        self.chain(base).last().map_or(base.last, |segment| segment.last)
    }

    /// The segments that follow a base without a gap.
    pub fn chain(&self, base: &Stored) -> Vec<&Stored> {
        let (mut covered, mut chain) = (base.last, Vec::new());
        for segment in &self.segments {
            if segment.last > covered && segment.first <= covered + 1 {
                covered = segment.last;
                chain.push(segment);
            }
        }
        chain
    }

    /// Takes away all but the newest `bases` bases, and segments that no kept base needs; what was taken away.
    pub fn prune(&mut self, bases: usize) -> Vec<Stored> {
        let gone = self.bases.len().saturating_sub(bases.max(1));
        let mut removed: Vec<Stored> = self.bases.drain(..gone).collect();
        let oldest = self.bases.first().map_or(0, |base| base.last);
        let (kept, old) = self.segments.drain(..).partition(|segment| segment.last > oldest);
        self.segments = kept;
        removed.extend::<Vec<Stored>>(old);
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(first: i64, last: i64) -> Stored {
        let (name, sha256) = (format!("{first}-{last}"), String::new());
        Stored { name, first, last, first_time: 0, last_time: 0, bytes: 0, sha256 }
    }

    #[test]
    fn a_chain_ends_at_a_gap_and_pruning_keeps_what_is_needed() {
        let mut manifest = Manifest::new("1".into());
        manifest.bases = vec![stored(10, 10), stored(30, 30)];
        manifest.segments =
            vec![stored(11, 15), stored(16, 20), stored(25, 28), stored(29, 35), stored(36, 40)];
        assert_eq!(manifest.covered(&manifest.bases[0]), 20);
        assert_eq!(manifest.covered(&manifest.bases[1]), 40);
        assert_eq!(manifest.chain(&manifest.bases[1]).len(), 2);
        let removed = manifest.prune(1);
        assert_eq!(removed, [stored(10, 10), stored(11, 15), stored(16, 20), stored(25, 28)]);
        assert_eq!(manifest.covered(&manifest.bases[0]), 40);
        assert!(manifest.prune(0).is_empty(), "one base always stays");
    }
}

//! Reads a backup: what there was at a revision or at a time, and whether all of it is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::BackupError;
use crate::manifest::{Manifest, Stored};
use crate::repository::Repository;
use crate::segment::{self, Record};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All that there is.
    Latest,
    /// The state as it was at a revision.
    Revision(i64),
    /// As it was at a time, in milliseconds since 1970.
    Time(i64),
}

/// A base and what follows it, fetched.
pub struct Found {
    /// The base's file.
    pub base: PathBuf,
    /// The base's revision.
    pub base_revision: i64,
    target: Target,
    segments: Vec<(String, PathBuf)>,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bases that are whole.
    pub bases: usize,
    /// Segments that are whole.
    pub segments: usize,
    /// From which revision on, and to which, every state can be had. Zeros without a base.
    pub covered: (i64, i64),
    /// What is wrong.
    pub faults: Vec<String>,
}

impl Target {
    fn reaches(self, stored: &Stored) -> bool {
        match self {
            Self::Latest => true,
            Self::Revision(revision) => stored.first <= revision,
            Self::Time(time) => stored.first_time <= time,
        }
    }

    fn reaches_record(self, record: &Record) -> bool {
        match self {
            Self::Latest => true,
            Self::Revision(revision) => record.revision <= revision,
            Self::Time(time) => record.time <= time,
        }
    }
}

/// The newest base that is not behind the target, and the segments from there to it.
fn choose(manifest: &Manifest, target: Target) -> Result<(&Stored, Vec<&Stored>), BackupError> {
    let not_covered = |text: String| BackupError::NotCovered(text);
    let Some(oldest) = manifest.bases.first() else {
        return Err(not_covered("the backup holds no base yet".into()));
    };
    let base = manifest.bases.iter().rev().find(|base| target.reaches(base)).ok_or_else(|| {
        let (revision, time) = (oldest.last, oldest.last_time);
        not_covered(format!("the backup begins at revision {revision}, taken at {time} ms since 1970"))
    })?;
    let covered = manifest.covered(base);
    if let Target::Revision(revision) = target
        && revision > covered
    {
        return Err(not_covered(format!("the backup reaches to revision {covered}, not to {revision}")));
    }
    let chain = manifest.chain(base);
    Ok((base, chain.into_iter().filter(|segment| target.reaches(segment)).collect()))
}

impl Repository {
    /// Fetches what is needed for a target into `folder`.
    ///
    /// # Errors
    /// When the backup does not cover it, is damaged, or the storage fails.
    pub async fn fetch(&self, target: Target, folder: &Path) -> Result<Found, BackupError> {
        let nothing = || BackupError::NotCovered("there is no backup at this place".into());
        let manifest = self.manifest().await?.ok_or_else(nothing)?;
        let (base, chain) = choose(&manifest, target)?;
        let path = folder.join("base.db");
        self.get_file(base, &path).await?;
        let mut segments = Vec::new();
        for (number, stored) in chain.into_iter().enumerate() {
            let path = folder.join(format!("{number}.seg"));
            self.get_file(stored, &path).await?;
            segments.push((stored.name.clone(), path));
        }
        Ok(Found { base: path, base_revision: base.last, target, segments })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When the storage fails or there is no backup; what is damaged stands in the answer.
    pub async fn verify(&self, scratch: &Path) -> Result<Verified, BackupError> {
        let nothing = || BackupError::NotCovered("there is no backup at this place".into());
        let manifest = self.manifest().await?.ok_or_else(nothing)?;
        let folder = tempfile::tempdir_in(scratch).map_err(BackupError::file(scratch))?;
        let mut verified = Verified::default();
        for base in &manifest.bases {
            match self.verify_base(base, &folder.path().join("base.db")).await {
                Ok(()) => verified.bases += 1,
                Err(error) => verified.faults.push(error.to_string()),
            }
        }
        for stored in &manifest.segments {
            match self.verify_segment(stored).await {
                Ok(()) => verified.segments += 1,
                Err(error) => verified.faults.push(error.to_string()),
            }
        }
        if let (Some(oldest), Some(newest)) = (manifest.bases.first(), manifest.bases.last()) {
            verified.covered = (oldest.last, manifest.covered(newest));
        }
        Ok(verified)
    }

    async fn verify_base(&self, base: &Stored, path: &Path) -> Result<(), BackupError> {
        self.get_file(base, path).await?;
        let file = File::open(path).map_err(BackupError::file(path))?;
        etcd_files::check_trailer(&file, false)?;
        let status = etcd_files::status(&file)?;
        if status.revision > base.last {
            let what = format!("it holds revision {}, not {}", status.revision, base.last);
            return Err(BackupError::damaged(&base.name, what));
        }
        Ok(())
    }

    async fn verify_segment(&self, stored: &Stored) -> Result<(), BackupError> {
        let file = self.get(&stored.name).await?;
        let mut last = stored.first - 1;
        for record in segment::read(&stored.name, &file)? {
            if record.revision <= last {
                return Err(BackupError::damaged(&stored.name, "its revisions are not in order"));
            }
            last = record.revision;
        }
        match last == stored.last {
            true => Ok(()),
            false => Err(BackupError::damaged(&stored.name, "it does not end where the manifest says")),
        }
    }
}

impl Found {
    /// Visits the changes behind the base, up to the target, in order. Blocks.
    ///
    /// # Errors
    /// When a segment is damaged, or the visitor gives up.
    pub fn replay(&self, visit: &mut dyn FnMut(Record) -> Result<(), String>) -> Result<(), BackupError> {
        let mut last = self.base_revision;
        for (name, path) in &self.segments {
            let file = Bytes::from(fs::read(path).map_err(BackupError::file(path))?);
            for record in segment::read(name, &file)? {
                if record.revision <= last {
                    continue;
                }
                if !self.target.reaches_record(&record) {
                    return Ok(());
                }
                last = record.revision;
                visit(record).map_err(BackupError::Stopped)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(first: i64, last: i64) -> Stored {
        let (name, sha256) = (format!("{first}-{last}"), String::new());
        Stored { name, first, last, first_time: 10 * first, last_time: 10 * last, bytes: 0, sha256 }
    }

    #[test]
    fn a_target_chooses_its_base_and_segments() {
        let mut manifest = Manifest::new("1".into());
        assert!(choose(&manifest, Target::Latest).is_err(), "nothing yet");
        manifest.bases = vec![stored(10, 10), stored(20, 20)];
        manifest.segments = vec![stored(11, 15), stored(16, 22), stored(23, 30)];
        let chosen = |target| {
            let (base, chain) = choose(&manifest, target).expect("covered");
            (base.last, chain.into_iter().map(|segment| segment.last).collect::<Vec<_>>())
        };
        assert_eq!(chosen(Target::Latest), (20, vec![22, 30]));
        assert_eq!(chosen(Target::Revision(12)), (10, vec![15]));
        assert_eq!(chosen(Target::Revision(25)), (20, vec![22, 30]));
        assert_eq!(chosen(Target::Time(229)), (20, vec![22]));
        assert!(choose(&manifest, Target::Revision(31)).is_err());
        assert!(choose(&manifest, Target::Revision(9)).is_err());
        assert!(choose(&manifest, Target::Time(99)).is_err());
    }
}

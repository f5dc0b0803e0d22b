//! Takes a backup: a base where there is none, then every change, in segments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use env::{Backoff, Env, Shutdown};
use etcd_files::{Database, FileError};
use protos::etcd::mvccpb;

use crate::changes::{Change, Changes, Progress, status};
use crate::connection::{ConnectOptions, Connection};
use crate::error::BackupError;
use crate::manifest::{Manifest, Stored};
use crate::repository::{Repository, Retention};
use crate::segment::Builder;
use crate::snapshot::save_snapshot;

/// How often time is looked at while nothing changes.
const TICK: Duration = Duration::from_millis(100);
/// Pauses before a backup that failed is taken up again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), 2.0, Duration::from_secs(10), 0.5);

/// How a backup is taken.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// Bytes of changes after which a segment is stored.
    pub segment_bytes: usize,
    /// Time after which a segment is stored, however small it is: what a loss of this process can cost.
    pub segment_interval: Duration,
    /// Time after which a new base is taken.
    pub base_interval: Duration,
    /// What is kept; all without it.
    pub retention: Option<Retention>,
    /// Whether it ends when it is level with the store.
    pub once: bool,
    /// Where a base lies before it is stored.
    pub scratch: PathBuf,
}

/// Takes a backup. One at a time may run for a place.
pub struct Runner {
    /// Clock and randomness.
    pub env: Env,
    /// Where the backup lies.
    pub repository: Repository,
    /// The store.
    pub connect: ConnectOptions,
    /// How.
    pub options: RunnerOptions,
}

/// Why following the changes ended.
enum End {
    /// There is nothing more to do.
    Done,
    /// Changes were compacted before they were read.
    Gap(i64),
    /// The last base is old.
    BaseDue,
}

/// What is being taken.
struct Session<'a> {
    runner: &'a Runner,
    connection: Connection,
    manifest: Manifest,
    /// Up to the last revision that is in a base or in a segment, this one too.
    progress: Progress,
    /// The first revision of this segment.
    first: i64,
    segment: Builder,
}

impl Runner {
    /// Runs until `shutdown`, or with `once` until the backup is level; what was read is stored before it ends. A store or
    /// a storage that fails is tried again.
    ///
    /// # Errors
    /// When the place belongs to another cluster; with `once` whatever fails.
    pub async fn run(&self, shutdown: &Shutdown) -> Result<(), BackupError> {
        let mut backoff = RETRY;
        while !shutdown.is_triggered() {
            let error = match self.session(shutdown, &mut backoff).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if self.options.once || matches!(error, BackupError::NotCovered(_) | BackupError::Damaged { .. })
            {
                return Err(error);
            }
            tracing::warn!(%error, "the backup was interrupted, and is taken up again");
            tokio::select! {
                () = self.env.clock.sleep(backoff.next(&self.env.rng)) => {}
                () = shutdown.wait() => {}
            }
        }
        Ok(())
    }

    async fn session(&self, shutdown: &Shutdown, backoff: &mut Backoff) -> Result<(), BackupError> {
        let connection = self.connect.connect().await?;
        let (cluster, level) = status(&connection).await?;
        let manifest = match self.repository.manifest().await? {
            Some(manifest) if manifest.cluster != cluster => {
                let text = format!("the backup is of cluster {}, and this is {cluster}", manifest.cluster);
                return Err(BackupError::NotCovered(text));
            }
            Some(manifest) => manifest,
            None => Manifest::new(cluster),
        };
        let (progress, first, segment) = (Progress::default(), 0, Builder::new());
        let mut session = Session { runner: self, connection, manifest, progress, first, segment };
        session.resume().await?;
        backoff.reset();
        loop {
            match session.follow(shutdown, level).await {
                Ok(End::Done) => return session.store().await,
                Ok(End::BaseDue) => {
                    session.store().await?;
                    session.base(false).await?;
                }
                Ok(End::Gap(compacted)) => {
                    tracing::warn!(
                        compacted,
                        covered = session.progress.covered,
                        "changes were compacted before they were read: a new base is taken"
                    );
                    session.store().await?;
                    session.base(true).await?;
                }
                Err(error) => {
                    // What was read is worth keeping.
                    session.store().await?;
                    return Err(error);
                }
            }
        }
    }
}

impl Session<'_> {
    /// Goes on where the backup ends, or takes a base.
    async fn resume(&mut self) -> Result<(), BackupError> {
        match self.manifest.bases.last() {
            Some(base) if !self.is_base_due() => {
                self.go_on_behind(self.manifest.covered(base));
                Ok(())
            }
            Some(base) => {
                self.go_on_behind(self.manifest.covered(base));
                self.base(false).await
            }
            None => self.base(true).await,
        }
    }

    fn go_on_behind(&mut self, revision: i64) {
        self.progress = Progress::behind(revision);
        self.first = revision + 1;
    }

    fn now(&self) -> i64 {
        self.runner.env.clock.now().millis()
    }

    fn is_base_due(&self) -> bool {
        let interval = i64::try_from(self.runner.options.base_interval.as_millis()).unwrap_or(i64::MAX);
        self.manifest.bases.last().is_none_or(|base| self.now() - base.last_time >= interval)
    }

    /// Takes a base, and goes on behind it.
    async fn base(&mut self, gap: bool) -> Result<(), BackupError> {
        let scratch = &self.runner.options.scratch;
        let folder = tempfile::tempdir_in(scratch).map_err(BackupError::file(scratch))?;
        let path = folder.path().join("base.db");
        save_snapshot(&self.connection, &path).await?;
        let (time, revision) = (self.now(), checked_revision(path.clone()).await?);
        let name = format!("base/{revision:020}-{time:015}.db");
        let (bytes, sha256) = self.runner.repository.put_file(&name, &path).await?;
        let (first_time, last_time) = (time, time);
        let base = Stored { name, first: revision, last: revision, first_time, last_time, bytes, sha256 };
        self.manifest.bases.push(base);
        self.runner.repository.save_manifest(&self.manifest).await?;
        tracing::info!(revision, bytes, "a base was stored");
        if let Some(retention) = self.runner.options.retention {
            self.runner.repository.prune(retention).await?;
            self.manifest.prune(retention.bases);
        }
        // Without a gap the changes go on where they are, so that what lies before this base can be had as well.
        if gap {
            self.go_on_behind(revision);
        }
        self.progress.forget_leases();
        Ok(())
    }

    /// Reads changes until there is something else to do.
    async fn follow(&mut self, shutdown: &Shutdown, level: i64) -> Result<End, BackupError> {
        let mut changes = Changes::open(&self.connection, self.progress.covered + 1).await?;
        let options = &self.runner.options;
        loop {
            if options.once && self.progress.covered >= level {
                return Ok(End::Done);
            }
            let change = tokio::select! {
                change = changes.next() => change?,
                () = self.runner.env.clock.sleep(TICK) => {
                    self.store_if_due().await?;
                    if self.is_base_due() {
                        return Ok(End::BaseDue);
                    }
                    continue;
                }
                () = shutdown.wait() => return Ok(End::Done),
            };
            match change {
                Change::Compacted(revision) => return Ok(End::Gap(revision)),
                Change::Events(events) => self.add(events).await?,
            }
            self.store_if_due().await?;
        }
    }

    /// Adds the changes of some revisions, whole.
    async fn add(&mut self, events: Vec<mvccpb::Event>) -> Result<(), BackupError> {
        let records = self.progress.records(&self.connection, events, self.now()).await?;
        records.iter().try_for_each(|record| self.segment.push(record))
    }

    async fn store_if_due(&mut self) -> Result<(), BackupError> {
        let options = &self.runner.options;
        let interval = i64::try_from(options.segment_interval.as_millis()).unwrap_or(i64::MAX);
        let old = self.segment.records > 0 && self.now() - self.segment.first_time >= interval;
        if old || self.segment.bytes >= options.segment_bytes { self.store().await } else { Ok(()) }
    }

    /// Stores the segment, if there is anything in it.
    async fn store(&mut self) -> Result<(), BackupError> {
        if self.segment.records == 0 {
            return Ok(());
        }
        let segment = std::mem::replace(&mut self.segment, Builder::new());
        let (first, last) = (self.first, segment.last);
        let (first_time, last_time) = (segment.first_time, segment.last_time);
        let (file, sha256) = segment.finish()?;
        let name = format!("segment/{first:020}-{last:020}-{last_time:015}.seg");
        let bytes = file.len() as u64;
        self.runner.repository.put(&name, file).await?;
        let stored = Stored { name, first, last, first_time, last_time, bytes, sha256 };
        self.manifest.segments.push(stored);
        self.runner.repository.save_manifest(&self.manifest).await?;
        self.first = last + 1;
        tracing::debug!(first, last, bytes, "a segment was stored");
        Ok(())
    }
}

/// The revision of a snapshot, after a look at its checksum.
async fn checked_revision(path: PathBuf) -> Result<i64, BackupError> {
    let read = move || -> Result<i64, BackupError> { revision_of(&path) };
    tokio::task::spawn_blocking(read).await.map_err(|error| BackupError::Stopped(error.to_string()))?
}

fn revision_of(path: &Path) -> Result<i64, BackupError> {
    let file = std::fs::File::open(path).map_err(BackupError::file(path))?;
    etcd_files::check_trailer(&file, false)?;
    let database = Database::open(file).map_err(FileError::from)?;
    Ok(database.revision().map_err(FileError::from)?)
}

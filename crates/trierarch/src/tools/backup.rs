//! `trierarch backup` and `trierarch restore`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::backup::{Found, Record, Repository, Retention, Runner, RunnerOptions, S3Options, Target};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use env::{Env, Shutdown, TaskGroup};
use etcd_api::files::{Loaded, Restore};
use etcd_files::{Database, FileError};
use mvcc::StoredLease;

use super::connect::ConnectFlags;
use super::folder::{NewMember, append};
use super::print::{self, human_bytes};
use super::transfer::export_folder;
use crate::{logging, signals};

/// How long a backup that is to stop may take to store what it has read.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Where a backup lies.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// A folder, or s3://bucket/prefix
    place: String,
    /// The server of S3-compatible storage, where it is not Amazon's; credentials come from AWS_* variables
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    s3_endpoint: Option<String>,
    /// Its region
    #[arg(long, env = "AWS_REGION")]
    s3_region: Option<String>,
}

impl Place {
    fn open(&self) -> Result<Repository> {
        let s3 = S3Options {
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            ..S3Options::default()
        };
        Ok(Repository::open(&self.place, &s3)?)
    }
}

/// Backups
#[derive(Subcommand)]
pub enum BackupCommand {
    /// Take a backup of a running store, continuously
    Run(Box<RunFlags>),
    /// Say what a backup holds
    List {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all of a backup and compare its checksums
    Verify {
        #[command(flatten)]
        place: Place,
        /// Where a base lies while it is read
        #[arg(long)]
        scratch: Option<PathBuf>,
    },
    /// Take away what is old
    Prune {
        #[command(flatten)]
        place: Place,
        /// Keep so many of the newest bases, and the changes behind the oldest of them
        #[arg(long)]
        keep_bases: usize,
    },
}

/// How a backup is taken.
#[derive(Args)]
pub struct RunFlags {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    connect: ConnectFlags,
    /// Seconds after which changes are stored: what a loss of this process can cost
    #[arg(long, default_value_t = 10)]
    segment_interval: u64,
    /// MiB of changes after which they are stored sooner
    #[arg(long, default_value_t = 8)]
    segment_size: usize,
    /// Seconds after which a new base is taken
    #[arg(long, default_value_t = 24 * 3600)]
    base_interval: u64,
    /// Keep so many bases; all without it
    #[arg(long)]
    keep_bases: Option<usize>,
    /// End when the backup is level with the store
    #[arg(long)]
    once: bool,
    /// Where a base lies before it is stored
    #[arg(long)]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    log: logging::LogOptions,
}

/// Restore a backup
#[derive(Args)]
pub struct RestoreOptions {
    #[command(flatten)]
    place: Place,
    /// The state as it was at this revision; without it the newest
    #[arg(long, conflicts_with = "to_time")]
    to_revision: Option<i64>,
    /// The state as it was at this time: seconds since 1970, or as 2026-11-29T08:00:00Z
    #[arg(long)]
    to_time: Option<String>,
    /// Make a snapshot in etcd's format, and no data folder
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    member: NewMember,
    /// Raise the revision by so much, and mark what is before as compacted, so that clients read anew
    #[arg(long, default_value_t = 0)]
    bump_revision: u32,
}

fn scratch(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(std::env::temp_dir)
}

/// Runs it.
pub async fn backup(env: Env, command: BackupCommand) -> Result<()> {
    match command {
        BackupCommand::Run(flags) => run(env, *flags).await,
        BackupCommand::List { place, json } => list(&place.open()?, json).await,
        BackupCommand::Verify { place, scratch: folder } => verify(&place.open()?, &scratch(folder)).await,
        BackupCommand::Prune { place, keep_bases } => {
            let removed = place.open()?.prune(Retention { bases: keep_bases }).await?;
            removed.iter().for_each(|name| println!("removed {name}"));
            Ok(())
        }
    }
}

async fn run(env: Env, flags: RunFlags) -> Result<()> {
    logging::start(&flags.log);
    let repository = flags.place.open()?;
    let options = RunnerOptions {
        segment_bytes: flags.segment_size << 20,
        segment_interval: Duration::from_secs(flags.segment_interval),
        base_interval: Duration::from_secs(flags.base_interval),
        retention: flags.keep_bases.map(|bases| Retention { bases }),
        once: flags.once,
        scratch: scratch(flags.scratch),
    };
    let runner = Runner { env, repository, connect: flags.connect.options(), options };
    let tasks = TaskGroup::new("backup", Shutdown::new());
    signals::watch(&tasks)?;
    let shutdown = tasks.shutdown().clone();
    let stop = shutdown.clone();
    tasks.spawn("runner", async move {
        let ended = runner.run(&shutdown).await;
        stop.trigger();
        ended
    });
    Ok(tasks.join(STOP_DEADLINE).await?)
}

async fn list(repository: &Repository, json: bool) -> Result<()> {
    let Some(manifest) = repository.manifest().await? else { bail!("there is no backup at this place") };
    if json {
        println!("{}", serde_json::to_string_pretty(&manifest)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for base in &manifest.bases {
        rows.push(vec![
            "base".into(),
            base.last.to_string(),
            spell_time(base.last_time),
            human_bytes(base.bytes),
            format!("to revision {}", manifest.covered(base)),
        ]);
    }
    for segment in &manifest.segments {
        let (first, last) = (segment.first, segment.last);
        let (time, size) = (spell_time(segment.last_time), human_bytes(segment.bytes));
        rows.push(vec!["changes".into(), format!("{first}-{last}"), time, size, String::new()]);
    }
    println!("cluster {}", manifest.cluster);
    println!("{}", print::table(&["KIND", "REVISIONS", "TIME", "SIZE", "REACHES"], &rows));
    Ok(())
}

async fn verify(repository: &Repository, scratch: &Path) -> Result<()> {
    let verified = repository.verify(scratch).await?;
    let (first, last) = verified.covered;
    println!("{} bases and {} segments are whole", verified.bases, verified.segments);
    println!("revisions {first} to {last} can be restored");
    match verified.faults.as_slice() {
        [] => Ok(()),
        faults => bail!("the backup is damaged:\n{}", faults.join("\n")),
    }
}

/// Runs `restore`.
pub async fn restore(env: Env, options: RestoreOptions) -> Result<()> {
    let target = match (options.to_revision, &options.to_time) {
        (Some(revision), _) => Target::Revision(revision),
        (None, Some(time)) => Target::Time(parse_time(time)?),
        (None, None) => Target::Latest,
    };
    let data_dir = options.member.data_dir();
    let beside = options.output.as_ref().unwrap_or(&data_dir);
    let parent = beside.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(parent).with_context(|| format!("cannot write to {parent:?}"))?;
    let found = options.place.open()?.fetch(target, folder.path()).await?;
    let bump_revision = i64::from(options.bump_revision);
    let how = Restore { bump_revision, mark_compacted: bump_revision > 0 };
    let mut member = options.member.clone();
    if options.output.is_some() {
        member.data_dir = Some(folder.path().join("data"));
    }
    let revision = write(&found, &member, how)?;
    match &options.output {
        Some(file) => {
            export_folder(env, &member.data_dir(), None, file)?;
            println!("Restored revision {revision} to {}", file.display());
        }
        None => println!("Restored revision {revision} to {}", data_dir.display()),
    }
    Ok(())
}

/// Makes a data folder of a base and the changes behind it; the revision that it holds.
fn write(found: &Found, member: &NewMember, how: Restore) -> Result<i64> {
    let file = std::fs::File::open(&found.base)?;
    etcd_files::check_trailer(&file, false)?;
    let database = Database::open(file).map_err(FileError::from)?;
    let (seed, attributes) = member.seed()?;
    let mut revision = 0;
    member.write(&seed, |loader| {
        let mut loaded = Loaded::versions(&database, loader)?;
        let mut leases = Vec::new();
        let mut add = |record: Record| -> Result<(), String> {
            append(loader, &mut loaded, &record).map_err(|error| error.to_string())?;
            leases.extend(record.leases);
            Ok(())
        };
        found.replay(&mut add).map_err(std::io::Error::other)?;
        revision = loaded.revision;
        let mut contents = loaded.restored(how).contents(&database, attributes)?;
        for lease in leases {
            if !contents.leases.iter().any(|known| known.id == lease.id) {
                contents.leases.push(StoredLease { id: lease.id, ttl: lease.ttl, remaining: 0 });
            }
        }
        Ok(contents)
    })?;
    Ok(revision)
}

/// Milliseconds since 1970 as people write them.
fn spell_time(millis: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    time.map_or_else(
        |_| millis.to_string(),
        |time| {
            let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
            let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
        },
    )
}

/// The other direction, in whole seconds or with a fraction, in UTC; the end of the second that is named.
fn parse_time(text: &str) -> Result<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0) as i64);
    }
    let wrong = || format!("{text:?} is no time: write seconds since 1970 or 2026-11-29T08:00:00Z");
    let (date, time) = text.strip_suffix('Z').and_then(|text| text.split_once('T')).with_context(wrong)?;
    let numbers = |text: &str, mark: char| -> Option<Vec<u32>> {
        text.split(mark).map(|part| part.parse().ok()).collect()
    };
    let (clock, fraction) = time.split_once('.').map_or((time, "999"), |(clock, fraction)| (clock, fraction));
    let (date, clock) = (numbers(date, '-').with_context(wrong)?, numbers(clock, ':').with_context(wrong)?);
    let ([year, month, day], [hour, minute, second]) = (&date[..], &clock[..]) else { bail!(wrong()) };
    let small = |number: &u32| u8::try_from(*number).with_context(wrong);
    let month = time::Month::try_from(small(month)?).with_context(wrong)?;
    let year = i32::try_from(*year).with_context(wrong)?;
    let date = time::Date::from_calendar_date(year, month, small(day)?).with_context(wrong)?;
    let clock = time::Time::from_hms(small(hour)?, small(minute)?, small(second)?).with_context(wrong)?;
    let millis = format!("{fraction:0<3}");
    let millis: i64 = millis.get(..3).and_then(|millis| millis.parse().ok()).with_context(wrong)?;
    Ok(time::OffsetDateTime::new_utc(date, clock).unix_timestamp() * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        assert_eq!(spell_time(1_796_000_000_123), "2026-11-30T00:53:20Z");
        for (text, millis) in [
            ("1796000000", 1_796_000_000_000),
            ("1970-01-01T00:00:01Z", 1999),
            ("1970-01-02T00:00:00.25Z", 86_400_250),
        ] {
            assert_eq!(parse_time(text).expect("a time"), millis);
        }
        for wrong in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-29", "2026-11-29T25:00:00Z"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! Events as lines of a file. A file that is full is renamed after the time (`audit-2006-01-02T15-04-05.000.log`) and
//! another begun; old ones are compressed and removed, as upstream's lumberjack does. Driver.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use api_types::time;
use env::Clock;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

use super::config::{AuditFormat, AuditLogConfig};
use super::event::Event;

/// The ending of a file that was compressed.
const COMPRESSED: &str = ".gz";
/// Characters of the time in an old file's name.
const STAMP: usize = "2006-01-02T15-04-05.000".len();
const DAY_MILLIS: i64 = 24 * 3600 * 1000;
/// How long a name for an old file is sought, in milliseconds of its name.
const MAX_NAMES: i64 = 10_000;

/// Where lines go.
pub(super) struct Log {
    output: Output,
    format: AuditFormat,
}

enum Output {
    Standard,
    /// Grows for ever.
    Plain(File),
    Rotated(Rotated),
}

/// A file that is begun anew when it is full.
struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    /// None after it could not be opened: the next line tries again.
    file: Option<File>,
    bytes: u64,
    clock: Clock,
}

/// Which old files stay, and in which form.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    path: PathBuf,
    max_age_days: u64,
    max_backups: usize,
    compress: bool,
}

impl Log {
    /// Opens the file, and makes it and its folder if they are not there. None without a path.
    pub fn open(config: &AuditLogConfig, clock: &Clock) -> Result<Option<Self>, String> {
        let Some(path) = &config.path else { return Ok(None) };
        let output = match path.to_str() {
            Some("-") => Output::Standard,
            _ => {
                let failed = |error: io::Error| format!("ensureLogFile: open {}: {error}", path.display());
                let file = ensure(path).map_err(failed)?;
                match config.max_bytes {
                    0 => Output::Plain(file),
                    max_bytes => Output::Rotated(Rotated {
                        path: path.clone(),
                        max_bytes,
                        bytes: file.metadata().map_err(failed)?.len(),
                        file: Some(file),
                        clock: clock.clone(),
                    }),
                }
            }
        };
        Ok(Some(Self { output, format: config.format }))
    }

    /// Writes an event; whether another file was begun.
    pub fn write(&mut self, event: &Event) -> io::Result<bool> {
        let line = match self.format {
            AuditFormat::Json => event.json_line(),
            AuditFormat::Legacy => event.legacy_line(),
        };
        match &mut self.output {
            Output::Standard => io::stdout().lock().write_all(&line).map(|()| false),
            Output::Plain(file) => file.write_all(&line).map(|()| false),
            Output::Rotated(rotated) => rotated.write(&line),
        }
    }
}

fn ensure(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Rotated {
    fn write(&mut self, line: &[u8]) -> io::Result<bool> {
        let length = line.len() as u64;
        if length > self.max_bytes {
            let text = format!("write length {length} exceeds maximum file size {}", self.max_bytes);
            return Err(io::Error::other(text));
        }
        let full = self.bytes + length > self.max_bytes;
        if full {
            self.rotate()?;
        }
        if self.file.is_none() {
            let file = ensure(&self.path)?;
            self.bytes = file.metadata()?.len();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(full) };
        file.write_all(line)?;
        self.bytes += length;
        Ok(full)
    }

    /// Moves the file out of the way and begins another with its mode and owner.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let old = match fs::metadata(&self.path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if old.is_some() {
            let name = backup_name(&self.path, self.clock.now().millis())?;
            fs::rename(&self.path, name)?;
        }
        let mode = old.as_ref().map_or(0o600, |old| old.permissions().mode());
        let file = OpenOptions::new().create(true).append(true).mode(mode).open(&self.path)?;
        if let Some(old) = old {
            // Only root may give a file away; for others it is theirs anyway.
            drop(std::os::unix::fs::chown(&self.path, Some(old.uid()), Some(old.gid())));
        }
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }
}

/// Name of a file before its ending, and the ending with its dot.
fn split(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name, String::new()),
    }
}

/// A time of an old file's name.
fn stamp(millis: i64) -> String {
    time::micro_from_millis(millis)[..STAMP].replace(':', "-")
}

/// The first free name for a file that is full now.
fn backup_name(path: &Path, now: i64) -> io::Result<PathBuf> {
    let (stem, ending) = split(path);
    for millis in now..now + MAX_NAMES {
        let name = path.with_file_name(format!("{stem}-{}{ending}", stamp(millis)));
        let packed = path.with_file_name(format!("{stem}-{}{ending}{COMPRESSED}", stamp(millis)));
        if !name.exists() && !packed.exists() {
            return Ok(name);
        }
    }
    Err(io::Error::other("no free name for the old file"))
}

impl Keep {
    pub fn of(config: &AuditLogConfig) -> Option<Self> {
        let path = config.path.clone().filter(|path| path.to_str() != Some("-") && config.max_bytes > 0)?;
        let (max_age_days, max_backups) = (config.max_age_days, config.max_backups);
        Some(Self { path, max_age_days, max_backups, compress: config.compress })
    }

    /// Removes and compresses old files. One at a time: `turn` is held meanwhile.
    pub fn tidy(&self, now: i64, turn: &Mutex<()>) {
        let _turn = turn.lock();
        if let Err(error) = self.tidy_up(now) {
            tracing::warn!(%error, path = %self.path.display(), "old audit logs are not kept in order");
        }
    }

    fn tidy_up(&self, now: i64) -> io::Result<()> {
        let mut times: Vec<i64> = Vec::new();
        for (at, file) in self.old_files()? {
            if times.last() != Some(&at) {
                times.push(at);
            }
            let too_many = self.max_backups > 0 && times.len() > self.max_backups;
            let age = i64::try_from(self.max_age_days).unwrap_or(i64::MAX).saturating_mul(DAY_MILLIS);
            let too_old = self.max_age_days > 0 && at < now.saturating_sub(age);
            if too_many || too_old {
                fs::remove_file(&file)?;
            } else if self.compress && !file.to_string_lossy().ends_with(COMPRESSED) {
                compress(&file)?;
            }
        }
        Ok(())
    }

    /// Old files, the newest first, by the times in their names.
    fn old_files(&self) -> io::Result<Vec<(i64, PathBuf)>> {
        let (stem, ending) = split(&self.path);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(stem.as_str()).and_then(|rest| rest.strip_prefix('-'));
            let Some(rest) = rest else { continue };
            let plain = rest.strip_suffix(COMPRESSED).unwrap_or(rest);
            let Some(at) = plain.strip_suffix(ending.as_str()).and_then(stamped) else { continue };
            if entry.file_type()?.is_file() {
                found.push((at, entry.path()));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }
}

/// Milliseconds of a time in a name; none if it is something else.
fn stamped(text: &str) -> Option<i64> {
    if text.len() != STAMP || !text.is_ascii() {
        return None;
    }
    let millis = time::to_millis(&format!("{}T{}Z", &text[..10], text[11..].replace('-', ":")))?;
    (stamp(millis) == text).then_some(millis)
}

fn compress(path: &Path) -> io::Result<()> {
    let packed = PathBuf::from(format!("{}{COMPRESSED}", path.display()));
    let packing = || -> io::Result<()> {
        let mut from = File::open(path)?;
        let old = from.metadata()?;
        // One that is there is what was left of an earlier try.
        let mut options = OpenOptions::new();
        let to =
            options.create(true).truncate(true).write(true).mode(old.permissions().mode()).open(&packed)?;
        drop(std::os::unix::fs::chown(&packed, Some(old.uid()), Some(old.gid())));
        let mut encoder = GzEncoder::new(to, Compression::default());
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::remove_file(path)
    };
    packing().inspect_err(|_| drop(fs::remove_file(&packed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn config(folder: &Path, max_bytes: u64) -> AuditLogConfig {
        let path = folder.join("deep").join("audit.log");
        AuditLogConfig { path: Some(path), max_bytes, ..AuditLogConfig::default() }
    }

    fn event(id: &str) -> Event {
        Event { audit_id: id.into(), ..Event::default() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let list = fs::read_dir(folder.join("deep")).unwrap();
        let mut names: Vec<String> =
            list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_is_kept_under_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let length = event("0").json_line().len() as u64;
        let config = config(folder.path(), 2 * length);
        let mut log = Log::open(&config, &Clock::default()).unwrap().unwrap();
        let begun: Vec<bool> = ["0", "1", "2", "3", "4"].map(|id| log.write(&event(id)).unwrap()).to_vec();
        assert_eq!(begun, [false, false, true, false, true]);
        let names = names(folder.path());
        assert_eq!(names.len(), 3);
        assert!(
            names[..2]
                .iter()
                .all(|name| name.starts_with("audit-2") && name.len() == "audit-.log".len() + STAMP)
        );
        let all: String = names
            .iter()
            .map(|name| fs::read_to_string(folder.path().join("deep").join(name)).unwrap())
            .collect();
        assert_eq!(all.lines().count(), 5);
        let mode = fs::metadata(config.path.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_there_goes_on_and_a_line_larger_than_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let length = event("0").json_line().len() as u64;
        let config = config(folder.path(), length + 1);
        for _ in 0..2 {
            Log::open(&config, &Clock::default()).unwrap().unwrap().write(&event("0")).unwrap();
        }
        assert_eq!(names(folder.path()).len(), 2);
        let mut log = Log::open(&config, &Clock::default()).unwrap().unwrap();
        let error = log.write(&event("too long")).unwrap_err().to_string();
        assert_eq!(error, format!("write length {} exceeds maximum file size {}", length + 7, length + 1));
    }

    #[test]
    fn old_files_are_counted_aged_and_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).unwrap();
        let now = time::to_millis("2026-01-10T00:00:00Z").unwrap();
        let name = |day: i64| format!("audit-{}.log", stamp(now - day * DAY_MILLIS));
        for day in 1..=5 {
            fs::write(deep.join(name(day)), format!("day {day}")).unwrap();
        }
        fs::write(deep.join("audit-notes.log"), "not ours").unwrap();
        let config =
            AuditLogConfig { max_age_days: 4, max_backups: 3, compress: true, ..config(folder.path(), 100) };
        let keep = Keep::of(&config).unwrap();
        keep.tidy(now, &Mutex::new(()));
        let mut expected: Vec<String> = (1..=3).map(|day| name(day) + COMPRESSED).collect();
        expected.push("audit-notes.log".into());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        let mut text = String::new();
        let packed = File::open(deep.join(name(2) + COMPRESSED)).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "day 2");
        // Two days later.
        keep.tidy(now + 2 * DAY_MILLIS, &Mutex::new(()));
        assert_eq!(names(folder.path()).len(), 3);
    }

    #[test]
    fn times_in_names_are_read_back() {
        assert_eq!(stamp(0), "1970-01-01T00-00-00.000");
        assert_eq!(stamped("1970-01-01T00-00-01.005"), Some(1005));
        assert_eq!(stamped("1970-01-01T00-00-01x005"), None);
        assert_eq!(stamped("notes"), None);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let config = AuditLogConfig { path: Some("/dev/null/audit.log".into()), ..AuditLogConfig::default() };
        let error = Log::open(&config, &Clock::default()).err().unwrap();
        assert!(error.starts_with("ensureLogFile: open /dev/null/audit.log: "), "{error}");
    }
}

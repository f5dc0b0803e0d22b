use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

use crate::{Clock, Timestamp};

/// The ending of a file that was compressed.
const COMPRESSED: &str = ".gz";
/// Characters of the time in an old file's name.
const STAMP: usize = "2006-01-02T15-04-05.000".len();
const DAY_MILLIS: i64 = 24 * 3600 * 1000;
/// How long a name for an old file is sought, in milliseconds of its name.
const MAX_NAMES: i64 = 10_000;

/// A file of lines that is renamed after the time (`audit-2006-01-02T15-04-05.000.log`, UTC) when it is full, and begun
/// anew, as Go's lumberjack does it.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    max_bytes: u64,
    /// None after it could not be opened: the next line tries again.
    file: Option<File>,
    bytes: u64,
    clock: Clock,
}

/// Which old files stay, and in which form. Clones take turns.
#[derive(Clone, Debug)]
pub struct OldFiles {
    /// The file that they were.
    pub path: PathBuf,
    /// How long they stay; 0 is for ever.
    pub max_age_days: u64,
    /// How many stay; 0 is all.
    pub max_files: usize,
    /// Whether they are compressed (gzip).
    pub compress: bool,
    turn: Arc<Mutex<()>>,
}

/// Opens a file to write at its end, and makes it and its folder, for its owner alone, if they are not there.
///
/// # Errors
/// The disk's.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl RotatedFile {
    /// Opens the file to go on at its end. It is full at `max_bytes`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: PathBuf, max_bytes: u64, clock: Clock) -> io::Result<Self> {
        let file = open_to_append(&path)?;
        Ok(Self { bytes: file.metadata()?.len(), file: Some(file), path, max_bytes, clock })
    }

    /// Writes a line, to a new file if this one has no room for it; whether one was begun. A line that is larger than a
    /// file gets one for itself.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, line: &[u8]) -> io::Result<bool> {
        let length = line.len() as u64;
        let full = self.bytes > 0 && self.bytes + length > self.max_bytes;
        if full {
            self.rotate()?;
        }
        if self.file.is_none() {
            let file = open_to_append(&self.path)?;
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
            let name = free_name(&self.path, self.clock.now().millis())?;
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

impl OldFiles {
    /// Those of a file.
    pub fn new(path: PathBuf, max_age_days: u64, max_files: usize, compress: bool) -> Self {
        Self { path, max_age_days, max_files, compress, turn: Arc::default() }
    }

    /// Removes and compresses old files, which may take long. One at a time.
    ///
    /// # Errors
    /// The disk's.
    pub fn tidy(&self, now: Timestamp) -> io::Result<()> {
        let _turn = self.turn.lock();
        let mut times: Vec<i64> = Vec::new();
        for (at, file) in self.found()? {
            if times.last() != Some(&at) {
                times.push(at);
            }
            let too_many = self.max_files > 0 && times.len() > self.max_files;
            let age = i64::try_from(self.max_age_days).unwrap_or(i64::MAX).saturating_mul(DAY_MILLIS);
            let too_old = self.max_age_days > 0 && at < now.millis().saturating_sub(age);
            if too_many || too_old {
                fs::remove_file(&file)?;
            } else if self.compress && !file.to_string_lossy().ends_with(COMPRESSED) {
                compress(&file)?;
            }
        }
        Ok(())
    }

    /// Old files, the newest first, by the times in their names.
    fn found(&self) -> io::Result<Vec<(i64, PathBuf)>> {
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

/// Name of a file before its ending, and the ending with its dot.
fn split(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name, String::new()),
    }
}

/// The first free name for a file that is full now.
fn free_name(path: &Path, now: i64) -> io::Result<PathBuf> {
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

/// A time of an old file's name.
fn stamp(millis: i64) -> String {
    let (year, month, day) = date(millis.div_euclid(DAY_MILLIS));
    let of_day = millis.rem_euclid(DAY_MILLIS);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{millis:03}")
}

/// Milliseconds of a time in a name; none if it is something else.
fn stamped(text: &str) -> Option<i64> {
    if text.len() != STAMP || !text.is_ascii() {
        return None;
    }
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let day = days(part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let seconds = part(11, 13)? * 3600 + part(14, 16)? * 60 + part(17, 19)?;
    let millis = day * DAY_MILLIS + seconds * 1000 + part(20, 23)?;
    (stamp(millis) == text).then_some(millis)
}

/// Days since 1970 of a date in the Gregorian calendar; years begin in March, so that a leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Year, month and day of a day since 1970.
fn date(day: i64) -> (i64, i64, i64) {
    // As many years of a mean length; at most one too many.
    let mut year = (day * 400).div_euclid(146_097) + 1970;
    while days(year, 1, 1) > day {
        year -= 1;
    }
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    (year, month, day - days(year, month, 1) + 1)
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

    fn names(folder: &Path) -> Vec<String> {
        let list = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn open(path: &Path, max_bytes: u64) -> RotatedFile {
        RotatedFile::open(path.to_owned(), max_bytes, Clock::default()).unwrap()
    }

    #[test]
    fn a_full_file_is_kept_under_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        let mut file = open(&deep.join("a.log"), 4);
        let begun: Vec<bool> =
            ["0\n", "1\n", "2\n", "3\n", "4\n"].map(|l| file.write(l.as_bytes()).unwrap()).to_vec();
        assert_eq!(begun, [false, false, true, false, true]);
        let names = names(&deep);
        assert_eq!(names.len(), 3);
        assert!(
            names[..2].iter().all(|name| name.starts_with("a-2") && name.len() == "a-.log".len() + STAMP)
        );
        let read = |name: &String| fs::read_to_string(deep.join(name)).unwrap();
        assert_eq!(names.iter().map(read).collect::<String>(), "0\n1\n2\n3\n4\n");
        let mode = fs::metadata(deep.join("a.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_there_goes_on_and_a_large_line_has_one_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for _ in 0..2 {
            open(&path, 3).write(b"0\n").unwrap();
        }
        assert_eq!(names(folder.path()).len(), 2);
        let mut file = open(&path, 3);
        assert!(file.write(b"much too large\n").unwrap());
        assert!(file.write(b"1\n").unwrap());
        assert_eq!((names(folder.path()).len(), fs::read(&path).unwrap()), (4, b"1\n".to_vec()));
    }

    #[test]
    fn old_files_are_counted_aged_and_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let now = days(2026, 1, 10) * DAY_MILLIS;
        let name = |day: i64| format!("audit-{}.log", stamp(now - day * DAY_MILLIS));
        for day in 1..=5 {
            fs::write(folder.path().join(name(day)), format!("day {day}")).unwrap();
        }
        fs::write(folder.path().join("audit-notes.log"), "not ours").unwrap();
        let old = OldFiles::new(folder.path().join("audit.log"), 4, 3, true);
        old.tidy(Timestamp::from_millis(now)).unwrap();
        let mut expected: Vec<String> = (1..=3).map(|day| name(day) + COMPRESSED).collect();
        expected.push("audit-notes.log".into());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        let mut text = String::new();
        let packed = File::open(folder.path().join(name(2) + COMPRESSED)).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "day 2");
        // Two days later.
        old.tidy(Timestamp::from_millis(now + 2 * DAY_MILLIS)).unwrap();
        assert_eq!(names(folder.path()).len(), 3);
    }

    #[test]
    fn times_in_names_are_read_back() {
        assert_eq!(stamp(0), "1970-01-01T00-00-00.000");
        assert_eq!(stamped("1970-01-01T00-00-01.005"), Some(1005));
        assert_eq!(stamp(1_709_210_096_789), "2024-02-29T12-34-56.789");
        for text in ["1970-01-01T00-00-01x005", "2023-02-29T00-00-00.000", "notes", "2006-01-02T15-04-05.00é"]
        {
            assert_eq!(stamped(text), None, "{text}");
        }
        for day in (-200_000..200_000).step_by(37) {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }
}

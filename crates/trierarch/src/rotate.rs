//! A log file that is put aside when it is full, as etcd's `--enable-log-rotation` does it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use serde::Deserialize;

const MEGABYTE: u64 = 1 << 20;
const DAY_MILLIS: i64 = 24 * 3600 * 1000;
/// Without another size a file is full at 100 MB.
const DEFAULT_MEGABYTES: u64 = 100;

/// `--log-rotation-config-json`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Limits {
    /// Megabytes of a file.
    maxsize: u64,
    /// Days that a file is kept; 0 is for ever.
    maxage: i64,
    /// Files that are kept; 0 is all.
    maxbackups: usize,
    localtime: bool,
    compress: bool,
}

impl Limits {
    /// Reads the flag.
    ///
    /// # Errors
    /// It is no such JSON, or asks for what is not built.
    pub fn parse(text: &str) -> Result<Self> {
        let limits: Self = serde_json::from_str(text).map_err(|error| {
            let what = if error.is_data() { "invalid" } else { "improperly formatted" };
            anyhow::anyhow!("{what} log rotation config: {error}")
        })?;
        if limits.compress || limits.localtime {
            bail!("invalid log rotation config: compress and localtime are not implemented");
        }
        Ok(limits)
    }

    fn max_bytes(self) -> u64 {
        if self.maxsize == 0 { DEFAULT_MEGABYTES * MEGABYTE } else { self.maxsize * MEGABYTE }
    }
}

/// The file.
pub struct Rotating {
    path: PathBuf,
    max_bytes: u64,
    limits: Limits,
    now: fn() -> i64,
    open: Mutex<(File, u64)>,
}

impl Rotating {
    /// Opens the file to go on at its end; `now` is the time in milliseconds since 1970.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &str, limits: Limits, now: fn() -> i64) -> Result<Self> {
        let path = PathBuf::from(path);
        let open = append(&path).with_context(|| format!("cannot log to {}", path.display()))?;
        Ok(Self { path, max_bytes: limits.max_bytes(), limits, now, open: Mutex::new(open) })
    }

    /// Writes a line, to a new file if this one has no room for it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        if open.1 > 0 && open.1 + line.len() as u64 > self.max_bytes {
            fs::rename(&self.path, self.aside((self.now)()))?;
            *open = append(&self.path)?;
            self.clean()?;
        }
        open.0.write_all(line)?;
        open.1 += line.len() as u64;
        Ok(())
    }

    /// `name-2006-01-02T15-04-05.000.log`
    fn aside(&self, millis: i64) -> PathBuf {
        let at = api_types::time::micro_from_millis(millis).replace(':', "-");
        let at = at.get(..23).unwrap_or(&at);
        let (prefix, suffix) = self.parts();
        self.path.with_file_name(format!("{prefix}{at}{suffix}"))
    }

    fn parts(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let suffix =
            self.path.extension().map(|suffix| format!(".{}", part(Some(suffix)))).unwrap_or_default();
        (format!("{}-", part(self.path.file_stem())), suffix)
    }

    /// Removes what is too old, and what is too many.
    fn clean(&self) -> io::Result<()> {
        let (prefix, suffix) = self.parts();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut aside = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(&suffix) {
                aside.push(entry.path());
            }
        }
        aside.sort();
        let oldest = self.aside((self.now)() - self.limits.maxage * DAY_MILLIS);
        let kept = if self.limits.maxbackups == 0 { aside.len() } else { self.limits.maxbackups };
        let surplus = aside.len().saturating_sub(kept);
        let goes = |(place, path): &(usize, PathBuf)| {
            *place < surplus || self.limits.maxage > 0 && path.file_name() < oldest.file_name()
        };
        aside.into_iter().enumerate().filter(goes).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    static NOW: AtomicI64 = AtomicI64::new(0);

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("etcd.log");
        let limits = Limits { maxsize: 1, maxbackups: 2, ..Limits::default() };
        let now = || NOW.fetch_add(1000, Ordering::Relaxed);
        let log = Rotating::open(path.to_str().expect("text"), limits, now).expect("open");
        let line = vec![b'x'; 600 << 10];
        (0..5).for_each(|_| log.write(&line).expect("write"));
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("etcd-1970-01-01T00-00-"), "{names:?}");
        assert!(names.contains(&"etcd.log".to_owned()));
    }

    #[test]
    fn the_flag_is_read() {
        let limits = Limits::parse(r#"{"maxsize": 1, "maxbackups": 3}"#).expect("limits");
        assert_eq!((limits.max_bytes(), limits.maxbackups), (MEGABYTE, 3));
        assert_eq!(Limits::parse("{}").expect("limits").max_bytes(), 100 * MEGABYTE);
        let fails = |text: &str| Limits::parse(text).expect_err("refused").to_string();
        assert!(fails("{\"maxsize\"").starts_with("improperly formatted log rotation config"));
        assert!(fails("{\"maxsize\": \"a\"}").starts_with("invalid log rotation config"));
        assert!(fails("{\"compress\": true}").contains("not implemented"));
    }
}

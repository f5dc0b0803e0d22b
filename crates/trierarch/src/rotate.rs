//! A log file that is put aside when it is full, as etcd's `--enable-log-rotation` does it.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context as _, Result, bail};
use env::{Clock, OldFiles, RotatedFile};
use parking_lot::Mutex;
use serde::Deserialize;

const MEGABYTE: u64 = 1 << 20;
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
    /// Whether files that were put aside are compressed (gzip).
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
        if limits.localtime {
            bail!("invalid log rotation config: localtime is not implemented");
        }
        Ok(limits)
    }

    fn max_bytes(self) -> u64 {
        if self.maxsize == 0 { DEFAULT_MEGABYTES * MEGABYTE } else { self.maxsize.saturating_mul(MEGABYTE) }
    }
}

/// The file. Old ones are compressed and removed on a thread of their own, so that nobody who logs waits for it.
pub struct Rotating {
    file: Mutex<RotatedFile>,
    /// Wakes the thread, which ends with this.
    tidy: SyncSender<()>,
}

impl Rotating {
    /// Opens the file to go on at its end.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &str, limits: Limits) -> Result<Self> {
        let clock = Clock::default();
        let file = RotatedFile::open(path.into(), limits.max_bytes(), clock.clone());
        let file = file.with_context(|| format!("cannot log to {path}"))?;
        let days = u64::try_from(limits.maxage).unwrap_or(0);
        let old = OldFiles::new(path.into(), days, limits.maxbackups, limits.compress);
        // One call more than the one that is at work: it sees what both would.
        let (tidy, calls) = sync_channel(1);
        let work = move || {
            while calls.recv().is_ok() {
                if let Err(error) = old.tidy(clock.now()) {
                    tracing::warn!(%error, path = %old.path.display(), "old logs are not kept in order");
                }
            }
        };
        std::thread::Builder::new().name("log-tidy".into()).spawn(work).context("cannot start a thread")?;
        let rotating = Self { file: Mutex::new(file), tidy };
        rotating.tidy();
        Ok(rotating)
    }

    /// Writes a line, to a new file if this one has no room for it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        if self.file.lock().write(line)? {
            self.tidy();
        }
        Ok(())
    }

    fn tidy(&self) {
        // Full: somebody has called already.
        let _ = self.tidy.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    /// Names in a folder, once they are as they should be.
    fn names(folder: &Path, done: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Clock::default().monotonic();
        loop {
            let list = fs::read_dir(folder).expect("folder");
            let mut names: Vec<String> =
                list.filter_map(|entry| entry.expect("entry").file_name().into_string().ok()).collect();
            names.sort();
            if done(&names) {
                return names;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{names:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn play(limits: Limits, done: impl Fn(&[String]) -> bool) -> Vec<String> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("etcd.log");
        fs::write(folder.path().join("etcd-notes.log"), "not a log").expect("write");
        let log = Rotating::open(path.to_str().expect("text"), limits).expect("open");
        let line = vec![b'x'; 600 << 10];
        (0..5).for_each(|_| log.write(&line).expect("write"));
        names(folder.path(), done)
    }

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let limits = Limits { maxsize: 1, maxbackups: 2, ..Limits::default() };
        let names = play(limits, |names| names.len() == 4);
        assert!(names[0].starts_with("etcd-2") && names[0].ends_with(".log"), "{names:?}");
        assert!(names[2..] == ["etcd-notes.log", "etcd.log"], "{names:?}");
    }

    #[test]
    fn old_files_are_compressed() {
        let limits = Limits { maxsize: 1, compress: true, ..Limits::default() };
        let packed = |names: &[String]| names.iter().filter(|name| name.ends_with(".log.gz")).count();
        play(limits, |names| names.len() == 6 && packed(names) == 4);
    }

    #[test]
    fn the_flag_is_read() {
        let limits = Limits::parse(r#"{"maxsize": 1, "maxbackups": 3, "compress": true}"#).expect("limits");
        assert_eq!((limits.max_bytes(), limits.maxbackups, limits.compress), (MEGABYTE, 3, true));
        assert_eq!(Limits::parse("{}").expect("limits").max_bytes(), 100 * MEGABYTE);
        let fails = |text: &str| Limits::parse(text).expect_err("refused").to_string();
        assert!(fails("{\"maxsize\"").starts_with("improperly formatted log rotation config"));
        assert!(fails("{\"maxsize\": \"a\"}").starts_with("invalid log rotation config"));
        assert!(fails("{\"localtime\": true}").contains("not implemented"));
    }
}

//! Events as lines of a file. A file that is full is renamed after the time (`audit-2006-01-02T15-04-05.000.log`) and
//! another begun; old ones are compressed and removed, as upstream's lumberjack does. Driver.

use std::fs::File;
use std::io::{self, Write as _};

use env::{Clock, OldFiles, RotatedFile};

use super::config::{AuditFormat, AuditLogConfig};
use super::event::Event;

/// Where lines go.
pub(super) struct Log {
    output: Output,
    format: AuditFormat,
}

enum Output {
    Standard,
    /// Grows for ever.
    Plain(File),
    Rotated {
        file: RotatedFile,
        max_bytes: u64,
    },
}

impl Log {
    /// Opens the file, and makes it and its folder if they are not there. None without a path.
    pub fn open(config: &AuditLogConfig, clock: &Clock) -> Result<Option<Self>, String> {
        let Some(path) = &config.path else { return Ok(None) };
        let failed = |error: io::Error| format!("ensureLogFile: open {}: {error}", path.display());
        let output = match (path.to_str(), config.max_bytes) {
            (Some("-"), _) => Output::Standard,
            (_, 0) => Output::Plain(env::open_to_append(path).map_err(failed)?),
            (_, max_bytes) => {
                let file = RotatedFile::open(path.clone(), max_bytes, clock.clone()).map_err(failed)?;
                Output::Rotated { file, max_bytes }
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
            Output::Rotated { max_bytes, .. } if line.len() as u64 > *max_bytes => {
                let text = format!("write length {} exceeds maximum file size {max_bytes}", line.len());
                Err(io::Error::other(text))
            }
            Output::Rotated { file, .. } => file.write(&line),
        }
    }
}

/// The old files of the log; none where no file is rotated.
pub(super) fn old_files(config: &AuditLogConfig) -> Option<OldFiles> {
    let path = config.path.clone().filter(|path| path.to_str() != Some("-") && config.max_bytes > 0)?;
    Some(OldFiles::new(path, config.max_age_days, config.max_backups, config.compress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(folder: &Path, max_bytes: u64) -> AuditLogConfig {
        let path = folder.join("deep").join("audit.log");
        AuditLogConfig { path: Some(path), max_bytes, ..AuditLogConfig::default() }
    }

    fn event(id: &str) -> Event {
        Event { audit_id: id.into(), ..Event::default() }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("deep")).unwrap().count()
    }

    #[test]
    fn a_full_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let length = event("0").json_line().len() as u64;
        let config = config(folder.path(), 2 * length);
        let mut log = Log::open(&config, &Clock::default()).unwrap().unwrap();
        let begun: Vec<bool> = ["0", "1", "2", "3", "4"].map(|id| log.write(&event(id)).unwrap()).to_vec();
        assert_eq!(begun, [false, false, true, false, true]);
        assert_eq!(files(folder.path()), 3);
        // Of three, two old ones.
        let config = AuditLogConfig { max_backups: 1, ..config };
        old_files(&config).unwrap().tidy(Clock::default().now()).unwrap();
        assert_eq!(files(folder.path()), 2);
        let standard = AuditLogConfig { path: Some("-".into()), ..config };
        assert!(old_files(&standard).is_none());
    }

    #[test]
    fn a_line_larger_than_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let length = event("0").json_line().len() as u64;
        let config = config(folder.path(), length + 1);
        let mut log = Log::open(&config, &Clock::default()).unwrap().unwrap();
        let error = log.write(&event("too long")).unwrap_err().to_string();
        assert_eq!(error, format!("write length {} exceeds maximum file size {}", length + 7, length + 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let config = AuditLogConfig { path: Some("/dev/null/audit.log".into()), ..AuditLogConfig::default() };
        let error = Log::open(&config, &Clock::default()).err().unwrap();
        assert!(error.starts_with("ensureLogFile: open /dev/null/audit.log: "), "{error}");
    }
}

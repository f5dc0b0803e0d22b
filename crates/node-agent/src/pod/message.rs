//! The message that an ended container left, in its file or at the end of its log. Driver, with the lines pure.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::observed::{ContainerView, State};

/// Of the file, in bytes (upstream's limit).
const FILE_MAX_BYTES: u64 = 4096;
/// Of the log, in bytes and lines (upstream's limits).
const LOG_MAX_BYTES: usize = 2048;
const LOG_MAX_LINES: usize = 80;
/// Read of the log: lines carry a time and more.
const LOG_READ_BYTES: u64 = 16 << 10;

/// Adds the message to what the runtime says of an ended container; `log` is its log file.
pub(super) fn add(view: &mut ContainerView, log: &Path) {
    if view.state != State::Exited {
        return;
    }
    let Some(file) = &view.message_file else { return };
    let text = tail(Path::new(file), FILE_MAX_BYTES).unwrap_or_default();
    if !text.is_empty() {
        view.message = String::from_utf8_lossy(&text).into_owned();
    } else if view.message_from_logs && view.exit_code != 0 {
        view.message = last_lines(&tail(log, LOG_READ_BYTES).unwrap_or_default());
    }
}

/// The last bytes of a file.
fn tail(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a container wrote last, out of the end of its log in CRI's format.
fn last_lines(log: &[u8]) -> String {
    let mut text = Vec::new();
    let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    for line in &lines[lines.len().saturating_sub(LOG_MAX_LINES)..] {
        // Time, stream, tags; the first line may be cut and has no such beginning.
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _, tags, body) = (parts.next(), parts.next(), parts.next(), parts.next());
        let Some(body) = body.filter(|_| time.is_some_and(|time| time.ends_with(b"Z"))) else { continue };
        match tags {
            Some(b"P") => text.extend_from_slice(body.strip_suffix(b"\n").unwrap_or(body)),
            _ => text.extend_from_slice(body),
        }
    }
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_MAX_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(file: &str, log: &str, from_logs: bool, exit_code: i32) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let (file_path, log_path) = (folder.path().join("message"), folder.path().join("0.log"));
        std::fs::write(&file_path, file).expect("written");
        std::fs::write(&log_path, log).expect("written");
        let mut view = ContainerView {
            state: State::Exited,
            exit_code,
            message_file: Some(file_path.display().to_string()),
            message_from_logs: from_logs,
            ..ContainerView::from_cri("s", protos::cri::ContainerStatus::default())
        };
        add(&mut view, &log_path);
        view.message
    }

    #[test]
    fn the_log_stands_in_only_for_a_failure_that_left_no_message() {
        let log = "ut of time\n1970-01-01T00:00:01Z stdout P a\n1970-01-01T00:00:01Z stderr F b\n";
        assert_eq!(message("", log, true, 1), "ab\n");
        assert_eq!(message("m", log, true, 1), "m");
        assert_eq!(message("", log, true, 0), "");
        assert_eq!(message("", log, false, 1), "");
    }

    #[test]
    fn only_the_end_is_kept() {
        assert_eq!(message(&format!("x{}", "y".repeat(4096)), "", false, 1), "y".repeat(4096));
        let log: String =
            (0..100).map(|number| format!("1970-01-01T00:00:01Z stdout F {number}\n")).collect();
        let kept = message("", &log, true, 1);
        assert_eq!((kept.lines().next(), kept.lines().count()), (Some("20"), 80));
    }
}

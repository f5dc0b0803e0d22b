//! Keeps the logs of running containers small: renames, compresses and removes files. Driver, its choices pure.
//!
//! Upstream's way: `0.log` becomes `0.log.<time>` and the runtime is told to open a new `0.log`; that newest rotated
//! file stays as it is until the next rotation, so that readers can finish it; older ones are `.gz`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use env::{Shutdown, Timestamp};
use flate2::Compression;
use flate2::write::GzEncoder;
use protos::cri;

use super::paths::PodPaths;
use super::quantity;
use crate::context::Context;
use crate::runtime::{
    LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, RuntimeError,
};

const COMPRESSED: &str = ".gz";
const TEMPORARY: &str = ".tmp";
/// Compressed at a time, in bytes; between two of them a stop is noticed.
const CHUNK: usize = 64 << 10;

/// How large logs become (the kubelet's `containerLogMaxSize`, `containerLogMaxFiles`, `containerLogMonitorInterval`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// A file of so many bytes is rotated.
    pub max_bytes: u64,
    /// Files of one container, the one that is written to included; at least 2.
    pub max_files: usize,
    /// Time between two looks.
    pub interval: Duration,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5, interval: Duration::from_secs(10) }
    }
}

impl LogRotation {
    /// Bytes of a Kubernetes quantity such as `10Mi`; `None` if it is malformed or negative.
    pub fn parse_size(text: &str) -> Option<u64> {
        u64::try_from(quantity::value(text)?).ok()
    }
}

/// What to do with the rotated files of one log before it is rotated once more.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tidy {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// `names` are those of the rotated files, with the time in each, so that they sort from old to new.
fn tidy(mut names: Vec<String>, max_files: usize) -> Tidy {
    names.sort();
    let is_left_over = |name: &String| {
        let compressed = format!("{name}{COMPRESSED}");
        name.ends_with(TEMPORARY) || names.contains(&compressed)
    };
    let (mut remove, mut kept): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_left_over);
    // Besides these there will be the file that is rotated now and the new one.
    let too_many = kept.len().saturating_sub(max_files.saturating_sub(2));
    remove.extend(kept.drain(..too_many));
    kept.retain(|name| !name.ends_with(COMPRESSED));
    Tidy { remove, compress: kept }
}

/// Looks at the logs of all running containers until shutdown.
pub(crate) async fn run(context: Arc<Context>, settings: LogRotation, shutdown: Shutdown) {
    while !shutdown.is_triggered() {
        match context.runtime.list_containers(None).await {
            Ok(containers) => {
                for container in containers.iter().filter(|one| is_running(one)) {
                    check(&context, container, settings, &shutdown).await;
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime's containers are not known"),
        }
        tokio::select! {
            () = context.env.clock.sleep(settings.interval) => {}
            () = shutdown.wait() => {}
        }
    }
}

fn is_running(container: &cri::Container) -> bool {
    container.state == cri::ContainerState::ContainerRunning as i32
}

/// Where the log of a container is.
fn log_file(root: &Path, container: &cri::Container) -> PathBuf {
    let label = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
    let attempt = container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    PodPaths::of(root, label(LABEL_POD_NAMESPACE), label(LABEL_POD_NAME), label(LABEL_POD_UID))
        .log(label(LABEL_CONTAINER_NAME), attempt)
}

async fn check(context: &Context, container: &cri::Container, settings: LogRotation, shutdown: &Shutdown) {
    let log = log_file(&context.root, container);
    let reopen = || context.runtime.reopen_log(container.id.clone());
    let done = match std::fs::metadata(&log) {
        Ok(metadata) if metadata.len() < settings.max_bytes => return,
        Ok(_) => rotate(&log, settings.max_files, context.env.clock.now(), shutdown, reopen).await,
        // An earlier rotation was cut short between its two steps.
        Err(_) if log.parent().is_some_and(Path::is_dir) => reopen().await.map_err(|error| error.to_string()),
        // It belongs to nobody whom this agent knows.
        Err(_) => return,
    };
    if let Err(error) = done {
        tracing::warn!(log = %log.display(), error, "a log was not rotated");
    }
}

/// Removes and compresses what is old, then renames the log and has the runtime open a new one.
async fn rotate<F: Future<Output = Result<(), RuntimeError>>>(
    log: &Path,
    max_files: usize,
    now: Timestamp,
    shutdown: &Shutdown,
    reopen: impl FnOnce() -> F,
) -> Result<(), String> {
    let (path, stop) = (log.to_path_buf(), shutdown.clone());
    let tidied = tokio::task::spawn_blocking(move || make_room(&path, max_files, &stop)).await;
    tidied.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let second = jiff::Timestamp::from_second(now.millis().div_euclid(1000)).map_err(|e| e.to_string())?;
    let mut name = log.as_os_str().to_owned();
    name.push(second.strftime(".%Y%m%d-%H%M%S").to_string());
    let rotated = PathBuf::from(name);
    std::fs::rename(log, &rotated).map_err(|error| error.to_string())?;
    let Err(error) = reopen().await else { return Ok(()) };
    // The container may have ended meanwhile; otherwise the next look tries again. A runtime that opened the new file
    // and whose answer was lost writes there already.
    if !log.exists() {
        std::fs::rename(&rotated, log).map_err(|error| error.to_string())?;
    }
    match error {
        RuntimeError::Failed(text) if text.contains("is not running") => Ok(()),
        error => Err(error.to_string()),
    }
}

/// The rotated files of `log`, by name.
fn rotated_files(log: &Path) -> std::io::Result<Vec<String>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let names = std::fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(&prefix)).collect())
}

fn make_room(log: &Path, max_files: usize, shutdown: &Shutdown) -> std::io::Result<()> {
    let plan = tidy(rotated_files(log)?, max_files);
    for name in plan.remove {
        std::fs::remove_file(log.with_file_name(name))?;
    }
    for name in plan.compress {
        compress(&log.with_file_name(name), shutdown)?;
    }
    Ok(())
}

fn compress(path: &Path, shutdown: &Shutdown) -> std::io::Result<()> {
    let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let (temporary, compressed) = (with(TEMPORARY), with(COMPRESSED));
    let mut source = std::fs::File::open(path)?;
    let target = std::fs::File::create(&temporary)?;
    target.set_permissions(source.metadata()?.permissions())?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    let mut chunk = vec![0; CHUNK];
    loop {
        if shutdown.is_triggered() {
            // What is begun is removed at the next rotation.
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        match source.read(&mut chunk)? {
            0 => break,
            count => encoder.write_all(&chunk[..count])?,
        }
    }
    encoder.finish()?;
    std::fs::rename(&temporary, &compressed)?;
    std::fs::remove_file(path)
}

/// Removes the log of a container that is gone, with everything that was rotated.
pub(super) fn remove(log: &Path) {
    for name in rotated_files(log).unwrap_or_default() {
        let _ = std::fs::remove_file(log.with_file_name(name));
    }
    let _ = std::fs::remove_file(log);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_stay_and_leftovers_go() {
        let old = names(&["l.4.gz", "l.6", "l.3.gz", "l.5.gz", "l.5", "l.7.tmp"]);
        let expected = Tidy { remove: names(&["l.5", "l.7.tmp", "l.3.gz"]), compress: names(&["l.6"]) };
        assert_eq!(tidy(old, 5), expected);
        let two = Tidy { remove: names(&["l.1.gz", "l.2"]), compress: Vec::new() };
        assert_eq!(tidy(names(&["l.2", "l.1.gz"]), 2), two);
        assert_eq!(tidy(Vec::new(), 5), Tidy::default());
    }

    #[tokio::test]
    async fn a_log_has_at_most_so_many_files_and_loses_nothing_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("0.log");
        let stop = Shutdown::new();
        for round in 0..6 {
            std::fs::write(&log, format!("round {round}\n")).expect("written");
            let now = Timestamp::from_millis(round * 1000);
            rotate(&log, 4, now, &stop, || async { Ok(()) }).await.expect("rotated");
        }
        let mut seen = rotated_files(&log).expect("a list");
        seen.sort();
        let time = "0.log.19700101-00000";
        assert_eq!(seen, [format!("{time}3.gz"), format!("{time}4.gz"), format!("{time}5")]);
        let packed = std::fs::File::open(log.with_file_name(&seen[0])).expect("there");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "round 3\n");
        remove(&log);
        assert_eq!(rotated_files(&log).expect("a list"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_log_that_is_not_reopened_keeps_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("0.log");
        std::fs::write(&log, "text").expect("written");
        let fails = || async { Err(RuntimeError::Unreachable("gone".to_owned())) };
        let failed = rotate(&log, 5, Timestamp::from_millis(0), &Shutdown::new(), fails).await;
        assert!(failed.is_err_and(|text| text.contains("gone")));
        assert_eq!(std::fs::read_to_string(&log).expect("there"), "text");
    }
}

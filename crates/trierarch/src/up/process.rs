//! Long-lived processes of a local cluster: started apart from the terminal, found again later, and ended by pid.
//!
//! A pid alone may be another process's by now, so the record holds the start time as well.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Spawn, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use env::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::layout::Command;

/// How often a process that was asked to stop is looked at.
const POLL: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks since boot at which the process started (`/proc/<pid>/stat`, field 22).
    started: u64,
}

/// The folder that remembers a cluster's processes.
#[derive(Clone, Debug)]
pub struct Processes {
    dir: PathBuf,
}

impl Processes {
    /// Pid files are in `dir/run`, logs in `dir/logs`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where a process writes its log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.json"))
    }

    /// The pid under which `name` runs, if it does.
    pub fn running(&self, name: &str) -> Option<i32> {
        let record: Record = serde_json::from_slice(&fs::read(self.record(name)).ok()?).ok()?;
        (start_time(record.pid) == Some(record.started)).then_some(record.pid)
    }

    /// Starts `command` unless it runs. Says whether it did start it.
    pub fn ensure(&self, command: &Command) -> Result<bool> {
        if self.running(&command.name).is_some() {
            return Ok(false);
        }
        let log = self.log(&command.name);
        for folder in [self.dir.join("run"), self.dir.join("logs")] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        let (program, arguments) = command.argv.split_first().context("a command has a program")?;
        let child = Spawn::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id())?;
        let Some(started) = start_time(pid) else { bail!("{program} ended at once: see {}", log.display()) };
        fs::write(self.record(&command.name), serde_json::to_vec(&Record { pid, started })?)?;
        Ok(true)
    }

    /// Asks `name` to stop and waits up to `grace`; past it the process is killed.
    pub async fn stop(&self, clock: &Clock, name: &str, grace: Duration) -> Result<()> {
        if let Some(pid) = self.running(name) {
            signal(pid, Signal::SIGTERM)?;
            let deadline = clock.monotonic() + grace;
            while self.running(name).is_some() && !is_zombie(pid) {
                if clock.monotonic() > deadline {
                    signal(pid, Signal::SIGKILL)?;
                }
                clock.sleep(POLL).await;
            }
        }
        match fs::remove_file(self.record(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The names that were ever started and not stopped.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("run")) else { return Vec::new() };
        let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned());
        let mut names: Vec<_> = entries.flatten().filter_map(name).collect();
        names.sort();
        names
    }
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot end process {pid}")),
    }
}

/// The fields of `/proc/<pid>/stat` after the command name, which is in parentheses and may hold anything.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn start_time(pid: i32) -> Option<u64> {
    // Field 22 of the whole line is the 20th after the name (proc(5)).
    let fields = stat_fields(pid)?;
    if fields.first().is_some_and(|state| state == "Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat_fields(pid).is_none_or(|fields| fields.first().is_some_and(|state| state == "Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str) -> Command {
        Command { name: name.to_owned(), argv: vec!["sleep".to_owned(), "60".to_owned()] }
    }

    #[tokio::test]
    async fn a_process_is_started_once_and_ended_by_its_own_pid() {
        let dir = tempfile::tempdir().expect("a folder");
        let processes = Processes::new(dir.path());
        assert!(processes.ensure(&sleeper("s")).expect("started"));
        assert!(!processes.ensure(&sleeper("s")).expect("runs already"));
        let pid = processes.running("s").expect("running");
        assert_eq!(processes.names(), ["s"]);
        processes.stop(&Clock::default(), "s", Duration::from_secs(5)).await.expect("stopped");
        assert_eq!(processes.running("s"), None);
        assert!(is_zombie(pid));
    }

    #[test]
    fn a_pid_that_was_given_to_another_process_is_not_ours() {
        let dir = tempfile::tempdir().expect("a folder");
        let processes = Processes::new(dir.path());
        fs::create_dir_all(dir.path().join("run")).expect("made");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let record = Record { pid: own, started: 1 };
        fs::write(processes.record("s"), serde_json::to_vec(&record).expect("JSON")).expect("written");
        assert_eq!(processes.running("s"), None);
    }
}

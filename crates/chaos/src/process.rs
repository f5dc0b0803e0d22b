//! One process of a cluster: started, struck, started again.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Lines of its log that are shown when something is wrong.
const LAST_LINES: usize = 5;

/// A process; it is killed when this is dropped, and also when the runner dies.
pub struct Process {
    name: String,
    argv: Vec<String>,
    namespace: Option<PathBuf>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not yet started. `namespace` is the file of the network namespace that it is to be in.
    pub fn new(name: String, argv: Vec<String>, namespace: Option<PathBuf>, log: PathBuf) -> Self {
        Self { name, argv, namespace, log, child: None }
    }

    /// Starts it, or starts it again with the same arguments.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // Both only prepare themselves and then become the program, so that the pid is the program's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "SIGKILL"]);
        if let Some(namespace) = &self.namespace {
            command.arg("nsenter").arg(format!("--net={}", namespace.display()));
        }
        command.args(&self.argv).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(child) = &self.child else { bail!("{} does not run", self.name) };
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Its process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn id(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Whether it was started and not killed by us.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it was started and has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("{}: {}", self.name, last.join("\n    "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}

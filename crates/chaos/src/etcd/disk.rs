//! A disk that is slow or fails: `strace` stands between a process and its syncs.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Tampers with the syncs of a process until it is dropped.
pub struct TamperedDisk(Child);

impl TamperedDisk {
    /// Every sync of the process takes so much longer.
    ///
    /// # Errors
    /// There is no `strace`, or it may not.
    pub fn slow(process: u32, by: Duration) -> Result<Self> {
        Self::inject(process, &format!("delay_enter={}", by.as_micros()))
    }

    /// Every sync of the process fails.
    ///
    /// # Errors
    /// There is no `strace`, or it may not.
    pub fn failing(process: u32) -> Result<Self> {
        Self::inject(process, "error=EIO")
    }

    fn inject(process: u32, what: &str) -> Result<Self> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &process.to_string()]);
        strace.args(["-e", "trace=fdatasync,fsync", "-e", &format!("inject=fdatasync,fsync:{what}")]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(strace.spawn().context("slow and failing disks need strace")?))
    }
}

impl Drop for TamperedDisk {
    fn drop(&mut self) {
        // It lets go of the process only when it is asked to end.
        if let Ok(id) = i32::try_from(self.0.id()) {
            // It may have ended with the process.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        drop(self.0.wait());
    }
}

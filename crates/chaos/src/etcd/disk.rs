//! Disks that are slow or fail: `strace` stands between a process and its syncs. And disks that can be full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
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

/// A small disk in memory, seen by this process and those that it starts. It goes when this is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// A disk of so many megabytes at a path.
    ///
    /// # Errors
    /// Only root may.
    pub fn at(path: PathBuf, megabytes: u32) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let options = format!("size={megabytes}m,mode=0700");
        mount(Some("chaos"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("small disks need root")?;
        Ok(Self(path))
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        let block = [1_u8; 4096];
        while file.write_all(&block).is_ok() {}
        Ok(())
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Members may still use it; it goes when they do.
        let _ = umount2(Path::new(&self.0), MntFlags::MNT_DETACH);
    }
}

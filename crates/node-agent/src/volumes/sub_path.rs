//! The part of a volume that a mount shows (`subPath`). Driver.
//!
//! Others write into the volume meanwhile, and may put a symbolic link where a directory was between a look and a mount
//! (CVE-2017-1002101, CVE-2021-25741). So what is mounted is what was opened: the kernel resolves the path beneath the
//! volume (`openat2` with `RESOLVE_BENEATH`), and the descriptor is mounted to a place of the agent's own, which is what
//! the runtime is told.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// The mounts that this thread sees (proc(5)).
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// Makes `relative` of a volume, as a directory if it is not there, and mounts it to `place`. A place that shows it
/// already stays as it is.
///
/// # Errors
/// When the path leads out of the volume, or cannot be made or mounted.
pub fn provide(volume: &Path, relative: &str, place: &Path) -> io::Result<()> {
    let part = open_part(volume, relative)?;
    let wanted = fstat(&part)?;
    if is_mounted(place)? {
        if fs::metadata(place).is_ok_and(|there| (there.dev(), there.ino()) == (wanted.st_dev, wanted.st_ino))
        {
            return Ok(());
        }
        umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    // What was shown before may have been of another type.
    if fs::remove_dir(place).is_err() {
        drop(fs::remove_file(place));
    }
    match SFlag::from_bits_truncate(wanted.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => fs::create_dir_all(place)?,
        _ => {
            fs::create_dir_all(place.parent().unwrap_or(place))?;
            fs::File::create(place)?;
        }
    }
    mount(Some(&named(&part)), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Opens a part of a volume, wherever symbolic links lead as long as it is beneath the volume.
pub(super) fn open_part(volume: &Path, relative: &str) -> io::Result<OwnedFd> {
    let steps: Option<Vec<&OsStr>> = Path::new(relative)
        .components()
        .filter(|step| *step != Component::CurDir)
        .map(|step| match step {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let steps = steps.ok_or_else(leads_out)?;
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let whole: PathBuf = steps.iter().collect();
    match beneath(root.as_fd(), &whole) {
        Err(Errno::ENOENT) => make(root, &steps),
        other => other.map_err(told),
    }
}

fn leads_out() -> io::Error {
    io::Error::other("it leads out of the volume")
}

fn told(error: Errno) -> io::Error {
    match error {
        Errno::EXDEV | Errno::ELOOP => leads_out(),
        error => error.into(),
    }
}

fn beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Makes the steps that are not there, each in a directory that is open, with the mode of the volume.
fn make(root: OwnedFd, steps: &[&OsStr]) -> io::Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(fstat(&root)?.st_mode & 0o7777);
    let mut path = PathBuf::new();
    let mut here = beneath(root.as_fd(), &path).map_err(told)?;
    for step in steps {
        path.push(step);
        match beneath(root.as_fd(), &path) {
            Ok(next) => {
                here = next;
                continue;
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(told(error)),
        }
        mkdirat(&here, *step, mode)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        here = openat2(&here, *step, how).map_err(told)?;
        // The umask took from it; it is what is open that is changed, whatever stands there by now.
        fs::set_permissions(named(&here), fs::Permissions::from_mode(mode.bits()))?;
    }
    Ok(here)
}

/// A path to what is open.
fn named(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", open.as_raw_fd()))
}

fn is_mounted(place: &Path) -> io::Result<bool> {
    let mounts = mounts_below(place)?;
    Ok(!mounts.is_empty() && mounts.contains(&place.canonicalize()?))
}

/// Unmounts everything that is mounted at or below a directory.
///
/// # Errors
/// When something is still mounted then: what is below must not be removed.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for mounted in mounts_below(dir)?.iter().rev() {
        umount2(mounted, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    match mounts_below(dir)?.first() {
        None => Ok(()),
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
    }
}

/// Where something is mounted at or below a directory, in the order of mounting.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let table = fs::read(MOUNTS)?;
    let lines = table.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(&dir)).collect())
}

/// A field of the table: spaces, tabs, newlines and backslashes are octal there.
fn unescape(field: &[u8]) -> PathBuf {
    let (mut out, mut at) = (Vec::with_capacity(field.len()), 0);
    while let Some(byte) = field.get(at) {
        let code = field.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                out.push(code);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What a descriptor is of.
    fn identity(of: &OwnedFd) -> (u64, u64) {
        let stat = fstat(of).expect("open");
        (stat.st_dev, stat.st_ino)
    }

    fn is(of: &OwnedFd, path: &Path) -> bool {
        let there = fs::metadata(path).expect("there");
        identity(of) == (there.dev(), there.ino())
    }

    #[test]
    fn a_part_is_found_or_made_beneath_the_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).expect("set");
        symlink("a/b", volume.join("within")).expect("linked");
        symlink("../outside", volume.join("out")).expect("linked");
        symlink(&outside, volume.join("far")).expect("linked");
        symlink("nowhere", volume.join("dangling")).expect("linked");
        symlink("loop", volume.join("loop")).expect("linked");
        for (relative, found) in [("a/b", "a/b"), ("./within", "a/b"), (".", ""), ("within/../b", "-")] {
            match open_part(&volume, relative) {
                Ok(part) => assert!(is(&part, &volume.join(found)), "{relative}"),
                Err(_) => assert_eq!(found, "-", "{relative}"),
            }
        }
        let made = open_part(&volume, "within/new/er").expect("made");
        assert!(is(&made, &volume.join("a/b/new/er")));
        let mode = fs::metadata(volume.join("a/b/new")).expect("made").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777, "as the volume's");
        for bad in ["out", "out/x", "far", "far/x", "..", "a/../../outside", "/etc", "dangling/x", "loop/x"] {
            assert!(open_part(&volume, bad).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0, "nothing was made outside");
    }

    #[test]
    fn nobody_gets_out_by_changing_the_path_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        fs::create_dir_all(volume.join("real/x")).expect("made");
        fs::create_dir_all(outside.join("x")).expect("made");
        symlink(&outside, volume.join("link")).expect("linked");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // `real` and `link` change their places at once, again and again.
                while !stop.load(Ordering::Relaxed) {
                    let (a, b) = (volume.join("real"), volume.join("link"));
                    let swapped = nix::fcntl::renameat2(
                        nix::fcntl::AT_FDCWD,
                        &a,
                        nix::fcntl::AT_FDCWD,
                        &b,
                        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                    );
                    swapped.expect("swapped");
                }
            });
            let (mut within, mut refused) = (0, 0);
            for round in 0.. {
                match open_part(&volume, "real/x") {
                    Ok(part) => {
                        assert!(!is(&part, &outside.join("x")), "round {round}");
                        within += 1;
                    }
                    Err(_) => refused += 1,
                }
                if round >= 20_000 && within > 0 && refused > 0 {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 1, "nothing was made outside");
    }

    #[test]
    fn fields_of_the_table_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134c\\0"), Path::new("/a b\\c\\0"));
    }

    /// Needs root; without it there is nothing to see.
    #[test]
    fn what_was_opened_is_mounted_and_the_volume_outlives_its_parts() {
        let alone = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        };
        std::thread::spawn(move || {
            if alone().is_err() {
                return;
            }
            let folder = tempfile::tempdir().expect("a folder");
            let (volume, pod) = (folder.path().join("volume"), folder.path().join("a pod"));
            fs::create_dir_all(volume.join("sub")).expect("made");
            fs::write(volume.join("sub/file"), "kept").expect("written");
            let (dir, file) = (pod.join("parts/0"), pod.join("parts/1"));
            provide(&volume, "sub", &dir).expect("mounted");
            provide(&volume, "sub/file", &file).expect("mounted");
            provide(&volume, "sub", &dir).expect("mounted already");
            assert_eq!(fs::read_to_string(dir.join("file")).expect("seen"), "kept");
            assert_eq!(fs::read_to_string(&file).expect("seen"), "kept");
            assert_eq!(mounts_below(&pod).expect("listed").len(), 2);
            fs::rename(volume.join("sub"), volume.join("old")).expect("renamed");
            provide(&volume, "sub", &dir).expect("mounted anew");
            assert!(!dir.join("file").exists());
            unmount_below(&pod).expect("unmounted");
            fs::remove_dir_all(&pod).expect("removed");
            assert_eq!(fs::read_to_string(volume.join("old/file")).expect("there"), "kept");
        })
        .join()
        .expect("as it should be");
    }
}

//! Files of a volume that change all at once (upstream's atomic writer).
//!
//! The files live in a directory of their own; `..data` is a link to it, and every visible name is a link through
//! `..data`. Renaming a new `..data` over the old one switches all files in one step; a reader that opened a file
//! before keeps the old one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use super::plan::File;

/// The link that names the current set of files.
const DATA: &str = "..data";

/// Makes `dir` show exactly `files`; `owner_group` is the pod's fsGroup. Returns whether anything changed.
///
/// `stamp` names the new set: it must differ from the one in use.
pub fn write(dir: &Path, files: &[File], owner_group: Option<u32>, stamp: &str) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    if is_current(dir, files) {
        return Ok(false);
    }
    let set = format!("..{stamp}");
    let target = dir.join(&set);
    for file in files {
        write_file(&target, file, owner_group)?;
    }
    fs::create_dir_all(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    let old = fs::read_link(dir.join(DATA)).ok();
    let staged = dir.join("..data_tmp");
    let _ = fs::remove_file(&staged);
    symlink(&set, &staged)?;
    fs::rename(&staged, dir.join(DATA))?;
    link_names(dir, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn write_file(target: &Path, file: &File, owner_group: Option<u32>) -> io::Result<()> {
    let relative = Path::new(&file.path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err(io::Error::other(format!("path {:?} leads out of the volume", file.path)));
    }
    let path = target.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, &file.content)?;
    let mode = if owner_group.is_some() { file.mode | 0o040 } else { file.mode };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    if owner_group.is_some() {
        chown(&path, None, owner_group)?;
    }
    Ok(())
}

fn is_current(dir: &Path, files: &[File]) -> bool {
    let data = dir.join(DATA);
    if !data.exists() || top_names(files) != existing_names(dir) {
        return false;
    }
    let same = |file: &File| fs::read(data.join(&file.path)).is_ok_and(|content| content == file.content);
    files.iter().all(same) && count_files(&data) == files.len()
}

fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn top_names(files: &[File]) -> BTreeSet<String> {
    let first = |file: &File| file.path.split('/').next().unwrap_or_default().to_owned();
    files.iter().map(first).collect()
}

fn existing_names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with("..")).collect()
}

fn link_names(dir: &Path, files: &[File]) -> io::Result<()> {
    let wanted = top_names(files);
    let existing = existing_names(dir);
    for name in wanted.difference(&existing) {
        symlink(Path::new(DATA).join(name), dir.join(name))?;
    }
    for name in existing.difference(&wanted) {
        fs::remove_file(dir.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> File {
        File { path: path.to_owned(), content: content.as_bytes().to_vec(), mode: 0o640 }
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| fs::read_to_string(dir.path().join(name));
        let first = [file("a", "1"), file("sub/b", "2")];
        assert!(write(dir.path(), &first, None, "one").expect("written"));
        assert_eq!((at("a").expect("a"), at("sub/b").expect("b")), ("1".to_owned(), "2".to_owned()));
        assert!(!write(dir.path(), &first, None, "two").expect("unchanged"));
        assert!(write(dir.path(), &[file("a", "3")], None, "three").expect("written"));
        assert_eq!(at("a").expect("a"), "3");
        assert!(at("sub/b").is_err());
        assert_eq!(existing_names(dir.path()), BTreeSet::from(["a".to_owned()]));
        let sets = fs::read_dir(dir.path()).expect("listed").flatten();
        let sets = sets.filter(|entry| entry.file_name().to_string_lossy().starts_with("..")).count();
        assert_eq!(sets, 2, "the old set is gone: ..data and one directory remain");
        let mode = fs::metadata(dir.path().join("a")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(write(dir.path(), &[file("../x", "1")], None, "one").is_err());
    }
}

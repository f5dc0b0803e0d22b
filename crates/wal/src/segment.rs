//! Segments as files: made ahead, removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

/// The first bytes of a segment: what it is, its number, and a checksum of both.
pub(crate) const HEADER: usize = 32;
/// What it is, and in the last byte the version of the format.
const MAGIC: &[u8; 8] = b"triwal\x00\x01";
const EXTENSION: &str = "wal";
const SPARE: &str = "spare";
/// What is to be a spare file.
const FILLING: &str = "filling";
/// Bytes written at a time when a file is filled.
const CHUNK: usize = 1 << 20;
/// What writes past the page cache must begin at and be multiples of, on every disk.
const SECTOR: usize = 4096;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub number: u64,
    pub file: Arc<File>,
    pub path: PathBuf,
    /// Bytes that it can hold.
    pub capacity: usize,
}

pub(crate) fn header(number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&header[..16]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Whether a segment is whole, and of another version of the format.
pub(crate) fn is_of_another_version(head: &[u8]) -> bool {
    let Some((ours, rest)) = head.get(..20).map(|head| head.split_at(MAGIC.len())) else { return false };
    let (kind, version) = ours.split_at(MAGIC.len() - 1);
    let sum = crc32c::crc32c(&head[..16]).to_le_bytes();
    kind == &MAGIC[..MAGIC.len() - 1] && version != &MAGIC[MAGIC.len() - 1..] && rest[8..] == sum
}

/// The folder of the segments.
pub(crate) struct Folder {
    path: PathBuf,
    /// Bytes of a segment, but of one for a record that is larger.
    capacity: usize,
}

impl Folder {
    pub fn open(path: &Path, capacity: usize) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), capacity })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn name(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016x}.{EXTENSION}"))
    }

    fn spare(&self) -> PathBuf {
        self.path.join(SPARE)
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == EXTENSION) {
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                let number = u64::from_str_radix(stem, 16).map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{} is no segment", path.display()))
                })?;
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All segments in order.
    pub fn segments(&self) -> io::Result<Vec<Segment>> {
        self.numbers()?.into_iter().map(|number| self.segment(number)).collect()
    }

    fn segment(&self, number: u64) -> io::Result<Segment> {
        let path = self.name(number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let capacity = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        Ok(Segment { number, file: Arc::new(file), path, capacity })
    }

    /// A segment with a number, out of a spare file if there is one that is large enough.
    pub fn make(&self, number: u64, capacity: usize) -> io::Result<Segment> {
        let path = self.name(number);
        if capacity <= self.capacity && self.spare().exists() {
            fs::rename(self.spare(), &path)?;
        } else {
            // Filling it now would hold up the log.
            let file = File::create(&path)?;
            file.set_len(capacity.max(self.capacity) as u64)?;
        }
        self.segment(number)
    }

    /// Makes a spare file if there is none.
    pub fn prepare(&self) -> io::Result<()> {
        if self.spare().exists() {
            return Ok(());
        }
        let path = self.path.join(FILLING);
        let made = fill(&path, self.capacity).and_then(|()| fs::rename(&path, self.spare()));
        if made.is_err() {
            // It may have taken the last room.
            drop(fs::remove_file(&path));
        }
        made
    }

    /// Makes names durable.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Writes zeros: a sync of a file that has all its blocks writes nothing but data.
fn fill(path: &Path, bytes: usize) -> io::Result<()> {
    let direct = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path);
    // Not every file system writes past the page cache.
    let written = direct.and_then(|file| write_zeros(&file, bytes));
    let file = match written {
        Ok(file) => file,
        Err(_) => {
            let file = File::create(path)?;
            write_zeros(&file, bytes)?
        }
    };
    file.sync_all()
}

fn write_zeros(file: &File, bytes: usize) -> io::Result<File> {
    let buffer = vec![0; CHUNK + SECTOR];
    let start = buffer.as_ptr().align_offset(SECTOR);
    for at in (0..bytes).step_by(CHUNK) {
        let length = CHUNK.min(bytes - at);
        file.write_all_at(&buffer[start..start + length], at as u64)?;
    }
    file.try_clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_no_room_takes_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILLING);
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let segments = Folder::open(folder.path(), 1 << 20).expect("open");
        segments.prepare().expect_err("no room");
        assert!(path.symlink_metadata().is_err(), "it is gone");
        segments.prepare().expect("there is room again");
        assert!(segments.spare().exists());
    }
}

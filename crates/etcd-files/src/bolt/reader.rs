//! Reads a file in the order of its keys. In memory is one page for each level of the tree; nothing is mapped, so a file
//! that is cut off or changes is an error and no signal.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use super::{
    BRANCH, BUCKET, ELEMENT, LEAF, MAGIC, META, META_BYTES, META_SUMMED, PAGE_HEADER, VERSION, fnv1a,
};

/// Bytes that a page with what overflows from it may have: a value cannot be larger.
const MAX_PAGE: u64 = 1 << 30;
/// Levels of a tree; a file of 2⁶⁴ bytes has fewer.
const MAX_DEPTH: usize = 64;
/// Page sizes that are tried where the first meta page is damaged.
const PAGE_SIZES: [u64; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];

/// Bytes by position.
pub trait ReadAt {
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// When there is less or it cannot be read.
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// When that is not known.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, into, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let from = usize::try_from(offset).map_err(|_| end())?;
        let found = self.get(from..).and_then(|rest| rest.get(..into.len())).ok_or_else(end)?;
        into.copy_from_slice(found);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The operating system refuses it.
    #[error("cannot read the database file: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("not a bbolt database: neither meta page is whole")]
    NotADatabase,
    /// It was changed or cut off.
    #[error("the database file is damaged: page {page}: {what}")]
    Damaged {
        /// Which page.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What is called for every key with its value, in order, until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// A file of bbolt's.
pub struct BoltFile<R> {
    source: R,
    size: u64,
    page_size: u64,
    /// Pages in use, and behind them what may be left over.
    pages: u64,
    root: u64,
}

#[derive(Clone, Copy)]
struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|found| found.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|found| found.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|found| found.try_into().ok()).map_or(0, u16::from_le_bytes)
}

impl Meta {
    fn read<R: ReadAt>(source: &R, offset: u64) -> Option<Self> {
        let mut page = [0; PAGE_HEADER + META_BYTES];
        source.read_exact_at(&mut page, offset).ok()?;
        let meta = &page[PAGE_HEADER..];
        let page_size = u64::from(u32_at(meta, 8));
        let whole = u16_at(&page, 8) & META != 0
            && u32_at(meta, 0) == MAGIC
            && u32_at(meta, 4) == VERSION
            && PAGE_SIZES.contains(&page_size)
            && fnv1a(&meta[..META_SUMMED]) == u64_at(meta, META_SUMMED);
        let root = u64_at(meta, 16);
        whole.then(|| Self { page_size, root, pages: u64_at(meta, 40), transaction: u64_at(meta, 48) })
    }

    /// The newer of the two that are whole.
    fn newest<R: ReadAt>(source: &R) -> Option<Self> {
        let first = Self::read(source, 0);
        let at_its_place = |size: u64| Self::read(source, size).filter(|meta| meta.page_size == size);
        let second = match first {
            Some(first) => at_its_place(first.page_size),
            None => PAGE_SIZES.into_iter().find_map(at_its_place),
        };
        first.into_iter().chain(second).max_by_key(|meta| meta.transaction)
    }
}

/// A page with what overflows from it, and what it says of itself.
struct Page<'a> {
    id: u64,
    flags: u16,
    count: usize,
    bytes: &'a [u8],
}

/// Where a walk through a bucket is.
struct Walk<'a, 'b> {
    /// Pages that were read: a tree has no more than the file.
    read: u64,
    last: Option<Vec<u8>>,
    visit: &'a mut Visit<'b>,
}

impl<R: ReadAt> BoltFile<R> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(source: R) -> Result<Self, BoltError> {
        let size = source.size()?;
        let meta = Meta::newest(&source).ok_or(BoltError::NotADatabase)?;
        let file = Self { source, size, page_size: meta.page_size, pages: meta.pages, root: meta.root };
        let needed = meta.pages.checked_mul(meta.page_size);
        if needed.is_none_or(|needed| needed > size) {
            return Err(damaged(meta.pages, "the file ends before the last page"));
        }
        Ok(file)
    }

    /// Bytes of the file that are in use, as bbolt counts them.
    pub fn size(&self) -> u64 {
        self.pages * self.page_size
    }

    /// The buckets' names, in order.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read. The same for what follows.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, BoltError> {
        Ok(self.bucket_values()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Calls `visit` for every key of a bucket, in order; whether there is such a bucket.
    ///
    /// # Errors
    /// As above.
    pub fn visit(&self, bucket: &[u8], visit: &mut Visit<'_>) -> Result<bool, BoltError> {
        let found = self.bucket_values()?.into_iter().find(|(name, _)| name == bucket);
        let Some((_, value)) = found else { return Ok(false) };
        let mut walk = Walk { read: 0, last: None, visit };
        let root = u64_at(&value, 0);
        if root != 0 {
            let _ = self.walk_flagged(root, 0, &mut walk, 0)?;
            return Ok(true);
        }
        // A small bucket lies in its parent's value: a page without a number.
        let bytes = value.get(PAGE_HEADER..).unwrap_or_default();
        if bytes.len() < PAGE_HEADER {
            return Err(damaged(self.root, "a bucket within it is cut off"));
        }
        let page = Page { id: self.root, flags: u16_at(bytes, 8), count: u16_at(bytes, 10).into(), bytes };
        if page.flags & LEAF == 0 {
            return Err(damaged(self.root, "a bucket within it is no leaf"));
        }
        let _ = leaf(&page, &mut walk, 0)?;
        Ok(true)
    }

    /// The last key of a bucket; `None` where it is empty or not there. Reads one page of each level.
    ///
    /// # Errors
    /// As above.
    pub fn last_key(&self, bucket: &[u8]) -> Result<Option<Vec<u8>>, BoltError> {
        let found = self.bucket_values()?.into_iter().find(|(name, _)| name == bucket);
        let Some((_, value)) = found else { return Ok(None) };
        let mut id = u64_at(&value, 0);
        for _ in 0..MAX_DEPTH {
            let bytes = match id {
                0 => value.get(PAGE_HEADER..).unwrap_or_default().to_vec(),
                id => self.page(id)?,
            };
            let page = Page { id, flags: u16_at(&bytes, 8), count: u16_at(&bytes, 10).into(), bytes: &bytes };
            if page.flags & LEAF != 0 {
                let mut last = None;
                let mut note = |key: &[u8], _: &[u8]| {
                    last = Some(key.to_vec());
                    ControlFlow::Continue(())
                };
                let _ = leaf(&page, &mut Walk { read: 0, last: None, visit: &mut note }, 0)?;
                return Ok(last);
            }
            let element = PAGE_HEADER + page.count.saturating_sub(1) * ELEMENT;
            if page.flags & BRANCH == 0 || page.count == 0 || element + ELEMENT > bytes.len() {
                return Err(damaged(id, "it is neither a branch nor a leaf"));
            }
            id = u64_at(&bytes, element + 8);
        }
        Err(damaged(id, "the tree leads back to itself"))
    }

    fn bucket_values(&self) -> Result<Vec<Pair>, BoltError> {
        let mut found = Vec::new();
        let mut gather = |name: &[u8], value: &[u8]| {
            found.push((name.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        let mut walk = Walk { read: 0, last: None, visit: &mut gather };
        let _ = self.walk_flagged(self.root, 0, &mut walk, BUCKET)?;
        Ok(found)
    }

    fn walk_flagged(
        &self,
        id: u64,
        depth: usize,
        walk: &mut Walk<'_, '_>,
        flags: u32,
    ) -> Result<ControlFlow<()>, BoltError> {
        walk.read += 1;
        if depth > MAX_DEPTH || walk.read > self.pages {
            return Err(damaged(id, "the tree leads back to itself"));
        }
        let bytes = self.page(id)?;
        let page = Page { id, flags: u16_at(&bytes, 8), count: u16_at(&bytes, 10).into(), bytes: &bytes };
        if page.flags & LEAF != 0 {
            return leaf(&page, walk, flags);
        }
        if page.flags & BRANCH == 0 {
            return Err(damaged(id, "it is neither a branch nor a leaf"));
        }
        for number in 0..page.count {
            let element = PAGE_HEADER + number * ELEMENT;
            if element + ELEMENT > bytes.len() {
                return Err(damaged(id, "it has more elements than fit"));
            }
            if self.walk_flagged(u64_at(&bytes, element + 8), depth + 1, walk, flags)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A page and what overflows from it.
    fn page(&self, id: u64) -> Result<Vec<u8>, BoltError> {
        if id < 2 || id >= self.pages {
            return Err(damaged(id, "there is no such page"));
        }
        // `open` saw that all pages are within the file.
        let offset = id * self.page_size;
        let mut bytes = vec![0; usize::try_from(self.page_size).unwrap_or(usize::MAX)];
        self.source.read_exact_at(&mut bytes, offset)?;
        if u64_at(&bytes, 0) != id {
            return Err(damaged(id, "it says that it is another"));
        }
        let whole = (u64::from(u32_at(&bytes, 12)) + 1) * self.page_size;
        if whole > self.page_size {
            if whole > MAX_PAGE || offset + whole > self.size {
                return Err(damaged(id, "it is larger than the file"));
            }
            let head = bytes.len();
            bytes.resize(usize::try_from(whole).map_err(|_| damaged(id, "it is too large"))?, 0);
            self.source.read_exact_at(&mut bytes[head..], offset + head as u64)?;
        }
        Ok(bytes)
    }
}

fn damaged(page: u64, what: &'static str) -> BoltError {
    BoltError::Damaged { page, what }
}

fn leaf(page: &Page<'_>, walk: &mut Walk<'_, '_>, flags: u32) -> Result<ControlFlow<()>, BoltError> {
    for number in 0..page.count {
        let element = PAGE_HEADER + number * ELEMENT;
        let heads = page.bytes.get(element..element + ELEMENT);
        let heads = heads.ok_or(damaged(page.id, "it has more elements than fit"))?;
        let [position, key, value] = [4, 8, 12].map(|at| u32_at(heads, at) as usize);
        let behind_key = element + position + key;
        let found = page.bytes.get(element + position..behind_key);
        let found = found.zip(page.bytes.get(behind_key..behind_key + value));
        let (key, value) = found.ok_or(damaged(page.id, "an element lies outside of it"))?;
        if u32_at(heads, 0) & BUCKET != flags {
            return Err(damaged(page.id, "a bucket where a key belongs, or the other way round"));
        }
        if walk.last.as_deref().is_some_and(|last| last >= key) {
            return Err(damaged(page.id, "its keys are not in order"));
        }
        let last = walk.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        if (walk.visit)(key, value).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::bolt::Writer;

    fn sample(keys: u32) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut out).expect("write");
        writer.bucket("empty").close().expect("write");
        let mut bucket = writer.bucket("many");
        for number in 0..keys {
            let value = vec![b'v'; if number % 1000 == 999 { 9000 } else { 50 }];
            bucket.put(&number.to_be_bytes(), &value).expect("write");
        }
        bucket.close().expect("write");
        writer.finish().expect("write");
        out.into_inner()
    }

    #[test]
    fn what_was_written_is_read_in_order() {
        for keys in [0, 1, 100, 100_000] {
            let bytes = sample(keys);
            let file = BoltFile::open(bytes.as_slice()).expect("open");
            assert_eq!(file.buckets().expect("buckets"), [b"empty".to_vec(), b"many".to_vec()]);
            assert_eq!(file.size(), bytes.len() as u64);
            let mut next = 0u32;
            let mut visit = |key: &[u8], value: &[u8]| {
                assert_eq!(key, next.to_be_bytes());
                assert!(value.iter().all(|byte| *byte == b'v') && [50, 9000].contains(&value.len()));
                next += 1;
                ControlFlow::Continue(())
            };
            assert!(file.visit(b"many", &mut visit).expect("visit"));
            assert_eq!(next, keys);
            let last = keys.checked_sub(1).map(|last| last.to_be_bytes().to_vec());
            assert_eq!(file.last_key(b"many").expect("last"), last);
            assert!(!file.visit(b"none", &mut |_, _| ControlFlow::Continue(())).expect("visit"));
        }
    }

    #[test]
    fn the_newer_whole_meta_page_counts() {
        let mut bytes = sample(10);
        assert_eq!(Meta::newest(&bytes.as_slice()).expect("meta").transaction, 1);
        bytes[4096 + PAGE_HEADER + 50] ^= 1;
        assert_eq!(Meta::newest(&bytes.as_slice()).expect("meta").transaction, 0);
        bytes[PAGE_HEADER] ^= 1;
        assert!(matches!(BoltFile::open(bytes.as_slice()), Err(BoltError::NotADatabase)));
        // The first one lost, the second is found by its place.
        let mut bytes = sample(10);
        bytes[..4096].fill(0);
        assert_eq!(Meta::newest(&bytes.as_slice()).expect("meta").transaction, 1);
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let bytes = sample(1000);
        let cut = BoltFile::open(&bytes[..bytes.len() - 1]);
        assert!(matches!(cut, Err(BoltError::Damaged { .. })));
        assert!(matches!(BoltFile::open(&b"text"[..]), Err(BoltError::NotADatabase)));
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0usize..40_960, bit in 0u8..8, also in 0usize..40_960) {
            let mut bytes = sample(500);
            let size = bytes.len();
            bytes[at % size] ^= 1 << bit;
            bytes[also % size] = 0xff;
            if let Ok(file) = BoltFile::open(bytes.as_slice()) {
                for bucket in file.buckets().unwrap_or_default() {
                    drop(file.visit(&bucket, &mut |_, _| ControlFlow::Continue(())));
                }
            }
        }
    }
}

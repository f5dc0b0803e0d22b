//! Writes bbolt's file format, which etcd's snapshots are, in one pass: keys arrive in order, pages are written as they
//! fill, and in memory are only the first keys of pages.
//!
//! The format is bbolt's version 2 (`go.etcd.io/bbolt`, `internal/common`): two meta pages, then pages of leaf and branch
//! elements. All numbers are little-endian.

use std::io::{self, Seek, SeekFrom, Write};
use std::mem;

/// Bytes of a page.
const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
/// Bytes of what stands for a key in a page, before the keys themselves.
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Marks an element of the root page that is a bucket.
const BUCKET: u32 = 0x01;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// A file to be.
pub(super) struct Writer<W> {
    out: W,
    /// The number of the next page.
    next: u64,
    buckets: Vec<(Vec<u8>, u64)>,
}

/// Elements that are to become a page.
#[derive(Default)]
struct Page {
    elements: Vec<(u32, Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Page {
    fn fits(&self, bytes: usize) -> bool {
        self.elements.is_empty() || PAGE_HEADER + self.bytes + ELEMENT + bytes <= PAGE
    }

    fn push(&mut self, flags: u32, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += ELEMENT + key.len() + value.len();
        self.elements.push((flags, key, value));
    }
}

impl<W: Write + Seek> Writer<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        // The meta pages are written last.
        out.write_all(&[0; 2 * PAGE])?;
        Ok(Self { out, next: 2, buckets: Vec::new() })
    }

    /// Begins a bucket; the one before has ended. Buckets come in the order of their names.
    pub fn bucket(&mut self, name: &str) -> Bucket<'_, W> {
        Bucket { name: name.as_bytes().to_vec(), writer: self, page: Page::default(), children: Vec::new() }
    }

    /// Writes what holds the buckets together; the size of the file.
    pub fn finish(mut self) -> io::Result<u64> {
        let mut page = Page::default();
        for (name, root) in mem::take(&mut self.buckets) {
            let value = [root.to_le_bytes(), 0u64.to_le_bytes()].concat();
            page.push(BUCKET, name, value);
        }
        let root = self.leaf(page)?;
        let freelist = self.next;
        self.page(FREELIST, 0, &[])?;
        for id in 0..2 {
            self.out.seek(SeekFrom::Start(id * PAGE as u64))?;
            let meta = meta(root, freelist, self.next, id);
            self.out.write_all(&header(id, META, 0, 0))?;
            self.out.write_all(&meta)?;
        }
        self.out.flush()?;
        Ok(self.next * PAGE as u64)
    }

    /// Writes a page, or as many as its body takes; its number.
    fn page(&mut self, flags: u16, count: usize, body: &[u8]) -> io::Result<u64> {
        let id = self.next;
        let pages = (PAGE_HEADER + body.len()).div_ceil(PAGE);
        let too_many = |_| io::Error::other("a page is too large for the file's format");
        let count = u16::try_from(count).map_err(too_many)?;
        let overflow = u32::try_from(pages - 1).map_err(too_many)?;
        self.out.write_all(&header(id, flags, count, overflow))?;
        self.out.write_all(body)?;
        self.out.write_all(&vec![0; pages * PAGE - PAGE_HEADER - body.len()])?;
        self.next += pages as u64;
        Ok(id)
    }

    fn leaf(&mut self, page: Page) -> io::Result<u64> {
        let count = page.elements.len();
        let (mut heads, mut data) = (Vec::with_capacity(count * ELEMENT), Vec::with_capacity(page.bytes));
        for (number, (flags, key, value)) in page.elements.iter().enumerate() {
            // Counted from the element itself.
            let position = (count - number) * ELEMENT + data.len();
            for part in [*flags, position as u32, key.len() as u32, value.len() as u32] {
                heads.extend_from_slice(&part.to_le_bytes());
            }
            data.extend_from_slice(key);
            data.extend_from_slice(value);
        }
        heads.extend_from_slice(&data);
        self.page(LEAF, count, &heads)
    }

    fn branch(&mut self, children: &[(Vec<u8>, u64)]) -> io::Result<u64> {
        let count = children.len();
        let (mut heads, mut data) = (Vec::with_capacity(count * ELEMENT), Vec::new());
        for (number, (key, child)) in children.iter().enumerate() {
            let position = (count - number) * ELEMENT + data.len();
            heads.extend_from_slice(&(position as u32).to_le_bytes());
            heads.extend_from_slice(&(key.len() as u32).to_le_bytes());
            heads.extend_from_slice(&child.to_le_bytes());
            data.extend_from_slice(key);
        }
        heads.extend_from_slice(&data);
        self.page(BRANCH, count, &heads)
    }

    /// Writes branch pages until one holds all; its number.
    fn tree(&mut self, mut children: Vec<(Vec<u8>, u64)>) -> io::Result<u64> {
        while children.len() > 1 {
            let mut parents = Vec::new();
            let mut rest = children.as_slice();
            while !rest.is_empty() {
                let mut bytes = PAGE_HEADER;
                let fits = |(key, _): &&(Vec<u8>, u64)| {
                    bytes += ELEMENT + key.len();
                    bytes <= PAGE
                };
                // A branch of one child would be no step towards the root.
                let count = rest.iter().take_while(fits).count().max(2).min(rest.len());
                let (page, behind) = rest.split_at(count);
                parents.push((page[0].0.clone(), self.branch(page)?));
                rest = behind;
            }
            children = parents;
        }
        Ok(children.first().map_or(0, |(_, page)| *page))
    }
}

/// A bucket that is being written.
pub(super) struct Bucket<'a, W> {
    name: Vec<u8>,
    writer: &'a mut Writer<W>,
    page: Page,
    /// First keys of leaf pages.
    children: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> Bucket<'_, W> {
    /// Adds a key behind all others.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        if !self.page.fits(key.len() + value.len()) {
            self.write_page()?;
        }
        self.page.push(0, key, value);
        Ok(())
    }

    pub fn close(mut self) -> io::Result<()> {
        if !self.page.elements.is_empty() || self.children.is_empty() {
            self.write_page()?;
        }
        let root = self.writer.tree(mem::take(&mut self.children))?;
        self.writer.buckets.push((mem::take(&mut self.name), root));
        Ok(())
    }

    fn write_page(&mut self) -> io::Result<()> {
        let page = mem::take(&mut self.page);
        let first = page.elements.first().map(|(_, key, _)| key.clone()).unwrap_or_default();
        let id = self.writer.leaf(page)?;
        self.children.push((first, id));
        Ok(())
    }
}

fn header(id: u64, flags: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER] {
    let mut header = [0; PAGE_HEADER];
    header[..8].copy_from_slice(&id.to_le_bytes());
    header[8..10].copy_from_slice(&flags.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..].copy_from_slice(&overflow.to_le_bytes());
    header
}

fn meta(root: u64, freelist: u64, pages: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for number in [MAGIC, VERSION, PAGE as u32, 0] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    for number in [root, 0, freelist, pages, transaction] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    let sum = fnv1a(&meta);
    meta.extend_from_slice(&sum.to_le_bytes());
    meta
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_checksum_is_fnv() {
        // Published values of the function.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_file_is_whole_pages_whatever_the_keys_are() {
        let mut out = Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut out).expect("write");
        writer.bucket("empty").close().expect("write");
        let mut bucket = writer.bucket("many");
        for number in 0..10_000u32 {
            let value = vec![b'v'; if number % 1000 == 0 { 3 * PAGE } else { 50 }];
            bucket.put(number.to_be_bytes().to_vec(), value).expect("write");
        }
        bucket.close().expect("write");
        let size = writer.finish().expect("write");
        let bytes = out.into_inner();
        assert_eq!(bytes.len() as u64, size);
        assert_eq!(size % PAGE as u64, 0);
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        for page in 0..2 {
            let meta = &bytes[page * PAGE + PAGE_HEADER..][..64];
            assert_eq!(fnv1a(&meta[..56]), number(page * PAGE + PAGE_HEADER + 56));
        }
        // Every page says which it is.
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(number(at), (at / PAGE) as u64);
            let overflow = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four"));
            at += (1 + overflow as usize) * PAGE;
        }
    }
}

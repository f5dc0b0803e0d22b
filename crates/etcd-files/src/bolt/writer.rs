//! Writes a file in one pass: keys arrive in order, pages are written as they fill, and in memory is one page for each
//! level of the tree.

use std::io::{self, Seek, SeekFrom, Write};
use std::mem;

use super::{BRANCH, BUCKET, ELEMENT, FREELIST, LEAF, MAGIC, META, PAGE_HEADER, VERSION, fnv1a};

/// Bytes of a page.
const PAGE: usize = 4096;

/// A file to be.
pub struct Writer<W> {
    out: W,
    /// The number of the next page.
    next: u64,
    buckets: Vec<(Vec<u8>, u64)>,
}

/// Elements that are to become a leaf.
#[derive(Default)]
struct Leaf {
    /// Flags, length of the key, length of the value.
    elements: Vec<(u32, usize, usize)>,
    data: Vec<u8>,
}

impl Leaf {
    fn fits(&self, bytes: usize) -> bool {
        let elements = ELEMENT * (self.elements.len() + 1);
        self.elements.is_empty() || PAGE_HEADER + elements + self.data.len() + bytes <= PAGE
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.elements.push((flags, key.len(), value.len()));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn first_key(&self) -> &[u8] {
        self.elements.first().map_or(&[], |(_, key, _)| &self.data[..*key])
    }

    fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
    }
}

/// Pages that are to become the children of one.
#[derive(Default)]
struct Branch {
    children: Vec<(Vec<u8>, u64)>,
    bytes: usize,
}

impl Branch {
    /// A branch of one child would be no step towards the root.
    fn is_full(&self, key: &[u8]) -> bool {
        self.children.len() >= 2 && PAGE_HEADER + self.bytes + ELEMENT + key.len() > PAGE
    }

    fn push(&mut self, key: Vec<u8>, page: u64) {
        self.bytes += ELEMENT + key.len();
        self.children.push((key, page));
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file at the beginning of `out`.
    ///
    /// # Errors
    /// When it cannot be written. The same for what follows.
    pub fn new(mut out: W) -> io::Result<Self> {
        // The meta pages are written last.
        out.write_all(&[0; 2 * PAGE])?;
        Ok(Self { out, next: 2, buckets: Vec::new() })
    }

    /// Begins a bucket; the one before has ended. Buckets come in the order of their names.
    pub fn bucket(&mut self, name: &str) -> Bucket<'_, W> {
        Bucket { name: name.as_bytes().to_vec(), writer: self, leaf: Leaf::default(), levels: Vec::new() }
    }

    /// Writes what holds the buckets together; the size of the file.
    ///
    /// # Errors
    /// As above.
    pub fn finish(mut self) -> io::Result<u64> {
        let mut leaf = Leaf::default();
        for (name, root) in mem::take(&mut self.buckets) {
            let value = [root.to_le_bytes(), 0u64.to_le_bytes()].concat();
            leaf.push(BUCKET, &name, &value);
        }
        let root = self.leaf(&leaf)?;
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
    fn page(&mut self, flags: u16, count: usize, body: &[&[u8]]) -> io::Result<u64> {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let id = self.next;
        let bytes = PAGE_HEADER + body.iter().map(|part| part.len()).sum::<usize>();
        let pages = bytes.div_ceil(PAGE);
        let too_many = |_| io::Error::other("a page is too large for the file's format");
        let count = u16::try_from(count).map_err(too_many)?;
        let overflow = u32::try_from(pages - 1).map_err(too_many)?;
        self.out.write_all(&header(id, flags, count, overflow))?;
        body.iter().try_for_each(|part| self.out.write_all(part))?;
        self.out.write_all(&ZEROS[..pages * PAGE - bytes])?;
        self.next += pages as u64;
        Ok(id)
    }

    fn leaf(&mut self, leaf: &Leaf) -> io::Result<u64> {
        let count = leaf.elements.len();
        let (mut heads, mut before) = (Vec::with_capacity(count * ELEMENT), 0);
        for (number, (flags, key, value)) in leaf.elements.iter().enumerate() {
            // Counted from the element itself.
            let position = (count - number) * ELEMENT + before;
            for part in [*flags, position as u32, *key as u32, *value as u32] {
                heads.extend_from_slice(&part.to_le_bytes());
            }
            before += key + value;
        }
        self.page(LEAF, count, &[&heads, &leaf.data])
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
        self.page(BRANCH, count, &[&heads, &data])
    }

    /// Hangs a page into the lowest level; a level that is full becomes a page of the level above.
    fn add_child(&mut self, levels: &mut Vec<Branch>, key: Vec<u8>, page: u64) -> io::Result<()> {
        let (mut key, mut page) = (key, page);
        for level in 0.. {
            if level == levels.len() {
                levels.push(Branch::default());
            }
            if !levels[level].is_full(&key) {
                levels[level].push(key, page);
                break;
            }
            let full = mem::take(&mut levels[level]);
            levels[level].push(key, page);
            page = self.branch(&full.children)?;
            key = full.children.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends all levels; the root's number.
    fn close(&mut self, mut levels: Vec<Branch>) -> io::Result<u64> {
        let mut level = 0;
        loop {
            let last = level + 1 == levels.len();
            let mut children = mem::take(&mut levels[level].children);
            if last && children.len() == 1 {
                return Ok(children[0].1);
            }
            let page = self.branch(&children)?;
            let key = mem::take(&mut children[0].0);
            if last {
                return Ok(page);
            }
            level += 1;
            levels[level].push(key, page);
        }
    }
}

/// A bucket that is being written.
pub struct Bucket<'a, W> {
    name: Vec<u8>,
    writer: &'a mut Writer<W>,
    leaf: Leaf,
    levels: Vec<Branch>,
}

impl<W: Write + Seek> Bucket<'_, W> {
    /// Adds a key behind all others.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if !self.leaf.fits(key.len() + value.len()) {
            self.write_leaf()?;
        }
        self.leaf.push(0, key, value);
        Ok(())
    }

    /// Ends the bucket.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn close(mut self) -> io::Result<()> {
        if !self.leaf.elements.is_empty() || self.levels.is_empty() {
            self.write_leaf()?;
        }
        let root = self.writer.close(mem::take(&mut self.levels))?;
        self.writer.buckets.push((mem::take(&mut self.name), root));
        Ok(())
    }

    fn write_leaf(&mut self) -> io::Result<()> {
        let id = self.writer.leaf(&self.leaf)?;
        let first = self.leaf.first_key().to_vec();
        self.leaf.clear();
        self.writer.add_child(&mut self.levels, first, id)
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
            bucket.put(&number.to_be_bytes(), &value).expect("write");
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

//! Keys in a row: one allocation for the bytes of all keys of a node, so that copying a node copies memory and touches
//! nothing else.

/// Sorted byte strings.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

/// Room for so many more keys is left in a copy, which is made because one is to be inserted.
const SLACK: usize = 4;

impl Clone for Keys {
    fn clone(&self) -> Self {
        let mut keys = Self::with_capacity(self.len() + SLACK, self.bytes.len() + SLACK * self.average());
        keys.bytes.extend_from_slice(&self.bytes);
        keys.ends.extend_from_slice(&self.ends);
        keys
    }
}

impl Keys {
    pub fn with_capacity(keys: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(keys) }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at] as usize]
    }

    pub fn last(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|last| self.get(last))
    }

    /// Where a key is, or where it would be.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    pub fn push(&mut self, key: &[u8]) {
        self.insert(self.len(), key);
    }

    pub fn insert(&mut self, at: usize, key: &[u8]) {
        let (start, len) = (self.start(at), as_u32(key.len()));
        if self.bytes.capacity() - self.bytes.len() < key.len() {
            self.bytes.reserve_exact(key.len() + SLACK * self.average());
        }
        self.bytes.splice(start..start, key.iter().copied());
        grow(&mut self.ends);
        self.ends.insert(at, as_u32(start));
        self.ends[at..].iter_mut().for_each(|end| *end += len);
    }

    pub fn remove(&mut self, at: usize) {
        let (start, end) = (self.start(at), self.ends[at] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(at);
        let len = as_u32(end - start);
        self.ends[at..].iter_mut().for_each(|end| *end -= len);
    }

    /// Keys from `at` on go to another row.
    pub fn split_off(&mut self, at: usize) -> Self {
        let start = self.start(at);
        let mut bytes = Vec::with_capacity(self.bytes.len() - start + SLACK * self.average());
        bytes.extend_from_slice(&self.bytes[start..]);
        let mut ends = Vec::with_capacity(self.len() - at + SLACK);
        ends.extend(self.ends[at..].iter().map(|end| end - as_u32(start)));
        self.bytes.truncate(start);
        self.ends.truncate(at);
        Self { bytes, ends }
    }

    pub fn append(&mut self, behind: &Self) {
        let start = as_u32(self.bytes.len());
        self.bytes.extend_from_slice(&behind.bytes);
        self.ends.extend(behind.ends.iter().map(|end| end + start));
    }

    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    fn average(&self) -> usize {
        self.bytes.len().checked_div(self.len()).unwrap_or(0)
    }
}

/// Makes room for one more, and a few: a node is small, and doubling it would waste half of it.
pub(super) fn grow<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(SLACK);
    }
}

/// A copy with room for a few more.
pub(super) fn copied<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(items.len() + SLACK);
    copy.extend_from_slice(items);
    copy
}

fn as_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("invariant: the keys of a node are far smaller than 4 GiB")
}

//! The index as it is kept beside the state: all keys in order with their numbers, so that opening a state reads one file
//! and the versions behind it. Without it, or with a damaged one, opening reads every version.

use std::io::{self, Read, Write};

use bytes::BytesMut;

use crate::record::{put_number, take_number};
use crate::tree::{Builder, Entry, Tree};
use crate::types::{KeyRange, Revision};
use crate::view::State;

const MAGIC: &[u8; 8] = b"triindx\x01";
/// Revision, hash, live bytes, past bytes, keys.
const HEADER: usize = 8 * 5;
/// Bytes of a block, about.
const BLOCK: usize = 128 << 10;
/// A block with one very long key is longer, and none is longer than this.
const MAX_BLOCK: usize = 1 << 31;

/// What was read.
pub(crate) struct Saved {
    pub index: Tree,
    /// The revision at which it was written.
    pub revision: Revision,
    /// The state's hash then.
    pub hash: u32,
    pub live_bytes: u64,
    pub past_bytes: u64,
}

pub(crate) fn write(state: &State, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(MAGIC)?;
    let count = state.index.range(&KeyRange::all()).count() as u64;
    let mut block = BytesMut::with_capacity(BLOCK + 1024);
    for number in
        [state.revision.cast_unsigned(), state.hash.into(), state.live_bytes, state.past_bytes, count]
    {
        block.extend_from_slice(&number.to_be_bytes());
    }
    write_block(out, &mut block)?;
    let mut last = Vec::new();
    for (key, entry) in state.index.range(&KeyRange::all()) {
        let shared = key.iter().zip(&last).take_while(|(a, b)| a == b).count();
        put_number(&mut block, shared as u64);
        put_number(&mut block, (key.len() - shared) as u64);
        block.extend_from_slice(&key[shared..]);
        entry.to_numbers().into_iter().for_each(|number| put_number(&mut block, number.cast_unsigned()));
        last.truncate(shared);
        last.extend_from_slice(&key[shared..]);
        if block.len() >= BLOCK {
            write_block(out, &mut block)?;
            last.clear();
        }
    }
    write_block(out, &mut block)
}

/// Length, checksum, bytes.
fn write_block(out: &mut dyn Write, block: &mut BytesMut) -> io::Result<()> {
    let len = u32::try_from(block.len()).map_err(io::Error::other)?;
    out.write_all(&len.to_be_bytes())?;
    out.write_all(&crc32c::crc32c(block).to_be_bytes())?;
    out.write_all(block)?;
    block.clear();
    Ok(())
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the saved index is damaged: {what}"))
}

fn read_block(from: &mut dyn Read, block: &mut Vec<u8>) -> io::Result<()> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let len = number(0) as usize;
    if len > MAX_BLOCK {
        return Err(damaged("a block is too long"));
    }
    block.clear();
    from.take(len as u64).read_to_end(block)?;
    if block.len() != len || crc32c::crc32c(block) != number(4) {
        return Err(damaged("a checksum is wrong"));
    }
    Ok(())
}

/// Puts the next key of a block in place of the one before, and reads its numbers.
fn line(rest: &mut &[u8], key: &mut Vec<u8>) -> Option<Entry> {
    let shared = usize::try_from(take_number(rest)?).ok().filter(|&shared| shared <= key.len())?;
    let own = usize::try_from(take_number(rest)?).ok()?;
    let (own, more) = rest.split_at_checked(own)?;
    *rest = more;
    key.truncate(shared);
    key.extend_from_slice(own);
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = take_number(rest)?.cast_signed();
    }
    Some(Entry::from_numbers(numbers))
}

/// Reads an index, without what was deleted before `compact_revision`: nobody can read that it was there.
///
/// # Errors
/// When it is cut off or damaged.
pub(crate) fn read(from: &mut dyn Read, compact_revision: Revision) -> io::Result<Saved> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    let mut block = Vec::new();
    read_block(from, &mut block)?;
    if magic != *MAGIC || block.len() != HEADER {
        return Err(damaged("it is none"));
    }
    let header = block.clone();
    let number =
        |at: usize| u64::from_be_bytes(header[8 * at..][..8].try_into().expect("invariant: eight bytes"));
    let (mut index, mut left, mut last) = (Builder::default(), number(4), Vec::new());
    while left > 0 {
        read_block(from, &mut block)?;
        let (mut rest, mut key) = (block.as_slice(), Vec::new());
        while !rest.is_empty() {
            let entry = line(&mut rest, &mut key).ok_or_else(|| damaged("a key"))?;
            left = left.checked_sub(1).ok_or_else(|| damaged("it has too many keys"))?;
            if entry.is_live() || entry.main >= compact_revision {
                index.push(&key, entry);
            }
        }
        // Within a block the checksum stands for the order.
        if last >= key {
            return Err(damaged("its blocks are not in order"));
        }
        last = key;
    }
    Ok(Saved {
        index: index.finish(),
        revision: number(0).cast_signed(),
        hash: number(1) as u32,
        live_bytes: number(2),
        past_bytes: number(3),
    })
}

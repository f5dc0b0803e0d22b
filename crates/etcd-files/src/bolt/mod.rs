//! bbolt's file format, version 2 (`go.etcd.io/bbolt`, `internal/common`): two meta pages, then pages of leaf and branch
//! elements. All numbers are little-endian.

mod reader;
mod writer;

pub use reader::{BoltError, BoltFile, ReadAt, Visit};
pub use writer::{Bucket, Writer};

/// Bytes of a page's header.
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
/// Bytes of a meta page's content, and how many of them its checksum covers.
const META_BYTES: usize = 64;
const META_SUMMED: usize = 56;

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

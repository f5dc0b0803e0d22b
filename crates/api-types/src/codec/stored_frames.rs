//! Objects as they are stored, one behind the other, between the API server and its callers in the same process: the
//! value itself is handed over and not a copy, so that whoever keeps it shares the server's memory.
//!
//! A frame is a [`Head`] and the bytes that it announces. A list is a frame of [`What::List`] and one for each item; a
//! watch is frames without an end.

use super::CodecError;

/// What a caller accepts to be answered so; servers that do not know it pass over it.
pub const STORED_MEDIA_TYPE: &str = "application/vnd.trierarch.stored";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A list: its metadata as JSON.
    List,
    /// An object that is there, or new to a watcher.
    Added,
    /// One that has changed.
    Modified,
    /// One that is gone, as it was last.
    Deleted,
    /// Nothing but a revision.
    Bookmark,
    /// The last of a watch that cannot go on: a Status as a protobuf body.
    Failure,
}

const KINDS: [What; 6] =
    [What::List, What::Added, What::Modified, What::Deleted, What::Bookmark, What::Failure];

impl What {
    /// What a `meta/v1 WatchEvent` calls it; nothing for a list.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::List => "",
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Failure => "ERROR",
        }
    }
}

/// What stands before the bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub what: What,
    /// The object's resourceVersion.
    pub revision: i64,
    /// Bytes that follow.
    pub length: u32,
}

impl Head {
    /// Bytes of a head.
    pub const LEN: usize = 13;

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.what as u8;
        bytes[1..9].copy_from_slice(&self.revision.to_be_bytes());
        bytes[9..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// # Errors
    /// Bytes that are no head.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, CodecError> {
        let [what, numbers @ ..] = bytes;
        let what = *KINDS.get(usize::from(*what)).ok_or(CodecError::Wire("a frame of no known kind"))?;
        let (revision, length) = numbers.split_first_chunk().ok_or(CodecError::Truncated)?;
        let length = length.first_chunk().ok_or(CodecError::Truncated)?;
        Ok(Self { what, revision: i64::from_be_bytes(*revision), length: u32::from_be_bytes(*length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was() {
        for what in KINDS {
            let head = Head { what, revision: 1 << 40 | 7, length: 3_000_000_000 };
            assert_eq!(Head::from_bytes(&head.to_bytes()), Ok(head));
        }
        let mut bytes = Head { what: What::List, revision: 1, length: 1 }.to_bytes();
        bytes[0] = KINDS.len() as u8;
        Head::from_bytes(&bytes).unwrap_err();
    }
}

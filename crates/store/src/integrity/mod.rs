//! Whether this member holds what the others hold, and what it does when it does not.
//!
//! Every member notes the state's rolling hash at fixed entries of the log (`marks.rs`). The leader compares the notes of
//! all members about once a second (`watch.rs`), and whom the majority contradicts is told. A read that finds damage on the
//! disk tells too (`guard.rs`). A member that is told raises its fence: from then on it answers nobody, hands leadership
//! over, notes in its log what happened, and ends. When it is started again it discards its state, and takes another
//! member's before it does anything else (`repair.rs`); log and vote stay, so that nothing it promised is forgotten.
//!
//! Who asks for etcd's own comparisons gets them beside that (`checks.rs`): of the hash of all keys as they are stored
//! (`keys.rs`).

pub(crate) mod checks;
mod guard;
pub(crate) mod keys;
mod marks;
pub(crate) mod repair;
pub(crate) mod watch;

use std::io;
use std::sync::OnceLock;

use env::Shutdown;

pub(crate) use guard::Guarded;
pub(crate) use keys::KeyHashes;
pub(crate) use marks::{Mark, Marks};

/// Why a member's state is not to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It differs from what a majority holds.
    Diverged {
        /// Where it was found to.
        index: u64,
    },
    /// Its keys are not those that a majority holds, or not the same when they are read twice.
    Keys {
        /// Where it was found to.
        revision: mvcc::Revision,
    },
    /// It cannot be read.
    Damaged(String),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Diverged { index } => {
                write!(
                    out,
                    "this member's state differs from what the majority holds (seen at log index {index})"
                )
            }
            Self::Keys { revision } => {
                write!(
                    out,
                    "this member's keys differ from what the majority holds (seen at revision {revision})"
                )
            }
            Self::Damaged(why) => write!(out, "this member's state is damaged on the disk: {why}"),
        }
    }
}

/// Stands between a state that is wrong and everyone who asks. Once raised it stays.
#[derive(Default)]
pub(crate) struct Fence {
    wrong: OnceLock<Wrong>,
    raised: Shutdown,
}

impl Fence {
    /// Raises it; only the first reason counts.
    pub fn raise(&self, wrong: Wrong) {
        if self.wrong.set(wrong.clone()).is_ok() {
            tracing::error!(why = %wrong, "fenced: this member answers no more requests");
            metrics::counter!("trierarch_store_fenced_total").increment(1);
            self.raised.trigger();
        }
    }

    /// Why it was raised, if it was.
    pub fn wrong(&self) -> Option<&Wrong> {
        self.wrong.get()
    }

    /// Returns once it was raised.
    pub async fn wait(&self) -> Wrong {
        self.raised.wait().await;
        self.wrong.get().cloned().unwrap_or_else(|| Wrong::Damaged("for an unknown reason".to_owned()))
    }
}

/// Whether an error of the storage says that what lies on the disk is not what was written, and not that the system
/// refuses to read or write it.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData || says_damage(&error.to_string())
}

fn says_damage(text: &str) -> bool {
    // RocksDB's words, ours, and those for a file that belongs to a database and is gone.
    ["Corruption", "is damaged", "No such file or directory"].iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_no_damage() {
        for damage in ["Corruption: block checksum mismatch", "a lease's key is damaged: its length"] {
            assert!(is_damage(&io::Error::other(damage)), "{damage}");
        }
        for refusal in
            ["IO error: No space left on device", "IO error: While lock file: LOCK", "Permission denied"]
        {
            assert!(!is_damage(&io::Error::other(refusal)), "{refusal}");
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let fence = Fence::default();
        assert_eq!(fence.wrong(), None);
        fence.raise(Wrong::Diverged { index: 7 });
        fence.raise(Wrong::Damaged("later".to_owned()));
        assert_eq!(fence.wrong(), Some(&Wrong::Diverged { index: 7 }));
    }
}

//! How many files and connections this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use transport::Room;

/// Descriptors that are kept for everything but clients: the state's files, the log, the other members. etcd's number.
const RESERVED: u64 = 150;
/// Connections of clients however few descriptors there are.
const FEWEST: u64 = 32;

/// Raises the soft limit to the hard one, as Go's runtime does. What it is without stays if the system refuses.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        eprintln!("the limit of open files stays {soft}: {error}");
    }
}

/// Places for the connections of clients, each of which takes so many descriptors.
pub fn for_clients(each: u64) -> Room {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    Room::new(usize::try_from(connections(soft, each)).unwrap_or(usize::MAX))
}

fn connections(limit: u64, each: u64) -> u64 {
    (limit.saturating_sub(RESERVED) / each).max(FEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_for_clients() {
        assert_eq!(connections(1024, 1), 874);
        assert_eq!(connections(1024, 2), 437);
        assert_eq!(connections(160, 1), FEWEST);
    }
}

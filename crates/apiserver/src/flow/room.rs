//! The memory of lists that are being sent. A list holds its objects until the client has taken them, so that clients that
//! read slowly could fill the memory: lists together hold no more than a bound, and who comes when there is no room waits,
//! as for seats. One flow has half of the room at most, so that it keeps no others out.

use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{PATIENCE, RETRY_AFTER};

/// Answers of fewer bytes hold nothing worth counting.
pub(crate) const LARGE: usize = 64 << 10;
/// Bytes that are counted as one.
const UNIT: usize = 1 << 10;
/// Flows are dealt to so many lanes; those of one lane share a half of the room.
const LANES: usize = 64;

/// See the module.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    lanes: Vec<Arc<Semaphore>>,
    /// Units of a lane.
    lane: usize,
    /// How long who finds no room waits.
    patience: Duration,
}

/// Room that is taken, until it is dropped.
pub(crate) struct Charge {
    lane: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Room {
    /// A room of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let all = (bytes / UNIT).clamp(2, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let lane = all / 2;
        Self {
            all: Arc::new(Semaphore::new(all)),
            lanes: (0..LANES).map(|_| Arc::new(Semaphore::new(lane))).collect(),
            lane,
            patience: PATIENCE,
        }
    }

    /// What is too large for a lane has the whole lane.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.lane)).unwrap_or(u32::MAX)
    }

    fn lane_of(&self, flow: u64) -> &Arc<Semaphore> {
        &self.lanes[(flow % LANES as u64) as usize]
    }

    /// Takes room for an answer if there is some.
    pub fn try_take(&self, flow: u64, bytes: usize) -> Option<Charge> {
        let units = self.units(bytes);
        let lane = self.lane_of(flow).clone().try_acquire_many_owned(units).ok()?;
        let all = self.all.clone().try_acquire_many_owned(units).ok()?;
        Some(Charge { lane, all })
    }

    /// Waits for room.
    ///
    /// # Errors
    /// 429 when there is none for long.
    pub async fn take(&self, flow: u64, bytes: usize) -> Result<Charge, Status> {
        let units = self.units(bytes);
        let taken = async {
            let lane = self.lane_of(flow).clone().acquire_many_owned(units).await.ok()?;
            let all = self.all.clone().acquire_many_owned(units).await.ok()?;
            Some(Charge { lane, all })
        };
        let taken = tokio::time::timeout(self.patience, taken).await;
        taken.ok().flatten().ok_or_else(|| Status::too_many(TOO_MUCH, RETRY_AFTER))
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        (2 * self.lane - self.all.available_permits()) * UNIT
    }
}

/// What a client reads for whom there was no room.
const TOO_MUCH: &str = "Too many requests, please try again later.";

impl Charge {
    /// Gives back what is not needed for so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let units = bytes.div_ceil(UNIT);
        for permit in [&mut self.lane, &mut self.all] {
            let more = permit.num_permits().saturating_sub(units);
            drop(permit.split(more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_flow_has_half_of_the_room_and_gives_back_what_it_does_not_need() {
        let room = Room::new(4 * MIB);
        let mut first = room.try_take(1, MIB).expect("room");
        let second = room.try_take(1, MIB).expect("room");
        assert!(room.try_take(1, 1).is_none(), "it has its half");
        assert!(room.try_take(1 + LANES as u64, 1).is_none(), "who shares its lane waits too");
        let other = room.try_take(2, 100 * MIB).expect("an immense one has its half alone");
        assert_eq!(room.taken(), 4 * MIB);
        assert!(room.try_take(3, 1).is_none(), "the room is full");
        first.shrink(UNIT);
        assert_eq!(room.taken(), 3 * MIB + UNIT);
        drop((first, second, other));
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_and_is_refused_at_last() {
        let mut room = Room { patience: Duration::from_millis(10), ..Room::new(4 * MIB) };
        let held = room.try_take(1, 2 * MIB).expect("room");
        assert_eq!(room.take(1, MIB).await.err().map(|status| status.code), Some(429));
        room.patience = Duration::from_secs(60);
        let (taken, ()) = tokio::join!(room.take(1, MIB), async move { drop(held) });
        assert!(taken.is_ok());
        drop(taken);
        assert_eq!(room.taken(), 0, "who was refused holds nothing");
    }
}

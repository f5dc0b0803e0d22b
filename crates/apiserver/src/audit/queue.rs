//! A backend's queue: events wait in a bounded buffer, and one task takes them in batches to where they are written.
//! Requests wait for theirs, or do not, by the backend's mode.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use env::{Clock, Shutdown};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::config::{AuditBatchConfig, AuditMode};
use super::event::Event;
use super::lost;

/// Events that wait while requests wait for them, at most.
const BLOCKING_BUFFER: usize = 16_384;
/// Events that are written at once while requests wait for them, at most.
const BLOCKING_BATCH: usize = 256;

/// An event on its way, and who waits for it.
pub(super) struct Job {
    pub event: Arc<Event>,
    /// Told whether it was written.
    pub written: Option<oneshot::Sender<bool>>,
}

/// The end of a queue that requests have.
pub(super) struct Queue {
    plugin: &'static str,
    mode: AuditMode,
    jobs: mpsc::Sender<Job>,
}

/// The end of a queue that the writer has.
pub(super) struct Batches {
    jobs: mpsc::Receiver<Job>,
    max_size: usize,
    max_wait: Duration,
    throttle: Option<Throttle>,
    clock: Clock,
    stop: Shutdown,
}

/// A queue of a backend. `joins`: whether events that requests wait for are written together when they come at once.
pub(super) fn queue(
    plugin: &'static str,
    config: &AuditBatchConfig,
    joins: bool,
    clock: &Clock,
    stop: &Shutdown,
) -> (Queue, Batches) {
    let batch = config.mode == AuditMode::Batch;
    let (sender, jobs) = mpsc::channel(if batch { config.buffer_size } else { BLOCKING_BUFFER });
    let (max_size, max_wait) = match (batch, joins) {
        (true, _) => (config.max_size, config.max_wait),
        (false, true) => (BLOCKING_BATCH, Duration::ZERO),
        (false, false) => (1, Duration::ZERO),
    };
    let throttle = (batch && config.throttle)
        .then(|| Throttle::new(config.throttle_qps, config.throttle_burst, clock.monotonic()));
    let batches = Batches { jobs, max_size, max_wait, throttle, clock: clock.clone(), stop: stop.clone() };
    (Queue { plugin, mode: config.mode, jobs: sender }, batches)
}

/// Counts an event as lost unless it is defused: its request ended while it waited for room.
struct Unsent(&'static str, bool);

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.1 {
            lost(self.0, 1, "its request ended before there was room for it");
        }
    }
}

impl Queue {
    /// Puts an event in, and waits as the mode says. False when the request may not go on.
    pub async fn put(&self, event: &Arc<Event>) -> bool {
        if self.mode == AuditMode::Batch {
            self.offer(event);
            return true;
        }
        let (sender, written) = oneshot::channel();
        let job = Job { event: event.clone(), written: Some(sender) };
        let mut unsent = Unsent(self.plugin, true);
        let sent = self.jobs.send(job).await;
        unsent.1 = false;
        drop(unsent);
        let good = match sent {
            Ok(()) => written.await.unwrap_or(false),
            Err(_) => {
                lost(self.plugin, 1, "audit backend shut down");
                false
            }
        };
        good || self.mode != AuditMode::BlockingStrict
    }

    /// Puts an event in if there is room, and waits for nothing.
    pub fn offer(&self, event: &Arc<Event>) {
        let job = Job { event: event.clone(), written: None };
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => lost("buffered", 1, "audit buffer queue blocked"),
            Err(mpsc::error::TrySendError::Closed(_)) => lost("buffered", 1, "audit backend shut down"),
        }
    }
}

impl Batches {
    /// The next batch, in the order of the events; none when the queue was stopped and is empty.
    pub async fn next(&mut self) -> Option<Vec<Job>> {
        let first = self.receive().await?;
        let mut batch = vec![first];
        let deadline = self.clock.monotonic() + self.max_wait;
        while batch.len() < self.max_size {
            if let Ok(job) = self.jobs.try_recv() {
                batch.push(job);
                continue;
            }
            if self.max_wait.is_zero() || self.jobs.is_closed() {
                break;
            }
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => batch.push(job),
                    None => break,
                },
                () = self.clock.sleep_until(deadline) => break,
                () = self.stop.wait() => self.jobs.close(),
            }
        }
        self.wait_for_turn().await;
        Some(batch)
    }

    async fn receive(&mut self) -> Option<Job> {
        if !self.jobs.is_closed() {
            tokio::select! {
                biased;
                job = self.jobs.recv() => return job,
                () = self.stop.wait() => self.jobs.close(),
            }
        }
        self.jobs.recv().await
    }

    /// Waits until another batch may be sent; not at the end, where everything has to go.
    async fn wait_for_turn(&mut self) {
        let Some(throttle) = &mut self.throttle else { return };
        let turn = throttle.turn(self.clock.monotonic());
        tokio::select! {
            () = self.clock.sleep_until(turn) => {}
            () = self.stop.wait() => {}
        }
    }
}

/// At most `burst` batches at once and `qps` a second: the moments of the last ones decide. Pure.
struct Throttle {
    interval: Duration,
    /// The earliest moments of the next turns.
    free: VecDeque<Instant>,
}

impl Throttle {
    fn new(qps: f64, burst: u32, now: Instant) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / qps).unwrap_or(Duration::MAX);
        Self { interval, free: (0..burst.max(1)).map(|_| now).collect() }
    }

    /// Takes the next turn; its moment, which may have passed.
    fn turn(&mut self, now: Instant) -> Instant {
        let turn = self.free.pop_front().unwrap_or(now).max(now);
        // Tokens come back one an interval: each after the one before it.
        let last = self.free.back().copied().unwrap_or(turn).max(turn);
        self.free.push_back(last.checked_add(self.interval).unwrap_or(last));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::config::AuditWebhookConfig;

    fn event(id: usize) -> Arc<Event> {
        Arc::new(Event { audit_id: id.to_string(), ..Event::default() })
    }

    fn ids(batch: &[Job]) -> Vec<String> {
        batch.iter().map(|job| job.event.audit_id.clone()).collect()
    }

    fn config(mode: AuditMode) -> AuditBatchConfig {
        AuditBatchConfig {
            mode,
            buffer_size: 5,
            max_size: 2,
            max_wait: Duration::from_millis(50),
            throttle: false,
            ..AuditWebhookConfig::default().batch
        }
    }

    #[tokio::test]
    async fn a_batch_is_full_or_has_waited() {
        let (clock, stop) = (Clock::default(), Shutdown::new());
        let (queue, mut batches) = queue("test", &config(AuditMode::Batch), true, &clock, &stop);
        for id in 0..3 {
            assert!(queue.put(&event(id)).await);
        }
        assert_eq!(ids(&batches.next().await.unwrap()), ["0", "1"]);
        let start = clock.monotonic();
        assert_eq!(ids(&batches.next().await.unwrap()), ["2"]);
        assert!(clock.monotonic() - start >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn what_waits_at_the_end_still_comes() {
        let (clock, stop) = (Clock::default(), Shutdown::new());
        // Nobody would see the end of it.
        let day = Duration::from_secs(24 * 3600);
        let config = AuditBatchConfig { max_wait: day, ..config(AuditMode::Batch) };
        let (queue, mut batches) = queue("test", &config, true, &clock, &stop);
        for id in 0..7 {
            // Two find no room.
            queue.offer(&event(id));
        }
        stop.trigger();
        let mut found = Vec::new();
        while let Some(batch) = batches.next().await {
            found.extend(ids(&batch));
        }
        assert_eq!(found, ["0", "1", "2", "3", "4"]);
        queue.offer(&event(9));
        assert!(batches.next().await.is_none());
    }

    #[tokio::test]
    async fn requests_wait_as_the_mode_says() {
        let (clock, stop) = (Clock::default(), Shutdown::new());
        for (mode, expected) in [(AuditMode::Blocking, true), (AuditMode::BlockingStrict, false)] {
            let (queue, mut batches) = queue("test", &config(mode), true, &clock, &stop);
            let event = event(1);
            let (good, ()) = tokio::join!(queue.put(&event), async {
                for job in batches.next().await.unwrap() {
                    job.written.unwrap().send(false).unwrap();
                }
            });
            assert_eq!(good, expected);
            drop(batches);
            assert_eq!(queue.put(&event).await, expected);
        }
    }

    #[test]
    fn turns_are_limited_on_average_and_at_once() {
        let start = Clock::default().monotonic();
        let mut throttle = Throttle::new(10.0, 3, start);
        let after = |turn: Instant| (turn - start).as_millis();
        let turns: Vec<u128> = (0..6).map(|_| after(throttle.turn(start))).collect();
        assert_eq!(turns, [0, 0, 0, 100, 200, 300]);
        // After a pause a burst again.
        let later = start + Duration::from_secs(10);
        let turns: Vec<u128> = (0..4).map(|_| after(throttle.turn(later))).collect();
        assert_eq!(turns, [10_000, 10_000, 10_000, 10_100]);
    }
}

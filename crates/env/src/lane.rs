use std::future::Future;
use std::io;
use std::sync::mpsc;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// A thread with a runtime of its own, for tasks that wait for each other all the time: what one of them wakes runs
/// next on the same thread, and no processor is woken for it.
///
/// Tasks of a lane may use everything that others use. Dropping the lane ends its thread and whatever runs there.
#[derive(Debug)]
pub struct Lane {
    handle: Handle,
    /// Dropped with the lane, which the thread sees.
    _running: oneshot::Sender<()>,
}

impl Lane {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, dropped) = oneshot::channel::<()>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // An error is what is waited for: nothing is ever sent.
            drop(runtime.block_on(dropped));
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _running: running })
    }

    /// Runs some work on the lane, to its end.
    ///
    /// # Panics
    /// When the work panics.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle.spawn(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The lane is held while it runs, so nobody can have ended it.
                Err(error) => unreachable!("invariant: a lane outlives its work: {error}"),
            },
        }
    }

    /// Runs some work on the lane while the calling thread waits, for callers that cannot be asynchronous. Where the
    /// caller is a task of a runtime with several threads, another thread takes over the other tasks; so the number of
    /// callers that wait must have a bound.
    ///
    /// # Panics
    /// When the work panics.
    pub fn wait_for<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.handle.spawn(async move { drop(done.send(work.await)) });
        let wait = || result.recv();
        let several = |handle: &Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
        let result = match Handle::try_current() {
            Ok(handle) if several(&handle) => tokio::task::block_in_place(wait),
            _ => wait(),
        };
        match result {
            Ok(done) => done,
            Err(_) => panic!("work on a lane panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_the_lanes_thread_and_its_panic_comes_back() {
        let lane = Lane::start("a-lane").expect("lane");
        let name = lane.run(async { std::thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.as_deref(), Some("a-lane"));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { lane.run(async { panic!("on the lane") }).await });
        let ended: Result<(), _> = tasks.join_next().await.expect("a task");
        assert!(ended.expect_err("it panics").is_panic());
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_a_task_waits_for_a_lane() {
        let (lane, mut tasks) = (Lane::start("waited-for").expect("lane"), tokio::task::JoinSet::new());
        let (go, gone) = oneshot::channel();
        tasks.spawn(async move { lane.wait_for(gone) });
        // With one thread, which waits, this is never sent unless somebody takes over.
        tasks.spawn(async move {
            let _ = go.send(5);
            Ok(5)
        });
        while let Some(done) = tasks.join_next().await {
            assert_eq!(done.expect("no panic"), Ok(5));
        }
    }

    #[test]
    fn threads_without_a_runtime_wait_too() {
        assert_eq!(Lane::start("plain").expect("lane").wait_for(async { 7 }), 7);
    }
}

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle};
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
}

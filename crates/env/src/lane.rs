use std::future::Future;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// Threads of lanes that have not ended, of the whole process.
static THREADS: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Counts a thread for as long as it runs.
struct Counted;

impl Counted {
    fn new() -> Self {
        *THREADS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *THREADS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_all();
    }
}

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
        let counted = Counted::new();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _counted = counted;
            // An error is what is waited for: nothing is ever sent.
            drop(runtime.block_on(dropped));
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _running: running })
    }

    /// Waits until the threads of all lanes of this process have ended, and with them what their tasks held: a process that
    /// ends before may take from under a thread what that is just closing. Whether they did within `patience`; those that
    /// nobody has dropped do not.
    pub fn all_ended(patience: Duration) -> bool {
        let running = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ENDED.wait_timeout_while(running, patience, |running| *running > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
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

    #[test]
    fn what_a_task_held_is_gone_when_all_have_ended() {
        struct Slow(mpsc::Receiver<()>, mpsc::SyncSender<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                assert!(self.0.recv().is_err(), "nothing is sent, the other end goes");
                self.1.send(()).expect("room for one");
            }
        }
        let ((close, closes), (closed, was_closed)) = (mpsc::channel(), mpsc::sync_channel(1));
        let (lane, slow) = (Lane::start("slow-to-close").expect("lane"), Slow(closes, closed));
        lane.handle.spawn(async move {
            let _held = slow;
            std::future::pending::<()>().await;
        });
        drop(lane);
        assert!(!Lane::all_ended(Duration::from_millis(1)), "it is still closing");
        drop(close);
        assert!(Lane::all_ended(Duration::from_secs(60)));
        assert_eq!(was_closed.try_recv(), Ok(()));
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

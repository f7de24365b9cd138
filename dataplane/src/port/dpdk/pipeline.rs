//! A worker as capsule runs it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use capsule::batch::Pipeline;
use capsule_ffi::thread::Registered;

use crate::fleet::Task;
use crate::worker::thread::{Running, guard};

/// Polls of the worker for each poll of the future: capsule's executor costs nothing then.
const ROUNDS: u32 = 1024;

/// A worker on a thread of capsule's, registered with DPDK.
pub(super) struct WorkerPipeline {
    name: String,
    // In this order: the worker frees its buffers while DPDK knows the thread, and then it is finished.
    running: Option<Running>,
    registered: Option<Registered>,
    finished: Finished,
}

/// Says so when the worker has left its thread, however that came about.
pub(super) struct Finished(pub(super) Arc<AtomicBool>);

impl Drop for Finished {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl WorkerPipeline {
    /// Brings a worker to life on this thread, unless the runtime was given up: capsule lets its threads run then too.
    pub(super) fn begin(task: Task, finished: Finished, given_up: &AtomicBool) -> Self {
        let name = task.name();
        if given_up.load(Ordering::Acquire) {
            return Self { name, running: None, registered: None, finished };
        }
        // A panic here would end capsule's thread and nothing else.
        let (running, registered) = guard(&name, || match Registered::new() {
            Ok(registered) => (task.begin(), Some(registered)),
            Err(error) => {
                task.fail(error);
                (None, None)
            }
        });
        Self { name, running, registered, finished }
    }

    /// Polls the worker for a while. Whether it is drained.
    fn turn(&mut self) -> bool {
        let running = &mut self.running;
        let drained = guard(&self.name, || running.as_mut().is_none_or(|running| running.turn(ROUNDS)));
        if drained {
            self.running = None;
            self.registered = None;
        }
        drained
    }
}

impl Future for WorkerPipeline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.turn() {
            self.finished.0.store(true, Ordering::Release);
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Pipeline for WorkerPipeline {
    fn name(&self) -> &str {
        &self.name
    }

    fn run_once(&mut self) {
        self.turn();
    }
}

//! The threads that workers run on: the operating system's, or those of a framework that brings its own (DPDK).

use std::io;
use std::thread::JoinHandle;

use crate::fleet::Task;
use crate::worker::thread;

/// Where the workers' threads come from. A worker stays on its thread from beginning to end.
pub trait Crew {
    /// Takes the task of the next worker, which is to run on `core`. It begins with [`Crew::begin`].
    ///
    /// # Errors
    /// When no thread can run there.
    fn assign(&mut self, task: Task, core: usize) -> io::Result<()>;

    /// Lets all tasks begin.
    ///
    /// # Errors
    /// When a thread cannot be started; those that were go on.
    fn begin(&mut self) -> io::Result<()>;

    /// Whether a worker has left its thread, or will never be on one.
    fn is_finished(&self, worker: usize) -> bool;

    /// Waits for the threads, once all workers are finished.
    ///
    /// # Errors
    /// What went wrong on them, other than in the workers.
    fn end(&mut self) -> io::Result<()>;
}

/// One thread of the operating system for each worker.
#[derive(Default)]
pub(crate) struct Threads {
    assigned: Vec<Task>,
    running: Vec<JoinHandle<()>>,
}

impl Crew for Threads {
    fn assign(&mut self, task: Task, _core: usize) -> io::Result<()> {
        self.assigned.push(task);
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        for task in self.assigned.drain(..) {
            let name = task.name();
            let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
                thread::guard(&name, || {
                    if let Some(mut running) = task.begin() {
                        running.run();
                    }
                });
            })?;
            self.running.push(thread);
        }
        Ok(())
    }

    fn is_finished(&self, worker: usize) -> bool {
        self.running.get(worker).is_none_or(JoinHandle::is_finished)
    }

    fn end(&mut self) -> io::Result<()> {
        for thread in self.running.drain(..) {
            // A worker that panics has ended the process.
            let _ = thread.join();
        }
        Ok(())
    }
}

//! The thread around a worker: pinned to its core, it polls, sleeps when there is nothing to do, and never dies
//! silently.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::clock;
use crate::worker::Worker;

/// Exit code of the process when a worker died.
pub const EXIT_WORKER_DIED: i32 = 70;

/// Polls without a packet after which an adaptive worker sleeps.
const EMPTY_POLLS: u32 = 64;
/// The longest sleep. Housekeeping has nothing that cannot wait this long.
const LONGEST_SLEEP_MS: u16 = 50;
/// Ports whose descriptors a sleeping worker watches, and the waker.
const MAX_WATCHED: usize = 64;

/// What a worker does when there are no packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Polls on: the lowest latency, and a core at 100 %.
    Spin,
    /// Sleeps on the ports' descriptors after some empty polls.
    #[default]
    Adaptive,
}

/// Wakes a sleeping worker.
#[derive(Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new waker.
    ///
    /// # Errors
    /// That of `eventfd`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Wakes the worker, or keeps it from falling asleep.
    pub fn wake(&self) {
        // It fails only when 2^64 wake-ups wait, and then the worker is awake anyway.
        let _ = self.0.write(1);
    }

    fn clear(&self) {
        // An error is "nothing was written", which is as good.
        let _ = self.0.read();
    }
}

/// A worker at work on this thread.
pub struct Running {
    worker: Worker,
    idle: Idle,
    waker: Waker,
    /// Polls without a packet, one after the other.
    empty: u32,
}

impl Running {
    /// A worker that polls, and does as `idle` says when there is nothing.
    pub fn new(worker: Worker, idle: Idle, waker: Waker) -> Self {
        Self { worker, idle, waker, empty: 0 }
    }

    /// Runs until the worker is drained.
    pub fn run(&mut self) {
        while !self.turn(u32::MAX) {}
    }

    /// Polls up to `rounds` times, sleeping in between when there is nothing to do. Whether the worker is drained: it
    /// need not be called again then.
    pub fn turn(&mut self, rounds: u32) -> bool {
        for _ in 0..rounds {
            if self.worker.is_drained() {
                return true;
            }
            self.poll();
        }
        false
    }

    fn poll(&mut self) {
        if self.worker.poll(clock::now()) > 0 {
            self.empty = 0;
            return;
        }
        self.empty += 1;
        match self.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Adaptive if self.empty < EMPTY_POLLS => std::hint::spin_loop(),
            Idle::Adaptive => {
                sleep(&mut self.worker, &self.waker);
                self.empty = 0;
            }
        }
    }
}

/// Runs `body` on the thread `name`, and takes the process down with a message when it panics: a worker's queues would
/// go dead while everything else looks alive.
pub fn guard<T>(name: &str, body: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(cause) => {
            let message = cause
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| cause.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            tracing::error!("{name} died: {message}; the process stops, since its queues would go silent");
            std::process::exit(EXIT_WORKER_DIED);
        }
    }
}

fn sleep(worker: &mut Worker, waker: &Waker) {
    worker.before_sleep();
    let mut watched: ArrayVec<PollFd<'_>, MAX_WATCHED> = ArrayVec::new();
    watched.push(PollFd::new(waker.0.as_fd(), PollFlags::POLLIN));
    let mut pollable = true;
    for fd in worker.descriptors() {
        match fd {
            Some(fd) if !watched.is_full() => watched.push(PollFd::new(fd, PollFlags::POLLIN)),
            // A port that cannot wake us must be polled.
            _ => pollable = false,
        }
    }
    let timeout = if pollable { PollTimeout::from(LONGEST_SLEEP_MS) } else { PollTimeout::from(1u16) };
    // A signal ends the sleep early, which does no harm.
    let _ = poll(&mut watched, timeout);
    drop(watched);
    waker.clear();
}

impl Worker {
    fn before_sleep(&mut self) {
        self.sleeps += 1;
        for state in &mut self.ports {
            state.driver.before_sleep();
        }
    }

    fn descriptors(&self) -> impl Iterator<Item = Option<BorrowedFd<'_>>> {
        self.ports.iter().map(|state| state.driver.poll_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the child process of the test below.
    const DIES: &str = "SPILLWAY_TEST_WORKER_DIES";

    #[test]
    fn a_worker_that_panics_ends_the_process_with_a_code_of_its_own() {
        if std::env::var_os(DIES).is_some() {
            guard("worker-3", || panic!("out of order"));
            unreachable!("the process has ended");
        }
        let test = "worker::thread::tests::a_worker_that_panics_ends_the_process_with_a_code_of_its_own";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(DIES, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.code(), Some(EXIT_WORKER_DIED), "{said}");
        assert!(said.contains("out of order"), "{said}");
        assert_eq!(guard("worker-0", || 7), 7);
    }
}

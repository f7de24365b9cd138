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

/// Runs a worker on this thread until it is drained.
pub fn run(worker: &mut Worker, idle: Idle, waker: &Waker) {
    let mut empty = 0;
    while !worker.is_drained() {
        if worker.poll(clock::now()) > 0 {
            empty = 0;
            continue;
        }
        empty += 1;
        match idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Adaptive if empty < EMPTY_POLLS => std::hint::spin_loop(),
            Idle::Adaptive => {
                sleep(worker, waker);
                empty = 0;
            }
        }
    }
}

/// Runs `body`, and takes the process down with a message when it panics: a worker's queues would go dead while
/// everything else looks alive.
pub fn guard<T>(worker: usize, body: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(cause) => {
            let message = cause
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| cause.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            tracing::error!(
                worker,
                "worker died: {message}; the process stops, since its queues would go silent"
            );
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
            guard(3, || panic!("out of order"));
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
        assert_eq!(guard(0, || 7), 7);
    }
}

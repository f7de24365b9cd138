//! Threads that DPDK knows.

use std::io;
use std::marker::PhantomData;

use crate::{bindings, eal};

/// While it lives, DPDK counts the thread among its own: with an lcore id, and so a cache of buffers in every pool.
/// Without, each buffer costs a round trip to the pool that all cores share.
#[derive(Debug)]
pub struct Registered {
    ours: bool,
    // It belongs to its thread.
    _not_send: PhantomData<*mut ()>,
}

impl Registered {
    /// Registers the calling thread. The one that started EAL is registered already, and stays so.
    ///
    /// # Errors
    /// When there are as many threads as DPDK was built for.
    pub fn new() -> io::Result<Self> {
        if lcore().is_some() {
            return Ok(Self { ours: false, _not_send: PhantomData });
        }
        // SAFETY: it takes nothing, and refuses when EAL was not started.
        if unsafe { bindings::rte_thread_register() } == 0 {
            return Ok(Self { ours: true, _not_send: PhantomData });
        }
        // SAFETY: it reads a number of this thread.
        let errno = unsafe { bindings::_rte_errno() };
        Err(io::Error::other(format!("DPDK takes no more threads: {}", eal::strerror(errno))))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.ours {
            // SAFETY: the thread was registered by `new`, and is this one, since the value is not Send.
            unsafe { bindings::rte_thread_unregister() }
        }
    }
}

/// This thread's lcore id, if DPDK knows it.
pub fn lcore() -> Option<u32> {
    // SAFETY: it reads a number of this thread.
    let lcore = unsafe { bindings::_rte_lcore_id() };
    (lcore != bindings::CAPSULE_LCORE_ANY).then_some(lcore)
}

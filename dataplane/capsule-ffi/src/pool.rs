//! Pools of message buffers: made by capsule, with room for packets of any MTU.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::bindings::{self, rte_mempool};
use crate::queues;

/// Bytes in front of a received packet.
pub const HEADROOM: usize = bindings::CAPSULE_MBUF_HEADROOM as usize;

/// Bytes of data in each buffer, headroom included, when they are not capsule's default.
static DATA_ROOM: AtomicU16 = AtomicU16::new(0);
static POOLS: Mutex<Vec<Pool>> = Mutex::new(Vec::new());

/// A pool that capsule made. It lives as long as capsule's runtime.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    raw: NonNull<rte_mempool>,
    node: c_int,
}

// SAFETY: DPDK's pools are made to be used from many threads.
unsafe impl Send for Pool {}

impl Pool {
    /// For calls of DPDK.
    pub fn raw(self) -> *mut rte_mempool {
        self.raw.as_ptr()
    }
}

/// Has pools made from now on hold `bytes` in each buffer, headroom included.
pub fn set_data_room(bytes: u16) {
    DATA_ROOM.store(bytes, Ordering::Relaxed);
}

/// The pool on a NUMA node.
pub fn on_node(node: c_int) -> Option<Pool> {
    let pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.iter().find(|pool| pool.node == node).copied()
}

/// The pool that a core's buffers come from.
pub fn of_core(core: usize) -> Option<Pool> {
    let core = c_int::try_from(core).ok()?;
    // SAFETY: it needs nothing.
    on_node(unsafe { crate::numa_node_of_cpu(core) })
}

/// How many pools there are.
pub fn count() -> usize {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Frees a pool under capsule's name for it.
///
/// # Safety
/// As DPDK's own: nothing uses the pool any more.
pub unsafe fn rte_mempool_free(pool: *mut rte_mempool) {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known.raw.as_ptr() != pool);
    // SAFETY: the caller's promise.
    unsafe { bindings::rte_mempool_free(pool) }
}

/// A pool under capsule's name for making one. capsule gives every buffer DPDK's default size, and does not know yet how
/// long the devices' queues will be.
///
/// # Safety
/// As DPDK's own: `name` is a C string.
pub unsafe fn rte_pktmbuf_pool_create(
    name: *const c_char,
    buffers: c_uint,
    cache: c_uint,
    private: u16,
    data_room: u16,
    node: c_int,
) -> *mut rte_mempool {
    let data_room = match DATA_ROOM.load(Ordering::Relaxed) {
        0 => data_room,
        ours => ours,
    };
    let buffers = buffers.saturating_add(queues::more_buffers());
    // SAFETY: the caller's promise.
    let raw = unsafe { bindings::rte_pktmbuf_pool_create(name, buffers, cache, private, data_room, node) };
    if let Some(raw) = NonNull::new(raw) {
        POOLS.lock().unwrap_or_else(PoisonError::into_inner).push(Pool { raw, node });
    }
    raw
}

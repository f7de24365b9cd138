//! Which memory is near, answered so that capsule always finds a pool.

use std::ffi::c_int;
use std::path::Path;

use crate::{bindings, pool};

/// The NUMA node of a core as EAL sees it: 0 where the kernel has none. (libnuma says -1 there, and capsule would look
/// for a pool on that node.)
///
/// # Safety
/// None is needed; capsule expects a foreign function.
pub unsafe fn numa_node_of_cpu(core: c_int) -> c_int {
    usize::try_from(core).map_or(0, |core| node_of(core, Path::new("/sys")))
}

/// The NUMA node of a core as the kernel shows it under `sys`: 0 where it has none.
pub fn node_of(core: usize, sys: &Path) -> c_int {
    let cpu = sys.join(format!("devices/system/cpu/cpu{core}"));
    (0..64).find(|node| cpu.join(format!("node{node}")).exists()).unwrap_or(0)
}

/// The NUMA node of a port, or -1 when no core of ours, and so no pool, is on it: capsule then takes the first
/// core's pool, where it would fail otherwise.
///
/// # Safety
/// None is needed: EAL answers -1 for a port that does not exist.
pub unsafe fn rte_eth_dev_socket_id(port: u16) -> c_int {
    // SAFETY: see above.
    let node = unsafe { bindings::rte_eth_dev_socket_id(port) };
    if pool::on_node(node).is_some() { node } else { -1 }
}

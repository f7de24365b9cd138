//! The system's libdpdk under the names that capsule 0.1.5 calls, in place of the published capsule-ffi, which needs
//! DPDK 19.11. `README.md` says why, and what is not a plain binding.
//!
//! The flat names are for capsule. Spillway uses `eal`, `pool`, `port` and `thread`, which are safe, and the bursts
//! and `rte_mbuf` itself on its packet path.
//!
//! Without the feature `libdpdk` there is nothing here but [`arguments`].
#![allow(unsafe_code)]

pub mod arguments;
#[cfg(feature = "libdpdk")]
mod compat;
#[cfg(feature = "libdpdk")]
pub mod eal;
#[cfg(feature = "libdpdk")]
mod mbuf;
#[cfg(feature = "libdpdk")]
pub mod numa;
#[cfg(feature = "libdpdk")]
pub mod pool;
#[cfg(feature = "libdpdk")]
pub mod port;
#[cfg(feature = "libdpdk")]
pub mod queues;
#[cfg(feature = "libdpdk")]
mod steer;
#[cfg(feature = "libdpdk")]
pub mod thread;

#[cfg(feature = "libdpdk")]
pub use self::{bindings::*, compat::*, mbuf::rte_mbuf};
// Items of ours that take the place of DPDK's: an explicit name goes before a glob.
#[cfg(feature = "libdpdk")]
pub use self::{
    compat::rte_eth_rx_mq_mode,
    eal::rte_eal_init,
    numa::{numa_node_of_cpu, rte_eth_dev_socket_id},
    pool::{rte_mempool_free, rte_pktmbuf_pool_create},
    port::rte_eth_dev_configure,
    queues::{rte_eth_rx_queue_setup, rte_eth_tx_queue_setup},
};

#[cfg(feature = "libdpdk")]
mod bindings {
    #![allow(
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        unsafe_op_in_unsafe_fn
    )]
    #![allow(unused_qualifications, clippy::all, clippy::undocumented_unsafe_blocks)]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

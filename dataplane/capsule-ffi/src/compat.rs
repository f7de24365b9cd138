//! What capsule 0.1.5 expects and DPDK no longer has: names from before 21.11, and the kernel NIC interface, which
//! Debian does not build and 23.11 removed.
#![allow(missing_docs, non_camel_case_types)]

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::null_mut;

use crate::bindings::{self, rte_mempool};
use crate::mbuf::rte_mbuf;

pub const ETH_RSS_IP: u64 = bindings::CAPSULE_RSS_IP;
pub const ETH_RSS_TCP: u64 = bindings::CAPSULE_RSS_TCP;
pub const ETH_RSS_UDP: u64 = bindings::CAPSULE_RSS_UDP;
pub const ETH_RSS_SCTP: u64 = bindings::CAPSULE_RSS_SCTP;
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = bindings::CAPSULE_TX_FAST_FREE;
pub const RTE_MBUF_DEFAULT_BUF_SIZE: u32 = bindings::CAPSULE_MBUF_BUF_SIZE;

pub mod rte_eth_rx_mq_mode {
    pub use crate::bindings::rte_eth_rx_mq_mode::*;
    pub const ETH_MQ_RX_RSS: Type = RTE_ETH_MQ_RX_RSS;
}

/// A kernel NIC interface, of which there are none.
#[derive(Debug)]
pub enum rte_kni {}

#[derive(Clone, Copy, Debug, Default)]
pub struct rte_kni_conf {
    pub name: [c_char; 32],
    pub group_id: u16,
    pub mbuf_size: u32,
    pub mac_addr: [u8; 6],
}

#[derive(Clone, Copy, Debug, Default)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<unsafe extern "C" fn(u16, c_uint) -> c_int>,
    pub config_network_if: Option<unsafe extern "C" fn(u16, u8) -> c_int>,
    pub config_mac_address: Option<unsafe extern "C" fn(u16, *mut u8) -> c_int>,
    pub config_promiscusity: Option<unsafe extern "C" fn(u16, u8) -> c_int>,
}

/// "Not supported", which `dpdk::kni_init` hands on as an error.
const NOT_SUPPORTED: c_int = -95;

/// # Safety
/// None is needed: it only refuses. So do the others.
pub unsafe fn rte_kni_init(_max: c_uint) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_alloc(
    _pool: *mut rte_mempool,
    _conf: *const rte_kni_conf,
    _ops: *mut rte_kni_ops,
) -> *mut rte_kni {
    null_mut()
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_release(_kni: *mut rte_kni) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_handle_request(_kni: *mut rte_kni) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_rx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: c_uint) -> c_uint {
    0
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_tx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: c_uint) -> c_uint {
    0
}

/// # Safety
/// None is needed.
pub unsafe fn rte_kni_close() {}

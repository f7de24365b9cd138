//! The message buffer, by the fields that capsule and Spillway use.

use std::ffi::c_void;

use crate::bindings::rte_mempool;

/// One packet buffer. The offsets have been the same for years; `shim.c` checks them against the headers.
#[repr(C, align(64))]
#[derive(Debug)]
#[expect(missing_docs, reason = "they are DPDK's")]
pub struct rte_mbuf {
    pub buf_addr: *mut c_void,
    buf_iova: u64,
    pub data_off: u16,
    pub refcnt: u16,
    pub nb_segs: u16,
    pub port: u16,
    pub ol_flags: u64,
    pub packet_type: u32,
    pub pkt_len: u32,
    pub data_len: u16,
    pub vlan_tci: u16,
    hash: [u16; 4],
    vlan_tci_outer: u16,
    pub buf_len: u16,
    pub pool: *mut rte_mempool,
    pub next: *mut rte_mbuf,
    rest: [u64; 7],
}

const _: () = assert!(size_of::<rte_mbuf>() == 128);
const _: () = assert!(std::mem::offset_of!(rte_mbuf, buf_len) == 54);
const _: () = assert!(std::mem::offset_of!(rte_mbuf, next) == 64);

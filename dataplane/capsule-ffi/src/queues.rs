//! How long the queues of a port are. capsule asks for what it was told to, within what the device can do.

use std::ffi::{c_int, c_uint};

use crate::bindings::{self, rte_eth_rxconf, rte_eth_txconf, rte_mempool};
use crate::port::{Port, Settings, check, prepared, remember};

impl Port {
    /// Packets that wait in a queue to be received and to be sent: what the driver made of it, where it tells, else what
    /// the queues were set up with.
    pub fn descriptors(self) -> (u16, u16) {
        let (mut rx, mut tx) = self.applied().descriptors;
        // SAFETY: numbers to write to, which stay as they are when the driver does not tell.
        unsafe { bindings::capsule_ffi_descriptors(self.id(), &raw mut rx, &raw mut tx) };
        (rx, tx)
    }
}

/// A queue to receive from under capsule's name for it: what it is set up with is remembered.
///
/// # Safety
/// As DPDK's own.
pub unsafe fn rte_eth_rx_queue_setup(
    port: u16,
    queue: u16,
    descriptors: u16,
    node: c_uint,
    conf: *const rte_eth_rxconf,
    pool: *mut rte_mempool,
) -> c_int {
    remember(port, |applied| applied.descriptors.0 = descriptors);
    // SAFETY: the caller's promise.
    unsafe { bindings::rte_eth_rx_queue_setup(port, queue, descriptors, node, conf, pool) }
}

/// A queue to send to under capsule's name for it: what it is set up with is remembered.
///
/// # Safety
/// As DPDK's own.
pub unsafe fn rte_eth_tx_queue_setup(
    port: u16,
    queue: u16,
    descriptors: u16,
    node: c_uint,
    conf: *const rte_eth_txconf,
) -> c_int {
    remember(port, |applied| applied.descriptors.1 = descriptors);
    // SAFETY: the caller's promise.
    unsafe { bindings::rte_eth_tx_queue_setup(port, queue, descriptors, node, conf) }
}

/// Buffers that the queues of all prepared ports hold beyond what was asked for, since a device may want longer ones.
pub(crate) fn more_buffers() -> u32 {
    let more = prepared().into_iter().filter_map(|(port, settings)| {
        let (mut rx, mut tx) = (settings.descriptors, settings.descriptors);
        // SAFETY: numbers to write to, which capsule has adjusted in the same way.
        check(unsafe { bindings::rte_eth_dev_adjust_nb_rx_tx_desc(port.id(), &raw mut rx, &raw mut tx) })
            .ok()?;
        Some(more_than_wanted(&settings, rx, tx))
    });
    more.sum()
}

fn more_than_wanted(settings: &Settings, rx: u16, tx: u16) -> u32 {
    let more = [rx, tx].map(|size| u32::from(size.saturating_sub(settings.descriptors)));
    more.iter().sum::<u32>() * u32::from(settings.queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_made_for_longer_queues_than_were_asked_for() {
        let settings = Settings { mtu: 1500, rss_key: Vec::new(), descriptors: 512, queues: 3 };
        assert_eq!(more_than_wanted(&settings, 512, 512), 0);
        assert_eq!(more_than_wanted(&settings, 1024, 256), 3 * 512);
        assert_eq!(more_than_wanted(&settings, 1024, 600), 3 * (512 + 88));
        // No device is there.
        assert_eq!(more_buffers(), 0);
    }
}

//! Ports: what capsule's configuration cannot set, and what a port tells of itself.
//!
//! Settings are left here by the device's name before capsule's runtime is built. capsule then configures the port
//! through [`rte_eth_dev_configure`], which adds them, as far as the device reports that it can.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use crate::bindings::{self, rte_eth_conf, rte_eth_dev_info, rte_eth_rx_mq_mode};
use crate::pool;

/// What a port is to be like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Key of the hash that spreads packets over the queues: as many bytes as the device wants are taken, so that
    /// nobody outside can aim at one queue.
    pub rss_key: Vec<u8>,
    /// Packets that are to wait in a queue, each way.
    pub descriptors: u16,
    /// Queues, each way.
    pub queues: u16,
}

/// What became of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What the device hashes to spread packets, such as `ip`, `udp` and `esp` (the SPI); empty when it does not.
    pub rss: Vec<&'static str>,
    /// Whether the hash has our key.
    pub rss_key: bool,
    /// Whether the device checks the checksums of received IPv4 headers.
    pub rx_checksum: bool,
    /// Whether sent buffers go back to their pool without a look at each.
    pub fast_free: bool,
    /// Packets that wait in a queue to be received and to be sent, as the queues were set up.
    pub descriptors: (u16, u16),
}

static SETTINGS: Mutex<Vec<(CString, Settings)>> = Mutex::new(Vec::new());
static APPLIED: Mutex<Option<HashMap<u16, Applied>>> = Mutex::new(None);

/// Leaves settings for the device of this name, before it is configured.
pub fn prepare(device: CString, settings: Settings) {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).push((device, settings));
}

/// A port that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(u16);

/// What a device reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The driver's name in DPDK.
    pub driver: String,
    /// Most queues to receive from.
    pub rx_queues: u16,
    /// Most queues to send to.
    pub tx_queues: u16,
    /// Smallest and largest MTU.
    pub mtu: (u16, u16),
}

/// Counters of a whole device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that it dropped because its queues were full.
    pub missed: u64,
    /// Packets that it received with an error.
    pub rx_errors: u64,
    /// Packets that it dropped because the pool was empty.
    pub no_buffer: u64,
    /// Packets that it could not send.
    pub tx_errors: u64,
}

impl Port {
    /// The port of a device: a PCI address, or the name of a virtual device without its arguments.
    pub fn find(device: &CStr) -> Option<Self> {
        let mut port = 0;
        // SAFETY: a C string, and a number to write to.
        let found = unsafe { bindings::rte_eth_dev_get_port_by_name(device.as_ptr(), &raw mut port) };
        (found == 0).then_some(Self(port))
    }

    /// Its number, for calls of DPDK.
    pub fn id(self) -> u16 {
        self.0
    }

    /// What the device reports.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn info(self) -> io::Result<Info> {
        let raw = self.raw_info()?;
        let driver = if raw.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: the driver's name is a constant of the driver.
            unsafe { CStr::from_ptr(raw.driver_name) }.to_string_lossy().into_owned()
        };
        Ok(Info {
            driver,
            rx_queues: raw.max_rx_queues,
            tx_queues: raw.max_tx_queues,
            mtu: (raw.min_mtu, raw.max_mtu),
        })
    }

    /// Its Ethernet address.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn mac(self) -> io::Result<[u8; 6]> {
        let mut address = bindings::rte_ether_addr::default();
        // SAFETY: an address to write to.
        check(unsafe { bindings::rte_eth_macaddr_get(self.0, &raw mut address) })?;
        Ok(address.addr_bytes)
    }

    /// Its MTU.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn mtu(self) -> io::Result<u16> {
        let mut mtu = 0;
        // SAFETY: a number to write to.
        check(unsafe { bindings::rte_eth_dev_get_mtu(self.0, &raw mut mtu) })?;
        Ok(mtu)
    }

    /// Sets the MTU of a port that is configured and not started.
    ///
    /// # Errors
    /// What the driver says; most virtual devices have no MTU to set.
    pub fn set_mtu(self, mtu: u16) -> io::Result<()> {
        // SAFETY: it takes numbers.
        check(unsafe { bindings::rte_eth_dev_set_mtu(self.0, mtu) })
    }

    /// Starts a port that is configured; one that is started stays so.
    ///
    /// # Errors
    /// What the driver says.
    pub fn start(self) -> io::Result<()> {
        // SAFETY: it takes a number.
        check(unsafe { bindings::rte_eth_dev_start(self.0) })
    }

    /// Its counters; zeros when the device has none.
    pub fn stats(self) -> Stats {
        let mut raw = bindings::rte_eth_stats::default();
        // SAFETY: a struct to write to; it stays zero when the call fails.
        unsafe { bindings::rte_eth_stats_get(self.0, &raw mut raw) };
        Stats {
            missed: raw.imissed,
            rx_errors: raw.ierrors,
            no_buffer: raw.rx_nombuf,
            tx_errors: raw.oerrors,
        }
    }

    /// What became of the settings that were left for it.
    pub fn applied(self) -> Applied {
        let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
        applied.as_ref().and_then(|ports| ports.get(&self.0).cloned()).unwrap_or_default()
    }

    fn raw_info(self) -> io::Result<rte_eth_dev_info> {
        let mut raw = MaybeUninit::<rte_eth_dev_info>::zeroed();
        // SAFETY: a struct to write to.
        check(unsafe { bindings::rte_eth_dev_info_get(self.0, raw.as_mut_ptr()) })?;
        // SAFETY: integers and pointers, zeroed and then filled.
        Ok(unsafe { raw.assume_init() })
    }
}

/// A port's configuration under capsule's name for it: capsule's, and what was left with [`prepare`].
///
/// # Safety
/// As DPDK's own: `conf` is a configuration.
pub unsafe fn rte_eth_dev_configure(
    port: u16,
    rx_queues: u16,
    tx_queues: u16,
    conf: *const rte_eth_conf,
) -> c_int {
    // SAFETY: the caller's promise.
    let mut conf = unsafe { *conf };
    let port = Port(port);
    if let Ok(info) = port.raw_info() {
        let settings = settings_of(port);
        let applied = amend(&mut conf, &info, settings.as_ref(), rx_queues);
        remember(port.id(), |remembered| *remembered = applied);
    }
    // SAFETY: a configuration of ours; the key that it points to lives for ever.
    unsafe { bindings::rte_eth_dev_configure(port.id(), rx_queues, tx_queues, &raw const conf) }
}

/// Changes what is remembered of a port.
pub(crate) fn remember(port: u16, change: impl FnOnce(&mut Applied)) {
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    change(applied.get_or_insert_with(HashMap::new).entry(port).or_default());
}

/// Settings of all ports that exist.
pub(crate) fn prepared() -> Vec<(Port, Settings)> {
    let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let found =
        settings.iter().filter_map(|(device, settings)| Some((Port::find(device)?, settings.clone())));
    found.collect()
}

fn settings_of(port: Port) -> Option<Settings> {
    prepared().into_iter().find(|(prepared, _)| *prepared == port).map(|(_, settings)| settings)
}

/// Adds to capsule's configuration what the device can do.
fn amend(
    conf: &mut rte_eth_conf,
    info: &rte_eth_dev_info,
    settings: Option<&Settings>,
    queues: u16,
) -> Applied {
    let mut applied = Applied::default();
    if let Some(settings) = settings {
        // As much of it as the device can: with more, DPDK does not configure the port at all.
        conf.rxmode.mtu = settings.mtu.min(largest_mtu(info)).into();
    }
    // capsule asks for it whenever the device has it. It is wrong when buffers of several pools meet in a queue.
    applied.fast_free = conf.txmode.offloads & bindings::CAPSULE_TX_FAST_FREE != 0 && pool::count() == 1;
    if !applied.fast_free {
        conf.txmode.offloads &= !bindings::CAPSULE_TX_FAST_FREE;
    }
    applied.rx_checksum = info.rx_offload_capa & bindings::CAPSULE_RX_IPV4_CHECKSUM != 0;
    if applied.rx_checksum {
        conf.rxmode.offloads |= bindings::CAPSULE_RX_IPV4_CHECKSUM;
    }
    spread(conf, info, settings, queues, &mut applied);
    applied
}

/// The largest MTU that DPDK takes for the device: many drivers report no MTU, and a longest frame.
fn largest_mtu(info: &rte_eth_dev_info) -> u16 {
    let frame = info.max_rx_pktlen;
    // As DPDK counts it: what the device reports, else an Ethernet header and checksum.
    let overhead = match frame.checked_sub(info.max_mtu.into()) {
        Some(overhead) if info.max_mtu != u16::MAX => overhead,
        _ => 18,
    };
    info.max_mtu.min(frame.saturating_sub(overhead).try_into().unwrap_or(u16::MAX))
}

/// Has the device spread packets over several queues.
fn spread(
    conf: &mut rte_eth_conf,
    info: &rte_eth_dev_info,
    settings: Option<&Settings>,
    queues: u16,
    applied: &mut Applied,
) {
    const KINDS: [(&str, u64); 4] = [
        ("ip", bindings::CAPSULE_RSS_IP),
        ("tcp", bindings::CAPSULE_RSS_TCP),
        ("udp", bindings::CAPSULE_RSS_UDP),
        ("esp", bindings::CAPSULE_RSS_ESP),
    ];
    let rss = &mut conf.rx_adv_conf.rss_conf;
    rss.rss_hf = 0;
    if queues > 1 {
        for (name, kind) in KINDS {
            let can = kind & info.flow_type_rss_offloads;
            if can != 0 {
                rss.rss_hf |= can;
                applied.rss.push(name);
            }
        }
    }
    if rss.rss_hf == 0 {
        // capsule asks for RSS all the same, which a device without it may refuse.
        conf.rxmode.mq_mode = rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_NONE;
        return;
    }
    let size = usize::from(info.hash_key_size);
    let key = settings.and_then(|settings| settings.rss_key.get(..size)).filter(|key| !key.is_empty());
    if let Some(key) = key {
        // DPDK keeps the pointer for as long as the port is configured.
        rss.rss_key = Box::leak(Box::<[u8]>::from(key)).as_mut_ptr();
        rss.rss_key_len = info.hash_key_size;
        applied.rss_key = true;
    }
}

/// What DPDK returned as a result.
pub(crate) fn check(result: c_int) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeroed<T: Default>() -> T {
        T::default()
    }

    fn settings() -> Settings {
        Settings { mtu: 9000, rss_key: (0..64).collect(), descriptors: 512, queues: 3 }
    }

    #[test]
    fn a_device_that_can_do_nothing_is_asked_for_nothing() {
        let (mut conf, info): (rte_eth_conf, rte_eth_dev_info) = (zeroed(), zeroed());
        // As capsule asks.
        conf.rxmode.mq_mode = rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
        assert_eq!(amend(&mut conf, &info, Some(&settings()), 2), Applied::default());
        assert_eq!(conf.rxmode.mq_mode, rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_NONE);
        assert_eq!((conf.rxmode.mtu, conf.rxmode.offloads, conf.txmode.offloads), (0, 0, 0));
    }

    #[test]
    fn a_device_gets_what_it_can_do_and_no_more() {
        let (mut conf, mut info): (rte_eth_conf, rte_eth_dev_info) = (zeroed(), zeroed());
        conf.rxmode.mq_mode = rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
        (info.max_mtu, info.max_rx_pktlen) = (9600, 9622);
        info.hash_key_size = 40;
        info.flow_type_rss_offloads = bindings::CAPSULE_RSS_ESP | bindings::CAPSULE_RSS_UDP;
        info.rx_offload_capa = bindings::CAPSULE_RX_IPV4_CHECKSUM;
        let applied = amend(&mut conf, &info, Some(&settings()), 2);
        assert_eq!(
            applied,
            Applied { rss: vec!["udp", "esp"], rss_key: true, rx_checksum: true, ..Applied::default() }
        );
        assert_eq!(conf.rxmode.mtu, 9000);
        assert_eq!(conf.rx_adv_conf.rss_conf.rss_hf, info.flow_type_rss_offloads);
        assert_eq!(conf.rx_adv_conf.rss_conf.rss_key_len, 40);
        assert_eq!(conf.rxmode.offloads, bindings::CAPSULE_RX_IPV4_CHECKSUM);
    }

    #[test]
    fn an_mtu_is_cut_to_the_longest_frame() {
        // What net_af_packet and net_memif report, net_null, net_af_xdp, and a NIC.
        for (max_mtu, frame, largest) in
            [(u16::MAX, 1518, 1500), (u16::MAX, u32::MAX, u16::MAX), (3542, 3560, 3542), (9600, 9622, 9600)]
        {
            let (mut conf, mut info): (rte_eth_conf, rte_eth_dev_info) = (zeroed(), zeroed());
            (info.max_mtu, info.max_rx_pktlen) = (max_mtu, frame);
            assert_eq!(largest_mtu(&info), largest, "{max_mtu} {frame}");
            amend(&mut conf, &info, Some(&settings()), 1);
            assert_eq!(conf.rxmode.mtu, u32::from(largest.min(9000)));
        }
    }

    #[test]
    fn one_queue_is_not_spread() {
        let (mut conf, mut info): (rte_eth_conf, rte_eth_dev_info) = (zeroed(), zeroed());
        info.flow_type_rss_offloads = bindings::CAPSULE_RSS_ESP;
        assert!(amend(&mut conf, &info, Some(&settings()), 1).rss.is_empty());
        assert_eq!(conf.rxmode.mq_mode, rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_NONE);
    }

    #[test]
    fn sent_buffers_are_looked_at_unless_all_are_of_one_pool() {
        // No pool was made in this process, and so not one.
        let (mut conf, info): (rte_eth_conf, rte_eth_dev_info) = (zeroed(), zeroed());
        conf.txmode.offloads = bindings::CAPSULE_TX_FAST_FREE;
        assert!(!amend(&mut conf, &info, None, 1).fast_free);
        assert_eq!(conf.txmode.offloads, 0);
    }
}

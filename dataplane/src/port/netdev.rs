//! A network interface of the kernel: find it, read and change its settings.
//!
//! Everything goes through ioctls on a socket, which belongs to the network namespace that opened it.
//! Nothing reads `/sys`, which shows the namespace that mounted it.

use std::ffi::{c_int, c_short};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Mac;
use super::sys::{check, context, set_option, socket};

/// One interface in the network namespace of the thread that opened it.
pub(super) struct Interface {
    name: String,
    index: c_int,
    control: OwnedFd,
}

impl Interface {
    /// Finds an interface by name.
    ///
    /// # Errors
    /// `NotFound`, with the interfaces that exist; `InvalidInput` for a name that no interface can have.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', ' ']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} cannot name an interface: 1 to 15 bytes without '/' or blanks"),
            ));
        }
        let control = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut found = Self { name: name.to_owned(), index: 0, control };
        let request =
            found.ioctl(libc::SIOCGIFINDEX, |_| ()).map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no interface {name:?} in this network namespace, which has: {}", names()),
                ),
                _ => error,
            })?;
        // SAFETY: SIOCGIFINDEX filled this member.
        found.index = unsafe { request.ifr_ifru.ifru_ifindex };
        Ok(found)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its index in the namespace.
    pub(super) fn index(&self) -> c_int {
        self.index
    }

    /// Its Ethernet address.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an Ethernet device.
    pub(super) fn mac(&self) -> io::Result<Mac> {
        let request = self.ioctl(libc::SIOCGIFHWADDR, |_| ())?;
        // SAFETY: SIOCGIFHWADDR filled this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&address.sa_family) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} is not an Ethernet device (its ARP hardware type is {})",
                    self.name, address.sa_family
                ),
            ));
        }
        let [a, b, c, d, e, f, ..] = address.sa_data;
        Ok([a, b, c, d, e, f].map(|byte| byte as u8))
    }

    /// Its MTU: the largest IP packet in bytes.
    pub(super) fn mtu(&self) -> io::Result<u32> {
        let request = self.ioctl(libc::SIOCGIFMTU, |_| ())?;
        // SAFETY: SIOCGIFMTU filled this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(|_| io::Error::other(format!("{} has an MTU of {mtu}", self.name)))
    }

    /// Sets the MTU to what is wanted, if it differs; returns the one in force.
    pub(super) fn adjust_mtu(&self, wanted: Option<u32>) -> io::Result<u32> {
        let current = self.mtu()?;
        let Some(wanted) = wanted.filter(|&wanted| wanted != current) else { return Ok(current) };
        let value = c_int::try_from(wanted).unwrap_or(c_int::MAX);
        self.ioctl(libc::SIOCSIFMTU, |request| request.ifr_ifru.ifru_mtu = value).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
                Some(libc::EINVAL) => " (more or less than the device can carry)",
                _ => "",
            };
            context(
                &error,
                format_args!("cannot change the MTU of {} from {current} to {wanted}{hint}", self.name),
            )
        })?;
        self.mtu()
    }

    /// Brings the interface up, if it is down.
    pub(super) fn bring_up(&self) -> io::Result<()> {
        let flags = self.flags()?;
        if c_int::from(flags) & libc::IFF_UP != 0 {
            return Ok(());
        }
        self.ioctl(libc::SIOCSIFFLAGS, |request| {
            request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short
        })
        .map(|_| ())
        .map_err(|error| {
            context(
                &error,
                format_args!("{} is down and cannot be brought up (needs CAP_NET_ADMIN)", self.name),
            )
        })
    }

    /// Warns when the kernel would handle the gateway's packets beside it.
    pub(super) fn warn_of_kernel(&self) {
        if self.ioctl(libc::SIOCGIFADDR, |_| ()).is_ok() {
            tracing::warn!(
                device = self.name,
                "the kernel has an IP address on the interface and answers beside the gateway; \
                 remove it with: ip address flush dev {}",
                self.name
            );
        }
        self.warn_of_forwarding();
    }

    /// Warns when the kernel forwards packets that come in by the interface.
    pub(super) fn warn_of_forwarding(&self) {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/{}/forwarding", self.name);
            if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() != "0") {
                tracing::warn!(
                    device = self.name,
                    "the kernel forwards {family} packets of the interface, past the gateway's policies; \
                     write 0 to {path}"
                );
            }
        }
    }

    /// Turns off the merging of received packets (GRO, LRO): a gateway forwards packets as they came. What
    /// the device or our privilege does not allow is logged and left.
    pub(super) fn stop_merging(&self) {
        self.switch_off("GRO", libc_ethtool::GGRO, libc_ethtool::SGRO, 1);
        self.switch_off("LRO", libc_ethtool::GFLAGS, libc_ethtool::SFLAGS, libc_ethtool::FLAG_LRO);
    }

    /// Makes the device leave VLAN tags in the packets. Returns whether it does.
    pub(super) fn keep_vlan_tags(&self) -> bool {
        self.switch_off(
            "VLAN stripping",
            libc_ethtool::GFLAGS,
            libc_ethtool::SFLAGS,
            libc_ethtool::FLAG_RXVLAN,
        )
    }

    /// Sets the number of receive queues, if it differs. A device that knows no such number is left alone.
    ///
    /// # Errors
    /// What the device says to the change, with the command that tries it by hand.
    pub(super) fn adjust_rx_queues(&self, wanted: u32) -> io::Result<()> {
        let mut channels = libc_ethtool::Channels { cmd: libc_ethtool::GCHANNELS, ..Default::default() };
        if self.ethtool(&mut channels).is_err() {
            return Ok(());
        }
        let current = channels.rx_count + channels.combined_count;
        if current == wanted {
            return Ok(());
        }
        let kind = if channels.combined_count > 0 { "combined" } else { "rx" };
        channels.cmd = libc_ethtool::SCHANNELS;
        if channels.combined_count > 0 {
            (channels.combined_count, channels.rx_count) = (wanted, 0);
        } else {
            channels.rx_count = wanted;
        }
        self.ethtool(&mut channels).map_err(|error| {
            context(
                &error,
                format_args!(
                    "{} has {current} receive queues and the port {wanted}, which must be equal \
                     (ethtool -L {} {kind} {wanted})",
                    self.name, self.name
                ),
            )
        })?;
        tracing::info!(device = self.name, "changed the receive queues from {current} to {wanted}");
        Ok(())
    }

    /// Clears `bits` in a word of flags that `get` reads and `set` writes. Returns whether they are clear.
    fn switch_off(&self, what: &str, get: u32, set: u32, bits: u32) -> bool {
        let mut value = libc_ethtool::Value { cmd: get, data: 0 };
        if self.ethtool(&mut value).is_err() || value.data & bits == 0 {
            return true;
        }
        let mut value = libc_ethtool::Value { cmd: set, data: value.data & !bits };
        match self.ethtool(&mut value) {
            Ok(()) => {
                tracing::info!(device = self.name, "turned {what} off");
                true
            }
            Err(error) => {
                tracing::info!(device = self.name, %error, "{what} stays on");
                false
            }
        }
    }

    fn flags(&self) -> io::Result<c_short> {
        let request = self.ioctl(libc::SIOCGIFFLAGS, |_| ())?;
        // SAFETY: SIOCGIFFLAGS filled this member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    /// An ioctl that takes a `struct ifreq`.
    fn ioctl(&self, number: libc::c_ulong, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<libc::ifreq> {
        let mut request = ifreq(&self.name);
        fill(&mut request);
        // SAFETY: the numbers used in this file take a `struct ifreq`, which lives through the call.
        let result =
            unsafe { libc::ioctl(self.control.as_raw_fd(), number as _, std::ptr::from_mut(&mut request)) };
        check(result).map(|()| request)
    }

    /// `SIOCETHTOOL` with the command struct at hand.
    fn ethtool<T: libc_ethtool::Command>(&self, command: &mut T) -> io::Result<()> {
        let data = std::ptr::from_mut(command).cast();
        self.ioctl(libc::SIOCETHTOOL, |request| request.ifr_ifru.ifru_data = data).map(|_| ())
    }
}

/// Holds a device in a receive mode for as long as it lives.
pub(super) struct ReceiveMode {
    _membership: OwnedFd,
}

impl ReceiveMode {
    /// Receives every multicast packet, because the kernel has not joined the groups of our neighbour
    /// discovery (RFC 4861 s7.2.1) for us; in promiscuous mode, everything.
    pub(super) fn enter(interface: &Interface, promiscuous: bool) -> io::Result<Self> {
        let membership = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        let mode = if promiscuous { libc::PACKET_MR_PROMISC } else { libc::PACKET_MR_ALLMULTI };
        let request = libc::packet_mreq {
            mr_ifindex: interface.index(),
            mr_type: mode as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(&membership, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)?;
        Ok(Self { _membership: membership })
    }

    /// Nothing, for tests of a queue without a device.
    #[cfg(test)]
    pub(super) fn detached() -> Self {
        Self { _membership: std::fs::File::open("/dev/null").unwrap().into() }
    }
}

/// A `struct ifreq` with the name filled in and the rest zero. The name is cut at 15 bytes.
pub(super) fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid `struct ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// The interfaces of the namespace, for an error message.
fn names() -> String {
    match nix::net::if_::if_nameindex() {
        Ok(list) => {
            let names: Vec<_> =
                list.iter().map(|entry| entry.name().to_string_lossy().into_owned()).collect();
            names.join(", ")
        }
        Err(_) => "(they cannot be listed)".to_owned(),
    }
}

/// What we need of `linux/ethtool.h`, which the libc crate lacks.
mod libc_ethtool {
    pub(super) const GFLAGS: u32 = 0x25;
    pub(super) const SFLAGS: u32 = 0x26;
    pub(super) const GGRO: u32 = 0x2b;
    pub(super) const SGRO: u32 = 0x2c;
    pub(super) const GCHANNELS: u32 = 0x3c;
    pub(super) const SCHANNELS: u32 = 0x3d;
    pub(super) const FLAG_RXVLAN: u32 = 1 << 8;
    pub(super) const FLAG_LRO: u32 = 1 << 15;

    /// A command struct: begins with its number, and is as long as the kernel expects for it.
    pub(super) trait Command {}

    /// `struct ethtool_value`
    #[repr(C)]
    pub(super) struct Value {
        pub(super) cmd: u32,
        pub(super) data: u32,
    }

    /// `struct ethtool_channels`
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct Channels {
        pub(super) cmd: u32,
        pub(super) max: [u32; 4],
        pub(super) rx_count: u32,
        pub(super) tx_count: u32,
        pub(super) other_count: u32,
        pub(super) combined_count: u32,
    }

    impl Command for Value {}
    impl Command for Channels {}

    const _: () = assert!(size_of::<Value>() == 8 && size_of::<Channels>() == 36);
}

const _: () = assert!(size_of::<libc::ifreq>() == 40 || size_of::<usize>() != 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named_with_those_that_exist() {
        let error = Interface::find("no-such-dev").err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("\"no-such-dev\""), "{error}");
        assert!(error.to_string().contains("lo"), "{error}");
    }

    #[test]
    fn an_impossible_name_is_refused() {
        for name in ["", "a-name-that-is-too-long", "a/b", "a b"] {
            assert_eq!(Interface::find(name).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_loopback_device_is_read() {
        let lo = Interface::find("lo").unwrap();
        assert!(lo.index() > 0);
        assert!(lo.mtu().unwrap() >= 1280);
        assert_eq!(lo.mac().unwrap(), [0; 6]);
        assert_eq!(lo.adjust_mtu(None).unwrap(), lo.mtu().unwrap());
    }
}

//! The section `ports`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::node::{Fields, FromNode, Keyword, Node};

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Driver and device.
    pub driver: Driver,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Our addresses, with the length of the link's prefix.
    pub addresses: Vec<IpNet>,
    /// All packets carry this VLAN tag; none when `None`.
    pub vlan: Option<u16>,
    /// Queue pairs, when the file names them: one for each worker then too.
    pub queues: Option<usize>,
    /// Whether source addresses are checked.
    pub rpf: Rpf,
}

/// What carries a port's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A kernel interface through a packet socket. Works everywhere.
    AfPacket {
        /// Interface.
        device: String,
    },
    /// A kernel interface through AF_XDP sockets.
    AfXdp {
        /// Interface.
        device: String,
        /// The kernel goes on using the interface for what is not the gateway's.
        share: bool,
        /// Whether the NIC writes into our memory.
        mode: XdpMode,
    },
    /// A TAP interface that is made when it does not exist.
    Tap {
        /// Interface.
        device: String,
    },
    /// Packets from a capture file, and to one.
    Pcap {
        /// File to receive from.
        read: Option<PathBuf>,
        /// File to send to.
        write: Option<PathBuf>,
    },
    /// A NIC that DPDK drives.
    Dpdk {
        /// PCI address, or a virtual device such as `net_af_packet0,iface=eth0`.
        device: String,
        /// Packets that wait in a queue, each way.
        descriptors: usize,
    },
}

impl Driver {
    /// As it is written in the file.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::AfPacket { .. } => "af_packet",
            Self::AfXdp { .. } => "af_xdp",
            Self::Tap { .. } => "tap",
            Self::Pcap { .. } => "pcap",
            Self::Dpdk { .. } => "dpdk",
        }
    }

    /// The device, unless files stand for it.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::AfPacket { device }
            | Self::AfXdp { device, .. }
            | Self::Tap { device }
            | Self::Dpdk { device, .. } => Some(device),
            Self::Pcap { .. } => None,
        }
    }
}

/// Whether an AF_XDP socket's NIC writes into our memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Zero-copy where the NIC's driver can, else copy.
    #[default]
    Auto,
    /// Zero-copy, or an error.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl Keyword for XdpMode {
    const KEYWORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("zero-copy", Self::ZeroCopy), ("copy", Self::Copy)];
}

/// Reverse-path filtering (RFC 3704 s2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rpf {
    /// A packet is dropped when its source does not route back to the port that it came in by.
    #[default]
    Strict,
    /// Sources are not checked.
    Off,
}

impl Keyword for Rpf {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("strict", Self::Strict), ("off", Self::Off)];
}

/// Descriptors of a DPDK queue when the file names none.
const DESCRIPTORS: usize = 1024;

/// The smallest MTU: what every IPv4 host must take (RFC 791 s3.1).
const MTU_MIN: u64 = 576;
/// The largest: jumbo frames as NICs and switches carry them.
const MTU_MAX: u64 = 9216;

impl FromNode for Port {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let driver = read_driver(&mut fields);
        let mtu = fields.number("mtu", MTU_MIN..=MTU_MAX, "a number of bytes").unwrap_or(1500);
        let addresses = fields.optional("addresses").unwrap_or_default();
        let addresses: Vec<_> = Vec::into_iter(addresses).map(|PortAddress(address)| address).collect();
        let has_ipv6 = addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
        if has_ipv6 && mtu < 1280 {
            fields.error::<()>("mtu", format!("found {mtu}, expected 1280 or more for IPv6 (RFC 8200 s5)"));
        }
        let vlan = fields.number("vlan", 1..=4094, "a VLAN");
        let queues = fields.number("queues", 1..=1024, "a number of queues");
        let rpf = fields.optional("rpf").unwrap_or_default();
        fields.finish();
        Some(Self { driver: driver?, mtu, addresses, vlan, queues, rpf })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DriverName {
    AfPacket,
    AfXdp,
    Tap,
    Pcap,
    Dpdk,
}

impl Keyword for DriverName {
    const KEYWORDS: &'static [(&'static str, Self)] = &[
        ("af_packet", Self::AfPacket),
        ("af_xdp", Self::AfXdp),
        ("tap", Self::Tap),
        ("pcap", Self::Pcap),
        ("dpdk", Self::Dpdk),
    ];
}

fn read_driver(fields: &mut Fields<'_>) -> Option<Driver> {
    let name = fields.required("driver");
    let of_xdp = foreign(fields, name, DriverName::AfXdp, &["share", "mode"], "only driver af_xdp has this");
    let of_pcap = foreign(fields, name, DriverName::Pcap, &["read", "write"], "only driver pcap has this");
    let of_dpdk = foreign(fields, name, DriverName::Dpdk, &["descriptors"], "only driver dpdk has this");
    // Known to every driver, whatever becomes of it.
    let has_device = fields.has("device");
    let name = name?;
    if !(of_xdp && of_pcap && of_dpdk) {
        return None;
    }
    let mut interface = || fields.required("device").map(|Interface(device)| device);
    match name {
        DriverName::AfPacket => interface().map(|device| Driver::AfPacket { device }),
        DriverName::Tap => interface().map(|device| Driver::Tap { device }),
        DriverName::AfXdp => {
            let device = interface();
            let share = fields.optional("share").unwrap_or(false);
            let mode = fields.optional("mode").unwrap_or_default();
            Some(Driver::AfXdp { device: device?, share, mode })
        }
        DriverName::Pcap => {
            let mut file = |key| fields.read(key, |node| Some(node.resolve(&PathBuf::from_node(node)?)));
            let (read, write) = (file("read"), file("write"));
            if has_device {
                return fields.error("device", "driver pcap has no device, expected `read` and `write`");
            }
            if read.is_none() && write.is_none() {
                return fields
                    .error("read", "missing: driver pcap needs a file to `read`, to `write`, or both");
            }
            Some(Driver::Pcap { read: read.flatten(), write: write.flatten() })
        }
        DriverName::Dpdk => {
            let device = fields.required::<String>("device");
            let descriptors = fields.number("descriptors", 32..=32_768, "a number of descriptors");
            if !cfg!(feature = "dpdk") {
                return fields.error(
                    "driver",
                    "dpdk needs the feature `dpdk`, which this build lacks: build with `--features dpdk` (`make dpdk`), or use \
                     af_xdp or af_packet",
                );
            }
            Some(Driver::Dpdk { device: device?, descriptors: descriptors.unwrap_or(DESCRIPTORS) })
        }
    }
}

/// Reports keys of a port that only `owner` has. Whether there were none.
fn foreign(
    fields: &mut Fields<'_>,
    name: Option<DriverName>,
    owner: DriverName,
    keys: &[&'static str],
    message: &str,
) -> bool {
    let mut none = true;
    for key in keys {
        if fields.has(key) && name.is_some_and(|name| name != owner) {
            fields.error::<()>(key, message);
            none = false;
        }
    }
    none
}

/// The name of a kernel interface (IFNAMSIZ leaves room for 15 bytes).
struct Interface(String);

impl FromNode for Interface {
    fn expected() -> Cow<'static, str> {
        "the name of an interface: up to 15 characters, no `/`, `:` or space".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let device = String::from_node(node)?;
        let plain = |c: char| !c.is_whitespace() && c != '/' && c != ':';
        if (1..=15).contains(&device.len()) && device.chars().all(plain) {
            return Some(Self(device));
        }
        node.unexpected(&Self::expected())
    }
}

/// An address of ours with the length of its link's prefix.
struct PortAddress(IpNet);

impl FromNode for PortAddress {
    fn expected() -> Cow<'static, str> {
        "an address with its prefix length such as 192.0.2.1/24".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        let text = node.text(&expected)?;
        let Ok(net) = text.parse::<IpNet>() else { return node.unexpected(&expected) };
        let address = net.addr();
        if !is_unicast(address) {
            return node.error(format!("{address} cannot be an interface's address, expected a unicast one"));
        }
        if let IpNet::V4(net) = net
            && net.prefix_len() < 31
        {
            // RFC 3021: a /31 has neither.
            if net.addr() == net.network() {
                return node.error(format!("{address} is the network itself, expected an address in {net}"));
            }
            if net.addr() == net.broadcast() {
                return node.error(format!("{address} is the broadcast address of {}", net.trunc()));
            }
        }
        Some(Self(net))
    }
}

/// Whether packets can be sent to and from this address over a link.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let reserved = match address {
        // 240.0.0.0/4 is reserved (RFC 1112 s4), 0.0.0.0/8 is "this network" (RFC 1122 s3.2.1.3).
        IpAddr::V4(v4) => v4.octets()[0] >= 240 || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !(reserved || address.is_multicast() || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicast_is_what_a_link_carries() {
        for good in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fe80::1"] {
            assert!(is_unicast(good.parse().unwrap()), "{good}");
        }
        for bad in
            ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "::ffff:1.2.3.4"]
        {
            assert!(!is_unicast(bad.parse().unwrap()), "{bad}");
        }
    }
}

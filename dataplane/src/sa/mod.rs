//! Security associations: what every worker shares of one SA direction.
//!
//! Parameters and keys are immutable. The sequence number of an outbound SA and the replay window of an
//! inbound one are the only hot mutable state, as atomics, so one SA runs on every worker at once.

use std::mem::offset_of;
use std::net::IpAddr;
use std::time::Duration;

use crate::buffer::{LINE, prefetch};
use crate::crypto::{Key, Suite};
use crate::policy::Selectors;

pub mod allocator;
mod build;
pub mod counters;
pub mod lifetime;
pub mod path_mtu;
pub mod replay;
pub mod sequence;
pub mod slot_table;
pub mod spi_table;

pub use build::Start;
use lifetime::Usage;
use path_mtu::PathMtu;
use replay::ReplayWindow;
use sequence::Sequence;

/// A Security Parameter Index, in host byte order. 0 to 255 are reserved (RFC 4303 s2.1).
pub type Spi = u32;

/// Names one tunnel (a Child SA or a manual SA) for as long as it exists, across rekeys. It is the index of
/// its outbound slot on every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(pub u32);

/// ESP or AH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 4303.
    Esp,
    /// RFC 4302.
    Ah,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Esp => 50,
            Self::Ah => 51,
        }
    }
}

/// Tunnel or transport mode (RFC 4301 s3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The whole inner packet is protected and gets a new outer header.
    Tunnel,
    /// The payload is protected, the IP header stays.
    Transport,
}

/// DF bit of an outer IPv4 header (RFC 4301 s8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DfPolicy {
    /// As in the inner packet; set for an IPv6 inner packet.
    #[default]
    Copy,
    /// Always set.
    Set,
    /// Never set.
    Clear,
}

/// DSCP of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DscpPolicy {
    /// As in the inner packet.
    #[default]
    Copy,
    /// This value, 0 to 63.
    Set(u8),
}

/// Which side of encapsulation an IPv4 packet that is too long is fragmented on, when it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fragmentation {
    /// The inner packet is fragmented, each fragment protected: the peer need not reassemble.
    #[default]
    Before,
    /// The protected packet is fragmented.
    After,
}

/// Outer addresses of an SA, and the UDP ports when it is encapsulated (RFC 3948). `local` is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address, of the same family.
    pub remote: IpAddr,
    /// UDP ports, ours and the peer's, when encapsulated.
    pub udp: Option<UdpPorts>,
}

/// UDP ports of an encapsulated SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpPorts {
    /// Ours, usually 4500.
    pub local: u16,
    /// The peer's, whatever its NAT made of it.
    pub remote: u16,
}

/// When an SA is used up. `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Since the SA was installed.
    pub time: Option<Duration>,
    /// Bytes of inner packets.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
}

/// Soft and hard lifetime (RFC 4301 s4.4.2.1): soft raises an event, hard raises one and stops the SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// Time to rekey.
    pub soft: Limits,
    /// Not to be used any more.
    pub hard: Limits,
}

/// What both directions of a tunnel have in common. What every packet asks for comes first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SaParams {
    /// The tunnel it belongs to.
    pub tunnel: TunnelId,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// Algorithms.
    pub suite: Suite,
    /// 64-bit sequence numbers (RFC 4303 s2.2.1).
    pub esn: bool,
    /// ECN is carried between inner and outer header (RFC 6040 normal mode), or cleared (compatibility mode).
    pub ecn: bool,
    /// Soft and hard lifetime.
    pub lifetime: Lifetime,
}

impl SaParams {
    /// ESP in tunnel mode: the kind that has a short way, and dummy packets (RFC 4303 s2.6).
    #[inline]
    pub fn is_esp_tunnel(&self) -> bool {
        self.protocol == Protocol::Esp && self.mode == Mode::Tunnel
    }
}

/// How an outbound SA builds its packets, beyond [`SaParams`].
#[derive(Clone, Debug, Default)]
pub struct OutboundOptions {
    /// DF of the outer header.
    pub df: DfPolicy,
    /// DSCP of the outer header.
    pub dscp: DscpPolicy,
    /// Fragment before or after encapsulation.
    pub fragmentation: Fragmentation,
    /// Traffic flow confidentiality: pad every inner packet to this many bytes (RFC 4303 s2.7). Tunnel mode only.
    pub tfc_pad: Option<u16>,
    /// TTL or hop limit of the outer header.
    pub ttl: u8,
    /// Send a keepalive when nothing was sent for this long (RFC 3948 s4). Only with UDP encapsulation.
    pub keepalive: Option<Duration>,
    /// Send a dummy packet when nothing was sent for this long (RFC 4303 s2.6). ESP in tunnel mode only.
    pub dummy: Option<Duration>,
    /// Clamp the MSS of TCP SYNs to what fits: `None` leaves them alone.
    pub mss_clamp: Option<MssClamp>,
}

/// How TCP's maximum segment size is clamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// To what fits the path MTU after encapsulation.
    PathMtu,
    /// To this many bytes.
    Fixed(u16),
}

/// An outbound SA. With many of them each cache line is a miss, so the order is that of use: what every packet needs is
/// in the first line and in the key. What of the rest a usual packet needs, a worker keeps in its own table.
#[repr(C, align(64))]
pub struct OutboundSa {
    /// Next sequence number, which every worker writes.
    pub sequence: Sequence,
    /// The largest packet that the path to the peer carries.
    pub path_mtu: PathMtu,
    /// The engine's key.
    pub key: Key,
    /// SPI that the peer chose.
    pub spi: Spi,
    /// How packets are built.
    pub options: OutboundOptions,
    /// What it has in common with its inbound twin.
    pub params: SaParams,
    /// How much of its lifetime is used up.
    pub usage: Usage,
}

// What is written for each packet is alone on its line.
const _: () = assert!(offset_of!(OutboundSa, key) == LINE && offset_of!(InboundSa, key) == LINE);

/// An inbound SA; ordered as [`OutboundSa`] is.
#[repr(C, align(64))]
pub struct InboundSa {
    /// Replay window; `None` when the operator turned it off.
    pub replay: Option<ReplayWindow>,
    /// The engine's key.
    pub key: Key,
    /// Decrypted packets must match one of these (RFC 4301 s5.2 step 4). `local` is the destination.
    pub selectors: Selectors,
    /// SPI that we chose.
    pub spi: Spi,
    /// What it has in common with its outbound twin.
    pub params: SaParams,
    /// How much of its lifetime is used up.
    pub usage: Usage,
    /// Where packets should come from; a packet from elsewhere raises an event after its ICV verified.
    pub endpoints: Endpoints,
}

impl OutboundSa {
    /// Asks for what a usual packet needs of it but for the key, which the engine knows.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self, LINE);
    }

    /// Asks for what another packet needs too.
    #[inline]
    pub fn prefetch_rest(&self) {
        let from = offset_of!(Self, spi);
        let to = offset_of!(Self, params) + offset_of!(SaParams, lifetime);
        prefetch(&self.spi, to - from);
    }
}

impl InboundSa {
    /// As [`OutboundSa::prefetch`].
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self, LINE);
    }

    /// As [`OutboundSa::prefetch_rest`].
    #[inline]
    pub fn prefetch_rest(&self) {
        let from = offset_of!(Self, selectors);
        let to = offset_of!(Self, params) + offset_of!(SaParams, lifetime);
        prefetch(&self.selectors, to - from);
    }
}

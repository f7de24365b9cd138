//! Every reason for which the data plane drops a packet. There is no unnamed drop.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name in metrics, `show drops` and JSON. Stable: dashboards depend on it.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    // Link layer
    /// Shorter than its Ethernet or VLAN header.
    EthernetTruncated = "ethernet_truncated",
    /// An EtherType that a router does not forward.
    EtherTypeUnknown = "ethertype_unknown",
    /// Sent to another station's address, or to an Ethernet group though its destination is one host.
    NotOurMac = "not_our_mac",
    /// A VLAN that is not configured on the port.
    VlanUnknown = "vlan_unknown",
    /// An ARP packet that does not parse, or whose sender cannot be a station.
    ArpMalformed = "arp_malformed",
    /// ARP or ND from another station that claims one of our addresses.
    AddressConflict = "address_conflict",
    // IP
    /// The IP header does not parse: version, length fields, or shorter than the header says.
    IpMalformed = "ip_malformed",
    /// Wrong IPv4 header checksum.
    IpChecksum = "ip_checksum",
    /// An IPv4 source route, which is not followed (RFC 7126), or IPv4 options that do not parse.
    IpOptions = "ip_options",
    /// A source or destination address that must not be forwarded (loopback, multicast source, ...).
    AddressInvalid = "address_invalid",
    /// More IPv6 extension headers, or longer ones, than are parsed; or a routing header of type 0 (RFC 5095).
    ExtensionHeaders = "extension_headers",
    /// TTL or hop limit ran out; the source was told.
    TtlExceeded = "ttl_exceeded",
    /// No route to the destination; the source was told.
    NoRoute = "no_route",
    /// The source address does not route back to the port that the packet came in by.
    ReversePath = "reverse_path",
    /// Too long for the path and not to be fragmented; the source was told.
    TooBig = "too_big",
    /// The next hop did not answer ARP or ND.
    NeighbourUnresolved = "neighbour_unresolved",
    /// Too many packets were waiting for the same next hop.
    NeighbourQueueFull = "neighbour_queue_full",
    /// No room for another neighbour: all entries are in use or being resolved.
    NeighbourTableFull = "neighbour_table_full",
    // To the gateway itself
    /// Addressed to us, with a protocol or port that we do not serve.
    NoService = "no_service",
    /// An ICMP packet to us that does not parse or has a wrong checksum.
    IcmpMalformed = "icmp_malformed",
    /// An ICMP error to us about a packet that we cannot have sent.
    IcmpUnrelated = "icmp_unrelated",
    /// Answers of the gateway itself are rate-limited.
    RateLimited = "rate_limited",
    /// A UDP packet to us that does not parse or has a wrong checksum.
    UdpMalformed = "udp_malformed",
    /// A NAT keepalive (RFC 3948 s2.3), consumed.
    NatKeepalive = "nat_keepalive",
    /// The control plane did not keep up with punted packets.
    PuntQueueFull = "punt_queue_full",
    // Fragments
    /// A fragment that overlaps another (RFC 5722, RFC 1858), with all of its packet.
    FragmentOverlap = "fragment_overlap",
    /// An exact copy of a fragment that came before.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment that does not parse: length, alignment, or so small that it hides a header.
    FragmentMalformed = "fragment_malformed",
    /// A fragment that makes its packet longer than 65,535 bytes, with all of it.
    FragmentTooLong = "fragment_too_long",
    /// The memory for reassembly is used up.
    FragmentMemory = "fragment_memory",
    /// The rest of its packet did not come in time.
    FragmentTimeout = "fragment_timeout",
    // Policy
    /// A discard policy, or no policy at all.
    PolicyDiscard = "policy_discard",
    /// A packet in the clear that policy says must come protected (RFC 4301 s5.2 step 3).
    PolicyClear = "policy_clear",
    /// The policy says protect, and the tunnel has no SA.
    NoSa = "no_sa",
    /// The tunnel has no SA yet, and enough packets wait for it.
    AcquireQueueFull = "acquire_queue_full",
    /// The SA that the packet waited for did not come in time.
    AcquireTimeout = "acquire_timeout",
    // Outbound SA
    /// The sequence numbers of the SA are used up.
    SequenceExhausted = "sequence_exhausted",
    /// The next sequence number may not be used before it is written down that it was: the disk is too slow, or full.
    SequenceUnsaved = "sequence_unsaved",
    /// A hard lifetime passed.
    SaExpired = "sa_expired",
    /// The engine refused to seal; only a defect can cause it.
    SealFailed = "seal_failed",
    /// A fragment, which transport mode does not carry (RFC 4303 s3.1.1).
    TransportFragment = "transport_fragment",
    /// The frame has no room for the headers or the trailer.
    NoRoom = "no_room",
    // Inbound SA
    /// An SPI from 0 to 255 (RFC 4303 s2.1).
    SpiReserved = "spi_reserved",
    /// No SA has this SPI.
    SpiUnknown = "spi_unknown",
    /// ESP on an AH SPI, or the reverse; or not to the SA's address.
    SaMismatch = "sa_mismatch",
    /// Shorter than its header, IV and ICV, or not a multiple of the cipher's block.
    EspMalformed = "esp_malformed",
    /// An AH header whose length does not fit its SA.
    AhMalformed = "ah_malformed",
    /// The ICV is wrong.
    IcvBad = "icv_bad",
    /// The sequence number was seen before.
    ReplayDuplicate = "replay_duplicate",
    /// The sequence number is left of the replay window.
    ReplayTooOld = "replay_too_old",
    /// The padding is not 1, 2, 3, ... or longer than the packet (RFC 4303 s2.4).
    PadBad = "pad_bad",
    /// The next header does not fit the SA's mode.
    NextHeaderBad = "next_header_bad",
    /// A dummy packet (RFC 4303 s2.6), consumed.
    Dummy = "dummy",
    /// The decrypted packet does not match the SA's selectors (RFC 4301 s5.2 step 4).
    SelectorMismatch = "selector_mismatch",
    /// An ECN combination that must be dropped: of inner and outer header (RFC 6040 s4.2), or of fragments (RFC 3168 s5.3).
    EcnInvalid = "ecn_invalid",
    // Resources
    /// The pool had no free frame.
    NoBuffer = "no_buffer",
    /// The port's transmit queue was full.
    TxFull = "tx_full",
}

/// Drops of one worker, by reason.
#[derive(Clone, Debug)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one packet.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += packets;
        }
    }

    /// Packets dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Every reason that was counted at least once, with its packets.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, packets)| packets > 0)
    }

    /// Adds another worker's drops.
    pub fn merge(&mut self, other: &Self) {
        for &reason in DropReason::ALL {
            self.add(reason, other.get(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_snake_case() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn counts_by_reason_and_merges() {
        let (mut a, mut b) = (DropCounters::default(), DropCounters::default());
        a.count(DropReason::IcvBad);
        b.add(DropReason::IcvBad, 2);
        b.count(DropReason::TxFull);
        a.merge(&b);
        let all: Vec<_> = a.nonzero().collect();
        assert_eq!(all, [(DropReason::IcvBad, 3), (DropReason::TxFull, 1)]);
    }
}

//! IP addresses as the packet path carries them.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::ip::Version;

/// An IPv4 or IPv6 address: its bits from the left in two words, and its version.
///
/// [`IpAddr`] is a tag and 4 or 16 bytes behind it at an odd place. The compiler copies those in pieces of other widths
/// than they were written in, so that loads wait for stores: about 10 ns for each copy of a parsed header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    high: u64,
    low: u64,
    version: Version,
}

impl Address {
    /// From the octets of an IPv4 header.
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self { high: (u32::from_be_bytes(octets) as u64) << 32, low: 0, version: Version::V4 }
    }

    /// From the octets of an IPv6 header.
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(octets);
        Self { high: (bits >> 64) as u64, low: bits as u64, version: Version::V6 }
    }

    /// IPv4 or IPv6.
    #[inline]
    pub const fn version(self) -> Version {
        self.version
    }

    /// Its bits from the left, those of IPv4 in the upper 32.
    #[inline]
    pub const fn key(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// [`Self::key`] in halves.
    #[inline]
    pub const fn halves(self) -> [u64; 2] {
        [self.high, self.low]
    }

    /// Bits that differ between addresses, the upper ones most: a place in a table.
    #[inline]
    pub const fn spread(self) -> u64 {
        (self.high ^ self.low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The bits of an IPv4 address, else `None`.
    #[inline]
    pub const fn to_v4(self) -> Option<u32> {
        match self.version {
            Version::V4 => Some((self.high >> 32) as u32),
            Version::V6 => None,
        }
    }

    /// The octets of an IPv4 address, else `None`.
    #[inline]
    pub const fn octets_v4(self) -> Option<[u8; 4]> {
        match self.version {
            Version::V4 => Some(((self.high >> 32) as u32).to_be_bytes()),
            Version::V6 => None,
        }
    }

    /// As the standard library knows it.
    #[inline]
    pub const fn to_ip(self) -> IpAddr {
        match self.version {
            Version::V4 => IpAddr::V4(Ipv4Addr::from_bits((self.high >> 32) as u32)),
            Version::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.key())),
        }
    }

    /// A group (RFC 5771, RFC 4291 s2.7) or IPv4's limited broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        match self.version {
            // 224.0.0.0/4 and 255.255.255.255.
            Version::V4 => self.high >> 60 == 0xe || self.high >> 32 == u32::MAX as u64,
            // ff00::/8.
            Version::V6 => self.high >> 56 == 0xff,
        }
    }

    /// A unicast address of the link only: fe80::/10 (RFC 4291 s2.5.6). IPv4's are not told apart here.
    #[inline]
    pub const fn is_link_local_v6(self) -> bool {
        matches!(self.version, Version::V6) && self.high >> 54 == 0xfe80 >> 6
    }

    /// Whether a router may forward packets from and to it. Not "this network", unspecified, loopback, link-local, group,
    /// reserved, or IPv4-mapped (RFC 6890, RFC 1812 s5.3.7, RFC 4291 s2.5).
    #[inline]
    pub const fn is_forwardable(self) -> bool {
        match self.version {
            Version::V4 => {
                let first = self.high >> 56;
                first != 0 && first != 127 && first < 224 && self.high >> 48 != 0xa9fe
            }
            Version::V6 => {
                // ::, ::1, and ::ffff:0:0/96.
                let special = self.high == 0 && (self.low <= 1 || self.low >> 32 == 0xffff);
                !special && !self.is_group() && !self.is_link_local_v6()
            }
        }
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

impl From<Ipv4Addr> for Address {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    #[inline]
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.octets())
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> Self {
        address.to_ip()
    }
}

impl PartialEq<IpAddr> for Address {
    #[inline]
    fn eq(&self, other: &IpAddr) -> bool {
        *self == Self::from(*other)
    }
}

impl PartialEq<Ipv4Addr> for Address {
    #[inline]
    fn eq(&self, other: &Ipv4Addr) -> bool {
        *self == Self::from(*other)
    }
}

impl PartialEq<Ipv6Addr> for Address {
    #[inline]
    fn eq(&self, other: &Ipv6Addr) -> bool {
        *self == Self::from(*other)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Addresses of every kind, and random ones near them.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![
            any::<u32>(),
            prop::sample::select(vec![0, 0x7f00_0001, 0xa9fe_0101, 0xe000_0001, 0xffff_ffff, 0x0a01_0001]),
        ];
        let v6 = prop_oneof![
            any::<u128>(),
            prop::sample::select(vec![
                0,
                1,
                2,
                0xffff_0a01_0001,
                0xfe80 << 112 | 1,
                0xfec0 << 112,
                0xff02 << 112 | 1
            ]),
            any::<u128>().prop_map(|bits| bits >> 118 << 118),
        ];
        prop_oneof![
            v4.prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
            v6.prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        ]
    }

    #[test]
    fn an_ipv4_address_is_not_its_mapped_ipv6_address() {
        let v4 = Ipv4Addr::new(10, 1, 0, 1);
        assert_ne!(Address::from(v4), Address::from(v4.to_ipv6_mapped()));
        assert_ne!(Address::from(v4), Address::from(Ipv6Addr::from_bits(u128::from(v4.to_bits()) << 96)));
        assert_eq!(Address::from(v4).octets_v4(), Some([10, 1, 0, 1]));
        assert_eq!(Address::from(v4.to_ipv6_mapped()).octets_v4(), None);
        assert_eq!(format!("{:?}", Address::from(v4)), "10.1.0.1");
    }

    #[test]
    fn hashes_spread_over_their_upper_bits() {
        let places = |addresses: Vec<Address>| {
            let places: std::collections::BTreeSet<_> = addresses.iter().map(|a| a.spread() >> 56).collect();
            places.len()
        };
        assert!(places((0..=255).map(|host| Address::v4([10, 1, 0, host])).collect()) > 150);
        let host = |host: u8| {
            let mut octets = [0; 16];
            (octets[0], octets[15]) = (0x20, host);
            Address::v6(octets)
        };
        assert!(places((0..=255).map(host).collect()) > 150);
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(ip in addresses(), other in addresses()) {
            let address = Address::from(ip);
            prop_assert_eq!(IpAddr::from(address), ip);
            prop_assert_eq!(address == Address::from(other), ip == other);
            prop_assert_eq!(address.version() == Version::V4, ip.is_ipv4());
            let (group, link_local, forwardable) = match ip {
                IpAddr::V4(v4) => {
                    let [first, ..] = v4.octets();
                    let fit = first != 0 && !v4.is_loopback() && first < 224 && !v4.is_link_local();
                    (v4.is_multicast() || v4.is_broadcast(), false, fit)
                }
                IpAddr::V6(v6) => {
                    let link_local = v6.is_unicast_link_local();
                    let special = v6.is_unspecified() || v6.is_loopback() || v6.to_ipv4_mapped().is_some();
                    (v6.is_multicast(), link_local, !special && !v6.is_multicast() && !link_local)
                }
            };
            prop_assert_eq!(address.is_group(), group);
            prop_assert_eq!(address.is_link_local_v6(), link_local);
            prop_assert_eq!(address.is_forwardable(), forwardable);
        }
    }
}

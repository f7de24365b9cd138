//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::bytes::{array, be16, put};
use crate::drops::DropReason;
use crate::port::Mac;

mod field {
    pub const HARDWARE: usize = 0;
    pub const OPERATION: usize = 6;
    pub const SENDER_MAC: usize = 8;
    pub const SENDER_IP: usize = 14;
    pub const TARGET_MAC: usize = 18;
    pub const TARGET_IP: usize = 24;
}

/// Bytes of a message.
pub const LEN: usize = 28;

/// Ethernet (1), IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has its address.
    Reply,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Request or reply.
    pub operation: Operation,
    /// Ethernet address of the sender.
    pub sender_mac: Mac,
    /// IPv4 address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Ethernet address of the target; without meaning in a request.
    pub target_mac: Mac,
    /// IPv4 address of the target.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// Parses a message; padding behind it is ignored.
    ///
    /// # Errors
    /// [`DropReason::ArpMalformed`] for other hardware or protocols, other operations, and one that is cut.
    pub fn parse(message: &[u8]) -> Result<Self, DropReason> {
        let message: &[u8; LEN] = message.first_chunk().ok_or(DropReason::ArpMalformed)?;
        if array::<{ field::HARDWARE }, 6, _>(message) != ETHERNET_IPV4 {
            return Err(DropReason::ArpMalformed);
        }
        let operation = match be16::<{ field::OPERATION }, _>(message) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(DropReason::ArpMalformed),
        };
        Ok(Self {
            operation,
            sender_mac: array::<{ field::SENDER_MAC }, 6, _>(message),
            sender_ip: array::<{ field::SENDER_IP }, 4, _>(message).into(),
            target_mac: array::<{ field::TARGET_MAC }, 6, _>(message),
            target_ip: array::<{ field::TARGET_IP }, 4, _>(message).into(),
        })
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8; LEN]) {
        put::<{ field::HARDWARE }, 6, _>(out, ETHERNET_IPV4);
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        put::<{ field::OPERATION }, 2, _>(out, operation.to_be_bytes());
        put::<{ field::SENDER_MAC }, 6, _>(out, self.sender_mac);
        put::<{ field::SENDER_IP }, 4, _>(out, self.sender_ip.octets());
        put::<{ field::TARGET_MAC }, 6, _>(out, self.target_mac);
        put::<{ field::TARGET_IP }, 4, _>(out, self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: [u8; LEN] =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 198, 51, 100, 1, 0, 0, 0, 0, 0, 0, 198, 51, 100, 254];

    #[test]
    fn reads_and_writes_a_request() {
        let repr = Repr::parse(&REQUEST).unwrap();
        assert_eq!(repr.operation, Operation::Request);
        assert_eq!(repr.sender_mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(repr.sender_ip, Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(repr.target_ip, Ipv4Addr::new(198, 51, 100, 254));
        let mut out = [0xaa; LEN];
        repr.emit(&mut out);
        assert_eq!(out, REQUEST);
    }

    #[test]
    fn anything_else_is_malformed() {
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (7, 0)] {
            let mut message = REQUEST;
            message[at] = value;
            assert_eq!(Repr::parse(&message), Err(DropReason::ArpMalformed));
        }
        assert_eq!(Repr::parse(&REQUEST[..27]), Err(DropReason::ArpMalformed));
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_back(mut message: [u8; LEN]) {
            message[..6].copy_from_slice(&ETHERNET_IPV4);
            message[6] = 0;
            message[7] = 1 + message[7] % 2;
            let mut out = [0; LEN];
            Repr::parse(&message).unwrap().emit(&mut out);
            prop_assert_eq!(out, message);
        }

        #[test]
        fn any_bytes_do_not_panic(message in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Repr::parse(&message);
        }
    }
}

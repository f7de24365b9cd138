//! ECN in tunnels (RFC 6040). The ECN field is the lower two bits of the TOS byte or traffic class.

use crate::drops::DropReason;

/// The bits of the ECN field.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, ECT(1).
pub const ECT_1: u8 = 0b01;
/// ECN-capable, ECT(0).
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// How the tunnel ingress sets the outer ECN field (RFC 6040 s4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The inner field is copied.
    Normal,
    /// The outer field is Not-ECT, for a peer that does not carry ECN back.
    Compatibility,
}

/// The bits of the inner TOS byte that the outer ECN field has too; the others are zero (RFC 6040 s4.1).
#[inline]
pub const fn copied(mode: Mode) -> u8 {
    match mode {
        Mode::Normal => MASK,
        Mode::Compatibility => NOT_ECT,
    }
}

/// The TOS byte to forward the inner packet with. Its DSCP stays as it is (RFC 6040 s4.2, figure 4).
///
/// # Errors
/// [`DropReason::EcnInvalid`] when congestion was experienced by a packet whose transport would not understand
/// the mark.
#[inline]
pub const fn decapsulate(inner_tos: u8, outer_tos: u8) -> Result<u8, DropReason> {
    match (inner_tos & MASK, outer_tos & MASK) {
        (NOT_ECT, CE) => Err(DropReason::EcnInvalid),
        (ECT_0 | ECT_1, CE) => Ok(inner_tos | CE),
        (ECT_0, ECT_1) => Ok(inner_tos & !MASK | ECT_1),
        _ => Ok(inner_tos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingress_copies_or_clears() {
        for ecn in 0..4 {
            assert_eq!((0xb8 | ecn) & copied(Mode::Normal), ecn);
            assert_eq!((0xb8 | ecn) & copied(Mode::Compatibility), NOT_ECT);
        }
    }

    #[test]
    fn egress_is_figure_4() {
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for dscp in [0x00, 0xb8, 0xfc] {
                    let expected = expected.map(|ecn| dscp | ecn).ok_or(DropReason::EcnInvalid);
                    assert_eq!(decapsulate(dscp | inner, 0x28 | outer), expected, "{inner} in {outer}");
                }
            }
        }
    }
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A one's complement sum in the making, of up to 256 KiB. Everything but the last piece must have an even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    /// Sum of native-endian words: byte order does not matter until the end (RFC 1071 s2 (B)).
    sum: u64,
}

impl Checksum {
    /// Adds bytes; an odd one at the end is padded with zero.
    #[inline]
    pub fn bytes(self, data: &[u8]) -> Self {
        let (words, rest) = data.as_chunks::<4>();
        let mut sum = self.sum;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut tail = [0; 4];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        Self { sum: sum + u64::from(u32::from_ne_bytes(tail)) }
    }

    /// Adds a 16-bit field.
    #[inline]
    pub fn u16(self, field: u16) -> Self {
        Self { sum: self.sum + u64::from(field.to_be()) }
    }

    /// Adds a 32-bit field.
    #[inline]
    pub fn u32(self, field: u32) -> Self {
        Self { sum: self.sum + u64::from(field.to_be()) }
    }

    /// The checksum to write. Over data that includes a correct checksum it is 0.
    #[inline]
    pub fn finish(self) -> u16 {
        // 2^16 words of 32 bits are less than 2^48. Folded once that is at most 2^32 + 2^16 - 2, twice at most
        // 2^17 - 2, and so less than 2^16 when folded three times.
        let sum = (self.sum >> 32) + (self.sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(!(sum as u16))
    }
}

/// The checksum of `data`, whose checksum field must be zero; or 0 when `data` holds its correct checksum.
#[inline]
pub fn of(data: &[u8]) -> u16 {
    Checksum::default().bytes(data).finish()
}

/// The checksum after a 16-bit word changed from `old` to `new` (RFC 1624 s3, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 s3: 00 01 f2 03 f4 f5 f6 f7 sum to ddf2.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(of(&data), !0xddf2);
        assert_eq!(Checksum::default().u16(1).u16(0xf203).u32(0xf4f5_f6f7).finish(), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // RFC 1624 s4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, where RFC 1141 gave 0xFFFF.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_byte_is_padded_behind() {
        assert_eq!(of(&[0x12]), !0x1200);
        assert_eq!(of(&[0x12, 0x34, 0x56]), !(0x1234 + 0x5600));
        assert_eq!(of(&[]), 0xffff);
    }

    /// Word by word, as RFC 1071 s4.1 has it.
    fn reference(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in data.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn equals_the_reference(data in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(of(&data), reference(&data));
        }

        #[test]
        fn all_ones_do_not_overflow(len in prop_oneof![0usize..70_000, Just(256 << 10)]) {
            let data = vec![0xff; len];
            prop_assert_eq!(of(&data), reference(&data));
        }

        #[test]
        fn an_update_equals_a_full_sum(
            mut data in prop::collection::vec(any::<u8>(), 4..64), word in any::<prop::sample::Index>(), new: u16,
        ) {
            let at = word.index(data.len() / 2) * 2;
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            let before = of(&data);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            // A sum over nothing but zeros is the one case with two representations (RFC 1624 s3).
            prop_assume!(data.iter().any(|&byte| byte != 0));
            prop_assert_eq!(update(before, old, new), of(&data));
        }
    }
}

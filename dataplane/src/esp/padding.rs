//! Padding and trailer (RFC 4303 s2.4 to 2.6).

/// Pad length and next header.
pub(super) const TRAILER_LEN: usize = 2;

/// Bytes of padding that bring `payload` and the trailer to a multiple of `align`, a power of two up to 256.
#[inline]
pub(super) fn pad_len(payload: usize, align: usize) -> usize {
    (payload + TRAILER_LEN).wrapping_neg() & (align - 1)
}

/// The longest payload that fits into `room` bytes with its padding and the trailer.
#[inline]
pub(super) fn capacity(room: usize, align: usize) -> usize {
    (room & !(align - 1)).saturating_sub(TRAILER_LEN)
}

/// Writes padding of `pad` bytes (1, 2, 3, ...), its length and the next header to the start of `end`, which is as long or
/// longer.
#[inline]
pub(super) fn write(end: &mut [u8], pad: usize, next_header: u8) {
    // No loop for what an AEAD pads: one word, and what is too much of it is written again, as ICV.
    if pad <= 4
        && let Some(first) = end.first_chunk_mut::<8>()
    {
        let (trailer, behind) = (u64::from(next_header) << 8 | pad as u64, 8 * pad);
        *first = (0x0403_0201 & ((1 << behind) - 1) | trailer << behind).to_le_bytes();
        return;
    }
    for (byte, value) in end.iter_mut().take(pad).zip(1..=u8::MAX) {
        *byte = value;
    }
    if let Some([length, next, ..]) = end.get_mut(pad..) {
        *length = pad as u8;
        *next = next_header;
    }
}

/// Splits decrypted bytes into the length of the payload and the next header, or `None` when the padding is
/// not 1, 2, 3, ... or does not fit (RFC 4303 s2.4: the receiver should inspect it).
#[inline]
pub(super) fn strip(plaintext: &[u8]) -> Option<(usize, u8)> {
    let (body, &[pad, next_header]) = plaintext.split_last_chunk::<TRAILER_LEN>()?;
    let payload = body.len().checked_sub(usize::from(pad))?;
    if pad < 8
        && let Some(last) = body.last_chunk::<8>()
    {
        // No loop for what an AEAD pads: the last `pad` bytes, in two steps since there may be none.
        let found = u64::from_le_bytes(*last) >> 8 >> (56 - 8 * pad);
        let wanted = 0x0007_0605_0403_0201 & ((1 << (8 * pad)) - 1);
        return (found == wanted).then_some((payload, next_header));
    }
    let padding = body.get(payload..)?;
    padding.iter().zip(1..=u8::MAX).all(|(&byte, value)| byte == value).then_some((payload, next_header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_reaches_the_alignment_and_strips_again() {
        for align in [4, 8, 16] {
            for payload in 0..200 {
                let pad = pad_len(payload, align);
                assert!(pad < align);
                assert_eq!((payload + pad + 2) % align, 0);
                for icv_len in [0, 8, 16] {
                    let end = payload + pad + 2;
                    let mut bytes = vec![0xaa; end + icv_len];
                    write(&mut bytes[payload..], pad, NEXT);
                    assert_eq!(strip(&bytes[..end]), Some((payload, NEXT)));
                }
            }
        }
    }

    #[test]
    fn padding_that_is_wrong_or_too_long_is_refused() {
        assert_eq!(strip(&[]), None);
        assert_eq!(strip(&[4]), None);
        assert_eq!(strip(&[0, 4]), Some((0, 4)));
        assert_eq!(strip(&[1, 4]), None);
        assert_eq!(strip(&[1, 1, 4]), Some((0, 4)));
        assert_eq!(strip(&[2, 1, 4]), None);
        assert_eq!(strip(&[1, 2, 3, 255, 4]), None);
        let mut longest: Vec<u8> = (1..=255).collect();
        longest.extend([255, 4]);
        assert_eq!(strip(&longest), Some((0, 4)));
    }

    const NEXT: u8 = 4;
}

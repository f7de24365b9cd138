//! Fields of fixed headers. An offset that does not fit the header is a compile error.

/// The big-endian 16-bit field at `AT`.
#[inline(always)]
pub(crate) const fn be16<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    const { assert!(AT + 2 <= N) };
    u16::from_be_bytes([header[AT], header[AT + 1]])
}

/// The big-endian 32-bit field at `AT`.
#[inline(always)]
pub(crate) const fn be32<const AT: usize, const N: usize>(header: &[u8; N]) -> u32 {
    const { assert!(AT + 4 <= N) };
    u32::from_be_bytes([header[AT], header[AT + 1], header[AT + 2], header[AT + 3]])
}

/// The `LEN` bytes at `AT`.
#[inline(always)]
pub(crate) fn array<const AT: usize, const LEN: usize, const N: usize>(header: &[u8; N]) -> [u8; LEN] {
    const { assert!(AT + LEN <= N) };
    let mut field = [0; LEN];
    field.copy_from_slice(&header[AT..AT + LEN]);
    field
}

/// Writes `field` at `AT`.
#[inline(always)]
pub(crate) fn put<const AT: usize, const LEN: usize, const N: usize>(header: &mut [u8; N], field: [u8; LEN]) {
    const { assert!(AT + LEN <= N) };
    header[AT..AT + LEN].copy_from_slice(&field);
}

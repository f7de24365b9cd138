//! Key material that wipes itself.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::ZeroizeOnDrop;

/// Secret bytes of any length: zeroised when dropped, never printed, compared in constant time.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Copies the bytes. Wiping the source is the caller's business.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(Box::from(bytes))
    }

    /// `length` zero bytes, to be filled in place through [`Secret::expose_mut`].
    pub fn zeroed(length: usize) -> Self {
        Self(vec![0; length].into_boxed_slice())
    }

    /// The parts one after the other.
    pub fn concat(parts: &[&[u8]]) -> Self {
        let mut joined = Self::zeroed(parts.iter().map(|part| part.len()).sum());
        let mut rest: &mut [u8] = &mut joined.0;
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        joined
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be filled in.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_only_the_length() {
        let secret = Secret::copy_of(b"correct horse");
        assert_eq!(format!("{secret:?}"), "Secret(13 bytes)");
    }

    #[test]
    fn concat_keeps_order() {
        let joined = Secret::concat(&[b"ab", b"", b"c"]);
        assert_eq!(joined.expose(), b"abc");
        assert_eq!(joined, Secret::copy_of(b"abc"));
        assert_ne!(joined, Secret::copy_of(b"abd"));
        assert_ne!(joined, Secret::copy_of(b"ab"));
    }
}

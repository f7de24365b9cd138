//! Crypto engines: whole ESP packets in, whole ESP packets out, a burst at a time.
//!
//! An engine sees an ESP packet in its final layout, `SPI | sequence | IV | ciphertext | ICV`, in one slice.
//! That is what lets a vectorised engine treat header and ciphertext as one stream, and what keeps the nonce
//! and AAD rules (RFC 4106, 4543, 7634, 8750) in one place. Padding and headers are the business of `esp`.

pub mod suite;

pub use suite::Suite;

/// Raw key of one direction of an SA as RFC 4303 users lay it out: encryption key, then salt (AEAD) or
/// integrity key. Zeroised when dropped, never printed.
#[derive(Clone, zeroize::ZeroizeOnDrop)]
pub struct KeyMaterial(Box<[u8]>);

impl KeyMaterial {
    /// Takes over the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into_boxed_slice())
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyMaterial({} bytes)", self.0.len())
    }
}

/// One ESP packet to seal or open.
pub struct Job<'a> {
    /// Key of the SA.
    pub key: &'a Key,
    /// From the SPI to the end of the ICV. To seal: SPI, sequence number and the padded plaintext with its
    /// trailer are in place; the engine writes IV and ICV. To open: as received; the plaintext replaces the
    /// ciphertext when the ICV is good; when it is not, no plaintext is left in the packet.
    pub packet: &'a mut [u8],
    /// The 64-bit sequence number. With ESN its upper half is authenticated though not sent (RFC 4303 s2.2.1).
    pub seq: u64,
    /// Set by the engine: it was sealed, or the ICV was good.
    pub ok: bool,
}

/// An engine's key of one SA direction. Immutable and shared by all workers.
pub struct Key {
    _todo: (),
}

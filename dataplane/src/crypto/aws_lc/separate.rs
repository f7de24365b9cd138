//! ESP with a cipher and an integrity algorithm beside it: encrypt, then MAC (RFC 4303 s3.3.2.1).

use super::cbc::Cbc;
use super::mac::{MAX_ICV_LEN, Mac};
use crate::crypto::engine::{ESP_HEADER_LEN, upper_half};
use crate::crypto::suite::{Encryption, Suite};

/// Key of one SA direction.
pub struct SeparateKey {
    /// `None` for NULL.
    cipher: Option<Cbc>,
    mac: Mac,
    icv_len: usize,
    esn: bool,
}

impl SeparateKey {
    /// `material` is encryption key, then integrity key. `None` when an algorithm refuses its part.
    pub fn new(suite: Suite, esn: bool, material: &[u8]) -> Option<Self> {
        let (cipher_key, mac_key) = material.split_at_checked(suite.encryption_key_len())?;
        let cipher = match suite.encryption()? {
            Encryption::Null => None,
            encryption => Some(Cbc::new(encryption, cipher_key)?),
        };
        Some(Self { cipher, mac: Mac::new(suite.integrity()?, mac_key)?, icv_len: suite.icv_len(), esn })
    }

    /// Seals a packet; false when it is too short or not whole blocks.
    pub fn seal(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(end) = self.end(packet) else { return false };
        if let (Some(cipher), Some(body)) = (&self.cipher, packet.get_mut(ESP_HEADER_LEN..end))
            && !cipher.seal(body, seq)
        {
            return false;
        }
        let Some(data) = self.authenticated(packet, end, seq) else { return false };
        let mut icv = [0; MAX_ICV_LEN];
        let Some(icv) = icv.get_mut(..self.icv_len) else { return false };
        let ok = self.mac.sign(data, icv);
        packet.get_mut(end..).map(|place| place.copy_from_slice(icv)).is_some() && ok
    }

    /// Opens a packet; false when it is too short, not whole blocks, or the ICV is wrong. The cipher runs only
    /// after the ICV verified (RFC 4303 s3.4.4.1), so there is nothing for a padding oracle to tell.
    pub fn open(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(end) = self.end(packet) else { return false };
        let mut icv = [0; MAX_ICV_LEN];
        let (Some(icv), Some(received)) = (icv.get_mut(..self.icv_len), packet.get(end..)) else {
            return false;
        };
        icv.copy_from_slice(received);
        let Some(data) = self.authenticated(packet, end, seq) else { return false };
        let good = self.mac.verify(data, icv);
        let Some(body) = packet.get_mut(ESP_HEADER_LEN..end) else { return false };
        let ok = good && self.cipher.as_ref().is_none_or(|cipher| cipher.open(body));
        if !ok {
            body.fill(0);
        }
        ok
    }

    /// Where the ICV begins; `None` when the packet is too short or its payload is not whole blocks.
    #[inline]
    fn end(&self, packet: &[u8]) -> Option<usize> {
        let end = packet.len().checked_sub(self.icv_len)?;
        let body = end.checked_sub(ESP_HEADER_LEN)?;
        match &self.cipher {
            Some(cipher) if body < cipher.block_len() || body % cipher.block_len() != 0 => None,
            _ => Some(end),
        }
    }

    /// What is authenticated: all before the ICV and, with ESN, the upper half of the sequence number behind it
    /// (RFC 4303 s2.2.1). That is written where the ICV is or will be, which is longer, so it is one piece.
    #[inline]
    fn authenticated<'p>(&self, packet: &'p mut [u8], end: usize, seq: u64) -> Option<&'p [u8]> {
        if !self.esn {
            return packet.get(..end);
        }
        let upper = upper_half(seq);
        packet.get_mut(end..end + upper.len())?.copy_from_slice(&upper);
        packet.get(..end + upper.len())
    }
}

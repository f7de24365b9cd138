//! AH (RFC 4302): the ICV of a whole IP packet.

use super::gmac::{self, GmacKey};
use super::mac::{MAX_ICV_LEN, Mac};
use crate::crypto::AhJob;
use crate::crypto::engine::upper_half;
use crate::crypto::suite::{Integrity, Suite};

/// Key of one SA direction.
pub struct AhKey {
    algorithm: Algorithm,
    icv_len: usize,
    esn: bool,
}

enum Algorithm {
    Mac(Mac),
    Gmac(GmacKey),
}

impl AhKey {
    /// `None` when the algorithm refuses the key, or the suite is of ESP.
    pub fn new(suite: Suite, esn: bool, material: &[u8]) -> Option<Self> {
        let algorithm = match suite.integrity()? {
            Integrity::AesGmac(key) => Algorithm::Gmac(GmacKey::new(key, esn, material)?),
            integrity => Algorithm::Mac(Mac::new(integrity, material)?),
        };
        Some(Self { algorithm, icv_len: suite.icv_len(), esn })
    }

    /// Writes the ICV, and GMAC's IV; false when they have no room in the packet.
    pub fn seal(&self, job: &mut AhJob<'_>) -> bool {
        let Some(icv_at) = self.icv_at(job) else { return false };
        self.put_upper_half(job);
        let Some(icv) = job.packet.get_mut(icv_at..icv_at + self.icv_len) else { return false };
        icv.fill(0);
        let mut icv = [0; MAX_ICV_LEN];
        let Some(icv) = icv.get_mut(..self.icv_len) else { return false };
        let ok = match &self.algorithm {
            Algorithm::Mac(mac) => mac.sign(job.packet, icv),
            Algorithm::Gmac(key) => {
                let iv = job.seq.to_be_bytes();
                let Some(place) = job.packet.get_mut(job.icv_at..icv_at) else { return false };
                place.copy_from_slice(&iv);
                key.sign(iv, job.packet).map(|tag| icv.copy_from_slice(&tag)).is_some()
            }
        };
        if let Some(place) = job.packet.get_mut(icv_at..icv_at + self.icv_len) {
            place.copy_from_slice(icv);
        }
        ok
    }

    /// Whether the ICV is right; false when it does not fit the packet. Leaves it in place.
    pub fn open(&self, job: &mut AhJob<'_>) -> bool {
        let Some(icv_at) = self.icv_at(job) else { return false };
        self.put_upper_half(job);
        let mut icv = [0; MAX_ICV_LEN];
        let Some(icv) = icv.get_mut(..self.icv_len) else { return false };
        let Some(received) = job.packet.get_mut(icv_at..icv_at + self.icv_len) else { return false };
        icv.copy_from_slice(received);
        received.fill(0);
        let ok = match &self.algorithm {
            Algorithm::Mac(mac) => mac.verify(job.packet, icv),
            Algorithm::Gmac(key) => {
                match job.packet.get(job.icv_at..icv_at).map(<[u8; gmac::IV_LEN]>::try_from) {
                    Some(Ok(iv)) => key.verify(iv, job.packet, icv),
                    _ => false,
                }
            }
        };
        if let Some(place) = job.packet.get_mut(icv_at..icv_at + self.icv_len) {
            place.copy_from_slice(icv);
        }
        ok
    }

    /// Where the ICV proper begins: behind GMAC's IV (RFC 4543 s4). `None` when it does not fit.
    fn icv_at(&self, job: &AhJob<'_>) -> Option<usize> {
        let iv_len = if matches!(self.algorithm, Algorithm::Gmac(_)) { gmac::IV_LEN } else { 0 };
        let icv_at = job.icv_at.checked_add(iv_len)?;
        let upper_len = if self.esn { 4 } else { 0 };
        (icv_at.checked_add(self.icv_len)? <= job.packet.len().checked_sub(upper_len)?).then_some(icv_at)
    }

    /// With ESN the upper half of the sequence number is authenticated behind the payload (RFC 4302 s2.5.1).
    fn put_upper_half(&self, job: &mut AhJob<'_>) {
        if let (true, Some(place)) = (self.esn, job.packet.last_chunk_mut()) {
            *place = upper_half(job.seq);
        }
    }
}

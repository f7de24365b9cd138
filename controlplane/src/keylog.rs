//! Keys in the form in which Wireshark reads them, for whoever must see what two gateways say to each other. Off
//! unless the configuration names a file: whoever reads it reads the traffic.

use std::fmt::Write;
use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::crypto::{Encr, IkeSuite, Integ, Secret};
use crate::update::ChildInstall;
use crate::wire::{EncrId, IntegId, ProtocolId};

/// Keys of the SK payload of an IKE SA.
#[derive(Clone, Debug)]
pub struct IkeKeyLog {
    /// SPIs of the original initiator and responder.
    pub spis: (u64, u64),
    /// Algorithms.
    pub suite: IkeSuite,
    /// SK_ei and SK_ai.
    pub initiator: (Secret, Secret),
    /// SK_er and SK_ar.
    pub responder: (Secret, Secret),
}

impl IkeKeyLog {
    /// A line of Wireshark's `ikev2_decryption_table`; `None` for an algorithm that it does not know.
    pub fn line(&self) -> Option<Zeroizing<String>> {
        let (encr, integ) = (ike_encr(self.suite.encr)?, ike_integ(self.suite.integ)?);
        let (spi_i, spi_r) = self.spis;
        let mut line = Zeroizing::new(String::with_capacity(1024));
        let ((ei, ai), (er, ar)) = (&self.initiator, &self.responder);
        // Writing to a string does not fail.
        let _ = write!(line, "{spi_i:016x},{spi_r:016x},{},{},\"{encr}\",", *hex(ei), *hex(er));
        let _ = write!(line, "{},{},\"{integ}\"", *hex(ai), *hex(ar));
        Some(line)
    }
}

/// A line of Wireshark's `esp_sa` for one direction of a Child SA: outbound, or inbound. `None` for AH, which hides
/// nothing, and for an algorithm that it does not know.
pub fn esp_line(install: &ChildInstall, outbound: bool) -> Option<Zeroizing<String>> {
    if install.suite.protocol != ProtocolId::ESP {
        return None;
    }
    let (encr, integ) = (esp_encr(install.suite.encr?.0)?, esp_integ(install.suite.integ)?);
    let ends = (install.endpoints.local, install.endpoints.remote);
    let (from, to) = if outbound { ends } else { (ends.1, ends.0) };
    let family = if matches!(from, IpAddr::V4(_)) { "IPv4" } else { "IPv6" };
    let key = |secret: &Secret| {
        Zeroizing::new(match secret.is_empty() {
            true => String::new(),
            false => format!("0x{}", *hex(secret)),
        })
    };
    let mut line = Zeroizing::new(String::with_capacity(512));
    let spi = install.spi;
    let (encr_key, integ_key) = (key(&install.keys.encr), key(&install.keys.integ));
    let _ = write!(line, "\"{family}\",\"{from}\",\"{to}\",\"{spi:#010x}\",\"{encr}\",\"{}\",", *encr_key);
    let _ = write!(line, "\"{integ}\",\"{}\"", *integ_key);
    Some(line)
}

fn hex(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(data_encoding::HEXLOWER.encode(secret.expose()))
}

fn ike_encr(encr: Encr) -> Option<String> {
    let (_, bits) = encr.iana();
    let bits = bits.unwrap_or_default();
    Some(match encr {
        Encr::TripleDes => "3DES [RFC2451]".to_owned(),
        Encr::AesCbc(_) => format!("AES-CBC-{bits} [RFC3602]"),
        Encr::AesCtr(_) => format!("AES-CTR-{bits} [RFC5930]"),
        Encr::AesGcm8(_) => format!("AES-GCM-{bits} with 8 octet ICV [RFC5282]"),
        Encr::AesGcm12(_) => format!("AES-GCM-{bits} with 12 octet ICV [RFC5282]"),
        Encr::AesGcm16(_) => format!("AES-GCM-{bits} with 16 octet ICV [RFC5282]"),
        Encr::ChaCha20Poly1305 => return None,
    })
}

fn ike_integ(integ: Option<Integ>) -> Option<&'static str> {
    Some(match integ {
        None => "NONE [RFC4306]",
        Some(Integ::HmacSha1_96) => "HMAC_SHA1_96 [RFC2404]",
        Some(Integ::HmacSha256_128) => "HMAC_SHA2_256_128 [RFC4868]",
        Some(Integ::HmacSha384_192) => "HMAC_SHA2_384_192 [RFC4868]",
        Some(Integ::HmacSha512_256) => "HMAC_SHA2_512_256 [RFC4868]",
        Some(Integ::AesCmac96) => return None,
    })
}

fn esp_encr(id: EncrId) -> Option<&'static str> {
    Some(match id {
        EncrId::AES_GCM_16 => "AES-GCM with 16 octet ICV [RFC4106]",
        EncrId::AES_GCM_12 => "AES-GCM with 12 octet ICV [RFC4106]",
        EncrId::AES_GCM_8 => "AES-GCM with 8 octet ICV [RFC4106]",
        EncrId::AES_CBC => "AES-CBC [RFC3602]",
        EncrId::TRIPLE_DES => "TripleDES-CBC [RFC2451]",
        EncrId::NULL => "NULL",
        _ => return None,
    })
}

fn esp_integ(id: Option<IntegId>) -> Option<&'static str> {
    Some(match id {
        None | Some(IntegId::NONE) => "NULL",
        Some(IntegId::HMAC_SHA1_96) => "HMAC-SHA-1-96 [RFC2404]",
        Some(IntegId::HMAC_SHA2_256_128) => "HMAC-SHA-256-128 [RFC4868]",
        Some(IntegId::HMAC_SHA2_384_192) => "HMAC-SHA-384-192 [RFC4868]",
        Some(IntegId::HMAC_SHA2_512_256) => "HMAC-SHA-512-256 [RFC4868]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{AesKey, Prf};

    #[test]
    fn a_line_has_the_columns_of_wireshark() {
        let secret = |byte, len| Secret::copy_of(&vec![byte; len]);
        let suite = IkeSuite {
            encr: Encr::AesCbc(AesKey::Aes128),
            integ: Some(Integ::HmacSha256_128),
            prf: Prf::HmacSha256,
        };
        let keys = IkeKeyLog {
            spis: (1, 0xabcd),
            suite,
            initiator: (secret(0x11, 2), secret(0x33, 2)),
            responder: (secret(0x22, 2), secret(0x44, 2)),
        };
        assert_eq!(
            keys.line().unwrap().as_str(),
            "0000000000000001,000000000000abcd,1111,2222,\"AES-CBC-128 [RFC3602]\",3333,4444,\"HMAC_SHA2_256_128 [RFC4868]\""
        );
        let suite = IkeSuite { encr: Encr::AesGcm16(AesKey::Aes256), integ: None, ..suite };
        let none = secret(0, 0);
        let keys = IkeKeyLog {
            suite,
            initiator: (secret(1, 1), none.clone()),
            responder: (secret(2, 1), none),
            ..keys
        };
        assert_eq!(
            keys.line().unwrap().as_str(),
            "0000000000000001,000000000000abcd,01,02,\"AES-GCM-256 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\""
        );
    }
}

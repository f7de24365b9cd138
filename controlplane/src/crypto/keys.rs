//! The key schedule: SKEYSEED, the seven SK_ keys, and keying material of Child SAs.

use zeroize::ZeroizeOnDrop;

use super::{CryptoError, Encr, Integ, Prf, Secret};

/// What was negotiated to protect an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeSuite {
    /// Encryption of the SK payload.
    pub encr: Encr,
    /// Integrity of the SK payload; `None` exactly when `encr` is an AEAD.
    pub integ: Option<Integ>,
    /// The pseudorandom function.
    pub prf: Prf,
}

/// The inputs of a key derivation that both ends see on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Contents of the initiator's Nonce payload.
    pub ni: &'a [u8],
    /// Contents of the responder's Nonce payload.
    pub nr: &'a [u8],
    /// The initiator's IKE SPI.
    pub spi_i: u64,
    /// The responder's IKE SPI.
    pub spi_r: u64,
}

/// The seven keys of an IKE SA (RFC 7296 s2.14). `i` keys protect what the original initiator sends.
#[derive(Clone, ZeroizeOnDrop)]
pub struct IkeKeys {
    /// Seed of further keys.
    pub d: Secret,
    /// Integrity key, initiator's messages; empty with an AEAD.
    pub ai: Secret,
    /// Integrity key, responder's messages; empty with an AEAD.
    pub ar: Secret,
    /// Encryption key and salt, initiator's messages.
    pub ei: Secret,
    /// Encryption key and salt, responder's messages.
    pub er: Secret,
    /// Key of the initiator's AUTH payload.
    pub pi: Secret,
    /// Key of the responder's AUTH payload.
    pub pr: Secret,
}

/// SKEYSEED of IKE_SA_INIT: `prf(Ni | Nr, g^ir)` (RFC 7296 s2.14).
pub fn skeyseed(prf: Prf, exchange: &Exchange<'_>, shared: &Secret) -> Result<Secret, CryptoError> {
    let (ni, nr) = if prf.takes_half_nonces() {
        (half(exchange.ni), half(exchange.nr))
    } else {
        (exchange.ni, exchange.nr)
    };
    let key = Secret::concat(&[ni, nr]);
    prf.compute(key.expose(), &[shared.expose()])
}

/// SKEYSEED after additional key exchange `n` in IKE_INTERMEDIATE: `prf(SK_d(n-1), SK(n) | Ni | Nr)`
/// (RFC 9370 s2.2.2).
pub fn skeyseed_intermediate(
    prf: Prf,
    sk_d: &Secret,
    shared: &Secret,
    exchange: &Exchange<'_>,
) -> Result<Secret, CryptoError> {
    prf.compute(sk_d.expose(), &[shared.expose(), exchange.ni, exchange.nr])
}

/// SKEYSEED of a rekeyed IKE SA: `prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | ...)` (RFC 7296 s2.18, and RFC 9370
/// s2.2.4 for the additional key exchanges). `old_prf` is the PRF of the old SA.
pub fn skeyseed_rekey(
    old_prf: Prf,
    old_sk_d: &Secret,
    shared: &Secret,
    additional: &[Secret],
    exchange: &Exchange<'_>,
) -> Result<Secret, CryptoError> {
    let mut parts = vec![shared.expose(), exchange.ni, exchange.nr];
    parts.extend(additional.iter().map(Secret::expose));
    old_prf.compute(old_sk_d.expose(), &parts)
}

/// KEYMAT of a Child SA: `prf+(SK_d, [SK(0) |] Ni | Nr [| SK(1) | ...])` (RFC 7296 s2.17, RFC 9370 s2.2.4).
///
/// The nonces are those of the CREATE_CHILD_SA, or of IKE_SA_INIT for the first Child SA. `shared` is the
/// secret of the exchange's own key exchange, if it had one. `length` is what [`ChildKeys::split`] takes.
pub fn child_keymat(
    prf: Prf,
    sk_d: &Secret,
    shared: Option<&Secret>,
    additional: &[Secret],
    ni: &[u8],
    nr: &[u8],
    length: usize,
) -> Result<Secret, CryptoError> {
    let mut seed = Vec::with_capacity(3 + additional.len());
    seed.extend(shared.map(Secret::expose));
    seed.extend([ni, nr]);
    seed.extend(additional.iter().map(Secret::expose));
    prf.key(sk_d.expose())?.plus(&seed, length)
}

impl IkeKeys {
    /// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)`
    /// (RFC 7296 s2.14).
    pub fn derive(suite: &IkeSuite, skeyseed: &Secret, exchange: &Exchange<'_>) -> Result<Self, CryptoError> {
        let p = suite.prf.output_len();
        let a = suite.integ.map_or(0, Integ::key_len);
        let e = suite.encr.key_len() + suite.encr.salt_len();
        let (spi_i, spi_r) = (exchange.spi_i.to_be_bytes(), exchange.spi_r.to_be_bytes());
        let seed: [&[u8]; 4] = [exchange.ni, exchange.nr, &spi_i, &spi_r];
        let stream = suite.prf.key(skeyseed.expose())?.plus(&seed, 3 * p + 2 * a + 2 * e)?;
        let mut rest = stream.expose();
        let mut take = |length: usize| {
            let (head, tail) = rest.split_at(length);
            rest = tail;
            Secret::copy_of(head)
        };
        Ok(Self { d: take(p), ai: take(a), ar: take(a), ei: take(e), er: take(e), pi: take(p), pr: take(p) })
    }

    /// Mixes a post-quantum preshared key into SK_d, SK_pi and SK_pr: each becomes `prf+(PPK, old)`
    /// (RFC 8784 s3). The keys of the IKE SA's own messages stay as they are.
    pub fn mix_ppk(&mut self, prf: Prf, ppk: &Secret) -> Result<(), CryptoError> {
        let key = prf.key(ppk.expose())?;
        let length = prf.output_len();
        let (d, pi, pr) = (
            key.plus(&[self.d.expose()], length)?,
            key.plus(&[self.pi.expose()], length)?,
            key.plus(&[self.pr.expose()], length)?,
        );
        (self.d, self.pi, self.pr) = (d, pi, pr);
        Ok(())
    }
}

/// Keying material of a Child SA, cut up. What the initiator sends comes first, and within a direction the
/// encryption key (with salt) before the integrity key (RFC 7296 s2.17).
pub struct ChildKeys {
    /// Encryption key and salt of the initiator-to-responder SA.
    pub encr_i: Secret,
    /// Integrity key of the initiator-to-responder SA; empty with an AEAD.
    pub integ_i: Secret,
    /// Encryption key and salt of the responder-to-initiator SA.
    pub encr_r: Secret,
    /// Integrity key of the responder-to-initiator SA; empty with an AEAD.
    pub integ_r: Secret,
}

impl ChildKeys {
    /// Bytes of KEYMAT that [`ChildKeys::split`] takes.
    pub const fn keymat_len(encr_len: usize, integ_len: usize) -> usize {
        2 * (encr_len + integ_len)
    }

    /// Cuts `keymat`, or `None` when its length is not [`ChildKeys::keymat_len`].
    pub fn split(keymat: &Secret, encr_len: usize, integ_len: usize) -> Option<Self> {
        if keymat.len() != Self::keymat_len(encr_len, integ_len) {
            return None;
        }
        let (initiator, responder) = keymat.expose().split_at(encr_len + integ_len);
        let (encr_i, integ_i) = initiator.split_at(encr_len);
        let (encr_r, integ_r) = responder.split_at(encr_len);
        Some(Self {
            encr_i: Secret::copy_of(encr_i),
            integ_i: Secret::copy_of(integ_i),
            encr_r: Secret::copy_of(encr_r),
            integ_r: Secret::copy_of(integ_r),
        })
    }
}

/// The first 64 bits of a nonce.
fn half(nonce: &[u8]) -> &[u8] {
    nonce.get(..8).unwrap_or(nonce)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::crypto::AesKey;

    const GCM: IkeSuite =
        IkeSuite { encr: Encr::AesGcm16(AesKey::Aes256), integ: None, prf: Prf::HmacSha384 };
    const CBC: IkeSuite = IkeSuite {
        encr: Encr::AesCbc(AesKey::Aes128),
        integ: Some(Integ::HmacSha256_128),
        prf: Prf::HmacSha256,
    };

    fn exchange<'a>() -> Exchange<'a> {
        Exchange { ni: &[1; 32], nr: &[2; 24], spi_i: 0x0102_0304_0506_0708, spi_r: 0x1112_1314_1516_1718 }
    }

    /// NIST CAVP, IKEv2 key derivation (SP 800-135 s4.1.2) with HMAC-SHA1. The 132 octets of keying material are
    /// those of AES-128-CBC with HMAC-SHA1.
    #[test]
    fn cavp_ikev2_kdf() {
        let exchange = Exchange {
            ni: &hex!("32b50d5f4a3763f3"),
            nr: &hex!("9206a04b26564cb1"),
            spi_i: 0x34c9_e7c1_8886_8785,
            spi_r: 0x3ff7_7d76_0d2b_2199,
        };
        let shared = hex!("4b2c1f971981a8ad8d0abeafabf38cf75fc8349c148142465ed9c8b516b8be52");
        let shared_new = hex!("863f3c9d06efd39d2b907b97f8699e5dd5251ef64a2a176f36ee40c87d4f9330");
        let prf = Prf::HmacSha1;
        let seed = skeyseed(prf, &exchange, &Secret::copy_of(&shared)).unwrap();
        assert_eq!(seed.expose(), hex!("a9a7b222b59f8f48645f28a1db5b5f5d7479cba7"));
        let suite = IkeSuite { encr: Encr::AesCbc(AesKey::Aes128), integ: Some(Integ::HmacSha1_96), prf };
        let keys = IkeKeys::derive(&suite, &seed, &exchange).unwrap();
        let material = hex!(
            "a14293677cc80ff8f9cc0eee30d895da9d8f405666e30ef0dfcb63c634a46002"
            "a2a63080e514a062768b76606f9fa5e992204fc5a670bde3f10d6b027113936a"
            "5c55b648a194ae587b0088d52204b702c979fa280870d2ed41efa9c549fd1119"
            "8af1670b143d384bd275c5f594cf266b05ebadca855e4249520a441a81157435a7a56cc4"
        );
        let parts = [&keys.d, &keys.ai, &keys.ar, &keys.ei, &keys.er, &keys.pi, &keys.pr];
        assert_eq!(parts.map(Secret::expose).concat(), material);
        let rekeyed = skeyseed_rekey(prf, &keys.d, &Secret::copy_of(&shared_new), &[], &exchange).unwrap();
        assert_eq!(rekeyed.expose(), hex!("63e81194946ebd05df7df5ebf5d8750056bf1f1d"));
    }

    #[test]
    fn lengths_follow_the_suite() {
        let seed = Secret::copy_of(&[9; 48]);
        let keys = IkeKeys::derive(&GCM, &seed, &exchange()).unwrap();
        assert_eq!([keys.d.len(), keys.ai.len(), keys.ar.len()], [48, 0, 0]);
        assert_eq!([keys.ei.len(), keys.er.len(), keys.pi.len(), keys.pr.len()], [36, 36, 48, 48]);
        let keys = IkeKeys::derive(&CBC, &seed, &exchange()).unwrap();
        assert_eq!([keys.d.len(), keys.ai.len(), keys.ei.len(), keys.pr.len()], [32, 32, 16, 32]);
    }

    #[test]
    fn keys_lie_in_the_order_of_the_rfc() {
        let seed = Secret::copy_of(&[9; 32]);
        let keys = IkeKeys::derive(&CBC, &seed, &exchange()).unwrap();
        let mut wire = vec![1; 32];
        wire.extend([2; 24]);
        wire.extend(0x0102_0304_0506_0708u64.to_be_bytes());
        wire.extend(0x1112_1314_1516_1718u64.to_be_bytes());
        let stream = Prf::HmacSha256.key(seed.expose()).unwrap().plus(&[&wire], 192).unwrap();
        let joined = Secret::concat(&[
            keys.d.expose(),
            keys.ai.expose(),
            keys.ar.expose(),
            keys.ei.expose(),
            keys.er.expose(),
            keys.pi.expose(),
            keys.pr.expose(),
        ]);
        assert_eq!(joined, stream);
    }

    #[test]
    fn cmac_is_keyed_with_64_bits_of_each_nonce() {
        let shared = Secret::copy_of(&[7; 32]);
        let full = skeyseed(Prf::Aes128Cmac, &exchange(), &shared).unwrap();
        let cut = Exchange { ni: &[1; 8], nr: &[2; 8], ..exchange() };
        assert_eq!(full, skeyseed(Prf::Aes128Cmac, &cut, &shared).unwrap());
        assert_ne!(
            skeyseed(Prf::HmacSha256, &exchange(), &shared).unwrap(),
            skeyseed(Prf::HmacSha256, &cut, &shared).unwrap()
        );
    }

    #[test]
    fn rekey_appends_additional_secrets_after_the_nonces() {
        let old = Secret::copy_of(&[5; 32]);
        let (first, second) = (Secret::copy_of(b"first"), Secret::copy_of(b"second"));
        let seed = skeyseed_rekey(Prf::HmacSha256, &old, &first, std::slice::from_ref(&second), &exchange())
            .unwrap();
        let expected =
            Prf::HmacSha256.compute(old.expose(), &[b"first", &[1; 32], &[2; 24], b"second"]).unwrap();
        assert_eq!(seed, expected);
        let seed = skeyseed_intermediate(Prf::HmacSha256, &old, &second, &exchange()).unwrap();
        assert_eq!(seed, Prf::HmacSha256.compute(old.expose(), &[b"second", &[1; 32], &[2; 24]]).unwrap());
    }

    #[test]
    fn child_keymat_has_secrets_around_the_nonces() {
        let d = Secret::copy_of(&[5; 32]);
        let (dh, kem) = (Secret::copy_of(b"dh"), Secret::copy_of(b"kem"));
        let key = Prf::HmacSha256.key(d.expose()).unwrap();
        let plain = child_keymat(Prf::HmacSha256, &d, None, &[], b"ni", b"nr", 72).unwrap();
        assert_eq!(plain, key.plus(&[b"ninr"], 72).unwrap());
        let pfs = child_keymat(Prf::HmacSha256, &d, Some(&dh), &[kem], b"ni", b"nr", 72).unwrap();
        assert_eq!(pfs, key.plus(&[b"dhninrkem"], 72).unwrap());
    }

    #[test]
    fn child_keys_come_initiator_first() {
        let keymat = Secret::copy_of(&(0..104).collect::<Vec<u8>>());
        let keys = ChildKeys::split(&keymat, 20, 32).unwrap();
        assert_eq!(keys.encr_i.expose()[0], 0);
        assert_eq!(keys.integ_i.expose()[0], 20);
        assert_eq!(keys.encr_r.expose()[0], 52);
        assert_eq!(keys.integ_r.expose()[0], 72);
        assert!(ChildKeys::split(&keymat, 20, 31).is_none());
    }

    #[test]
    fn ppk_changes_d_and_p_keys_only() {
        let seed = Secret::copy_of(&[9; 48]);
        let before = IkeKeys::derive(&GCM, &seed, &exchange()).unwrap();
        let mut after = before.clone();
        let ppk = Secret::copy_of(b"a post-quantum preshared key of some length");
        after.mix_ppk(GCM.prf, &ppk).unwrap();
        let expected = GCM.prf.key(ppk.expose()).unwrap().plus(&[before.d.expose()], 48).unwrap();
        assert_eq!(after.d, expected);
        assert_ne!(after.pi, before.pi);
        assert_ne!(after.pr, before.pr);
        assert_eq!(after.ei, before.ei);
        assert_eq!(after.er, before.er);
    }
}

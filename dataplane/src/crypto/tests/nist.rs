//! NIST's vectors as ESP packets, through any engine: AES-GCM of CAVP and of the proposal, AES-CBC of CAVP and SP 800-38A.
//!
//! None of the AES-GCM vectors has AAD of ESP's shape. A tag is `GHASH(AAD, ciphertext) + E(J0)` (SP 800-38D s7.1), so the tag
//! for other AAD follows from two hashes, which are worked out here bit by bit as the standard writes it. So each engine is
//! held to the published tag, and not only to the ciphertext.

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;

use super::*;
use crate::crypto::engine::aead_aad;

/// An AES-GCM vector.
struct Gcm {
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    /// `None` when the tag is wrong.
    plaintext: Option<Vec<u8>>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

/// An AES-CBC vector.
pub struct Cbc {
    pub key: Vec<u8>,
    pub iv: [u8; 16],
    pub plaintext: Vec<u8>,
    pub ciphertext: Vec<u8>,
}

/// The words of each line that is no comment.
fn lines<const WORDS: usize>(text: &str) -> impl Iterator<Item = [&str; WORDS]> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').collect::<Vec<_>>().try_into().unwrap())
}

fn gcm() -> Vec<Gcm> {
    let bytes = |word| if word == "-" { Vec::new() } else { unhex(word).unwrap() };
    let all: Vec<_> = lines(include_str!("../vectors/nist_gcm.txt"))
        .map(|[key, nonce, aad, plaintext, ciphertext, tag]| Gcm {
            key: bytes(key),
            nonce: bytes(nonce).try_into().unwrap(),
            aad: bytes(aad),
            plaintext: (plaintext != "FAIL").then(|| bytes(plaintext)),
            ciphertext: bytes(ciphertext),
            tag: bytes(tag),
        })
        .collect();
    assert_eq!((all.len(), all.iter().filter(|vector| vector.plaintext.is_none()).count()), (177, 45));
    all
}

/// All AES-CBC vectors.
pub fn cbc() -> Vec<Cbc> {
    let all: Vec<_> = lines(include_str!("../vectors/nist_cbc.txt"))
        .map(|words| words.map(|word| unhex(word).unwrap()))
        .map(|[key, iv, plaintext, ciphertext]| Cbc {
            key,
            iv: iv.try_into().unwrap(),
            plaintext,
            ciphertext,
        })
        .collect();
    assert_eq!(all.len(), 33);
    all
}

/// Where the AAD is put; the sequence number comes from the IV.
const HEADER: [u8; ESP_HEADER_LEN] = *b"SPI.seq.";

/// Opens every AES-GCM vector and seals those that are good, with and without ESN, one by one and all in one burst.
pub fn check_gcm<E: Engine>(engine: &E) {
    let vectors = gcm();
    let packets: Vec<_> = vectors
        .iter()
        .flat_map(|vector| [false, true].map(|esn| (vector, esn)))
        .map(|(vector, esn)| vector.packet(engine, esn))
        .collect();
    let good: Vec<_> = packets.iter().filter(|packet| packet.plaintext.is_some()).collect();
    for size in [1, packets.len()] {
        for burst in packets.chunks(size) {
            open_burst(engine, burst);
        }
        for burst in good.chunks(size) {
            seal_burst(engine, burst);
        }
    }
}

/// What an engine has to make of a vector.
struct Packet {
    key: Key,
    seq: u64,
    plaintext: Option<Vec<u8>>,
    sealed: Vec<u8>,
}

fn open_burst<E: Engine>(engine: &E, packets: &[Packet]) {
    let mut bytes: Vec<_> = packets.iter().map(|packet| packet.sealed.clone()).collect();
    let mut jobs: Vec<_> = packets
        .iter()
        .zip(&mut bytes)
        .map(|(Packet { key, seq, .. }, packet)| Job { key, packet, seq: *seq, ok: false })
        .collect();
    engine.open(&mut jobs);
    let ok: Vec<_> = jobs.iter().map(|job| job.ok).collect();
    for ((packet, bytes), ok) in packets.iter().zip(&bytes).zip(ok) {
        assert_eq!(ok, packet.plaintext.is_some(), "{:02x?}", packet.sealed);
        if let Some(plaintext) = &packet.plaintext {
            assert_eq!(payload(&packet.key, bytes), plaintext);
        }
    }
}

fn seal_burst<E: Engine>(engine: &E, packets: &[&Packet]) {
    let plain = |packet: &&Packet| unsealed(&packet.key, HEADER, packet.plaintext.as_ref().unwrap());
    let mut bytes: Vec<_> = packets.iter().map(plain).collect();
    let mut jobs: Vec<_> = packets
        .iter()
        .zip(&mut bytes)
        .map(|(Packet { key, seq, .. }, packet)| Job { key, packet, seq: *seq, ok: false })
        .collect();
    engine.seal(&mut jobs);
    assert!(jobs.iter().all(|job| job.ok));
    for (packet, bytes) in packets.iter().zip(&bytes) {
        assert_eq!(*bytes, packet.sealed);
    }
}

impl Gcm {
    fn packet<E: Engine>(&self, engine: &E, esn: bool) -> Packet {
        let (salt, iv) = self.nonce.split_at(4);
        let seq = u64::from_be_bytes(iv.try_into().unwrap());
        let suite = format!("aes{}gcm{}", self.key.len() * 8, self.tag.len()).parse().unwrap();
        let material = KeyMaterial::new([&self.key, salt].concat());
        let key = Key::with_engine(engine, suite, esn, &material).unwrap();
        let (aad, aad_len) = aead_aad(HEADER, seq, esn);
        let icv = self.tag_for(&aad[..aad_len]);
        let sealed = [&HEADER, iv, &self.ciphertext, &icv].concat();
        Packet { key, seq, plaintext: self.plaintext.clone(), sealed }
    }

    /// The tag moved to other AAD; a wrong one stays as wrong.
    fn tag_for(&self, aad: &[u8]) -> Vec<u8> {
        let h = u128::from_be_bytes(block_cipher(&self.key));
        let change = ghash(h, &self.aad, &self.ciphertext) ^ ghash(h, aad, &self.ciphertext);
        self.tag.iter().zip(change.to_be_bytes()).map(|(byte, change)| byte ^ change).collect()
    }

    /// Ciphertext, or plaintext, and a tag for it, by aws-lc-rs's own AEAD.
    fn judge(&self, text: &[u8]) -> (Vec<u8>, [u8; 16]) {
        let algorithm = match self.key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            _ => &AES_256_GCM,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &self.key).unwrap());
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let mut text = text.to_vec();
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&self.aad), &mut text).unwrap();
        (text, tag.as_ref().try_into().unwrap())
    }
}

/// AES of a block of zeros: the hash key.
fn block_cipher(key: &[u8]) -> [u8; 16] {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let key = EncryptingKey::ecb(UnboundCipherKey::new(algorithm, key).unwrap()).unwrap();
    let mut block = [0; 16];
    key.less_safe_encrypt(&mut block, EncryptionContext::None).unwrap();
    block
}

/// SP 800-38D s6.4, of AAD and ciphertext with their padding and lengths as in s7.1.
fn ghash(h: u128, aad: &[u8], ciphertext: &[u8]) -> u128 {
    let lengths = ((aad.len() as u128 * 8) << 64) | (ciphertext.len() as u128 * 8);
    let blocks = aad.chunks(16).chain(ciphertext.chunks(16)).map(|bytes| {
        let mut block = [0; 16];
        block[..bytes.len()].copy_from_slice(bytes);
        u128::from_be_bytes(block)
    });
    blocks.chain([lengths]).fold(0, |sum, block| multiply(sum ^ block, h))
}

/// SP 800-38D s6.3.
fn multiply(x: u128, y: u128) -> u128 {
    let (mut z, mut v) = (0, y);
    for bit in (0..128).rev() {
        if (x >> bit) & 1 == 1 {
            z ^= v;
        }
        v = if v & 1 == 1 { (v >> 1) ^ (0xe1 << 120) } else { v >> 1 };
    }
    z
}

/// The vectors as they are, so that an error of the file shows, or of the hash above.
#[test]
fn the_gcm_vectors_are_right() {
    for vector in gcm() {
        // Counter mode is its own inverse.
        let (plaintext, _) = vector.judge(&vector.ciphertext);
        let (ciphertext, tag) = vector.judge(&plaintext);
        assert_eq!(ciphertext, vector.ciphertext);
        assert_eq!(tag.starts_with(&vector.tag), vector.plaintext.is_some(), "{:02x?}", vector.tag);
        assert_eq!(vector.plaintext.as_ref().unwrap_or(&plaintext), &plaintext);
    }
}

/// Opens every AES-CBC vector as a packet with HMAC-SHA-256, in one burst: its IV is the sender's choice.
pub fn check_cbc<E: Engine>(engine: &E) {
    let mac_key = [0x0b; 32];
    let packets: Vec<_> = cbc()
        .into_iter()
        .map(|vector| {
            let suite = format!("aes{}-sha256", vector.key.len() * 8).parse().unwrap();
            let material = KeyMaterial::new([&vector.key[..], &mac_key].concat());
            let key = Key::with_engine(engine, suite, false, &material).unwrap();
            let sealed = [&HEADER[..], &vector.iv, &vector.ciphertext].concat();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &mac_key), &sealed);
            let sealed = [&sealed, &tag.as_ref()[..16]].concat();
            Packet { key, seq: 1, plaintext: Some(vector.plaintext), sealed }
        })
        .collect();
    open_burst(engine, &packets);
}

//! The arithmetic of MS-CHAPv2 (RFC 2759 s8) and its keys (RFC 3079 s3).
//!
//! The only place in Spillway for MD4 and single DES. Neither protects anything by itself here: EAP-MSCHAPv2
//! runs inside an IKE SA whose responder has already proved itself with a certificate.

use aws_lc_rs::digest;
use des::Des;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use md4::{Digest, Md4};
use zeroize::Zeroizing;

use crate::crypto::Secret;

/// NtPasswordHash: MD4 of the password in UTF-16LE. It is worth as much as the password itself.
pub(super) fn nt_hash(password: &str) -> Secret {
    let utf16: Zeroizing<Vec<u8>> =
        Zeroizing::new(password.encode_utf16().flat_map(u16::to_le_bytes).collect());
    Secret::copy_of(&Md4::digest(&*utf16))
}

/// ChallengeHash: the first eight octets of SHA-1 over both challenges and the user name without its domain.
pub(super) fn challenge_hash(peer_challenge: &[u8], authenticator_challenge: &[u8], user: &[u8]) -> [u8; 8] {
    let mut challenge = [0; 8];
    for (to, from) in
        challenge.iter_mut().zip(sha1(&[peer_challenge, authenticator_challenge, bare_name(user)]))
    {
        *to = from;
    }
    challenge
}

/// ChallengeResponse: the challenge under three DES keys cut from the hash, padded with zeros.
pub(super) fn nt_response(challenge: [u8; 8], nt_hash: &Secret) -> [u8; 24] {
    let mut padded = Zeroizing::new([0u8; 21]);
    for (to, from) in padded.iter_mut().zip(nt_hash.expose()) {
        *to = *from;
    }
    let mut response = [0; 24];
    for (key, block) in padded.chunks(7).zip(response.chunks_mut(8)) {
        let mut data = Block::<Des>::from(challenge);
        Des::new(&(*spread(key)).into()).encrypt_block(&mut data);
        block.copy_from_slice(&data);
    }
    response
}

/// GenerateAuthenticatorResponse, without the leading `S=`.
pub(super) fn authenticator_response(nt_hash: &Secret, nt_response: &[u8], challenge: [u8; 8]) -> String {
    const MAGIC_1: &[u8] = b"Magic server to client signing constant";
    const MAGIC_2: &[u8] = b"Pad to make it do more than one iteration";
    let inner = sha1(&[hash_hash(nt_hash).expose(), nt_response, MAGIC_1]);
    data_encoding::HEXUPPER.encode(&sha1(&[&inner, &challenge, MAGIC_2]))
}

/// The MSK of EAP-MSCHAPv2: the key from peer to server, the key back, and zeros up to 64 octets. Both ends get
/// the same (RFC 3079 s3.3, RFC 7296 s2.16).
pub(super) fn msk(nt_hash: &Secret, nt_response: &[u8]) -> Secret {
    const MASTER: &[u8] = b"This is the MPPE Master Key";
    const TO_SERVER: &[u8] =
        b"On the client side, this is the send key; on the server side, it is the receive key.";
    const TO_PEER: &[u8] =
        b"On the client side, this is the receive key; on the server side, it is the send key.";
    let master = Zeroizing::new(sha1(&[hash_hash(nt_hash).expose(), nt_response, MASTER]));
    let (master, _) = master.split_at(16);
    let start = |magic| Zeroizing::new(sha1(&[master, &[0; 40], magic, &[0xf2; 40]]));
    let (to_server, to_peer) = (start(TO_SERVER), start(TO_PEER));
    Secret::concat(&[to_server.split_at(16).0, to_peer.split_at(16).0, &[0; 32]])
}

/// Without `DOMAIN\` (RFC 2759 s4).
fn bare_name(user: &[u8]) -> &[u8] {
    user.rsplit(|octet| *octet == b'\\').next().unwrap_or(user)
}

fn hash_hash(nt_hash: &Secret) -> Secret {
    Secret::copy_of(&Md4::digest(nt_hash.expose()))
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("a SHA-1 digest has 20 octets")
}

/// Seven key octets as eight, seven bits in each with room for a parity bit that DES ignores.
fn spread(key: &[u8]) -> Zeroizing<[u8; 8]> {
    let bits = key.iter().fold(0u64, |bits, octet| bits << 8 | u64::from(*octet));
    let mut spread = Zeroizing::new([0; 8]);
    for (position, octet) in spread.iter_mut().enumerate() {
        *octet = ((bits >> (49 - 7 * position)) << 1) as u8;
    }
    spread
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    const AUTHENTICATOR: [u8; 16] = hex!("5B5D7C7D7B3F2F3E3C2C602132262628");
    const PEER: [u8; 16] = hex!("21402324255E262A28295F2B3A337C7E");
    const RESPONSE: [u8; 24] = hex!("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF");

    /// RFC 2759 s9.2.
    #[test]
    fn rfc_2759_example() {
        let hash = nt_hash("clientPass");
        assert_eq!(hash.expose(), hex!("44EBBA8D5312B8D611474411F56989AE"));
        assert_eq!(hash_hash(&hash).expose(), hex!("41C00C584BD2D91C4017A2A12FA59F3F"));
        let challenge = challenge_hash(&PEER, &AUTHENTICATOR, b"User");
        assert_eq!(challenge, hex!("D02E4386BCE91226"));
        assert_eq!(nt_response(challenge, &hash), RESPONSE);
        assert_eq!(
            authenticator_response(&hash, &RESPONSE, challenge),
            "407A5589115FD0D6209F510FE9C04566932CDA56"
        );
    }

    /// RFC 3079 s3.5.3: the start key of the server's sending direction, which is the second half of the MSK.
    #[test]
    fn rfc_3079_example() {
        let msk = msk(&nt_hash("clientPass"), &RESPONSE);
        assert_eq!(msk.len(), 64);
        assert_eq!(&msk.expose()[16..32], hex!("8B7CDC149B993A1BA118CB153F56DCCB"));
        assert_eq!(&msk.expose()[32..], [0; 32]);
    }

    #[test]
    fn the_domain_is_left_out() {
        let with = challenge_hash(&PEER, &AUTHENTICATOR, b"EXAMPLE\\User");
        assert_eq!(with, challenge_hash(&PEER, &AUTHENTICATOR, b"User"));
    }

    #[test]
    fn passwords_are_utf_16() {
        assert_ne!(nt_hash("pässword"), nt_hash("password"));
        // MD4 of nothing (RFC 1320 A.5).
        assert_eq!(nt_hash("").expose(), hex!("31d6cfe0d16ae931b73c59d7e0c089c0"));
    }
}

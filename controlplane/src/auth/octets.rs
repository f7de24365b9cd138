//! What an AUTH payload covers: the signed octets of RFC 7296 s2.15, with IKE_INTERMEDIATE (RFC 9242 s3.3.2).

use crate::crypto::{CryptoError, Prf, Secret};

/// The octets that one side signs:
/// `RealMessage | NonceData of the other side | prf(SK_p, RestOfIDPayload) [| IntAuth]`.
///
/// - `message`: the IKE_SA_INIT message that this side sent, from the first octet of the IKE header, without the
///   non-ESP marker. With retries it is the last one (RFC 7296 s2.15).
/// - `peer_nonce`: the contents of the other side's Nonce payload.
/// - `id_body`: this side's ID payload without its generic header: type, three reserved octets, data.
/// - `sk_p`: SK_pi for the initiator, SK_pr for the responder.
/// - `int_auth`: from [`IntAuth::finish`] when there was an IKE_INTERMEDIATE exchange.
///
/// Both messages of the first exchange are covered, and so are all proposals in them: an attacker who removes
/// a strong proposal, or strips the announcement of IKE_INTERMEDIATE, makes the AUTH payload wrong.
pub fn signed_octets(
    prf: Prf,
    sk_p: &Secret,
    message: &[u8],
    peer_nonce: &[u8],
    id_body: &[u8],
    int_auth: Option<&[u8]>,
) -> Result<Vec<u8>, CryptoError> {
    let maced_id = prf.compute(sk_p.expose(), &[id_body])?;
    Ok([message, peer_nonce, maced_id.expose(), int_auth.unwrap_or_default()].concat())
}

/// The running authentication of IKE_INTERMEDIATE messages, kept alike by both sides.
#[derive(Clone, Default)]
pub struct IntAuth {
    initiator: Option<Secret>,
    responder: Option<Secret>,
}

impl IntAuth {
    /// Adds an IKE_INTERMEDIATE request. `sk_pi` is the key in force during the exchange, before its own key
    /// exchange updates the keys.
    ///
    /// `head` reaches from the IKE header to the end of the generic header of the Encrypted payload, as the
    /// message would be without fragmentation; the two length fields in it are taken as they are and corrected
    /// here. `plain` holds the inner payloads. Fails when `head` is too short for both headers.
    pub fn add_request(
        &mut self,
        prf: Prf,
        sk_pi: &Secret,
        head: &[u8],
        plain: &[u8],
    ) -> Result<(), CryptoError> {
        self.initiator = Some(step(prf, sk_pi, self.initiator.as_ref(), head, plain)?);
        Ok(())
    }

    /// Adds an IKE_INTERMEDIATE response, with SK_pr. See [`IntAuth::add_request`].
    pub fn add_response(
        &mut self,
        prf: Prf,
        sk_pr: &Secret,
        head: &[u8],
        plain: &[u8],
    ) -> Result<(), CryptoError> {
        self.responder = Some(step(prf, sk_pr, self.responder.as_ref(), head, plain)?);
        Ok(())
    }

    /// `IntAuth_iN | IntAuth_rN | IKE_AUTH_MID`, or `None` if there was no IKE_INTERMEDIATE exchange.
    /// `auth_message_id` is the message ID of the first IKE_AUTH request, so that no exchange can be cut off at
    /// the end of the chain.
    pub fn finish(&self, auth_message_id: u32) -> Option<Vec<u8>> {
        let (initiator, responder) = (self.initiator.as_ref()?, self.responder.as_ref()?);
        Some([initiator.expose(), responder.expose(), &auth_message_id.to_be_bytes()].concat())
    }
}

/// Offset of the Length field in the IKE header (RFC 7296 s3.1).
const LENGTH_AT: usize = 24;
/// Length of the IKE header.
const HEADER_LEN: usize = 28;
/// Length of a generic payload header (RFC 7296 s3.2), whose last two octets are the payload length.
const GENERIC_LEN: usize = 4;

/// `prf(SK_p, [previous |] A | P)`. In A the lengths leave out IV, padding, pad length and ICV, so that the
/// value does not depend on how the message travelled (RFC 9242 s3.3.2).
fn step(
    prf: Prf,
    sk_p: &Secret,
    previous: Option<&Secret>,
    head: &[u8],
    plain: &[u8],
) -> Result<Secret, CryptoError> {
    let too_short = CryptoError::SealedLength { found: head.len() };
    let before_length = head.get(..LENGTH_AT).ok_or(too_short.clone())?;
    let length_end = head.len().checked_sub(2).filter(|end| *end >= HEADER_LEN + GENERIC_LEN - 2);
    let after_length =
        head.get(LENGTH_AT + 4..length_end.ok_or(too_short.clone())?).ok_or(too_short.clone())?;
    let message_len = u32::try_from(head.len() + plain.len()).map_err(|_| too_short.clone())?;
    let payload_len = u16::try_from(GENERIC_LEN + plain.len()).map_err(|_| too_short)?;
    prf.compute(
        sk_p.expose(),
        &[
            previous.map_or(&[], Secret::expose),
            before_length,
            &message_len.to_be_bytes(),
            after_length,
            &payload_len.to_be_bytes(),
            plain,
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRF: Prf = Prf::HmacSha256;

    fn key(byte: u8) -> Secret {
        Secret::copy_of(&[byte; 32])
    }

    /// IKE header and generic header with the given lengths.
    fn head(message_len: u32, payload_len: u16) -> Vec<u8> {
        let mut head = vec![0x11; 16];
        head.extend([46, 0x20, 43, 0x08, 0, 0, 0, 1]);
        head.extend(message_len.to_be_bytes());
        head.extend([34, 0]);
        head.extend(payload_len.to_be_bytes());
        head
    }

    #[test]
    fn octets_are_message_nonce_and_maced_id() {
        let octets = signed_octets(PRF, &key(1), b"message", b"nonce", b"id", None).unwrap();
        let mac = PRF.compute(&[1; 32], &[b"id"]).unwrap();
        assert_eq!(octets, [b"message".as_slice(), b"nonce", mac.expose()].concat());
        let with = signed_octets(PRF, &key(1), b"message", b"nonce", b"id", Some(b"int")).unwrap();
        assert_eq!(with, [octets.as_slice(), b"int"].concat());
    }

    #[test]
    fn lengths_on_the_wire_do_not_matter() {
        let plain = [7; 40];
        let (mut gcm, mut cbc) = (IntAuth::default(), IntAuth::default());
        gcm.add_request(PRF, &key(1), &head(28 + 69, 69), &plain).unwrap();
        cbc.add_request(PRF, &key(1), &head(28 + 84, 84), &plain).unwrap();
        assert_eq!(gcm.initiator, cbc.initiator);
        let by_hand = PRF.compute(&[1; 32], &[&head(28 + 4 + 40, 44), &plain]).unwrap();
        assert_eq!(gcm.initiator, Some(by_hand));
    }

    #[test]
    fn exchanges_are_chained_with_the_keys_of_their_time() {
        let mut chain = IntAuth::default();
        assert_eq!(chain.finish(2), None);
        chain.add_request(PRF, &key(1), &head(0, 0), b"one").unwrap();
        chain.add_response(PRF, &key(2), &head(0, 0), b"two").unwrap();
        let first = chain.clone();
        chain.add_request(PRF, &key(3), &head(0, 0), b"three").unwrap();
        chain.add_response(PRF, &key(4), &head(0, 0), b"four").unwrap();
        let previous = first.initiator.unwrap();
        let by_hand = PRF.compute(&[3; 32], &[previous.expose(), &head(37, 9), b"three"]).unwrap();
        let whole = chain.finish(3).unwrap();
        assert_eq!(&whole[..32], by_hand.expose());
        assert_eq!(whole.len(), 68);
        assert_eq!(&whole[64..], [0, 0, 0, 3]);
    }

    #[test]
    fn every_octet_counts() {
        let mut good = IntAuth::default();
        good.add_request(PRF, &key(1), &head(0, 0), b"payloads").unwrap();
        for at in (0..32).filter(|at| !(24..28).contains(at) && *at < 30) {
            let mut bent = head(0, 0);
            bent[at] ^= 1;
            let mut other = IntAuth::default();
            other.add_request(PRF, &key(1), &bent, b"payloads").unwrap();
            assert_ne!(other.initiator, good.initiator, "octet {at}");
        }
    }

    #[test]
    fn short_heads_are_an_error() {
        for length in 0..32 {
            let mut chain = IntAuth::default();
            assert!(chain.add_request(PRF, &key(1), &vec![0; length], b"x").is_err());
            assert!(chain.initiator.is_none());
        }
    }
}

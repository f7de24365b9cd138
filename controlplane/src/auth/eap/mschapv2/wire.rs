//! Messages of EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2-02 s2), without the EAP header and type.

use super::super::EapError;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Challenge {
        id: u8,
        challenge: [u8; 16],
        name: &'a [u8],
    },
    Response {
        id: u8,
        peer_challenge: [u8; 16],
        nt_response: [u8; 24],
        name: &'a [u8],
    },
    /// The text of a success request: `S=` and the authenticator response, then `M=` and a message.
    Success {
        text: &'a [u8],
    },
    /// The text of a failure request: `E=` and a number, and more.
    Failure {
        text: &'a [u8],
    },
    SuccessAck,
    FailureAck,
}

impl<'a> Message<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, EapError> {
        let broken = EapError::Malformed("EAP-MSCHAPv2 message");
        match data {
            [3] => return Ok(Self::SuccessAck),
            [4] => return Ok(Self::FailureAck),
            _ => {}
        }
        let &[op, id, high, low, ..] = data else { return Err(broken) };
        // MS-Length counts from the op code. Some peers are sloppy with acknowledgements, whose content does
        // not matter.
        let body = data.get(4..usize::from(u16::from_be_bytes([high, low]))).ok_or(broken.clone())?;
        match op {
            1 => {
                let (size, rest) = body.split_first().ok_or(broken.clone())?;
                let (challenge, name) = rest.split_first_chunk::<16>().ok_or(broken.clone())?;
                if *size != 16 {
                    return Err(broken);
                }
                Ok(Self::Challenge { id, challenge: *challenge, name })
            }
            2 => {
                let (size, rest) = body.split_first().ok_or(broken.clone())?;
                let (peer_challenge, rest) = rest.split_first_chunk::<16>().ok_or(broken.clone())?;
                let (_reserved, rest) = rest.split_first_chunk::<8>().ok_or(broken.clone())?;
                let (nt_response, rest) = rest.split_first_chunk::<24>().ok_or(broken.clone())?;
                let (_flags, name) = rest.split_first().ok_or(broken.clone())?;
                if *size != 49 || name.len() > MAX_NAME {
                    return Err(broken);
                }
                Ok(Self::Response { id, peer_challenge: *peer_challenge, nt_response: *nt_response, name })
            }
            3 => Ok(Self::Success { text: body }),
            4 => Ok(Self::Failure { text: body }),
            _ => Err(broken),
        }
    }
}

pub(super) fn challenge(id: u8, challenge: &[u8; 16], name: &[u8]) -> Vec<u8> {
    message(1, id, &[&[16], challenge.as_slice(), bounded(name)].concat())
}

pub(super) fn response(id: u8, peer_challenge: &[u8; 16], nt_response: &[u8; 24], name: &[u8]) -> Vec<u8> {
    message(2, id, &[&[49], peer_challenge.as_slice(), &[0; 8], nt_response, &[0], bounded(name)].concat())
}

pub(super) fn success(id: u8, text: &str) -> Vec<u8> {
    message(3, id, text.as_bytes())
}

pub(super) fn failure(id: u8, text: &str) -> Vec<u8> {
    message(4, id, text.as_bytes())
}

/// The acknowledgement of a success is its op code alone.
pub(super) const SUCCESS_ACK: &[u8] = &[3];
/// The acknowledgement of a failure is its op code alone.
pub(super) const FAILURE_ACK: &[u8] = &[4];

/// The most characters of a user name (RFC 2759 s4).
const MAX_NAME: usize = 256;

fn bounded(name: &[u8]) -> &[u8] {
    name.get(..MAX_NAME).unwrap_or(name)
}

/// Bodies are shorter than 512 octets.
fn message(op: u8, id: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = ((body.len() + 4) as u16).to_be_bytes();
    [&[op, id, high, low], body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_round_trip() {
        let data = challenge(9, &[1; 16], b"server");
        assert_eq!(data[..5], [1, 9, 0, 27, 16]);
        assert_eq!(
            Message::parse(&data),
            Ok(Message::Challenge { id: 9, challenge: [1; 16], name: b"server" })
        );
        let data = response(9, &[2; 16], &[3; 24], b"user");
        assert_eq!(data[..5], [2, 9, 0, 58, 49]);
        let expected =
            Message::Response { id: 9, peer_challenge: [2; 16], nt_response: [3; 24], name: b"user" };
        assert_eq!(Message::parse(&data), Ok(expected));
        assert_eq!(Message::parse(&success(9, "S=0 M=OK")), Ok(Message::Success { text: b"S=0 M=OK" }));
        assert_eq!(Message::parse(&failure(9, "E=691")), Ok(Message::Failure { text: b"E=691" }));
        assert_eq!(Message::parse(SUCCESS_ACK), Ok(Message::SuccessAck));
        assert_eq!(Message::parse(FAILURE_ACK), Ok(Message::FailureAck));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn cut_messages_are_refused(cut in 0..58usize) {
            let data = response(9, &[2; 16], &[3; 24], b"user");
            prop_assert!(Message::parse(&data[..cut]).is_err());
        }
    }
}

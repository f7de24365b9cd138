//! EAP packets (RFC 3748 s4).

use super::EapError;

/// EAP type 1: Identity.
pub(super) const IDENTITY: u8 = 1;
/// EAP type 2: Notification.
pub(super) const NOTIFICATION: u8 = 2;
/// EAP type 3: Nak, in responses only.
pub(super) const NAK: u8 = 3;

/// An EAP packet, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Request { identifier: u8, kind: u8, data: &'a [u8] },
    Response { identifier: u8, kind: u8, data: &'a [u8] },
    Success,
    Failure,
}

impl<'a> Packet<'a> {
    /// Octets beyond the Length field are ignored as padding (RFC 3748 s4.1).
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, EapError> {
        let broken = EapError::Malformed("EAP packet");
        let &[code, identifier, high, low, ..] = bytes else { return Err(broken) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = bytes.get(4..length).ok_or(broken.clone())?;
        match (code, body.split_first()) {
            (1, Some((&kind, data))) => Ok(Self::Request { identifier, kind, data }),
            (2, Some((&kind, data))) => Ok(Self::Response { identifier, kind, data }),
            (3, _) => Ok(Self::Success),
            (4, _) => Ok(Self::Failure),
            _ => Err(broken),
        }
    }
}

pub(super) fn request(identifier: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    typed(1, identifier, kind, data)
}

pub(super) fn response(identifier: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    typed(2, identifier, kind, data)
}

pub(super) fn success(identifier: u8) -> Vec<u8> {
    vec![3, identifier, 0, 4]
}

pub(super) fn failure(identifier: u8) -> Vec<u8> {
    vec![4, identifier, 0, 4]
}

/// All data here is far shorter than 64 kB: messages of EAP-TLS are cut into fragments, names are bounded.
fn typed(code: u8, identifier: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    let data = data.get(..MAX_DATA).unwrap_or(data);
    let [high, low] = ((data.len() + 5) as u16).to_be_bytes();
    [&[code, identifier, high, low, kind], data].concat()
}

const MAX_DATA: usize = u16::MAX as usize - 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_round_trip() {
        let request = request(7, IDENTITY, b"hello");
        assert_eq!(request, [&[1, 7, 0, 10, 1], b"hello".as_slice()].concat());
        assert_eq!(Packet::parse(&request), Ok(Packet::Request { identifier: 7, kind: 1, data: b"hello" }));
        let response = response(8, NAK, &[13]);
        assert_eq!(Packet::parse(&response), Ok(Packet::Response { identifier: 8, kind: 3, data: &[13] }));
        assert_eq!(Packet::parse(&success(9)), Ok(Packet::Success));
        assert_eq!(Packet::parse(&failure(9)), Ok(Packet::Failure));
    }

    #[test]
    fn lengths_are_checked() {
        for bad in [
            &[][..],
            &[1],
            &[1, 0, 0, 4],
            &[1, 0, 0, 9, 1],
            &[1, 0, 0, 3, 1],
            &[5, 0, 0, 5, 1],
            &[2, 0, 0, 0, 1],
        ] {
            assert!(Packet::parse(bad).is_err(), "{bad:?}");
        }
        let padded = [2, 1, 0, 6, 1, b'x', 0, 0];
        assert_eq!(Packet::parse(&padded), Ok(Packet::Response { identifier: 1, kind: 1, data: b"x" }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = Packet::parse(&bytes);
        }
    }
}

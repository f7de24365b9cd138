//! Fragments of EAP-TLS (RFC 5216 s3).

use super::super::EapError;

const LENGTH_INCLUDED: u8 = 0x80;
const MORE_FRAGMENTS: u8 = 0x40;
const START: u8 = 0x20;

/// An acknowledgement, or an answer with nothing to say.
pub(super) const EMPTY: &[u8] = &[0];

/// The server's first request.
pub(super) const START_REQUEST: &[u8] = &[START];

/// Bytes of TLS in a packet. The IKE message around it stays below common path MTUs.
const FRAGMENT: usize = 1024;

/// Cuts messages into fragments and puts them together.
pub(super) struct Framing {
    /// The most that is put together.
    longest: usize,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
}

/// What a packet of the other side means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Start,
    /// Send an acknowledgement, and the next fragment will come.
    Partial,
    /// The other side has what it got, or nothing to say.
    Acknowledged,
    Message(Vec<u8>),
}

impl Framing {
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, outgoing: Vec::new(), sent: 0, incoming: Vec::new() }
    }

    pub(super) fn receive(&mut self, data: &[u8]) -> Result<Received, EapError> {
        let broken = EapError::Malformed("EAP-TLS packet");
        let (flags, mut rest) = data.split_first().ok_or(broken.clone())?;
        if flags & START != 0 {
            return Ok(Received::Start);
        }
        if flags & LENGTH_INCLUDED != 0 {
            let (length, fragment) = rest.split_first_chunk::<4>().ok_or(broken)?;
            if u32::from_be_bytes(*length) as usize > self.longest {
                return Err(EapError::TooLarge(self.longest));
            }
            rest = fragment;
        }
        if rest.is_empty() && self.incoming.is_empty() {
            return Ok(Received::Acknowledged);
        }
        if self.incoming.len() + rest.len() > self.longest {
            return Err(EapError::TooLarge(self.longest));
        }
        self.incoming.extend_from_slice(rest);
        match flags & MORE_FRAGMENTS != 0 {
            true => Ok(Received::Partial),
            false => Ok(Received::Message(std::mem::take(&mut self.incoming))),
        }
    }

    /// Queues a message. The one before it is out.
    pub(super) fn queue(&mut self, message: Vec<u8>) {
        self.outgoing = message;
        self.sent = 0;
    }

    /// The next fragment of the queued message, if there is one.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty())?;
        let fragment = rest.get(..FRAGMENT).unwrap_or(rest);
        let more = fragment.len() < rest.len();
        let mut data = Vec::with_capacity(fragment.len() + 5);
        // The length goes with the first of several fragments.
        if more && self.sent == 0 {
            data.push(LENGTH_INCLUDED | MORE_FRAGMENTS);
            data.extend_from_slice(&(self.outgoing.len() as u32).to_be_bytes());
        } else {
            data.push(if more { MORE_FRAGMENTS } else { 0 });
        }
        data.extend_from_slice(fragment);
        self.sent += fragment.len();
        Some(data)
    }

    /// Whether a part of the queued message has not gone out yet.
    pub(super) fn is_sending(&self) -> bool {
        self.sent < self.outgoing.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_MESSAGE: usize = 65_536;

    #[test]
    fn bounds_hold() {
        let mut framing = Framing::new(MAX_MESSAGE);
        assert!(matches!(framing.receive(&[]), Err(EapError::Malformed(_))));
        assert!(matches!(framing.receive(&[LENGTH_INCLUDED, 0, 0]), Err(EapError::Malformed(_))));
        assert_eq!(framing.receive(&[LENGTH_INCLUDED, 1, 0, 0, 0]), Err(EapError::TooLarge(MAX_MESSAGE)));
        assert_eq!(framing.receive(EMPTY), Ok(Received::Acknowledged));
        let fragment = [&[MORE_FRAGMENTS], [7; 1024].as_slice()].concat();
        for _ in 0..64 {
            assert_eq!(framing.receive(&fragment), Ok(Received::Partial));
        }
        assert_eq!(framing.receive(&fragment), Err(EapError::TooLarge(MAX_MESSAGE)));
    }

    proptest! {
        #[test]
        fn messages_survive_fragmentation(message in proptest::collection::vec(any::<u8>(), 1..5000)) {
            let (mut from, mut to) = (Framing::new(MAX_MESSAGE), Framing::new(MAX_MESSAGE));
            from.queue(message.clone());
            let mut result = None;
            while let Some(fragment) = from.next() {
                prop_assert!(fragment.len() <= FRAGMENT + 5);
                result = Some(to.receive(&fragment).unwrap());
                prop_assert_eq!(result == Some(Received::Partial), from.is_sending());
            }
            prop_assert_eq!(result, Some(Received::Message(message)));
        }

        #[test]
        fn any_packet_is_taken_or_refused(packets: Vec<Vec<u8>>) {
            let mut framing = Framing::new(MAX_MESSAGE);
            for packet in packets {
                let _ = framing.receive(&packet);
            }
        }
    }
}

//! Putting fragments together (RFC 7383 s2.6). Each fragment is authenticated before it gets here.

use crate::config::FloodLimits;
use crate::wire::PayloadType;

/// The fragments of one message so far.
#[derive(Debug, Default)]
pub struct Reassembly {
    current: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    message_id: u32,
    response: bool,
    first: PayloadType,
    pieces: Vec<Option<Vec<u8>>>,
    bytes: usize,
}

/// An authenticated fragment.
#[derive(Debug)]
pub struct Fragment {
    /// Message ID of the message.
    pub message_id: u32,
    /// Whether it is a response.
    pub response: bool,
    /// Number, from 1.
    pub number: u16,
    /// Number of fragments.
    pub total: u16,
    /// In fragment 1: type of the first payload.
    pub first: PayloadType,
    /// Decrypted content.
    pub content: Vec<u8>,
}

/// The fragment contradicts its siblings or the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFragment;

impl Reassembly {
    /// Adds a fragment; gives back the type of the first payload and all payloads once the last is there.
    pub fn add(
        &mut self,
        fragment: Fragment,
        limits: &FloodLimits,
    ) -> Result<Option<(PayloadType, Vec<u8>)>, BadFragment> {
        if fragment.total > limits.fragments || fragment.number == 0 || fragment.number > fragment.total {
            return Err(BadFragment);
        }
        let total = usize::from(fragment.total);
        let fits = |partial: &Partial| {
            (partial.message_id, partial.response) == (fragment.message_id, fragment.response)
        };
        let mut partial = match self.current.take() {
            // RFC 7383 s2.6: a larger total means that the peer sent the message again in smaller pieces; the
            // old ones are dropped. A smaller total is an old fragment.
            Some(partial) if fits(&partial) && partial.pieces.len() > total => {
                self.current = Some(partial);
                return Err(BadFragment);
            }
            Some(partial) if fits(&partial) && partial.pieces.len() == total => partial,
            _ => Partial {
                message_id: fragment.message_id,
                response: fragment.response,
                first: PayloadType::NONE,
                pieces: vec![None; total],
                bytes: 0,
            },
        };
        if let Some(piece @ None) = partial.pieces.get_mut(usize::from(fragment.number) - 1) {
            partial.bytes += fragment.content.len();
            if partial.bytes > limits.message {
                return Err(BadFragment);
            }
            if fragment.number == 1 {
                partial.first = fragment.first;
            }
            *piece = Some(fragment.content);
        }
        if partial.pieces.iter().all(Option::is_some) {
            return Ok(Some((partial.first, partial.pieces.into_iter().flatten().flatten().collect())));
        }
        self.current = Some(partial);
        Ok(None)
    }

    /// Forgets what is there: the message was processed or its exchange is over.
    pub fn clear(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(message_id: u32, number: u16, total: u16, content: &[u8]) -> Fragment {
        let first = if number == 1 { PayloadType::ID_I } else { PayloadType::NONE };
        Fragment { message_id, response: false, number, total, first, content: content.to_vec() }
    }

    fn add(
        reassembly: &mut Reassembly,
        fragment: Fragment,
    ) -> Result<Option<(PayloadType, Vec<u8>)>, BadFragment> {
        reassembly.add(fragment, &FloodLimits { fragments: 9, message: 1000, ..FloodLimits::default() })
    }

    #[test]
    fn any_order_and_duplicates_give_the_message() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, fragment(1, 3, 3, b"c")), Ok(None));
        assert_eq!(add(&mut reassembly, fragment(1, 1, 3, b"a")), Ok(None));
        assert_eq!(add(&mut reassembly, fragment(1, 1, 3, b"x")), Ok(None), "a second copy changes nothing");
        let whole = add(&mut reassembly, fragment(1, 2, 3, b"b")).unwrap().unwrap();
        assert_eq!(whole, (PayloadType::ID_I, b"abc".to_vec()));
        assert!(reassembly.current.is_none());
    }

    #[test]
    fn a_larger_total_starts_over_and_a_smaller_one_is_refused() {
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, fragment(1, 1, 2, b"old")).unwrap();
        assert_eq!(add(&mut reassembly, fragment(1, 1, 3, b"a")), Ok(None));
        assert_eq!(add(&mut reassembly, fragment(1, 2, 2, b"old")), Err(BadFragment));
        add(&mut reassembly, fragment(1, 2, 3, b"b")).unwrap();
        assert_eq!(add(&mut reassembly, fragment(1, 3, 3, b"c")).unwrap().unwrap().1, b"abc");
    }

    #[test]
    fn another_message_replaces_the_unfinished_one() {
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, fragment(1, 1, 2, b"a")).unwrap();
        add(&mut reassembly, fragment(2, 2, 2, b"d")).unwrap();
        assert_eq!(add(&mut reassembly, fragment(2, 1, 2, b"c")).unwrap().unwrap().1, b"cd");
    }

    #[test]
    fn memory_is_bounded() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, fragment(1, 1, 10, b"a")), Err(BadFragment));
        add(&mut reassembly, fragment(1, 1, 3, &[0; 600])).unwrap();
        assert_eq!(add(&mut reassembly, fragment(1, 2, 3, &[0; 600])), Err(BadFragment));
        assert!(reassembly.current.is_none());
    }
}
